//! RMSNorm with the quantization of its result: one vector in, int8 blocks out, shared by all matrices that follow.

use super::gemv::act_bytes;
use super::operation::{Cost, Operation, Trial};
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

    fn turns(&self) -> u32 {
        self.dim / 4 / self.threads()
    }
}

/// q, a = quantize(x / √(Σ x² / dim + eps) · weight)
/// shapes   x, weight (dim) f32 · quants (dim) i8 as words of 4 · meta (dim / 32) of (f32 scale, two s16 sums)
/// layout   a thread owns 4 neighbours, 8 lanes a block of 32
/// launch   grid 1, block dim / 4 up to 1024, shared 128 bytes
/// source   Zhang and Sennrich 2019; order of the sum: docs/numerics.md
#[kernel(grid = 1, block = s.threads())]
pub fn norm_quantize(s: &Norm, x: In<f32>, weight: In<f32>, quants: Out<u32>, meta: Out<u32>) {
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
    for turn in unroll(0..s.turns() as usize) {
        let place = quad + turn as u32 * s.threads();
        let w = weight.at(place * 4).load_x4();
        let v = values[turn];
        let normed = [v[0] * scale * w[0], v[1] * scale * w[1], v[2] * scale * w[2], v[3] * scale * w[3]];
        quantize::store_quad(normed, place, quants, meta);
    }
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
        Cost { bytes: u64::from(self.dim) * 8 + act_bytes(self.dim), macs: 3 * u64::from(self.dim) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let x = reference::random_activations(&mut rng, self.dim);
        let weight: Vec<f32> = (0..self.dim).map(|_| 1.0 + 0.1 * rng.normal()).collect();
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / f64::from(self.dim);
        let scale = 1.0 / (mean + f64::from(self.eps)).sqrt();
        // Roundings of a thread's chain, the tree, and the four operations after it.
        let relative = reference::gamma(f64::from(4 * self.turns()) + 16.0);
        let normed = x.iter().zip(&weight).map(|(v, w)| f64::from(*v) * scale * f64::from(*w));
        let (quants, meta) = quantize::expect(&normed.map(|v| (v, relative * v.abs())).collect::<Vec<_>>());
        Trial::new(seed)
            .input(reference::bytes_f32(&x))
            .input(reference::bytes_f32(&weight))
            .output(u64::from(self.dim), quants)
            .output(u64::from(self.dim) / 4, meta)
    }
}
