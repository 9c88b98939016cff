//! Blocks of 32 weights with one factor, and the plain types. Formulas and places of bits: `codegen::layout`.

use plan::QType;
use ptx::sem::{f32_to_bf16, f32_to_f16};

use super::k_quants;

/// Weights of a block.
const BLOCK: usize = 32;

/// Appends a row of finite weights in a type; the row is whole blocks, which [`super::recipe`] sees to.
pub fn quantize_row(qtype: QType, row: &[f32], out: &mut Vec<u8>) {
    let (blocks, supers) = (row.as_chunks::<BLOCK>().0.iter(), row.as_chunks::<{ k_quants::BLOCK }>());
    match qtype {
        QType::F32 => out.extend(row.iter().flat_map(|x| x.to_le_bytes())),
        QType::F16 => out.extend(row.iter().flat_map(|x| f32_to_f16(*x).to_le_bytes())),
        QType::Bf16 => out.extend(row.iter().flat_map(|x| f32_to_bf16(*x).to_le_bytes())),
        QType::Q4_0 => blocks.for_each(|x| around_zero(x, 8, out)),
        QType::Q5_0 => blocks.for_each(|x| around_zero(x, 16, out)),
        QType::Q4_1 => blocks.for_each(|x| from_least(x, 15, out)),
        QType::Q5_1 => blocks.for_each(|x| from_least(x, 31, out)),
        QType::Q8_0 => blocks.for_each(|x| q8_0(x, out)),
        QType::Q4K => supers.0.iter().for_each(|x| k_quants::q4k(x, out)),
        QType::Q5K => supers.0.iter().for_each(|x| k_quants::q5k(x, out)),
        QType::Q6K => supers.0.iter().for_each(|x| k_quants::q6k(x, out)),
    }
}

/// The fifth bits, where quants have one (bit `i` of four bytes is that of weight `i`), and the nibbles: byte `i` has
/// weight `i` low and `i + 16` high.
fn put_quants(quants: &[u8; BLOCK], top: u8, out: &mut Vec<u8>) {
    if top > 15 {
        let bits = (0..BLOCK).fold(0u32, |bits, i| bits | u32::from(quants[i] >> 4) << i);
        out.extend(bits.to_le_bytes());
    }
    out.extend((0..16).map(|i| quants[i] & 15 | (quants[i + 16] & 15) << 4));
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Q4_0 and Q5_0: the weight of greatest magnitude becomes quant 0, which stands for `-half · d`.
fn around_zero(x: &[f32; BLOCK], half: u8, out: &mut Vec<u8>) {
    let extreme = x.iter().copied().fold(0.0f32, |best, x| if x.abs() > best.abs() { x } else { best });
    let (half, top) = (f32::from(half), f32::from(half) * 2.0 - 1.0);
    let d = extreme / -half;
    let inverse = inverse(d);
    out.extend(f32_to_f16(d).to_le_bytes());
    // Cut after adding a half: ties go up.
    put_quants(&x.map(|x| (x * inverse + half + 0.5).clamp(0.0, top) as u8), top as u8, out);
}

/// Q4_1 and Q5_1: quant 0 stands for the least weight, the greatest quant for the greatest.
fn from_least(x: &[f32; BLOCK], top: u8, out: &mut Vec<u8>) {
    let least = x.iter().copied().fold(f32::MAX, f32::min);
    let greatest = x.iter().copied().fold(f32::MIN, f32::max);
    let d = (greatest - least) / f32::from(top);
    let inverse = inverse(d);
    out.extend(f32_to_f16(d).to_le_bytes());
    out.extend(f32_to_f16(least).to_le_bytes());
    put_quants(&x.map(|x| ((x - least) * inverse + 0.5).clamp(0.0, f32::from(top)) as u8), top, out);
}

/// Q8_0: the greatest magnitude becomes 127.
fn q8_0(x: &[f32; BLOCK], out: &mut Vec<u8>) {
    let d = x.iter().map(|x| x.abs()).fold(0.0, f32::max) / 127.0;
    let inverse = inverse(d);
    out.extend(f32_to_f16(d).to_le_bytes());
    out.extend(x.map(|x| (x * inverse).round() as i8 as u8));
}
