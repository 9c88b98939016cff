//! The packed forms hold what the file held, and quantization keeps its promises.

use super::*;
use crate::rng::Rng;

/// Reads a weight's integer parts back out of the packed form, by the module's words alone.
fn unpack_q4k(m: &Matrix, packed: &[u8], row: u32, col: u32) -> (u8, u8, u8) {
    let (sb, j, i) = (col / 256, col / 32 % 8, col % 32);
    let cell = u64::from(row / 4 * m.n_super_blocks() + sb);
    let lane = u64::from(row % 4 * 8 + j);
    let byte = packed[(cell * 512 + lane * 16) as usize + (i % 16) as usize];
    let header = (m.planes().scales + cell * 64 + u64::from(row % 4) * 16) as usize;
    let nibble = |word: usize| packed[header + 4 * word + j as usize / 2] >> (j % 2 * 4) & 15;
    (byte >> (i / 16 * 4) & 15, nibble(1) | (nibble(3) & 3) << 4, nibble(2) | nibble(3) >> 2 << 4)
}

#[test]
fn q4k_packs_every_weight() {
    let m = Matrix { qtype: QType::Q4K, rows: 6, cols: 512 };
    let raw = m.random(&mut Rng::new(1));
    let packed = m.pack(&raw);
    for row in 0..m.rows {
        for col in 0..m.cols {
            let at = (row * m.n_super_blocks() + col / 256) as usize * 144;
            let block = BlockQ4K::from_bytes(&raw[at..at + 144]);
            let (j, i) = (col as usize / 32 % 8, col as usize % 32);
            let (sc, min) = block.scale_min(j);
            assert_eq!(
                unpack_q4k(&m, &packed, row, col),
                (block.quant(j, i), sc, min),
                "row {row} col {col}"
            );
        }
    }
}

#[test]
fn q6k_packs_every_weight() {
    let m = Matrix { qtype: QType::Q6K, rows: 5, cols: 512 };
    let raw = m.random(&mut Rng::new(2));
    let packed = m.pack(&raw);
    for row in 0..m.rows {
        for col in 0..m.cols {
            let at = (row * m.n_super_blocks() + col / 256) as usize * 210;
            let block = BlockQ6K::from_bytes(&raw[at..at + 210]);
            let (sb, j, i) = (col / 256, col as usize / 32 % 8, col as usize % 32);
            let cell = (row / 4 * m.n_super_blocks() + sb) as usize;
            let lane = row as usize % 4 * 8 + j;
            let low = packed[cell * 512 + lane * 16 + i % 16] >> (i / 16 * 4) & 15;
            let high = packed[m.planes().high as usize + cell * 256 + lane * 8 + i / 16 * 4 + i % 4]
                >> (i % 16 / 4 * 2)
                & 3;
            assert_eq!(low | high << 4, block.quant(j, i), "row {row} col {col}");
            let scale = packed[m.planes().scales as usize + cell * 64 + lane * 2 + i / 16] as i8;
            assert_eq!(scale, block.scale(j, i));
        }
    }
}

#[test]
fn random_weights_have_the_deviation_asked_for() {
    for qtype in QType::ALL {
        let m = Matrix { qtype, rows: 64, cols: 1024 };
        let w = m.dequantize(&m.random(&mut Rng::new(3)));
        let deviation = (w.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / w.len() as f64).sqrt();
        assert!((0.7..1.5).contains(&(deviation * 32.0)), "{qtype}: {deviation}");
    }
}

#[test]
fn quantization_is_within_half_a_step_and_sums_are_exact() {
    let mut rng = Rng::new(4);
    let x: Vec<f32> = (0..256).map(|_| rng.normal() * 3.0).collect();
    let blocks = quantize_row(&x);
    for (i, v) in x.iter().enumerate() {
        let step = blocks.scales[i / 32];
        assert!((f32::from(blocks.quants[i]) * step - v).abs() <= step * 0.5001);
    }
    let sum: i16 = blocks.quants[16..32].iter().map(|q| i16::from(*q)).sum();
    assert_eq!(blocks.sums[0][1], sum);
    assert_eq!(blocks.meta_bytes().len(), 8 * 8);
}

#[test]
fn nan_and_infinity_reach_the_scale() {
    let mut x = [1.0f32; 32];
    x[5] = f32::NAN;
    assert!(quantize_block(&x).1.is_nan());
    x[5] = f32::NEG_INFINITY;
    assert!(quantize_block(&x).1.is_infinite());
    assert_eq!(quantize_block(&[0.0; 32]), ([0; 32], 0.0));
}

