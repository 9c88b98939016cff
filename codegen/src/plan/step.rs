//! One step: which kernels take its rows through the model, on which buffers, in which order.
//!
//! ```text
//! norm_quantize → gemm_qkv → rope_append → attend_split → attend_merge → gemm (residual)
//!   → norm_quantize → gemm_gate_up → gemm (residual)          a layer: nine launches
//! norm_gemv_qkv → rope_append → attend_split → attend_merge → gemv (residual)
//!   → norm_gate_up → gemv (residual)                          of one row
//! ```

mod activations;
mod attend;
mod variant;

use super::{Planner, arena};
use crate::CodegenError;
use crate::kernels::argmax::{Argmax, ArgmaxFinal, ArgmaxPart};
use crate::kernels::attention::{Attend, AttendMerge, AttendPrefill, AttendSplit, QuantizeRows};
use crate::kernels::embed::Embed;
use crate::kernels::ffn::{Crew, GateUp};
use crate::kernels::gemm::{Gemm, GemmGateUp, GemmQkv};
use crate::kernels::gemv::{Epilogue, Gemv, GemvQkv, STAGED_WARPS, Split, WARPS};
use crate::kernels::norm::Norm;
use crate::kernels::rope::RopeAppend;
use crate::kernels::sample::{Sample, SampleBins, SampleCut, SampleFinal, SamplePart, SampleWeigh};
use crate::kernels::{Operation, Rows};
use crate::layout::Matrix;
use ::plan::sampling::SAMPLING_WORDS;
use ::plan::{
    ActType, Activation, Arg, BufferDesc, Dims, Ffn, HISTORY, Launch, Phase, Place, Role, Slot, Step,
    StepKind, control_bytes,
};
use activations::Vector;

/// Lays out the step of `rows` rows.
pub(super) fn plan(planner: &mut Planner<'_>, kind: StepKind, rows: u32) -> Result<Step, CodegenError> {
    let mut step = StepPlanner { planner, kind, rows, buffers: vec![], launches: vec![] };
    step.add_buffers();
    step.add_body()?;
    if kind == StepKind::Decode {
        step.add_head()?;
        step.add_sampling()?;
    }
    let StepPlanner { planner, mut buffers, launches, .. } = step;
    let arena_bytes = arena::place(&mut buffers, &launches, planner.registry.kernels());
    Ok(Step { kind, rows, buffers: buffers.into(), arena_bytes, launches: launches.into() })
}

struct StepPlanner<'p, 'a> {
    planner: &'p mut Planner<'a>,
    kind: StepKind,
    rows: u32,
    buffers: Vec<BufferDesc>,
    launches: Vec<Launch>,
}

/// An argument before it has an index.
enum Use {
    Weight(Role),
    Slot(Slot),
    /// The cache addresses of the launch's layer.
    Kv,
}

/// Where a launch belongs.
type At = (Option<u32>, Phase);

impl StepPlanner<'_, '_> {
    fn dims(&self) -> Dims {
        self.planner.spec.dims.clone()
    }

    fn matrix(&self, role: Role, layer: u32) -> Matrix {
        self.planner.matrix(role, layer)
    }

    fn attend(&self, layer: Option<u32>) -> Attend {
        let d = &self.planner.spec.dims;
        Attend {
            n_heads: d.n_heads,
            n_kv_heads: d.n_kv_heads,
            head_dim: d.head_dim,
            n_splits: 1,
            window: layer.and_then(|layer| d.window(layer)),
            kv: d.kv_type,
            rows: Rows::new(self.rows, d.n_layers),
        }
        .with_splits_for(self.planner.device.n_sms)
    }

    fn argmax(&self) -> Argmax {
        Argmax::new(self.planner.spec.dims.vocab_size, self.planner.device.n_sms, self.rows)
    }

