//! Sub-blocks of the plain types: 32 elements of a row as they lie in the file, multiplied in f32.

use super::lanes::{ActLane, Weights};
use crate::dsl::prelude::*;
use crate::layout::SUB_BLOCK;
use ::plan::QType;

/// `acc + a·Σ w·q`: the sum over the block by fma in the order of its elements, from +0; then the scale.
#[device]
pub(super) fn accumulate(weights: &[V<f32>], x: ActLane, acc: V<f32>) -> V<f32> {
    let mut sum = 0.0;
    for g in unroll(0..8usize) {
        let quants = signed_bytes(if g < 4 { x.low[g] } else { x.high[g - 4] });
        for b in unroll(0..4usize) {
            sum = fma(weights[4 * g + b], quants[b], sum);
        }
    }
    fma(x.scale, sum, acc)
}

/// The lane's 32 weights, by 16-byte loads; exact.
#[device]
pub(super) fn weights_of_block(qtype: QType, w: Weights, cells: u32) -> Vec<V<f32>> {
    let n_words = SUB_BLOCK * qtype.block_bytes() / 4;
    let mut weights = Vec::new();
    for load in unroll(0..n_words / 4) {
        // 8 sub-blocks of all lanes lie between a lane's super-blocks.
        for word in each(w.quants.at(cells * 8 * n_words + load * 4).load_x4()) {
            match qtype {
                QType::F32 => weights.push(V::<f32>::from_bits(word)),
                QType::F16 => weights.extend(unpack_f16(word).map(|half| half.to_f32())),
                _ => weights.extend([word << 16, word & 0xffff_0000].map(V::<f32>::from_bits)),
            }
        }
    }
    weights
}

/// The four signed bytes of a word as floats, without conversions: a byte `b + 128` below the exponent of 2^23 reads as
/// `2^23 + 128 + b`, from which the subtraction leaves `b` exactly.
#[device]
pub(super) fn signed_bytes(word: V<u32>) -> [V<f32>; 4] {
    let biased = word ^ 0x8080_8080;
    [0x7440u32, 0x7441, 0x7442, 0x7443]
        .map(|selector| V::<f32>::from_bits(prmt(biased, 0x4b00_0000u32, selector)) - 8_388_736.0)
}