/// Independent readings of GGML's formulas, byte by byte, in the order of its own dequantization loops.
fn by_formula(qtype: QType, b: &[u8]) -> Vec<f32> {
    let half = |at: usize| ptx::sem::f16_to_f32(u16::from(b[at]) | u16::from(b[at + 1]) << 8);
    let mut y = vec![0.0; 32];
    for l in 0..16 {
        let (lo, hi) = (|at: usize| b[at + l] & 15, |at: usize| b[at + l] / 16);
        let fifth = |at: usize, bit: usize| if b[at + bit / 8] & 1 << (bit % 8) != 0 { 16 } else { 0 };
        (y[l], y[l + 16]) = match qtype {
            QType::Q8_0 => (half(0) * f32::from(b[2 + l] as i8), half(0) * f32::from(b[18 + l] as i8)),
            QType::Q4_0 => (half(0) * (f32::from(lo(2)) - 8.0), half(0) * (f32::from(hi(2)) - 8.0)),
            QType::Q4_1 => (half(0) * f32::from(lo(4)) + half(2), half(0) * f32::from(hi(4)) + half(2)),
            QType::Q5_0 => (
                half(0) * (f32::from(lo(6) + fifth(2, l)) - 16.0),
                half(0) * (f32::from(hi(6) + fifth(2, l + 16)) - 16.0),
            ),
            _ => (
                half(0) * f32::from(lo(8) + fifth(4, l)) + half(2),
                half(0) * f32::from(hi(8) + fifth(4, l + 16)) + half(2),
            ),
        };
    }
    y
}

/// GGML's loop over Q5_K: 64 weights a turn, the masks of the fifth bits doubled twice a turn.
fn q5k_by_formula(b: &[u8]) -> Vec<f32> {
    let half = |at: usize| ptx::sem::f16_to_f32(u16::from(b[at]) | u16::from(b[at + 1]) << 8);
    let (sc, qh, mut ql) = (&b[4..16], &b[16..48], &b[48..]);
    let pair = |j: usize| match j {
        0..4 => (sc[j] & 63, sc[j + 4] & 63),
        _ => ((sc[j + 4] & 0xf) | ((sc[j - 4] >> 6) << 4), (sc[j + 4] >> 4) | ((sc[j] >> 6) << 4)),
    };
    let (mut y, mut u1, mut u2) = (Vec::new(), 1u8, 2u8);
    for is in (0..8).step_by(2) {
        for (mask, shift, (s, m)) in [(u1, 0, pair(is)), (u2, 4, pair(is + 1))] {
            let (d1, m1) = (half(0) * f32::from(s), half(2) * f32::from(m));
            for l in 0..32 {
                let q = (ql[l] >> shift & 15) + if qh[l] & mask != 0 { 16 } else { 0 };
                y.push(d1 * f32::from(q) - m1);
            }
        }
        (ql, u1, u2) = (&ql[32..], u1 << 2, u2 << 2);
    }
    y
}

fn assert_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits() || f.is_nan() && e.is_nan(), "{what}: weight {i} is {f}, not {e}");
    }
}

#[test]
fn blocks_of_32_dequantize_by_ggmls_formula_for_every_code_and_scale() {
    for qtype in [QType::Q8_0, QType::Q4_0, QType::Q4_1, QType::Q5_0, QType::Q5_1] {
        let (m, mut rng) = (Matrix { qtype, rows: 1, cols: 32 }, Rng::new(9));
        // Every f16 pattern as d with random quants (and m): every code of every weight is met many times over.
        let mut met = vec![[0u8; 256]; 32];
        for d in 0..=u16::MAX {
            let mut block = vec![0; qtype.block_bytes() as usize];
            rng.fill(&mut block);
            block[..2].copy_from_slice(&d.to_le_bytes());
            for (i, codes) in met.iter_mut().enumerate() {
                let code = match qtype {
                    QType::Q8_0 => BlockQ8_0::from_bytes(&block).quant(i) as u8,
                    QType::Q4_0 => BlockQ4_0::from_bytes(&block).quant(i),
                    QType::Q4_1 => BlockQ4_1::from_bytes(&block).quant(i),
                    QType::Q5_0 => BlockQ5_0::from_bytes(&block).quant(i),
                    _ => BlockQ5_1::from_bytes(&block).quant(i),
                };
                codes[usize::from(code)] = 1;
            }
            assert_bits(&m.dequantize(&block), &by_formula(qtype, &block), &format!("{qtype} d {d:#06x}"));
        }
        let n_codes = match qtype {
            QType::Q8_0 => 256,
            QType::Q4_0 | QType::Q4_1 => 16,
            _ => 32,
        };
        assert!(met.iter().all(|codes| codes[..n_codes].iter().all(|c| *c == 1)), "{qtype}");
    }
}

#[test]
fn q5k_dequantizes_by_ggmls_formula() {
    let (m, mut rng) = (Matrix { qtype: QType::Q5K, rows: 1, cols: 256 }, Rng::new(10));
    for round in 0..4096u32 {
        let mut block = vec![0; 176];
        rng.fill(&mut block);
        // All pairs of a scale and a min come by in every sub-block: they are fields of 6 bits in random bytes.
        block[..2].copy_from_slice(&((round * 16 + 5) as u16).to_le_bytes());
        assert_bits(&m.dequantize(&block), &q5k_by_formula(&block), &format!("round {round}"));
    }
}

