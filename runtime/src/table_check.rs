//! The check that a table does not contradict itself, done once, at load. After it every index and every range of
//! the table can be relied on; a table may come from a specialiser at run time and not only from the build.

use plan::{Access, Arg, BufferDesc, Place, Slot, Table};

use crate::error::Error;
use crate::memory::buffer_bytes;
use crate::queue::MAX_KERNEL_PARAMS;

/// The most launches of a step; real tables have a few hundred.
const MAX_LAUNCHES: usize = 1 << 16;

/// Slots that the runtime itself reads or writes: each table has them.
const NEEDED_SLOTS: [Slot; 3] = [Slot::Control, Slot::Logits, Slot::Chosen];

/// Checks `table` for `context` positions.
pub(crate) fn check_table(table: &Table, context: u32) -> Result<(), Error> {
    let problem = dims_problem(table)
        .or_else(|| kernels_problem(table))
        .or_else(|| weights_problem(table))
        .or_else(|| buffers_problem(table, context))
        .or_else(|| launches_problem(table, context));
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

fn buffers_problem(table: &Table, context: u32) -> Option<String> {
    if let Some(slot) = NEEDED_SLOTS.into_iter().find(|slot| table.buffer(*slot).is_none()) {
        return Some(format!("no buffer for {slot:?}"));
    }
    table.buffers.iter().find_map(|b| {
        if let Place::Arena { offset } = b.place {
            let end = offset.saturating_add(b.bytes);
            if b.bytes_per_pos != 0 || end > table.arena_bytes {
                let limit = table.arena_bytes;
                return Some(format!("buffer {:?} ends at byte {end} of an arena of {limit}", b.slot));
            }
        }
        slot_problem(table, b, context)
    })
}

/// The slots that the runtime fills or reads have the size that it copies.
fn slot_problem(table: &Table, buffer: &BufferDesc, context: u32) -> Option<String> {
    let dims = &table.dims;
    let wanted = match buffer.slot {
        Slot::Control => 8,
        Slot::Chosen => 4,
        Slot::Logits => u64::from(dims.vocab_size) * 4,
        Slot::RopeTable => u64::from(dims.head_dim / 2) * 8 * u64::from(context),
        _ => 0,
    };
    let found = buffer_bytes(buffer, context);
    if found < wanted {
        return Some(format!("buffer {:?} has {found} bytes, {wanted} wanted", buffer.slot));
    }
    if buffer.slot == Slot::RopeTable && buffer.place != Place::Own {
        return Some("the RoPE table lies in the arena, which kernels overwrite".to_owned());
    }
    None
}

fn launches_problem(table: &Table, context: u32) -> Option<String> {
    if table.launches.len() > MAX_LAUNCHES {
        return Some(format!("{} launches a step, limit {MAX_LAUNCHES}", table.launches.len()));
    }
    table.launches.iter().enumerate().find_map(|(idx, launch)| {
        let Some(kernel) = table.kernels.get(launch.kernel as usize) else {
            return Some(format!("launch {idx}: kernel {} of {}", launch.kernel, table.kernels.len()));
        };
        let (found, wanted) = (launch.args.len(), kernel.params.len());
        if found != wanted {
            return Some(format!("launch {idx} of {}: {found} arguments, {wanted} parameters", kernel.entry));
        }
        let mut pairs = launch.args.iter().zip(kernel.params.iter());
        pairs.find_map(|(arg, param)| {
            arg_problem(table, *arg, param.access, context)
                .map(|problem| format!("launch {idx} of {}, {}: {problem}", kernel.entry, param.name))
        })
    })
}

fn arg_problem(table: &Table, arg: Arg, access: Access, context: u32) -> Option<String> {
    match arg {
        Arg::Weight(idx) if idx as usize >= table.weights.len() => {
            Some(format!("weight {idx} of {}", table.weights.len()))
        }
        Arg::Weight(idx) if access != Access::Read => Some(format!("weight {idx} would be written")),
        Arg::Weight(_) => None,
        Arg::Buffer { index, offset } => match table.buffers.get(index as usize) {
            None => Some(format!("buffer {index} of {}", table.buffers.len())),
            Some(b) if offset >= buffer_bytes(b, context).max(1) => {
                Some(format!("byte {offset} of {:?}, which has {}", b.slot, buffer_bytes(b, context)))
            }
            // All sessions share this one.
            Some(b) if b.slot == Slot::RopeTable && access != Access::Read => {
                Some("the RoPE table would be written".to_owned())
            }
            Some(_) => None,
        },
    }
}
