//! Block layouts: GGML's in files, ours on the device, and the plain-Rust functions that lead from one to the other.
//!
//! On the device a quantized matrix is cut into *tiles* of 4 rows by one super-block of 256 columns. A warp reads a
//! tile at once: lane `8 r + j` owns sub-block `j` (32 weights) of row `r`, and finds its quants in one 16-byte word at
//! `(tile * n_super_blocks + super_block) * 512 + lane * 16` (Q8_0: two words, 512 bytes apart, in cells of 1024).
//! High bits and scales lie in planes of their own behind the quants; [`Matrix::cell_bytes`] says how much of each
//! plane a tile takes. Rows are padded to a multiple of 4 and columns to a multiple of 256 with zeros.
//!
//! F16, BF16 and F32 matrices stay as they are in the file: rows one behind the other, no padding, no re-packing.
//!
//! The functions here are references: kernels must agree with them bit for bit.

mod block;
mod plain;
mod q4_0;
mod q4_1;
mod q4k;
mod q5_0;
mod q5_1;
mod q5k;
mod q6k;
mod q8_0;
#[cfg(test)]
mod tests;

pub use ::plan::{ActBlocks, quantize_block, quantize_row};
pub use block::{Block, Cell};
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4k::BlockQ4K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5k::BlockQ5K;
pub use q6k::BlockQ6K;
pub use q8_0::BlockQ8_0;

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
    /// Element type.
    pub qtype: QType,
    /// Output features.
    pub rows: u32,
    /// Input features; a multiple of 32 and of the type's block.
    pub cols: u32,
}

/// What the planes of a packed matrix hold; all values are bytes. As offsets ([`Matrix::planes`]) they say where a
/// plane starts, as sizes ([`Matrix::cell_bytes`]) how much of it a tile takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Low 4 bits, 16 bytes a lane; Q8_0: 32 bytes a lane.
    pub quants: u64,
    /// Q6_K: high 2 bits, 8 bytes a lane. Q5_K, Q5_0, Q5_1: the fifth bits, 4 bytes a lane.
    pub high: u64,
    /// Q4_K, Q5_K: headers of 16 bytes a row (d, dmin, bit-sliced scales and mins). Q6_K: a pair of i8 scales a lane.
    /// Q4_1, Q5_1: f16 d and m, 4 bytes a lane.
    pub scales: u64,
    /// f16 d. Q6_K: 2 bytes a row. Q8_0, Q4_0, Q5_0: 2 bytes a lane.
    pub d: u64,
    /// All of it.
    pub bytes: u64,
}

impl Planes {
    const fn of_sizes(quants: u64, high: u64, scales: u64, d: u64) -> Planes {
        Planes { quants, high, scales, d, bytes: quants + high + scales + d }
    }
}

