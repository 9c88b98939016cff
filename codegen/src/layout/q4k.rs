//! Q4_K: 256 weights in 144 bytes; 8 sub-blocks of 32 with 6-bit scales and mins. `w = d·sc·q − dmin·m`.

use super::{Block, Cell, f16_at, put};

/// GGML's `block_q4_K`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// f16 scale of the scales.
    pub d: [u8; 2],
    /// f16 scale of the mins.
    pub dmin: [u8; 2],
    /// 8 scales and 8 mins of 6 bits.
    pub scales: [u8; 12],
    /// Nibbles: chunk `c` of 32 bytes holds sub-block `2c` low and `2c + 1` high.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144 && plan::QType::Q4K.block_bytes() == 144);

impl BlockQ4K {
    /// Scale and min of sub-block `j`, 6 bits each.
    pub fn scale_min(&self, j: usize) -> (u8, u8) {
        scale_min(&self.scales, j)
    }

    /// The 4-bit quant of weight `i` of sub-block `j`.
    pub fn quant(&self, j: usize, i: usize) -> u8 {
        self.qs[j / 2 * 32 + i] >> (j % 2 * 4) & 15
    }
}

impl Block for BlockQ4K {
    fn dequantize(&self) -> Vec<f32> {
        let (d, dmin) = (f16_at(self.d), f16_at(self.dmin));
        (0..256)
            .map(|e| {
                let (sc, m) = self.scale_min(e / 32);
                d * f32::from(sc) * f32::from(self.quant(e / 32, e % 32)) - dmin * f32::from(m)
            })
            .collect()
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

    /// Byte `i` of a lane's 16 holds weight `i` low and `i + 16` high.
    fn pack_into(&self, packed: &mut [u8], cell: Cell) {
        for j in 0..8 {
            let quants: [u8; 16] = std::array::from_fn(|i| self.quant(j, i) | self.quant(j, i + 16) << 4);
            put(packed, cell.quants(j), &quants);
        }
        put(packed, cell.header(), &header(self.d, self.dmin, |j| self.scale_min(j)));
    }
}

/// The 16 bytes of a row's scales and mins, for Q4_K and Q5_K. Word 0 is `d | dmin << 16`; nibble `j` of words 1 and 2
/// is the low nibble of scale and min `j`, of word 3 their high pairs (scale low).
pub(super) fn header(d: [u8; 2], dmin: [u8; 2], scale_min: impl Fn(usize) -> (u8, u8)) -> [u8; 16] {
    let mut words = [0u32; 4];
    words[0] = u32::from(u16::from_le_bytes(d)) | u32::from(u16::from_le_bytes(dmin)) << 16;
    for j in 0..8 {
        let (sc, m) = scale_min(j);
        words[1] |= u32::from(sc & 15) << (4 * j);
        words[2] |= u32::from(m & 15) << (4 * j);
        words[3] |= u32::from(sc >> 4 | m >> 4 << 2) << (4 * j);
    }
    let mut bytes = [0; 16];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Scale and min of sub-block `j` from the 12 bytes that Q4_K and Q5_K keep them in, 6 bits each.
pub(super) fn scale_min(s: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    }
}
