//! Q5_0: 32 weights in 22 bytes. `w = d·(q − 16)`.

use super::block::fifth_bits;
use super::{Block, Cell, f16_at, put};

/// GGML's `block_q5_0`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// f16 scale.
    pub d: [u8; 2],
    /// Fifth bits: bit `i` belongs to weight `i`.
    pub qh: [u8; 4],
    /// Nibbles: byte `i` holds weight `i` low and `i + 16` high.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22 && plan::QType::Q5_0.block_bytes() == 22);

impl BlockQ5_0 {
    /// The quant of weight `i`, 0 to 31, offset 16.
    pub fn quant(&self, i: usize) -> u8 {
        self.qs[i % 16] >> (i / 16 * 4) & 15 | (self.qh[i / 8] >> (i % 8) & 1) << 4
    }
}

impl Block for BlockQ5_0 {
    fn dequantize(&self) -> Vec<f32> {
        let d = f16_at(self.d);
        (0..32).map(|i| d * f32::from(self.quant(i) as i8 - 16)).collect()
    }

    /// The nibbles of the file are in the order that lanes read.
    fn pack_into(&self, packed: &mut [u8], cell: Cell) {
        put(packed, cell.quants(0), &self.qs);
        put(packed, cell.high(0), &fifth_bits(|i| self.quant(i)));
        put(packed, cell.d(), &self.d);
    }
}
