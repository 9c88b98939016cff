//! The shared memory of a CTA that multiplies by `mma`: a super-block of its outputs and of its rows of activations, as
//! bytes in the order of the fragments, and beside them what a row and a column multiply by.
//!
//! Outputs are `[output][sub-block][8 words]` in the order of the quants; rows of activations `[row][sub-block][8 words]`
//! where words `2 g` and `2 g + 1` hold quants `4 g …` and `16 + 4 g …`, so that both words of a lane's fragment are
//! neighbours. Of the outputs a lane needs four words of two rows in registers that follow each other, which single loads
//! give without moves. Both are padded so that the rows of a fragment lie in different banks.

use super::Batch;
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::kernels::gemv::{
    Act, ActLane, SubBlock, load_act, load_sub_block, quant_bytes, row_terms, weights_of_lane,
};
use crate::layout::{Matrix, SUB_BLOCK, SUB_BLOCKS};
use ::plan::QType;

/// Warps of a CTA: one for each sub-block index.
pub(super) const WARPS: u32 = SUB_BLOCKS;
/// Words from one output to the next: 64, and 4 that shift the banks.
pub(super) const OUTPUT_WORDS: u32 = 68;
/// Words from one row of activations to the next: 64, and 8 that shift the banks of loads of two words.
pub(super) const ROW_WORDS: u32 = 72;
/// Rows that the threads of a CTA stage at once, 8 sub-blocks each.
pub(super) const STAGED_ROWS: u32 = 32;
/// Words of shared memory that a CTA may have: 48 KiB.
const SHARED_WORDS: u32 = 12_288;

/// What one CTA computes, and how it goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Fragments of 16 outputs; even.
    pub m: u32,
    /// Fragments of 8 rows of activations.
    pub n: u32,
    /// Super-blocks on their way from memory.
    pub depth: u32,
}

impl Tile {
    /// Outputs.
    pub(super) const fn outputs(&self) -> u32 {
        16 * self.m
    }

    /// Rows of activations.
    pub(super) const fn rows(&self) -> u32 {
        8 * self.n
    }

    /// Packed tiles of 4 outputs.
    pub(super) const fn tiles(&self) -> u32 {
        4 * self.m
    }
}

/// Where the parts of a stage start, in words.
#[derive(Clone, Copy)]
pub(super) struct Regions {
    pub acts: u32,
    /// `[sub-block][output]` of `row_width` words.
    pub row_terms: u32,
    pub row_width: u32,
    pub row_stride: u32,
    /// `[sub-block][row]` of `col_width` words.
    pub col_terms: u32,
    pub col_width: u32,
    pub col_stride: u32,
    pub words: u32,
    /// Stages that fit: with two, a warp may fill one while others read the other.
    pub buffers: u32,
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
        // 4 words more than the terms take shift the banks from one sub-block to the next.
        let (row_stride, col_stride) = (row_width * t.outputs() + 4, col_width * t.rows() + 4);
        let acts = t.outputs() * OUTPUT_WORDS;
        let row_terms = acts + t.rows() * ROW_WORDS;
        let col_terms = row_terms + SUB_BLOCKS * row_stride;
        let words = col_terms + SUB_BLOCKS * col_stride;
        // A float for each output of the CTA is left to the kernel.
        let buffers = if 2 * words + t.outputs() * t.rows() <= SHARED_WORDS { 2 } else { 1 };
        Regions { acts, row_terms, row_width, row_stride, col_terms, col_width, col_stride, words, buffers }
    }
}

/// One matrix's work for a CTA.
pub(super) struct Job<'a> {
    pub m: &'a Matrix,
    pub tile: Tile,
    pub k_split: u32,
    pub w: In<u32>,
    pub x: Act,
    pub first_tile: V<u32>,
    pub batch: Batch,
    pub memory: Shared<u32>,
}

impl Job<'_> {
    pub(super) fn regions(&self) -> Regions {
        Regions::new(self.m.qtype, self.tile)
    }
}

/// What a thread has loaded of one super-block: sub-block `thread % 8` of outputs and rows `thread / 8`, `+ 32`, ….
#[derive(Clone)]
pub(super) struct Loaded {
    weights: Vec<SubBlock>,
    acts: Vec<ActLane>,
}

/// Visits the values that are not constants: a type has zeros where it lacks words.
fn carry_words<T: Scalar>(words: &mut [V<T>], f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
    for word in words.iter_mut().filter(|w| matches!(w.operand, Operand::Value(_))) {
        word.carry(f);
    }
}

