//! The shared memory of a CTA that multiplies by `mma`: super-blocks of its outputs and of its rows of activations, and
//! beside them what a row and a column multiply by.
//!
//! Weights stay packed, `[output][sub-block][4 words]`: the word `k` of a sub-block holds weights `4 k …` low and
//! `16 + 4 k …` high, which is all that lane `k` of four wants of an output. Of a row of activations it wants quants `4 k …`
//! and `16 + 4 k …` as neighbours; those of lanes 0 and 1 are in one plane, those of 2 and 3 in another,
//! `[plane][row][sub-block][4 words]`. Rows are 4 words further apart than they are long, and the planes half of the banks,
//! so that neither the threads that write nor the lanes that read meet in a bank.

use super::Batch;
use super::tile::Tile;
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::kernels::gemv::{Act, ActLane, SubBlock, load_act, load_sub_block, row_terms, weights_of_lane};
use crate::layout::{Matrix, SUB_BLOCK, SUB_BLOCKS, TILE_ROWS};
use ::plan::QType;

/// Words from one output or row to the next: 8 sub-blocks of 4, and 4 that shift the banks.
pub(super) const ROW_WORDS: u32 = 36;

/// Where the parts of a staged super-block start, in words.
#[derive(Clone, Copy)]
pub(super) struct Regions {
    /// Q8_0: the second plane of quants.
    pub quants: u32,
    /// High bits, `[output][sub-block]` of `high_width` words.
    pub high: u32,
    pub high_width: u32,
    pub high_stride: u32,
    pub acts: u32,
    /// Words from the first plane of the activations to the second.
    pub acts_plane: u32,
    /// `[sub-block][output]` of `row_width` words.
    pub row_terms: u32,
    pub row_width: u32,
    pub row_stride: u32,
    /// `[sub-block][row]` of `col_width` words.
    pub col_terms: u32,
    pub col_width: u32,
    pub col_stride: u32,
    pub words: u32,
}

impl Regions {
    pub(super) const fn new(qtype: QType, t: Tile) -> Regions {
        let row_width = match qtype {
            QType::Q6K => 4,
            QType::Q4K | QType::Q5K | QType::Q4_1 | QType::Q5_1 => 2,
            _ => 1,
        };
        let col_width = match qtype {
            QType::Q4K | QType::Q5K | QType::Q4_1 | QType::Q5_1 => 2,
            _ => 1,
        };
        let high_width = match qtype {
            QType::Q6K => 2,
            QType::Q5K | QType::Q5_0 | QType::Q5_1 => 1,
            _ => 0,
        };
        let quants = t.outputs() * ROW_WORDS;
        let high = match qtype {
            QType::Q8_0 => 2 * quants,
            _ => quants,
        };
        // 4 words more than the terms take shift the banks from one sub-block to the next.
        let high_stride = if high_width > 0 { SUB_BLOCKS * high_width + 4 } else { 0 };
        let (row_stride, col_stride) = (row_width * t.outputs() + 4, col_width * t.rows() + 4);
        let acts = high + t.outputs() * high_stride;
        // 16 banks from one plane to the other; rows are multiples of 8.
        let acts_plane = t.rows() * ROW_WORDS + 16;
        let row_terms = acts + 2 * acts_plane;
        let col_terms = row_terms + SUB_BLOCKS * row_stride;
        let words = col_terms + SUB_BLOCKS * col_stride;
        Regions {
            quants,
            high,
            high_width,
            high_stride,
            acts,
            acts_plane,
            row_terms,
            row_width,
            row_stride,
            col_terms,
            col_width,
            col_stride,
            words,
        }
    }
}

/// Words of a stage of the whole CTA.
pub(super) const fn stage_words(qtype: QType, t: Tile) -> u32 {
    Regions::new(qtype, t).words * t.slots * t.parts
}

/// One product's work for a CTA.
pub(super) struct Job<'a> {
    /// The shape of each matrix.
    pub m: &'a Matrix,
    /// Matrices whose outputs lie one behind the other in the tile, in equal shares.
    pub w: &'a [Fixed<u32>],
    pub tile: Tile,
    pub k_split: u32,
    pub x: Act,
    pub first_tile: V<u32>,
    pub memory: Shared<u32>,
}

impl Job<'_> {
    pub(super) fn regions(&self) -> Regions {
        Regions::new(self.m.qtype, self.tile)
    }

    /// Whether a stage may have places for super-blocks or sub-blocks that the matrix lacks.
    pub(super) fn is_ragged(&self) -> bool {
        self.m.tail_sub_blocks() > 0
            || !self.m.n_super_blocks().is_multiple_of(self.k_split * self.tile.slots)
    }
}

