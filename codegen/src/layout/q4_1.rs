//! Q4_1: 32 weights in 20 bytes. `w = d·q + m`.

use super::{Block, Cell, f16_at, put};

/// GGML's `block_q4_1`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// f16 scale.
    pub d: [u8; 2],
    /// f16 value of quant 0.
    pub m: [u8; 2],
    /// Nibbles: byte `i` holds weight `i` low and `i + 16` high.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20 && plan::QType::Q4_1.block_bytes() == 20);

impl BlockQ4_1 {
    /// The quant of weight `i`, 0 to 15.
    pub fn quant(&self, i: usize) -> u8 {
        self.qs[i % 16] >> (i / 16 * 4) & 15
    }
}

impl Block for BlockQ4_1 {
    fn dequantize(&self) -> Vec<f32> {
        let (d, m) = (f16_at(self.d), f16_at(self.m));
        (0..32).map(|i| d * f32::from(self.quant(i)) + m).collect()
    }

    /// `|d·q| + |m|` of each weight.
    fn magnitudes(&self) -> Vec<f64> {
        let (d, m) = (f64::from(f16_at(self.d)), f64::from(f16_at(self.m)));
        (0..32).map(|i| (d * f64::from(self.quant(i))).abs() + m.abs()).collect()
    }

    /// The nibbles of the file are in the order that lanes read.
    fn pack_into(&self, packed: &mut [u8], cell: Cell) {
        put(packed, cell.quants(0), &self.qs);
        put(packed, cell.d_and_m(), &self.d);
        put(packed, cell.d_and_m() + 2, &self.m);
    }
}
