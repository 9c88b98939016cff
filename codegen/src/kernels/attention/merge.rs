//! The second launch of attention: the stretches become one vector, quantized for the output matrix.

use super::scene::Scene;
use super::{Attend, LEAST, seen_of, stretch_of};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::exact::{self, Exact};
use crate::kernels::gemv::act_bytes;
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::rows::{Row, for_row};
use crate::kernels::{quantize, reference};

/// The second launch.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendMerge(pub Attend);

/// Stretches whose results are on their way at once; those beyond the last count nothing.
const AT_ONCE: u32 = 8;

/// The greatest maximum of a head's stretches.
#[device]
fn greatest(s: &Attend, stats: In<f32>, row: V<u32>, n_active: V<u32>) -> V<f32> {
    let mut largest = dev(LEAST);
    let turns = (n_active + (AT_ONCE - 1)) / AT_ONCE;
    for turn in 0..turns {
        let mut found = Vec::new();
        for i in unroll(0..AT_ONCE) {
            let at = row + min(turn * AT_ONCE + i, n_active - 1) * s.group();
            found.push(stats.at(at * 2).load());
        }
        for i in unroll(0..AT_ONCE as usize) {
            largest = max(largest, found[i]);
        }
    }
    largest
}

/// x = Σ_i o_i e^(m_i − m) / Σ_i l_i e^(m_i − m), quantized
/// shapes   control as in the plan · partial, stats as attend_split · quants (row, q_dim) i8 · meta (row, q_dim / 32)
/// layout   a CTA merges one query head (two, where a head is no whole number of blocks), a thread one element, a warp one activation block
/// launch   grid (n_heads, rows), block head_dim, shared 0
/// source   Dao et al. 2023 (flash decoding)
#[kernel(grid = (s.0.n_heads / s.0.merged_heads(), s.0.rows.count), block = s.0.head_dim * s.0.merged_heads())]
pub fn attend_merge(
    s: &AttendMerge,
    control: In<u32>,
    partial: In<f32>,
    stats: In<f32>,
    quants: Out<u8>,
    meta: Out<u32>,
) {
    let s = &s.0;
    for_row(s.rows.count, block_idx_y(), control, |here| {
        let (o, sum) = merged_element(s, here, control, [partial, stats]);
        let block = block_idx_x() * (s.head_dim * s.merged_heads() / 32) + warp_id();
        quantize::store_lane(o / sum, block, here.of(quants, s.q_dim()), here.of(meta, s.q_dim() / 16));
    });
}

/// x = Σ_i o_i e^(m_i − m) / Σ_i l_i e^(m_i − m)
/// shapes   as attend_merge · x (row, q_dim) f32
/// layout   as attend_merge
/// launch   as attend_merge
/// source   as attend_merge
#[kernel(grid = (s.0.n_heads / s.0.merged_heads(), s.0.rows.count), block = s.0.head_dim * s.0.merged_heads())]
pub fn attend_merge_exact(s: &AttendMerge, control: In<u32>, partial: In<f32>, stats: In<f32>, x: Out<f32>) {
    let s = &s.0;
    for_row(s.rows.count, block_idx_y(), control, |here| {
        let (o, sum) = merged_element(s, here, control, [partial, stats]);
        let e = block_idx_x() * (s.head_dim * s.merged_heads()) + thread_idx_x();
        here.of(x, s.q_dim()).at(e).store(o / sum);
    });
}

