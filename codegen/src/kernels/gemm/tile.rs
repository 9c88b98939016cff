//! The shape of a CTA that multiplies by `mma`, and which shape a product gets.
//!
//! Eight warps make a *team*: warp `j` multiplies sub-block `j` of each super-block, since each of the eight has a sum of
//! its own. A CTA has one team or several, side by side over outputs or over parts of K.

use super::multiply::shared_words;
use super::stage::stage_words;
use crate::layout::{Matrix, SUB_BLOCK, SUB_BLOCKS, TILE_ROWS};
use ::plan::QType;
use serde::{Deserialize, Serialize};

/// Warps of a team: one for each sub-block index.
pub(super) const TEAM: u32 = SUB_BLOCKS;
/// Words of shared memory that every target gives each of two CTAs: 48 KiB. What is not measured stays within them.
pub(super) const COMMON_WORDS: u32 = 12_288;
/// Words of a multiprocessor's shared memory (compute capability 9.0), and those of them that a CTA takes for itself.
const SM_WORDS: u32 = 228 * 256;
const CTA_WORDS: u32 = 256;
/// The least that every target gives a CTA which has its multiprocessor to itself: 99 KiB; of those, words for sums.
const ALONE_WORDS: u32 = 99 * 256;
const SUMS_WORDS_ALONE: u32 = 16_384;
/// Words of a fragment of sums: 4 a lane.
pub(super) const FRAGMENT_WORDS: u32 = 128;
/// Words from a row of values of gate and up to the next: 4 more than there are outputs, so that the rows of a fragment lie in
/// different banks.
pub(super) const VALUES_ROW: u32 = SUB_BLOCK + 4;
/// Rows of 8 sub-blocks that the threads of a team stage at once.
const STAGED_ROWS: u32 = 32 * TEAM / SUB_BLOCKS;

/// When a stage is put into shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// Before it is multiplied: its weights are on their way for as long as can be, which counts where there are few rows.
    Before,
    /// While the one before is multiplied, which hides the work where there is much to multiply; for two buffers.
    During,
}

impl std::fmt::Display for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fill::Before => "before",
            Fill::During => "during",
        })
    }
}

/// What one CTA computes, and how it goes about it. All numbers but `resident` are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
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
    /// Stages whose weights are on their way from memory.
    pub depth: u32,
    /// Stages in shared memory, 1 or 2: with two, a warp may fill one while others read the other.
    pub buffers: u32,
    /// When a stage is filled.
    pub fill: Fill,
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

    /// Stages whose activations are on their way. They come from L2, and at most two fill the time.
    pub(super) const fn acts_depth(&self) -> u32 {
        if self.depth < 4 { 1 } else { 2 }
    }

    /// Words of shared memory that the CTA may have on a multiprocessor which holds `resident` of them.
    pub(super) const fn room(&self) -> u32 {
        SM_WORDS / self.resident - CTA_WORDS
    }

    /// Words of shared memory that sums may take whatever stages do.
    pub(super) const fn room_of_sums(&self) -> u32 {
        if self.fragments() > 8 && self.resident == 1 { SUMS_WORDS_ALONE } else { COMMON_WORDS }
    }

    /// Whether the parts fit each other: each a power of two, one to four fragments of outputs and up to eight of rows, at most
    /// 1,024 threads, each of which stages the same number of sub-blocks of weights.
    const fn is_whole(&self) -> bool {
        const fn is(n: u32, most: u32) -> bool {
            n.is_power_of_two() && n <= most
        }
        is(self.m, 4)
            && is(self.n, 8)
            && is(self.across, 2)
            && is(self.parts, 4)
            && is(self.slots, 4)
            && is(self.depth, 8)
            && is(self.buffers, 2)
            && (self.buffers == 2 || !self.fills_during())
            && self.resident >= 1
            && self.resident <= 4
            && self.threads() <= 1024
            && self.slots * self.outputs() >= self.staged_at_once()
    }

    /// Whether a stage is filled while another is multiplied.
    pub(super) const fn fills_during(&self) -> bool {
        matches!(self.fill, Fill::During)
    }

    /// Turns in which a team multiplies its parts of K.
    pub(super) const fn rounds(&self, k_split: u32) -> u32 {
        k_split / self.parts
    }

    /// Fragments of sums of a warp.
    pub(super) const fn fragments(&self) -> u32 {
        self.m * self.n
    }

    /// Fragments of a warp whose sums are in shared memory at once, each to be added up by a warp of its own.
    pub(super) const fn sums_at_once(&self) -> u32 {
        let mut n = if self.fragments() < TEAM { self.fragments() } else { TEAM };
        while n > 1 && self.warps() * n * FRAGMENT_WORDS > self.room_of_sums() {
            n /= 2;
        }
        n
    }

    /// Outputs that a thread ends up with.
    pub(super) const fn sums_of_thread(&self) -> u32 {
        (self.fragments() * FRAGMENT_WORDS).div_ceil(32 * TEAM)
    }

    /// CTAs in the direction of outputs.
    pub(super) const fn ctas(&self, m: &Matrix) -> u32 {
        m.n_tiles().div_ceil(self.tiles())
    }
}

