//! Attention of one new position over its cache: partial results over stretches of positions (flash decoding), then their
//! merge, which also quantizes for the output matrix.
//!
//! [`AttendStep`] does all of it in one launch, with biases, rotation and the append of the new key and value before it.
//! [`AttendSplit`] and [`AttendMerge`] are the same in two launches behind [`super::rope::RopeAppend`], for shapes that the
//! former does not take; they share their parts, and so their bits.
//!
//! The number of stretches is baked; their length is a function of the position, so one launch serves every length and
//! a row's result depends on its own length only.
//!
//! Chunks of a prompt, many rows of one sequence, go through [`AttendPrefill`] instead.

mod board;
mod decay;
mod handover;
mod join;
mod merge;
mod newest;
mod prefill;
mod quantize_rows;
mod scene;
mod split;
mod step;
mod step_exact;
mod step_trial;
mod tensor;
mod walk;

pub use merge::{AttendMerge, attend_merge};
pub use prefill::{AttendPrefill, attend_prefill, attend_prefill_in_place};
pub use quantize_rows::{QuantizeRows, quantize_rows};
pub use split::{AttendSplit, attend_split};
pub use step::{AttendStep, attend_step, attend_step_bias, attend_step_norm};

use super::Rows;
use super::kv_rows::{KvRows, PIECE};
use crate::dsl::prelude::*;
use ::plan::KvType;

/// Elements of a head that a lane holds.
pub(super) const PER_LANE: u32 = PIECE;
/// Elements of a block of quantized outputs.
pub(super) const BLOCK: u32 = 32;
/// Less than any score, and finite: what is weighed relative to a score is 0, and `LEAST − LEAST` is no NaN.
pub(super) const LEAST: f32 = -1.0e30;
/// So many rounds of one CTA take less time than to bring the results of several together.
const ROUNDS_ALONE: u32 = 2;
/// Stretches of a row at most.
const MOST_SPLITS: u32 = 66;

/// Heads and stretches of a model on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Attend {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Elements of a head: a multiple of 16 up to 256.
    pub head_dim: u32,
    /// Stretches that a cache is cut into at most.
    pub n_splits: u32,
    /// A row sees this many positions, its own included; all, if `None`.
    pub window: Option<u32>,
    /// Element type of the caches.
    pub kv: KvType,
    /// Rows of the step.
    pub rows: Rows,
}

impl Attend {
    /// The same with enough stretches that every multiprocessor has as many CTAs as it holds, which keeps it busy, and few enough to be
    /// merged quickly.
    pub fn with_splits_for(self, n_sms: u32) -> Attend {
        let n_splits = (self.min_ctas() * n_sms / self.n_kv_heads).clamp(1, MOST_SPLITS);
        Attend { n_splits, ..self }
    }

    /// CTAs of one row that a multiprocessor holds: two, with 128 registers a thread, while a group's outputs take no more than
    /// 32 of them; on tensor cores one, which has more loads under way in its registers than two would in half of them.
    pub(super) const fn min_ctas(&self) -> u32 {
        if !self.on_tensor_cores() && self.group() * PER_LANE <= 32 { 2 } else { 1 }
    }

    /// Whether scores and outputs are products of tensor cores ([`tensor`]): where keys and values are halves and a warp's registers hold
    /// a position of all heads.
    pub(super) const fn on_tensor_cores(&self) -> bool {
        let fits = self.head_dim == 64 || self.head_dim == 128;
        matches!(self.kv, KvType::F16) && fits && self.group() <= tensor::MOST_HEADS
    }

    /// Query heads that share a key head.
    pub const fn group(&self) -> u32 {
        self.n_heads / self.n_kv_heads
    }

    /// Lanes that hold one position's head between them: a power of two, so that they add up as a tree.
    pub(super) const fn lanes(&self) -> u32 {
        self.holding_lanes().next_power_of_two()
    }

    /// Those of them that hold elements.
    pub(super) const fn holding_lanes(&self) -> u32 {
        self.head_dim / PER_LANE
    }

    /// Positions that a row with `len` positions in its cache sees: the last ones.
    pub const fn seen(&self, len: u32) -> u32 {
        match self.window {
            Some(window) if window < len => window,
            _ => len,
        }
    }

    pub(super) const fn teams(&self) -> u32 {
        32 / self.lanes()
    }

