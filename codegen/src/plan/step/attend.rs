//! Attention of one row in one launch, where the model's heads allow it.

use super::{At, StepPlanner, Use, Vector};
use crate::CodegenError;
use crate::kernels::attention::AttendStep;
use ::plan::{Role, Slot, StepKind};

impl StepPlanner<'_, '_> {
    /// What does a row's attention with what comes between its matrices and it. Rows of a larger step may belong to one
    /// sequence, where a row sees the keys of those before it: they are appended by a launch of their own.
    pub(super) fn attend_step(&self, layer: Option<u32>) -> Option<AttendStep> {
        let d = &self.planner.spec.dims;
        let step = AttendStep {
            attend: self.attend(layer),
            kind: d.rope_kind,
            bias: d.qkv_bias,
            norm_eps: d.variant.qk_norm.then_some(d.norm_eps),
            score_scale: d.score_scale(),
        };
        (self.rows == 1 && self.kind == StepKind::Decode && step.fits()).then_some(step)
    }

    /// The buffer where its CTAs hand over what they have.
    pub(super) fn attend_step_buffers(&self) -> Vec<(Slot, u64, u64)> {
        self.attend_step(None).iter().map(|step| (Slot::AttnHandover, step.handover_bytes(), 0)).collect()
    }

    /// The launch.
    pub(super) fn add_attend_step(&mut self, step: AttendStep, at: At) -> Result<(), CodegenError> {
        let table = self.planner.spec.dims.rope_slot(at.0.unwrap_or(0));
        let mut uses = vec![Use::Slot(Slot::Control), Use::Slot(table)];
        if step.bias {
            uses.extend([Role::AttnQBias, Role::AttnKBias, Role::AttnVBias].map(Use::Weight));
        }
        if step.norm_eps.is_some() {
            uses.extend([Role::AttnQNorm, Role::AttnKNorm].map(Use::Weight));
        }
        uses.extend([Use::Slot(Slot::Qkv), Use::Kv]);
        uses.extend([Use::Slot(Slot::AttnHandover)]);
        uses.extend(self.slots_of(Vector::Stream).into_iter().map(Use::Slot));
        self.launch_on_acts(step, at, &uses)
    }
}