    /// The layout of a launch over matrices of the same width, in CTAs of at most `most_warps`.
    fn split(&self, matrices: &[Matrix], most_warps: u32) -> Split {
        let n_tiles = matrices.iter().map(Matrix::n_tiles).sum();
        let n_super_blocks = matrices.first().map_or(0, Matrix::n_super_blocks);
        Split::choose(n_tiles, n_super_blocks, self.planner.device, most_warps).fit(matrices)
    }

    fn add_buffers(&mut self) {
        let (d, rows) = (self.dims(), u64::from(self.rows));
        let mut own = vec![
            (Slot::Control, control_bytes(self.rows), 0),
            (Slot::Kv, rows * u64::from(d.n_layers) * 16, 0),
            (Slot::RopeTable, 0, u64::from(d.head_dim) * 4),
        ];
        if d.variant.sliding.is_some() {
            own.push((Slot::RopeTableLocal, 0, u64::from(d.head_dim) * 4));
        }
        let mut shared = vec![(Slot::Hidden, rows * u64::from(d.dim) * 4)];
        shared.extend(self.buffers_of(Vector::Stream));
        shared.push((Slot::Qkv, rows * u64::from(d.q_dim() + 2 * d.kv_dim()) * 4));
        shared.extend(self.buffers_of(Vector::Ffn));
        if self.kind == StepKind::Decode {
            own.extend(self.attend_step_buffers());
            own.extend([
                (Slot::History, rows * u64::from(HISTORY) * 4, 0),
                (Slot::Logits, rows * u64::from(d.vocab_size) * 4, 0),
                (Slot::Chosen, rows * 4, 0),
            ]);
            shared.extend([
                (Slot::AttnPartial, self.attend(None).partial_bytes()),
                (Slot::AttnStats, self.attend(None).stats_bytes()),
                (Slot::ArgmaxPartial, rows * u64::from(self.argmax().parts) * 8),
            ]);
        }
        let own = own.into_iter().map(|(slot, bytes, bytes_per_pos)| BufferDesc {
            slot,
            bytes,
            bytes_per_pos,
            place: Place::Own,
        });
        let shared = shared.into_iter().chain(self.variant_buffers()).map(|(slot, bytes)| BufferDesc {
            slot,
            bytes,
            bytes_per_pos: 0,
            place: Place::Arena { offset: 0 },
        });
        self.buffers.extend(own.chain(shared));
    }

    fn arg(&self, u: &Use, layer: Option<u32>) -> Result<Arg, String> {
        let buffer = |slot: Slot, offset: u64| {
            let found = self.buffers.iter().position(|b| b.slot == slot);
            found.map(|i| Arg::Buffer { index: i as u32, offset }).ok_or_else(|| format!("{slot:?}"))
        };
        match u {
            Use::Weight(role) => {
                let of_layer = if role.is_layered() { layer } else { None };
                let weights = &self.planner.weights;
                let found = weights.iter().position(|w| w.role == *role && w.layer == of_layer);
                found.map(|i| Arg::Weight(i as u32)).ok_or_else(|| format!("weight {role}"))
            }
            Use::Slot(slot) => buffer(*slot, 0),
            Use::Kv => buffer(Slot::Kv, u64::from(layer.unwrap_or(0)) * 16),
        }
    }

    fn launch<O>(&mut self, operation: O, at: At, uses: &[Use]) -> Result<(), CodegenError>
    where
        O: Operation + Send + Sync + 'static,
    {
        let (layer, phase) = at;
        let args = uses.iter().map(|u| self.arg(u, layer)).collect::<Result<Vec<_>, _>>();
        let args = args.map_err(|what| CodegenError::Plan {
            kernel: operation.name().into(),
            reason: format!("no {what}"),
        })?;
        let kernel = self.planner.registry.add(operation)?;
        self.planner.registry.check_arity(kernel, args.len())?;
        let launch = Launch { kernel, layer, phase, args: args.into() };
        self.planner.registry.check_settled(&launch, &self.launches)?;
        self.launches.push(launch);
        Ok(())
    }

    fn norm_of_stream(&self) -> Norm {
        let d = &self.planner.spec.dims;
        Norm { dim: d.dim, eps: d.norm_eps, rows: self.rows }
    }

