//! What the block types have in common: their values, and their place in the packed form.

use super::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Matrix, Planes,
    SUB_BLOCK, SUPER_BLOCK, TILE_ROWS, put,
};
use ::plan::QType;

/// A block of quantized weights as GGML lays it out.
pub trait Block {
    /// Reads a block; anything but the block's length gives a zero block.
    fn from_bytes(bytes: &[u8]) -> Self
    where
        Self: bytemuck::Pod,
    {
        bytemuck::try_from_bytes(bytes).copied().unwrap_or(bytemuck::Zeroable::zeroed())
    }

    /// The weights by GGML's formula, each operation rounded once.
    fn dequantize(&self) -> Vec<f32>;

    /// For each weight, the sum of the magnitudes of the terms that kernels add up for it: what a bound on the error
    /// of a sum of products must count where parts of a weight are added up apart and may cancel.
    fn magnitudes(&self) -> Vec<f64> {
        self.dequantize().into_iter().map(|w| f64::from(w).abs()).collect()
    }

    /// Writes the block's bits to its place in a packed matrix.
    fn pack_into(&self, packed: &mut [u8], cell: Cell);
}

/// A block of a type from its bytes; `None` for the plain types, which have no blocks.
pub(super) fn read(qtype: QType, bytes: &[u8]) -> Option<Box<dyn Block>> {
    Some(match qtype {
        QType::Q4_0 => Box::new(BlockQ4_0::from_bytes(bytes)),
        QType::Q4_1 => Box::new(BlockQ4_1::from_bytes(bytes)),
        QType::Q5_0 => Box::new(BlockQ5_0::from_bytes(bytes)),
        QType::Q5_1 => Box::new(BlockQ5_1::from_bytes(bytes)),
        QType::Q8_0 => Box::new(BlockQ8_0::from_bytes(bytes)),
        QType::Q4K => Box::new(BlockQ4K::from_bytes(bytes)),
        QType::Q5K => Box::new(BlockQ5K::from_bytes(bytes)),
        QType::Q6K => Box::new(BlockQ6K::from_bytes(bytes)),
        QType::F16 | QType::Bf16 | QType::F32 => return None,
    })
}

/// Sets the f16 scales of a block of random bytes so that weights have about the deviation given and are centred.
pub(super) fn set_scale(qtype: QType, block: &mut [u8], deviation: f32) {
    // Where the scales are, what the quants times the sub-scales deviate by, and how many d a min is.
    let (at, spread, min) = match qtype {
        // Uniform quants of 2^n values: sqrt((4^n - 1) / 12).
        QType::Q8_0 => (0, 73.9, None),
        QType::Q4_0 => (0, 4.61, None),
        QType::Q4_1 => (0, 4.61, Some(-7.5)),
        QType::Q5_0 => (0, 9.23, None),
        QType::Q5_1 => (0, 9.23, Some(-15.5)),
        // sc q - 7.5 m with sc and m uniform over 0..63 (for Q4_K without the spread of m, as it always was).
        QType::Q4K => (0, 187.0, Some(7.5)),
        QType::Q5K => (0, 527.0, Some(15.5)),
        // sc (q - 32) with sc an i8.
        QType::Q6K => (208, 1366.0, None),
        QType::F16 | QType::Bf16 | QType::F32 => return,
    };
    let d = deviation / spread;
    put(block, at, &ptx::sem::f32_to_f16(d).to_le_bytes());
    if let Some(min) = min {
        put(block, at + 2, &ptx::sem::f32_to_f16(d * min).to_le_bytes());
    }
}

/// The fifth bits of 32 quants as a lane reads them: bit `8 b + g` belongs to weight `4 g + b`, bit `8 b + 4 + g` to
/// weight `16 + 4 g + b`, so that one shift and one mask line them up with group `g` of four quants.
pub(super) fn fifth_bits(quant: impl Fn(usize) -> u8) -> [u8; 4] {
    std::array::from_fn(|b| (0..8).fold(0, |byte, g| byte | (quant(4 * g + b) >> 4 & 1) << g))
}

/// One block's place in a packed matrix.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    planes: Planes,
    sizes: Planes,
    cell: u64,
    row: u64,
    first_sub: usize,
}

impl Cell {
    /// The place of the block that starts at a row and column.
    pub(super) fn new(m: &Matrix, row: u64, first_col: u64) -> Cell {
        let tile = row / u64::from(TILE_ROWS);
        let cell = tile * u64::from(m.n_super_blocks()) + first_col / u64::from(SUPER_BLOCK);
        let first_sub = (first_col % u64::from(SUPER_BLOCK) / u64::from(SUB_BLOCK)) as usize;
        Cell { planes: m.planes(), sizes: m.cell_bytes(), cell, row: row % u64::from(TILE_ROWS), first_sub }
    }

    /// A byte of what sub-block `j` of the block has in a plane that gives every lane `unit` bytes.
    fn of_lane(&self, plane: (u64, u64), j: usize, unit: u64) -> usize {
        let lane = self.row * 8 + (self.first_sub + j) as u64;
        (plane.0 + self.cell * plane.1 + lane * unit) as usize
    }

    fn of_row(&self, plane: (u64, u64), unit: u64) -> usize {
        (plane.0 + self.cell * plane.1 + self.row * unit) as usize
    }

    /// The 16 bytes of low quants of sub-block `j`; Q8_0's second half is 512 bytes further on.
    pub(super) fn quants(&self, j: usize) -> usize {
        self.of_lane((self.planes.quants, self.sizes.quants), j, 16)
    }

    /// The high bits of sub-block `j`.
    pub(super) fn high(&self, j: usize) -> usize {
        self.of_lane((self.planes.high, self.sizes.high), j, self.sizes.high / 32)
    }

    /// The row's 16 bytes in the plane of scales, in types with 256 weights a block.
    pub(super) fn header(&self) -> usize {
        self.of_row((self.planes.scales, self.sizes.scales), 16)
    }

    /// The d and m of a block of 32.
    pub(super) fn d_and_m(&self) -> usize {
        self.of_lane((self.planes.scales, self.sizes.scales), 0, 4)
    }

    /// The row's d.
    pub(super) fn d_of_row(&self) -> usize {
        self.of_row((self.planes.d, self.sizes.d), 2)
    }

    /// The d of a block of 32.
    pub(super) fn d(&self) -> usize {
        self.of_lane((self.planes.d, self.sizes.d), 0, 2)
    }
}
