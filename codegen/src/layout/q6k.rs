//! Q6_K: 256 weights in 210 bytes; 16 groups of 16 with i8 scales. `w = d·sc·(q − 32)`.

use super::{Block, Cell, f16_at, put};

/// GGML's `block_q6_K`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// Low 4 bits.
    pub ql: [u8; 128],
    /// High 2 bits.
    pub qh: [u8; 64],
    /// i8 scale of each 16 weights.
    pub scales: [u8; 16],
    /// f16 scale of the scales.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<BlockQ6K>() == 210 && plan::QType::Q6K.block_bytes() == 210);

impl BlockQ6K {
    /// The 6-bit quant (0 to 63, offset 32) of weight `i` of sub-block `j`. In each half of 128 weights, sub-block `k`
    /// takes its low bits from bytes `32 (k mod 2) + i`, nibble `k / 2`, and its high bits from byte `i`, bits `2k`.
    pub fn quant(&self, j: usize, i: usize) -> u8 {
        let (half, k) = (j / 4, j % 4);
        let low = self.ql[64 * half + 32 * (k % 2) + i] >> (k / 2 * 4) & 15;
        let high = self.qh[32 * half + i] >> (2 * k) & 3;
        low | high << 4
    }

    /// The scale of the 16 weights that weight `i` of sub-block `j` is in.
    pub fn scale(&self, j: usize, i: usize) -> i8 {
        self.scales[2 * j + i / 16] as i8
    }
}

impl Block for BlockQ6K {
    fn dequantize(&self) -> Vec<f32> {
        let d = f16_at(self.d);
        (0..256)
            .map(|e| {
                let (j, i) = (e / 32, e % 32);
                d * f32::from(self.scale(j, i)) * f32::from(self.quant(j, i) as i8 - 32)
            })
            .collect()
    }

    /// Low bits as in Q4_K. The two high words serve weights 0..16 and 16..32: bits `2g` of byte `b` belong to weight
    /// `4g + b`, so one shift and one mask line them up with group `g` of four quants.
    fn pack_into(&self, packed: &mut [u8], cell: Cell) {
        for j in 0..8 {
            let quants: [u8; 16] =
                std::array::from_fn(|i| self.quant(j, i) & 15 | (self.quant(j, i + 16) & 15) << 4);
            put(packed, cell.quants(j), &quants);
            for half in 0..2 {
                let mut word = [0u8; 4];
                for (b, byte) in word.iter_mut().enumerate() {
                    *byte =
                        (0..4).fold(0, |bits, g| bits | self.quant(j, 16 * half + 4 * g + b) >> 4 << (2 * g));
                }
                put(packed, cell.high(j) + 4 * half, &word);
            }
            put(packed, cell.header() + 2 * j, &self.scales[2 * j..2 * j + 2]);
        }
        put(packed, cell.d_of_row(), &self.d);
    }
}
