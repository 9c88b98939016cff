//! Loading: every check first, then kernels and weights side by side. Weights go piece by piece, read ahead by threads,
//! through one staging buffer on the device and their repack kernel; the kernels of one row are made ready on another thread.
//! Those of other steps are when such a step is first made.
//!
//! Whatever was allocated is owned by values on the stack until the model is complete, so that an error at any point
//! gives all of it back.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use plan::{BufferDesc, Phase, Slot, Table, WeightDesc};

use super::pieces::{Piece, each_in_order, pieces};
use super::{DEFAULT_CONTEXT, LoadOptions, LoadProgress, LoadTimings, Shared};
use crate::api::WeightIndex;
use crate::error::Error;
use crate::memory::{MemoryPlan, buffer_bytes, staging_bytes};
use crate::queue::{Buf, Call, Kernels, Queue};
use crate::rope::RopeTable;
use crate::source::{BoundWeights, WeightSource};
use crate::table_check::check_table;

/// Positions of the RoPE table that are computed at a time.
const ROPE_POSITIONS: u32 = 1024;

pub(super) fn load(
    queue: &Arc<dyn Queue>,
    table: &Table,
    source: &dyn WeightSource,
    options: &LoadOptions<'_>,
) -> Result<Shared, Error> {
    let context = checked_context(table, options.context)?;
    check_table(table, context)?;
    check_target(queue.as_ref(), table)?;
    let weights = source.bind(table)?;
    let memory = MemoryPlan::new(table, context, options.sessions.unwrap_or(1));
    check_memory(queue.as_ref(), &memory)?;

    let mut timings = LoadTimings::default();
    let start = Instant::now();
    let kernels = queue.load(&table.kernels)?;
    // What weights need comes before the rest: whoever compiles may keep the driver from anything else.
    kernels.prepare(&repack_kernels(table))?;
    timings.kernels = start.elapsed();
    let loader = Loader::new((queue, kernels.as_ref()), table, options)?;
    let (packed, ready) = thread::scope(|scope| {
        let prepare = || {
            let start = Instant::now();
            (kernels.prepare(&kernels_of_one_row(table)), start.elapsed())
        };
        let preparing = thread::Builder::new().name("kernels".to_owned()).spawn_scoped(scope, prepare);
        let start = Instant::now();
        let packed = loader.all(weights.as_ref());
        timings.weights = start.elapsed();
        let (ready, took) = match preparing {
            Ok(preparing) => preparing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // A machine that gives no thread has this one.
            Err(_) => prepare(),
        };
        timings.kernels += took;
        (packed, ready)
    });
    let packed = packed?;
    ready?;
    let rope = upload_rope(queue, table, weights.as_ref(), context)?;
    // Errors of the work enqueued above come out here, before there is a model.
    queue.synchronize()?;
    let (table, queue) = (table.clone(), Arc::clone(queue));
    Ok(Shared {
        prefill: Mutex::new(Vec::new()),
        index: WeightIndex::new(&table),
        table,
        kernels,
        weights: packed,
        rope,
        queue,
        context,
        memory,
        timings,
    })
}

/// What makes the file's tensors into packed ones.
fn repack_kernels(table: &Table) -> Vec<u32> {
    distinct(table.weights.iter().filter_map(|weight| weight.repack))
}

/// What every session needs; kernels for sampling are left for whoever samples.
fn kernels_of_one_row(table: &Table) -> Vec<u32> {
    let launches = table.single().into_iter().flat_map(|step| step.launches.iter());
    distinct(launches.filter(|launch| launch.phase != Phase::Sample).map(|launch| launch.kernel))
}

fn distinct(kernels: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut kernels: Vec<u32> = kernels.collect();
    kernels.sort_unstable();
    kernels.dedup();
    kernels
}

fn checked_context(table: &Table, wanted: Option<u32>) -> Result<u32, Error> {
    let limit = table.dims.context;
    let context = wanted.unwrap_or(limit.min(DEFAULT_CONTEXT));
    if context == 0 || context > limit {
        return Err(Error::ContextSize { spec: table.spec.to_string(), found: context, limit });
    }
    Ok(context)
}

fn check_target(queue: &dyn Queue, table: &Table) -> Result<(), Error> {
    match queue.sm() {
        Some(found) if found < table.sm => Err(Error::Target {
            spec: table.spec.to_string(),
            wanted: table.sm,
            device: queue.name().to_owned(),
            found,
        }),
        _ => Ok(()),
    }
}

fn check_memory(queue: &dyn Queue, plan: &MemoryPlan) -> Result<(), Error> {
    match queue.memory()? {
        Some(memory) if memory.free < plan.peak_bytes() => Err(Error::Memory {
            plan: Box::new(plan.clone()),
            device: queue.name().to_owned(),
            free: memory.free,
        }),
        _ => Ok(()),
    }
}

