//! The walk of a team over its super-blocks: what is on its way from memory, what is staged, when it is multiplied
//! ([`products`](super::products)) and when the sums are added up ([`sums`](super::sums)).

use super::Batch;
use super::products::{advance, begin, finish, multiply};
use super::stage::{Acts, Job, Weights, load_acts, load_weights, part_of_warp, put, stage_words};
use super::sums::{first_sum, reduce};
use super::tile::{FRAGMENT_WORDS, TEAM, Tile};
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::layout::SUB_BLOCKS;
use ::plan::QType;

/// Words of shared memory that a job needs, of parts of K that are multiplied in `rounds`.
pub(super) const fn shared_words(qtype: QType, t: Tile, rounds: u32) -> u32 {
    let stages = stage_words(qtype, t) * t.buffers;
    let sums = t.warps() * t.sums_at_once() * FRAGMENT_WORDS;
    let first = first_sum(qtype, t, rounds);
    if stages > first + sums { stages } else { first + sums }
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
    pub(super) fn rounds(&self) -> u32 {
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

/// The CTA's outputs, those of a thread in the order of [`element`](super::sums::element).
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
