//! Products of staged super-blocks by `mma.m16n8k32` and the sums of its results, in the order of the one-row kernel.
//!
//! Warp `j` of a team multiplies sub-block `j` of all its outputs and rows: one `mma` is one sub-block of 16 outputs times 8
//! rows, exact in integers.

use super::Batch;
use super::stage::{Acts, Job, ROW_WORDS, Weights, load_acts, load_weights, part_of_warp, put, stage_words};
use super::tile::{FRAGMENT_WORDS, TEAM, Tile};
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::kernels::gemv::word_bytes;
use crate::layout::SUB_BLOCKS;
use ::plan::QType;
use std::collections::VecDeque;
use std::ops::Range;

/// Words of shared memory that a job needs, of parts of K that are multiplied in `rounds`.
pub(super) const fn shared_words(qtype: QType, t: Tile, rounds: u32) -> u32 {
    let stages = stage_words(qtype, t) * t.buffers;
    let sums = t.warps() * t.sums_at_once() * FRAGMENT_WORDS;
    let first = first_sum(qtype, t, rounds);
    if stages > first + sums { stages } else { first + sums }
}

/// Where sums begin: in place of the stages, or behind them where a stage of the next part is there when one part is added up.
const fn first_sum(qtype: QType, t: Tile, rounds: u32) -> u32 {
    if rounds > 1 && t.fills_during() { stage_words(qtype, t) * t.buffers } else { 0 }
}

/// What goes around the loop over stages.
#[derive(Clone)]
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
    let ahead = u32::from(t.fills_during());
    if ahead > 0 {
        put_stage(job, &state, 0);
        state = send((job, batch), state, 0, n);
    }
    // Turns in which every step sends for more.
    let (steps, last) = (t.depth.max(t.buffers), t.depth + ahead);
    let turns = if n >= last + 2 * steps { (n - last) / steps } else { 0 };
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

/// Puts what the rings' slots `i` hold into shared memory.
#[device]
fn put_stage(job: &Job, state: &State, i: u32) {
    let (of_weights, of_acts) = (i % job.tile.depth, i % job.tile.acts_depth());
    put(job, place_of(job, i), &state.weights[of_weights as usize], &state.acts[of_acts as usize]);
}

/// Sends for what the rings' slots `i` hold next. `left` stages, or more, are not staged yet, the one that they held included.
#[device]
fn send((job, batch): (&Job, Batch), state: State, i: u32, left: u32) -> State {
    let t = job.tile;
    let State { mut weights, mut next_weights, mut acts, mut next_acts, .. } = state;
    let (of_weights, of_acts) = ((i % t.depth) as usize, (i % t.acts_depth()) as usize);
    if left > t.depth {
        weights[of_weights] = load_weights(job, next_weights);
        next_weights = after(job, next_weights);
    }
    if left > t.acts_depth() {
        acts[of_acts] = load_acts(job, batch, next_acts);
        next_acts = after(job, next_acts);
    }
    State { weights, next_weights, acts, next_acts, ..state }
}

/// Where a stage lies.
#[device]
fn place_of(job: &Job, i: u32) -> Shared<u32> {
    job.memory.offset(i % job.tile.buffers * stage_words(job.m.qtype, job.tile))
}

/// Multiplies stage `i`, and where it ends parts adds them to the totals. `left` stages, or more, are not multiplied yet.
#[device]
fn step((job, batch): (&Job, Batch), state: State, i: u32, left: u32) -> State {
    let (t, now) = (job.tile, state.now);
    let mut state = state;
    if t.fills_during() {
        // All have multiplied the stage before, whose place the next one takes.
        sync_threads();
        state = multiply_and_fill((job, batch), state, i, left);
    } else {
        put_stage(job, &state, i);
        sync_threads();
        state = send((job, batch), state, i, left);
        let own = of_part(job, i);
        for q in unroll(0..t.slots) {
            state.acc = multiply_slot((job, own), now + q * job.k_split, (q, state.acc.clone()));
        }
        if t.buffers == 1 {
            sync_threads();
        }
    }
    let State { mut acc, mut totals, .. } = state;
    if job.rounds() > 1 {
        if now + job.stride() >= job.stages() * job.stride() {
            let begins = now & (job.k_split - 1) < job.tile.parts;
            let before = totals.clone();
            totals = reduce(job, &acc, |i, sum| select(begins, sum, before[i] + sum));
            acc = vec![dev(0.0f32); acc.len()];
        }
    }
    State { now: after(job, now), acc, totals, ..state }
}

