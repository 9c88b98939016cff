//! A warp's way through a stretch: scores, weights and outputs of a few positions at a time.

use super::board::{Board, Shares, head_mates, own_of, own_position, share_out};
use super::{Attend, Extent, LEAST, PER_LANE, decay::decay};
use crate::dsl::prelude::*;

/// Which eight elements of a head a lane holds; lanes beyond the last repeat it, and what they hold is not used.
#[device]
pub(super) fn part_of(s: &Attend) -> V<u32> {
    let part = lane_id() % s.lanes();
    if s.lanes() == s.holding_lanes() { part } else { min(part, s.holding_lanes() - 1) }
}

/// Whether a lane holds elements that no other lane of its team holds.
#[device]
pub(super) fn holds(s: &Attend) -> V<bool> {
    lane_id() % s.lanes() < s.holding_lanes()
}

/// The caches, from the lane's elements of a key head on.
#[derive(Clone, Copy)]
pub(super) struct Source<K> {
    pub(super) k: Ptr<u8, K>,
    pub(super) v: Ptr<u8, K>,
    /// The key head's first element of a position.
    pub(super) element: V<u32>,
}

/// What a warp goes through.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// First position of the warp.
    pub(super) first: V<u32>,
    /// Position after the last.
    pub(super) end: V<u32>,
    /// Rounds of the warp.
    pub(super) rounds: V<u32>,
}

impl Span {
    /// The cached positions of stretch `split` that this warp takes: at each round those of warp 0 come first, and of a
    /// warp's, those of its teams take turns, where it has any.
    #[device]
    pub(super) fn new(s: &Attend, of: Extent, split: V<u32>) -> Span {
        let offset = split * of.stretch;
        let end = of.first + min(offset + of.stretch, of.cached);
        let first = of.first + offset + warp_id() * s.of_warp();
        let rounds = (max(end, first) - first + (s.round() - 1)) / s.round();
        Span { first, end, rounds }
    }
}

/// Keys and values of a team's next positions, as they lie in memory.
pub(super) struct Fetched {
    k: Vec<Vec<V<u32>>>,
    v: Vec<Vec<V<u32>>>,
}

/// Loads a team's positions of a round from a cache; in place of those beyond the end, the last.
#[device]
fn fetch<K: Readable>(
    s: &Attend,
    (cache, element): (Ptr<u8, K>, V<u32>),
    span: Span,
    round: V<u32>,
) -> Vec<Vec<V<u32>>> {
    let rows = s.kv_rows();
    let last = max(span.end, 1) - 1;
    let first = span.first + lane_id() / s.lanes() + round * s.round();
    let element = element + part_of(s) * PER_LANE;
    let mut fetched = Vec::new();
    for i in unroll(0..s.at_once()) {
        let place = rows.place(min(first + i * s.teams(), last));
        fetched.push(rows.fetch(cache, place, element));
    }
    fetched
}

/// The first positions of a span on their way.
#[device]
pub(super) fn fetch_first<K: Readable + Copy>(s: &Attend, source: Source<K>, span: Span) -> Fetched {
    let [k, v] = [source.k, source.v].map(|cache| fetch(s, (cache, source.element), span, dev(0u32)));
    Fetched { k, v }
}

/// What a warp knows of its positions. The maximum is that of all its teams; a lane has it, and its part of the sum, for
/// its own heads only. Outputs are its own team's.
pub(super) struct State {
    pub(super) m: Vec<V<f32>>,
    pub(super) l: Vec<V<f32>>,
    pub(super) o: Vec<Vec<V<f32>>>,
}

/// The queries of a group of heads.
pub(super) trait Queries {
    /// The lane's elements of one.
    fn of(&self, g: u32) -> Vec<V<f32>>;
}

/// In registers.
impl Queries for Vec<Vec<V<f32>>> {
    fn of(&self, g: u32) -> Vec<V<f32>> {
        self[g as usize].clone()
    }
}

/// In shared memory, from the lane's elements of the first on: read where they are used, which leaves registers for more CTAs.
pub(super) struct Staged {
    pub(super) first: Shared<f32>,
    pub(super) head_dim: u32,
}

impl Queries for Staged {
    fn of(&self, g: u32) -> Vec<V<f32>> {
        load_part(self.first, g * self.head_dim)
    }
}

/// Eight elements.
#[device]
pub(super) fn load_part(from: Shared<f32>, first: u32) -> Vec<V<f32>> {
    [from.at(first).load_x4(), from.at(first + 4).load_x4()].concat()
}

/// The lane's part of a score.
#[device]
fn part_of_dot(s: &Attend, q: &[V<f32>], k: &[V<f32>]) -> V<f32> {
    let mut dot = q[0] * k[0];
    for e in unroll(1..PER_LANE as usize) {
        dot = fma(q[e], k[e], dot);
    }
    if s.lanes() == s.holding_lanes() { dot } else { select(holds(s), dot, 0.0) }
}

/// Maxima, sums and outputs.
pub(super) type Parts = (Vec<V<f32>>, Vec<V<f32>>, Vec<Vec<V<f32>>>);

impl State {
    /// Its fields, as control flow can change them.
    pub(super) fn parts(self) -> Parts {
        (self.m, self.l, self.o)
    }

    /// Before any position.
    #[device]
    pub(super) fn empty(s: &Attend) -> State {
        let heads = Shares::new(s).own_heads() as usize;
        let group = s.group() as usize;
        State {
            m: vec![dev(LEAST); heads],
            l: vec![dev(0.0); heads],
            o: vec![vec![dev(0.0); PER_LANE as usize]; group],
        }
    }

