//! What a step's attention does before it attends: queries, and the new position's key and value, from what the
//! matrices gave. A warp takes a head.

use super::step::AttendStep;
use crate::dsl::prelude::*;
use crate::kernels::kv_rows::Keeper;
use crate::kernels::rope::{exponent_scale, pair_places, rotate};
use ::plan::RopeKind;

/// Weights of a layer that are added to heads or multiply them.
#[derive(Clone, Copy)]
pub(super) enum Extra {
    Nothing,
    /// Biases of Q, K and V.
    Biases([Fixed<f32>; 3]),
    /// Weights of the norms of the heads of Q and K.
    Norms([Fixed<f32>; 2]),
}

/// What a CTA prepares from and to.
#[derive(Clone, Copy)]
pub(super) struct Workshop {
    /// Q, K and V of the row.
    pub(super) qkv: In<f32>,
    /// `(cos, sin)` of its position.
    pub(super) angles: Fixed<f32>,
    pub(super) extra: Extra,
    pub(super) kv_head: V<u32>,
    /// Query heads of the CTA, and the first of them.
    pub(super) group: u32,
    pub(super) first_head: V<u32>,
    /// Whether it is the CTA that appends.
    pub(super) appends: V<bool>,
    /// Addresses of the caches.
    pub(super) caches: [V<u64>; 2],
    /// The newest position.
    pub(super) newest: V<u32>,
    /// Room for the group's queries.
    pub(super) queries: Shared<f32>,
    /// Room for the new key, then the new value, as the cache has them.
    pub(super) new: Shared<f32>,
}

/// A pair of a lane: its elements in the head and their values, rotated.
struct Pair {
    places: [V<u32>; 2],
    values: [V<f32>; 2],
    /// Whether no other lane has it; not said where that is known.
    there: Option<V<bool>>,
}

/// What a lane needs for a head besides its elements, which nobody has to be waited for.
pub(super) struct Early {
    /// `(cos, sin)` of its pairs.
    angles: Vec<[V<f32>; 2]>,
    /// Biases of its elements, or weights of their norm: pair by pair, of the value in the order of its elements. Empty where
    /// there are none.
    extra: Vec<V<f32>>,
}

/// The lane's pairs of a head: index, and whether no other lane has it.
#[device]
fn own_pairs(s: &AttendStep) -> Vec<(V<u32>, Option<V<bool>>)> {
    let half = s.attend.head_dim / 2;
    let mut own: Vec<(V<u32>, Option<V<bool>>)> = Vec::new();
    for turn in unroll(0..half.div_ceil(32)) {
        let i = lane_id() + turn * 32;
        let is_whole = (turn + 1) * 32 <= half;
        own.push((if is_whole { i } else { min(i, half - 1) }, (!is_whole).then(|| i < half)));
    }
    own
}

/// Loads what does not depend on earlier launches: for each of the warp's jobs, angles and biases or weights.
#[device]
pub(super) fn gather(s: &AttendStep, w: Workshop) -> Vec<Early> {
    let (group, warps, head_dim) = (w.group, s.attend.warps(), s.attend.head_dim);
    let mut gathered: Vec<Early> = Vec::new();
    for turn in unroll(0..(group + 2).div_ceil(warps)) {
        let job = warp_id() + turn * warps;
        let mut angles = Vec::new();
        for (own, _) in each(own_pairs(s)) {
            angles.push(w.angles.at(own * 2).load_x2());
        }
        let of_kv = w.kv_head * head_dim;
        let mut extra = Vec::new();
        match w.extra {
            Extra::Nothing => {}
            Extra::Biases([q, k, v]) => {
                extra = vec![dev(0.0f32); 2 * angles.len()];
                if job < group {
                    extra = of_pairs(s, q.offset((w.first_head + job) * head_dim));
                } else {
                    if job == group {
                        extra = of_pairs(s, k.offset(of_kv));
                    } else {
                        extra = in_order(s, v.offset(of_kv));
                    }
                }
            }
            Extra::Norms([q, k]) => {
                extra = vec![dev(0.0f32); 2 * angles.len()];
                if job < group {
                    extra = of_pairs(s, q);
                } else {
                    extra = of_pairs(s, k);
                }
            }
        }
        gathered.push(Early { angles, extra });
    }
    gathered
}

/// The lane's elements pair by pair.
#[device]
fn of_pairs(s: &AttendStep, from: Fixed<f32>) -> Vec<V<f32>> {
    let mut out = Vec::new();
    for (own, _) in each(own_pairs(s)) {
        for place in each(pair_places(s.kind, s.attend.head_dim, own)) {
            out.push(from.at(place).load());
        }
    }
    out
}

/// Elements `lane, lane + 32, …`; as many as [`of_pairs`] gives, the last repeated.
#[device]
fn in_order(s: &AttendStep, from: Fixed<f32>) -> Vec<V<f32>> {
    let head_dim = s.attend.head_dim;
    let mut out = Vec::new();
    for turn in unroll(0..2 * (head_dim / 2).div_ceil(32)) {
        let e = lane_id() + turn * 32;
        out.push(from.at(if (turn + 1) * 32 <= head_dim { e } else { min(e, head_dim - 1) }).load());
    }
    out
}