impl Matrix {
    /// Tiles in the direction of rows.
    pub const fn n_tiles(&self) -> u32 {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Super-blocks in a row; the last one may be cut short.
    pub const fn n_super_blocks(&self) -> u32 {
        self.cols.div_ceil(SUPER_BLOCK)
    }

    /// Sub-blocks of the last super-block when it is cut short, else 0.
    pub const fn tail_sub_blocks(&self) -> u32 {
        self.cols % SUPER_BLOCK / SUB_BLOCK
    }

    /// Tiles in both directions.
    pub const fn n_cells(&self) -> u64 {
        self.n_tiles() as u64 * self.n_super_blocks() as u64
    }

    /// Bytes of one tile in each plane: for a lane, the way from one super-block to the next. A plain type has one
    /// plane, in which that way is 256 elements of the row.
    pub const fn cell_bytes(&self) -> Planes {
        match self.qtype {
            QType::Q4K => Planes::of_sizes(512, 0, 64, 0),
            QType::Q5K => Planes::of_sizes(512, 128, 64, 0),
            QType::Q6K => Planes::of_sizes(512, 256, 64, 8),
            QType::Q8_0 => Planes::of_sizes(1024, 0, 0, 64),
            QType::Q4_0 => Planes::of_sizes(512, 0, 0, 64),
            QType::Q4_1 => Planes::of_sizes(512, 0, 128, 0),
            QType::Q5_0 => Planes::of_sizes(512, 128, 0, 64),
            QType::Q5_1 => Planes::of_sizes(512, 128, 128, 0),
            QType::F16 | QType::Bf16 | QType::F32 => {
                Planes::of_sizes(self.qtype.row_bytes(SUPER_BLOCK), 0, 0, 0)
            }
        }
    }

    /// Where the planes of the form on the device start, and its size.
    pub const fn planes(&self) -> Planes {
        if self.qtype.is_plain() {
            let bytes = self.raw_bytes();
            return Planes { quants: 0, high: bytes, scales: bytes, d: bytes, bytes };
        }
        let (n, of) = (self.n_cells(), self.cell_bytes());
        let (high, scales, d) = (of.quants, of.quants + of.high, of.quants + of.high + of.scales);
        Planes { quants: 0, high: n * high, scales: n * scales, d: n * d, bytes: n * of.bytes }
    }

    /// Bytes in the file.
    pub const fn raw_bytes(&self) -> u64 {
        self.rows as u64 * self.qtype.row_bytes(self.cols)
    }

    /// The form on the device of a whole matrix from the file's bytes; rows and columns that do not exist are zero.
    pub fn pack(&self, raw: &[u8]) -> Vec<u8> {
        if self.qtype.is_plain() {
            return raw.to_vec();
        }
        let mut packed = vec![0; self.planes().bytes as usize];
        let blocks_per_row = u64::from(self.cols / self.qtype.block_elems());
        for (i, bytes) in (0u64..).zip(raw.chunks_exact(self.qtype.block_bytes() as usize)) {
            let first_col = i % blocks_per_row * u64::from(self.qtype.block_elems());
            let cell = Cell::new(self, i / blocks_per_row, first_col);
            if let Some(block) = block::read(self.qtype, bytes) {
                block.pack_into(&mut packed, cell);
            }
        }
        packed
    }

    /// All weights as GGML's formula gives them, row by row.
    pub fn dequantize(&self, raw: &[u8]) -> Vec<f32> {
        if self.qtype.is_plain() {
            return plain::decode(self.qtype, raw);
        }
        self.blocks(raw).flat_map(|block| block.dequantize()).collect()
    }

    /// For each weight, the sum of the magnitudes of the terms that kernels add up for it.
    pub fn magnitudes(&self, raw: &[u8]) -> Vec<f64> {
        if self.qtype.is_plain() {
            return plain::decode(self.qtype, raw).into_iter().map(|w| f64::from(w).abs()).collect();
        }
        self.blocks(raw).flat_map(|block| block.magnitudes()).collect()
    }

    fn blocks(&self, raw: &[u8]) -> impl Iterator<Item = Box<dyn Block>> {
        raw.chunks_exact(self.qtype.block_bytes() as usize).filter_map(|bytes| block::read(self.qtype, bytes))
    }

    /// Random bytes of this matrix as a file would hold them: every quant and sub-scale drawn uniformly, block
    /// scales such that weights have a deviation of about `1 / sqrt(cols)`; plain weights are normal.
    pub fn random(&self, rng: &mut crate::rng::Rng) -> Vec<u8> {
        let deviation = 1.0 / (self.cols as f32).sqrt();
        if self.qtype.is_plain() {
            let n = u64::from(self.rows) * u64::from(self.cols);
            return (0..n).flat_map(|_| plain::encode(self.qtype, rng.normal() * deviation)).collect();
        }
        let mut raw = vec![0; self.raw_bytes() as usize];
        rng.fill(&mut raw);
        for bytes in raw.chunks_exact_mut(self.qtype.block_bytes() as usize) {
            block::set_scale(self.qtype, bytes, deviation);
        }
        raw
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