    /// Warps of a CTA: as many as have room for their outputs.
    pub(super) const fn warps(&self) -> u32 {
        if self.group() * self.head_dim <= 1024 { 8 } else { 4 }
    }

    pub(super) const fn threads(&self) -> u32 {
        32 * self.warps()
    }

    /// Positions that a team has in registers at once: a power of two.
    pub(super) const fn at_once(&self) -> u32 {
        match self.kv {
            KvType::F16 | KvType::Q8_0 => 4,
            KvType::F32 => 2,
        }
    }

    /// Positions that a warp takes at once.
    pub(super) const fn of_warp(&self) -> u32 {
        if self.on_tensor_cores() { tensor::POSITIONS } else { self.teams() * self.at_once() }
    }

    /// Positions that a CTA takes at once.
    pub(super) const fn round(&self) -> u32 {
        self.warps() * self.of_warp()
    }

    /// What the length of a stretch is a multiple of, once there are as many as can be.
    const fn grain(&self) -> u32 {
        if self.on_tensor_cores() { tensor::POSITIONS } else { self.round() }
    }

    /// Positions of a stretch when `cached` positions are seen besides the newest.
    pub const fn stretch(&self, cached: u32) -> u32 {
        if cached <= ROUNDS_ALONE * self.round() {
            return ROUNDS_ALONE * self.round();
        }
        let even = cached.div_ceil(self.n_splits * self.grain()) * self.grain();
        if even > self.round() { even } else { self.round() }
    }

    /// The stretches of a row with `len` positions in its cache. The newest position belongs to the last.
    pub(super) fn stretches(&self, len: u32) -> Vec<std::ops::Range<u32>> {
        let cached = self.seen(len) - 1;
        let stretch = self.stretch(cached);
        let n = cached.div_ceil(stretch).max(1);
        let first = len - 1 - cached;
        let end = |i| if i + 1 == n { len } else { first + (i + 1) * stretch };
        (0..n).map(|i| first + i * stretch..end(i)).collect()
    }

    /// Key heads of a CTA of the merge: as few as make whole blocks of 32 elements.
    pub(super) const fn merged_kv_heads(&self) -> u32 {
        if (self.group() * self.head_dim).is_multiple_of(32) { 1 } else { 2 }
    }

    /// Partial outputs of a row.
    pub(super) const fn partials(&self) -> u32 {
        self.n_splits * self.n_heads * self.head_dim
    }

    /// Values of the (maximum, sum) pairs of a row.
    pub(super) const fn stats(&self) -> u32 {
        self.n_splits * self.n_heads * 2
    }

    /// Rows of the caches.
    pub(super) const fn kv_rows(&self) -> KvRows {
        KvRows::new(self.kv, self.n_kv_heads * self.head_dim)
    }

    pub(super) const fn q_dim(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    /// Values of a row of Q, K and V.
    pub(super) const fn qkv_dim(&self) -> u32 {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    /// Bytes of the partial outputs.
    pub const fn partial_bytes(&self) -> u64 {
        self.partials() as u64 * self.rows.count as u64 * 4
    }

    /// Bytes of the (maximum, sum) pairs.
    pub const fn stats_bytes(&self) -> u64 {
        self.stats() as u64 * self.rows.count as u64 * 4
    }
}

/// What a row sees, and how it is cut.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Where the newest position is.
    pub(super) newest: V<u32>,
    /// The first position that is seen.
    pub(super) first: V<u32>,
    /// Positions that are seen before the newest.
    pub(super) cached: V<u32>,
    /// [`Attend::stretch`].
    pub(super) stretch: V<u32>,
}

impl Extent {
    /// For a row at position `newest`.
    #[device]
    pub(super) fn new(s: &Attend, newest: V<u32>) -> Extent {
        let (first, cached) = match s.window {
            Some(window) => {
                let cached = min(newest, window.saturating_sub(1));
                (newest - cached, cached)
            }
            None => (dev(0), newest),
        };
        let grains = s.n_splits * s.grain();
        let even = (cached + (grains - 1)) / grains * s.grain();
        let even = if s.grain() == s.round() { even } else { max(even, s.round()) };
        let alone = ROUNDS_ALONE * s.round();
        let stretch = select(cached <= alone, alone, even);
        Extent { newest, first, cached, stretch }
    }

    /// Stretches of the row.
    #[device]
    pub(super) fn active(self) -> V<u32> {
        max((self.cached + (self.stretch - 1)) / self.stretch, 1)
    }
}
