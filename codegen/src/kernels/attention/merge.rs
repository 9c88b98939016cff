//! The second of two launches of attention: the stretches become one vector, quantized for the output matrix.

use super::join::{Parts, Quad, join_stretches, store_blocks, store_floats};
use super::scene::Scene;
use super::{Attend, Extent};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::exact::{self, Exact};
use crate::kernels::gemv::act_bytes;
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::rows::{Row, for_row};
use crate::kernels::{quantize, reference};

/// The second launch.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendMerge(pub Attend);

/// x = Σ_i o_i 2^(m_i − m) / Σ_i l_i 2^(m_i − m), quantized
/// shapes   control as in the plan · partial, stats as attend_split · quants (row, q_dim) i8 · meta (row, q_dim / 32)
/// layout   a CTA merges the query heads of a key head (of two, where their outputs are no whole number of blocks), a thread four elements; a warp weighs the stretches of a head
/// launch   grid (n_kv_heads, rows), block as attend_split
/// source   Dao et al. 2023 (flash decoding)
#[kernel(grid = (s.0.n_kv_heads / s.0.merged_kv_heads(), s.0.rows.count), block = s.0.threads())]
pub fn attend_merge(
    s: &AttendMerge,
    control: In<u32>,
    partial: In<f32>,
    stats: In<f32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let s = &s.0;
    for_row(s.rows.count, block_idx_y(), control, |here| {
        let (first, quads) = merged(s, here, control, [partial, stats]);
        store_blocks(s, first, &quads, here.of(quants, s.q_dim() / 4), here.of(meta, s.q_dim() / 16));
    });
}

/// x = Σ_i o_i 2^(m_i − m) / Σ_i l_i 2^(m_i − m)
/// shapes   as attend_merge · x (row, q_dim) f32
/// layout   as attend_merge
/// launch   as attend_merge
/// source   as attend_merge
#[kernel(grid = (s.0.n_kv_heads / s.0.merged_kv_heads(), s.0.rows.count), block = s.0.threads())]
pub fn attend_merge_exact(s: &AttendMerge, control: In<u32>, partial: In<f32>, stats: In<f32>, x: Out<f32>) {
    let s = &s.0;
    for_row(s.rows.count, block_idx_y(), control, |here| {
        let (first, quads) = merged(s, here, control, [partial, stats]);
        store_floats(s, first, &quads, here.of(x, s.q_dim()));
    });
}

/// The CTA's first key head and what its stretches come to.
#[device]
fn merged(s: &Attend, here: Row, control: In<u32>, [partial, stats]: [In<f32>; 2]) -> (V<u32>, Vec<Quad>) {
    let first = block_idx_x() * s.merged_kv_heads();
    let extent = Extent::new(s, here.control(control).at(1).load());
    let parts = Parts { partial: here.of(partial, s.partials()), stats: here.of(stats, s.stats()) };
    let quads = join_stretches(s, &parts, first, extent.active());
    (first, quads)
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
            reference::gamma(6.0 * f64::from(s.n_splits) + 48.0) + 4.0 * reference::U * (whole.m.abs() + 1.0);
        let outputs = whole.o.iter().zip(&whole.magnitude);
        outputs.map(|(o, a)| (o / whole.l, 2.0 * relative * a / whole.l)).collect()
    }
}
