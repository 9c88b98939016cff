//! The check that a table does not contradict itself, done once, at load. After it every index and every range of
//! the table can be relied on; a table may come from a specialiser at run time and not only from the build.

use plan::sampling::SAMPLING_WORDS;
use plan::{Access, Arg, BufferDesc, HISTORY, Place, Slot, Step, StepKind, Table, control_bytes};

use crate::error::Error;
use crate::memory::{CONSTANT_SLOTS, buffer_bytes};
use crate::queue::MAX_KERNEL_PARAMS;

/// The most launches of a step; real tables have a few hundred.
const MAX_LAUNCHES: usize = 1 << 16;

/// The most rows of a step.
const MAX_ROWS: u32 = 1 << 16;

/// Slots that the runtime itself reads or writes: each step that gives logits has them.
const NEEDED_SLOTS: [Slot; 3] = [Slot::Control, Slot::Logits, Slot::Chosen];

/// Checks `table` for `context` positions.
pub(crate) fn check_table(table: &Table, context: u32) -> Result<(), Error> {
    let problem = dims_problem(table)
        .or_else(|| kernels_problem(table))
        .or_else(|| weights_problem(table))
        .or_else(|| steps_problem(table, context));
    match problem {
        None => Ok(()),
        Some(problem) => Err(Error::Table { spec: table.spec.to_string(), problem }),
    }
}

fn dims_problem(table: &Table) -> Option<String> {
    let d = &table.dims;
    let sizes =
        [d.vocab_size, d.dim, d.hidden_dim, d.n_layers, d.n_heads, d.n_kv_heads, d.head_dim, d.context];
    if sizes.contains(&0) {
        return Some(format!("a dimension is zero: {d:?}"));
    }
    if !d.n_heads.is_multiple_of(d.n_kv_heads) {
        return Some(format!("{} query heads are no multiple of {} KV heads", d.n_heads, d.n_kv_heads));
    }
    None
}

fn kernels_problem(table: &Table) -> Option<String> {
    table.kernels.iter().find_map(|kernel| {
        let found = kernel.params.len();
        (found > MAX_KERNEL_PARAMS)
            .then(|| format!("kernel {} has {found} parameters, limit {MAX_KERNEL_PARAMS}", kernel.entry))
    })
}

fn weights_problem(table: &Table) -> Option<String> {
    table.weights.iter().find_map(|w| {
        let block = w.qtype.block_elems();
        if w.rows == 0 || w.cols == 0 || !w.cols.is_multiple_of(block) {
            return Some(format!("{}: {} × {} elements in blocks of {block}", w.name(), w.rows, w.cols));
        }
        match w.repack {
            None if w.packed_bytes != w.raw_bytes() => Some(format!(
                "{}: {} bytes on the device, {} in the file, and no kernel to re-pack them",
                w.name(),
                w.packed_bytes,
                w.raw_bytes()
            )),
            None => None,
            Some(kernel) => match table.kernels.get(kernel as usize) {
                Some(k) if k.params.len() == 2 => None,
                Some(k) => {
                    Some(format!("repack kernel {} has {} parameters, not 2", k.entry, k.params.len()))
                }
                None => Some(format!("{}: repack kernel {kernel} of {}", w.name(), table.kernels.len())),
            },
        }
    })
}

fn steps_problem(table: &Table, context: u32) -> Option<String> {
    match table.single() {
        Some(step) if step.rows == 1 && step.kind == StepKind::Decode => {}
        _ => return Some("the first step is not one of a single row".to_owned()),
    }
    table.steps.iter().find_map(|step| {
        let problem = if step.rows == 0 || step.rows > MAX_ROWS {
            Some(format!("limit {MAX_ROWS}"))
        } else {
            buffers_problem(table, step, context).or_else(|| launches_problem(table, step, context))
        };
        problem.map(|problem| format!("step of {} rows: {problem}", step.rows))
    })
}

