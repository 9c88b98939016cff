//! Sub-blocks of the types with 32 weights a block: one block a lane.

use super::lanes::{ActLane, SubBlock};
use crate::dsl::prelude::*;

/// `c · Σ x`, where `factors` holds the signed byte `c` twice.
#[device]
fn sum_times(x: ActLane, factors: i32) -> V<i32> {
    dp2a_lo_ss(x.sums.as_i32(), dev(factors), dev(0i32))
}

/// `from + Σ q·x` with quants of 4 bits: 8 dp4a; high nibbles stay in place and count 16 times.
#[device]
fn dot_nibbles(quants: [V<u32>; 4], x: ActLane, from: V<i32>) -> V<i32> {
    let mut low = from;
    let mut high = 0i32;
    for g in unroll(0..4) {
        low = dp4a_us(quants[g] & 0x0f0f_0f0f, x.low[g].as_i32(), low);
        high = dp4a_us(quants[g] & 0xf0f0_f0f0, x.high[g].as_i32(), high);
    }
    low + (high >> 4)
}

/// Quants `4 g …` and `16 + 4 g …` of 5 bits, as bytes.
#[device]
pub(super) fn five_bits(quants: [V<u32>; 4], bits: V<u32>, g: usize) -> [V<u32>; 2] {
    let low = quants[g] & 0x0f0f_0f0f | bits << (4 - g as u32) & 0x1010_1010;
    let high = quants[g] >> 4 & 0x0f0f_0f0f | bits >> (g as u32) & 0x1010_1010;
    [low, high]
}

/// `Σ q·x` with quants of 5 bits; the fifth bits lie as the layout module says.
#[device]
pub(super) fn dot_five_bits(quants: [V<u32>; 4], bits: V<u32>, x: ActLane) -> V<i32> {
    let mut first = 0i32;
    let mut second = 0i32;
    for g in unroll(0..4) {
        let [low, high] = five_bits(quants, bits, g);
        first = dp4a_us(low, x.low[g].as_i32(), first);
        second = dp4a_us(high, x.high[g].as_i32(), second);
    }
    first + second
}

/// `acc + a·d·Σ q·x`.
#[device]
pub(super) fn accumulate_q8_0(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    let [low, high] = w.quants;
    let mut first = 0i32;
    let mut second = 0i32;
    for g in unroll(0..4) {
        first = dp4a_ss(low[g].as_i32(), x.low[g].as_i32(), first);
        second = dp4a_ss(high[g].as_i32(), x.high[g].as_i32(), second);
    }
    fma(x.scale, w.d.to_f32() * (first + second).to_f32(), acc)
}

/// `acc + a·d·Σ (q − 8)·x`; the −8 comes from the sums of the activations.
#[device]
pub(super) fn accumulate_q4_0(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    let dot = dot_nibbles(w.quants[0], x, sum_times(x, 0xf8f8));
    fma(x.scale, w.d.to_f32() * dot.to_f32(), acc)
}

/// `acc + a·(d·Σ q·x + m·Σ x)`.
#[device]
pub(super) fn accumulate_q4_1(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    let [d, m] = unpack_f16(w.scales[0]);
    let dot = dot_nibbles(w.quants[0], x, dev(0i32));
    let value = fma(d.to_f32(), dot.to_f32(), m.to_f32() * sum_times(x, 0x0101).to_f32());
    fma(x.scale, value, acc)
}

/// `acc + a·d·Σ (q − 16)·x`; the −16 comes from the sums of the activations.
#[device]
pub(super) fn accumulate_q5_0(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    let dot = dot_five_bits(w.quants[0], w.high[0], x) + sum_times(x, 0xf0f0);
    fma(x.scale, w.d.to_f32() * dot.to_f32(), acc)
}

/// `acc + a·(d·Σ q·x + m·Σ x)` with quants of 5 bits.
#[device]
pub(super) fn accumulate_q5_1(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    let [d, m] = unpack_f16(w.scales[0]);
    let dot = dot_five_bits(w.quants[0], w.high[0], x);
    let value = fma(d.to_f32(), dot.to_f32(), m.to_f32() * sum_times(x, 0x0101).to_f32());
    fma(x.scale, value, acc)
}
