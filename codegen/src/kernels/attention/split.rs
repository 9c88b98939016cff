//! The first launch of attention: each stretch of positions on its own.

use super::scene::Scene;
use super::{Attend, LEAST, PER_LANE, WARPS, seen_of, stretch_of};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::operation::{Cost, Expect, Operation, Trial};
use crate::kernels::reference;
use crate::kernels::rows::for_row;

/// The first launch.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendSplit(pub Attend);

/// Which eight elements of a head a lane holds; lanes beyond the last repeat it, and what they hold is not used.
#[device]
fn part_of(s: &Attend) -> V<u32> {
    let part = lane_id() % s.lanes();
    if s.lanes() == s.holding_lanes() { part } else { min(part, s.holding_lanes() - 1) }
}

/// Whether a lane holds elements that no other lane of its team holds.
#[device]
fn holds(s: &Attend) -> V<bool> {
    lane_id() % s.lanes() < s.holding_lanes()
}

/// m = max s_p, l = Σ e^(s_p − m), o = Σ e^(s_p − m) v_p over one stretch, with s_p = q·k_p
/// shapes   control as in the plan · qkv: q (row, n_heads, head_dim) f32, scaled · kv (sequence) of the addresses of K, V (position, n_kv_heads, head_dim) in rows of the cache's type · partial (row, kv head, stretch, group, head_dim) f32 · stats likewise of (m, l)
/// layout   head_dim / 8 lanes hold a position, 8 elements each; K and V are read once for all query heads of a group
/// launch   grid (n_splits, n_kv_heads, rows), block 128; stretches beyond the length return at once
/// source   Dao et al. 2022 and 2023 (flash decoding); exp by polynomial
#[kernel(grid = (s.0.n_splits, s.0.n_kv_heads, s.0.rows.count), block = 32 * WARPS)]
pub fn attend_split(
    s: &AttendSplit,
    control: In<u32>,
    qkv: In<f32>,
    kv: In<u64>,
    partial: Out<f32>,
    stats: Out<f32>,
) {
    let s = &s.0;
    for_row(s.rows.count, block_idx_z(), control, |here| {
        let (split, kv_head) = (block_idx_x(), block_idx_y());
        let len = here.control(control).at(1).load() + 1;
        let [k_cache, v_cache] = here.caches(s.rows, control, kv);
        let seen = seen_of(s, len);
        let stretch = stretch_of(s, seen);
        let start = match s.window {
            Some(_) => len - seen + split * stretch,
            None => split * stretch,
        };
        if start < len {
            let end = min(start + stretch, len);
            let part = part_of(s);
            let team = warp_id() * s.teams_per_warp() + lane_id() / s.lanes();
            let qkv = here.of(qkv, s.qkv_dim());
            let mut q = Vec::new();
            for g in unroll(0..s.group()) {
                let row = qkv.offset((kv_head * s.group() + g) * s.head_dim + part * PER_LANE);
                q.push([row.at(0).load_x4(), row.at(4).load_x4()].concat());
            }
            let head = Head { element: kv_head * s.head_dim + part * PER_LANE, team, start, end };
            let state = attend_stretch(s, q, [at_address(k_cache), at_address(v_cache)], head);
            let to = Results { partial: here.of(partial, s.partials()), stats: here.of(stats, s.stats()) };
            merge_teams(s, team, state, kv_head * s.n_splits + split, to);
        }
    });
}

/// What a team goes through: positions `start + team, + step …` before `end`, from `element` of a position on.
#[derive(Clone, Copy)]
struct Head {
    element: V<u32>,
    team: V<u32>,
    start: V<u32>,
    end: V<u32>,
}

/// Positions that a team has on their way at once.
const AT_ONCE: u32 = 2;

/// The state of a team after its positions.
#[device]
fn attend_stretch(s: &Attend, q: Vec<Vec<V<f32>>>, caches: [In<u8>; 2], h: Head) -> TeamState {
    let rows = s.kv_rows();
    let Head { element, team, start, end } = h;
    let [k_cache, v_cache] = caches;
    let mut m = vec![dev(LEAST); s.group() as usize];
    let mut l = vec![dev(0.0f32); s.group() as usize];
    let mut acc = vec![vec![dev(0.0f32); PER_LANE as usize]; s.group() as usize];
    let stride = AT_ONCE * s.step();
    let turns = (end - start + (stride - 1)) / stride;
    for turn in 0..turns {
        let first = start + turn * stride + team;
        let mut fetched = Vec::new();
        for i in unroll(0..AT_ONCE) {
            let place = rows.place(min(first + i * s.step(), end - 1));
            fetched.push([rows.fetch(k_cache, place, element), rows.fetch(v_cache, place, element)]);
        }
        for i in unroll(0..AT_ONCE as usize) {
            let there = first + i as u32 * s.step() < end;
            let [k, v] = &fetched[i];
            let (k, v) = (rows.widen(k), rows.widen(v));
            for g in unroll(0..s.group() as usize) {
                let mut dot = q[g][0] * k[0];
                for e in unroll(1..PER_LANE as usize) {
                    dot = fma(q[g][e], k[e], dot);
                }
                if s.lanes() != s.holding_lanes() {
                    dot = select(holds(s), dot, 0.0);
                }
                let score = select(there, sum_lanes(dot, s.lanes()), f32::NEG_INFINITY);
                let largest = max(m[g], score);
                let (keep, p) = (exp(m[g] - largest), exp(score - largest));
                m[g] = largest;
                l[g] = fma(l[g], keep, p);
                for e in unroll(0..PER_LANE as usize) {
                    acc[g][e] = fma(acc[g][e], keep, p * v[e]);
                }
            }
        }
    }
    TeamState { m, l, acc }
}

