//! Attention of one new position over its cache, in two launches: partial results over stretches of positions
//! (flash decoding), then their merge, which also quantizes for the output matrix.
//!
//! The number of stretches is baked; their length is a function of the position, so one launch serves every length and
//! a row's result depends on its own length only.

use super::gemv::act_bytes;
use super::operation::{Cost, Expect, Operation, Trial};
use super::{quantize, reference};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;

/// Warps of a CTA.
const WARPS: u32 = 4;
/// A stretch is a multiple of this many positions.
const STRETCH_UNIT: u32 = 64;
/// Elements of a head that a lane holds: one 16-byte load of f16.
const PER_LANE: u32 = 8;
/// Less than any score, and finite: `exp(LEAST − m)` is 0 and `LEAST − LEAST` is no NaN.
const LEAST: f32 = -1.0e30;

/// Heads and stretches of a model on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Attend {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Elements of a head: 64, 128 or 256.
    pub head_dim: u32,
    /// Stretches that a cache is cut into at most.
    pub n_splits: u32,
}

/// The first launch.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendSplit(pub Attend);

/// The second launch.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendMerge(pub Attend);

impl Attend {
    /// Enough stretches that key heads times stretches is about the number of multiprocessors.
    pub fn splits_for(n_kv_heads: u32, n_sms: u32) -> u32 {
        (n_sms / n_kv_heads).max(1).next_power_of_two().min(64)
    }

    /// Query heads that share a key head.
    pub const fn group(&self) -> u32 {
        self.n_heads / self.n_kv_heads
    }

    /// Lanes that hold one position's head between them.
    const fn lanes(&self) -> u32 {
        self.head_dim / PER_LANE
    }

    /// Positions that a CTA takes at once.
    const fn step(&self) -> u32 {
        WARPS * self.teams_per_warp()
    }

    const fn teams_per_warp(&self) -> u32 {
        32 / self.lanes()
    }

    /// Positions of a stretch when `len` are in the cache.
    pub const fn stretch(&self, len: u32) -> u32 {
        len.div_ceil(self.n_splits).div_ceil(STRETCH_UNIT) * STRETCH_UNIT
    }

    /// Bytes of the partial outputs.
    pub const fn partial_bytes(&self) -> u64 {
        self.n_splits as u64 * self.n_heads as u64 * self.head_dim as u64 * 4
    }

    /// Bytes of the (maximum, sum) pairs.
    pub const fn stats_bytes(&self) -> u64 {
        self.n_splits as u64 * self.n_heads as u64 * 8
    }
}

/// [`Attend::stretch`] on the device.
#[device]
fn stretch_of(s: &Attend, len: V<u32>) -> V<u32> {
    let least = (len + (s.n_splits - 1)) / s.n_splits;
    (least + (STRETCH_UNIT - 1)) / STRETCH_UNIT * STRETCH_UNIT
}

/// Eight halves from one 16-byte load.
#[device]
fn load_halves(row: In<u32>) -> Vec<V<f32>> {
    let words = row.at(0).load_x4();
    let mut out = Vec::new();
    for w in each(words) {
        let [low, high] = unpack_f16(w);
        out.push(low.to_f32());
        out.push(high.to_f32());
    }
    out
}

