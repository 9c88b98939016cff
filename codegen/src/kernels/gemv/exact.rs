//! The one-row kernels with f32 activations.

use super::qkv::qkv_rows;
use super::{Epilogue, Floats, Gemv, GemvQkv, Rows, gemv_rows};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::exact::{self, Exact, near_first, walk};
use crate::kernels::operation::{Cost, Operation, Trial, name_by_type};
use crate::kernels::reference;
use crate::rng::Rng;

/// y[n] = Σ_k W[n,k]·x[k], or y[n] += …
/// shapes   W (rows, cols) packed · x (cols) f32 · y (rows) f32
/// layout   as gemv; a lane widens its sub-block and multiplies it by fma in four chains
/// launch   as gemv
/// source   GGML block types; order of the sum: docs/numerics.md
#[kernel(grid = s.matrix.n_tiles().div_ceil(s.split.tiles_per_cta), block = s.split.threads(), min_ctas = s.split.min_ctas())]
pub fn gemv_exact(s: &Gemv, w: Fixed<u32>, x: In<f32>, y: InOut<f32>) {
    let to = Rows { y, first_tile: cta_id() * s.split.tiles_per_cta };
    gemv_rows(&s.matrix, (walk(s.split, &[s.matrix]), s.epilogue), w, Floats(x), to);
}

/// qkv = (Wq x, Wk x, Wv x)
/// shapes   Wq (q_dim, cols) · Wk, Wv (kv_dim, cols), packed, types may differ · x (cols) f32 · qkv (q_dim + 2 kv_dim) f32
/// layout   as gemv_qkv
/// launch   as gemv_qkv
/// source   as gemv_exact
#[kernel(grid = s.ctas(0) + s.ctas(1) + s.ctas(2), block = s.split.threads(), min_ctas = s.split.min_ctas())]
pub fn gemv_exact_qkv(
    s: &GemvQkv,
    wq: Fixed<u32>,
    wk: Fixed<u32>,
    wv: Fixed<u32>,
    x: In<f32>,
    qkv: InOut<f32>,
) {
    qkv_rows(s, walk(s.split, &s.matrices), [wq, wk, wv], Floats(x), qkv);
}

impl Operation for Exact<Gemv> {
    fn name(&self) -> &'static str {
        match self.0.epilogue {
            Epilogue::Store => name_by_type!("gemv_exact_", self.0.matrix.qtype),
            Epilogue::Add => name_by_type!("gemv_exact_", self.0.matrix.qtype, "_residual"),
        }
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gemv_exact(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), 1, self.0.matrix.cols, 0)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (mut rng, m) = (Rng::new(seed), &self.0.matrix);
        let (raw, x) = (m.random(&mut rng), reference::random_activations(&mut rng, m.cols));
        let rows = exact::gemv(m, &raw, &x);
        let trial = Trial::new(seed).input(m.pack(&raw)).input(reference::bytes_f32(&x));
        match self.0.epilogue {
            Epilogue::Store => trial.output(u64::from(m.rows) * 4, near_first(rows)),
            Epilogue::Add => {
                let before = reference::random_activations(&mut rng, m.rows);
                trial.in_out(reference::bytes_f32(&before), reference::near(rows, Some(&before)))
            }
        }
    }
}

impl Operation for Exact<GemvQkv> {
    fn name(&self) -> &'static str {
        "gemv_exact_qkv"
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gemv_exact_qkv(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), 1, self.0.matrices[0].cols, 0)
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let x = reference::random_activations(&mut rng, self.0.matrices[0].cols);
        let mut trial = Trial::new(seed);
        let mut rows = Vec::new();
        for m in &self.0.matrices {
            let raw = m.random(&mut rng);
            rows.extend(exact::gemv(m, &raw, &x));
            trial = trial.input(m.pack(&raw));
        }
        let bytes = rows.len() as u64 * 4;
        trial.input(reference::bytes_f32(&x)).output(bytes, near_first(rows))
    }
}
