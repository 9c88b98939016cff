//! Products of staged super-blocks by `mma.m16n8k32` and the sums of its results, in the order of the one-row kernel.
//!
//! Warp `j` multiplies sub-block `j` of all outputs and rows of the CTA: one `mma` is one sub-block of 16 outputs times 8
//! rows, exact in integers.

use super::stage::{Job, Loaded, OUTPUT_WORDS, ROW_WORDS, Tile, WARPS, load, put};
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use ::plan::QType;

/// Words of one fragment of sums in shared memory: 8 columns, 20 apart, so that lanes that write lie in different banks.
const SUMS_COL: u32 = 20;
const SUMS_WORDS: u32 = 8 * SUMS_COL;
/// Fragments whose sums are in shared memory at once.
const SUMS_AT_ONCE: u32 = 4;

/// Words of shared memory that a job needs.
pub(super) fn shared_words(qtype: QType, tile: Tile) -> u32 {
    let regions = super::stage::Regions::new(qtype, tile);
    (regions.words * regions.buffers).max(WARPS * sums_at_once(tile) * SUMS_WORDS)
}

fn sums_at_once(tile: Tile) -> u32 {
    SUMS_AT_ONCE.min(tile.m * tile.n)
}

/// What goes around the loop over super-blocks.
struct State {
    /// Super-blocks on their way.
    ring: Vec<Loaded>,
    /// The super-block to be loaded next.
    ahead: V<u32>,
    /// The super-block to be multiplied next.
    now: V<u32>,
    /// A fragment of 4 sums for each pair of operands: `[n][m][4]`.
    acc: Vec<V<f32>>,
    /// The thread's outputs, summed over the parts that are done.
    totals: Vec<V<f32>>,
}

impl Carry for State {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        self.ring.carry(f);
        self.ahead.carry(f);
        self.now.carry(f);
        self.acc.carry(f);
        self.totals.carry(f);
    }
}

/// Whether a step sends for another super-block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refill {
    Yes,
    No,
}
impl BuildTime for Refill {}

/// The super-block after one: every `k_split`-th of the same part, then the next part's first.
#[device]
fn after(job: &Job, super_block: V<u32>) -> V<u32> {
    let (n, k_split) = (job.m.n_super_blocks(), job.k_split);
    if k_split == 1 {
        super_block + 1
    } else {
        let next = super_block + k_split;
        select(next < n, next, (super_block & (k_split - 1)) + 1)
    }
}

/// The CTA's outputs: element `i` of a thread is row `w % 16` and column `w / 16`, where `w = thread % 128`, of fragment
/// `2 i + thread / 128`.
#[device]
pub(super) fn sums_of_tile(job: &Job) -> Vec<V<f32>> {
    let (n, depth, t) = (job.m.n_super_blocks(), job.tile.depth, job.tile);
    let mut state = State {
        ring: Vec::new(),
        ahead: dev(0u32),
        now: dev(0u32),
        acc: vec![dev(0.0f32); (4 * t.m * t.n) as usize],
        totals: vec![dev(0.0f32); (t.m * t.n / 2) as usize],
    };
    for _ in unroll(0..depth.min(n)) {
        state.ring.push(load(job, state.ahead));
        state.ahead = after(job, state.ahead);
    }
    // Turns in which every step sends for another super-block.
    let steps = depth.max(2);
    let turns = if n >= depth + 2 * steps { (n - depth) / steps } else { 0 };
    if turns > 0 {
        for _turn in 0..turns {
            for i in unroll(0..steps) {
                state = step(job, state, i, Refill::Yes);
            }
        }
    }
    for i in unroll(turns * steps..n) {
        let refill = if i + depth < n { Refill::Yes } else { Refill::No };
        state = step(job, state, i, refill);
    }
    if job.k_split == 1 { reduce(job, &state.acc) } else { state.totals }
}

/// Stages the `i`-th super-block, multiplies it, and where it ends a part adds the part to the totals.
#[device]
fn step(job: &Job, state: State, i: u32, refill: Refill) -> State {
    let (n, k_split, tail) = (job.m.n_super_blocks(), job.k_split, job.m.tail_sub_blocks());
    let (regions, now) = (job.regions(), state.now);
    let slot = (i % job.tile.depth) as usize;
    let mut ring: Vec<Loaded> = state.ring;
    let mut ahead = state.ahead;
    let mut acc = state.acc;
    let mut totals = state.totals;
    let base = job.memory.offset(i % regions.buffers * regions.words);
    put(job, base, &ring[slot]);
    sync_threads();
    if refill == Refill::Yes {
        ring[slot] = load(job, ahead);
        ahead = after(job, ahead);
    }
    if tail > 0 {
        if now < n - 1 || warp_id() < tail {
            acc = multiply(job, base, acc.clone());
        }
    } else {
        acc = multiply(job, base, acc);
    }
    if regions.buffers == 1 {
        sync_threads();
    }
    if k_split > 1 {
        if now + k_split >= n {
            let sums = reduce(job, &acc);
            let first = now & (k_split - 1) == 0;
            totals = totals.iter().zip(sums).map(|(t, sum)| select(first, sum, *t + sum)).collect();
            acc = vec![dev(0.0f32); acc.len()];
        }
    }
    State { ring, ahead, now: after(job, now), acc, totals }
}

