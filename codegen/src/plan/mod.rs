//! From a spec to the [`plan::Table`]: which kernels, on which weights and buffers, in which order.
//!
//! ```text
//! norm_quantize → gemv_qkv → rope_append → attend_split → attend_merge → gemv (residual)
//!   → norm_quantize → gate_up_swiglu → gemv (residual)        a layer: nine launches
//! ```

mod arena;
mod registry;

use crate::CodegenError;
use crate::emit::Heading;
use crate::kernels::Operation;
use crate::kernels::argmax::{Argmax, ArgmaxFinal, ArgmaxPart};
use crate::kernels::attention::{Attend, AttendMerge, AttendSplit};
use crate::kernels::embed::Embed;
use crate::kernels::ffn::GateUp;
use crate::kernels::gemv::{Epilogue, Gemv, GemvQkv, Split, act_bytes};
use crate::kernels::norm::Norm;
use crate::kernels::repack::Repack;
use crate::kernels::rope::RopeAppend;
use crate::layout::Matrix;
use crate::spec::{Device, ModelSpec};
use ::plan::{Arg, BufferDesc, Launch, Phase, Place, Role, Slot, Table, WeightDesc};
use registry::Registry;

/// A table with the operations behind its kernels, which know how to try themselves.
#[derive(Debug)]
pub struct Plan {
    /// What the runtime gets.
    pub table: Table,
    /// The operation of each kernel, in the order of [`Table::kernels`].
    pub operations: Vec<Box<dyn Operation + Send + Sync>>,
}

/// Specialises every kernel of a spec to a device and lays out the launches of a step.
///
/// A pure function: equal specs and devices give equal tables, byte for byte.
///
/// # Errors
/// [`CodegenError`] when the spec is refused or a kernel does not build or verify (which would be a defect of codegen).
pub fn build(spec: &ModelSpec, device: Device) -> Result<Plan, CodegenError> {
    spec.check()?;
    let mut planner = Planner {
        spec,
        device,
        registry: Registry::new(Heading::new(spec, device), device),
        weights: vec![],
        buffers: vec![],
        launches: vec![],
    };
    planner.add_weights()?;
    planner.add_buffers();
    planner.add_step()?;
    planner.finish()
}

struct Planner<'a> {
    spec: &'a ModelSpec,
    device: Device,
    registry: Registry,
    weights: Vec<WeightDesc>,
    buffers: Vec<BufferDesc>,
    launches: Vec<Launch>,
}

/// An argument before it has an index.
enum Use {
    Weight(Role),
    Slot(Slot),
}

