//! The products for several rows of f32 activations: always by columns, since no tensor core multiplies f32 exactly.

use super::columns::{
    GATE_UP_WARPS, columns, columns_from, ctas, gate_up_split, gated_columns, min_ctas, outputs_of_cta,
    qkv_of_cta,
};
use super::{Batch, Gemm, GemmGateUp, GemmQkv, Target, output_bytes};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::exact::{self, Acts, Exact, near_first};
use crate::kernels::gemv::{Epilogue, Floats, Split};
use crate::kernels::operation::{Cost, Expect, Operation, Trial, name_by_type};
use crate::kernels::{ffn, reference};
use crate::layout::{Matrix, SUB_BLOCK};
use crate::rng::Rng;
use ::plan::Activation;

/// One super-block in flight: with several columns it brings loads enough.
fn walk(s: Split, matrices: &[Matrix]) -> Split {
    Split { unroll: 1, ..s }.fit(matrices)
}

/// CTAs that a multiprocessor must be able to hold: three types in one kernel want more than 128 registers for 4 columns.
fn qkv_ctas(s: &GemmQkv) -> u32 {
    if columns(s.rows) < 4 { min_ctas(s.split, 4) } else { 1 }
}

/// y[i,n] = Σ_k W[n,k]·x[i,k], or y[i,n] += …, for the active rows i
/// shapes   W (outputs, cols) packed · x (rows, cols) f32 · y (rows, outputs) f32
/// layout   as gemm_columns
/// launch   as gemm_columns
/// source   as gemv_exact
#[kernel(
    grid = (s.matrix.n_tiles().div_ceil(s.split.tiles_per_cta), s.rows.div_ceil(columns(s.rows))),
    block = s.split.threads(),
    min_ctas = min_ctas(s.split, 2 * columns(s.rows))
)]
fn gemm_exact(s: &Gemm, control: In<u32>, w: Fixed<u32>, x: In<f32>, y: InOut<f32>) {
    let n_columns = columns(s.rows);
    let batch = Batch { first: block_idx_y() * n_columns, n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let x = columns_from(batch, n_columns, s.matrix.cols, Floats(x));
    let how = (walk(s.split, &[s.matrix]), s.epilogue);
    let to = Target { y, stride: s.matrix.rows, first: cta_id() * s.split.tiles_per_cta };
    outputs_of_cta(&s.matrix, how, w, &x, to);
}

/// qkv[i] = (Wq x[i], Wk x[i], Wv x[i]) for the active rows i
/// shapes   Wq (q_dim, cols) · Wk, Wv (kv_dim, cols), packed, types may differ · x (rows, cols) f32 · qkv (rows, q_dim + 2 kv_dim) f32
/// layout   as gemm_qkv_columns
/// launch   as gemm_qkv_columns
/// source   as gemv_exact
#[kernel(
    grid = (ctas(s, 0) + ctas(s, 1) + ctas(s, 2), s.rows.div_ceil(columns(s.rows))),
    block = s.split.threads(),
    min_ctas = qkv_ctas(s)
)]
fn gemm_exact_qkv(
    s: &GemmQkv,
    control: In<u32>,
    wq: Fixed<u32>,
    wk: Fixed<u32>,
    wv: Fixed<u32>,
    x: In<f32>,
    qkv: InOut<f32>,
) {
    let n_columns = columns(s.rows);
    let batch = Batch { first: block_idx_y() * n_columns, n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let x = columns_from(batch, n_columns, s.matrices[0].cols, Floats(x));
    qkv_of_cta(s, walk(s.split, &s.matrices), [wq, wk, wv], &x, qkv);
}

/// y[i] = f(Wg x[i]) · (Wu x[i]) for the active rows i
/// shapes   Wg, Wu (hidden_dim, dim) packed · x (rows, dim) f32 · y (rows, hidden_dim) f32
/// layout   as gemm_gate_up_columns
/// launch   as gemm_gate_up_columns; the sums of two matrices want more than 128 registers
/// source   as gate_up
#[kernel(
    grid = (s.gate.rows / SUB_BLOCK, s.rows.div_ceil(columns(s.rows))),
    block = 32 * GATE_UP_WARPS,
    min_ctas = 1
)]
fn gemm_exact_gate_up(
    s: &GemmGateUp,
    control: In<u32>,
    gate: Fixed<u32>,
    up: Fixed<u32>,
    x: In<f32>,
    y: Out<f32>,
) {
    let n_columns = columns(s.rows);
    let batch = Batch { first: block_idx_y() * n_columns, n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let x = columns_from(batch, n_columns, s.gate.cols, Floats(x));
    let values = gated_columns(s, walk(gate_up_split(s), &[s.gate, s.up]), [gate, up], &x);
    // Warp c stores column c.
    let row = x.first + warp_id();
    if warp_id() < n_columns && row < x.n_active {
        let value = values.at(warp_id() * SUB_BLOCK + lane_id()).load();
        y.offset(row * s.gate.rows).at(cta_id() * SUB_BLOCK + lane_id()).store(value);
    }
}

impl Operation for Exact<Gemm> {
    fn name(&self) -> &'static str {
        match self.0.epilogue {
            Epilogue::Store => name_by_type!("gemm_exact_", self.0.matrix.qtype),
            Epilogue::Add => name_by_type!("gemm_exact_", self.0.matrix.qtype, "_residual"),
        }
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gemm_exact(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), self.0.rows, self.0.matrix.cols, 0)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (mut rng, s) = (Rng::new(seed), &self.0);
        let (raw, x) = (s.matrix.random(&mut rng), Acts::random(&mut rng, s.matrix.cols, s.rows));
        let results = x.active().flat_map(|x| exact::gemv(&s.matrix, &raw, x)).collect();
        let trial = Trial::new(seed).input(x.control_bytes()).input(s.matrix.pack(&raw)).input(x.bytes());
        match s.epilogue {
            Epilogue::Store => trial.output(output_bytes(s.matrix.rows, s.rows), near_first(results)),
            Epilogue::Add => {
                let before = reference::random_activations(&mut rng, s.matrix.rows * s.rows);
                let expect = match reference::near(results, Some(&before)) {
                    Expect::Near(values) => near_first(values),
                    other => other,
                };
                trial.in_out(reference::bytes_f32(&before), expect)
            }
        }
    }
}

