//! Quantization of activations inside the kernels that produce them: int8 blocks of 32, see `plan::quantize_row`.

use super::operation::Expect;
use crate::dsl::prelude::*;

/// `127 / largest`, or 0 for a block of zeros; a NaN stays one.
#[device]
fn inverse_scale(largest: V<f32>) -> V<f32> {
    select(largest == 0.0, 0.0, 127.0 / largest)
}

/// The greatest of `width` neighbouring lanes, NaN if any is.
#[device]
fn largest_of_lanes(x: V<f32>, width: u32) -> V<f32> {
    let mut largest = x;
    for bit in each((0..width.ilog2()).rev()) {
        largest = max_nan(largest, shuffle_xor(largest, 1 << bit));
    }
    largest
}

/// A lane's 4 quants, and what its block has besides.
#[derive(Clone, Copy)]
pub(super) struct Quad {
    /// The quants, the first in the low byte.
    pub word: V<u32>,
    /// The block's scale.
    pub scale: V<f32>,
    /// The sums of the block's halves, the first in the low bits, in the block's first lane.
    pub sums: V<u32>,
}

/// Quantizes 4 neighbours a lane, 8 lanes a block.
#[device]
pub(super) fn quad(x: [V<f32>; 4]) -> Quad {
    let of_lane = max_nan(max_nan(abs(x[0]), abs(x[1])), max_nan(abs(x[2]), abs(x[3])));
    let largest = largest_of_lanes(of_lane, 8);
    let inverse = inverse_scale(largest);
    let q = x.map(|v| (v * inverse).round_to_i32());
    let word = (q[0] & 255 | (q[1] & 255) << 8 | (q[2] & 255) << 16 | q[3] << 24).as_u32();
    // Lanes 0..4 of the block hold its first 16 quants: after two exchanges each lane knows its half's sum.
    let half = sum_lanes(q[0] + q[1] + q[2] + q[3], 4);
    let other = shuffle_xor(half, 4);
    Quad { word, scale: largest / 127.0, sums: (half & 0xffff | other << 16).as_u32() }
}

/// Stores what [`quad`] gives: `place` is the index of the quad in the vector.
#[device]
pub(super) fn store_quad(x: [V<f32>; 4], place: V<u32>, quants: Out<u32>, meta: Out<u32>) {
    let quad = quad(x);
    quants.at(place).store(quad.word);
    if place % 8 == 0 {
        meta.at(place / 8 * 2).store_x2([quad.scale.bits(), quad.sums]);
    }
}

/// As [`store_quad`] with the 8 lanes of a block 2 lanes apart (lanes 0, 2, … 14 of a half warp and 1, 3, … 15), stored
/// only where `there` holds, which is one value for all lanes of a block.
#[device]
pub(super) fn store_quad_spread(
    x: [V<f32>; 4],
    place: V<u32>,
    there: V<bool>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let mut largest = max_nan(max_nan(abs(x[0]), abs(x[1])), max_nan(abs(x[2]), abs(x[3])));
    for step in each([8, 4, 2]) {
        largest = max_nan(largest, shuffle_xor(largest, step));
    }
    let inverse = inverse_scale(largest);
    let q = x.map(|v| (v * inverse).round_to_i32());
    let word = (q[0] & 255 | (q[1] & 255) << 8 | (q[2] & 255) << 16 | q[3] << 24).as_u32();
    let mut half = q[0] + q[1] + q[2] + q[3];
    for step in each([4, 2]) {
        half = half + shuffle_xor(half, step);
    }
    let other = shuffle_xor(half, 8);
    if there {
        quants.at(place).store(word);
        if place % 8 == 0 {
            let sums = (half & 0xffff | other << 16).as_u32();
            meta.at(place / 8 * 2).store_x2([(largest / 127.0).bits(), sums]);
        }
    }
}

/// The quant of a lane's value and the scale, when a warp's values are a block.
#[device]
pub(super) fn block_of_warp(x: V<f32>) -> (V<i32>, V<f32>) {
    let largest = largest_of_lanes(abs(x), 32);
    ((x * inverse_scale(largest)).round_to_i32(), largest / 127.0)
}

/// Quantizes one value a lane, a warp a block, and stores them: `block` is the block's index.
#[device]
pub(super) fn store_lane(x: V<f32>, block: V<u32>, quants: Out<u8>, meta: Out<u32>) {
    let lane = lane_id();
    let largest = largest_of_lanes(abs(x), 32);
    let q = (x * inverse_scale(largest)).round_to_i32();
    quants.at(block * 32 + lane).store(q.as_u32());
    let half = sum_lanes(q, 16);
    let other = shuffle_xor(half, 16);
    if lane == 0 {
        meta.at(block * 2).store_x2([(largest / 127.0).bits(), (half & 0xffff | other << 16).as_u32()]);
    }
}

/// Expectations for quants and meta when each value is known to an absolute bound only.
pub(super) fn expect(values: &[(f64, f64)]) -> (Expect, Expect) {
    (Expect::Quants(values.to_vec()), Expect::Meta(values.to_vec()))
}
