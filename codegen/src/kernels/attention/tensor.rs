//! A warp's way through a stretch on tensor cores: 16 positions at a time, all heads of a group at once.
//!
//! An f32 goes in twice: rounded to a half, and what that leaves, as a half again. Sums of both have some 22 bits of a query or a
//! weight; keys and values are halves already. For scores, Q Kᵀ, `mma.m16n8k16` has sixteen rows: a group's queries, at most
//! eight, and their lower halves below them. Outputs are Vᵀ Pᵀ, sixteen elements times eight heads, once for either half.
//!
//! With g = lane / 4 and t = lane % 4 a lane has the scores of head g at positions 2t, 2t + 1, 2t + 8 and 2t + 9: the same
//! places that the second product wants its weights in, so they never change lanes. Which elements of a head are called
//! 0 to 15 of a product is free as long as both factors agree; here they are those that 16-byte loads bring to a lane.

use super::walk::{Source, Span};
use super::{Attend, LEAST, decay::decay};
use crate::dsl::{Readable, prelude::*};

/// Positions that a warp takes at once: the depth of a product.
pub(super) const POSITIONS: u32 = 16;
/// Heads that fit, with the two halves of each query.
pub(super) const MOST_HEADS: u32 = 8;
/// Positions of a product's columns.
const COLUMNS: u32 = 8;
/// Elements of a product: its depth for scores, its rows for outputs.
const ELEMENTS: u32 = 16;
/// Elements of a key that the four lanes of a position load at once.
const OF_KEY: u32 = 32;
/// Elements of a value that eight lanes load at once.
pub(super) const OF_VALUE: u32 = 64;
/// What weights are multiplied by, so that small ones are no subnormal halves: the greatest becomes this.
const SCALE: f32 = 16384.0;

/// What a lane loads of some positions: lists of four words.
type Words = Vec<Vec<V<u32>>>;

/// Keys and values of a warp's next positions, as they lie in memory.
pub(super) struct Fetched {
    k: Words,
    v: Words,
}

/// What a warp knows of its positions.
pub(super) struct State {
    /// Greatest score of head g.
    m: V<f32>,
    /// Sum of the weights of head g that the lane has.
    l: V<f32>,
    /// Outputs of heads 2t and 2t + 1, product by product: one element of both, then the next element of both.
    o: Vec<Vec<V<f32>>>,
}

/// Maximum, sum and outputs.
type Fields = (V<f32>, V<f32>, Vec<Vec<V<f32>>>);

impl State {
    /// Its fields, as control flow can change them.
    fn parts(self) -> Fields {
        (self.m, self.l, self.o)
    }

    /// Before any position.
    #[device]
    fn empty(s: &Attend) -> State {
        State { m: dev(LEAST), l: dev(0.0), o: vec![vec![dev(0.0); 4]; (s.head_dim / ELEMENTS) as usize] }
    }

    /// After one position. `q` gives four elements of head g from one on, `k` and `v` eight of the key head.
    #[device]
    fn of_one(
        s: &Attend,
        q: impl Fn(V<u32>) -> Vec<V<f32>>,
        k: impl Fn(V<u32>) -> Vec<V<f32>>,
        v: impl Fn(V<u32>) -> Vec<V<f32>>,
    ) -> State {
        let mut score = dev(0.0f32);
        for chunk in unroll(0..s.head_dim / OF_KEY) {
            let first = lane_id() % 4 * 8 + chunk * OF_KEY;
            let (q, k) = ([q(first), q(first + 4)].concat(), k(first));
            for e in unroll(0..8) {
                score = fma(q[e], k[e], score);
            }
        }
        for distance in each([2, 1]) {
            score = score + shuffle_xor(score, distance);
        }
        // Its weight is the greatest, or NaN for a score that is none.
        let weight = score - score + SCALE;
        let of_heads = to_pair(weight);
        let mut o: Vec<Vec<V<f32>>> = Vec::new();
        for piece in unroll(0..s.head_dim / OF_VALUE) {
            let v = v(lane_id() / 4 * 8 + piece * OF_VALUE);
            for word in unroll(0..4) {
                let (first, second) = (v[2 * word], v[2 * word + 1]);
                let mut product = of_heads.map(|weight| first * weight).to_vec();
                product.extend(of_heads.map(|weight| second * weight));
                o.push(product);
            }
        }
        State { m: score, l: select(lane_id() % 4 == 0, weight, 0.0), o }
    }

    /// Greatest score and sum of weights of head g.
    #[device]
    pub(super) fn of_head(&self) -> [V<f32>; 2] {
        let mut l = self.l;
        for distance in each([2, 1]) {
            l = l + shuffle_xor(l, distance);
        }
        [self.m, l * (1.0 / SCALE)]
    }