/// The sums that the thread's element of its head is the quotient of.
#[device]
fn merged_element(
    s: &Attend,
    here: Row,
    control: In<u32>,
    [partial, stats]: [In<f32>; 2],
) -> (V<f32>, V<f32>) {
    let (head, e) = match s.merged_heads() {
        1 => (block_idx_x(), thread_idx_x()),
        n => (block_idx_x() * n + thread_idx_x() / s.head_dim, thread_idx_x() % s.head_dim),
    };
    let (kv_head, g) = (head / s.group(), head % s.group());
    let seen = seen_of(s, here.control(control).at(1).load() + 1);
    let (partial, stats) = (here.of(partial, s.partials()), here.of(stats, s.stats()));
    let stretch = stretch_of(s, seen);
    let n_active = (seen + (stretch - 1)) / stretch;
    let row = kv_head * s.n_splits * s.group() + g;
    let largest = greatest(s, stats, row, n_active);
    let turns = (n_active + (AT_ONCE - 1)) / AT_ONCE;
    let mut sum = 0.0;
    let mut o = 0.0;
    for turn in 0..turns {
        let mut pairs = Vec::new();
        let mut outputs = Vec::new();
        for i in unroll(0..AT_ONCE) {
            let at = row + min(turn * AT_ONCE + i, n_active - 1) * s.group();
            pairs.push(stats.at(at * 2).load_x2());
            outputs.push(partial.at(at * s.head_dim + e).load());
        }
        for i in unroll(0..AT_ONCE as usize) {
            let there = turn * AT_ONCE + (i as u32) < n_active;
            let weight = select(there, exp(pairs[i][0] - largest), 0.0);
            sum = fma(pairs[i][1], weight, sum);
            o = fma(outputs[i], weight, o);
        }
    }
    (o, sum)
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
        let (q_dim, rows) = (self.0.q_dim(), u64::from(self.0.rows.count));
        Cost { bytes: rows * (u64::from(q_dim) * 4 + act_bytes(q_dim)), macs: rows * u64::from(q_dim) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let (trial, values) = self.inputs(seed);
        let (quants, meta) = quantize::expect(&values);
        let elements = u64::from(self.0.q_dim() * self.0.rows.count);
        trial.output(elements, quants).output(elements / 4, meta)
    }
}

impl Operation for Exact<AttendMerge> {
    fn name(&self) -> &'static str {
        "attend_merge_exact"
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        attend_merge_exact(&self.0)
    }

    fn cost(&self) -> Cost {
        let s = &self.0.0;
        exact::cost_of(self.0.cost(), s.rows.count, 0, s.q_dim())
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0.0;
        let (trial, values) = self.0.inputs(seed);
        trial.output(u64::from(s.q_dim() * s.rows.count) * 4, exact::near_first(values))
    }
}

impl AttendMerge {
    /// A trial with its inputs, and the values that come out with their bounds.
    fn inputs(&self, seed: u64) -> (Trial, Vec<(f64, f64)>) {
        let s = &self.0;
        let (control, scenes) = Scene::random_rows(s, seed);
        let mut partial = vec![f32::NAN; s.partial_bytes() as usize / 4];
        let mut stats = vec![f32::NAN; s.stats_bytes() as usize / 4];
        let mut values = Vec::new();
        for (r, scene) in scenes.iter().enumerate() {
            let partial = &mut partial[r * s.partials() as usize..];
            let stats = &mut stats[r * s.stats() as usize..];
            for head in 0..s.n_heads {
                values.extend(self.merged(scene, head, partial, stats));
            }
        }
        let trial = Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&partial))
            .input(reference::bytes_f32(&stats));
        (trial, values)
    }

    /// Fills in the stretches of one head of one row, and gives its outputs in f64 with bounds.
    fn merged(&self, scene: &Scene, head: u32, partial: &mut [f32], stats: &mut [f32]) -> Vec<(f64, f64)> {
        let s = &self.0;
        for (split, positions) in (0..).zip(s.stretches(scene.len)) {
            let x = scene.stretch(s, head, positions);
            let row = ((head / s.group() * s.n_splits + split) * s.group() + head % s.group()) as usize;
            (stats[2 * row], stats[2 * row + 1]) = (x.m as f32, x.l as f32);
            for (e, o) in x.o.iter().enumerate() {
                partial[row * s.head_dim as usize + e] = *o as f32;
            }
        }
        let whole = scene.stretch(s, head, scene.len - s.seen(scene.len)..scene.len);
        // Inputs were rounded to f32 (also the maxima, which stand in exponents), then each stretch costs two
        // roundings and an exp.
        let relative =
            reference::gamma(6.0 * f64::from(s.n_splits) + 16.0) + 4.0 * reference::U * (whole.m.abs() + 1.0);
        let outputs = whole.o.iter().zip(&whole.magnitude);
        outputs.map(|(o, a)| (o / whole.l, 2.0 * relative * a / whole.l)).collect()
    }
}