impl Operation for Exact<GemmQkv> {
    fn name(&self) -> &'static str {
        "gemm_exact_qkv"
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gemm_exact_qkv(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), self.0.rows, self.0.matrices[0].cols, 0)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (mut rng, s) = (Rng::new(seed), &self.0);
        let x = Acts::random(&mut rng, s.matrices[0].cols, s.rows);
        let raw: Vec<Vec<u8>> = s.matrices.iter().map(|m| m.random(&mut rng)).collect();
        let of_row = |x| s.matrices.iter().zip(&raw).flat_map(move |(m, raw)| exact::gemv(m, raw, x));
        let results = x.active().flat_map(of_row).collect();
        let mut trial = Trial::new(seed).input(x.control_bytes());
        for (m, raw) in s.matrices.iter().zip(&raw) {
            trial = trial.input(m.pack(raw));
        }
        trial.input(x.bytes()).output(output_bytes(s.outputs(), s.rows), near_first(results))
    }
}

impl Operation for Exact<GemmGateUp> {
    fn name(&self) -> &'static str {
        match self.0.activation {
            Activation::Silu => "gemm_exact_gate_up_swiglu",
            Activation::GeluTanh => "gemm_exact_gate_up_geglu_tanh",
            Activation::GeluErf => "gemm_exact_gate_up_geglu_erf",
            Activation::GeluQuick => "gemm_exact_gate_up_geglu_quick",
        }
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gemm_exact_gate_up(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), self.0.rows, self.0.gate.cols, self.0.gate.rows)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (mut rng, s) = (Rng::new(seed), &self.0);
        let x = Acts::random(&mut rng, s.gate.cols, s.rows);
        let (gate, up) = (s.gate.random(&mut rng), s.up.random(&mut rng));
        let of_row = |x| {
            let (g, u) = (exact::gemv(&s.gate, &gate, x), exact::gemv(&s.up, &up, x));
            g.into_iter().zip(u).map(|(g, u)| ffn::gated_reference(s.activation, g, u))
        };
        let values = x.active().flat_map(of_row).collect();
        Trial::new(seed)
            .input(x.control_bytes())
            .input(s.gate.pack(&gate))
            .input(s.up.pack(&up))
            .input(x.bytes())
            .output(output_bytes(s.gate.rows, s.rows), near_first(values))
    }
}
