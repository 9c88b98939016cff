//! Products of staged super-blocks by `mma.m16n8k32` and the sums of its results, in the order of the one-row kernel.
//!
//! Warp `j` of a team multiplies sub-block `j` of all its outputs and rows: one `mma` is one sub-block of 16 outputs times 8
//! rows, exact in integers.

use super::Batch;
use super::stage::{Acts, Job, ROW_WORDS, Weights, load_acts, load_weights, part_of_warp, put, stage_words};
use super::tile::{SHARED_WORDS, TEAM, Tile};
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::kernels::gemv::word_bytes;
use crate::layout::SUB_BLOCKS;
use ::plan::QType;

/// Words of one fragment of sums in shared memory: 8 columns, 20 apart, so that lanes that write lie in different banks.
const SUMS_COL: u32 = 20;
const SUMS_WORDS: u32 = 8 * SUMS_COL;

/// Words of shared memory that a job needs, with `kept` words that others do.
pub(super) const fn shared_words(qtype: QType, t: Tile, kept: u32) -> u32 {
    let stages = stage_words(qtype, t) * super::stage::buffers(qtype, t, kept);
    let sums = t.warps() * sums_at_once(t) * SUMS_WORDS;
    if stages > sums { stages } else { sums }
}

/// Fragments of a warp whose sums are in shared memory at once.
const fn sums_at_once(t: Tile) -> u32 {
    let mut n = if t.fragments() < 4 { t.fragments() } else { 4 };
    while n > 1 && t.warps() * n * SUMS_WORDS > SHARED_WORDS {
        n /= 2;
    }
    n
}

/// What goes around the loop over stages.
struct State {
    /// Weights of stages on their way.
    weights: Vec<Weights>,
    /// The first super-block of the stage whose weights are to be loaded next, of the thread's part.
    next_weights: V<u32>,
    /// The same of activations, which are near and need not be sent for as early.
    acts: Vec<Acts>,
    next_acts: V<u32>,
    /// The first super-block of the stage to be multiplied next.
    now: V<u32>,
    /// A fragment of 4 sums for each pair of operands: `[n][m][4]`.
    acc: Vec<V<f32>>,
    /// The thread's outputs, summed over the parts that are done.
    totals: Vec<V<f32>>,
}

impl Carry for State {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        self.weights.carry(f);
        self.next_weights.carry(f);
        self.acts.carry(f);
        self.next_acts.carry(f);
        self.now.carry(f);
        self.acc.carry(f);
        self.totals.carry(f);
    }
}

impl Job<'_> {
    /// Super-blocks from one stage of a part to the next.
    fn stride(&self) -> u32 {
        self.k_split * self.tile.slots
    }

    /// Stages of a part.
    fn stages(&self) -> u32 {
        self.m.n_super_blocks().div_ceil(self.stride())
    }

    /// Parts that a team multiplies one after the other.
    fn rounds(&self) -> u32 {
        self.k_split / self.tile.parts
    }

    /// Stages that a team multiplies.
    fn turns(&self) -> u32 {
        self.stages() * self.rounds()
    }
}

/// The first super-block of the stage after one: the next of the same part, then the first of the team's next part.
#[device]
fn after(job: &Job, first: V<u32>) -> V<u32> {
    let next = first + job.stride();
    if job.rounds() == 1 {
        next
    } else {
        let turn = (first & (job.k_split - 1)) + job.tile.parts;
        select(next < job.stages() * job.stride(), next, turn)
    }
}

/// Weights of a job's first stages, sent for before anything else.
pub(super) struct Early {
    weights: Vec<Weights>,
    next: V<u32>,
}

/// Sends for the weights of a job's first stages: they are fixed, so that this may come before the wait for earlier launches.
pub(super) fn send_for_weights(job: &Job) -> Early {
    let mut next = part_of_warp(job.tile);
    let mut weights = Vec::new();
    for _ in 0..job.tile.depth.min(job.turns()) {
        weights.push(load_weights(job, next));
        next = after(job, next);
    }
    Early { weights, next }
}

