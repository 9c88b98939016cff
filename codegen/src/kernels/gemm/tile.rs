//! The shape of a CTA that multiplies by `mma`, and which shape a product gets.
//!
//! Eight warps make a *team*: warp `j` multiplies sub-block `j` of each super-block, since each of the eight has a sum of
//! its own. A CTA has one team or several, side by side over outputs or over parts of K.

use crate::layout::{Matrix, SUB_BLOCKS, TILE_ROWS};

/// Warps of a team: one for each sub-block index.
pub(super) const TEAM: u32 = SUB_BLOCKS;
/// Words of shared memory that a CTA may have: 48 KiB.
pub(super) const SHARED_WORDS: u32 = 12_288;
/// Rows of 8 sub-blocks that the threads of a team stage at once.
const STAGED_ROWS: u32 = 32 * TEAM / SUB_BLOCKS;

/// What one CTA computes, and how it goes about it. All are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Fragments of 16 outputs of a warp.
    pub m: u32,
    /// Fragments of 8 rows of activations of a warp.
    pub n: u32,
    /// Teams side by side over outputs.
    pub across: u32,
    /// Teams side by side over parts of K; at most the number of parts.
    pub parts: u32,
    /// Super-blocks of a part that are staged together; two or more where `m` is 1.
    pub slots: u32,
    /// Stages on their way from memory.
    pub depth: u32,
    /// CTAs that a multiprocessor holds: what is left of 65,536 registers for a thread.
    pub resident: u32,
}

impl Tile {
    /// Outputs of the CTA.
    pub(super) const fn outputs(&self) -> u32 {
        16 * self.m * self.across
    }

    /// Rows of activations.
    pub(super) const fn rows(&self) -> u32 {
        8 * self.n
    }

    /// Packed tiles of 4 outputs.
    pub(super) const fn tiles(&self) -> u32 {
        self.outputs() / TILE_ROWS
    }

    /// Warps that share a part of K.
    pub(super) const fn warps_of_part(&self) -> u32 {
        TEAM * self.across
    }

    /// Warps of the CTA.
    pub(super) const fn warps(&self) -> u32 {
        self.warps_of_part() * self.parts
    }

    /// Threads of the CTA.
    pub(super) const fn threads(&self) -> u32 {
        32 * self.warps()
    }

    /// Rows of sub-blocks that the threads of a part stage at once.
    pub(super) const fn staged_at_once(&self) -> u32 {
        STAGED_ROWS * self.across
    }

    /// Sub-blocks of weights that a thread stages.
    pub(super) const fn weights_of_thread(&self) -> u32 {
        self.slots * self.outputs() / self.staged_at_once()
    }

    /// Sub-blocks of activations that a thread stages, or has no place for.
    pub(super) const fn acts_of_thread(&self) -> u32 {
        (self.slots * self.rows()).div_ceil(self.staged_at_once())
    }

    /// Fragments of sums of a warp.
    pub(super) const fn fragments(&self) -> u32 {
        self.m * self.n
    }

    /// Outputs that a thread ends up with.
    pub(super) const fn sums_of_thread(&self) -> u32 {
        self.fragments().div_ceil(2)
    }

    /// CTAs in the direction of outputs.
    pub(super) const fn ctas(&self, m: &Matrix) -> u32 {
        m.n_tiles().div_ceil(self.tiles())
    }
}

/// Multiprocessors that a product should keep busy.
const SMS: u32 = 132;

/// Fragments of rows of a warp.
const fn fragments_of(rows: u32) -> u32 {
    let n = rows.div_ceil(8).next_power_of_two();
    if n < 8 { n } else { 8 }
}

/// Whether tensor cores are the better way at all, and a tile fits into each matrix: not for few rows, plain types and
/// matrices smaller than a tile.
fn fits(t: Tile, matrices: &[Matrix], k_split: u32, rows: u32) -> bool {
    let one = |m: &Matrix| !m.qtype.is_plain() && m.n_tiles() >= t.tiles() && m.n_super_blocks() >= k_split;
    rows > 4 && matrices.iter().all(one)
}

/// The tile for matrices that share a launch, or `None` where the lanes' walk is the better way.
pub(super) fn choose(matrices: &[Matrix], k_split: u32, rows: u32) -> Option<Tile> {
    let n = fragments_of(rows);
    let ctas = |t: Tile| matrices.iter().map(|m| t.ctas(m)).sum::<u32>() * rows.div_ceil(t.rows());
    let small = Tile { m: 2, n, across: 1, parts: 1, slots: 1, depth: 1, resident: 2 };
    let mut tile = match n {
        8 => Tile { across: 2, resident: 1, ..small },
        4 => small,
        _ => Tile { depth: 2, ..small },
    };
    if !fits(tile, matrices, k_split, rows) {
        tile = small;
    }
    if n <= 2 && ctas(tile) < SMS {
        tile = Tile { m: 1, slots: 2, ..tile };
    }
    if n <= 4 && k_split > 1 && ctas(tile) * tile.warps() < SMS * 16 {
        tile = Tile { parts: 2, resident: 1, ..tile };
    }
    fits(tile, matrices, k_split, rows).then_some(tile)
}

/// The same for gate and up, which share a tile where they are of one type.
pub(super) fn choose_pair(matrices: &[Matrix; 2], rows: u32) -> Option<Tile> {
    let n = fragments_of(rows);
    let [gate, up] = matrices;
    let apart = Tile { m: 2, n: n.min(4), across: 1, parts: 1, slots: 1, depth: 1, resident: 2 };
    let tile = match n {
        _ if gate.qtype != up.qtype => apart,
        8 | 4 => Tile { n, across: 2, resident: 1, ..apart },
        _ => Tile { m: 4, depth: if n == 1 { 2 } else { 1 }, ..apart },
    };
    fits(apart, matrices, 1, rows).then_some(tile)
}
