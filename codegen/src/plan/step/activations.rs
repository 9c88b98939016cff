//! What activations are made of: the slots that hold them, and the form of an operation that makes or takes them.

use super::{At, StepPlanner, Use};
use crate::CodegenError;
use crate::kernels::gemm::Tiled;
use crate::kernels::gemv::act_bytes;
use crate::kernels::{Exact, Operation};
use ::plan::{ActType, Slot};

/// A vector that goes into matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vector {
    /// What the norms and attention make of the stream.
    Stream,
    /// What is between the halves of a feed-forward.
    Ffn,
}

impl StepPlanner<'_, '_> {
    /// The slots that hold a vector, in the order in which kernels take them.
    pub(super) fn slots_of(&self, vector: Vector) -> Vec<Slot> {
        match (self.planner.spec.dims.activations, vector) {
            (ActType::Int8, Vector::Stream) => vec![Slot::ActQuants, Slot::ActMeta],
            (ActType::Int8, Vector::Ffn) => vec![Slot::FfnQuants, Slot::FfnMeta],
            (ActType::F32, Vector::Stream) => vec![Slot::Act],
            (ActType::F32, Vector::Ffn) => vec![Slot::FfnAct],
        }
    }

    /// Its slots with their bytes for all rows.
    pub(super) fn buffers_of(&self, vector: Vector) -> Vec<(Slot, u64)> {
        let d = &self.planner.spec.dims;
        let n = match vector {
            Vector::Stream => d.dim.max(d.q_dim()),
            Vector::Ffn => d.hidden_dim,
        };
        let elements = u64::from(n);
        let bytes = match d.activations {
            ActType::Int8 => vec![elements, act_bytes(n) - elements],
            ActType::F32 => vec![4 * elements],
        };
        let rows = u64::from(self.rows);
        self.slots_of(vector).into_iter().zip(bytes).map(|(slot, bytes)| (slot, rows * bytes)).collect()
    }

    /// A launch of an operation that makes or takes activations, in the form that the spec asks for.
    pub(super) fn launch_on_acts<O>(&mut self, operation: O, at: At, uses: &[Use]) -> Result<(), CodegenError>
    where
        O: Operation + Send + Sync + 'static,
        Exact<O>: Operation + Send + Sync,
    {
        match self.planner.spec.dims.activations {
            ActType::Int8 => self.launch(operation, at, uses),
            ActType::F32 => self.launch(Exact(operation), at, uses),
        }
    }

    /// As [`Self::launch_on_acts`], of a product that reads how many rows are active first. It has the tile that was fastest
    /// where that was measured.
    pub(super) fn launch_rows<O>(
        &mut self,
        operation: O,
        at: At,
        uses: impl Iterator<Item = Use>,
    ) -> Result<(), CodegenError>
    where
        O: Tiled,
        Exact<O>: Operation + Send + Sync,
    {
        let key = operation.key();
        let operation = match self.planner.tuned.tile(&key) {
            None => operation,
            Some(tile) => operation
                .with_tile(tile)
                .ok_or_else(|| CodegenError::Winner { key: key.to_string(), tile: format!("{tile:?}") })?,
        };
        let uses: Vec<Use> = std::iter::once(Use::Slot(Slot::Control)).chain(uses).collect();
        self.launch_on_acts(operation, at, &uses)
    }
}
