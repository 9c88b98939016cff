//! The middle of a feed-forward without a gate: bias, activation and quantization between the up and the down matrix.

use super::activation::{activate, error_bound, reference as activated};
use super::exact::{self, Exact};
use super::gemv::act_bytes;
use super::operation::{Cost, Operation, Trial};
use super::rows::{Control, for_row};
use super::{quantize, reference};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;
use ::plan::Activation;

/// Warps of a CTA: a block of activations each.
const WARPS: u32 = 4;

/// A vector of `dim` elements and the function that it goes through.
#[derive(Clone, Debug, PartialEq)]
pub struct Activate {
    /// Elements; a multiple of 32.
    pub dim: u32,
    /// The function.
    pub activation: Activation,
    /// Whether a bias is added first.
    pub bias: bool,
    /// Rows of the step.
    pub rows: u32,
}

/// Where the result goes.
#[derive(Clone, Copy)]
enum Target {
    Blocks { quants: Out<u8>, meta: Out<u32> },
    Floats(Out<f32>),
}

#[device]
fn activate_rows(s: &Activate, control: In<u32>, x: In<f32>, bias: Option<Fixed<f32>>, to: Target) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let block = block_idx_x() * WARPS + warp_id();
        if block < s.dim / 32 {
            let e = block * 32 + lane_id();
            let v = here.of(x, s.dim).at(e).load();
            let v = match bias {
                Some(bias) => v + bias.at(e).load(),
                None => v,
            };
            let v = activate(s.activation, v);
            match to {
                Target::Blocks { quants, meta } => {
                    quantize::store_lane(v, block, here.of(quants, s.dim), here.of(meta, s.dim / 16));
                }
                Target::Floats(y) => here.of(y, s.dim).at(e).store(v),
            }
        }
    });
}

/// q, a = quantize(f(x))
/// shapes   control as in the plan · x (row, dim) f32 · quants (row, dim) i8 · meta (row, dim / 32) of (f32 scale, two s16 sums)
/// layout   a lane owns an element, a warp a block of 32
/// launch   grid (dim / 128 rounded up, rows), block 128, shared 0
/// source   Hendrycks and Gimpel 2016; formulas: docs/numerics.md
#[kernel(grid = (s.dim.div_ceil(32 * WARPS), s.rows), block = 32 * WARPS)]
pub fn activate_quantize(s: &Activate, control: In<u32>, x: In<f32>, quants: Out<u8>, meta: Out<u32>) {
    activate_rows(s, control, x, None, Target::Blocks { quants, meta });
}

/// q, a = quantize(f(x + b))
/// shapes   as activate_quantize · b (dim) f32
/// layout   as activate_quantize
/// launch   as activate_quantize
/// source   as activate_quantize
#[kernel(grid = (s.dim.div_ceil(32 * WARPS), s.rows), block = 32 * WARPS)]
pub fn activate_quantize_bias(
    s: &Activate,
    control: In<u32>,
    x: In<f32>,
    bias: Fixed<f32>,
    quants: Out<u8>,
    meta: Out<u32>,
) {
    activate_rows(s, control, x, Some(bias), Target::Blocks { quants, meta });
}

/// y = f(x)
/// shapes   control as in the plan · x, y (row, dim) f32
/// layout   as activate_quantize
/// launch   as activate_quantize
/// source   as activate_quantize
#[kernel(grid = (s.dim.div_ceil(32 * WARPS), s.rows), block = 32 * WARPS)]
pub fn activate_exact(s: &Activate, control: In<u32>, x: In<f32>, y: Out<f32>) {
    activate_rows(s, control, x, None, Target::Floats(y));
}

/// y = f(x + b)
/// shapes   as activate_exact · b (dim) f32
/// layout   as activate_quantize
/// launch   as activate_quantize
/// source   as activate_quantize
#[kernel(grid = (s.dim.div_ceil(32 * WARPS), s.rows), block = 32 * WARPS)]
pub fn activate_exact_bias(s: &Activate, control: In<u32>, x: In<f32>, bias: Fixed<f32>, y: Out<f32>) {
    activate_rows(s, control, x, Some(bias), Target::Floats(y));
}

impl Operation for Activate {
    fn name(&self) -> &'static str {
        if self.bias { "activate_quantize_bias" } else { "activate_quantize" }
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        if self.bias { activate_quantize_bias(self) } else { activate_quantize(self) }
    }

    fn cost(&self) -> Cost {
        let (rows, dim) = (u64::from(self.rows), u64::from(self.dim));
        let bias = if self.bias { dim * 4 } else { 0 };
        Cost { bytes: rows * (dim * 4 + act_bytes(self.dim)) + bias, macs: rows * dim }
    }

    fn trial(&self, seed: u64) -> Trial {
        let (trial, values) = self.inputs(seed);
        let (quants, meta) = quantize::expect(&values);
        let elements = u64::from(self.rows * self.dim);
        trial.output(elements, quants).output(elements / 4, meta)
    }
}

impl Activate {
    /// A trial with its inputs, and the values that come out with their bounds.
    fn inputs(&self, seed: u64) -> (Trial, Vec<(f64, f64)>) {
        let mut rng = Rng::new(seed);
        let control = Control::random(&mut rng, self.rows);
        // Around zero, where the functions bend, and far from it.
        let n = self.dim * control.active;
        let x: Vec<f32> = (0..n).map(|i| rng.normal() * if i % 64 < 32 { 2.0 } else { 30.0 }).collect();
        let bias: Vec<f32> = (0..self.dim).map(|_| rng.normal()).collect();
        let values: Vec<(f64, f64)> = x
            .iter()
            .zip(bias.iter().cycle())
            .map(|(x, b)| {
                let sum = f64::from(*x) + if self.bias { f64::from(*b) } else { 0.0 };
                let rounded = if self.bias { reference::U * sum.abs() } else { 0.0 };
                (activated(self.activation, sum), error_bound(sum, rounded))
            })
            .collect();
        let mut trial = Trial::new(seed).input(control.bytes()).input(reference::bytes_f32(&x));
        if self.bias {
            trial = trial.input(reference::bytes_f32(&bias));
        }
        (trial, values)
    }
}

impl Operation for Exact<Activate> {
    fn name(&self) -> &'static str {
        if self.0.bias { "activate_exact_bias" } else { "activate_exact" }
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        if self.0.bias { activate_exact_bias(&self.0) } else { activate_exact(&self.0) }
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), self.0.rows, 0, self.0.dim)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (trial, values) = self.0.inputs(seed);
        trial.output(u64::from(self.0.rows * self.0.dim) * 4, exact::near_first(values))
    }
}
