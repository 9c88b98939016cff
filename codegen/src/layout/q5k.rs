//! Q5_K: 256 weights in 176 bytes; Q4_K with a fifth bit. `w = d·sc·q − dmin·m`.

use super::block::fifth_bits;
use super::q4k::{header, scale_min};
use super::{Block, Cell, f16_at, put};

/// GGML's `block_q5_K`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// f16 scale of the scales.
    pub d: [u8; 2],
    /// f16 scale of the mins.
    pub dmin: [u8; 2],
    /// 8 scales and 8 mins of 6 bits, as in Q4_K.
    pub scales: [u8; 12],
    /// Fifth bits: bit `j` of byte `i` belongs to weight `i` of sub-block `j`.
    pub qh: [u8; 32],
    /// Nibbles: chunk `c` of 32 bytes holds sub-block `2c` low and `2c + 1` high.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ5K>() == 176 && plan::QType::Q5K.block_bytes() == 176);

impl BlockQ5K {
    /// Scale and min of sub-block `j`, 6 bits each.
    pub fn scale_min(&self, j: usize) -> (u8, u8) {
        scale_min(&self.scales, j)
    }

    /// The 5-bit quant of weight `i` of sub-block `j`.
    pub fn quant(&self, j: usize, i: usize) -> u8 {
        self.qs[j / 2 * 32 + i] >> (j % 2 * 4) & 15 | (self.qh[i] >> j & 1) << 4
    }
}

impl Block for BlockQ5K {
    fn dequantize(&self) -> Vec<f32> {
        let (d, dmin) = (f16_at(self.d), f16_at(self.dmin));
        let of = |e: usize| {
            let (sc, m) = self.scale_min(e / 32);
            d * f32::from(sc) * f32::from(self.quant(e / 32, e % 32)) - dmin * f32::from(m)
        };
        (0..256).map(of).collect()
    }

    /// `|d·sc·q| + |dmin·m|` of each weight.
    fn magnitudes(&self) -> Vec<f64> {
        let (d, dmin) = (f64::from(f16_at(self.d)), f64::from(f16_at(self.dmin)));
        let of = |e: usize| {
            let (sc, m) = self.scale_min(e / 32);
            (d * f64::from(sc) * f64::from(self.quant(e / 32, e % 32))).abs() + (dmin * f64::from(m)).abs()
        };
        (0..256).map(of).collect()
    }

    /// Low bits and header as in Q4_K.
    fn pack_into(&self, packed: &mut [u8], cell: Cell) {
        for j in 0..8 {
            let quants: [u8; 16] =
                std::array::from_fn(|i| self.quant(j, i) & 15 | (self.quant(j, i + 16) & 15) << 4);
            put(packed, cell.quants(j), &quants);
            put(packed, cell.high(j), &fifth_bits(|i| self.quant(j, i)));
        }
        put(packed, cell.header(), &header(self.d, self.dmin, |j| self.scale_min(j)));
    }
}
