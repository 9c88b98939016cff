//! Quantization of attention's outputs where a head is no whole number of activation blocks.

use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::gemv::act_bytes;
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::rows::{Control, for_row};
use crate::kernels::{quantize, reference};
use crate::rng::Rng;

/// Threads of a CTA: a warp a block.
const THREADS: u32 = 128;

/// The first elements of each row, quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizeRows {
    /// Elements that are quantized: a multiple of 32.
    pub dim: u32,
    /// Elements from a row to the next.
    pub stride: u32,
    /// Rows of the step.
    pub rows: u32,
}

/// quants, meta = quantize(x)
/// shapes   control as in the plan · x (row, stride) f32 · quants (row, dim) i8 · meta (row, dim / 32)
/// layout   a thread an element, a warp a block
/// launch   grid (dim / 128, rows), block 128, shared 0
/// source   blocks as in GGML's q8_1, with the sums of both halves
#[kernel(grid = (s.dim.div_ceil(THREADS), s.rows), block = THREADS)]
pub fn quantize_rows(s: &QuantizeRows, control: In<u32>, x: In<f32>, quants: Out<u8>, meta: Out<u32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let block = block_idx_x() * (THREADS / 32) + warp_id();
        if block < s.dim / 32 {
            let x = here.of(x, s.stride).at(block * 32 + lane_id()).load();
            quantize::store_lane(x, block, here.of(quants, s.dim), here.of(meta, s.dim / 16));
        }
    });
}

impl Operation for QuantizeRows {
    fn name(&self) -> &'static str {
        "quantize_rows"
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        quantize_rows(self)
    }

    fn cost(&self) -> Cost {
        let rows = u64::from(self.rows);
        let bytes = rows * (u64::from(self.dim) * 4 + act_bytes(self.dim));
        Cost { bytes, macs: rows * u64::from(self.dim) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let control = Control::random(&mut rng, self.rows);
        let x = reference::random_activations(&mut rng, self.rows * self.stride);
        let rows = x.chunks(self.stride as usize).take(control.active as usize);
        let values: Vec<(f64, f64)> =
            rows.flat_map(|row| row[..self.dim as usize].iter().map(|v| (f64::from(*v), 0.0))).collect();
        let (quants, meta) = quantize::expect(&values);
        let elements = u64::from(self.rows * self.dim);
        Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&x))
            .output(elements, quants)
            .output(elements / 4, meta)
    }
}
