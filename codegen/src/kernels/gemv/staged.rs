//! A vector of activations kept in shared memory, copied or normed and quantized there: what every warp of a CTA multiplies its
//! rows by.
//!
//! Quants of a super-block lie as `[half][sub-block][16 bytes]`, so that the 8 lanes of a row, which read 16 bytes each, read
//! 128 neighbouring ones. Read from global memory, where the halves of a sub-block are neighbours, the vector takes twice the
//! cycles of the L1 cache, more than the weights do (bench/NOTES.md).

use super::lanes::{Act, ActLane};
use super::stream::{Behind, LaneActs};
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::kernels::norm::{self, Norm};
use crate::kernels::quantize;
use crate::layout::SUPER_BLOCK;

/// Warps of a CTA that stages its vector, where its rows allow it: many, because each CTA of the grid does so for itself.
pub(crate) const STAGED_WARPS: u32 = 16;

/// So many quads of the norm's weights stay in a thread's registers.
const TURNS_HELD: u32 = 2;

/// Words of quants of a super-block.
const QUANT_WORDS: u32 = 64;
/// Words of meta of a super-block: scale and sums of 8 sub-blocks.
const META_WORDS: u32 = 16;

/// The vector, for the CTA or from a lane's sub-block on.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Staged {
    quants: Shared<u32>,
    meta: Shared<u32>,
}

/// Where a CTA norms its vector.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Room {
    /// The norm's weights, where they take too many registers: each thread has its own there.
    weight: Option<Shared<f32>>,
    /// The result.
    pub(in crate::kernels) staged: Staged,
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
        Staged { quants: self.quants.offset(cells * QUANT_WORDS), meta: self.meta.offset(cells * META_WORDS) }
    }
}

impl Staged {
    /// Bytes of shared memory that a vector takes.
    pub(in crate::kernels) const fn bytes(dim: u32) -> u32 {
        dim.div_ceil(SUPER_BLOCK) * (QUANT_WORDS + META_WORDS) * 4
    }

    /// Makes room for a vector.
    #[device]
    pub(in crate::kernels) fn room(dim: u32) -> Staged {
        let cells = dim.div_ceil(SUPER_BLOCK);
        let quants = shared::<u32>(cells * QUANT_WORDS);
        Staged { quants, meta: shared::<u32>(cells * META_WORDS) }
    }

    /// The vector from the sub-block `sub` of the super-block `part` on.
    pub(in crate::kernels) fn of_lane(self, part: V<u32>, sub: V<u32>) -> Staged {
        Staged {
            quants: self.quants.offset(part * QUANT_WORDS + sub * 4),
            meta: self.meta.offset(part * META_WORDS + sub * 2),
        }
    }
}

/// Copies `act`, of `dim` elements, with `threads` threads, which meet at the end. `behind` is brought near while the vector is on its
/// way.
#[device]
pub(super) fn copy_into(dim: u32, threads: u32, (act, behind): (Act, &Behind), to: Staged) {
    let (halves, blocks) = (dim / 16, dim / 32);
    // All loads before the first store, so that one latency is all.
    let (mut quants, mut metas) = (Vec::new(), Vec::new());
    for turn in unroll(0..halves.div_ceil(threads)) {
        let place = min(thread_idx_x() + turn * threads, halves - 1);
        quants.push(act.quants.at(place * 4).load_x4());
    }
    for turn in unroll(0..blocks.div_ceil(threads)) {
        let place = min(thread_idx_x() + turn * threads, blocks - 1);
        metas.push(act.meta.at(place * 2).load_x2());
    }
    behind.bring();
    for (words, turn) in each(quants.iter().zip(0..)) {
        let place = thread_idx_x() + turn * threads;
        if place < halves {
            let (block, half) = (place / 2, place % 2);
            let cell = to.quants.offset(block / 8 * QUANT_WORDS + block % 8 * 4);
            cell.at(half * (QUANT_WORDS / 2)).store_x4(*words);
        }
    }
    for (words, turn) in each(metas.iter().zip(0..)) {
        let place = thread_idx_x() + turn * threads;
        if place < blocks {
            to.meta.at(place * 2).store_x2(*words);
        }
    }
    sync_threads();
}

/// Makes room for a vector to be normed by `n_warps` warps.
#[device]
pub(in crate::kernels) fn room(s: &Norm, n_warps: u32) -> Room {
    let staged = Staged::room(s.dim);
    Room { weight: (s.turns(n_warps) > TURNS_HELD).then(|| shared::<f32>(s.dim)), staged }
}

/// Sends for the norm's weights; before the wait for earlier launches.
#[device]
pub(in crate::kernels) fn fetch_weight(s: &Norm, n_warps: u32, weight: Fixed<f32>) -> Vec<[V<f32>; 4]> {
    norm::quads_of(s, weight, n_warps)
}

/// Norms and quantizes `x`, with the bits of `norm_quantize`; the CTA's threads meet at the end. `behind` is brought near while the
/// vector is on its way.
#[device]
pub(in crate::kernels) fn norm_into(
    s: &Norm,
    n_warps: u32,
    (x, behind): (In<f32>, &Behind),
    weights: &[[V<f32>; 4]],
    room: Room,
) {
    let to = room.staged;
    let values = norm::quads_of(s, x, n_warps);
    behind.bring();
    if let Some(kept) = room.weight {
        norm::for_quads(s, n_warps, |turn, place| {
            kept.at(place * 4).store_x4(weights[turn]);
        });
    }
    let scale = norm::scale_of(s, &values, n_warps);
    norm::for_quads(s, n_warps, |turn, place| {
        let w = match room.weight {
            Some(kept) => kept.at(place * 4).load_x4(),
            None => weights[turn],
        };
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