    /// After one position, whose key and value every team has: the first team counts it.
    #[device]
    pub(super) fn of_one(s: &Attend, q: &impl Queries, k: &[V<f32>], v: &[V<f32>]) -> State {
        let mut scores = Vec::new();
        let mut o = Vec::new();
        for g in unroll(0..s.group() as usize) {
            let score = sum_lanes(part_of_dot(s, &q.of(g as u32), k), s.lanes());
            // Its weight is 1, or NaN for a score that is none.
            let weight = select(lane_id() < s.lanes(), score - score + 1.0, 0.0);
            scores.push(score);
            o.push(v.iter().map(|v| *v * weight).collect::<Vec<_>>());
        }
        let of = Shares::new(s);
        let m = own_of(of, &scores);
        let mut l = Vec::new();
        for score in each(m.iter().copied()) {
            l.push(select(lane_id() < of.head_lanes(), score - score + 1.0, 0.0));
        }
        State { m, l, o }
    }
}

/// The lane's sums of scores at a team's positions.
#[device]
fn scores_of(s: &Attend, q: &impl Queries, keys: &[Vec<V<u32>>]) -> Vec<V<f32>> {
    let group = s.group() as usize;
    let mut wide = Vec::new();
    for words in each(keys.iter()) {
        wide.push(s.kv_rows().widen(words));
    }
    let mut parts = vec![dev(0.0f32); wide.len() * group];
    for g in unroll(0..group) {
        let q = q.of(g as u32);
        for (p, k) in each(wide.iter().enumerate()) {
            parts[p * group + g] = part_of_dot(s, &q, k);
        }
    }
    share_out(Shares::new(s), parts)
}

/// Takes a warp's state through a span, whose first positions are on their way. The keys of a round are sent for when those before
/// are used up, and so are the values: in the same registers.
#[device]
pub(super) fn walk<K: Readable + Copy>(
    s: &Attend,
    q: &impl Queries,
    (source, span): (Source<K>, Span),
    ahead: Fetched,
    before: State,
) -> State {
    let of = Shares::new(s);
    let (own_heads, own_positions) = (of.own_heads() as usize, of.own_positions() as usize);
    let board = Board::new(s);
    let own_first = span.first + lane_id() / s.lanes() + own_position(of) * s.teams();
    let (mut m, mut l, mut o) = (before.m, before.l, before.o);
    let (mut k, mut v) = (ahead.k, ahead.v);
    for round in 0..span.rounds {
        let mut weights = scores_of(s, q, &k);
        k = fetch(s, (source.k, source.element), span, round + 1);
        let mut largest = m.clone();
        for p in unroll(0..own_positions) {
            let there = own_first + round * s.round() + p as u32 * s.teams() < span.end;
            for h in unroll(0..own_heads) {
                let score = select(there, weights[p * own_heads + h], f32::NEG_INFINITY);
                weights[p * own_heads + h] = score;
                largest[h] = max(largest[h], score);
            }
        }
        let mut keeps = Vec::new();
        for h in unroll(0..own_heads) {
            for distance in each(head_mates(of)) {
                largest[h] = max(largest[h], shuffle_xor(largest[h], distance));
            }
            keeps.push(decay(m[h] - largest[h]));
            m[h] = largest[h];
            let mut sum = decay(weights[h] - largest[h]);
            weights[h] = sum;
            for p in unroll(1..own_positions) {
                let weight = decay(weights[p * own_heads + h] - largest[h]);
                weights[p * own_heads + h] = weight;
                sum = sum + weight;
            }
            l[h] = fma(l[h], keeps[h], sum);
        }
        board.put(&weights, &keeps);
        o = add_values(s, board, &v, o);
        v = fetch(s, (source.v, source.element), span, round + 1);
    }
    State { m, l, o }
}

/// o = o · keep + Σ p v over a team's positions in ascending order.
#[device]
fn add_values(
    s: &Attend,
    board: Board,
    values: &[Vec<V<u32>>],
    before: Vec<Vec<V<f32>>>,
) -> Vec<Vec<V<f32>>> {
    let mut o = before;
    let keeps = board.keeps();
    let mut weights = Vec::new();
    for g in unroll(0..s.group()) {
        weights.push(board.weights_of(g));
        for e in unroll(0..PER_LANE as usize) {
            o[g as usize][e] = o[g as usize][e] * keeps[g as usize];
        }
    }
    for (p, words) in each(values.iter().enumerate()) {
        let v = s.kv_rows().widen(words);
        for g in unroll(0..s.group() as usize) {
            for e in unroll(0..PER_LANE as usize) {
                o[g][e] = fma(weights[g][p], v[e], o[g][e]);
            }
        }
    }
    o
}

/// The state of the warp as a whole: sums of all lanes and outputs of all teams, in each of them.
#[device]
pub(super) fn gather(s: &Attend, state: State) -> State {
    let (mut l, mut o) = (state.l, state.o);
    for h in unroll(0..l.len()) {
        for distance in each(head_mates(Shares::new(s))) {
            l[h] = l[h] + shuffle_xor(l[h], distance);
        }
    }
    for distance in each([16, 8, 4, 2].into_iter().filter(|d| *d >= s.lanes())) {
        for g in unroll(0..s.group() as usize) {
            for e in unroll(0..PER_LANE as usize) {
                o[g][e] = o[g][e] + shuffle_xor(o[g][e], distance);
            }
        }
    }
    State { m: state.m, l, o }
}
