//! How much device memory a model takes, computed before any of it is taken.

use std::fmt;

use plan::{BufferDesc, Place, Slot, Step, StepKind, Table};

/// Devices hand out memory in pieces of this size.
const GRANULE_BYTES: u64 = 512;

/// Device memory of a model and its sessions, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Name of the spec.
    pub spec: String,
    /// Positions of each session.
    pub context: u32,
    /// Sessions at a time.
    pub sessions: u32,
    /// Weights as the kernels read them.
    pub weights_bytes: u64,
    /// Constant tables shared by all sessions (RoPE).
    pub tables_bytes: u64,
    /// The file's bytes of the largest tensor that is re-packed; only while loading.
    pub staging_bytes: u64,
    /// Key and value cache of one session.
    pub kv_bytes: u64,
    /// Scratch of one session: its arena.
    pub arena_bytes: u64,
    /// Other buffers of one session: control, logits.
    pub own_bytes: u64,
    /// Buffers of the prefill steps, which the sessions share.
    pub prefill_bytes: u64,
}

impl MemoryPlan {
    /// The memory of `table` with `sessions` sessions of `context` positions.
    #[must_use]
    pub fn new(table: &Table, context: u32, sessions: u32) -> Self {
        let mut plan = Self {
            spec: table.spec.to_string(),
            context,
            sessions,
            weights_bytes: table
                .weights
                .iter()
                .map(|w| granules(w.packed_bytes))
                .fold(0, u64::saturating_add),
            tables_bytes: 0,
            staging_bytes: staging_bytes(table),
            kv_bytes: 0,
            arena_bytes: 0,
            own_bytes: 0,
            prefill_bytes: 0,
        };
        let bytes = |buffers: &[BufferDesc]| {
            let of_each = buffers.iter().map(|b| granules(buffer_bytes(b, context)));
            of_each.fold(0, u64::saturating_add)
        };
        plan.kv_bytes = bytes(&table.caches);
        let constants = CONSTANT_SLOTS.iter().filter_map(|slot| table.find_buffer(*slot));
        plan.tables_bytes = constants.map(|b| bytes(std::slice::from_ref(b))).fold(0, u64::saturating_add);
        if let Some(single) = table.single() {
            plan.arena_bytes = granules(single.arena_bytes);
            plan.own_bytes = own_bytes(single, context);
        }
        let prefill = table.steps.iter().filter(|step| step.kind == StepKind::Prefill);
        let bytes = prefill.map(|step| granules(step.arena_bytes).saturating_add(own_bytes(step, context)));
        plan.prefill_bytes = bytes.fold(0, u64::saturating_add);
        plan
    }

    /// Memory of one session.
    #[must_use]
    pub fn session_bytes(&self) -> u64 {
        self.kv_bytes.saturating_add(self.arena_bytes).saturating_add(self.own_bytes)
    }

    /// The most memory held at any time: staging is given back before the first session starts.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let sessions = self.session_bytes().saturating_mul(u64::from(self.sessions));
        let constant = self.weights_bytes.saturating_add(self.tables_bytes);
        let running = sessions.saturating_add(self.prefill_bytes);
        constant.saturating_add(running.max(self.staging_bytes))
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} with {} × {} positions needs {} bytes: weights {}, tables {}, and {} × (KV {}, arena {}, other {}) with \
             prefill {} or staging {}",
            self.spec,
            self.sessions,
            self.context,
            self.peak_bytes(),
            self.weights_bytes,
            self.tables_bytes,
            self.sessions,
            self.kv_bytes,
            self.arena_bytes,
            self.own_bytes,
            self.prefill_bytes,
            self.staging_bytes,
        )
    }
}

/// Slots whose buffers are the same for all engines, and read only.
pub(crate) const CONSTANT_SLOTS: [Slot; 2] = [Slot::RopeTable, Slot::RopeTableLocal];

/// Buffers of a step that are neither in its arena nor shared.
fn own_bytes(step: &Step, context: u32) -> u64 {
    let own = step.buffers.iter().filter(|b| b.place == Place::Own && !CONSTANT_SLOTS.contains(&b.slot));
    own.map(|b| granules(buffer_bytes(b, context))).fold(0, u64::saturating_add)
}

/// Bytes of `buffer` for `context` positions.
pub(crate) fn buffer_bytes(buffer: &BufferDesc, context: u32) -> u64 {
    buffer.bytes.saturating_add(buffer.bytes_per_pos.saturating_mul(u64::from(context)))
}

/// Bytes of the largest tensor that goes through a repack kernel.
pub(crate) fn staging_bytes(table: &Table) -> u64 {
    table.weights.iter().filter(|w| w.repack.is_some()).map(plan::WeightDesc::raw_bytes).max().unwrap_or(0)
}

fn granules(bytes: u64) -> u64 {
    bytes.max(1).checked_next_multiple_of(GRANULE_BYTES).unwrap_or(u64::MAX)
}