/// What a tile is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The matrices of a launch, which have the same columns.
    pub matrices: &'a [Matrix],
    /// Parts of K of the one-row kernel.
    pub k_split: u32,
    /// Rows of activations.
    pub rows: u32,
    /// Multiprocessors of the device.
    pub n_sms: u32,
}

/// Multiprocessors of the devices that tiles are for unless somebody says otherwise: those that were measured.
const SMS: u32 = 132;

/// What starting and ending a CTA costs, in outputs of a multiprocessor: loads go out, arrive and are summed up while
/// nothing else of that CTA happens.
const TURN: u32 = 16;

impl<'a> Wanted<'a> {
    /// For a device of 132 multiprocessors.
    pub fn new(matrices: &'a [Matrix], k_split: u32, rows: u32) -> Wanted<'a> {
        Wanted { matrices, k_split, rows, n_sms: SMS }
    }

    fn ctas(&self, t: Tile) -> u32 {
        self.matrices.iter().map(|m| t.ctas(m)).sum::<u32>() * self.rows.div_ceil(t.rows())
    }

    /// Whether each matrix has the tile's outputs, its parts are a divisor of those of K, of which each has a super-block, and
    /// a stage finds room.
    pub fn fits(&self, t: Tile) -> bool {
        let one = |m: &Matrix| {
            let is_wide = m.n_tiles() >= t.tiles() && m.n_super_blocks() >= self.k_split;
            is_wide && !m.qtype.is_plain() && self.words(m, t) <= t.room()
        };
        t.is_whole() && self.k_split.is_multiple_of(t.parts) && self.matrices.iter().all(one)
    }

    /// Words of shared memory for a product of one of the matrices.
    fn words(&self, m: &Matrix, t: Tile) -> u32 {
        shared_words(m.qtype, t, t.rounds(self.k_split))
    }

    /// The tile with two stages in shared memory where every target holds them beside `kept` words, else with one.
    fn buffered(&self, t: Tile, kept: u32) -> Tile {
        // Few rows are all about weights on their way.
        let double = Tile { buffers: 2, fill: if t.n < 8 { Fill::Before } else { Fill::During }, ..t };
        let room = if t.resident == 1 && double.fills_during() { ALONE_WORDS } else { COMMON_WORDS };
        let fits = |m: &Matrix| self.words(m, double).max(self.words(m, t)) + kept <= room;
        if self.matrices.iter().all(fits) { double } else { t }
    }

    /// The same for gate and up: beside each other, or with their values kept one after the other.
    pub fn fits_pair(&self, t: Tile) -> bool {
        let kept = VALUES_ROW * t.rows();
        let mut types = self.matrices.iter().map(|m| m.qtype);
        let first = types.next();
        self.fits(t)
            && t.parts == 1
            && match t.outputs() {
                SUB_BLOCK => self.matrices.iter().all(|m| self.words(m, t).max(kept) + kept <= t.room()),
                outputs => outputs == 2 * SUB_BLOCK && types.all(|qtype| Some(qtype) == first),
            }
    }

    /// Whether a tile of which nothing is measured serves: one that fits every target.
    fn suits(&self, t: Tile) -> bool {
        self.fits(t) && self.matrices.iter().all(|m| stage_words(m.qtype, t) <= COMMON_WORDS)
    }

    /// Outputs of the busiest multiprocessor: of whole turns of all that it holds, of those that are left, and a share for
    /// each turn.
    fn cost(&self, t: Tile) -> u32 {
        let ctas = self.ctas(t);
        let in_turn = self.n_sms * t.resident;
        let left = (ctas % in_turn).div_ceil(self.n_sms);
        (ctas / in_turn * t.resident + left) * t.outputs() * t.rows() / 8 + ctas.div_ceil(in_turn) * TURN
    }

    /// The cheapest of those that fit, of equals the first.
    fn cheapest(&self, tiles: &[Tile]) -> Option<Tile> {
        tiles.iter().copied().filter(|t| self.suits(*t)).min_by_key(|t| self.cost(*t))
    }

    /// Whether tensor cores are the better way at all: not for few rows.
    fn is_worth_it(&self) -> bool {
        self.rows > 2
    }

    /// Fragments of rows of a warp.
    pub(super) fn fragments(&self) -> u32 {
        self.rows.div_ceil(8).next_power_of_two().min(8)
    }
}

fn is_six_bits(matrices: &[Matrix]) -> bool {
    matrices.iter().any(|m| matches!(m.qtype, QType::Q6K))
}

/// One team with 32 outputs: the registers that `n` fragments of rows leave decide how much is on its way. The sub-blocks of
/// Q6_K take more of them while they are multiplied.
fn team(n: u32, matrices: &[Matrix]) -> Tile {
    let depth = match n {
        1 => 4,
        2 if is_six_bits(matrices) => 2,
        2 => 4,
        4 if is_six_bits(matrices) => 1,
        4 => 2,
        _ => 1,
    };
    Tile { m: 2, n, across: 1, parts: 1, slots: 1, depth, buffers: 1, fill: Fill::Before, resident: 2 }
}

impl Wanted<'_> {
    /// The tile for matrices that share a launch, or `None` where the lanes' walk is the better way.
    ///
    /// Sums take `4 m n` registers of a thread, so `m n` is at most 16. With many rows `n` is 8: a weight is then unpacked once
    /// for 64 rows, and two teams side by side share the rows in shared memory; Q6_K needs more registers than a thread of two
    /// teams has. With few rows all is about reading weights:
    /// tiles of 16 outputs, two super-blocks at a time, deal matrices out more evenly, and teams on parts of K fill a device
    /// that has more room than the matrix has tiles.
    pub fn tile(&self) -> Option<Tile> {
        let n = self.fragments();
        let wide = team(n, self.matrices);
        let narrow = Tile { m: 1, slots: 2, ..wide };
        let light = Tile { depth: 2, resident: 3, ..narrow };
        let tile = match n {
            _ if !self.is_worth_it() => None,
            8 => {
                let across = if is_six_bits(self.matrices) { 1 } else { 2 };
                [Tile { across, resident: 1, ..wide }, wide].into_iter().find(|t| self.suits(*t))
            }
            4 | 2 => self.cheapest(&[wide, narrow]),
            _ => self.cheapest(&[narrow, light, wide]),
        }?;
        // Warps that a multiprocessor has room for.
        let room = self.n_sms * 16;
        let halves = Tile { parts: 2, resident: 1, ..tile };
        let has_room = n <= 4 && self.k_split > 1 && self.ctas(tile) * tile.warps() <= room / 2;
        let tile = if has_room && self.suits(halves) { halves } else { tile };
        Some(self.buffered(tile, 0))
    }

    /// The same for gate and up, which share a tile where they are of one type.
    pub fn tile_of_pair(&self) -> Option<Tile> {
        let n = self.fragments();
        let apart = team(n.min(4), self.matrices);
        let types = self.matrices.iter().map(|m| m.qtype);
        let is_one_type = types.clone().zip(types.skip(1)).all(|(a, b)| a == b);
        let both = match n {
            _ if !is_one_type => apart,
            8 | 4 => Tile { n, across: 2, depth: 8 / n, resident: 1, ..apart },
            _ => Tile { m: 4, depth: 2 / n, ..apart },
        };
        let light = Tile { depth: 1, resident: 3, ..both };
        let tile = match n {
            _ if !self.is_worth_it() || !self.suits(apart) => None,
            1 if is_one_type => self.cheapest(&[both, light]),
            _ => Some(both),
        }?;
        let kept = if tile.outputs() == SUB_BLOCK { VALUES_ROW * tile.rows() } else { 0 };
        Some(self.buffered(tile, kept))
    }
}
