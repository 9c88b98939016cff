//! Results brought together: those of a CTA's warps, and those of a row's stretches.

use super::board::{Shares, own_heads};
use super::walk::{State, gather, holds, part_of};
use super::{Attend, LEAST, PER_LANE, decay::decay, tensor};
use crate::dsl::{Ptr, Readable, Writable, prelude::*};
use crate::kernels::quantize;

/// Stretches whose results are used up, and sent for, at once.
const LOT: u32 = 8;
/// Lots on their way at once: what a thread's registers have room for.
const MOST_LOTS: u32 = 3;

/// The same where there may be fewer.
fn lots(s: &Attend) -> u32 {
    s.n_splits.div_ceil(LOT).min(MOST_LOTS)
}

/// A quad of each of [`LOT`] stretches.
type Lot = Vec<Vec<V<f32>>>;

/// Four neighbouring outputs of some heads that are side by side.
pub(super) struct Quad {
    /// Its index among those of the heads.
    pub(super) place: V<u32>,
    /// Whether no other thread has it.
    pub(super) there: V<bool>,
    pub(super) o: [V<f32>; 4],
    pub(super) m: V<f32>,
    pub(super) l: V<f32>,
}

impl Quad {
    /// What attention gives.
    #[device]
    fn output(&self) -> [V<f32>; 4] {
        let share = rcp(self.l);
        self.o.map(|o| o * share)
    }
}

/// The quads of a thread when a CTA shares `n` of them: index, and whether it is the thread's own. Those of a block are two
/// lanes apart.
#[device]
fn quads_of_thread(s: &Attend, n: u32) -> Vec<(V<u32>, V<bool>)> {
    let mut places: Vec<(V<u32>, V<bool>)> = Vec::new();
    let thread = thread_idx_x();
    let spread = (thread & !15) + (thread & 1) * 8 + (thread >> 1 & 7);
    for turn in unroll(0..n.div_ceil(s.threads())) {
        let place = spread + turn * s.threads();
        places.push((min(place, n - 1), place < n));
    }
    places
}

/// f32 from one head's outputs to the next in a [`Room`]: heads that lanes write at once begin in other banks.
const fn pitch(s: &Attend) -> u32 {
    s.head_dim + 4
}

/// Where the warps of a CTA leave their results for the heads of a group.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// (warp, group, head_dim), heads a [`pitch`] apart.
    outputs: Shared<f32>,
    /// (warp, group) of (maximum, sum).
    pairs: Shared<f32>,
}

impl Room {
    #[device]
    pub(super) fn new(s: &Attend) -> Room {
        let heads = s.warps() * s.group();
        Room { outputs: shared(heads * pitch(s)), pairs: shared(heads * 2) }
    }

    /// Leaves what a warp has.
    #[device]
    pub(super) fn put(self, s: &Attend, state: State) {
        let State { m, l, o } = gather(s, state);
        if lane_id() < s.lanes() && holds(s) {
            let place = self.outputs.offset(warp_id() * (s.group() * pitch(s)) + part_of(s) * PER_LANE);
            for g in unroll(0..s.group()) {
                store_eight(place.offset(g * pitch(s)), &o[g as usize]);
            }
        }
        let of = Shares::new(s);
        let [first, end] = own_heads(of);
        for h in unroll(0..of.own_heads()) {
            if lane_id() < of.head_lanes() && first + h < end {
                let place = self.pairs.at((warp_id() * s.group() + first + h) * 2);
                place.store_x2([m[h as usize], l[h as usize]]);
            }
        }
    }

    /// Leaves what a warp has from tensor cores.
    #[device]
    pub(super) fn put_tensor(self, s: &Attend, state: &tensor::State) {
        let (of_warp, pair) = (warp_id() * s.group(), state.of_head());
        if lane_id() / 4 < s.group() && lane_id() % 4 == 0 {
            self.pairs.at((of_warp + lane_id() / 4) * 2).store_x2(pair);
        }
        for side in unroll(0..2) {
            let head = lane_id() % 4 * 2 + side as u32;
            if head < s.group() {
                let place = self.outputs.offset((of_warp + head) * pitch(s) + lane_id() / 4 * 8);
                for (i, run) in each((0u32..).zip(state.outputs(side).iter())) {
                    store_eight(place.offset(i * tensor::OF_VALUE), run);
                }
            }
        }
    }
}

#[device]
fn store_eight(to: Shared<f32>, x: &[V<f32>]) {
    to.at(0).store_x4([x[0], x[1], x[2], x[3]]);
    to.at(4).store_x4([x[4], x[5], x[6], x[7]]);
}