impl Planner<'_> {
    fn matrix(&self, role: Role, layer: u32) -> Matrix {
        let (rows, cols) = self.spec.shape(role);
        Matrix { qtype: self.spec.qtype(role, layer), rows, cols }
    }

    fn add_weights(&mut self) -> Result<(), CodegenError> {
        for role in self.spec.roles() {
            let layers: Vec<Option<u32>> =
                if role.is_layered() { (0..self.spec.dims.n_layers).map(Some).collect() } else { vec![None] };
            for layer in layers {
                let matrix = self.matrix(role, layer.unwrap_or(0));
                let plain = matrix.qtype.is_plain();
                let repack = if plain { None } else { Some(self.registry.add(Repack { matrix })?) };
                let packed_bytes = matrix.planes().bytes;
                let Matrix { qtype, rows, cols } = matrix;
                self.weights.push(WeightDesc { role, layer, qtype, rows, cols, packed_bytes, repack });
            }
        }
        Ok(())
    }

    fn attend(&self) -> Attend {
        let d = &self.spec.dims;
        let n_splits = Attend::splits_for(d.n_kv_heads, self.device.n_sms);
        Attend { n_heads: d.n_heads, n_kv_heads: d.n_kv_heads, head_dim: d.head_dim, n_splits }
    }

    fn argmax(&self) -> Argmax {
        Argmax::new(self.spec.dims.vocab_size, self.device.n_sms)
    }

    /// The layout of a launch over matrices of the same width.
    fn split(&self, matrices: &[Matrix]) -> Split {
        let n_tiles = matrices.iter().map(Matrix::n_tiles).sum();
        let n_super_blocks = matrices.first().map_or(0, Matrix::n_super_blocks);
        Split::choose(n_tiles, n_super_blocks, self.device).fit(matrices)
    }

    fn add_buffers(&mut self) {
        let d = &self.spec.dims;
        let widest = d.dim.max(d.q_dim());
        let (quants, meta) = (|n: u32| u64::from(n), |n: u32| act_bytes(n) - u64::from(n));
        let mut own = vec![(Slot::Control, 8, 0), (Slot::RopeTable, 0, u64::from(d.head_dim) * 4)];
        for layer in 0..d.n_layers {
            let row = u64::from(d.kv_dim()) * 2;
            own.extend([(Slot::KCache(layer), 0, row), (Slot::VCache(layer), 0, row)]);
        }
        own.extend([(Slot::Logits, u64::from(d.vocab_size) * 4, 0), (Slot::Chosen, 4, 0)]);
        let shared = [
            (Slot::Hidden, u64::from(d.dim) * 4),
            (Slot::ActQuants, quants(widest)),
            (Slot::ActMeta, meta(widest)),
            (Slot::Qkv, u64::from(d.q_dim() + 2 * d.kv_dim()) * 4),
            (Slot::AttnPartial, self.attend().partial_bytes()),
            (Slot::AttnStats, self.attend().stats_bytes()),
            (Slot::FfnQuants, quants(d.hidden_dim)),
            (Slot::FfnMeta, meta(d.hidden_dim)),
            (Slot::ArgmaxPartial, u64::from(self.argmax().parts) * 8),
        ];
        let own = own.into_iter().map(|(slot, bytes, bytes_per_pos)| BufferDesc {
            slot,
            bytes,
            bytes_per_pos,
            place: Place::Own,
        });
        let shared = shared.into_iter().map(|(slot, bytes)| BufferDesc {
            slot,
            bytes,
            bytes_per_pos: 0,
            place: Place::Arena { offset: 0 },
        });
        self.buffers.extend(own.chain(shared));
    }

    fn launch<O>(&mut self, operation: O, at: (Option<u32>, Phase), uses: &[Use]) -> Result<(), CodegenError>
    where
        O: Operation + Send + Sync + 'static,
    {
        let (layer, phase) = at;
        let missing = |what: String| CodegenError::Plan {
            kernel: operation.name().into(),
            reason: format!("no {what}"),
        };
        let args = uses
            .iter()
            .map(|u| match u {
                Use::Weight(role) => {
                    let of_layer = if role.is_layered() { layer } else { None };
                    let found = self.weights.iter().position(|w| w.role == *role && w.layer == of_layer);
                    found.map(|i| Arg::Weight(i as u32)).ok_or_else(|| missing(format!("weight {role}")))
                }
                Use::Slot(slot) => {
                    let found = self.buffers.iter().position(|b| b.slot == *slot);
                    found
                        .map(|i| Arg::Buffer { index: i as u32, offset: 0 })
                        .ok_or_else(|| missing(format!("{slot:?}")))
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let kernel = self.registry.add(operation)?;
        self.registry.check_arity(kernel, args.len())?;
        self.launches.push(Launch { kernel, layer, phase, args: args.into() });
        Ok(())
    }

    fn norm(&mut self, role: Role, at: (Option<u32>, Phase)) -> Result<(), CodegenError> {
        let d = &self.spec.dims;
        let norm = Norm { dim: d.dim, eps: d.norm_eps };
        let uses = [
            Use::Slot(Slot::Hidden),
            Use::Weight(role),
            Use::Slot(Slot::ActQuants),
            Use::Slot(Slot::ActMeta),
        ];
        self.launch(norm, at, &uses)
    }

    fn add_step(&mut self) -> Result<(), CodegenError> {
        let matrix = self.matrix(Role::TokenEmbd, 0);
        let uses = [Use::Weight(Role::TokenEmbd), Use::Slot(Slot::Control), Use::Slot(Slot::Hidden)];
        self.launch(Embed { matrix }, (None, Phase::Body), &uses)?;
        for layer in 0..self.spec.dims.n_layers {
            self.add_attention(layer)?;
            self.add_ffn(layer)?;
        }
        self.add_head()
    }

    fn add_attention(&mut self, layer: u32) -> Result<(), CodegenError> {
        let at = (Some(layer), Phase::Body);
        let d = self.spec.dims.clone();
        self.norm(Role::AttnNorm, at)?;
        let matrices = [Role::AttnQ, Role::AttnK, Role::AttnV].map(|role| self.matrix(role, layer));
        let split = self.split(&matrices);
        let [q, k, v] = [Role::AttnQ, Role::AttnK, Role::AttnV].map(Use::Weight);
        let (quants, meta) = (Use::Slot(Slot::ActQuants), Use::Slot(Slot::ActMeta));
        self.launch(GemvQkv { matrices, split }, at, &[q, k, v, quants, meta, Use::Slot(Slot::Qkv)])?;
        let rope = RopeAppend {
            n_heads: d.n_heads,
            n_kv_heads: d.n_kv_heads,
            head_dim: d.head_dim,
            kind: d.rope_kind,
            bias: d.qkv_bias,
        };
        let mut uses = vec![Use::Slot(Slot::Control), Use::Slot(Slot::RopeTable)];
        if d.qkv_bias {
            uses.extend([Role::AttnQBias, Role::AttnKBias, Role::AttnVBias].map(Use::Weight));
        }
        uses.extend([Slot::Qkv, Slot::KCache(layer), Slot::VCache(layer)].map(Use::Slot));
        self.launch(rope, at, &uses)?;
        let attend = self.attend();
        let slots = [
            Slot::Control,
            Slot::Qkv,
            Slot::KCache(layer),
            Slot::VCache(layer),
            Slot::AttnPartial,
            Slot::AttnStats,
        ];
        self.launch(AttendSplit(attend.clone()), at, &slots.map(Use::Slot))?;
        let slots = [Slot::Control, Slot::AttnPartial, Slot::AttnStats, Slot::ActQuants, Slot::ActMeta];
        self.launch(AttendMerge(attend), at, &slots.map(Use::Slot))?;
        self.residual(Role::AttnOutput, layer, [Slot::ActQuants, Slot::ActMeta])
    }

    fn add_ffn(&mut self, layer: u32) -> Result<(), CodegenError> {
        let at = (Some(layer), Phase::Body);
        self.norm(Role::FfnNorm, at)?;
        let ffn = GateUp {
            gate: self.matrix(Role::FfnGate, layer),
            up: self.matrix(Role::FfnUp, layer),
            unroll: 2,
        };
        let slots = [Slot::ActQuants, Slot::ActMeta, Slot::FfnQuants, Slot::FfnMeta].map(Use::Slot);
        let uses: Vec<Use> =
            [Use::Weight(Role::FfnGate), Use::Weight(Role::FfnUp)].into_iter().chain(slots).collect();
        self.launch(ffn, at, &uses)?;
        self.residual(Role::FfnDown, layer, [Slot::FfnQuants, Slot::FfnMeta])
    }

    fn residual(&mut self, role: Role, layer: u32, act: [Slot; 2]) -> Result<(), CodegenError> {
        let matrix = self.matrix(role, layer);
        let gemv = Gemv { matrix, epilogue: Epilogue::Add, split: self.split(&[matrix]) };
        let [quants, meta] = act.map(Use::Slot);
        self.launch(
            gemv,
            (Some(layer), Phase::Body),
            &[Use::Weight(role), quants, meta, Use::Slot(Slot::Hidden)],
        )
    }

    fn add_head(&mut self) -> Result<(), CodegenError> {
        let at = (None, Phase::Head);
        self.norm(Role::OutputNorm, at)?;
        let role = if self.spec.dims.tied_head { Role::TokenEmbd } else { Role::Output };
        let matrix = self.matrix(role, 0);
        let gemv = Gemv { matrix, epilogue: Epilogue::Store, split: self.split(&[matrix]) };
        let [quants, meta, logits] = [Slot::ActQuants, Slot::ActMeta, Slot::Logits].map(Use::Slot);
        self.launch(gemv, at, &[Use::Weight(role), quants, meta, logits])?;
        self.launch(ArgmaxPart(self.argmax()), at, &[Slot::Logits, Slot::ArgmaxPartial].map(Use::Slot))?;
        self.launch(ArgmaxFinal(self.argmax()), at, &[Slot::ArgmaxPartial, Slot::Chosen].map(Use::Slot))
    }

    fn finish(self) -> Result<Plan, CodegenError> {
        let Planner { spec, device, registry, weights, mut buffers, launches } = self;
        let (kernels, operations) = registry.finish();
        let arena_bytes = arena::place(&mut buffers, &launches, &kernels);
        let table = Table {
            spec: spec.name.clone().into(),
            hash: spec.hash(device).into(),
            sm: device.sm,
            dims: spec.dims.clone(),
            kernels: kernels.into(),
            weights: weights.into(),
            buffers: buffers.into(),
            arena_bytes,
            launches: launches.into(),
        };
        Ok(Plan { table, operations })
    }
}
