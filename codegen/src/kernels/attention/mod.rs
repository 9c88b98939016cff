//! Attention of one new position over its cache, in two launches: partial results over stretches of positions
//! (flash decoding), then their merge, which also quantizes for the output matrix.
//!
//! The number of stretches is baked; their length is a function of the position, so one launch serves every length and
//! a row's result depends on its own length only.
//!
//! Chunks of a prompt, many rows of one sequence, go through [`AttendPrefill`] instead.

mod merge;
mod prefill;
mod quantize_rows;
mod scene;
mod split;

pub use merge::{AttendMerge, attend_merge};
pub use prefill::{AttendPrefill, attend_prefill, attend_prefill_in_place};
pub use quantize_rows::{QuantizeRows, quantize_rows};
pub use split::{AttendSplit, attend_split};

use super::Rows;
use super::kv_rows::{KvRows, PIECE};
use crate::dsl::prelude::*;
use ::plan::KvType;

/// Warps of a CTA.
pub(super) const WARPS: u32 = 4;
/// A stretch is a multiple of this many positions.
pub(super) const STRETCH_UNIT: u32 = 16;
/// Elements of a head that a lane holds.
pub(super) const PER_LANE: u32 = PIECE;
/// Less than any score, and finite: `exp(LEAST − m)` is 0 and `LEAST − LEAST` is no NaN.
pub(super) const LEAST: f32 = -1.0e30;

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
    /// Enough stretches that key heads times stretches is about twice the number of multiprocessors: a CTA alone does
    /// not keep one busy.
    pub fn splits_for(n_kv_heads: u32, n_sms: u32) -> u32 {
        1 << (2 * n_sms / n_kv_heads).clamp(1, 64).ilog2()
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

    /// Positions that a CTA takes at once.
    pub(super) const fn step(&self) -> u32 {
        WARPS * self.teams_per_warp()
    }

    pub(super) const fn teams_per_warp(&self) -> u32 {
        32 / self.lanes()
    }

    /// Positions of a stretch when `len` are seen.
    pub const fn stretch(&self, len: u32) -> u32 {
        len.div_ceil(self.n_splits).div_ceil(STRETCH_UNIT) * STRETCH_UNIT
    }

    /// The stretches of a row with `len` positions in its cache.
    pub(super) fn stretches(&self, len: u32) -> Vec<std::ops::Range<u32>> {
        let seen = self.seen(len);
        let stretch = self.stretch(seen);
        let starts = (len - seen..len).step_by(stretch as usize);
        starts.map(|start| start..len.min(start + stretch)).collect()
    }

    /// Query heads of a CTA of the merge: as few as make whole blocks of 32 elements.
    pub(super) const fn merged_heads(&self) -> u32 {
        if self.head_dim.is_multiple_of(32) { 1 } else { 2 }
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

/// [`Attend::seen`] on the device.
#[device]
pub(super) fn seen_of(s: &Attend, len: V<u32>) -> V<u32> {
    match s.window {
        Some(window) => min(len, window),
        None => len,
    }
}

/// [`Attend::stretch`] on the device.
#[device]
pub(super) fn stretch_of(s: &Attend, len: V<u32>) -> V<u32> {
    let least = (len + (s.n_splits - 1)) / s.n_splits;
    (least + (STRETCH_UNIT - 1)) / STRETCH_UNIT * STRETCH_UNIT
}
