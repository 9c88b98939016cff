//! Activations: blocks of 32 int8 with an f32 scale and the exact sums of the two halves.
//!
//! Two planes: the quants, and 8 bytes of *meta* a block: the scale, then the sums of the first and last 16 quants as
//! s16 (each at most 16 · 127 in magnitude). Sums serve the mins of Q4_K and the offset of Q6_K.
//!
//! Kernels quantize what they produce themselves; these functions are what they agree with bit for bit, and what the
//! runtime uses for a vector that comes from the host.

/// Activations of a block.
pub const ACT_BLOCK: u32 = 32;

/// A quantized vector.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ActBlocks {
    /// One i8 an element.
    pub quants: Vec<i8>,
    /// One scale a block.
    pub scales: Vec<f32>,
    /// Sums of the two halves of a block.
    pub sums: Vec<[i16; 2]>,
}

/// Quantizes 32 values: `scale = max|x| / 127`, `q = round_even(x · (127 / max|x|))`, zero when all are zero.
///
/// A NaN makes the scale NaN, an infinity makes it infinite with zero quants: either reaches the logits as NaN.
pub fn quantize_block(x: &[f32]) -> ([i8; 32], f32) {
    let mut largest = 0.0f32;
    for v in x {
        largest = if largest.is_nan() || v.is_nan() { f32::NAN } else { largest.max(v.abs()) };
    }
    let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
    let mut quants = [0i8; 32];
    for (q, v) in quants.iter_mut().zip(x) {
        // `as` saturates and takes NaN to 0, as cvt.rni.s32.f32 does.
        *q = (v * inverse).round_ties_even() as i32 as i8;
    }
    (quants, largest / 127.0)
}

/// Quantizes a vector whose length is a multiple of 32.
pub fn quantize_row(x: &[f32]) -> ActBlocks {
    let mut blocks = ActBlocks::default();
    for chunk in x.chunks_exact(ACT_BLOCK as usize) {
        let (quants, scale) = quantize_block(chunk);
        let sum = |half: &[i8]| half.iter().map(|q| i16::from(*q)).sum();
        blocks.sums.push([sum(&quants[..16]), sum(&quants[16..])]);
        blocks.quants.extend_from_slice(&quants);
        blocks.scales.push(scale);
    }
    blocks
}

impl ActBlocks {
    /// The meta plane's bytes.
    pub fn meta_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.scales.len() * 8);
        for (scale, [low, high]) in self.scales.iter().zip(&self.sums) {
            bytes.extend_from_slice(&scale.to_le_bytes());
            bytes.extend_from_slice(&low.to_le_bytes());
            bytes.extend_from_slice(&high.to_le_bytes());
        }
        bytes
    }

    /// The quants plane's bytes.
    pub fn quant_bytes(&self) -> Vec<u8> {
        self.quants.iter().map(|q| *q as u8).collect()
    }

    /// The values the blocks stand for, in f64.
    pub fn values(&self) -> Vec<f64> {
        self.quants.iter().enumerate().map(|(i, q)| f64::from(*q) * f64::from(self.scales[i / 32])).collect()
    }
}
