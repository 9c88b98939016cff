//! Blocks of 256 weights: Q4_K and Q5_K (eight sub-blocks with a factor and a minimum of 6 bits each) and Q6_K
//! (sixteen with a factor of 8 bits). Formulas and places of bits: `codegen::layout`.

use std::array;

use ptx::sem::{f16_to_f32, f32_to_f16};

use super::search::{Affine, Grid, affine, symmetric};

/// Weights of a block.
pub const BLOCK: usize = 256;
/// The greatest factor and minimum of 6 bits.
const TOP_6_BITS: f32 = 63.0;

/// An f16 as it is stored, and the value that this is.
fn stored(x: f32) -> ([u8; 2], f32) {
    let bits = f32_to_f16(x);
    (bits.to_le_bytes(), f16_to_f32(bits))
}

/// A block in the terms that Q4_K and Q5_K share.
struct Shared {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; 8],
    mins: [u8; 8],
    quants: [u8; BLOCK],
}

impl Shared {
    /// Sub-blocks are searched alone, with weights that matter by their size; then their factors and minima are
    /// rounded to 6 bits, and the weights to what is left.
    fn new(x: &[f32; BLOCK], grid: Grid) -> Self {
        let (subs, _) = x.as_chunks::<32>();
        let found: Vec<Affine> = subs
            .iter()
            .map(|sub| {
                let typical = (sub.iter().map(|x| x * x).sum::<f32>() / 32.0).sqrt();
                affine(sub, &sub.map(|x| typical + x.abs()), grid)
            })
            .collect();
        let greatest = |of: fn(&Affine) -> f32| found.iter().map(of).fold(0.0, f32::max);
        let (scale, min) = (greatest(|a| a.scale), greatest(|a| a.min));
        let six_bits = |value: f32, greatest: f32| {
            let inverse = if greatest > 0.0 { TOP_6_BITS / greatest } else { 0.0 };
            (value * inverse).round_ties_even().clamp(0.0, TOP_6_BITS) as u8
        };
        let scales: [u8; 8] = array::from_fn(|j| six_bits(found[j].scale, scale));
        let mins: [u8; 8] = array::from_fn(|j| six_bits(found[j].min, min));
        let ((d, d_value), (dmin, dmin_value)) = (stored(scale / TOP_6_BITS), stored(min / TOP_6_BITS));
        let quant = |e: usize| {
            let j = e / 32;
            let (scale, min) = (d_value * f32::from(scales[j]), dmin_value * f32::from(mins[j]));
            if scale == 0.0 {
                return 0;
            }
            ((x[e] + min) / scale).round_ties_even().clamp(0.0, f32::from(grid.top)) as u8
        };
        Self { d, dmin, quants: array::from_fn(quant), scales, mins }
    }

    /// d, dmin and the 12 bytes of scales and mins: bytes 0..8 hold the first four of each and the high pairs of the
    /// others, bytes 8..12 the low nibbles of the others.
    fn put_header(&self, out: &mut Vec<u8>) {
        let mut packed = [0u8; 12];
        for j in 0..4 {
            let (scale, min) = (self.scales[j + 4], self.mins[j + 4]);
            packed[j] = self.scales[j] | scale >> 4 << 6;
            packed[j + 4] = self.mins[j] | min >> 4 << 6;
            packed[j + 8] = scale & 15 | (min & 15) << 4;
        }
        out.extend(self.d);
        out.extend(self.dmin);
        out.extend(packed);
    }

    /// Chunk `c` of 32 bytes holds the low bits of sub-block `2c` in its low nibbles, of `2c + 1` in its high ones.
    fn put_nibbles(&self, out: &mut Vec<u8>) {
        for pair in self.quants.as_chunks::<64>().0 {
            out.extend((0..32).map(|i| pair[i] & 15 | (pair[i + 32] & 15) << 4));
        }
    }
}

/// Appends a block of Q4_K.
pub fn q4k(x: &[f32; BLOCK], out: &mut Vec<u8>) {
    let block = Shared::new(x, Grid { top: 15, from: -1.0, step: 0.1, n: 20 });
    block.put_header(out);
    block.put_nibbles(out);
}

/// Appends a block of Q5_K.
pub fn q5k(x: &[f32; BLOCK], out: &mut Vec<u8>) {
    let block = Shared::new(x, Grid { top: 31, from: -0.5, step: 0.1, n: 15 });
    block.put_header(out);
    out.extend((0..32).map(|i| (0..8).fold(0, |byte, j| byte | block.quants[32 * j + i] >> 4 << j)));
    block.put_nibbles(out);
}

/// Appends a block of Q6_K.
pub fn q6k(x: &[f32; BLOCK], out: &mut Vec<u8>) {
    let (groups, _) = x.as_chunks::<16>();
    let found: [f32; 16] = array::from_fn(|g| symmetric(&groups[g], 32));
    let extreme = found.iter().copied().fold(0.0f32, |best, s| if s.abs() > best.abs() { s } else { best });
    // The extreme factor becomes -128.
    let inverse = if extreme == 0.0 { 0.0 } else { -128.0 / extreme };
    let (d, d_value) = stored(extreme / -128.0);
    let scales = found.map(|s| (s * inverse).round_ties_even().clamp(-128.0, 127.0) as i8);
    let quants: [u8; BLOCK] = array::from_fn(|e| {
        let scale = d_value * f32::from(scales[e / 16]);
        let quant = if scale == 0.0 { 0.0 } else { (x[e] / scale).round_ties_even().clamp(-32.0, 31.0) };
        (quant as i8 + 32) as u8
    });
    // In each half, nibble k / 2 of byte 32 (k mod 2) + i has the low bits of weight i of sub-block k, and bits 2k of
    // byte i its high ones.
    let (halves, _) = quants.as_chunks::<128>();
    for half in halves {
        out.extend((0..64).map(|i| half[i] & 15 | (half[i + 64] & 15) << 4));
    }
    for half in halves {
        out.extend((0..32).map(|i| (0..4).fold(0, |byte, k| byte | half[32 * k + i] >> 4 << (2 * k))));
    }
    out.extend(scales.map(|s| s as u8));
    out.extend(d);
}
