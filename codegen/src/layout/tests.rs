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
    for qtype in [QType::Q4K, QType::Q6K] {
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