    /// Outputs of head 2t + `side`: runs of eight elements, the first from element 8g on, each [`OF_VALUE`] behind the one before.
    #[device]
    pub(super) fn outputs(&self, side: usize) -> Vec<Vec<V<f32>>> {
        let mut runs: Vec<Vec<V<f32>>> = Vec::new();
        for of_piece in each(self.o.chunks(4)) {
            let mut run = Vec::new();
            for product in each(of_piece.iter()) {
                run.push(product[side] * (1.0 / SCALE));
                run.push(product[side + 2] * (1.0 / SCALE));
            }
            runs.push(run);
        }
        runs
    }
}

/// What head g's lanes have, for the lanes that have outputs of heads 2t and 2t + 1.
#[device]
fn to_pair(of_head: V<f32>) -> [V<f32>; 2] {
    let first = lane_id() % 4 * 8;
    [shuffle_idx(of_head, first), shuffle_idx(of_head, first + 4)]
}

/// Head g; lanes beyond the last repeat it, and what they hold is not used.
#[device]
pub(super) fn head_of(s: &Attend) -> V<u32> {
    if s.group() == MOST_HEADS { lane_id() / 4 } else { min(lane_id() / 4, s.group() - 1) }
}

/// Two values as halves, and what that leaves of them as halves.
#[device]
fn split(low: V<f32>, high: V<f32>) -> [V<u32>; 2] {
    let upper = cvt_pack_f16(low, high);
    let [of_low, of_high] = unpack_f16(upper);
    [upper, cvt_pack_f16(low - of_low.to_f32(), high - of_high.to_f32())]
}

/// The rows of the first products: as lanes take them, four words each, in shared memory.
#[derive(Clone, Copy)]
struct Queries(Shared<u32>);

impl Queries {
    /// Makes them; a warp, those of some products. `of` gives four elements of head g from one on.
    #[device]
    fn new(s: &Attend, of: impl Fn(V<u32>) -> Vec<V<f32>>) -> Queries {
        let products = s.head_dim / ELEMENTS;
        let rows = shared::<u32>(products * 128);
        for turn in unroll(0..products.div_ceil(s.warps())) {
            let product = warp_id() + turn * s.warps();
            if product < products {
                let q = of(product / 2 * OF_KEY + lane_id() % 4 * 8 + product % 2 * 4);
                let (near, far) = (split(q[0], q[1]), split(q[2], q[3]));
                rows.at((product * 32 + lane_id()) * 4).store_x4([near[0], near[1], far[0], far[1]]);
            }
        }
        sync_threads();
        Queries(rows)
    }

    #[device]
    fn of(self, product: u32) -> [V<u32>; 4] {
        self.0.at(lane_id() * 4 + product * 128).load_x4()
    }
}

/// A warp's position `i` of a round: past the end, the last.
#[device]
fn position(s: &Attend, span: Span, round: V<u32>, i: V<u32>) -> V<u32> {
    min(span.first + round * s.round() + i, max(span.end, 1) - 1)
}

#[device]
fn fetch_keys<K: Readable + Copy>(s: &Attend, source: Source<K>, span: Span, round: V<u32>) -> Words {
    let rows = s.kv_rows();
    let mut words: Words = Vec::new();
    for column in unroll(0..POSITIONS / COLUMNS) {
        let place = rows.place(position(s, span, round, lane_id() / 4 + column * COLUMNS));
        for chunk in unroll(0..s.head_dim / OF_KEY) {
            words.push(rows.fetch_once(source.k, place, source.element + lane_id() % 4 * 8 + chunk * OF_KEY));
        }
    }
    words
}

#[device]
fn fetch_values<K: Readable + Copy>(s: &Attend, source: Source<K>, span: Span, round: V<u32>) -> Words {
    let rows = s.kv_rows();
    let mut words: Words = Vec::new();
    for i in unroll(0..4) {
        let place = rows.place(position(s, span, round, lane_id() % 4 * 2 + (i / 2 * COLUMNS + i % 2)));
        for piece in unroll(0..s.head_dim / OF_VALUE) {
            words.push(rows.fetch_once(
                source.v,
                place,
                source.element + lane_id() / 4 * 8 + piece * OF_VALUE,
            ));
        }
    }
    words
}

/// The first positions of a span on their way.
#[device]
pub(super) fn fetch_first<K: Readable + Copy>(s: &Attend, source: Source<K>, span: Span) -> Fetched {
    Fetched { k: fetch_keys(s, source, span, dev(0u32)), v: fetch_values(s, source, span, dev(0u32)) }
}