/// The warp's part of a stage.
#[device]
fn of_part(job: &Job, i: u32) -> Shared<u32> {
    place_of(job, i).offset(part_of_warp(job.tile) * (job.tile.slots * job.regions().words))
}

/// Multiplies stage `i` and fills the next one between its products, so that its stores and what they wait for take the time of
/// nothing else.
#[device]
fn multiply_and_fill((job, batch): (&Job, Batch), state: State, i: u32, left: u32) -> State {
    let (t, now, own) = (job.tile, state.now, of_part(job, i));
    let mut state = state;
    if t.slots > 1 || left == 1 {
        for q in unroll(0..t.slots) {
            if left > 1 && q == t.slots / 2 {
                state = fill((job, batch), state, i, left);
            }
            state.acc = multiply_slot((job, own), now + q * job.k_split, (q, state.acc.clone()));
        }
    } else {
        if job.is_ragged() {
            if is_there(job, now) {
                state = fill_between((job, batch), (state.clone(), own), i, left);
            } else {
                state = fill((job, batch), state.clone(), i, left);
            }
        } else {
            state = fill_between((job, batch), (state, own), i, left);
        }
    }
    state
}

/// Fills the stage after `i`.
#[device]
fn fill((job, batch): (&Job, Batch), state: State, i: u32, left: u32) -> State {
    put_stage(job, &state, i + 1);
    send((job, batch), state, i + 1, left - 1)
}

/// Multiplies the warp's super-block of stage `i` and fills the next stage when half of the products are under way: what was
/// sent for has arrived by then.
#[device]
fn fill_between((job, batch): (&Job, Batch), (state, own): (State, Shared<u32>), i: u32, left: u32) -> State {
    let n = job.tile.n;
    let mut run = begin(job, own);
    let sums = advance(job, &mut run, (0..n / 2, state.acc.clone()));
    let mut state = fill((job, batch), state, i, left);
    let sums = advance(job, &mut run, (n / 2..n, sums));
    state.acc = finish(job, run, sums);
    state
}

/// Whether the matrix has the warp's sub-block of a super-block: those that it lacks add nothing to the sums of their index.
#[device]
fn is_there(job: &Job, super_block: V<u32>) -> V<bool> {
    super_block * SUB_BLOCKS + warp_id() % TEAM < job.m.cols / crate::layout::SUB_BLOCK
}

/// Adds the super-block in slot `q` of the warp's stage to its sums.
#[device]
fn multiply_slot(
    (job, own): (&Job, Shared<u32>),
    super_block: V<u32>,
    (q, acc): (u32, Vec<V<f32>>),
) -> Vec<V<f32>> {
    let base = own.offset(q * job.regions().words);
    let mut acc = acc;
    if job.is_ragged() {
        if is_there(job, super_block) {
            acc = multiply(job, base, acc.clone());
        }
    } else {
        acc = multiply(job, base, acc);
    }
    acc
}

/// The outputs of a warp begin with this one of the CTA's.
#[device]
fn first_output(t: Tile) -> V<u32> {
    if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across * (16 * t.m) }
}

/// Adds the staged super-block to the warp's sums.
#[device]
fn multiply(job: &Job, base: Shared<u32>, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let mut run = begin(job, base);
    let sums = advance(job, &mut run, (0..job.tile.n, acc));
    finish(job, run, sums)
}

