//! RMSNorm with the quantization of its result: one vector in, int8 blocks out, shared by all matrices that follow.

use super::exact::{self, Acts, Exact};
use super::gemv::act_bytes;
use super::operation::{Cost, Operation, Trial};
use super::rows::{Control, for_row};
use super::{quantize, reference};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;

/// A norm of a vector of `dim` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Elements; a multiple of 128.
    pub dim: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Rows of the step.
    pub rows: u32,
}

impl Norm {
    /// Threads: one for each 4 elements, at most 1024, a whole number of times.
    pub fn threads(&self) -> u32 {
        let quads = self.dim / 4;
        (1..)
            .map(|turns| quads / turns)
            .find(|t| *t <= 1024 && quads.is_multiple_of(*t) && t.is_multiple_of(32))
            .unwrap_or(32)
    }

    pub(super) fn turns(&self) -> u32 {
        self.dim / 4 / self.threads()
    }
}

/// q, a = quantize(x / √(Σ x² / dim + eps) · weight)
/// shapes   control as in the plan · x (row, dim), weight (dim) f32 · quants (row, dim) i8 as words of 4 · meta (row, dim / 32) of (f32 scale, two s16 sums)
/// layout   a thread owns 4 neighbours, 8 lanes a block of 32
/// launch   grid rows, block dim / 4 up to 1024, shared 128 bytes
/// source   Zhang and Sennrich 2019; order of the sum: docs/numerics.md
#[kernel(grid = s.rows, block = s.threads())]
pub fn norm_quantize(
    s: &Norm,
    control: In<u32>,
    x: In<f32>,
    weight: Fixed<f32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    for_row(s.rows, block_idx_x(), control, |here| {
        let x = here.of(x, s.dim);
        let (values, scale) = scale_of(s, x);
        let (quants, meta) = (here.of(quants, s.dim / 4), here.of(meta, s.dim / 16));
        for turn in unroll(0..s.turns() as usize) {
            let (normed, place) = normed_quad(s, &values, scale, (turn, weight));
            quantize::store_quad(normed, place, quants, meta);
        }
    });
}

/// y = x / √(Σ x² / dim + eps) · weight
/// shapes   control as in the plan · x (row, dim), weight (dim), y (row, dim) f32
/// layout   as norm_quantize
/// launch   as norm_quantize
/// source   as norm_quantize
#[kernel(grid = s.rows, block = s.threads())]
pub fn norm_exact(s: &Norm, control: In<u32>, x: In<f32>, weight: Fixed<f32>, y: Out<f32>) {
    for_row(s.rows, block_idx_x(), control, |here| {
        let x = here.of(x, s.dim);
        let (values, scale) = scale_of(s, x);
        let y = here.of(y, s.dim);
        for turn in unroll(0..s.turns() as usize) {
            let (normed, place) = normed_quad(s, &values, scale, (turn, weight));
            y.at(place * 4).store_x4(normed);
        }
    });
}

/// The quads of a thread, and what the row is multiplied by.
#[device]
fn scale_of(s: &Norm, x: In<f32>) -> (Vec<[V<f32>; 4]>, V<f32>) {
    let quad = thread_idx_x();
    let mut values = Vec::new();
    let mut squares = 0.0;
    for turn in unroll(0..s.turns()) {
        let v = x.at((quad + turn * s.threads()) * 4).load_x4();
        for e in each(v) {
            squares = fma(e, e, squares);
        }
        values.push(v);
    }
    let total = block_sum(squares, shared::<f32>(s.threads() / 32), s.threads() / 32);
    let scale = rcp(sqrt(total / (s.dim as f32) + s.eps));
    (values, scale)
}

/// The thread's quad of a turn, normed, and its index in the row.
#[device]
fn normed_quad(
    s: &Norm,
    values: &[[V<f32>; 4]],
    scale: V<f32>,
    (turn, weight): (usize, Fixed<f32>),
) -> ([V<f32>; 4], V<u32>) {
    let quad = thread_idx_x();
    let place = quad + turn as u32 * s.threads();
    let w = weight.at(place * 4).load_x4();
    let v = values[turn];
    let normed = [v[0] * scale * w[0], v[1] * scale * w[1], v[2] * scale * w[2], v[3] * scale * w[3]];
    (normed, place)
}

impl Operation for Norm {
    fn name(&self) -> &'static str {
        "norm_quantize"
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        norm_quantize(self)
    }

    fn cost(&self) -> Cost {
        let (rows, dim) = (u64::from(self.rows), u64::from(self.dim));
        Cost { bytes: rows * (dim * 4 + act_bytes(self.dim)) + dim * 4, macs: 3 * rows * dim }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let control = Control::random(&mut rng, self.rows);
        let x = reference::random_activations(&mut rng, self.dim * control.active);
        let weight: Vec<f32> = (0..self.dim).map(|_| 1.0 + 0.1 * rng.normal()).collect();
        let normed: Vec<(f64, f64)> =
            x.chunks(self.dim as usize).flat_map(|row| self.expected(row, &weight)).collect();
        let (quants, meta) = quantize::expect(&normed);
        let elements = u64::from(self.rows * self.dim);
        Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&x))
            .input(reference::bytes_f32(&weight))
            .output(elements, quants)
            .output(elements / 4, meta)
    }
}

impl Operation for Exact<Norm> {
    fn name(&self) -> &'static str {
        "norm_exact"
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        norm_exact(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), self.0.rows, 0, self.0.dim)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (mut rng, s) = (Rng::new(seed), &self.0);
        let x = Acts::random(&mut rng, s.dim, s.rows);
        let weight: Vec<f32> = (0..s.dim).map(|_| 1.0 + 0.1 * rng.normal()).collect();
        let normed = x.active().flat_map(|row| s.expected(row, &weight)).collect();
        Trial::new(seed)
            .input(x.control_bytes())
            .input(x.bytes())
            .input(reference::bytes_f32(&weight))
            .output(u64::from(s.rows * s.dim) * 4, exact::near_first(normed))
    }
}

impl Norm {
    /// One row in f64 with bounds.
    pub(super) fn expected(&self, x: &[f32], weight: &[f32]) -> Vec<(f64, f64)> {
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / f64::from(self.dim);
        let scale = 1.0 / (mean + f64::from(self.eps)).sqrt();
        // Roundings of a thread's chain, the tree, and the four operations after it.
        let relative = reference::gamma(f64::from(4 * self.turns()) + 16.0);
        let normed = x.iter().zip(weight).map(|(v, w)| f64::from(*v) * scale * f64::from(*w));
        normed.map(|v| (v, relative * v.abs())).collect()
    }
}