    fn norm(&mut self, role: Role, at: At) -> Result<(), CodegenError> {
        let norm = self.norm_of_stream();
        let mut uses = vec![Use::Slot(Slot::Control), Use::Slot(Slot::Hidden), Use::Weight(role)];
        uses.extend(self.slots_of(Vector::Stream).into_iter().map(Use::Slot));
        self.launch_on_acts(norm, at, &uses)
    }

    fn add_body(&mut self) -> Result<(), CodegenError> {
        let scale = self.dims().variant.embed_scale;
        let embed = Embed { matrix: self.matrix(Role::TokenEmbd, 0), scale, rows: self.rows };
        let uses = [Use::Weight(Role::TokenEmbd), Use::Slot(Slot::Control), Use::Slot(Slot::Hidden)];
        self.launch(embed, (None, Phase::Body), &uses)?;
        for layer in 0..self.dims().n_layers {
            self.add_attention(layer)?;
            self.add_ffn(layer)?;
        }
        Ok(())
    }

    fn add_attention(&mut self, layer: u32) -> Result<(), CodegenError> {
        let at = (Some(layer), Phase::Body);
        self.add_qkv(layer)?;
        self.add_qk_norm(at)?;
        self.add_rope(layer)?;
        match self.kind {
            StepKind::Decode => self.add_attend(at)?,
            StepKind::Prefill => self.add_attend_prefill(at)?,
        }
        self.residual(Role::AttnOutput, layer, Vector::Stream)
    }

    fn add_qkv(&mut self, layer: u32) -> Result<(), CodegenError> {
        let at = (Some(layer), Phase::Body);
        let roles = [Role::AttnQ, Role::AttnK, Role::AttnV];
        let matrices = roles.map(|role| self.matrix(role, layer));
        let split = self.split(&matrices, WARPS);
        let weights = roles.map(Use::Weight);
        if let Some(norm) = self.fused_norm() {
            let uses: Vec<Use> = [Use::Slot(Slot::Hidden), Use::Weight(Role::AttnNorm)]
                .into_iter()
                .chain(weights)
                .chain([Use::Slot(Slot::Qkv)])
                .collect();
            return self.launch(GemvQkv { matrices, split, norm: Some(norm) }, at, &uses);
        }
        self.norm(Role::AttnNorm, at)?;
        let slots = self.slots_of(Vector::Stream).into_iter().chain([Slot::Qkv]);
        let uses = weights.into_iter().chain(slots.map(Use::Slot));
        match self.rows {
            1 => self.launch_on_acts(GemvQkv { matrices, split, norm: None }, at, &uses.collect::<Vec<_>>()),
            rows => self.launch_rows(GemmQkv::new(matrices, split, rows), at, uses),
        }
    }

    /// The norm of the residual stream, where the matrices that follow do it themselves: for one row of int8 that is not
    /// long.
    fn fused_norm(&self) -> Option<Norm> {
        let norm = self.norm_of_stream();
        let joins = norm.joins_matrices();
        (self.rows == 1 && self.dims().activations == ActType::Int8 && joins).then_some(norm)
    }

    /// Rows of any sequences: stretches of each cache on their own, then their merge.
    fn add_attend(&mut self, at: At) -> Result<(), CodegenError> {
        if let Some(step) = self.attend_step(at.0) {
            return self.add_attend_step(step, at);
        }
        let attend = self.attend(at.0);
        let [control, qkv, partial, stats] =
            [Slot::Control, Slot::Qkv, Slot::AttnPartial, Slot::AttnStats].map(Use::Slot);
        self.launch(AttendSplit(attend.clone()), at, &[control, qkv, Use::Kv, partial, stats])?;
        let slots = [Slot::Control, Slot::AttnPartial, Slot::AttnStats].into_iter();
        let uses: Vec<Use> = slots.chain(self.slots_of(Vector::Stream)).map(Use::Slot).collect();
        self.launch_on_acts(AttendMerge(attend), at, &uses)
    }