/// One team's state, as it goes to shared memory.
struct TeamState {
    m: Vec<V<f32>>,
    l: Vec<V<f32>>,
    acc: Vec<Vec<V<f32>>>,
}

/// Where a CTA's result goes.
#[derive(Clone, Copy)]
struct Results {
    partial: Out<f32>,
    stats: Out<f32>,
}

#[device]
fn store_part(acc: &[V<f32>], place: Shared<f32>) {
    place.at(0).store_x4([acc[0], acc[1], acc[2], acc[3]]);
    place.at(4).store_x4([acc[4], acc[5], acc[6], acc[7]]);
}

/// Merges the teams of a CTA in their order and stores the stretch's `o` and `(m, l)` for each query head.
#[device]
fn merge_teams(s: &Attend, team: V<u32>, state: TeamState, row: V<u32>, to: Results) {
    let n_teams = s.step();
    let group = s.group();
    let outputs = shared::<f32>(n_teams * group * s.head_dim);
    let pairs = shared::<f32>(n_teams * group * 2);
    let part = lane_id() % s.lanes();
    for g in unroll(0..group) {
        let acc = &state.acc[g as usize];
        let place = outputs.offset((team * group + g) * s.head_dim + part * PER_LANE);
        if s.lanes() == s.holding_lanes() {
            store_part(acc, place);
        } else {
            if holds(s) {
                store_part(acc, place);
            }
        }
        if part == 0 {
            pairs.at((team * group + g) * 2).store_x2([state.m[g as usize], state.l[g as usize]]);
        }
    }
    sync_threads();
    for g in 0..group {
        let mut largest = pairs.at(g * 2).load();
        for t in unroll(1..n_teams) {
            largest = max(largest, pairs.at((g + t * group) * 2).load());
        }
        let mut weights = Vec::new();
        let mut sum = 0.0;
        for t in unroll(0..n_teams) {
            let pair = pairs.at((g + t * group) * 2).load_x2();
            let weight = exp(pair[0] - largest);
            sum = fma(pair[1], weight, sum);
            weights.push(weight);
        }
        let head = row * group + g;
        for turn in unroll(0..s.head_dim.div_ceil(32 * WARPS)) {
            let e = thread_idx_x() + turn * 32 * WARPS;
            if e < s.head_dim {
                let mut o = 0.0;
                for t in unroll(0..n_teams) {
                    o = fma(outputs.at((g + t * group) * s.head_dim + e).load(), weights[t as usize], o);
                }
                to.partial.at(head * s.head_dim + e).store(o);
            }
        }
        if thread_idx_x() == 0 {
            to.stats.at(head * 2).store_x2([largest, sum]);
        }
    }
}

impl Operation for AttendSplit {
    fn name(&self) -> &'static str {
        "attend_split"
    }

    fn constants(&self) -> String {
        format!("{:?}", self.0)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        attend_split(self)
    }

    /// For one position of one row; a launch moves this times the lengths of the rows' caches.
    fn cost(&self) -> Cost {
        let s = &self.0;
        Cost { bytes: 2 * u64::from(s.kv_rows().bytes()), macs: 2 * u64::from(s.q_dim()) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0;
        let (control, scenes) = Scene::random_rows(s, seed);
        let (mut partial, mut stats, mut qkv) = (Vec::new(), Vec::new(), Vec::new());
        for (r, scene) in scenes.iter().enumerate() {
            qkv.extend(scene.q.iter().copied());
            qkv.resize((r + 1) * s.qkv_dim() as usize, 0.0);
            for head in 0..s.n_heads {
                for (split, positions) in (0..).zip(s.stretches(scene.len)) {
                    let x = scene.stretch(s, head, positions);
                    let row = r as u32 * s.n_splits * s.n_heads
                        + (head / s.group() * s.n_splits + split) * s.group()
                        + head % s.group();
                    let row = row as usize;
                    stats.push((2 * row, x.m, x.score_bound));
                    stats.push((2 * row + 1, x.l, x.relative * x.l));
                    let outputs = x.o.iter().zip(&x.magnitude).enumerate();
                    partial.extend(
                        outputs.map(|(e, (o, a))| (row * s.head_dim as usize + e, *o, x.relative * a)),
                    );
                }
            }
        }
        let n = s.rows.count as usize;
        let mut caches = vec![[vec![], vec![]]; n];
        for (row, scene) in control.rows.iter().zip(&scenes) {
            caches[row[2] as usize] = [scene.k.clone(), scene.v.clone()];
        }
        let trial =
            Trial::new(seed).input(control.bytes()).input(reference::bytes_f32(&qkv)).caches(s.rows, n, 2);
        let trial = trial
            .output(s.partial_bytes(), Expect::NearF32(partial))
            .output(s.stats_bytes(), Expect::NearF32(stats));
        caches.into_iter().flatten().fold(trial, |t, cache| t.linked(cache, Expect::Unchanged))
    }
}