/// The lane's pairs of a head: `lane, lane + 32, …`.
#[device]
fn pairs_of(s: &AttendStep, w: Workshop, x: In<f32>, early: &Early) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (own, there) in each(own_pairs(s)) {
        let places = pair_places(s.kind, s.attend.head_dim, own);
        pairs.push(Pair { places, values: places.map(|e| x.at(e).load()), there });
    }
    if matches!(w.extra, Extra::Norms(_)) {
        normalize(s, &mut pairs, &early.extra);
    }
    for i in unroll(0..pairs.len()) {
        if matches!(w.extra, Extra::Biases(_)) {
            let [first, second] = pairs[i].values;
            pairs[i].values = [first + early.extra[2 * i], second + early.extra[2 * i + 1]];
        }
        pairs[i].values = rotate(pairs[i].values, early.angles[i]);
    }
    pairs
}

/// The norm of a head, with the sums in the order of `qk_norm`: a lane's elements ascend through the first of its pairs,
/// then the second.
#[device]
fn normalize(s: &AttendStep, pairs: &mut [Pair], weights: &[V<f32>]) {
    let mut squares = 0.0;
    for side in unroll(0..2) {
        for pair in each(pairs.iter()) {
            squares = fma(pair.values[side], pair.values[side], squares);
        }
    }
    let total = warp_sum(squares);
    let scale = rcp(sqrt(total / (s.attend.head_dim as f32) + s.norm_eps.unwrap_or(0.0)));
    for i in unroll(0..pairs.len()) {
        for side in unroll(0..2) {
            pairs[i].values[side] = pairs[i].values[side] * scale * weights[2 * i + side];
        }
    }
}

/// Does `body` where a lane has an element of its own.
#[device]
fn where_there(there: Option<V<bool>>, body: impl Fn()) {
    if let Some(there) = there {
        if there {
            body();
        }
    } else {
        body();
    }
}

/// Queries of the group and, where `is_last`, the new key and value: into shared memory, and these into the caches.
#[device]
pub(super) fn prepare(s: &AttendStep, w: Workshop, early: Vec<Early>, is_last: V<bool>) {
    let (group, warps) = (w.group, s.attend.warps());
    for (turn, early) in each(early.iter().enumerate()) {
        let job = warp_id() + turn as u32 * warps;
        if job < group {
            prepare_query(s, w, early, job);
        } else {
            if is_last && job == group {
                prepare_key(s, w, early);
            }
            if is_last && job == group + 1 {
                prepare_value(s, w, early);
            }
        }
    }
}

#[device]
fn prepare_query(s: &AttendStep, w: Workshop, early: &Early, job: V<u32>) {
    let head_dim = s.attend.head_dim;
    let element = (w.first_head + job) * head_dim;
    let to = w.queries.offset(job * head_dim);
    let scale = exponent_scale(s.score_scale);
    for pair in each(pairs_of(s, w, w.qkv.offset(element), early)) {
        where_there(pair.there, || {
            for side in unroll(0..2) {
                to.at(pair.places[side]).store(pair.values[side] * scale);
            }
        });
    }
}

#[device]
fn prepare_key(s: &AttendStep, w: Workshop, early: &Early) {
    let (rows, head_dim) = (s.attend.kv_rows(), s.attend.head_dim);
    let element = w.kv_head * head_dim;
    let to = Keeper { cache: w.caches[0], place: rows.place(w.newest), stores: w.appends };
    let x = w.qkv.offset(s.attend.q_dim()).offset(element);
    for pair in each(pairs_of(s, w, x, early)) {
        where_there(pair.there, || {
            for side in unroll(0..2) {
                let (e, value) = (pair.places[side], pair.values[side]);
                let kept = if rows.in_blocks() { value } else { rows.keep(to, element + e, value) };
                w.new.at(e).store(kept);
            }
        });
    }
    if rows.in_blocks() {
        // A block's elements are neighbours, one a lane.
        sync_warp();
        for turn in unroll(0..head_dim / 32) {
            let e = lane_id() + turn * 32;
            let kept = rows.keep(to, element + e, w.new.at(e).load());
            w.new.at(e).store(kept);
        }
    }
}

#[device]
fn prepare_value(s: &AttendStep, w: Workshop, early: &Early) {
    let (rows, head_dim) = (s.attend.kv_rows(), s.attend.head_dim);
    let element = w.kv_head * head_dim;
    let to = Keeper { cache: w.caches[1], place: rows.place(w.newest), stores: w.appends };
    let x = w.qkv.offset(s.attend.q_dim() + rows.dim).offset(element);
    for turn in unroll(0..head_dim.div_ceil(32)) {
        let e = lane_id() + turn * 32;
        let there = ((turn + 1) * 32 > head_dim).then(|| e < head_dim);
        where_there(there, || {
            let value = x.at(e).load();
            let value = match w.extra {
                Extra::Biases(_) => value + early.extra[turn as usize],
                _ => value,
            };
            w.new.at(e + head_dim).store(rows.keep(to, element + e, value));
        });
    }
}

/// Whether heads can be normed here: a lane's pairs are then the elements that `qk_norm` gives it.
pub(super) const fn norms_in_pairs(kind: RopeKind, head_dim: u32) -> bool {
    matches!(kind, RopeKind::Neox) && head_dim.is_multiple_of(64)
}
