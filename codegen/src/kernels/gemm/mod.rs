//! Matrices times several rows of quantized activations: decoding a batch, and prefill.
//!
//! Weights are packed as for one row; activations are row-major: quants `[row][cols]` i8, meta `[row][cols / 32]` of 8
//! bytes. Word 0 of `control` says how many of the `rows` rows are active: the others are neither read nor stored.
//!
//! Invariant: an active row's result has the bits of the one-row kernel with the same `Split` ([`super::gemv`],
//! [`super::ffn`]): per part of K and sub-block index one chain over super-blocks, the tree over the eight
//! indices, the parts in order.

use super::gemv::{Epilogue, Split, act_bytes};
use super::operation::{Choices, Cost, Operation, Trial, name_by_type};
use crate::dsl::{BuildError, InOut, Kernel, V};
use crate::layout::Matrix;
use ::plan::Activation;

mod choices;
mod columns;
mod exact;
mod multiply;
mod products;
mod stage;
mod sums;
mod tile;
mod tiles;
mod trial;

pub use choices::Tiled;
pub use tile::{Fill, Tile, Wanted};

/// One matrix with its epilogue, for several rows. Parameters: `control, w, quants, meta, y`, with y `[row][outputs]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemm {
    /// The weights.
    pub matrix: Matrix,
    /// What becomes of an output.
    pub epilogue: Epilogue,
    /// The layout of the one-row kernel that each row equals.
    pub split: Split,
    /// Rows of activations.
    pub rows: u32,
    /// What a CTA computes on tensor cores; `None` for the lanes' walk. No result depends on it.
    pub tile: Option<Tile>,
}

/// Q, K and V for several rows. Parameters: `control, wq, wk, wv, quants, meta, qkv`, with qkv `[row][q_dim + 2 kv_dim]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmQkv {
    /// Q, K, V.
    pub matrices: [Matrix; 3],
    /// The layout of the one-row kernel that each row equals.
    pub split: Split,
    /// Rows of activations.
    pub rows: u32,
    /// What a CTA computes on tensor cores; `None` for the lanes' walk. No result depends on it.
    pub tile: Option<Tile>,
}

/// Gate and up for several rows. Parameters: `control, gate, up, x_quants, x_meta, quants, meta`, with quants
/// `[row][hidden_dim]` i8 and meta `[row][hidden_dim / 32]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GemmGateUp {
    /// The gate.
    pub gate: Matrix,
    /// The other factor.
    pub up: Matrix,
    /// The function of the gate.
    pub activation: Activation,
    /// Super-blocks in flight a lane, as in the one-row kernel; no result depends on it.
    pub unroll: u32,
    /// Rows of activations.
    pub rows: u32,
    /// What a CTA computes on tensor cores; `None` for the lanes' walk. No result depends on it.
    pub tile: Option<Tile>,
}

/// The rows that a CTA computes: from `first` on, below `n_active`.
#[derive(Clone, Copy)]
struct Batch {
    first: V<u32>,
    n_active: V<u32>,
}

/// Where a CTA's outputs go: outputs of a row, elements from a row to the next, and the CTA's first tile of 4 outputs.
#[derive(Clone, Copy)]
struct Target {
    y: InOut<f32>,
    stride: u32,
    first: V<u32>,
}

impl Gemm {
    /// The product for up to `rows` rows whose bits are those of `Gemv { matrix, epilogue, split }`.
    pub fn new(matrix: Matrix, epilogue: Epilogue, split: Split, rows: u32) -> Gemm {
        let tile = Wanted::new(&[matrix], split.k_split, rows).tile();
        Gemm { matrix, epilogue, split, rows, tile }
    }

    /// The same with this tile, or `None` where it does not fit.
    pub fn with_tile(self, tile: Tile) -> Option<Gemm> {
        let fits = Wanted::new(&[self.matrix], self.split.k_split, self.rows).fits(tile);
        fits.then_some(Gemm { tile: Some(tile), ..self })
    }
}

impl GemmQkv {
    /// The products for up to `rows` rows whose bits are those of `GemvQkv { matrices, split }`.
    pub fn new(matrices: [Matrix; 3], split: Split, rows: u32) -> GemmQkv {
        let tile = Wanted::new(&matrices, split.k_split, rows).tile();
        GemmQkv { matrices, split, rows, tile }
    }

    /// The same with this tile, or `None` where it does not fit.
    pub fn with_tile(self, tile: Tile) -> Option<GemmQkv> {
        let fits = Wanted::new(&self.matrices, self.split.k_split, self.rows).fits(tile);
        fits.then_some(GemmQkv { tile: Some(tile), ..self })
    }

