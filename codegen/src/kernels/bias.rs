//! A bias added to the rows of a matrix product, for the few models that have one behind their output matrices.

use super::operation::{Cost, Expect, Operation, Trial};
use super::reference;
use super::rows::{Control, for_row};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;

/// Threads of a CTA: one element each.
const THREADS: u32 = 256;

/// A vector of `dim` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct AddBias {
    /// Elements.
    pub dim: u32,
    /// Rows of the step.
    pub rows: u32,
}

/// y[row, i] += b[i]
/// shapes   control as in the plan · b (dim), y (row, dim) f32
/// layout   one thread an element
/// launch   grid (dim / 256 rounded up, rows), block 256, shared 0
/// source   an addition
#[kernel(grid = (s.dim.div_ceil(THREADS), s.rows), block = THREADS)]
pub fn add_bias(s: &AddBias, control: In<u32>, bias: Fixed<f32>, y: InOut<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let i = block_idx_x() * THREADS + thread_idx_x();
        if i < s.dim {
            let y = here.of(y, s.dim).at(i);
            y.store(y.load() + bias.at(i).load());
        }
    });
}

impl Operation for AddBias {
    fn name(&self) -> &'static str {
        "add_bias"
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        add_bias(self)
    }

    fn cost(&self) -> Cost {
        let (rows, dim) = (u64::from(self.rows), u64::from(self.dim));
        Cost { bytes: rows * dim * 8 + dim * 4, macs: rows * dim }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let control = Control::random(&mut rng, self.rows);
        let bias = reference::random_activations(&mut rng, self.dim);
        let before = reference::random_activations(&mut rng, self.dim * self.rows);
        let n = (self.dim * control.active) as usize;
        // One addition, so that the result is exact.
        let sums = before.iter().zip(bias.iter().cycle()).enumerate();
        let after: Vec<f32> = sums.map(|(i, (y, b))| if i < n { y + b } else { *y }).collect();
        Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&bias))
            .in_out(reference::bytes_f32(&before), Expect::Exact(reference::bytes_f32(&after)))
    }
}