#[test]
fn plain_types_hold_their_values() {
    let of = |qtype| Matrix { qtype, rows: 1, cols: 32 };
    for bits in 0..=u16::MAX {
        let raw = bits.to_le_bytes();
        let bf16 = of(QType::Bf16).dequantize(&raw)[0];
        assert_eq!(bf16.to_bits(), u32::from(bits) << 16);
        let f16 = of(QType::F16).dequantize(&raw)[0];
        assert!(f16.is_nan() || ptx::sem::f32_to_f16(f16) == bits, "{bits:#06x}");
    }
    let m = Matrix { qtype: QType::F32, rows: 3, cols: 96 };
    let raw = m.random(&mut Rng::new(2));
    assert_eq!((m.pack(&raw), m.planes().bytes), (raw.clone(), m.raw_bytes()));
    assert_eq!(m.dequantize(&raw)[1].to_le_bytes(), raw[4..8]);
}

/// Reads a weight back out of the packed form by the offsets of the module's words alone: quant, then the bits of its scales.
fn unpack(m: &Matrix, packed: &[u8], row: u32, col: u32) -> (i32, u32) {
    let (sizes, planes) = (m.cell_bytes(), m.planes());
    let cell = u64::from(row / 4 * m.n_super_blocks() + col / 256);
    let (lane, i) = (u64::from(row % 4 * 8 + col / 32 % 8), u64::from(col % 32));
    let byte = |at: u64| packed[at as usize];
    let half = |at: u64| u32::from(byte(at)) | u32::from(byte(at + 1)) << 8;
    let fifth = || byte(planes.high + cell * sizes.high + lane * 4 + i % 4) >> (i / 4) & 1;
    let nibble = byte(cell * 512 + lane * 16 + i % 16) >> (i / 16 * 4) & 15;
    let quant = match m.qtype {
        QType::Q8_0 => i32::from(byte(cell * 1024 + i / 16 * 512 + lane * 16 + i % 16) as i8),
        QType::Q4_0 | QType::Q4_1 => i32::from(nibble),
        _ => i32::from(nibble | fifth() << 4),
    };
    let scales = match m.qtype {
        QType::Q4_1 | QType::Q5_1 => {
            let at = planes.scales + cell * sizes.scales + lane * 4;
            half(at) | half(at + 2) << 16
        }
        QType::Q5K => {
            let at = planes.scales + cell * 64 + lane / 8 * 16;
            half(at) | half(at + 2) << 16
        }
        _ => half(planes.d + cell * sizes.d + lane * 2),
    };
    (quant, scales)
}

#[test]
fn other_types_pack_every_weight() {
    let shapes = [(QType::Q5K, 512), (QType::Q8_0, 640), (QType::Q4_0, 288), (QType::Q4_1, 640)];
    for (qtype, cols) in shapes.into_iter().chain([(QType::Q5_0, 96), (QType::Q5_1, 640)]) {
        let m = Matrix { qtype, rows: 6, cols };
        let raw = m.random(&mut Rng::new(11));
        let packed = m.pack(&raw);
        assert_eq!(packed.len() as u64, m.planes().bytes);
        for (row, col) in (0..m.rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let (n, size) = (qtype.block_elems(), qtype.block_bytes() as usize);
            let block = &raw[((row * cols + col) / n) as usize * size..][..size];
            let (i, word) =
                ((col % 32) as usize, |at: usize| u32::from(block[at]) | u32::from(block[at + 1]) << 8);
            let expected = match qtype {
                QType::Q8_0 => (i32::from(BlockQ8_0::from_bytes(block).quant(i)), word(0)),
                QType::Q4_0 => (i32::from(BlockQ4_0::from_bytes(block).quant(i)), word(0)),
                QType::Q5_0 => (i32::from(BlockQ5_0::from_bytes(block).quant(i)), word(0)),
                QType::Q4_1 => (i32::from(BlockQ4_1::from_bytes(block).quant(i)), word(0) | word(2) << 16),
                QType::Q5_1 => (i32::from(BlockQ5_1::from_bytes(block).quant(i)), word(0) | word(2) << 16),
                _ => {
                    let quant = BlockQ5K::from_bytes(block).quant(col as usize / 32 % 8, i);
                    (i32::from(quant), word(0) | word(2) << 16)
                }
            };
            assert_eq!(unpack(&m, &packed, row, col), expected, "{qtype} row {row} col {col}");
        }
        // What pads rows and columns is zero.
        for col in cols..cols.next_multiple_of(256) {
            assert_eq!(unpack(&m, &packed, 0, col), (0, 0), "{qtype} col {col}");
        }
        assert_eq!(unpack(&m, &packed, 7, 0), (0, 0), "{qtype}");
    }
}