/// The CTA's outputs, those of a thread in the order of [`element`].
#[device]
pub(super) fn sums_of_tile(job: &Job, batch: Batch, early: Early) -> Vec<V<f32>> {
    let (n, t) = (job.turns(), job.tile);
    let first = part_of_warp(t);
    let mut state = State {
        weights: early.weights,
        next_weights: early.next,
        acts: Vec::new(),
        next_acts: first,
        now: first,
        acc: vec![dev(0.0f32); (4 * t.fragments()) as usize],
        totals: vec![dev(0.0f32); t.sums_of_thread() as usize],
    };
    for _ in unroll(0..t.acts_depth().min(n)) {
        state.acts.push(load_acts(job, batch, state.next_acts));
        state.next_acts = after(job, state.next_acts);
    }
    // Turns in which every step sends for more.
    let steps = t.depth.max(job.buffers);
    let turns = if n >= t.depth + 2 * steps { (n - t.depth) / steps } else { 0 };
    if turns > 0 {
        for _turn in 0..turns {
            for i in unroll(0..steps) {
                state = step((job, batch), state, i, n);
            }
        }
    }
    for i in unroll(turns * steps..n) {
        state = step((job, batch), state, i, n - i);
    }
    if job.rounds() == 1 { reduce(job, &state.acc, |_, sum| sum) } else { state.totals }
}

/// Stages what the rings' slots `i` hold, multiplies it, and where it ends parts adds them to the totals. `left` stages, or
/// more, are not multiplied yet.
#[device]
fn step((job, batch): (&Job, Batch), state: State, i: u32, left: u32) -> State {
    let (t, now) = (job.tile, state.now);
    let State { mut weights, mut next_weights, mut acts, mut next_acts, mut acc, mut totals, .. } = state;
    let (of_weights, of_acts) = ((i % t.depth) as usize, (i % t.acts_depth()) as usize);
    let stage = job.memory.offset(i % job.buffers * stage_words(job.m.qtype, t));
    put(job, stage, &weights[of_weights], &acts[of_acts]);
    sync_threads();
    if left > t.depth {
        weights[of_weights] = load_weights(job, next_weights);
        next_weights = after(job, next_weights);
    }
    if left > t.acts_depth() {
        acts[of_acts] = load_acts(job, batch, next_acts);
        next_acts = after(job, next_acts);
    }
    let own = stage.offset(part_of_warp(job.tile) * (job.tile.slots * job.regions().words));
    for q in unroll(0..job.tile.slots) {
        let base = own.offset(q * job.regions().words);
        if job.is_ragged() {
            // Sub-blocks that the row lacks add nothing to the sums of their index.
            let first = (now + q * job.k_split) * SUB_BLOCKS;
            if first + warp_id() % TEAM < job.m.cols / crate::layout::SUB_BLOCK {
                acc = multiply(job, base, acc.clone());
            }
        } else {
            acc = multiply(job, base, acc);
        }
    }
    if job.buffers == 1 {
        sync_threads();
    }
    if job.rounds() > 1 {
        if now + job.stride() >= job.stages() * job.stride() {
            let begins = now & (job.k_split - 1) < job.tile.parts;
            let before = totals.clone();
            totals = reduce(job, &acc, |i, sum| select(begins, sum, before[i] + sum));
            acc = vec![dev(0.0f32); acc.len()];
        }
    }
    State { weights, next_weights, acts, next_acts, now: after(job, now), acc, totals }
}

/// The outputs of a warp begin with this one of the CTA's.
#[device]
fn first_output(t: Tile) -> V<u32> {
    if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across * (16 * t.m) }
}

