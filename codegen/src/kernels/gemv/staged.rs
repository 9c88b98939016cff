//! A vector of activations normed, quantized and kept in shared memory: what every warp of a CTA multiplies its rows by.
//!
//! Quants of a super-block lie as `[half][sub-block][16 bytes]`, so that the 8 lanes of a row, which read 16 bytes each, read
//! 128 neighbouring ones.

use super::lanes::ActLane;
use super::stream::LaneActs;
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::kernels::norm::{self, Norm};
use crate::kernels::quantize;
use crate::layout::SUPER_BLOCK;

/// Warps of a CTA that norms its vector.
pub(in crate::kernels) const WARPS: u32 = norm::MATRIX_WARPS;

/// Words of quants of a super-block.
const QUANT_WORDS: u32 = 64;
/// Words of meta of a super-block: scale and sums of 8 sub-blocks.
const META_WORDS: u32 = 16;

/// The vector, for the CTA or from a lane's sub-block on.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Staged {
    quants: Shared<u32>,
    meta: Shared<u32>,
    weight: Shared<f32>,
}

impl Carry for Staged {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        self.quants.carry(f);
        self.meta.carry(f);
    }
}

impl LaneActs for Staged {
    fn load(self, cells: u32) -> ActLane {
        let low = self.quants.at(cells * QUANT_WORDS).load_x4();
        let high = self.quants.at(cells * QUANT_WORDS + QUANT_WORDS / 2).load_x4();
        let meta = self.meta.at(cells * META_WORDS).load_x2();
        ActLane { low, high, scale: V::<f32>::from_bits(meta[0]), sums: meta[1] }
    }

    fn advance(self, cells: u32) -> Staged {
        Staged {
            quants: self.quants.offset(cells * QUANT_WORDS),
            meta: self.meta.offset(cells * META_WORDS),
            ..self
        }
    }
}

impl Staged {
    /// Bytes of shared memory that a vector takes, with the norm's weights.
    pub(in crate::kernels) const fn bytes(dim: u32) -> u32 {
        dim.div_ceil(SUPER_BLOCK) * (QUANT_WORDS + META_WORDS) * 4 + dim * 4
    }

    /// The vector from the sub-block `sub` of the super-block `part` on.
    pub(in crate::kernels) fn of_lane(self, part: V<u32>, sub: V<u32>) -> Staged {
        Staged {
            quants: self.quants.offset(part * QUANT_WORDS + sub * 4),
            meta: self.meta.offset(part * META_WORDS + sub * 2),
            ..self
        }
    }
}

/// Makes room for a vector.
#[device]
pub(in crate::kernels) fn room(s: &Norm) -> Staged {
    let cells = s.dim.div_ceil(SUPER_BLOCK);
    let quants = shared::<u32>(cells * QUANT_WORDS);
    let meta = shared::<u32>(cells * META_WORDS);
    let weight = shared::<f32>(s.dim);
    Staged { quants, meta, weight }
}

/// Brings the norm's weights into shared memory; before the wait for earlier launches.
#[device]
pub(in crate::kernels) fn fetch_weight(s: &Norm, weight: Fixed<f32>, to: Staged) {
    norm::for_quads(s, WARPS, |_turn, place| {
        to.weight.at(place * 4).store_x4(weight.at(place * 4).load_x4());
    });
}

/// Norms and quantizes `x`, with the bits of `norm_quantize`; the CTA's threads meet at the end.
#[device]
pub(in crate::kernels) fn norm_into(s: &Norm, x: In<f32>, to: Staged) {
    let (values, scale) = norm::scale_of(s, x, WARPS);
    norm::for_quads(s, WARPS, |turn, place| {
        let w = to.weight.at(place * 4).load_x4();
        let quad = quantize::quad(norm::normed(values[turn], scale, w));
        let (block, word) = (place / 8, place % 8);
        let cell = to.quants.offset(block / 8 * QUANT_WORDS + block % 8 * 4);
        cell.at(word / 4 * (QUANT_WORDS / 2) + word % 4).store(quad.word);
        if word == 0 {
            to.meta.at(block * 2).store_x2([quad.scale.bits(), quad.sums]);
        }
    });
    sync_threads();
}
