//! Operations without quantized activations: the vectors that matrices multiply, and those that other kernels make for
//! them, are f32.

use super::gemv::act_bytes;
use super::operation::{Cost, Expect};
use super::reference::gamma;
use super::rows::Control;
use super::{gemv::Split, reference};
use crate::layout::Matrix;
use crate::rng::Rng;

/// An operation on f32 activations: it takes one vector `x` where the operation itself takes quants and meta, and gives
/// one where that gives both.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact<O>(pub O);

/// A walk with fewer super-blocks in flight than one over int8 activations, because each brings more of them.
pub(super) fn walk(s: Split, matrices: &[Matrix]) -> Split {
    Split { unroll: (s.unroll / 2).max(1), ..s }.fit(matrices)
}

/// The cost of an operation whose `rows` vectors of `cols` elements, and of `made` elements, are f32.
pub(super) fn cost_of(int8: Cost, rows: u32, cols: u32, made: u32) -> Cost {
    let (wide, quantized) = (4 * u64::from(cols + made), act_bytes(cols) + act_bytes(made));
    Cost { bytes: int8.bytes + u64::from(rows) * (wide - quantized), ..int8 }
}

/// `W x` in f64, with the bound `γ_n Σ|w·x|` for each row. Weights are those of GGML's formula to the bit. n counts the
/// roundings that a product goes through: 8 in its chain of a sub-block and 2 where the chains are added, one for each
/// super-block, 3 of the tree and at most 7 of the parts of K.
pub(super) fn gemv(m: &Matrix, raw: &[u8], x: &[f32]) -> Vec<(f64, f64)> {
    let weights = m.dequantize(raw);
    let roundings = f64::from(m.n_super_blocks()) + 20.0;
    weights
        .chunks_exact(m.cols as usize)
        .map(|row| {
            let products = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, magnitude) = products.fold((0.0, 0.0), |(sum, all), p| (sum + p, all + p.abs()));
            (sum, gamma(roundings) * magnitude)
        })
        .collect()
}

/// Expectations for the first f32 of an output; the rest is as before.
pub(super) fn near_first(values: Vec<(f64, f64)>) -> Expect {
    Expect::NearF32(values.into_iter().enumerate().map(|(i, (v, bound))| (i, v, bound)).collect())
}

/// Rows of activations in a trial, of which the first count.
pub(super) struct Acts {
    control: Control,
    cols: u32,
    values: Vec<f32>,
}

impl Acts {
    pub(super) fn random(rng: &mut Rng, cols: u32, rows: u32) -> Acts {
        let control = Control::random(rng, rows);
        let values = reference::random_activations(rng, cols * rows);
        Acts { control, cols, values }
    }

    /// The active rows.
    pub(super) fn active(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.cols as usize).take(self.control.active as usize)
    }

    pub(super) fn control_bytes(&self) -> Vec<u8> {
        self.control.bytes()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        reference::bytes_f32(&self.values)
    }
}
