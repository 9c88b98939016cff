//! A norm behind a matrix: what attention or feed-forward found is normed before it joins the residual stream.

use super::norm::{Norm, for_quads, normed, quads_of, scale_of};
use super::operation::{Cost, Expect, Operation, Trial};
use super::reference;
use super::rows::{Control, for_row};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;

/// A norm of a vector and the addition of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct PostNorm(pub Norm);

/// x += y / √(Σ y² / dim + eps) · weight
/// shapes   control as in the plan · y, x (row, dim), weight (dim) f32
/// layout   a thread owns 4 neighbours
/// launch   grid rows, block dim / 4 up to 1024, shared as norm_quantize
/// source   as norm_quantize; the addition rounds once
#[kernel(grid = s.0.rows, block = s.0.threads())]
pub fn norm_add(s: &PostNorm, control: In<u32>, y: In<f32>, weight: Fixed<f32>, x: InOut<f32>) {
    let s = &s.0;
    for_row(s.rows, block_idx_x(), control, |here| {
        let (y, x) = (here.of(y, s.dim), here.of(x, s.dim));
        let n_warps = s.threads() / 32;
        let values = quads_of(s, y, n_warps);
        let scale = scale_of(s, &values, n_warps);
        for_quads(s, n_warps, |turn, place| {
            let place = place * 4;
            let (w, old) = (weight.at(place).load_x4(), x.at(place).load_x4());
            let v = normed(values[turn], scale, w);
            x.at(place).store_x4([old[0] + v[0], old[1] + v[1], old[2] + v[2], old[3] + v[3]]);
        });
    });
}

impl Operation for PostNorm {
    fn name(&self) -> &'static str {
        "norm_add"
    }

    fn constants(&self) -> String {
        format!("{:?}", self.0)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        norm_add(self)
    }

    fn cost(&self) -> Cost {
        let (rows, dim) = (u64::from(self.0.rows), u64::from(self.0.dim));
        Cost { bytes: rows * dim * 12 + dim * 4, macs: 3 * rows * dim }
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0;
        let mut rng = Rng::new(seed);
        let control = Control::random(&mut rng, s.rows);
        let y = reference::random_activations(&mut rng, s.dim * control.active);
        let before = reference::random_activations(&mut rng, s.dim * s.rows);
        let weight: Vec<f32> = (0..s.dim).map(|_| 1.0 + 0.1 * rng.normal()).collect();
        let normed = y.chunks(s.dim as usize).flat_map(|row| s.expected(row, &weight));
        let sums = normed.zip(&before).map(|((v, bound), old)| {
            let sum = v + f64::from(*old);
            (sum, bound + reference::U * (sum.abs() + bound))
        });
        let sums = sums.enumerate().map(|(i, (sum, bound))| (i, sum, bound)).collect();
        Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&y))
            .input(reference::bytes_f32(&weight))
            .in_out(reference::bytes_f32(&before), Expect::NearF32(sums))
    }
}
