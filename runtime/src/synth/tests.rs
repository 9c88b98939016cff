//! The promises of the generator: equal bytes however they are cut, finite scales, the intended spread.

use std::borrow::Cow;
use std::time::Instant;

use half::{bf16, f16};
use plan::{Dims, RopeKind, Variant};

use super::*;
use crate::gguf::{GgmlType, check_block_scales};

fn table() -> Table {
    let dims = Dims {
        architecture: Cow::Borrowed("qwen2"),
        vocab_size: 256,
        dim: 1024,
        hidden_dim: 2048,
        n_layers: 1,
        n_heads: 8,
        n_kv_heads: 2,
        head_dim: 128,
        context: 128,
        norm_eps: 1e-6,
        rope_kind: RopeKind::Neox,
        rope_base: 1e6,
        qkv_bias: true,
        tied_head: false,
        kv_type: Default::default(),
        activations: Default::default(),
        variant: Variant::LLAMA,
    };
    Table {
        spec: Cow::Borrowed("synth"),
        hash: Cow::Borrowed("0"),
        sm: 90,
        dims,
        kernels: Cow::Borrowed(&[]),
        weights: Cow::Borrowed(&[]),
        caches: Cow::Borrowed(&[]),
        steps: Cow::Borrowed(&[]),
    }
}

fn weight(role: Role, qtype: QType, rows: u32) -> WeightDesc {
    let raw = u64::from(rows) * qtype.row_bytes(1024);
    WeightDesc { role, layer: Some(0), qtype, rows, cols: 1024, packed_bytes: raw, repack: None }
}

fn bytes(seed: u64, w: &WeightDesc) -> Vec<u8> {
    let mut out = vec![0; w.raw_bytes() as usize];
    SynthSource::new(seed).fill(&table(), w, 0, &mut out);
    out
}

fn half_at(block: &[u8], at: usize) -> f64 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f64()
}

/// Values of a block, by the definition of each type. Written from the format's description, apart from the maker.
fn values(qtype: QType, b: &[u8]) -> Vec<f64> {
    let nibble = |bytes: &[u8], i: usize| f64::from((bytes[i % 16] >> (4 * (i / 16))) & 15);
    let fifth = |bits: &[u8], i: usize| f64::from((bits[i / 8] >> (i % 8)) & 1) * 16.0;
    match qtype {
        QType::F32 => vec![f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))],
        QType::F16 => vec![half_at(b, 0)],
        QType::Bf16 => vec![bf16::from_le_bytes([b[0], b[1]]).to_f64()],
        QType::Q4_0 => (0..32).map(|i| half_at(b, 0) * (nibble(&b[2..], i) - 8.0)).collect(),
        QType::Q4_1 => (0..32).map(|i| half_at(b, 0) * nibble(&b[4..], i) + half_at(b, 2)).collect(),
        QType::Q5_0 => {
            (0..32).map(|i| half_at(b, 0) * (nibble(&b[6..], i) + fifth(&b[2..], i) - 16.0)).collect()
        }
        QType::Q5_1 => {
            let quant = |i| nibble(&b[8..], i) + fifth(&b[4..], i);
            (0..32).map(|i| half_at(b, 0) * quant(i) + half_at(b, 2)).collect()
        }
        QType::Q8_0 => (0..32).map(|i| half_at(b, 0) * f64::from(b[2 + i].cast_signed())).collect(),
        QType::Q4K | QType::Q5K => super_block_values(qtype, b),
        QType::Q6K => (0..256)
            .map(|i| {
                let (half, r) = (i / 128, i % 128);
                let (part, l) = (r / 32, r % 32);
                let low = (b[half * 64 + (part % 2) * 32 + l] >> (4 * (part / 2))) & 15;
                let high = (b[128 + half * 32 + l] >> (2 * part)) & 3;
                let scale = f64::from(b[192 + i / 16].cast_signed());
                half_at(b, 208) * scale * (f64::from(low) + 16.0 * f64::from(high) - 32.0)
            })
            .collect(),
    }
}

fn super_block_values(qtype: QType, b: &[u8]) -> Vec<f64> {
    let s = &b[4..16];
    let six_bits = |j: usize| match j {
        0..4 => (s[j] & 63, s[j + 4] & 63),
        _ => ((s[j + 4] & 15) | (s[j - 4] >> 6 << 4), (s[j + 4] >> 4) | (s[j] >> 6 << 4)),
    };
    let quants = if qtype == QType::Q4K { &b[16..] } else { &b[48..] };
    (0..256)
        .map(|i| {
            let (scale, min) = six_bits(i / 32);
            let low = f64::from((quants[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2))) & 15);
            let high =
                if qtype == QType::Q5K { f64::from((b[16 + i % 32] >> (i / 32)) & 1) * 16.0 } else { 0.0 };
            half_at(b, 0) * f64::from(scale) * (low + high) - half_at(b, 2) * f64::from(min)
        })
        .collect()
}

#[test]
fn any_piece_equals_the_same_bytes_of_the_whole() {
    for qtype in QType::ALL {
        // 4 MiB of F32, so that several threads take part.
        let w = weight(Role::FfnUp, qtype, 1024);
        let whole = bytes(7, &w);
        let step = block_bytes(qtype) * 37;
        for offset in (0..whole.len()).step_by(step * 911) {
            let end = whole.len().min(offset + step);
            let mut piece = vec![0; end - offset];
            SynthSource::new(7).fill(&table(), &w, offset as u64, &mut piece);
            assert!(piece == whole[offset..end], "{qtype} at {offset}");
        }
    }
}

#[test]
fn seeds_and_names_change_the_bytes() {
    let up = weight(Role::FfnUp, QType::Q4K, 16);
    let gate = weight(Role::FfnGate, QType::Q4K, 16);
    assert_eq!(bytes(1, &up), bytes(1, &up));
    assert_ne!(bytes(1, &up), bytes(2, &up));
    assert_ne!(bytes(1, &up), bytes(1, &gate));
}

#[test]
fn values_are_finite_centred_and_of_the_intended_spread() {
    for qtype in QType::ALL {
        let w = weight(Role::FfnUp, qtype, 256);
        let raw = bytes(3, &w);
        let ty = GgmlType::from_id(qtype.ggml_id()).unwrap();
        check_block_scales(ty, "t", 0, &raw).unwrap();
        let all: Vec<f64> = raw.chunks(qtype.block_bytes() as usize).flat_map(|b| values(qtype, b)).collect();
        assert_eq!(all.len(), 256 * 1024);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let deviation = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        let wanted = 1.0 / 1024f64.sqrt();
        assert!((deviation / wanted - 1.0).abs() < 0.05, "{qtype}: deviation {deviation}, wanted {wanted}");
        assert!(mean.abs() < 0.15 * wanted, "{qtype}: mean {mean}");
    }
}

#[test]
fn norms_lie_around_one() {
    let w = weight(Role::AttnNorm, QType::F32, 1);
    let all: Vec<f64> = bytes(1, &w).chunks(4).flat_map(|b| values(QType::F32, b)).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    assert!(all.iter().all(|v| (0.8..1.2).contains(v)));
}

#[test]
fn quantized_blocks_are_made_fast() {
    let w = weight(Role::FfnUp, QType::Q4K, 1 << 16);
    let start = Instant::now();
    let n = bytes(1, &w).len();
    let rate = n as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("{rate:.2} GB/s");
    // Far below what it does, so that a busy machine passes and an accidental loop over bits does not.
    assert!(rate > 0.05, "{rate} GB/s");
}
