//! Attention of one new position over its cache, in two launches: partial results over stretches of positions
//! (flash decoding), then their merge, which also quantizes for the output matrix.
//!
//! The number of stretches is baked; their length is a function of the position, so one launch serves every length and
//! a row's result depends on its own length only.

mod merge;
mod scene;
mod split;

pub use merge::{AttendMerge, attend_merge};
pub use split::{AttendSplit, attend_split};

use super::Rows;
use crate::dsl::prelude::*;

/// Warps of a CTA.
pub(super) const WARPS: u32 = 4;
/// A stretch is a multiple of this many positions.
pub(super) const STRETCH_UNIT: u32 = 64;
/// Elements of a head that a lane holds: one 16-byte load of f16.
pub(super) const PER_LANE: u32 = 8;
/// Less than any score, and finite: `exp(LEAST − m)` is 0 and `LEAST − LEAST` is no NaN.
pub(super) const LEAST: f32 = -1.0e30;

/// Heads and stretches of a model on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Attend {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Elements of a head: 64, 128 or 256.
    pub head_dim: u32,
    /// Stretches that a cache is cut into at most.
    pub n_splits: u32,
    /// Rows of the step.
    pub rows: Rows,
}

impl Attend {
    /// Enough stretches that key heads times stretches is about the number of multiprocessors.
    pub fn splits_for(n_kv_heads: u32, n_sms: u32) -> u32 {
        (n_sms / n_kv_heads).max(1).next_power_of_two().min(64)
    }

    /// Query heads that share a key head.
    pub const fn group(&self) -> u32 {
        self.n_heads / self.n_kv_heads
    }

    /// Lanes that hold one position's head between them.
    pub(super) const fn lanes(&self) -> u32 {
        self.head_dim / PER_LANE
    }

    /// Positions that a CTA takes at once.
    pub(super) const fn step(&self) -> u32 {
        WARPS * self.teams_per_warp()
    }

    pub(super) const fn teams_per_warp(&self) -> u32 {
        32 / self.lanes()
    }

    /// Positions of a stretch when `len` are in the cache.
    pub const fn stretch(&self, len: u32) -> u32 {
        len.div_ceil(self.n_splits).div_ceil(STRETCH_UNIT) * STRETCH_UNIT
    }

    /// Partial outputs of a row.
    pub(super) const fn partials(&self) -> u32 {
        self.n_splits * self.n_heads * self.head_dim
    }

    /// Values of the (maximum, sum) pairs of a row.
    pub(super) const fn stats(&self) -> u32 {
        self.n_splits * self.n_heads * 2
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

/// [`Attend::stretch`] on the device.
#[device]
pub(super) fn stretch_of(s: &Attend, len: V<u32>) -> V<u32> {
    let least = (len + (s.n_splits - 1)) / s.n_splits;
    (least + (STRETCH_UNIT - 1)) / STRETCH_UNIT * STRETCH_UNIT
}