    /// Outputs of a row: q_dim + 2 kv_dim.
    fn outputs(&self) -> u32 {
        self.matrices.iter().map(|m| m.rows).sum()
    }
}

impl GemmGateUp {
    /// The activations for up to `rows` rows whose bits are those of `GateUp { gate, up, activation, unroll }`.
    pub fn new(gate: Matrix, up: Matrix, activation: Activation, unroll: u32, rows: u32) -> GemmGateUp {
        let tile = Wanted::new(&[gate, up], 1, rows).tile_of_pair();
        GemmGateUp { gate, up, activation, unroll, rows, tile }
    }

    /// The same with this tile, or `None` where it does not fit: it has 32 outputs of each matrix, or of one at a time.
    pub fn with_tile(self, tile: Tile) -> Option<GemmGateUp> {
        let fits = Wanted::new(&[self.gate, self.up], 1, self.rows).fits_pair(tile);
        fits.then_some(GemmGateUp { tile: Some(tile), ..self })
    }
}

/// Bytes of `n` f32 outputs for each of `rows` rows.
fn output_bytes(n: u32, rows: u32) -> u64 {
    u64::from(n) * u64::from(rows) * 4
}

impl Operation for Gemm {
    fn name(&self) -> &'static str {
        match self.epilogue {
            Epilogue::Store => name_by_type!("gemm_", self.matrix.qtype),
            Epilogue::Add => name_by_type!("gemm_", self.matrix.qtype, "_residual"),
        }
    }

    fn constants(&self) -> String {
        format!("{:?} {:?} {:?} {} {:?}", self.matrix, self.epilogue, self.split, self.rows, self.tile)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match self.tile {
            Some(tile) => tiles::build(self, tile),
            None => columns::build(self),
        }
    }

    fn cost(&self) -> Cost {
        let m = &self.matrix;
        let passes = if self.epilogue == Epilogue::Add { 2 } else { 1 };
        let acts = u64::from(self.rows) * act_bytes(m.cols);
        Cost {
            bytes: m.planes().bytes + acts + passes * output_bytes(m.rows, self.rows),
            macs: u64::from(self.rows) * u64::from(m.rows) * u64::from(m.cols),
        }
    }

    fn trial(&self, seed: u64) -> Trial {
        trial::gemm(self, seed)
    }

    fn choices(&self) -> Option<Choices> {
        Some(choices::of(self, self.tile, Wanted::new(&[self.matrix], self.split.k_split, self.rows)))
    }
}

impl Operation for GemmQkv {
    fn name(&self) -> &'static str {
        "gemm_qkv"
    }

    fn constants(&self) -> String {
        format!("{:?} {:?} {} {:?}", self.matrices, self.split, self.rows, self.tile)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match self.tile {
            Some(tile) => tiles::build_qkv(self, tile),
            None => columns::build_qkv(self),
        }
    }

    fn cost(&self) -> Cost {
        let cols = self.matrices[0].cols;
        let weights: u64 = self.matrices.iter().map(|m| m.planes().bytes).sum();
        let acts = u64::from(self.rows) * act_bytes(cols);
        Cost {
            bytes: weights + acts + output_bytes(self.outputs(), self.rows),
            macs: u64::from(self.rows) * u64::from(self.outputs()) * u64::from(cols),
        }
    }

    fn trial(&self, seed: u64) -> Trial {
        trial::qkv(self, seed)
    }

    fn choices(&self) -> Option<Choices> {
        Some(choices::of(self, self.tile, Wanted::new(&self.matrices, self.split.k_split, self.rows)))
    }
}

impl Operation for GemmGateUp {
    fn name(&self) -> &'static str {
        match self.activation {
            Activation::Silu => "gemm_gate_up_swiglu",
            Activation::GeluTanh => "gemm_gate_up_geglu_tanh",
            Activation::GeluErf => "gemm_gate_up_geglu_erf",
            Activation::GeluQuick => "gemm_gate_up_geglu_quick",
        }
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match self.tile {
            Some(tile) => tiles::build_gate_up(self, tile),
            None => columns::build_gate_up(self),
        }
    }

    fn cost(&self) -> Cost {
        let (hidden, cols) = (self.gate.rows, self.gate.cols);
        let weights = self.gate.planes().bytes + self.up.planes().bytes;
        Cost {
            bytes: weights + u64::from(self.rows) * (act_bytes(cols) + act_bytes(hidden)),
            macs: 2 * u64::from(self.rows) * u64::from(hidden) * u64::from(cols),
        }
    }

    fn trial(&self, seed: u64) -> Trial {
        trial::gate_up(self, seed)
    }

    fn choices(&self) -> Option<Choices> {
        Some(choices::of(self, self.tile, Wanted::new(&[self.gate, self.up], 1, self.rows)))
    }
}
