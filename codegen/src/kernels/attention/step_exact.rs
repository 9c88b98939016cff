//! Attention of one new position in one launch whose outputs stay f32: for models whose activations are not quantized.

use super::newest::Extra;
use super::step::{AttendStep, Floats, Inputs, attend_row};
use super::step_trial;
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::exact::Exact;
use crate::kernels::operation::{Cost, Operation, Trial};

/// x = softmax(rope(q)·K) V, with (rope(k), v) appended
/// shapes   as attend_step · x (row, q_dim) f32
/// layout   as attend_step
/// launch   as attend_step
/// source   as attend_step
#[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
pub fn attend_step_exact(
    s: &AttendStep,
    control: Settled<u32>,
    table: Fixed<f32>,
    qkv: In<f32>,
    kv: Settled<u64>,
    handover: InOut<u32>,
    x: Out<f32>,
) {
    let from = Inputs { control, table, extra: Extra::Nothing, qkv, kv };
    attend_row(s, (from, handover), &Floats(x));
}

/// x = softmax(rope(q + bq)·K) V, with (rope(k + bk), v + bv) appended
/// shapes   as attend_step_exact · bq (q_dim), bk, bv (kv_dim) f32
/// layout   as attend_step
/// launch   as attend_step
/// source   as attend_step_bias
#[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
pub fn attend_step_bias_exact(
    s: &AttendStep,
    control: Settled<u32>,
    table: Fixed<f32>,
    bq: Fixed<f32>,
    bk: Fixed<f32>,
    bv: Fixed<f32>,
    qkv: In<f32>,
    kv: Settled<u64>,
    handover: InOut<u32>,
    x: Out<f32>,
) {
    let from = Inputs { control, table, extra: Extra::Biases([bq, bk, bv]), qkv, kv };
    attend_row(s, (from, handover), &Floats(x));
}

/// x = softmax(rope(norm(q))·K) V, with (rope(norm(k)), v) appended
/// shapes   as attend_step_exact · wq, wk (head_dim) f32
/// layout   as attend_step
/// launch   as attend_step
/// source   as attend_step_norm
#[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
pub fn attend_step_norm_exact(
    s: &AttendStep,
    control: Settled<u32>,
    table: Fixed<f32>,
    wq: Fixed<f32>,
    wk: Fixed<f32>,
    qkv: In<f32>,
    kv: Settled<u64>,
    handover: InOut<u32>,
    x: Out<f32>,
) {
    let from = Inputs { control, table, extra: Extra::Norms([wq, wk]), qkv, kv };
    attend_row(s, (from, handover), &Floats(x));
}

impl Operation for Exact<AttendStep> {
    fn name(&self) -> &'static str {
        match (self.0.bias, self.0.norm_eps) {
            (true, _) => "attend_step_bias_exact",
            (false, Some(_)) => "attend_step_norm_exact",
            (false, None) => "attend_step_exact",
        }
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match (self.0.bias, self.0.norm_eps) {
            (true, _) => attend_step_bias_exact(&self.0),
            (false, Some(_)) => attend_step_norm_exact(&self.0),
            (false, None) => attend_step_exact(&self.0),
        }
    }

    fn cost(&self) -> Cost {
        self.0.cost()
    }

    fn trial(&self, seed: u64) -> Trial {
        step_trial::exact(&self.0, seed)
    }
}