/// What a CTA's warps left, in ascending order: a stretch's result for the heads of a group.
#[device]
pub(super) fn join_warps(s: &Attend, room: Room) -> Vec<Quad> {
    let (n_warps, group) = (s.warps(), s.group());
    let Room { outputs, pairs } = room;
    sync_threads();
    let mut quads: Vec<Quad> = Vec::new();
    for (place, there) in each(quads_of_thread(s, group * s.head_dim / 4)) {
        let (head, quad) = (place / (s.head_dim / 4), place % (s.head_dim / 4));
        let (of_head, of_quad) = (pairs.offset(head * 2), outputs.offset(head * pitch(s) + quad * 4));
        let mut found = Vec::new();
        let mut largest = dev(LEAST);
        for warp in unroll(0..n_warps) {
            let pair = of_head.at(warp * group * 2).load_x2();
            largest = max(largest, pair[0]);
            found.push(pair);
        }
        let mut sum = 0.0;
        let mut o = [0.0; 4];
        for warp in unroll(0..n_warps) {
            let pair = found[warp as usize];
            let weight = decay(pair[0] - largest);
            sum = fma(pair[1], weight, sum);
            let of_warp = of_quad.at(warp * group * pitch(s)).load_x4();
            for e in unroll(0..4) {
                o[e] = fma(of_warp[e], weight, o[e]);
            }
        }
        quads.push(Quad { place, there, o, m: largest, l: sum });
    }
    quads
}

/// Where the results of a row's stretches lie: (kv head, stretch, group, head_dim) outputs and (maximum, sum) pairs.
pub(super) struct Parts<K> {
    pub(super) partial: Ptr<f32, K>,
    pub(super) stats: Ptr<f32, K>,
}

impl<K: Writable> Parts<K> {
    /// Stores a stretch's result, `stretch` counted through the key heads.
    #[device]
    pub(super) fn store(&self, s: &Attend, stretch: V<u32>, quads: &[Quad]) {
        let of_head = s.head_dim / 4;
        for quad in each(quads.iter()) {
            if quad.there {
                self.partial.offset(stretch * (s.group() * s.head_dim)).at(quad.place * 4).store_x4(quad.o);
                if quad.place % of_head == 0 {
                    let head = stretch * s.group() + quad.place / of_head;
                    self.stats.at(head * 2).store_x2([quad.m, quad.l]);
                }
            }
        }
    }
}

/// Where the stretches of head `head`, counted from key head `first`, begin, in heads.
#[device]
fn first_part(s: &Attend, first: V<u32>, head: V<u32>) -> V<u32> {
    if s.merged_kv_heads() == 1 {
        first * (s.n_splits * s.group()) + head
    } else {
        (first + head / s.group()) * (s.n_splits * s.group()) + head % s.group()
    }
}

/// The stretches of the key heads from `first` on, in ascending order.
#[device]
pub(super) fn join_stretches<K: Readable>(
    s: &Attend,
    parts: &Parts<K>,
    first: V<u32>,
    n_active: V<u32>,
) -> Vec<Quad> {
    let n_heads = s.merged_kv_heads() * s.group();
    let (most, of_round) = (weights_of_head(s), LOT * lots(s));
    let weights = shared::<f32>(n_heads * most);
    let sums = shared::<f32>(n_heads);
    let mut ahead: Vec<Vec<Lot>> = Vec::new();
    for (place, _) in each(quads_of_thread(s, n_heads * s.head_dim / 4)) {
        ahead.push(fetch_ahead(s, quad_of_first(s, parts, first, place), n_active));
    }
    for turn in unroll(0..n_heads.div_ceil(s.warps())) {
        let head = warp_id() + turn * s.warps();
        if head < n_heads {
            weigh_stretches(
                s,
                parts,
                (first_part(s, first, head), n_active),
                (weights.offset(head * most), sums.offset(head)),
            );
        }
    }
    sync_threads();
    let mut quads: Vec<Quad> = Vec::new();
    for ((place, there), ahead) in each(quads_of_thread(s, n_heads * s.head_dim / 4).into_iter().zip(&ahead))
    {
        let head = place / (s.head_dim / 4);
        let (from, of_head) = (quad_of_first(s, parts, first, place), weights.offset(head * most));
        let (mut held, mut o, mut done) = (ahead.clone(), [dev(0.0); 4], dev(0u32));
        if s.n_splits > of_round {
            // The last round of lots needs no others behind it.
            for turn in 0..(max(n_active, of_round) - 1) / of_round {
                for i in unroll(0..lots(s)) {
                    o = add_stretches(of_head.offset(turn * of_round + i * LOT), &held[i as usize], o);
                    // What stays in place of lots beyond the last counts nothing.
                    let next = (turn + 1) * of_round + i * LOT;
                    if next < n_active {
                        held[i as usize] = fetch_lot(s, from, next, n_active);
                    }
                }
                done = (turn + 1) * of_round;
            }
        }
        for i in unroll(0..lots(s)) {
            o = add_stretches(of_head.offset(done + i * LOT), &held[i as usize], o);
        }
        quads.push(Quad { place, there, o, m: dev(0.0), l: sums.at(head).load() });
    }
    quads
}

/// Weights of a head: whole rounds of lots, and a warp's.
fn weights_of_head(s: &Attend) -> u32 {
    s.n_splits.next_multiple_of(LOT * lots(s)).next_multiple_of(32)
}

