//! What a step's attention does before it attends: queries, and the new position's key and value, from what the
//! matrices gave. A warp takes a head.

use super::step::AttendStep;
use crate::dsl::prelude::*;
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

impl Extra {
    fn bias(self, of: usize) -> Option<Fixed<f32>> {
        match self {
            Extra::Biases(biases) => Some(biases[of]),
            _ => None,
        }
    }

    fn norm(self, of: usize) -> Option<Fixed<f32>> {
        match self {
            Extra::Norms(norms) => Some(norms[of]),
            _ => None,
        }
    }
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

/// A head on its way.
#[derive(Clone, Copy)]
struct Head {
    x: In<f32>,
    bias: Option<Fixed<f32>>,
    norm: Option<Fixed<f32>>,
}

/// The lane's pairs of a head: `lane, lane + 32, …`.
#[device]
fn pairs_of(s: &AttendStep, w: Workshop, head: Head) -> Vec<Pair> {
    let (head_dim, half) = (s.attend.head_dim, s.attend.head_dim / 2);
    let mut pairs: Vec<Pair> = Vec::new();
    let mut angles = Vec::new();
    for turn in unroll(0..half.div_ceil(32)) {
        let i = lane_id() + turn * 32;
        let is_whole = (turn + 1) * 32 <= half;
        let own = if is_whole { i } else { min(i, half - 1) };
        let there = (!is_whole).then(|| i < half);
        let places = pair_places(s.kind, head_dim, own);
        angles.push(w.angles.at(own * 2).load_x2());
        pairs.push(Pair { places, values: places.map(|e| head.x.at(e).load()), there });
    }
    if let Some(weight) = head.norm {
        normalize(s, &mut pairs, weight);
    }
    for (pair, angle) in each(pairs.iter_mut().zip(angles)) {
        if let Some(bias) = head.bias {
            let [first, second] = pair.places;
            pair.values = [pair.values[0] + bias.at(first).load(), pair.values[1] + bias.at(second).load()];
        }
        pair.values = rotate(pair.values, angle);
    }
    pairs
}

/// The norm of a head, with the sums in the order of `qk_norm`: a lane's elements ascend through the first of its pairs,
/// then the second.
#[device]
fn normalize(s: &AttendStep, pairs: &mut [Pair], weight: Fixed<f32>) {
    let mut squares = 0.0;
    for side in unroll(0..2) {
        for pair in each(pairs.iter()) {
            squares = fma(pair.values[side], pair.values[side], squares);
        }
    }
    let total = warp_sum(squares);
    let scale = rcp(sqrt(total / (s.attend.head_dim as f32) + s.norm_eps.unwrap_or(0.0)));
    for pair in each(pairs.iter_mut()) {
        for side in unroll(0..2) {
            pair.values[side] = pair.values[side] * scale * weight.at(pair.places[side]).load();
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
pub(super) fn prepare(s: &AttendStep, w: Workshop, is_last: V<bool>) {
    let (group, warps) = (s.attend.group(), s.attend.warps());
    for turn in unroll(0..(group + 2).div_ceil(warps)) {
        let job = warp_id() + turn * warps;
        if job < group {
            prepare_query(s, w, job);
        } else {
            if is_last && job == group {
                prepare_key(s, w);
            }
            if is_last && job == group + 1 {
                prepare_value(s, w);
            }
        }
    }
}

#[device]
fn prepare_query(s: &AttendStep, w: Workshop, job: V<u32>) {
    let head_dim = s.attend.head_dim;
    let element = (w.kv_head * s.attend.group() + job) * head_dim;
    let bias = w.extra.bias(0).map(|bias| bias.offset(element));
    let head = Head { x: w.qkv.offset(element), bias, norm: w.extra.norm(0) };
    let to = w.queries.offset(job * head_dim);
    let scale = exponent_scale(s.score_scale);
    for pair in each(pairs_of(s, w, head)) {
        where_there(pair.there, || {
            for side in unroll(0..2) {
                to.at(pair.places[side]).store(pair.values[side] * scale);
            }
        });
    }
}

#[device]
fn prepare_key(s: &AttendStep, w: Workshop) {
    let (rows, head_dim) = (s.attend.kv_rows(), s.attend.head_dim);
    let (element, place) = (w.kv_head * head_dim, rows.place(w.newest));
    let bias = w.extra.bias(1).map(|bias| bias.offset(element));
    let head = Head { x: w.qkv.offset(s.attend.q_dim()).offset(element), bias, norm: w.extra.norm(1) };
    for pair in each(pairs_of(s, w, head)) {
        where_there(pair.there, || {
            for side in unroll(0..2) {
                let (e, value) = (pair.places[side], pair.values[side]);
                let kept =
                    if rows.in_blocks() { value } else { rows.keep(w.caches[0], place, element + e, value) };
                w.new.at(e).store(kept);
            }
        });
    }
    if rows.in_blocks() {
        // A block's elements are neighbours, one a lane.
        sync_warp();
        for turn in unroll(0..head_dim / 32) {
            let e = lane_id() + turn * 32;
            let kept = rows.keep(w.caches[0], place, element + e, w.new.at(e).load());
            w.new.at(e).store(kept);
        }
    }
}

#[device]
fn prepare_value(s: &AttendStep, w: Workshop) {
    let (rows, head_dim) = (s.attend.kv_rows(), s.attend.head_dim);
    let (element, place) = (w.kv_head * head_dim, rows.place(w.newest));
    let x = w.qkv.offset(s.attend.q_dim() + rows.dim).offset(element);
    for turn in unroll(0..head_dim.div_ceil(32)) {
        let e = lane_id() + turn * 32;
        let there = ((turn + 1) * 32 > head_dim).then(|| e < head_dim);
        where_there(there, || {
            let value = x.at(e).load();
            let value = match w.extra.bias(2) {
                Some(bias) => value + bias.offset(element).at(e).load(),
                None => value,
            };
            w.new.at(e + head_dim).store(rows.keep(w.caches[1], place, element + e, value));
        });
    }
}

/// Whether heads can be normed here: a lane's pairs are then the elements that `qk_norm` gives it.
pub(super) const fn norms_in_pairs(kind: RopeKind, head_dim: u32) -> bool {
    matches!(kind, RopeKind::Neox) && head_dim.is_multiple_of(64)
}