/// A thread's place among those that stage a part of K.
#[derive(Clone, Copy)]
struct Seat {
    /// Its warp.
    warp: V<u32>,
    /// Its row of sub-blocks.
    row: V<u32>,
    sub: V<u32>,
}

#[device]
fn seat(t: Tile) -> Seat {
    let warp = if t.parts == 1 { warp_id() } else { warp_id() % t.warps_of_part() };
    Seat { warp, row: warp * TILE_ROWS + lane_id() / SUB_BLOCKS, sub: lane_id() % SUB_BLOCKS }
}

/// The part of K that a warp works on.
#[device]
pub(super) fn part_of_warp(t: Tile) -> V<u32> {
    if t.parts == 1 { dev(0u32) } else { warp_id() / t.warps_of_part() }
}

/// What a thread has loaded of the weights of a stage.
#[derive(Clone)]
pub(super) struct Weights(Vec<SubBlock>);

/// What a thread has loaded of the activations of a stage.
#[derive(Clone)]
pub(super) struct Acts(Vec<ActLane>);

/// Visits the values that are not constants: a type has zeros where it lacks words.
fn carry_words<T: Scalar>(words: &mut [V<T>], f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
    for word in words.iter_mut().filter(|w| matches!(w.operand, Operand::Value(_))) {
        word.carry(f);
    }
}

impl Carry for Weights {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        for w in &mut self.0 {
            w.quants.iter_mut().for_each(|words| carry_words(words, f));
            carry_words(&mut w.high, f);
            carry_words(&mut w.scales, f);
            carry_words(std::slice::from_mut(&mut w.d), f);
        }
    }
}

impl Carry for Acts {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        for x in &mut self.0 {
            carry_words(&mut x.low, f);
            carry_words(&mut x.high, f);
            carry_words(std::slice::from_mut(&mut x.scale), f);
            carry_words(std::slice::from_mut(&mut x.sums), f);
        }
    }
}

/// The slot and the packed tile within it of a thread's `k`-th sub-block of weights.
#[device]
fn place_of_weights(t: Tile, warp: V<u32>, k: u32) -> [V<u32>; 2] {
    let (tiles, at_once) = (t.tiles(), t.warps_of_part());
    if tiles % at_once == 0 {
        [dev(k * at_once / tiles), warp + k * at_once % tiles]
    } else {
        [warp / tiles + k * (at_once / tiles), warp % tiles]
    }
}

/// The super-block in a slot, of those of a part that begin with `first`; one that the matrix lacks becomes another.
#[device]
fn in_slot(job: &Job, first: V<u32>, slot: V<u32>) -> V<u32> {
    let wanted = first + slot * job.k_split;
    let n = job.m.n_super_blocks();
    if n.is_multiple_of(job.k_split * job.tile.slots) { wanted } else { min(wanted, n - 1) }
}

/// The thread's `k`-th sub-block of weights.
#[device]
fn load_one(job: &Job, at: Seat, first: V<u32>, k: u32) -> SubBlock {
    let (m, t) = (job.m, job.tile);
    let [slot, tile] = place_of_weights(t, at.warp, k);
    let share = t.tiles() / job.w.len() as u32;
    let at_once = t.warps_of_part();
    // Which matrix: one for the whole warp, known now where the threads' rows of one turn lie in one.
    let mut w = job.w[if share % at_once == 0 { (k * at_once % t.tiles() / share) as usize } else { 0 }];
    if share % at_once != 0 && job.w.len() > 1 {
        let second = job.w[1];
        if tile >= share {
            w = second;
        }
    }
    let tile = if job.w.len() > 1 { tile % share } else { tile };
    // A warp stages whole tiles, so its lanes are those of the packed form.
    let cell = (job.first_tile + tile) * m.n_super_blocks() + in_slot(job, first, slot);
    load_sub_block(m.qtype, weights_of_lane(m, w, cell), 0)
}

/// Loads the thread's share of the weights of a stage whose first super-block of the thread's part is `first`.
#[device]
pub(super) fn load_weights(job: &Job, first: V<u32>) -> Weights {
    let at = seat(job.tile);
    Weights((0..job.tile.weights_of_thread()).map(|k| load_one(job, at, first, k)).collect())
}

