//! The vector of a trial: quantized already, or with the norm that the kernel does first.

use super::random_act;
use crate::kernels::norm::Norm;
use crate::kernels::operation::Trial;
use crate::kernels::reference;
use crate::layout::{ActBlocks, Matrix, quantize_row};
use crate::rng::Rng;

/// A trial's vector.
pub(in crate::kernels) struct Input {
    /// The vector and the norm's weights, as f32, where the kernel norms.
    raw: Option<[Vec<f32>; 2]>,
    /// What is multiplied.
    acts: ActBlocks,
}

impl Input {
    pub(in crate::kernels) fn random(rng: &mut Rng, cols: u32, norm: Option<&Norm>) -> Input {
        match norm {
            None => Input { raw: None, acts: random_act(rng, cols) },
            Some(norm) => {
                let x = reference::random_activations(rng, cols);
                let weight: Vec<f32> = (0..cols).map(|_| 1.0 + 0.1 * rng.normal()).collect();
                let acts = quantize_row(&norm.to_the_bit(&x, &weight));
                Input { raw: Some([x, weight]), acts }
            }
        }
    }

    /// Adds the vector to be normed and the norm's weights, which come before the matrices.
    pub(in crate::kernels) fn first(&self, trial: Trial) -> Trial {
        self.raw.iter().flatten().fold(trial, |trial, values| trial.input(reference::bytes_f32(values)))
    }

    /// Adds the quantized vector, which comes behind the matrices.
    pub(in crate::kernels) fn last(&self, trial: Trial) -> Trial {
        match self.raw {
            Some(_) => trial,
            None => trial.input(self.acts.quant_bytes()).input(self.acts.meta_bytes()),
        }
    }

    /// The product with a matrix in f64, with bounds.
    pub(in crate::kernels) fn product(&self, m: &Matrix, raw: &[u8]) -> Vec<(f64, f64)> {
        reference::gemv(m, raw, &self.acts)
    }
}
