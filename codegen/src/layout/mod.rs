//! Block layouts: GGML's in files, ours on the device, and the plain-Rust functions that lead from one to the other.
//!
//! On the device a matrix is cut into *tiles* of 4 rows by one super-block of 256 columns. A warp reads a tile at
//! once: lane `8 r + j` owns sub-block `j` (32 weights) of row `r`, and finds its quants in one 16-byte word at
//! `(tile * n_super_blocks + super_block) * 512 + lane * 16`. Scales lie in planes of their own behind the quants.
//! Rows are padded to a multiple of 4 with zero weights.
//!
//! The functions here are references: kernels must agree with them bit for bit.

mod act;
mod q4k;
mod q6k;
#[cfg(test)]
mod tests;

pub use act::{ActBlocks, quantize_block, quantize_row};
pub use q4k::BlockQ4K;
pub use q6k::BlockQ6K;

use ::plan::QType;

/// Rows of a tile.
pub const TILE_ROWS: u32 = 4;
/// Columns of a super-block.
pub const SUPER_BLOCK: u32 = 256;
/// Sub-blocks of a super-block: lanes of a row.
pub const SUB_BLOCKS: u32 = 8;
/// Weights of a sub-block, and activations of a block.
pub const SUB_BLOCK: u32 = 32;

/// A matrix of one type; rows are output features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Element type: Q4_K or Q6_K.
    pub qtype: QType,
    /// Output features.
    pub rows: u32,
    /// Input features; a multiple of 256.
    pub cols: u32,
}

/// Byte offsets of the planes of a packed matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Low 4 bits: 512 bytes a tile.
    pub quants: u64,
    /// Q6_K: high 2 bits, 256 bytes a tile.
    pub high: u64,
    /// Q4_K: 16-byte headers (d, dmin, bit-sliced scales and mins), 64 bytes a tile. Q6_K: pairs of i8 scales, 64 bytes a tile.
    pub scales: u64,
    /// Q6_K: f16 d, 8 bytes a tile.
    pub d: u64,
    /// All of it.
    pub bytes: u64,
}

impl Matrix {
    /// Tiles in the direction of rows.
    pub const fn n_tiles(&self) -> u32 {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Super-blocks in a row.
    pub const fn n_super_blocks(&self) -> u32 {
        self.cols / SUPER_BLOCK
    }

    /// Tiles in both directions.
    pub const fn n_cells(&self) -> u64 {
        self.n_tiles() as u64 * self.n_super_blocks() as u64
    }

    /// Where the planes of the packed form start.
    pub const fn planes(&self) -> Planes {
        let n = self.n_cells();
        match self.qtype {
            QType::Q6K => Planes { quants: 0, high: n * 512, scales: n * 768, d: n * 832, bytes: n * 840 },
            _ => Planes { quants: 0, high: n * 512, scales: n * 512, d: n * 576, bytes: n * 576 },
        }
    }

    /// Bytes in the file.
    pub const fn raw_bytes(&self) -> u64 {
        self.rows as u64 * self.qtype.row_bytes(self.cols)
    }

    /// The packed form of a whole matrix from the file's bytes; rows that do not exist are zero.
    pub fn pack(&self, raw: &[u8]) -> Vec<u8> {
        let mut packed = vec![0; self.planes().bytes as usize];
        let block_bytes = self.qtype.block_bytes() as usize;
        for (i, block) in raw.chunks_exact(block_bytes).enumerate() {
            let (row, super_block) =
                (i as u64 / u64::from(self.n_super_blocks()), i as u64 % u64::from(self.n_super_blocks()));
            let cell = row / u64::from(TILE_ROWS) * u64::from(self.n_super_blocks()) + super_block;
            let place = Cell { planes: self.planes(), cell, row: row % u64::from(TILE_ROWS) };
            match self.qtype {
                QType::Q6K => BlockQ6K::from_bytes(block).pack_into(&mut packed, place),
                _ => BlockQ4K::from_bytes(block).pack_into(&mut packed, place),
            }
        }
        packed
    }

    /// All weights as GGML's formula gives them, row by row.
    pub fn dequantize(&self, raw: &[u8]) -> Vec<f32> {
        raw.chunks_exact(self.qtype.block_bytes() as usize)
            .flat_map(|block| match self.qtype {
                QType::Q6K => BlockQ6K::from_bytes(block).dequantize(),
                _ => BlockQ4K::from_bytes(block).dequantize(),
            })
            .collect()
    }

    /// For each weight, the sum of the magnitudes of the terms that kernels add up for it.
    pub fn magnitudes(&self, raw: &[u8]) -> Vec<f64> {
        match self.qtype {
            QType::Q6K => self.dequantize(raw).into_iter().map(|w| f64::from(w).abs()).collect(),
            _ => raw.chunks_exact(144).flat_map(|block| BlockQ4K::from_bytes(block).magnitudes()).collect(),
        }
    }

    /// Random bytes of this matrix as a file would hold them: every quant and sub-scale drawn uniformly, block
    /// scales such that weights have a deviation of about `1 / sqrt(cols)`.
    pub fn random(&self, rng: &mut crate::rng::Rng) -> Vec<u8> {
        let mut raw = vec![0; self.raw_bytes() as usize];
        rng.fill(&mut raw);
        let deviation = 1.0 / (self.cols as f32).sqrt();
        for block in raw.chunks_exact_mut(self.qtype.block_bytes() as usize) {
            match self.qtype {
                QType::Q6K => q6k::set_scale(block, deviation),
                _ => q4k::set_scale(block, deviation),
            }
        }
        raw
    }
}

/// One super-block's place in a packed matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    planes: Planes,
    cell: u64,
    row: u64,
}

impl Cell {
    /// The 16 bytes of low quants of sub-block `j`.
    fn quants(self, j: usize) -> usize {
        (self.planes.quants + self.cell * 512 + (self.row * 8 + j as u64) * 16) as usize
    }

    fn high(self, j: usize) -> usize {
        (self.planes.high + self.cell * 256 + (self.row * 8 + j as u64) * 8) as usize
    }

    fn header(self) -> usize {
        (self.planes.scales + self.cell * 64 + self.row * 16) as usize
    }

    fn d(self) -> usize {
        (self.planes.d + self.cell * 8 + self.row * 2) as usize
    }
}

pub(crate) fn put(packed: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = packed.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

pub(crate) fn f16_at(bytes: [u8; 2]) -> f32 {
    ptx::sem::f16_to_f32(u16::from_le_bytes(bytes))
}