    /// Rows of one sequence at consecutive positions.
    fn add_attend_prefill(&mut self, at: At) -> Result<(), CodegenError> {
        let Attend { n_heads, n_kv_heads, head_dim, window, kv, rows, .. } = self.attend(at.0);
        let n_sms = self.planner.device.n_sms;
        let per_lane = AttendPrefill::per_lane_for(n_heads, head_dim, self.rows, n_sms);
        let attend = AttendPrefill { n_heads, n_kv_heads, head_dim, per_lane, window, kv, rows };
        let d = self.dims();
        let [control, qkv] = [Slot::Control, Slot::Qkv].map(Use::Slot);
        if attend.quantizes() || d.activations == ActType::F32 {
            let mut uses = vec![control, qkv, Use::Kv];
            uses.extend(self.slots_of(Vector::Stream).into_iter().map(Use::Slot));
            return self.launch_on_acts(attend, at, &uses);
        }
        let quantize = QuantizeRows { dim: d.q_dim(), stride: d.q_dim() + 2 * d.kv_dim(), rows: self.rows };
        self.launch(attend, at, &[control, qkv, Use::Kv])?;
        self.launch(quantize, at, &[Slot::Control, Slot::Qkv, Slot::ActQuants, Slot::ActMeta].map(Use::Slot))
    }

    fn add_rope(&mut self, layer: u32) -> Result<(), CodegenError> {
        if self.attend_step(Some(layer)).is_some() {
            return Ok(());
        }
        let (d, at) = (self.dims(), (Some(layer), Phase::Body));
        let rope = RopeAppend {
            n_heads: d.n_heads,
            n_kv_heads: d.n_kv_heads,
            head_dim: d.head_dim,
            kind: d.rope_kind,
            bias: d.qkv_bias,
            score_scale: d.score_scale(),
            kv: d.kv_type,
            rows: Rows::new(self.rows, d.n_layers),
        };
        let mut uses = vec![Use::Slot(Slot::Control), Use::Slot(d.rope_slot(layer))];
        if d.qkv_bias {
            uses.extend([Role::AttnQBias, Role::AttnKBias, Role::AttnVBias].map(Use::Weight));
        }
        uses.extend([Use::Slot(Slot::Qkv), Use::Kv]);
        self.launch(rope, at, &uses)
    }

    fn add_ffn(&mut self, layer: u32) -> Result<(), CodegenError> {
        match self.dims().variant.ffn {
            Ffn::Gated(activation) => self.add_gate_up(layer, activation)?,
            Ffn::Plain(activation) => self.add_up(layer, activation)?,
        }
        self.residual(Role::FfnDown, layer, Vector::Ffn)
    }

    fn add_gate_up(&mut self, layer: u32, activation: Activation) -> Result<(), CodegenError> {
        let at = (Some(layer), Phase::Body);
        let roles = [Role::FfnGate, Role::FfnUp];
        let [gate, up] = roles.map(|role| self.matrix(role, layer));
        if let Some(norm) = self.fused_norm() {
            let uses: Vec<Use> = [Use::Slot(Slot::Hidden), Use::Weight(Role::FfnNorm)]
                .into_iter()
                .chain(roles.map(Use::Weight))
                .chain(self.slots_of(Vector::Ffn).into_iter().map(Use::Slot))
                .collect();
            let crew = Crew::choose(&gate, self.planner.device);
            return self.launch(
                GateUp { gate, up, activation, unroll: 2, norm: Some(norm), crew },
                at,
                &uses,
            );
        }
        self.norm(Role::FfnNorm, at)?;
        let slots = [Vector::Stream, Vector::Ffn].map(|vector| self.slots_of(vector)).concat();
        let uses = roles.map(Use::Weight).into_iter().chain(slots.into_iter().map(Use::Slot));
        match self.rows {
            1 => self.launch_on_acts(
                GateUp { gate, up, activation, unroll: 2, norm: None, crew: Crew::BLOCK },
                at,
                &uses.collect::<Vec<_>>(),
            ),
            rows => self.launch_rows(GemmGateUp::new(gate, up, activation, 2, rows), at, uses),
        }
    }