/// Adds the staged super-block to the warp's sums.
#[device]
fn multiply(job: &Job, base: Shared<u32>, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let (qtype, t, at) = (job.m.qtype, job.tile, job.regions());
    let lane = lane_id();
    let sub = if t.warps() == TEAM { warp_id() } else { warp_id() % TEAM };
    let (g, k) = (lane / 4, lane % 4);
    let output = first_output(t) + g;
    let words = base.offset(output * ROW_WORDS + sub * 4 + k);
    let high = base.offset(at.high).offset(output * at.high_stride + sub * at.high_width);
    let quants = base.offset(at.acts).offset(k / 2 * at.acts_plane + g * ROW_WORDS + sub * 4 + k % 2 * 2);
    let row_terms = base.offset(at.row_terms).offset(sub * at.row_stride + output * at.row_width);
    let col_terms = base.offset(at.col_terms).offset(sub * at.col_stride + k * (2 * at.col_width));
    let halves: Vec<[V<u32>; 2]> = (0..2 * t.m)
        .map(|h| {
            let words = words.offset(h * 8 * ROW_WORDS);
            let second = match qtype {
                QType::Q8_0 => words.at(at.quants).load(),
                _ => dev(0u32),
            };
            let high = load_high(high.offset(h * 8 * at.high_stride), at.high_width);
            word_bytes(qtype, [words.at(0).load(), second], high, k)
        })
        .collect();
    let rows: Vec<Vec<V<u32>>> =
        (0..2 * t.m).map(|h| load_terms(row_terms.offset(h * 8 * at.row_width), at.row_width)).collect();
    let mut acc = acc;
    for u in unroll(0..t.n) {
        if t.n > 2 && u % 2 == 0 {
            // A barrier keeps ptxas from loading the columns of all fragments at once, for which there are no registers.
            sync_warp();
        }
        let b = quants.at(u * 8 * ROW_WORDS).load_x2();
        let cols: [Vec<V<f32>>; 2] = load_columns(col_terms.offset(u * 8 * at.col_width), at.col_width);
        for f in unroll(0..t.m) {
            let of = 2 * f as usize;
            let dots: Vec<[V<i32>; 4]> = dots(qtype, [halves[of], halves[of + 1]], b);
            for r in unroll(0..4usize) {
                let place = 4 * (u * t.m + f) as usize + r;
                let dots: Vec<V<i32>> = dots.iter().map(|d| d[r]).collect();
                acc[place] = accumulate(qtype, &dots, (&rows[of + r / 2], &cols[r % 2]), acc[place]);
            }
        }
    }
    acc
}

#[device]
fn load_high(from: Shared<u32>, width: u32) -> [V<u32>; 2] {
    match width {
        0 => [dev(0), dev(0)],
        1 => [from.at(0).load(), dev(0)],
        _ => {
            let words = from.at(0).load_x2();
            words
        }
    }
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

/// The output and the row of activations, from those of the CTA, of a thread's element `i`; threads of the first part have
/// them, and where a warp has one fragment only, half of those.
#[device]
pub(super) fn element(t: Tile, i: u32) -> [V<u32>; 2] {
    let (own, second) = (thread_idx_x() % 128, thread_idx_x() / 128 % 2);
    let team = if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across * (16 * t.m) };
    let (output, row) = match (t.fragments(), t.m) {
        (1, _) => (dev(0u32), dev(0u32)),
        (_, 1) => (dev(0u32), (second + 2 * i) * 8),
        (_, m) => ((second + 2 * i % m) * 16, dev(2 * i / m * 8)),
    };
    [team + output + own % 16, row + own / 16]
}

/// Whether a thread has elements at all.
#[device]
pub(super) fn has_elements(t: Tile) -> V<bool> {
    let of_first_part = thread_idx_x() < 32 * t.warps_of_part();
    if t.fragments() == 1 { of_first_part && thread_idx_x() / 128 % 2 == 0 } else { of_first_part }
}

/// Sums of the parts that are being multiplied, in their order, each that of its 8 warps in the order of the one-row
/// kernel's tree: at distance 4, then 2, then 1. `join` puts the first of them to the thread's element of the parts before.
/// All threads take part; shared memory is free again when they are through.
#[device]
fn reduce(job: &Job, acc: &[V<f32>], join: impl Fn(usize, V<f32>) -> V<f32>) -> Vec<V<f32>> {
    let t = job.tile;
    let at_once = sums_at_once(t);
    let memory = job.memory.cast::<f32>();
    let (lane, thread) = (lane_id(), thread_idx_x());
    let to = memory.offset(warp_id() * (at_once * SUMS_WORDS) + lane % 4 * (2 * SUMS_COL) + lane / 4);
    let own = thread % 128;
    let second = if at_once == 1 { dev(0u32) } else { thread / 128 % 2 };
    let team = if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across };
    let from = memory
        .offset(team * (TEAM * at_once * SUMS_WORDS) + second * SUMS_WORDS + own / 16 * SUMS_COL + own % 16);
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
        for i in unroll(0..at_once.div_ceil(2)) {
            let of = |warp: u32| from.at((warp * at_once + 2 * i) * SUMS_WORDS).load();
            let of_part = |part: u32| {
                let first = part * t.warps_of_part();
                let pairs = [0, 1, 2, 3].map(|warp: u32| of(first + warp) + of(first + warp + 4));
                (pairs[0] + pairs[2]) + (pairs[1] + pairs[3])
            };
            let parts = (1..t.parts).map(of_part);
            sums.push(parts.fold(join(sums.len(), of_part(0)), |sum, part| sum + part));
        }
    }
    sync_threads();
    sums
}
