//! Sub-blocks of the types with 256 weights a block.

use super::block32::dot_five_bits;
use super::lanes::{ActLane, SubBlock};
use crate::dsl::prelude::*;
use crate::layout::SUB_BLOCKS;

/// `acc + a·(d·Σ sc·q·x − dmin·m·Σ x)` over one sub-block: 8 dp4a; high nibbles stay in place and count 16 times.
#[device]
pub(super) fn accumulate_q4k(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    let quants = w.quants[0];
    let mut low = 0i32;
    let mut high = 0i32;
    for g in unroll(0..4) {
        low = dp4a_us(quants[g] & 0x0f0f_0f0f, x.low[g].as_i32(), low);
        high = dp4a_us(quants[g] & 0xf0f0_f0f0, x.high[g].as_i32(), high);
    }
    let dot = low + (high >> 4);
    let value = scaled(w.scales, dot, x);
    fma(x.scale, value, acc)
}

/// `acc + a·(d·Σ sc·q·x − dmin·m·Σ x)` over one sub-block, with quants of 5 bits.
#[device]
pub(super) fn accumulate_q5k(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    let dot = dot_five_bits(w.quants[0], w.high[0], x);
    let value = scaled(w.scales, dot, x);
    fma(x.scale, value, acc)
}

/// The scale and the min of the lane's sub-block, 6 bits each.
#[device]
pub(super) fn scale_and_min(header: [V<u32>; 4]) -> [V<u32>; 2] {
    let shift = lane_id() % SUB_BLOCKS * 4;
    let pairs = header[3] >> shift;
    let scale = (header[1] >> shift & 15) | (pairs & 3) << 4;
    let min = (header[2] >> shift & 15) | (pairs & 12) << 2;
    [scale, min]
}

/// `d·sc·dot − dmin·m·Σ x` of the lane's sub-block.
#[device]
fn scaled(header: [V<u32>; 4], dot: V<i32>, x: ActLane) -> V<f32> {
    let [scale, min] = scale_and_min(header);
    let scaled = (dot * scale.as_i32()).to_f32();
    let sum = (dp2a_lo_ss(x.sums.as_i32(), dev(0x0101i32), dev(0i32)) * min.as_i32()).to_f32();
    let [d, dmin] = unpack_f16(header[0]);
    fma(d.to_f32(), scaled, -(dmin.to_f32() * sum))
}

/// Quants `4 g …` and `16 + 4 g …` of 6 bits, as bytes.
#[device]
pub(super) fn six_bits(quants: [V<u32>; 4], bits: [V<u32>; 2], g: usize) -> [V<u32>; 2] {
    let align = |word: V<u32>| if g < 2 { word << (4 - 2 * g as u32) } else { word >> (2 * g as u32 - 4) };
    let low = quants[g] & 0x0f0f_0f0f | align(bits[0]) & 0x3030_3030;
    let high = quants[g] >> 4 & 0x0f0f_0f0f | align(bits[1]) & 0x3030_3030;
    [low, high]
}

/// `acc + a·d·Σ sc·(q − 32)·x` over one sub-block; the −32 comes from the sums of the activations.
#[device]
pub(super) fn accumulate_q6k(w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    // Bytes of the second operand: -32 for the half that is wanted, 0 for the other.
    let mut first = dp2a_lo_ss(x.sums.as_i32(), dev(0x00e0i32), dev(0i32));
    let mut second = dp2a_lo_ss(x.sums.as_i32(), dev(0xe000i32), dev(0i32));
    for g in unroll(0..4) {
        let [low, high] = six_bits(w.quants[0], w.high, g);
        first = dp4a_us(low, x.low[g].as_i32(), first);
        second = dp4a_us(high, x.high[g].as_i32(), second);
    }
    let scales = (w.scales[0] >> (lane_id() % 2 * 16)).as_i32();
    let scaled = first * bfe(scales, 0, 8) + second * bfe(scales, 8, 8);
    fma(x.scale, w.d.to_f32() * scaled.to_f32(), acc)
}