    /// A matrix times a vector of each row.
    fn product(
        &mut self,
        (role, epilogue): (Role, Epilogue),
        at: At,
        (vector, to): (Vector, Slot),
    ) -> Result<(), CodegenError> {
        let matrix = self.matrix(role, at.0.unwrap_or(0));
        let split = self.split(&[matrix], WARPS);
        let slots = self.slots_of(vector).into_iter().chain([to]);
        let uses = std::iter::once(Use::Weight(role)).chain(slots.map(Use::Slot));
        match self.rows {
            1 => {
                let gemv = Gemv { matrix, epilogue, split };
                let split = if gemv.stages() { self.split(&[matrix], STAGED_WARPS) } else { split };
                self.launch_on_acts(Gemv { split, ..gemv }, at, &uses.collect::<Vec<_>>())
            }
            rows => self.launch_rows(Gemm::new(matrix, epilogue, split, rows), at, uses),
        }
    }

    fn add_head(&mut self) -> Result<(), CodegenError> {
        let at = (None, Phase::Head);
        self.norm(Role::OutputNorm, at)?;
        let role = if self.dims().tied_head { Role::TokenEmbd } else { Role::Output };
        self.product((role, Epilogue::Store), at, (Vector::Stream, Slot::Logits))?;
        self.add_bias(Role::OutputBias, at, Slot::Logits)?;
        let slots = [Slot::Control, Slot::Logits, Slot::ArgmaxPartial];
        let at = (None, Phase::Greedy);
        self.launch(ArgmaxPart(self.argmax()), at, &slots.map(Use::Slot))?;
        let slots = [Slot::ArgmaxPartial, Slot::Control, Slot::Chosen, Slot::History];
        self.launch(ArgmaxFinal(self.argmax()), at, &slots.map(Use::Slot))
    }

    fn add_sampling(&mut self) -> Result<(), CodegenError> {
        use Slot::{Chosen, Control, History, Logits, Sampling};
        use Slot::{
            SampleBest as Best, SampleBins as Bins, SampleCut as Cut, SampleKeys as Keys, SampleSums as Sums,
        };
        let (device, rows) = (self.planner.device, self.rows);
        let sample = Sample::new(self.planner.spec.dims.vocab_size, rows, device.n_sms);
        let params_bytes = u64::from(rows * SAMPLING_WORDS) * 4;
        self.add_buffer(Sampling, params_bytes, Place::Own);
        let scratch = [
            (Keys, sample.keys_bytes()),
            (Best, sample.parts_bytes()),
            (Bins, sample.bins_bytes()),
            (Cut, sample.cut_bytes()),
            (Sums, sample.parts_bytes()),
        ];
        for (slot, bytes) in scratch {
            self.add_buffer(slot, bytes, Place::Arena { offset: 0 });
        }
        let at = (None, Phase::Sample);
        let slots = [Control, Sampling, History, Logits, Keys, Best, Bins];
        self.launch(SamplePart(sample.clone()), at, &slots.map(Use::Slot))?;
        let slots = [Control, Sampling, Keys, Best, Bins];
        self.launch(SampleBins(sample.clone()), at, &slots.map(Use::Slot))?;
        let slots = [Control, Sampling, Keys, Best, Bins, Cut];
        self.launch(SampleCut(sample.clone()), at, &slots.map(Use::Slot))?;
        let slots = [Control, Sampling, Keys, Best, Cut, Sums];
        self.launch(SampleWeigh(sample.clone()), at, &slots.map(Use::Slot))?;
        let slots = [Sampling, Keys, Best, Cut, Sums, Control, History, Chosen];
        self.launch(SampleFinal(sample), at, &slots.map(Use::Slot))
    }

    fn add_buffer(&mut self, slot: Slot, bytes: u64, place: Place) {
        self.buffers.push(BufferDesc { slot, bytes, bytes_per_pos: 0, place });
    }
}
