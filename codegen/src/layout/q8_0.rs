//! Q8_0: 32 weights in 34 bytes. `w = d·q`.

use super::{Block, Cell, f16_at, put};

/// GGML's `block_q8_0`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// f16 scale.
    pub d: [u8; 2],
    /// i8 quants, -128 to 127.
    pub qs: [u8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34 && plan::QType::Q8_0.block_bytes() == 34);

impl BlockQ8_0 {
    /// The quant of weight `i`.
    pub fn quant(&self, i: usize) -> i8 {
        self.qs[i] as i8
    }
}

impl Block for BlockQ8_0 {
    fn dequantize(&self) -> Vec<f32> {
        let d = f16_at(self.d);
        (0..32).map(|i| d * f32::from(self.quant(i))).collect()
    }

    /// Two words of 16 quants, 512 bytes apart: the warp's loads of each are contiguous.
    fn pack_into(&self, packed: &mut [u8], cell: Cell) {
        put(packed, cell.quants(0), &self.qs[..16]);
        put(packed, cell.quants(0) + 512, &self.qs[16..]);
        put(packed, cell.d(), &self.d);
    }
}
