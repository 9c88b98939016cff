//! From a spec to the [`plan::Table`]: which kernels, on which weights and buffers, in which order.
//!
//! A plan has one step for each number of rows that the runtime may run at once: `step` lays out one of them.

mod arena;
mod registry;
mod step;

use crate::CodegenError;
use crate::emit::Heading;
use crate::kernels::Operation;
use crate::kernels::repack::Repack;
use crate::layout::Matrix;
use crate::spec::{Device, ModelSpec};
use crate::tuned::Tuned;
use ::plan::{BufferDesc, KernelDesc, Place, Role, Slot, Step, StepKind, Table, WeightDesc};
use registry::Registry;

/// A table with the operations behind its kernels, which know how to try themselves.
#[derive(Debug)]
pub struct Plan {
    /// What the runtime gets.
    pub table: Table,
    /// The operation of each kernel, in the order of [`Table::kernels`].
    pub operations: Vec<Box<dyn Operation + Send + Sync>>,
    /// How many of the kernels were built; the others were known before.
    pub n_built: usize,
}

/// Specialises every kernel of a spec to a device and lays out the launches of a step.
///
/// A pure function: equal specs and devices give equal tables, byte for byte.
///
/// # Errors
/// [`CodegenError`] when the spec is refused or a kernel does not build or verify (which would be a defect of codegen).
pub fn build(spec: &ModelSpec, device: Device) -> Result<Plan, CodegenError> {
    build_knowing(spec, device, vec![])
}

/// As [`build`], with the kernels of an earlier plan of the same spec, device and generator ([`crate::FINGERPRINT`]), which
/// take the time: those of `known` that the plan needs are taken as they are, the others are built.
///
/// # Errors
/// As [`build`].
pub fn build_knowing(spec: &ModelSpec, device: Device, known: Vec<KernelDesc>) -> Result<Plan, CodegenError> {
    plan_of(spec, device, (known, &Tuned::of(device.sm)?))
}

/// As [`build`] with these winners instead of the committed ones: no result depends on them.
///
/// # Errors
/// As [`build`], and [`CodegenError::Winner`] when one does not fit its product.
pub fn build_with(spec: &ModelSpec, device: Device, tuned: &Tuned) -> Result<Plan, CodegenError> {
    plan_of(spec, device, (vec![], tuned))
}

fn plan_of(
    spec: &ModelSpec,
    device: Device,
    (known, tuned): (Vec<KernelDesc>, &Tuned),
) -> Result<Plan, CodegenError> {
    spec.check()?;
    let mut planner = Planner {
        spec,
        device,
        tuned,
        registry: Registry::new(Heading::new(spec, device), device, known),
        weights: vec![],
    };
    planner.add_weights()?;
    let of = |kind, rows: &[u32]| rows.iter().map(move |rows| (kind, *rows)).collect::<Vec<_>>();
    let steps = [of(StepKind::Decode, &spec.steps.decode), of(StepKind::Prefill, &spec.steps.prefill)];
    let steps = steps.concat().into_iter().map(|(kind, rows)| step::plan(&mut planner, kind, rows));
    let steps = steps.collect::<Result<Vec<Step>, CodegenError>>()?;
    Ok(planner.finish(steps))
}

/// One kernel outside of any plan, for tests of shapes that no spec has.
///
/// # Errors
/// [`CodegenError`] when it does not build or verify.
pub fn kernel(operation: &dyn Operation, device: Device) -> Result<KernelDesc, CodegenError> {
    registry::kernel(operation, device)
}

struct Planner<'a> {
    spec: &'a ModelSpec,
    device: Device,
    tuned: &'a Tuned,
    registry: Registry,
    weights: Vec<WeightDesc>,
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

    /// Caches of one sequence.
    fn caches(&self) -> Vec<BufferDesc> {
        let d = &self.spec.dims;
        let cache = |slot| BufferDesc {
            slot,
            bytes: 0,
            bytes_per_pos: u64::from(d.kv_type.row_bytes(d.kv_dim())),
            place: Place::Own,
        };
        (0..d.n_layers).flat_map(|layer| [Slot::KCache(layer), Slot::VCache(layer)]).map(cache).collect()
    }

    fn finish(self, steps: Vec<Step>) -> Plan {
        let caches = self.caches();
        let Planner { spec, device, registry, weights, .. } = self;
        let n_built = registry.n_built();
        let (kernels, operations) = registry.finish();
        let table = Table {
            spec: spec.name.clone().into(),
            hash: spec.hash(device).into(),
            sm: device.sm,
            dims: spec.dims.clone(),
            kernels: kernels.into(),
            weights: weights.into(),
            caches: caches.into(),
            steps: steps.into(),
        };
        Plan { table, operations, n_built }
    }
}
