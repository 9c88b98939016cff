//! Sub-blocks taken apart for products that read weights as bytes: the quants, and what the row multiplies by.

use super::block32::five_bits;
use super::k_quants::{scale_and_min, six_bits};
use super::lanes::SubBlock;
use crate::dsl::prelude::*;
use ::plan::QType;

/// What the formula takes off the quants of a type as they are stored; Q8_0's are signed already.
const fn offset(qtype: QType) -> u32 {
    match qtype {
        QType::Q4_0 => 8,
        QType::Q5_0 => 16,
        QType::Q6K => 32,
        _ => 0,
    }
}

/// Each byte of a word less the type's offset, without borrows: q + 128 − offset is below 256, and its highest bit is the
/// sign's opposite.
#[device]
fn signed(qtype: QType, word: V<u32>) -> V<u32> {
    match offset(qtype) {
        0 => word,
        offset => (word + (0x80 - offset) * 0x0101_0101) ^ 0x8080_8080,
    }
}

/// The 32 quants of the lane's sub-block as bytes in ascending order, in two halves. They are signed, less the offset of
/// the type's formula, or below 128.
#[device]
pub(in crate::kernels) fn quant_bytes(qtype: QType, w: SubBlock) -> [[V<u32>; 4]; 2] {
    let stored = |g: usize| match qtype {
        QType::Q8_0 => [w.quants[0][g], w.quants[1][g]],
        QType::Q6K => six_bits(w.quants[0], w.high, g),
        QType::Q5K | QType::Q5_0 | QType::Q5_1 => five_bits(w.quants[0], w.high[0], g),
        _ => [w.quants[0][g] & 0x0f0f_0f0f, w.quants[0][g] >> 4 & 0x0f0f_0f0f],
    };
    let groups = [0, 1, 2, 3].map(|g| stored(g).map(|word| signed(qtype, word)));
    [groups.map(|pair| pair[0]), groups.map(|pair| pair[1])]
}

/// Quants `4 k …` and `16 + 4 k …` of a sub-block as bytes, from its word `k` (Q8_0: those of both halves) and its high bits,
/// where `k` may differ between lanes. They are signed, less the offset of the type's formula, or below 128.
#[device]
pub(in crate::kernels) fn word_bytes(
    qtype: QType,
    quants: [V<u32>; 2],
    high: [V<u32>; 2],
    k: V<u32>,
) -> [V<u32>; 2] {
    let nibbles = [quants[0] & 0x0f0f_0f0f, quants[0] >> 4 & 0x0f0f_0f0f];
    let stored = match qtype {
        QType::Q8_0 => quants,
        QType::Q6K => {
            let bits = high.map(|word| word >> (k * 2) << 4 & 0x3030_3030);
            [nibbles[0] | bits[0], nibbles[1] | bits[1]]
        }
        QType::Q5K | QType::Q5_0 | QType::Q5_1 => {
            let bits = high[0] >> k;
            [nibbles[0] | high[0] << (4 - k) & 0x1010_1010, nibbles[1] | bits & 0x1010_1010]
        }
        _ => nibbles,
    };
    stored.map(|word| signed(qtype, word))
}

/// What the lane's row contributes to a product besides its quants, as bits:
/// Q4_K, Q5_K: `d·sc` and `−dmin·m` in f32, exact, because 11 bits times 6 are; Q4_1, Q5_1: d and m; Q8_0, Q4_0, Q5_0: d;
/// Q6_K: d, and both scales as integers.
#[device]
pub(in crate::kernels) fn row_terms(qtype: QType, w: SubBlock) -> Vec<V<u32>> {
    match qtype {
        QType::Q4K | QType::Q5K => {
            let [scale, min] = scale_and_min(w.scales);
            let [d, dmin] = unpack_f16(w.scales[0]);
            let (scale, min) = (scale.as_i32().to_f32(), min.as_i32().to_f32());
            vec![(d.to_f32() * scale).bits(), (-(dmin.to_f32() * min)).bits()]
        }
        QType::Q6K => {
            let scales = (w.scales[0] >> (lane_id() % 2 * 16)).as_i32();
            vec![w.d.to_f32().bits(), bfe(scales, 0, 8).as_u32(), bfe(scales, 8, 8).as_u32()]
        }
        QType::Q4_1 | QType::Q5_1 => unpack_f16(w.scales[0]).map(|half| half.to_f32().bits()).to_vec(),
        _ => vec![w.d.to_f32().bits()],
    }
}
