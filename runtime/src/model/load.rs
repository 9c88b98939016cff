//! Loading: every check first, then each tensor through one staging buffer and its repack kernel.
//!
//! Whatever was allocated is owned by values on the stack until the model is complete, so that an error at any point
//! gives all of it back.

use std::sync::{Arc, Mutex};

use plan::{BufferDesc, Slot, Table, WeightDesc};

use super::{DEFAULT_CONTEXT, LoadOptions, LoadProgress, Shared};
use crate::api::WeightIndex;
use crate::error::Error;
use crate::memory::{MemoryPlan, buffer_bytes, staging_bytes};
use crate::queue::{Buf, Call, Kernels, Queue};
use crate::rope::RopeTable;
use crate::source::{BoundWeights, WeightSource};
use crate::table_check::check_table;

/// The most host memory that a piece of a tensor takes.
const PIECE_BYTES: u64 = 16 << 20;
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

    let kernels = queue.load(&table.kernels)?;
    let mut loader = Loader::new(queue, table, kernels, options)?;
    let packed = (0..table.weights.len()).map(|idx| loader.weight(weights.as_ref(), idx));
    let packed = packed.collect::<Result<Vec<Buf>, Error>>()?;
    let rope = upload_rope(queue, table, weights.as_ref(), context)?;
    // Errors of the work enqueued above come out here, before there is a model.
    queue.synchronize()?;
    let Loader { kernels, .. } = loader;
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
    })
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

/// What is used again for each tensor.
struct Loader<'a> {
    queue: &'a Arc<dyn Queue>,
    table: &'a Table,
    options: &'a LoadOptions<'a>,
    kernels: Arc<dyn Kernels>,
    /// A piece of a tensor on the host.
    piece: Vec<u8>,
    /// The file's bytes of a tensor on the device; `None` when nothing is re-packed.
    raw: Option<Buf>,
    done_bytes: u64,
    total_bytes: u64,
}

impl<'a> Loader<'a> {
    fn new(
        queue: &'a Arc<dyn Queue>,
        table: &'a Table,
        kernels: Arc<dyn Kernels>,
        options: &'a LoadOptions<'a>,
    ) -> Result<Self, Error> {
        let largest = table.weights.iter().map(WeightDesc::raw_bytes).max().unwrap_or(0);
        let wanted = largest.min(PIECE_BYTES);
        let mut piece = Vec::new();
        piece
            .try_reserve_exact(wanted as usize)
            .map_err(|_| Error::HostMemory { what: "a piece of the weights", wanted })?;
        piece.resize(wanted as usize, 0);
        let raw = match staging_bytes(table) {
            0 => None,
            bytes => Some(Buf::new(queue, bytes)?),
        };
        let total_bytes = table.weights.iter().map(WeightDesc::raw_bytes).sum();
        Ok(Self { queue, table, options, kernels, piece, raw, done_bytes: 0, total_bytes })
    }

    /// Uploads weight number `idx` and gives its packed form.
    fn weight(&mut self, source: &dyn BoundWeights, idx: usize) -> Result<Buf, Error> {
        let Some(weight) = self.table.weights.get(idx) else {
            return Err(self.no_such_weight(idx));
        };
        let packed = Buf::new(self.queue, weight.packed_bytes)?;
        let raw = self.raw.take();
        let result = match (weight.repack, &raw) {
            (Some(kernel), Some(raw)) => {
                let args = Box::new([raw.addr().0, packed.addr().0]);
                self.upload(source, idx, raw)
                    .and_then(|()| Ok(self.kernels.launch(&[Call { kernel, args }])?))
            }
            _ => self.upload(source, idx, &packed),
        };
        self.raw = raw;
        result.map(|()| packed)
    }

    fn no_such_weight(&self, idx: usize) -> Error {
        let problem = format!("weight {idx} of {}", self.table.weights.len());
        Error::Table { spec: self.table.spec.to_string(), problem }
    }

    /// Copies the file's bytes of weight `idx` into `to`, piece by piece.
    fn upload(&mut self, source: &dyn BoundWeights, idx: usize, to: &Buf) -> Result<(), Error> {
        let Some(weight) = self.table.weights.get(idx) else {
            return Err(self.no_such_weight(idx));
        };
        let block = u64::from(weight.qtype.block_bytes());
        let piece_bytes = self.piece.len() as u64 / block * block;
        let end = weight.raw_bytes();
        let mut offset = 0;
        while offset < end {
            if self.options.cancel.is_cancelled() {
                return Err(Error::Cancelled { what: "loading" });
            }
            let bytes = piece_bytes.min(end - offset);
            let piece = &mut self.piece[..bytes as usize];
            source.read(idx, offset, piece)?;
            to.upload(offset, piece)?;
            offset += bytes;
            self.done_bytes += bytes;
            if let Some(progress) = self.options.progress {
                progress(LoadProgress { done_bytes: self.done_bytes, total_bytes: self.total_bytes });
            }
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