/// Adds the staged super-block to the warp's sums.
#[device]
fn multiply(job: &Job, base: Shared<u32>, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let (qtype, t, at) = (job.m.qtype, job.tile, job.regions());
    let (lane, sub) = (lane_id(), warp_id());
    let (g, k) = (lane / 4, lane % 4);
    let outputs = base.offset(g * OUTPUT_WORDS + sub * 8 + k);
    let quants = base.offset(at.acts).offset(g * ROW_WORDS + sub * 8 + k * 2);
    let row_terms = base.offset(at.row_terms).offset(sub * at.row_stride + g * at.row_width);
    let col_terms = base.offset(at.col_terms).offset(sub * at.col_stride + k * (2 * at.col_width));
    let words_of = |h: u32| [0, 4].map(|half: u32| outputs.at(h * 8 * OUTPUT_WORDS + half).load());
    let mut acc = acc;
    for f in unroll(0..t.m) {
        let a: [[V<u32>; 2]; 2] = [words_of(2 * f), words_of(2 * f + 1)];
        let rows: [Vec<V<u32>>; 2] =
            [2 * f, 2 * f + 1].map(|h| load_terms(row_terms.offset(h * 8 * at.row_width), at.row_width));
        for u in unroll(0..t.n) {
            if t.n > 2 && u % 2 == 0 {
                // A barrier keeps ptxas from loading the columns of all pairs at once, or for all fragments of outputs,
                // for which there are no registers.
                sync_warp();
            }
            let b = quants.at(u * 8 * ROW_WORDS).load_x2();
            let cols: [Vec<V<f32>>; 2] = load_columns(col_terms.offset(u * 8 * at.col_width), at.col_width);
            let dots: Vec<[V<i32>; 4]> = dots(qtype, a, b);
            for r in unroll(0..4usize) {
                let place = 4 * (u * t.m + f) as usize + r;
                let of: Vec<V<i32>> = dots.iter().map(|d| d[r]).collect();
                acc[place] = accumulate(qtype, &of, (&rows[r / 2], &cols[r % 2]), acc[place]);
            }
        }
    }
    acc
}

#[device]
fn load_terms(from: Shared<u32>, width: u32) -> Vec<V<u32>> {
    match width {
        1 => vec![from.at(0).load()],
        2 => from.at(0).load_x2().to_vec(),
        _ => from.at(0).load_x4().to_vec(),
    }
}

/// The terms of the lane's two columns.
#[device]
fn load_columns(from: Shared<u32>, width: u32) -> [Vec<V<f32>>; 2] {
    let from = from.cast::<f32>();
    match width {
        1 => from.at(0).load_x2().map(|scale| vec![scale]),
        _ => {
            let words = from.at(0).load_x4();
            [words[..2].to_vec(), words[2..].to_vec()]
        }
    }
}

/// Dot products of a fragment; of Q6_K those of the first and of the last 16 weights, which have scales of their own.
#[device]
fn dots(qtype: QType, [top, bottom]: [[V<u32>; 2]; 2], b: [V<u32>; 2]) -> Vec<[V<i32>; 4]> {
    let zero = dev(0u32);
    let none = [dev(0i32); 4];
    match qtype {
        QType::Q6K => vec![
            mma_s8([top[0], bottom[0], zero, zero], b, none),
            mma_s8([zero, zero, top[1], bottom[1]], b, none),
        ],
        _ => vec![mma_s8([top[0], bottom[0], top[1], bottom[1]], b, none)],
    }
}

/// `acc` plus one sub-block: the roundings of the one-row kernel.
#[device]
fn accumulate(qtype: QType, dots: &[V<i32>], (row, col): (&[V<u32>], &[V<f32>]), acc: V<f32>) -> V<f32> {
    let first = V::<f32>::from_bits(row[0]);
    let value = match qtype {
        // Adding +0 keeps the share of the min from being −0, which it is not where a product of integers is 0.
        QType::Q4K | QType::Q5K => {
            let min = fma(V::<f32>::from_bits(row[1]), col[1], 0.0);
            fma(first, dots[0].to_f32(), min)
        }
        QType::Q4_1 | QType::Q5_1 => fma(first, dots[0].to_f32(), V::<f32>::from_bits(row[1]) * col[1]),
        QType::Q6K => {
            let scaled = dots[0] * row[1].as_i32() + dots[1] * row[2].as_i32();
            first * scaled.to_f32()
        }
        _ => first * dots[0].to_f32(),
    };
    fma(col[0], value, acc)
}

/// Sums of the 8 warps in the order of the one-row kernel's tree: at distance 4, then 2, then 1. All threads take part; shared
/// memory is free again when they are through.
#[device]
fn reduce(job: &Job, acc: &[V<f32>]) -> Vec<V<f32>> {
    let at_once = sums_at_once(job.tile);
    let memory = job.memory.cast::<f32>();
    let (lane, thread) = (lane_id(), thread_idx_x());
    let to = memory.offset(warp_id() * (at_once * SUMS_WORDS) + lane % 4 * (2 * SUMS_COL) + lane / 4);
    let own = thread % 128;
    let from = memory.offset(thread / 128 * SUMS_WORDS + own / 16 * SUMS_COL + own % 16);
    let mut sums: Vec<V<f32>> = Vec::new();
    for chunk in each(acc.chunks(4 * at_once as usize)) {
        sync_threads();
        for (i, fragment) in each((0u32..).zip(chunk.chunks_exact(4))) {
            for r in unroll(0..4u32) {
                let place = i * SUMS_WORDS + r % 2 * SUMS_COL + r / 2 * 8;
                to.at(place).store(fragment[r as usize]);
            }
        }
        sync_threads();
        for i in unroll(0..at_once / 2) {
            let of = |warp: u32| from.at((warp * at_once + 2 * i) * SUMS_WORDS).load();
            let pairs = [0, 1, 2, 3].map(|warp: u32| of(warp) + of(warp + 4));
            sums.push((pairs[0] + pairs[2]) + (pairs[1] + pairs[3]));
        }
    }
    sync_threads();
    sums
}
