//! Results brought together: those of a CTA's warps, and those of a row's stretches.

use super::board::{Shares, own_heads};
use super::walk::{State, gather, holds, part_of};
use super::{Attend, LEAST, PER_LANE, decay::decay};
use crate::dsl::{Ptr, Readable, Writable, prelude::*};
use crate::kernels::quantize;

/// Stretches whose results are on their way at once while there are as many.
const MANY: u32 = 16;
/// The same for the rest; those beyond the last count nothing.
const FEW: u32 = 8;

/// Four neighbouring outputs of some heads that are side by side.
pub(super) struct Quad {
    /// Its index among those of the heads.
    place: V<u32>,
    /// Whether no other thread has it.
    there: V<bool>,
    o: [V<f32>; 4],
    m: V<f32>,
    l: V<f32>,
}

impl Quad {
    /// What attention gives.
    #[device]
    fn output(&self) -> [V<f32>; 4] {
        self.o.map(|o| o / self.l)
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

/// The states of a CTA's warps in ascending order: a stretch's result for the heads of a group.
#[device]
pub(super) fn join_warps(s: &Attend, state: State) -> Vec<Quad> {
    let (n_warps, group) = (s.warps(), s.group());
    let outputs = shared::<f32>(n_warps * group * s.head_dim);
    let pairs = shared::<f32>(n_warps * group * 2);
    let State { m, l, o } = gather(s, state);
    if lane_id() < s.lanes() && holds(s) {
        let place = outputs.offset(warp_id() * (group * s.head_dim) + part_of(s) * PER_LANE);
        for g in unroll(0..group) {
            let o = &o[g as usize];
            place.at(g * s.head_dim).store_x4([o[0], o[1], o[2], o[3]]);
            place.at(g * s.head_dim + 4).store_x4([o[4], o[5], o[6], o[7]]);
        }
    }
    let of = Shares::new(s);
    let [first, end] = own_heads(of);
    for h in unroll(0..of.own_heads()) {
        if lane_id() < of.head_lanes() && first + h < end {
            let place = pairs.at((warp_id() * group + first + h) * 2);
            place.store_x2([m[h as usize], l[h as usize]]);
        }
    }
    sync_threads();
    let mut quads: Vec<Quad> = Vec::new();
    for (place, there) in each(quads_of_thread(s, group * s.head_dim / 4)) {
        let of_head = pairs.offset(place / (s.head_dim / 4) * 2);
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
            let of_warp = outputs.offset(place * 4).at(warp * group * s.head_dim).load_x4();
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
    let most = s.n_splits.next_multiple_of(32);
    let weights = shared::<f32>(n_heads * most);
    let sums = shared::<f32>(n_heads);
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
    for (place, there) in each(quads_of_thread(s, n_heads * s.head_dim / 4)) {
        let (head, quad) = (place / (s.head_dim / 4), place % (s.head_dim / 4));
        let from = parts.partial.offset(first_part(s, first, head) * s.head_dim + quad * 4);
        let of_head = weights.offset(head * most);
        let mut o = [0.0; 4];
        let n_many = n_active / MANY;
        for turn in 0..n_many {
            o = add_stretches(s, (from, of_head), (turn * MANY, n_active), MANY, o);
        }
        let done = n_many * MANY;
        let turns = (n_active - done + (FEW - 1)) / FEW;
        for turn in 0..turns {
            o = add_stretches(s, (from, of_head), (done + turn * FEW, n_active), FEW, o);
        }
        quads.push(Quad { place, there, o, m: dev(0.0), l: sums.at(head).load() });
    }
    quads
}

/// o += Σ weight · partial output of `count` stretches from `first` on, all on their way before the first is used.
#[device]
fn add_stretches<K: Readable>(
    s: &Attend,
    (from, weights): (Ptr<f32, K>, Shared<f32>),
    (first, n_active): (V<u32>, V<u32>),
    count: u32,
    before: [V<f32>; 4],
) -> [V<f32>; 4] {
    let mut o = before;
    let mut found = Vec::new();
    for i in unroll(0..count) {
        // Only the few of the rest go beyond the last.
        let stretch = if count == MANY { first + i } else { min(first + i, n_active - 1) };
        found.push(from.at(stretch * (s.group() * s.head_dim)).load_x4());
    }
    for quad in unroll(0..count / 4) {
        let weights = weights.offset(first).at(quad * 4).load_x4();
        for i in unroll(0..4) {
            for e in unroll(0..4) {
                o[e] = fma(found[quad as usize * 4 + i][e], weights[i], o[e]);
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
    let mut largest = dev(LEAST);
    for turn in unroll(0..s.n_splits.div_ceil(32)) {
        let stretch = lane_id() + turn * 32;
        let pair = parts.stats.at((part + min(stretch, n_active - 1) * s.group()) * 2).load_x2();
        let m = select(stretch < n_active, pair[0], LEAST);
        largest = max(largest, m);
        found.push([m, pair[1]]);
    }
    let largest = warp_max(largest);
    let mut own = 0.0;
    for turn in unroll(0..found.len() as u32) {
        let [m, l] = found[turn as usize];
        let stretch = lane_id() + turn * 32;
        let weight = select(stretch < n_active, decay(m - largest), 0.0);
        own = fma(l, weight, own);
        weights.at(stretch).store(weight);
    }
    let total = warp_sum(own);
    if lane_id() == 0 {
        sum.at(0).store(total);
    }
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