/// A quad of the first stretch: those of the others are a group's outputs apart.
#[device]
fn quad_of_first<K: Readable>(s: &Attend, parts: &Parts<K>, first: V<u32>, place: V<u32>) -> Ptr<f32, K> {
    let (head, quad) = (place / (s.head_dim / 4), place % (s.head_dim / 4));
    parts.partial.offset(first_part(s, first, head) * s.head_dim + quad * 4)
}

/// The first lots of a quad on their way; those without any stretch are 0.
#[device]
fn fetch_ahead<K: Readable>(s: &Attend, from: Ptr<f32, K>, n_active: V<u32>) -> Vec<Lot> {
    let mut all: Vec<Lot> = vec![fetch_lot(s, from, dev(0u32), n_active)];
    for i in unroll(1..lots(s)) {
        let mut lot: Lot = vec![vec![dev(0.0f32); 4]; LOT as usize];
        if n_active > i * LOT {
            lot = fetch_lot(s, from, dev(i * LOT), n_active);
        }
        all.push(lot);
    }
    all
}

/// Quads of neighbouring stretches on their way; in place of those beyond the last, which count nothing, the last.
#[device]
fn fetch_lot<K: Readable>(s: &Attend, from: Ptr<f32, K>, first: V<u32>, n_active: V<u32>) -> Lot {
    let mut found: Lot = Vec::new();
    for i in unroll(0..LOT) {
        let stretch = min(first + i, n_active - 1);
        found.push(from.at(stretch * (s.group() * s.head_dim)).load_x4().to_vec());
    }
    found
}

/// o += Σ weight · partial output of neighbouring stretches.
#[device]
fn add_stretches(weights: Shared<f32>, found: &Lot, before: [V<f32>; 4]) -> [V<f32>; 4] {
    let mut o = before;
    for (quad, of_quad) in each((0u32..).zip(found.chunks(4))) {
        let weights = weights.at(quad * 4).load_x4();
        for (stretch, weight) in each(of_quad.iter().zip(weights)) {
            for e in unroll(0..4) {
                o[e] = fma(stretch[e], weight, o[e]);
            }
        }
    }
    o
}

/// A warp's head: the weight of each stretch, 0 beyond the last, and the sum of all weights.
#[device]
fn weigh_stretches<K: Readable>(
    s: &Attend,
    parts: &Parts<K>,
    (part, n_active): (V<u32>, V<u32>),
    (weights, sum): (Shared<f32>, Shared<f32>),
) {
    let mut found = Vec::new();
    for turn in unroll(0..weights_of_head(s) / 32) {
        let stretch = lane_id() + turn * 32;
        found.push(parts.stats.at((part + min(stretch, n_active - 1) * s.group()) * 2).load_x2());
    }
    let Weighed { weights: of_lane, sum: total } = weigh(&found, n_active);
    for (weight, turn) in each(of_lane.iter().zip(0u32..)) {
        weights.at(lane_id() + turn * 32).store(*weight);
    }
    if lane_id() == 0 {
        sum.at(0).store(total);
    }
}

/// What the stretches of a head count.
pub(super) struct Weighed {
    /// The weight of the lane's stretch of each 32, 0 beyond the last.
    pub(super) weights: Vec<V<f32>>,
    /// The sum of all weights.
    pub(super) sum: V<f32>,
}

/// Weighs stretches by the (maximum, sum) pairs of a lane's one of each 32, whatever those beyond the last say.
#[device]
pub(super) fn weigh(pairs: &[[V<f32>; 2]], n_active: V<u32>) -> Weighed {
    let mut largest = dev(LEAST);
    let mut maxima = Vec::new();
    for (pair, turn) in each(pairs.iter().zip(0u32..)) {
        let m = select(lane_id() + turn * 32 < n_active, pair[0], LEAST);
        largest = max(largest, m);
        maxima.push(m);
    }
    let largest = warp_max(largest);
    let mut own = 0.0;
    let mut weights: Vec<V<f32>> = Vec::new();
    for (turn, pair) in each((0u32..).zip(pairs.iter())) {
        let there = lane_id() + turn * 32 < n_active;
        let weight = select(there, decay(maxima[turn as usize] - largest), 0.0);
        own = fma(pair[1], weight, own);
        weights.push(weight);
    }
    Weighed { weights, sum: warp_sum(own) }
}

/// Quantizes and stores the outputs of the key heads from `first` on.
#[device]
pub(super) fn store_blocks(s: &Attend, first: V<u32>, quads: &[Quad], quants: Out<u32>, meta: Out<u32>) {
    for quad in each(quads.iter()) {
        let place = first * (s.group() * s.head_dim / 4) + quad.place;
        quantize::store_quad_spread(quad.output(), place, quad.there, quants, meta);
    }
}

/// Stores the outputs of the key heads from `first` on.
#[device]
pub(super) fn store_floats(s: &Attend, first: V<u32>, quads: &[Quad], x: Out<f32>) {
    for quad in each(quads.iter()) {
        if quad.there {
            x.at(first * (s.group() * s.head_dim) + quad.place * 4).store_x4(quad.output());
        }
    }
}