/// The products of a warp's sub-block of a staged super-block, on their way.
struct Run {
    /// What a lane multiplies by of its outputs, two words of each.
    halves: Vec<[V<u32>; 2]>,
    /// Their terms.
    rows: Vec<Vec<V<u32>>>,
    /// The lane's quants of the first fragment of rows, and what those multiply by.
    quants: Shared<u32>,
    col_terms: Shared<u32>,
    /// Fragments that are multiplied and not added up yet.
    started: VecDeque<Product>,
}

/// What a fragment of rows was multiplied to, `[fragment of outputs][dot][element]`, and the terms of the lane's two columns.
struct Product {
    /// Which fragment.
    u: u32,
    dots: Vec<Vec<[V<i32>; 4]>>,
    cols: [Vec<V<f32>>; 2],
}

/// Loads what is multiplied by every row.
#[device]
fn begin(job: &Job, base: Shared<u32>) -> Run {
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
    Run { halves, rows, quants, col_terms, started: VecDeque::new() }
}

/// Multiplies these fragments of rows, and adds up those before each but the last ones, which are as many as [`ahead`] says.
#[device]
fn advance(job: &Job, run: &mut Run, (fragments, acc): (Range<u32>, Vec<V<f32>>)) -> Vec<V<f32>> {
    let (qtype, t, at) = (job.m.qtype, job.tile, job.regions());
    let mut acc = acc;
    for u in each(fragments) {
        if t.n > 2 && (ahead(qtype, t) > 0 || u % 2 == 0) {
            // A barrier keeps ptxas from loading the columns of all fragments at once, for which there are no registers.
            sync_warp();
        }
        let b = run.quants.at(u * 8 * ROW_WORDS).load_x2();
        let dots = (0..t.m as usize)
            .map(|f| dots(qtype, [run.halves[2 * f], run.halves[2 * f + 1]], b))
            .collect::<Vec<_>>();
        let cols = load_columns(run.col_terms.offset(u * 8 * at.col_width), at.col_width);
        run.started.push_back(Product { u, dots, cols });
        if run.started.len() > ahead(qtype, t) {
            acc = add_first(job, run, acc);
        }
    }
    acc
}

/// Adds up what is left.
#[device]
fn finish(job: &Job, run: Run, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let (mut run, mut acc) = (run, acc);
    for _ in each(0..run.started.len()) {
        acc = add_first(job, &mut run, acc);
    }
    acc
}

/// Adds the product up that was started first.
#[device]
fn add_first(job: &Job, run: &mut Run, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let mut acc = acc;
    if let Some(product) = run.started.pop_front() {
        for (f, dots) in each(product.dots.iter().enumerate()) {
            for r in unroll(0..4usize) {
                let place = 4 * (product.u * job.tile.m) as usize + 4 * f + r;
                let dots: Vec<V<i32>> = dots.iter().map(|d| d[r]).collect();
                let terms = (&run.rows[2 * f + r / 2][..], &product.cols[r % 2][..]);
                acc[place] = accumulate(job.m.qtype, &dots, terms, acc[place]);
            }
        }
    }
    acc
}

/// Fragments of rows whose products run ahead of sums, since a product takes as long as 30 other instructions: one, but
/// sub-blocks of Q6_K have two each, for which only tiles that leave a thread 128 registers and more have room.
const fn ahead(qtype: QType, t: Tile) -> usize {
    if t.n > 1 && (!matches!(qtype, QType::Q6K) || t.m == 4 && t.n < 8) { 1 } else { 0 }
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

/// The output and the row of activations, from those of the CTA, of a thread's element `i`. Sums of fragments lie in shared memory
/// as `mma` leaves them, four a lane, and each thread of a team adds up as many neighbours.
#[device]
pub(super) fn element(t: Tile, i: u32) -> [V<u32>; 2] {
    let team = if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across * (16 * t.m) };
    let (first, own) = (own_word(t), i % width(t));
    let (fragment, lane) = (first / FRAGMENT_WORDS + i / width(t) * t.sums_at_once(), first / 4 % 32);
    let [output, row] = if width(t) == 4 {
        [dev(own / 2 * 8), dev(own % 2)]
    } else {
        let r = first % 4 + own;
        [r / 2 * 8, r % 2]
    };
    [team + fragment % t.m * 16 + lane / 4 + output, fragment / t.m * 8 + lane % 4 * 2 + row]
}

