//! A model on a device: its weights as the kernels read them, its kernels, and what all sessions share.

mod load;
mod pieces;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plan::{Slot, Step, StepKind, Table};

use crate::api::WeightIndex;
use crate::cancel::CancelToken;
use crate::engine::{Caches, Engine, Row};
use crate::error::Error;
use crate::memory::MemoryPlan;
use crate::queue::{Buf, Kernels, Queue};
use crate::session::{Batch, Session};
use crate::source::WeightSource;

/// Context of a session where the caller does not say, unless the model was trained for less.
pub const DEFAULT_CONTEXT: u32 = 4096;

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of weights uploaded.
    pub done_bytes: u64,
    /// Bytes of weights in the file.
    pub total_bytes: u64,
}

/// How long the two parts of a load took, which run side by side but for the kernels that re-pack, which come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadTimings {
    /// Taking kernels in, and making those ready that re-pack and those of one row: compiling them, on a device that compiles.
    /// Those of batches and prompts are when such a step is first made.
    pub kernels: Duration,
    /// Reading, checking, sending and re-packing weights.
    pub weights: Duration,
}

/// How to load.
#[derive(Clone, Default)]
pub struct LoadOptions<'a> {
    /// Positions of each session; `None`: the model's own context, at most [`DEFAULT_CONTEXT`].
    pub context: Option<u32>,
    /// How many sessions the memory check counts; `None`: one.
    pub sessions: Option<u32>,
    /// Called after each piece of weights.
    pub progress: Option<&'a dyn Fn(LoadProgress)>,
    /// Ends the load with [`Error::Cancelled`]; everything taken is given back.
    pub cancel: CancelToken,
}

/// A loaded model. Clones share it; it is freed with the last of them and of its sessions.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

/// Invariant: `table` passed the table check for `context`; `weights` has one buffer for each weight of it.
struct Shared {
    /// The steps that take many tokens of one sequence, each made when it is first needed. Sessions take turns: what
    /// one enqueues is complete before the next begins.
    prefill: Mutex<Vec<Engine>>,
    table: Table,
    kernels: Arc<dyn Kernels>,
    weights: Vec<Buf>,
    /// Which weight is which, by layer and role.
    index: WeightIndex,
    /// The RoPE tables that the table has.
    rope: Vec<(Slot, Buf)>,
    queue: Arc<dyn Queue>,
    context: u32,
    memory: MemoryPlan,
    timings: LoadTimings,
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Model>();
};

impl Model {
    /// Loads the weights of `source` for `table`'s kernels. All or nothing: after an error the device holds nothing
    /// of the model.
    ///
    /// # Errors
    /// When the source is not the model of `table`, memory does not suffice (found before the first upload), a
    /// weight is not finite, the caller cancels, or the device fails.
    pub fn load(
        queue: &Arc<dyn Queue>,
        table: &Table,
        source: &dyn WeightSource,
        options: &LoadOptions<'_>,
    ) -> Result<Self, Error> {
        let shared = load::load(queue, table, source, options)?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A new session with caches of its own.
    ///
    /// # Errors
    /// When memory does not suffice or the device fails.
    pub fn session(&self) -> Result<Session, Error> {
        Session::new(self)
    }

    /// Whether both are the same loaded model.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The table that runs.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.shared.table
    }

    /// The device.
    #[must_use]
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.shared.queue
    }

    /// The compiled kernels of [`Model::table`].
    #[must_use]
    pub fn kernels(&self) -> &Arc<dyn Kernels> {
        &self.shared.kernels
    }

    /// Positions of each session.
    #[must_use]
    pub fn context(&self) -> u32 {
        self.shared.context
    }

    /// What it takes of the device.
    #[must_use]
    pub fn memory(&self) -> &MemoryPlan {
        &self.shared.memory
    }

    /// How long it took to load.
    #[must_use]
    pub fn load_timings(&self) -> LoadTimings {
        self.shared.timings
    }

    /// The packed weights, in the order of the table.
    #[must_use]
    pub fn weights(&self) -> &[Buf] {
        &self.shared.weights
    }

    pub(crate) fn weight_index(&self) -> &WeightIndex {
        &self.shared.index
    }

    /// A batch of up to `rows` rows, through which several sessions take their steps together.
    ///
    /// # Errors
    /// [`Error::BatchRows`] when the table has no step of so many rows; when memory does not suffice or the device
    /// fails.
    pub fn batch(&self, rows: u32) -> Result<Batch, Error> {
        Batch::new(self, rows)
    }

    /// The most rows of a [`Batch`].
    #[must_use]
    pub fn batch_rows(&self) -> u32 {
        let decode = self.table().steps.iter().filter(|step| step.kind == StepKind::Decode);
        decode.map(|step| step.rows).max().unwrap_or(0)
    }

    /// The buffer that all sessions share for a slot, if there is one.
    pub(crate) fn constant(&self, slot: Slot) -> Option<&Buf> {
        self.shared.rope.iter().find(|(of, _)| *of == slot).map(|(_, buf)| buf)
    }

    fn prefill_steps(&self) -> impl Iterator<Item = &Step> {
        self.table().steps.iter().filter(|step| step.kind == StepKind::Prefill)
    }

    /// The most tokens that prefill takes at once; `None` when the table has no such step.
    #[must_use]
    pub fn prefill_rows(&self) -> Option<usize> {
        self.prefill_steps().map(|step| step.rows as usize).max()
    }

    /// Enqueues `tokens` of one sequence from `position` on, without head, by the smallest step that takes them all,
    /// or in chunks of the largest; false when the table has no step for it.
    pub(crate) fn prefill(&self, caches: &Caches, position: u32, tokens: &[u32]) -> Result<bool, Error> {
        let Some(most) = self.prefill_rows() else { return Ok(false) };
        // An engine is whole before and after each call on it, so that a panic elsewhere leaves it usable.
        let mut engines = self.shared.prefill.lock().unwrap_or_else(PoisonError::into_inner);
        for (chunk, first) in tokens.chunks(most).zip((position..).step_by(most)) {
            let engine = self.prefill_engine(&mut engines, chunk.len())?;
            let queue = self.queue().as_ref();
            engine.seat(queue, 0, caches)?;
            let row = |(token, position): (&u32, u32)| Row { token: *token, position, seat: 0 };
            engine.set(queue, chunk.iter().zip(first..).map(row))?;
            engine.run()?;
        }
        Ok(true)
    }

    /// The smallest engine for `n` tokens.
    fn prefill_engine<'e>(&self, engines: &'e mut Vec<Engine>, n: usize) -> Result<&'e mut Engine, Error> {
        let fitting = self.prefill_steps().filter(|step| step.rows as usize >= n);
        let step = fitting.min_by_key(|step| step.rows).ok_or_else(|| Error::BatchRows {
            spec: self.table().spec.to_string(),
            found: n as u32,
            limit: self.prefill_rows().unwrap_or(0) as u32,
        })?;
        let place = match engines.iter().position(|engine| engine.rows() == step.rows) {
            Some(place) => place,
            None => {
                engines.push(Engine::new(self, step)?);
                engines.len() - 1
            }
        };
        Ok(&mut engines[place])
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("spec", &self.shared.table.spec)
            .field("device", &self.shared.queue.name())
            .field("context", &self.shared.context)
            .finish_non_exhaustive()
    }
}