fn buffers_problem(table: &Table, step: &Step, context: u32) -> Option<String> {
    let needed = if step.kind == StepKind::Decode { &NEEDED_SLOTS[..] } else { &NEEDED_SLOTS[..1] };
    if let Some(slot) = needed.iter().find(|slot| step.buffer(**slot).is_none()) {
        return Some(format!("no buffer for {slot:?}"));
    }
    step.buffers.iter().find_map(|b| {
        if let Place::Arena { offset } = b.place {
            let end = offset.saturating_add(b.bytes);
            if b.bytes_per_pos != 0 || end > step.arena_bytes {
                let limit = step.arena_bytes;
                return Some(format!("buffer {:?} ends at byte {end} of an arena of {limit}", b.slot));
            }
        }
        slot_problem(table, (b, step.rows), context)
    })
}

/// The slots that the runtime fills or reads have the size that it copies.
fn slot_problem(table: &Table, (buffer, rows): (&BufferDesc, u32), context: u32) -> Option<String> {
    let (dims, n) = (&table.dims, u64::from(rows));
    let wanted = match buffer.slot {
        Slot::Control => control_bytes(rows),
        Slot::Kv => n * table.caches.len() as u64 * 8,
        Slot::History => n * u64::from(HISTORY) * 4,
        Slot::Sampling => n * u64::from(SAMPLING_WORDS) * 4,
        Slot::Chosen => n * 4,
        Slot::Logits => n * u64::from(dims.vocab_size) * 4,
        Slot::RopeTable | Slot::RopeTableLocal => u64::from(dims.head_dim / 2) * 8 * u64::from(context),
        _ => 0,
    };
    let found = buffer_bytes(buffer, context);
    if found < wanted {
        return Some(format!("buffer {:?} has {found} bytes, {wanted} wanted", buffer.slot));
    }
    if CONSTANT_SLOTS.contains(&buffer.slot) && buffer.place != Place::Own {
        return Some(format!("buffer {:?} lies in the arena, which kernels overwrite", buffer.slot));
    }
    None
}

fn launches_problem(table: &Table, step: &Step, context: u32) -> Option<String> {
    if step.launches.len() > MAX_LAUNCHES {
        return Some(format!("{} launches, limit {MAX_LAUNCHES}", step.launches.len()));
    }
    step.launches.iter().enumerate().find_map(|(idx, launch)| {
        let Some(kernel) = table.kernels.get(launch.kernel as usize) else {
            return Some(format!("launch {idx}: kernel {} of {}", launch.kernel, table.kernels.len()));
        };
        let (found, wanted) = (launch.args.len(), kernel.params.len());
        if found != wanted {
            return Some(format!("launch {idx} of {}: {found} arguments, {wanted} parameters", kernel.entry));
        }
        let mut pairs = launch.args.iter().zip(kernel.params.iter());
        pairs.find_map(|(arg, param)| {
            let problem = arg_problem((table, step), *arg, param.access, context);
            problem.map(|problem| format!("launch {idx} of {}, {}: {problem}", kernel.entry, param.name))
        })
    })
}

fn arg_problem((table, step): (&Table, &Step), arg: Arg, access: Access, context: u32) -> Option<String> {
    match arg {
        Arg::Weight(idx) if idx as usize >= table.weights.len() => {
            Some(format!("weight {idx} of {}", table.weights.len()))
        }
        Arg::Weight(idx) if access.writes() => Some(format!("weight {idx} would be written")),
        Arg::Weight(_) => None,
        Arg::Buffer { index, offset } => match step.buffers.get(index as usize) {
            None => Some(format!("buffer {index} of {}", step.buffers.len())),
            Some(b) if offset >= buffer_bytes(b, context).max(1) => {
                Some(format!("byte {offset} of {:?}, which has {}", b.slot, buffer_bytes(b, context)))
            }
            // All sessions share these.
            Some(b) if CONSTANT_SLOTS.contains(&b.slot) && access.writes() => {
                Some(format!("{:?} would be written", b.slot))
            }
            Some(_) => None,
        },
    }
}
