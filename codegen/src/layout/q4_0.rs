//! Q4_0: 32 weights in 18 bytes. `w = d·(q − 8)`.

use super::{Block, Cell, f16_at, put};

/// GGML's `block_q4_0`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// f16 scale.
    pub d: [u8; 2],
    /// Nibbles: byte `i` holds weight `i` low and `i + 16` high.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18 && plan::QType::Q4_0.block_bytes() == 18);

impl BlockQ4_0 {
    /// The quant of weight `i`, 0 to 15, offset 8.
    pub fn quant(&self, i: usize) -> u8 {
        self.qs[i % 16] >> (i / 16 * 4) & 15
    }
}

impl Block for BlockQ4_0 {
    fn dequantize(&self) -> Vec<f32> {
        let d = f16_at(self.d);
        (0..32).map(|i| d * f32::from(self.quant(i) as i8 - 8)).collect()
    }

    /// The nibbles of the file are in the order that lanes read.
    fn pack_into(&self, packed: &mut [u8], cell: Cell) {
        put(packed, cell.quants(0), &self.qs);
        put(packed, cell.d(), &self.d);
    }
}
