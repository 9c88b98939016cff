//! RMSNorm with the quantization of its result: one vector in, int8 blocks out, shared by all matrices that follow.

use super::exact::{self, Acts, Exact};
use super::gemv::{Staged, act_bytes};
use super::operation::{Cost, Operation, Trial};
use super::rows::{Control, for_row};
use super::{quantize, reference};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;

/// A norm of a vector of `dim` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Elements; a multiple of 128.
    pub dim: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Rows of the step.
    pub rows: u32,
}

/// Shared memory that a staged vector may take with its norm, bytes.
const STAGED_BYTES: u32 = 44 * 1024;
/// Quads of a chunk: a warp sums one at a time. The sum of squares is that of the chunks', whoever computes them.
const CHUNK: u32 = 32;

impl Norm {
    /// Whether the matrix kernels that follow can norm their vector themselves, a launch less, though each CTA does it again:
    /// their shared memory holds the vector and the norm's weights besides a little else.
    pub fn joins_matrices(&self) -> bool {
        Staged::bytes(self.dim) + 4 * self.dim + 4 * self.chunks() <= STAGED_BYTES
    }

    const fn quads(&self) -> u32 {
        self.dim / 4
    }

    const fn chunks(&self) -> u32 {
        self.quads() / CHUNK
    }

    /// Threads of a CTA of its own: one a quad, at most 1024.
    pub fn threads(&self) -> u32 {
        self.quads().min(1024)
    }

    /// Quads of a thread in a CTA of `n_warps`.
    pub(super) const fn turns(&self, n_warps: u32) -> u32 {
        self.chunks().div_ceil(n_warps)
    }
}

/// q, a = quantize(x / √(Σ x² / dim + eps) · weight)
/// shapes   control as in the plan · x (row, dim), weight (dim) f32 · quants (row, dim) i8 as words of 4 · meta (row, dim / 32) of (f32 scale, two s16 sums)
/// layout   a thread owns 4 neighbours, 8 lanes a block of 32
/// launch   grid rows, block dim / 4 up to 1024, shared 4 bytes a chunk of 128 elements
/// source   Zhang and Sennrich 2019; order of the sum: docs/numerics.md
#[kernel(grid = s.rows, block = s.threads())]
pub fn norm_quantize(
    s: &Norm,
    control: In<u32>,
    x: In<f32>,
    weight: Fixed<f32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    for_row(s.rows, block_idx_x(), control, |here| {
        let x = here.of(x, s.dim);
        let values = quads_of(s, x, s.threads() / 32);
        let scale = scale_of(s, &values, s.threads() / 32);
        let (quants, meta) = (here.of(quants, s.dim / 4), here.of(meta, s.dim / 16));
        for_quads(s, s.threads() / 32, |turn, place| {
            let w = weight.at(place * 4).load_x4();
            quantize::store_quad(normed(values[turn], scale, w), place, quants, meta);
        });
    });
}

/// y = x / √(Σ x² / dim + eps) · weight
/// shapes   control as in the plan · x (row, dim), weight (dim), y (row, dim) f32
/// layout   as norm_quantize
/// launch   as norm_quantize
/// source   as norm_quantize
#[kernel(grid = s.rows, block = s.threads())]
pub fn norm_exact(s: &Norm, control: In<u32>, x: In<f32>, weight: Fixed<f32>, y: Out<f32>) {
    for_row(s.rows, block_idx_x(), control, |here| {
        let x = here.of(x, s.dim);
        let values = quads_of(s, x, s.threads() / 32);
        let scale = scale_of(s, &values, s.threads() / 32);
        let y = here.of(y, s.dim);
        for_quads(s, s.threads() / 32, |turn, place| {
            let w = weight.at(place * 4).load_x4();
            y.at(place * 4).store_x4(normed(values[turn], scale, w));
        });
    });
}

/// Does `body` for each quad of the thread in a CTA of `n_warps`: the turn, and the quad's index in the row. All lanes of a
/// warp have one or none has.
#[device]
pub(super) fn for_quads(s: &Norm, n_warps: u32, body: impl Fn(usize, V<u32>)) {
    for turn in unroll(0..s.turns(n_warps)) {
        let place = thread_idx_x() + turn * n_warps * 32;
        if (turn + 1) * n_warps <= s.chunks() {
            body(turn as usize, place);
        } else {
            if place < s.quads() {
                body(turn as usize, place);
            }
        }
    }
}

/// The quads of a thread in a CTA of `n_warps`.
#[device]
pub(super) fn quads_of<K: Readable>(s: &Norm, x: Ptr<f32, K>, n_warps: u32) -> Vec<[V<f32>; 4]> {
    let mut values = Vec::new();
    for turn in unroll(0..s.turns(n_warps)) {
        let place = thread_idx_x() + turn * n_warps * 32;
        let place = if (turn + 1) * n_warps <= s.chunks() { place } else { min(place, s.quads() - 1) };
        values.push(x.at(place * 4).load_x4());
    }
    values
}