/// The same of its activations.
#[device]
pub(super) fn load_acts(job: &Job, batch: Batch, first: V<u32>) -> Acts {
    let t = job.tile;
    let at = seat(t);
    // Rows that are not active repeat the last that is, as do those that the stage has no place for.
    let acts_of = |k: u32| {
        let staged = min(at.row + k * t.staged_at_once(), t.slots * t.rows() - 1);
        let row = min(batch.first + staged % t.rows(), batch.n_active - 1);
        load_row(job, row, at.sub, in_slot(job, first, staged / t.rows()))
    };
    Acts((0..t.acts_of_thread()).map(acts_of).collect())
}

/// The thread's sub-block of a row of activations.
#[device]
fn load_row(job: &Job, row: V<u32>, sub: V<u32>, super_block: V<u32>) -> ActLane {
    let (cols, tail) = (job.m.cols, job.m.tail_sub_blocks());
    // Where the last super-block is cut short, what it lacks is not multiplied: any sub-block does.
    let sub = if tail > 0 {
        select(super_block == job.m.n_super_blocks() - 1 && sub >= tail, 0u32, sub)
    } else {
        sub
    };
    let quants = job.x.quants.offset(row * (cols / 4)).offset(super_block * 64 + sub * 8);
    let meta = job.x.meta.offset(row * (cols / SUB_BLOCK * 2)).offset(super_block * 16 + sub * 2);
    load_act(Act { quants, meta }, 0)
}

/// Writes what the thread has loaded to the stage at `base`.
#[device]
pub(super) fn put(job: &Job, base: Shared<u32>, weights: &Weights, acts: &Acts) {
    let (t, at) = (job.tile, job.regions());
    let seat = seat(t);
    let base = if t.parts == 1 { base } else { base.offset(part_of_warp(t) * (t.slots * at.words)) };
    for (k, w) in each((0u32..).zip(weights.0.iter().copied())) {
        let [slot, tile] = place_of_weights(t, seat.warp, k);
        let output = tile * TILE_ROWS + lane_id() / SUB_BLOCKS;
        put_weights(job.m.qtype, at, base.offset(slot * at.words), (output, seat.sub, w));
    }
    let n_rows = t.slots * t.rows();
    for (k, x) in each((0u32..).zip(acts.0.iter().copied())) {
        let staged = seat.row + k * t.staged_at_once();
        let base = if t.slots == 1 { base } else { base.offset(staged / t.rows() * at.words) };
        let row = if t.slots == 1 { staged } else { staged % t.rows() };
        if n_rows < (k + 1) * t.staged_at_once() {
            if staged < n_rows {
                put_act(at, base, (row, seat.sub), x);
            }
        } else {
            put_act(at, base, (row, seat.sub), x);
        }
    }
}

#[device]
fn put_weights(qtype: QType, at: Regions, base: Shared<u32>, (output, sub, w): (V<u32>, V<u32>, SubBlock)) {
    let quants = base.offset(output * ROW_WORDS + sub * 4);
    quants.at(0).store_x4(w.quants[0]);
    if at.high > at.quants {
        quants.at(at.quants).store_x4(w.quants[1]);
    }
    let high = base.offset(at.high).offset(output * at.high_stride + sub * at.high_width);
    match at.high_width {
        0 => {}
        1 => high.at(0).store(w.high[0]),
        _ => high.at(0).store_x2(w.high),
    }
    let to = base.offset(at.row_terms).offset(sub * at.row_stride + output * at.row_width);
    match row_terms(qtype, w)[..] {
        [one] => to.at(0).store(one),
        [one, two] => to.at(0).store_x2([one, two]),
        [one, two, three] => to.at(0).store_x4([one, two, three, dev(0)]),
        _ => refuse("a row has one, two or three terms"),
    }
}

/// A row's quants and what they multiply by: the scale, and the sum where the type's formula has a min.
#[device]
fn put_act(at: Regions, base: Shared<u32>, (row, sub): (V<u32>, V<u32>), x: ActLane) {
    let quants = base.offset(at.acts).offset(row * ROW_WORDS + sub * 4);
    let (low, high) = (x.low, x.high);
    quants.at(0).store_x4([low[0], high[0], low[1], high[1]]);
    quants.at(at.acts_plane).store_x4([low[2], high[2], low[3], high[3]]);
    let to = base.offset(at.col_terms).offset(sub * at.col_stride + row * at.col_width);
    match at.col_width {
        1 => to.at(0).store(x.scale.bits()),
        _ => {
            let sum = dp2a_lo_ss(x.sums.as_i32(), dev(0x0101i32), dev(0i32));
            to.at(0).store_x2([x.scale.bits(), sum.to_f32().bits()]);
        }
    }
}