/// Words that a thread adds up of the fragments that are in shared memory at once.
const fn width(t: Tile) -> u32 {
    if t.sums_at_once() == 1 { 1 } else { t.sums_at_once() * FRAGMENT_WORDS / (32 * TEAM) }
}

/// The first of a thread's words.
#[device]
fn own_word(t: Tile) -> V<u32> {
    // One fragment has words for half of a team: the others repeat them.
    let threads = if t.sums_at_once() == 1 { FRAGMENT_WORDS } else { 32 * TEAM };
    (thread_idx_x() & (threads - 1)) * width(t)
}

/// Whether a thread has elements at all: those of the first part have.
#[device]
pub(super) fn has_elements(t: Tile) -> V<bool> {
    let of_first_part = thread_idx_x() < 32 * t.warps_of_part();
    if t.sums_at_once() == 1 { of_first_part && thread_idx_x() & FRAGMENT_WORDS == 0 } else { of_first_part }
}

/// Sums of the parts that are being multiplied, in their order, each that of its 8 warps in the order of the one-row
/// kernel's tree: at distance 4, then 2, then 1. `join` puts the first of them to the thread's element of the parts before.
/// All threads take part; shared memory is free again when they are through.
#[device]
fn reduce(job: &Job, acc: &[V<f32>], join: impl Fn(usize, V<f32>) -> V<f32>) -> Vec<V<f32>> {
    let t = job.tile;
    let at_once = t.sums_at_once();
    let memory = job.memory.offset(first_sum(job.m.qtype, t, job.rounds())).cast::<f32>();
    let to = memory.offset(warp_id() * (at_once * FRAGMENT_WORDS) + lane_id() * 4);
    let team = if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across };
    let from = memory.offset(team * (TEAM * at_once * FRAGMENT_WORDS) + own_word(t));
    let mut sums: Vec<V<f32>> = Vec::new();
    for chunk in each(acc.chunks(4 * at_once as usize)) {
        sync_threads();
        for (i, of) in each((0u32..).zip(chunk.chunks_exact(4))) {
            to.at(i * FRAGMENT_WORDS).store_x4([of[0], of[1], of[2], of[3]]);
        }
        sync_threads();
        let of_part = |part: u32| {
            let first = part * t.warps_of_part();
            let of =
                |warp: u32| load_words(from.offset((first + warp) * (at_once * FRAGMENT_WORDS)), width(t));
            let pair = |warp: u32| add_each(of(warp), of(warp + 4));
            add_each(add_each(pair(0), pair(2)), add_each(pair(1), pair(3)))
        };
        let parts: Vec<Vec<V<f32>>> = (0..t.parts).map(of_part).collect();
        for r in unroll(0..width(t) as usize) {
            let first = join(sums.len(), parts[0][r]);
            sums.push(parts[1..].iter().fold(first, |sum, part| sum + part[r]));
        }
    }
    sync_threads();
    sums
}

#[device]
fn load_words(from: Shared<f32>, width: u32) -> Vec<V<f32>> {
    match width {
        1 => vec![from.at(0).load()],
        2 => from.at(0).load_x2().to_vec(),
        _ => from.at(0).load_x4().to_vec(),
    }
}

#[device]
fn add_each(a: Vec<V<f32>>, b: Vec<V<f32>>) -> Vec<V<f32>> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}