/// What a row is multiplied by, from the quads of a CTA's threads. A chunk's squares are added along each lane's quad, then over
/// the lanes as a tree; lane `i` of a warp adds chunks i, i + 32, …; then the lanes again.
#[device]
pub(super) fn scale_of(s: &Norm, values: &[[V<f32>; 4]], n_warps: u32) -> V<f32> {
    let sums = shared::<f32>(s.chunks());
    for_quads(s, n_warps, |turn, place| {
        let v = values[turn];
        let squares = fma(v[3], v[3], fma(v[2], v[2], fma(v[1], v[1], v[0] * v[0])));
        let sum = warp_sum(squares);
        if lane_id() == 0 {
            sums.at(place / CHUNK).store(sum);
        }
    });
    sync_threads();
    let mut total = 0.0;
    for turn in unroll(0..s.chunks().div_ceil(32)) {
        let chunk = lane_id() + turn * 32;
        if (turn + 1) * 32 <= s.chunks() {
            total = total + sums.at(chunk).load();
        } else {
            let sum = sums.at(min(chunk, s.chunks() - 1)).load();
            total = total + select(chunk < s.chunks(), sum, 0.0);
        }
    }
    rcp(sqrt(warp_sum(total) / (s.dim as f32) + s.eps))
}

#[device]
pub(super) fn normed(v: [V<f32>; 4], scale: V<f32>, w: [V<f32>; 4]) -> [V<f32>; 4] {
    [v[0] * scale * w[0], v[1] * scale * w[1], v[2] * scale * w[2], v[3] * scale * w[3]]
}

impl Operation for Norm {
    fn name(&self) -> &'static str {
        "norm_quantize"
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        norm_quantize(self)
    }

    fn cost(&self) -> Cost {
        let (rows, dim) = (u64::from(self.rows), u64::from(self.dim));
        Cost { bytes: rows * (dim * 4 + act_bytes(self.dim)) + dim * 4, macs: 3 * rows * dim }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let control = Control::random(&mut rng, self.rows);
        let x = reference::random_activations(&mut rng, self.dim * control.active);
        let weight: Vec<f32> = (0..self.dim).map(|_| 1.0 + 0.1 * rng.normal()).collect();
        let normed: Vec<(f64, f64)> =
            x.chunks(self.dim as usize).flat_map(|row| self.expected(row, &weight)).collect();
        let (quants, meta) = quantize::expect(&normed);
        let elements = u64::from(self.rows * self.dim);
        Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&x))
            .input(reference::bytes_f32(&weight))
            .output(elements, quants)
            .output(elements / 4, meta)
    }
}

impl Operation for Exact<Norm> {
    fn name(&self) -> &'static str {
        "norm_exact"
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        norm_exact(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), self.0.rows, 0, self.0.dim)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (mut rng, s) = (Rng::new(seed), &self.0);
        let x = Acts::random(&mut rng, s.dim, s.rows);
        let weight: Vec<f32> = (0..s.dim).map(|_| 1.0 + 0.1 * rng.normal()).collect();
        let normed = x.active().flat_map(|row| s.expected(row, &weight)).collect();
        Trial::new(seed)
            .input(x.control_bytes())
            .input(x.bytes())
            .input(reference::bytes_f32(&weight))
            .output(u64::from(s.rows * s.dim) * 4, exact::near_first(normed))
    }
}

impl Norm {
    /// One row in f64 with bounds.
    pub(super) fn expected(&self, x: &[f32], weight: &[f32]) -> Vec<(f64, f64)> {
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / f64::from(self.dim);
        let scale = 1.0 / (mean + f64::from(self.eps)).sqrt();
        // Roundings of a thread's chain, the tree, and the four operations after it.
        let relative = reference::gamma(f64::from(self.chunks().div_ceil(32)) + 24.0);
        let normed = x.iter().zip(weight).map(|(v, w)| f64::from(*v) * scale * f64::from(*w));
        normed.map(|v| (v, relative * v.abs())).collect()
    }

    /// One row with the roundings of the kernel, in its order: for kernels that go on from there.
    pub(super) fn to_the_bit(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let square = |q: &[f32]| q.iter().skip(1).fold(q[0] * q[0], |sum, v| v.mul_add(*v, sum));
        let mut lanes = [0.0f32; 32];
        for (i, chunk) in x.chunks(4 * CHUNK as usize).enumerate() {
            lanes[i % 32] += sum_of_warp(&chunk.chunks(4).map(square).collect::<Vec<f32>>());
        }
        let total = sum_of_warp(&lanes);
        let scale = 1.0 / (total / self.dim as f32 + self.eps).sqrt();
        x.iter().zip(weight).map(|(v, w)| v * scale * w).collect()
    }
}

/// The sum over a warp as the lanes' exchanges give it.
fn sum_of_warp(lanes: &[f32]) -> f32 {
    let mut lanes = lanes.to_vec();
    for step in [16, 8, 4, 2, 1] {
        lanes = (0..lanes.len()).map(|lane| lanes[lane] + lanes[lane ^ step]).collect();
    }
    lanes[0]
}
