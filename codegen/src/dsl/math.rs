//! Elementary functions by IEEE operations alone: the same bits on every device and in the emulator.

use super::*;
use kernels_dsl::device;

/// log2(e), rounded to f32.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 = LN2_HI + LN2_LO: the high part has 15 bits, so that n * LN2_HI is exact for |n| < 2^9.
const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;
/// 1/k! for k = 7 … 1: Taylor terms; on |r| <= ln2/2 the rest is below r^8/8! < 6e-9 relative, 0.05 ulp.
const TERMS: [f32; 7] = [1.984_127e-4, 1.388_888_9e-3, 8.333_334e-3, 4.166_666_8e-2, 0.166_666_67, 0.5, 1.0];

/// `e^x`: within 1 ulp of the true value (bounded by 2 in the contract), subnormal results included.
///
/// `exp(-inf) = 0`, `exp(x) = inf` from 88.7228394 up, NaN gives NaN. The argument is reduced by n·ln 2 in two parts,
/// the polynomial is evaluated by `fma.rn`, and the result is scaled by 2^(n/2) twice, so that neither factor leaves
/// the range of normal numbers and only the last product rounds.
#[device]
pub fn exp(x: V<f32>) -> V<f32> {
    let x = max_nan(min_nan(x, 89.0), -104.0);
    let n = (x * LOG2_E).round_to_i32();
    let nf = n.to_f32();
    let r = fma(nf, -LN2_HI, x);
    let r = fma(nf, -LN2_LO, r);
    let mut e = dev(TERMS[0]);
    for term in each(TERMS.into_iter().skip(1)) {
        e = fma(e, r, term);
    }
    let e = fma(e, r, 1.0);
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n - half)
}

/// `2^n` for -126 <= n <= 127, by its exponent bits.
#[device]
fn power_of_two(n: V<i32>) -> V<f32> {
    V::<f32>::from_bits(((n + 127) << 23).as_u32())
}

/// `x / (1 + e^-x)`.
#[device]
pub fn silu(x: V<f32>) -> V<f32> {
    x / (1.0 + exp(-x))
}

/// `1 / (1 + e^-x)`.
#[device]
pub fn sigmoid(x: V<f32>) -> V<f32> {
    rcp(1.0 + exp(-x))
}