/// The lane's four scores. Each is two sums, of even and of odd chunks, which do not wait for each other.
#[device]
fn scores_of(s: &Attend, q: Queries, k: &Words) -> Vec<V<f32>> {
    let chunks = s.head_dim / OF_KEY;
    let mut sums = [[dev(0.0f32); 4]; 4];
    for chunk in unroll(0..chunks) {
        for half in unroll(0..2) {
            let q = q.of(2 * chunk + half);
            for column in unroll(0..2) {
                let words = &k[(column * chunks + chunk) as usize];
                let key = [words[2 * half as usize], words[2 * half as usize + 1]];
                let sum = &mut sums[(2 * column + chunk % 2) as usize];
                *sum = mma_f16(q, key, *sum);
            }
        }
    }
    let mut scores = Vec::new();
    for of_column in each(sums.chunks(2)) {
        for e in unroll(0..2) {
            let upper = of_column[0][e] + of_column[1][e];
            scores.push(upper + (of_column[0][e + 2] + of_column[1][e + 2]));
        }
    }
    scores
}

/// The newest position, which may not be in the caches yet: eight elements of its key and of its value from one on.
pub(super) struct Newest<K, V> {
    /// Whether it belongs to the CTA; its last warp takes it.
    pub(super) here: crate::dsl::V<bool>,
    pub(super) key: K,
    pub(super) value: V,
}

/// What a warp makes of its part of a stretch, whose first positions are on their way. `query` gives four elements of head g from
/// one on. All warps of the CTA take part.
#[device]
pub(super) fn attend<C: Readable + Copy>(
    s: &Attend,
    query: impl Fn(V<u32>) -> Vec<V<f32>>,
    newest: Newest<impl Fn(V<u32>) -> Vec<V<f32>>, impl Fn(V<u32>) -> Vec<V<f32>>>,
    (source, span, ahead): (Source<C>, Span, Fetched),
) -> State {
    let (mut m, mut l, mut o) = State::empty(s).parts();
    if newest.here && warp_id() == s.warps() - 1 {
        (m, l, o) = State::of_one(s, &query, newest.key, newest.value).parts();
    }
    let q = Queries::new(s, query);
    walk(s, q, (source, span), ahead, State { m, l, o })
}

/// Takes a warp's state through a span, whose first positions are on their way. The keys of a round are sent for when those before
/// are used up, and so are the values: in the same registers.
#[device]
fn walk<K: Readable + Copy>(
    s: &Attend,
    q: Queries,
    (source, span): (Source<K>, Span),
    ahead: Fetched,
    before: State,
) -> State {
    let own = span.first + lane_id() % 4 * 2;
    let (mut m, mut l, mut o) = before.parts();
    let (mut k, mut v) = (ahead.k, ahead.v);
    for round in 0..span.rounds {
        let mut weights = scores_of(s, q, &k);
        k = fetch_keys(s, source, span, round + 1);
        let mut largest = m;
        for i in unroll(0..4) {
            let there = own + round * s.round() + (i as u32 / 2 * COLUMNS + i as u32 % 2) < span.end;
            weights[i] = select(there, weights[i], f32::NEG_INFINITY);
            largest = max(largest, weights[i]);
        }
        for distance in each([2, 1]) {
            largest = max(largest, shuffle_xor(largest, distance));
        }
        let keep = decay(m - largest);
        m = largest;
        let mut sum = dev(0.0f32);
        for i in unroll(0..4) {
            weights[i] = decay(weights[i] - largest) * SCALE;
            sum = sum + weights[i];
        }
        l = fma(l, keep, sum);
        o = add_values(s, &weights, keep, &v, o);
        v = fetch_values(s, source, span, round + 1);
    }
    State { m, l, o }
}

/// o = o · keep + Σ p v over a round's positions.
#[device]
fn add_values(
    s: &Attend,
    weights: &[V<f32>],
    keep: V<f32>,
    v: &Words,
    before: Vec<Vec<V<f32>>>,
) -> Vec<Vec<V<f32>>> {
    let (near, far) = (split(weights[0], weights[1]), split(weights[2], weights[3]));
    let [first, second] = to_pair(keep);
    let pieces = (s.head_dim / OF_VALUE) as usize;
    let mut o: Vec<Vec<V<f32>>> = Vec::new();
    for piece in unroll(0..pieces) {
        for word in unroll(0..4) {
            // The same two elements of two positions become two positions of one element.
            let pair = |i: usize, selector: u32| {
                prmt(v[i * pieces + piece][word], v[(i + 1) * pieces + piece][word], selector)
            };
            let v = [pair(0, 0x5410), pair(0, 0x7632), pair(2, 0x5410), pair(2, 0x7632)];
            let sums = &before[o.len()];
            let kept = [sums[0] * first, sums[1] * second, sums[2] * first, sums[3] * second];
            let upper = mma_f16(v, [near[0], far[0]], kept);
            o.push(mma_f16(v, [near[1], far[1]], upper).to_vec());
        }
    }
    o
}
