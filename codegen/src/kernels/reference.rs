//! Plain-Rust references that several operations share, and the error bounds that go with them.

use super::operation::Expect;
use crate::layout::{ActBlocks, Matrix};
use crate::rng::Rng;

/// Unit roundoff of f32.
pub(super) const U: f64 = 1.0 / (1u64 << 24) as f64;

/// `γ_n = n·u / (1 − n·u)`: the relative error of n roundings (Higham, *Accuracy and Stability*, 3.1).
pub(super) fn gamma(n: f64) -> f64 {
    n * U / (1.0 - n * U)
}

/// f32 values as little-endian bytes.
pub(super) fn bytes_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// u32 values as little-endian bytes.
pub(super) fn bytes_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `n` values of one of four distributions, by the generator's seed: normal with every 97th a hundred times larger, as
/// activations have outliers; uniform; mostly zeros, whole blocks of them; of magnitudes from 2^-20 to 2^20.
pub(super) fn random_activations(rng: &mut Rng, n: u32) -> Vec<f32> {
    let kind = rng.seed() % 4;
    let mut value = |i: u32| match kind {
        0 => rng.normal() * if i % 97 == 13 { 100.0 } else { 1.0 },
        1 => rng.signed(),
        2 => rng.normal() * if (i / 32).is_multiple_of(3) || rng.below(4) > 0 { 0.0 } else { 1.0 },
        _ => rng.signed() * 2f32.powi(rng.below(41) as i32 - 20),
    };
    (0..n).map(&mut value).collect()
}

/// `W x` in f64 of the same quantized operands, with the bound `2 γ_n Σ|t·x|` over all terms t for each row. Weights are taken by GGML's
/// formula in f32, whose three roundings are within the bound: n counts three for each block of 32, and the tree. Plain
/// types add the 32 products of a block one after the other.
pub(super) fn gemv(m: &Matrix, raw: &[u8], x: &ActBlocks) -> Vec<(f64, f64)> {
    let (values, weights, terms) = (x.values(), m.dequantize(raw), m.magnitudes(raw));
    let within = if m.qtype.is_plain() { 32.0 } else { 0.0 };
    let roundings = 3.0 * f64::from(m.cols) / 32.0 / 8.0 + 32.0 + within;
    weights
        .chunks_exact(m.cols as usize)
        .zip(terms.chunks_exact(m.cols as usize))
        .map(|(row, terms)| {
            let sum: f64 = row.iter().zip(&values).map(|(w, v)| f64::from(*w) * v).sum();
            let magnitude: f64 = terms.iter().zip(&values).map(|(t, v)| t * v.abs()).sum();
            (sum, 2.0 * gamma(roundings) * magnitude)
        })
        .collect()
}

/// Values near a reference, or the same plus what was there before.
pub(super) fn near(results: Vec<(f64, f64)>, before: Option<&[f32]>) -> Expect {
    Expect::Near(match before {
        None => results,
        Some(old) => results
            .into_iter()
            .zip(old)
            .map(|((v, bound), o)| {
                let sum = v + f64::from(*o);
                (sum, bound + 2.0 * U * (sum.abs() + v.abs()))
            })
            .collect(),
    })
}
