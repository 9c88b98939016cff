//! What a step has where a model differs from llama: norms of heads and behind matrices, biases, feed-forwards without a
//! gate. A model without them gets none of these launches.

use super::{At, Epilogue, StepPlanner, Use, Vector};
use crate::CodegenError;
use crate::kernels::activate::Activate;
use crate::kernels::bias::AddBias;
use crate::kernels::post_norm::PostNorm;
use crate::kernels::qk_norm::QkNorm;
use ::plan::{Activation, Phase, Role, Slot};

impl StepPlanner<'_, '_> {
    /// Buffers of the arena, bytes.
    pub(super) fn variant_buffers(&self) -> Vec<(Slot, u64)> {
        let (d, rows) = (self.dims(), u64::from(self.rows));
        let mut buffers = vec![];
        if d.variant.post_norms {
            buffers.push((Slot::Branch, rows * u64::from(d.dim) * 4));
        }
        if !d.variant.ffn.is_gated() {
            buffers.push((Slot::FfnUp, rows * u64::from(d.hidden_dim) * 4));
        }
        buffers
    }

    /// The norms of the heads of Q and K.
    pub(super) fn add_qk_norm(&mut self, at: At) -> Result<(), CodegenError> {
        let d = self.dims();
        if !d.variant.qk_norm || self.attend_step(at.0).is_some() {
            return Ok(());
        }
        let norm = QkNorm {
            n_heads: d.n_heads,
            n_kv_heads: d.n_kv_heads,
            head_dim: d.head_dim,
            eps: d.norm_eps,
            rows: self.rows,
        };
        let [wq, wk] = [Role::AttnQNorm, Role::AttnKNorm].map(Use::Weight);
        self.launch(norm, at, &[Use::Slot(Slot::Control), wq, wk, Use::Slot(Slot::Qkv)])
    }

    /// Up, its bias and the activation of a feed-forward without a gate.
    pub(super) fn add_up(&mut self, layer: u32, activation: Activation) -> Result<(), CodegenError> {
        let (d, at) = (self.dims(), (Some(layer), Phase::Body));
        self.norm(Role::FfnNorm, at)?;
        self.product((Role::FfnUp, Epilogue::Store), at, (Vector::Stream, Slot::FfnUp))?;
        let bias = d.variant.ffn_bias;
        let activate = Activate { dim: d.hidden_dim, activation, bias, rows: self.rows };
        let mut uses = vec![Use::Slot(Slot::Control), Use::Slot(Slot::FfnUp)];
        if bias {
            uses.push(Use::Weight(Role::FfnUpBias));
        }
        uses.extend(self.slots_of(Vector::Ffn).into_iter().map(Use::Slot));
        self.launch_on_acts(activate, at, &uses)
    }

    /// The bias of a product, where the model has it.
    pub(super) fn add_bias(&mut self, role: Role, at: At, to: Slot) -> Result<(), CodegenError> {
        if !self.planner.spec.has(role) {
            return Ok(());
        }
        let bias = AddBias { dim: self.planner.spec.shape(role).1, rows: self.rows };
        self.launch(bias, at, &[Use::Slot(Slot::Control), Use::Weight(role), Use::Slot(to)])
    }

    /// The last matrix of attention or feed-forward with what follows it: its bias and its norm where the model has
    /// them, and the addition to the stream.
    pub(super) fn residual(&mut self, role: Role, layer: u32, vector: Vector) -> Result<(), CodegenError> {
        let at = (Some(layer), Phase::Body);
        let (bias, norm) = match role {
            Role::AttnOutput => (Role::AttnOutputBias, Role::AttnPostNorm),
            _ => (Role::FfnDownBias, Role::FfnPostNorm),
        };
        if !self.planner.spec.has(norm) {
            self.product((role, Epilogue::Add), at, (vector, Slot::Hidden))?;
            return self.add_bias(bias, at, Slot::Hidden);
        }
        self.product((role, Epilogue::Store), at, (vector, Slot::Branch))?;
        self.add_bias(bias, at, Slot::Branch)?;
        let [control, branch, hidden] = [Slot::Control, Slot::Branch, Slot::Hidden].map(Use::Slot);
        let norm_add = PostNorm(self.norm_of_stream());
        self.launch(norm_add, at, &[control, branch, Use::Weight(norm), hidden])
    }
}
