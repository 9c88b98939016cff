//! Random blocks of each type: random quants, with scales such that the values have a given spread.
//!
//! The layouts are GGML's. A quant `q` that is uniform over `n` values has a standard deviation of
//! `sqrt((n² − 1) / 12)` around `(n − 1) / 2`; the scale divides the wanted deviation by that.

use half::{bf16, f16};
use plan::QType;

use super::random::Random;

/// Where values lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub centre: f64,
    pub deviation: f64,
}

/// Fills one block (of plain types: one group of values).
pub(super) fn fill(qtype: QType, spread: Spread, random: &mut Random, out: &mut [u8]) {
    match qtype {
        QType::F32 => plain(spread, random, out, |value| (value as f32).to_le_bytes()),
        QType::F16 => plain(spread, random, out, |value| f16::from_f64(value).to_le_bytes()),
        QType::Bf16 => plain(spread, random, out, |value| bf16::from_f64(value).to_le_bytes()),
        QType::Q4_0 | QType::Q5_0 | QType::Q8_0 => scaled(levels(qtype), spread, random, out),
        QType::Q4_1 | QType::Q5_1 => scaled_with_min(levels(qtype), spread, random, out),
        QType::Q4K | QType::Q5K => super_block(levels(qtype), spread, random, out),
        QType::Q6K => super_block_q6(spread, random, out),
    }
}

/// Values that a quant of the type can have.
fn levels(qtype: QType) -> f64 {
    match qtype {
        QType::Q4_0 | QType::Q4_1 | QType::Q4K => 16.0,
        QType::Q5_0 | QType::Q5_1 | QType::Q5K => 32.0,
        QType::Q6K => 64.0,
        _ => 256.0,
    }
}

/// Standard deviation of a uniform choice of `levels` neighbouring integers.
fn deviation_of(levels: f64) -> f64 {
    ((levels * levels - 1.0) / 12.0).sqrt()
}

fn plain<const N: usize>(
    spread: Spread,
    random: &mut Random,
    out: &mut [u8],
    encode: impl Fn(f64) -> [u8; N],
) {
    // Uniform over an interval of `sqrt(12)` deviations.
    let width = spread.deviation * 12f64.sqrt();
    for value in out.chunks_exact_mut(N) {
        value.copy_from_slice(&encode(spread.centre + (random.unit() - 0.5) * width));
    }
}

/// The wanted scale, varied by a quarter either way so that no two blocks are alike.
fn varied(scale: f64, random: &mut Random) -> f64 {
    scale * (0.75 + 0.5 * random.unit())
}

fn put(out: &mut [u8], at: usize, value: f64) {
    if let Some(place) = out.get_mut(at..at + 2) {
        place.copy_from_slice(&f16::from_f64(value).to_le_bytes());
    }
}

/// `d`, then quants around zero.
fn scaled(levels: f64, spread: Spread, random: &mut Random, out: &mut [u8]) {
    random.fill(out);
    put(out, 0, varied(spread.deviation / deviation_of(levels), random));
}

/// `d`, `m`, then quants from zero up; `m` brings the mean to zero.
fn scaled_with_min(levels: f64, spread: Spread, random: &mut Random, out: &mut [u8]) {
    random.fill(out);
    let scale = varied(spread.deviation / deviation_of(levels), random);
    put(out, 0, scale);
    put(out, 2, -scale * (levels - 1.0) / 2.0);
}

/// `d`, `dmin`, eight 6-bit scales and minima, then quants. Scales and minima are uniform over `0..64`, the minima
/// weighted by the quants' mean, so that the values are centred: the variance of `s·q − m·mean` is summed below.
fn super_block(levels: f64, spread: Spread, random: &mut Random, out: &mut [u8]) {
    random.fill(out);
    let mean = (levels - 1.0) / 2.0;
    let (scale_mean_square, scale_variance) = (63.0 * 127.0 / 6.0, 341.25);
    let variance = scale_mean_square * (levels * levels - 1.0) / 12.0 + 2.0 * scale_variance * mean * mean;
    let scale = varied(spread.deviation / variance.sqrt(), random);
    put(out, 0, scale);
    put(out, 2, scale * mean);
}

/// Bytes of the low and high bits of a Q6_K block, which come first.
const Q6_QUANT_BYTES: usize = 128 + 64;
/// Its 16 scales, i8.
const Q6_SCALES: usize = 16;
/// They are drawn from `−32..32`: the square mean of that range, and `d` stays a normal f16.
const Q6_SCALE_SQUARE: f64 = (64.0 * 64.0 - 1.0) / 12.0 + 0.25;

/// Low bits, high bits, scales, `d`; the quants lie around zero.
fn super_block_q6(spread: Spread, random: &mut Random, out: &mut [u8]) {
    random.fill(out);
    for scale in out.iter_mut().skip(Q6_QUANT_BYTES).take(Q6_SCALES) {
        // The upper six bits as a signed number.
        *scale = (scale.cast_signed() >> 2).cast_unsigned();
    }
    let deviation = Q6_SCALE_SQUARE.sqrt() * deviation_of(levels(QType::Q6K));
    put(out, Q6_QUANT_BYTES + Q6_SCALES, varied(spread.deviation / deviation, random));
}
