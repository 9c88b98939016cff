//! Seeded random weights in the shapes and types of a table, for benchmarks and tests without a model file.
//!
//! Every block depends on the seed, the tensor's name and the block's number only, so that any piece can be made by
//! any thread, at memory speed, and two runs agree. Magnitudes keep activations of order one: a matrix has a standard
//! deviation of `1 / sqrt(cols)`, norms lie around one, biases are small.

mod blocks;
mod file;
mod random;

use std::thread;

use plan::{QType, Role, Table, WeightDesc};

use crate::binding::BindError;
use crate::gguf::GgufError;
use crate::source::{BoundWeights, WeightSource};
use blocks::Spread;

pub use file::{SynthError, write_gguf};
use random::Random;

/// Bytes below which a piece is not worth a thread.
const BYTES_PER_THREAD: usize = 1 << 20;

/// Random weights for any table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynthSource {
    seed: u64,
}

impl SynthSource {
    /// The weights of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `out` with the blocks of `weight` from byte `offset` on; both are multiples of the block.
    pub fn fill(&self, table: &Table, weight: &WeightDesc, offset: u64, out: &mut [u8]) {
        let block_bytes = block_bytes(weight.qtype);
        let first_block = offset / block_bytes as u64;
        let tensor = Tensor {
            seed: random::hash(self.seed, weight.name().as_bytes()),
            qtype: weight.qtype,
            spread: spread(table, weight),
        };
        let n_threads = thread::available_parallelism().map_or(1, usize::from);
        let n_threads = n_threads.min(out.len() / BYTES_PER_THREAD).max(1);
        let share = out.len().div_ceil(n_threads).next_multiple_of(block_bytes);
        if n_threads == 1 {
            return tensor.fill(first_block, out);
        }
        thread::scope(|scope| {
            for (idx, piece) in out.chunks_mut(share).enumerate() {
                let first = first_block + (idx * share / block_bytes) as u64;
                scope.spawn(move || tensor.fill(first, piece));
            }
        });
    }
}

/// Values that are not quantized come in groups of this many bytes from one state of the generator.
const GROUP_BYTES: u32 = 4;

/// Bytes that one state of the generator fills: a block, or a group of plain values.
fn block_bytes(qtype: QType) -> usize {
    match qtype {
        QType::F32 | QType::F16 | QType::Bf16 => GROUP_BYTES.max(qtype.block_bytes()) as usize,
        _ => qtype.block_bytes() as usize,
    }
}

#[derive(Clone, Copy)]
struct Tensor {
    seed: u64,
    qtype: QType,
    spread: Spread,
}

impl Tensor {
    fn fill(self, first_block: u64, out: &mut [u8]) {
        for (block, bytes) in (first_block..).zip(out.chunks_mut(block_bytes(self.qtype))) {
            blocks::fill(self.qtype, self.spread, &mut Random::new(self.seed, block), bytes);
        }
    }
}

/// Where the values of a tensor lie.
fn spread(table: &Table, weight: &WeightDesc) -> Spread {
    match weight.role {
        Role::AttnNorm
        | Role::FfnNorm
        | Role::OutputNorm
        | Role::AttnQNorm
        | Role::AttnKNorm
        | Role::AttnPostNorm
        | Role::FfnPostNorm => Spread { centre: 1.0, deviation: 0.1 },
        Role::AttnQBias
        | Role::AttnKBias
        | Role::AttnVBias
        | Role::AttnOutputBias
        | Role::FfnUpBias
        | Role::FfnDownBias
        | Role::OutputBias => Spread { centre: 0.0, deviation: 0.05 },
        // The residual stream starts at order one; a head that shares the matrix would see enormous logits.
        Role::TokenEmbd if !table.dims.tied_head => Spread { centre: 0.0, deviation: 1.0 },
        Role::TokenEmbd
        | Role::Output
        | Role::AttnQ
        | Role::AttnK
        | Role::AttnV
        | Role::AttnOutput
        | Role::FfnGate
        | Role::FfnUp
        | Role::FfnDown => Spread { centre: 0.0, deviation: 1.0 / f64::from(weight.cols).sqrt() },
    }
}

impl WeightSource for SynthSource {
    fn bind<'a>(&'a self, table: &'a Table) -> Result<Box<dyn BoundWeights + 'a>, BindError> {
        Ok(Box::new(BoundSynth { source: *self, table }))
    }
}

struct BoundSynth<'a> {
    source: SynthSource,
    table: &'a Table,
}

impl BoundWeights for BoundSynth<'_> {
    fn read(&self, weight: usize, offset: u64, out: &mut [u8]) -> Result<(), GgufError> {
        let Some(desc) = self.table.weights.get(weight) else {
            return Err(GgufError::TensorIndex { found: weight, limit: self.table.weights.len() });
        };
        self.source.fill(self.table, desc, offset, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