/// Brings weights to the device.
struct Loader<'a> {
    queue: &'a Arc<dyn Queue>,
    kernels: &'a dyn Kernels,
    table: &'a Table,
    options: &'a LoadOptions<'a>,
    /// The file's bytes of a tensor on the device; `None` when nothing is re-packed.
    raw: Option<Buf>,
    /// A place for each weight.
    packed: Vec<Buf>,
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> Loader<'a> {
    /// Takes the memory of all weights.
    fn new(
        (queue, kernels): (&'a Arc<dyn Queue>, &'a dyn Kernels),
        table: &'a Table,
        options: &'a LoadOptions<'a>,
    ) -> Result<Self, Error> {
        let raw = match staging_bytes(table) {
            0 => None,
            bytes => Some(Buf::new(queue, bytes)?),
        };
        let packed = table.weights.iter().map(|weight| Buf::new(queue, weight.packed_bytes));
        let packed = packed.collect::<Result<Vec<_>, _>>()?;
        let total_bytes = table.weights.iter().map(WeightDesc::raw_bytes).sum();
        Ok(Self { queue, kernels, table, options, raw, packed, done_bytes: 0, total_bytes })
    }

    /// The packed form of all weights. The work is done when this returns.
    fn all(mut self, source: &dyn BoundWeights) -> Result<Vec<Buf>, Error> {
        each_in_order(source, &pieces(&self.table.weights), |piece, bytes| self.take(piece, bytes))?;
        self.queue.synchronize()?;
        Ok(self.packed)
    }

    /// Enqueues the copy of a piece and, behind the last of a weight, its re-packing.
    fn take(&mut self, piece: &Piece, bytes: &[u8]) -> Result<(), Error> {
        if self.options.cancel.is_cancelled() {
            return Err(Error::Cancelled { what: "loading" });
        }
        let place = self.table.weights.get(piece.weight).zip(self.packed.get(piece.weight));
        let (weight, packed) = place.ok_or_else(|| Error::Table {
            spec: self.table.spec.to_string(),
            problem: format!("weight {} of {}", piece.weight, self.table.weights.len()),
        })?;
        match (weight.repack, &self.raw) {
            (Some(kernel), Some(raw)) => {
                raw.upload(piece.offset, bytes)?;
                if piece.is_last {
                    let args = Box::new([raw.addr().0, packed.addr().0]);
                    self.kernels.launch(&[Call { kernel, args }])?;
                }
            }
            _ => packed.upload(piece.offset, bytes)?,
        }
        self.done_bytes += bytes.len() as u64;
        if let Some(progress) = self.options.progress {
            progress(LoadProgress { done_bytes: self.done_bytes, total_bytes: self.total_bytes });
        }
        Ok(())
    }
}

/// The RoPE tables that the kernels read. A model's factors and its scale stretch the one of layers that see all
/// positions; those with a window need none.
fn upload_rope(
    queue: &Arc<dyn Queue>,
    table: &Table,
    source: &dyn BoundWeights,
    context: u32,
) -> Result<Vec<(Slot, Buf)>, Error> {
    let dims = &table.dims;
    let mut tables = Vec::new();
    if let Some(desc) = table.find_buffer(Slot::RopeTable) {
        let mut rotations = RopeTable::new(dims.rope_base, dims.head_dim).with_scale(dims.variant.rope_scale);
        if let Some(factors) = source.rope_factors()? {
            rotations = rotations.with_factors(&factors);
        }
        tables.push((desc.slot, upload_rotations(queue, desc, &rotations, context)?));
    }
    if let (Some(desc), Some(sliding)) = (table.find_buffer(Slot::RopeTableLocal), dims.variant.sliding) {
        let rotations = RopeTable::new(sliding.rope_base, dims.head_dim);
        tables.push((desc.slot, upload_rotations(queue, desc, &rotations, context)?));
    }
    Ok(tables)
}

fn upload_rotations(
    queue: &Arc<dyn Queue>,
    desc: &BufferDesc,
    rotations: &RopeTable,
    context: u32,
) -> Result<Buf, Error> {
    let buf = Buf::new(queue, buffer_bytes(desc, context))?;
    let row = rotations.values_per_position();
    let mut rows = vec![0.0f32; row * ROPE_POSITIONS as usize];
    for first in (0..context).step_by(ROPE_POSITIONS as usize) {
        let n = ROPE_POSITIONS.min(context - first) as usize;
        let rows = &mut rows[..n * row];
        rotations.fill(first, rows);
        buf.upload(u64::from(first) * row as u64 * 4, bytemuck::cast_slice(rows))?;
    }
    Ok(buf)
}