/// m = max s_p, l = Σ e^(s_p − m), o = Σ e^(s_p − m) v_p over one stretch, with s_p = q·k_p
/// shapes   qkv: q (n_heads, head_dim) f32, scaled · K, V (position, n_kv_heads, head_dim) f16 · partial (kv head, stretch, group, head_dim) f32 · stats likewise of (m, l)
/// layout   head_dim / 8 lanes hold a position, 8 elements each; K and V are read once for all query heads of a group
/// launch   grid (n_splits, n_kv_heads), block 128; stretches beyond the length return at once
/// source   Dao et al. 2022 and 2023 (flash decoding); exp by polynomial
#[kernel(grid = (s.0.n_splits, s.0.n_kv_heads), block = 32 * WARPS)]
pub fn attend_split(
    s: &AttendSplit,
    control: In<u32>,
    qkv: In<f32>,
    k_cache: In<F16>,
    v_cache: In<F16>,
    partial: Out<f32>,
    stats: Out<f32>,
) {
    let s = &s.0;
    let (split, kv_head) = (block_idx_x(), block_idx_y());
    let len = control.at(1).load() + 1;
    let stretch = stretch_of(s, len);
    let start = split * stretch;
    if start < len {
        let end = min(start + stretch, len);
        let part = lane_id() % s.lanes();
        let team = warp_id() * s.teams_per_warp() + lane_id() / s.lanes();
        let mut q = Vec::new();
        for g in unroll(0..s.group()) {
            let row = qkv.offset((kv_head * s.group() + g) * s.head_dim + part * PER_LANE);
            q.push([row.at(0).load_x4(), row.at(4).load_x4()].concat());
        }
        let mut m = vec![dev(LEAST); s.group() as usize];
        let mut l = vec![dev(0.0f32); s.group() as usize];
        let mut acc = vec![vec![dev(0.0f32); PER_LANE as usize]; s.group() as usize];
        let turns = (end - start + (s.step() - 1)) / s.step();
        let element = kv_head * s.head_dim + part * PER_LANE;
        for turn in 0..turns {
            let position = start + turn * s.step() + team;
            let there = position < end;
            let place = min(position, end - 1) * (s.n_kv_heads * s.head_dim);
            let k = load_halves(k_cache.offset(place).offset(element).cast::<u32>());
            let v = load_halves(v_cache.offset(place).offset(element).cast::<u32>());
            for g in unroll(0..s.group() as usize) {
                let mut dot = q[g][0] * k[0];
                for e in unroll(1..PER_LANE as usize) {
                    dot = fma(q[g][e], k[e], dot);
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
        merge_teams(
            s,
            team,
            TeamState { m, l, acc },
            kv_head * s.n_splits + split,
            Results { partial, stats },
        );
    }
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
        place.at(0).store_x4([acc[0], acc[1], acc[2], acc[3]]);
        place.at(4).store_x4([acc[4], acc[5], acc[6], acc[7]]);
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

/// x = Σ_i o_i e^(m_i − m) / Σ_i l_i e^(m_i − m), quantized
/// shapes   partial, stats as attend_split · quants (q_dim) i8 · meta (q_dim / 32)
/// layout   a CTA merges one query head, a thread one element, a warp one activation block
/// launch   grid n_heads, block head_dim, shared 0
/// source   Dao et al. 2023 (flash decoding)
#[kernel(grid = s.0.n_heads, block = s.0.head_dim)]
pub fn attend_merge(
    s: &AttendMerge,
    control: In<u32>,
    partial: In<f32>,
    stats: In<f32>,
    quants: Out<u8>,
    meta: Out<u32>,
) {
    let s = &s.0;
    let (head, e) = (cta_id(), thread_idx_x());
    let (kv_head, g) = (head / s.group(), head % s.group());
    let len = control.at(1).load() + 1;
    let stretch = stretch_of(s, len);
    let n_active = (len + (stretch - 1)) / stretch;
    let row = kv_head * s.n_splits * s.group() + g;
    let mut largest = stats.at(row * 2).load();
    for i in 1..n_active {
        largest = max(largest, stats.at((row + i * s.group()) * 2).load());
    }
    let mut sum = 0.0;
    let mut o = 0.0;
    for i in 0..n_active {
        let at = row + i * s.group();
        let pair = stats.at(at * 2).load_x2();
        let weight = exp(pair[0] - largest);
        sum = fma(pair[1], weight, sum);
        o = fma(partial.at(at * s.head_dim + e).load(), weight, o);
    }
    quantize::store_lane(o / sum, head * (s.head_dim / 32) + warp_id(), quants, meta);
}

/// A cache of random keys and values with queries that see it, and what attention makes of them in f64.
struct Scene {
    len: u32,
    q: Vec<f32>,
    k: Vec<u16>,
    v: Vec<u16>,
}

/// The state of one stretch of one head in f64: maximum, sum, outputs with their magnitudes, and the relative error
/// that f32 may make of each term.
struct Stretch {
    m: f64,
    l: f64,
    o: Vec<f64>,
    magnitude: Vec<f64>,
    relative: f64,
    score_bound: f64,
}

impl Scene {
    fn random(s: &Attend, seed: u64) -> Scene {
        let mut rng = Rng::new(seed);
        // Short, long and just around the edge of a stretch.
        let lens =
            [1, 2, STRETCH_UNIT - 1, STRETCH_UNIT, STRETCH_UNIT + 1, 200, STRETCH_UNIT * s.n_splits + 3];
        let len = lens[rng.below(lens.len() as u32) as usize];
        let mut halves = |n: u32| (0..n).map(|_| ptx::sem::f32_to_f16(rng.normal())).collect::<Vec<u16>>();
        let row = s.n_kv_heads * s.head_dim;
        let (k, v) = (halves(len * row), halves(len * row));
        // Even weights, a few strong ones, or scores so far apart that one position takes all.
        let scale = [2.0, 20.0, 200.0][(seed % 3) as usize] / (s.head_dim as f32).sqrt();
        let q = (0..s.n_heads * s.head_dim).map(|_| rng.normal() * scale).collect();
        Scene { len, q, k, v }
    }

    fn stretch(&self, s: &Attend, head: u32, positions: std::ops::Range<u32>) -> Stretch {
        let dim = s.head_dim as usize;
        let row = |cache: &[u16], p: u32| -> Vec<f64> {
            let at = (p * s.n_kv_heads + head / s.group()) as usize * dim;
            cache[at..at + dim].iter().map(|h| f64::from(ptx::sem::f16_to_f32(*h))).collect()
        };
        let q: Vec<f64> = self.q[head as usize * dim..][..dim].iter().map(|v| f64::from(*v)).collect();
        let dot = |p: u32| {
            let products = row(&self.k, p).into_iter().zip(&q).map(|(k, q)| k * q);
            products.fold((0.0, 0.0), |(s, a), x: f64| (s + x, a + x.abs()))
        };
        let scores: Vec<(f64, f64)> = positions.clone().map(dot).collect();
        let m = scores.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
        let score_bound = scores.iter().map(|s| reference::gamma(16.0) * s.1).fold(0.0, f64::max);
        let mut out =
            Stretch { m, l: 0.0, o: vec![0.0; dim], magnitude: vec![0.0; dim], relative: 0.0, score_bound };
        for (p, (score, _)) in positions.clone().zip(&scores) {
            let weight = (score - m).exp();
            out.l += weight;
            for (e, v) in row(&self.v, p).into_iter().enumerate() {
                out.o[e] += weight * v;
                out.magnitude[e] += (weight * v).abs();
            }
        }
        // A term is rescaled once a turn, each time by an exp of two ulps and a rounding; its score's error is absolute
        // in the exponent, and so is the maximum's.
        let turns = f64::from((positions.end - positions.start).div_ceil(s.step()) + s.step());
        out.relative = reference::gamma(6.0 * turns + 16.0) + 3.0 * score_bound;
        out
    }

    fn control(&self) -> Vec<u8> {
        reference::bytes_u32(&[1, self.len - 1])
    }
}

fn bytes_u16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
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

    /// For one position; a launch moves this times the length of the cache.
    fn cost(&self) -> Cost {
        let s = &self.0;
        let kv = u64::from(s.n_kv_heads * s.head_dim);
        Cost { bytes: 4 * kv, macs: 2 * u64::from(s.n_heads * s.head_dim) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0;
        let scene = Scene::random(s, seed);
        let stretch = s.stretch(scene.len);
        let (mut partial, mut stats) = (Vec::new(), Vec::new());
        for head in 0..s.n_heads {
            for split in 0..scene.len.div_ceil(stretch) {
                let x = scene.stretch(s, head, split * stretch..scene.len.min((split + 1) * stretch));
                let row = ((head / s.group() * s.n_splits + split) * s.group() + head % s.group()) as usize;
                stats.push((2 * row, x.m, x.score_bound));
                stats.push((2 * row + 1, x.l, x.relative * x.l));
                let outputs = x.o.iter().zip(&x.magnitude).enumerate();
                partial
                    .extend(outputs.map(|(e, (o, a))| (row * s.head_dim as usize + e, *o, x.relative * a)));
            }
        }
        Trial::new(seed)
            .input(scene.control())
            .input(reference::bytes_f32(&scene.q))
            .input(bytes_u16(&scene.k))
            .input(bytes_u16(&scene.v))
            .output(s.partial_bytes(), Expect::NearF32(partial))
            .output(s.stats_bytes(), Expect::NearF32(stats))
    }
}

impl Operation for AttendMerge {
    fn name(&self) -> &'static str {
        "attend_merge"
    }

    fn constants(&self) -> String {
        format!("{:?}", self.0)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        attend_merge(self)
    }

    fn cost(&self) -> Cost {
        let q_dim = self.0.n_heads * self.0.head_dim;
        Cost { bytes: u64::from(q_dim) * 4 + act_bytes(q_dim), macs: u64::from(q_dim) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0;
        let scene = Scene::random(s, seed);
        let stretch = s.stretch(scene.len);
        let mut partial = vec![f32::NAN; s.partial_bytes() as usize / 4];
        let mut stats = vec![f32::NAN; s.stats_bytes() as usize / 4];
        let mut values = Vec::new();
        for head in 0..s.n_heads {
            for split in 0..scene.len.div_ceil(stretch) {
                let x = scene.stretch(s, head, split * stretch..scene.len.min((split + 1) * stretch));
                let row = ((head / s.group() * s.n_splits + split) * s.group() + head % s.group()) as usize;
                (stats[2 * row], stats[2 * row + 1]) = (x.m as f32, x.l as f32);
                for (e, o) in x.o.iter().enumerate() {
                    partial[row * s.head_dim as usize + e] = *o as f32;
                }
            }
            let whole = scene.stretch(s, head, 0..scene.len);
            // Inputs were rounded to f32 (also the maxima, which stand in exponents), then each stretch costs two
            // roundings and an exp.
            let relative = reference::gamma(6.0 * f64::from(s.n_splits) + 16.0)
                + 4.0 * reference::U * (whole.m.abs() + 1.0);
            let outputs = whole.o.iter().zip(&whole.magnitude);
            values.extend(outputs.map(|(o, a)| (o / whole.l, 2.0 * relative * a / whole.l)));
        }
        let (quants, meta) = quantize::expect(&values);
        let q_dim = u64::from(s.n_heads * s.head_dim);
        Trial::new(seed)
            .input(scene.control())
            .input(reference::bytes_f32(&partial))
            .input(reference::bytes_f32(&stats))
            .output(q_dim, quants)
            .output(q_dim / 4, meta)
    }
}