impl Carry for Loaded {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        for w in &mut self.weights {
            w.quants.iter_mut().for_each(|words| carry_words(words, f));
            carry_words(&mut w.high, f);
            carry_words(&mut w.scales, f);
            carry_words(std::slice::from_mut(&mut w.d), f);
        }
        for x in &mut self.acts {
            carry_words(&mut x.low, f);
            carry_words(&mut x.high, f);
            carry_words(std::slice::from_mut(&mut x.scale), f);
            carry_words(std::slice::from_mut(&mut x.sums), f);
        }
    }
}

/// Loads the thread's share of a super-block.
#[device]
pub(super) fn load(job: &Job, super_block: V<u32>) -> Loaded {
    let m = job.m;
    let own = thread_idx_x() / SUB_BLOCKS;
    let weights_of = |k: u32| {
        // A warp stages whole tiles, so its lanes are those of the packed form.
        let cell = (job.first_tile + warp_id() + k * WARPS) * m.n_super_blocks() + super_block;
        load_sub_block(m.qtype, weights_of_lane(m, job.w, cell), 0)
    };
    // Rows that are not active repeat the last that is, as do those that the CTA has no place for.
    let acts_of = |k: u32| {
        let own = min(own + k * STAGED_ROWS, job.tile.rows() - 1);
        let row = min(job.batch.first + own, job.batch.n_active - 1);
        load_row(job, row, super_block)
    };
    let weights: Vec<SubBlock> = (0..job.tile.outputs() / STAGED_ROWS).map(weights_of).collect();
    let acts: Vec<ActLane> = (0..job.tile.rows().div_ceil(STAGED_ROWS)).map(acts_of).collect();
    Loaded { weights, acts }
}

/// The thread's sub-block of a row of activations.
#[device]
fn load_row(job: &Job, row: V<u32>, super_block: V<u32>) -> ActLane {
    let (cols, tail) = (job.m.cols, job.m.tail_sub_blocks());
    let sub = thread_idx_x() % SUB_BLOCKS;
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
pub(super) fn put(job: &Job, base: Shared<u32>, loaded: &Loaded) {
    let (qtype, at) = (job.m.qtype, job.regions());
    let (own, sub) = (thread_idx_x() / SUB_BLOCKS, thread_idx_x() % SUB_BLOCKS);
    let quants = base.offset(own * OUTPUT_WORDS + sub * 8);
    let row_place = base.offset(at.row_terms).offset(sub * at.row_stride + own * at.row_width);
    for (k, w) in each((0u32..).zip(loaded.weights.iter().copied())) {
        let [first, second] = quant_bytes(qtype, w);
        quants.at(k * STAGED_ROWS * OUTPUT_WORDS).store_x4(first);
        quants.at(k * STAGED_ROWS * OUTPUT_WORDS + 4).store_x4(second);
        put_row_terms(qtype, row_place.offset(k * STAGED_ROWS * at.row_width), w);
    }
    let quants = base.offset(at.acts).offset(own * ROW_WORDS + sub * 8);
    let col_place = base.offset(at.col_terms).offset(sub * at.col_stride + own * at.col_width);
    for (k, x) in each((0u32..).zip(loaded.acts.iter().copied())) {
        let quants = quants.offset(k * STAGED_ROWS * ROW_WORDS);
        let col_place = col_place.offset(k * STAGED_ROWS * at.col_width);
        if job.tile.rows() < STAGED_ROWS {
            if own < job.tile.rows() {
                put_act(at.col_width, quants, col_place, x);
            }
        } else {
            put_act(at.col_width, quants, col_place, x);
        }
    }
}

#[device]
fn put_row_terms(qtype: QType, to: Shared<u32>, w: SubBlock) {
    match row_terms(qtype, w)[..] {
        [one] => to.at(0).store(one),
        [one, two] => to.at(0).store_x2([one, two]),
        [one, two, three] => to.at(0).store_x4([one, two, three, dev(0)]),
        _ => refuse("a row has one, two or three terms"),
    }
}

/// A row's quants and what they multiply by: the scale, and the sum where the type's formula has a min.
#[device]
fn put_act(width: u32, quants: Shared<u32>, to: Shared<u32>, x: ActLane) {
    let (low, high) = (x.low, x.high);
    quants.at(0).store_x4([low[0], high[0], low[1], high[1]]);
    quants.at(4).store_x4([low[2], high[2], low[3], high[3]]);
    match width {
        1 => to.at(0).store(x.scale.bits()),
        _ => {
            let sum = dp2a_lo_ss(x.sums.as_i32(), dev(0x0101i32), dev(0i32));
            to.at(0).store_x2([x.scale.bits(), sum.to_f32().bits()]);
        }
    }
}
