//! The norm of each head of Q and K, in place, between their matrices and RoPE.

use super::operation::{Cost, Expect, Operation, Trial};
use super::reference;
use super::rows::{Control, for_row};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;

/// Warps of a CTA: a head each.
const WARPS: u32 = 4;

/// Heads of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNorm {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Rows of the step.
    pub rows: u32,
}

impl QkNorm {
    /// Heads that are normed: those of Q, then those of K.
    const fn heads(&self) -> u32 {
        self.n_heads + self.n_kv_heads
    }

    /// Elements of Q, K and V.
    const fn row(&self) -> u32 {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    /// Elements of a lane.
    const fn turns(&self) -> u32 {
        self.head_dim.div_ceil(32)
    }
}

/// The elements of a lane, `lane`, `lane + 32`, …; 0 beyond the head.
#[device]
fn load_lane(s: &QkNorm, from: Ptr<f32, impl Readable>) -> Vec<V<f32>> {
    let mut values = Vec::new();
    for turn in unroll(0..s.turns()) {
        let e = lane_id() + turn * 32;
        if (turn + 1) * 32 <= s.head_dim {
            values.push(from.at(e).load());
        } else {
            values.push(select(e < s.head_dim, from.at(min(e, s.head_dim - 1)).load(), 0.0));
        }
    }
    values
}

/// x[head] = x[head] / √(Σ x[head]² / head_dim + eps) · weight, for the heads of Q and K
/// shapes   control as in the plan · wq, wk (head_dim), qkv (row, q_dim + 2 kv_dim) f32
/// layout   a warp a head; a lane owns elements lane, lane + 32, …
/// launch   grid (heads / 4 rounded up, rows), block 128, shared 0
/// source   Dehghani et al. 2023 (norms of queries and keys); order of the sum: docs/numerics.md
#[kernel(grid = (s.heads().div_ceil(WARPS), s.rows), block = 32 * WARPS)]
pub fn qk_norm(s: &QkNorm, control: In<u32>, wq: Fixed<f32>, wk: Fixed<f32>, qkv: InOut<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let head = block_idx_x() * WARPS + warp_id();
        if head < s.heads() {
            let x = here.of(qkv, s.row()).offset(head * s.head_dim);
            let values = load_lane(s, x);
            let mut squares = 0.0;
            for v in each(values.iter().copied()) {
                squares = fma(v, v, squares);
            }
            let total = warp_sum(squares);
            let scale = rcp(sqrt(total / (s.head_dim as f32) + s.eps));
            for turn in unroll(0..s.turns()) {
                let e = lane_id() + turn * 32;
                if e < s.head_dim {
                    let mut w = wq.at(e).load();
                    if head >= s.n_heads {
                        w = wk.at(e).load();
                    }
                    x.at(e).store(values[turn as usize] * scale * w);
                }
            }
        }
    });
}

impl Operation for QkNorm {
    fn name(&self) -> &'static str {
        "qk_norm"
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        qk_norm(self)
    }

    fn cost(&self) -> Cost {
        let (rows, elements) = (u64::from(self.rows), u64::from(self.heads() * self.head_dim));
        Cost { bytes: rows * elements * 8 + u64::from(self.head_dim) * 8, macs: 3 * rows * elements }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let control = Control::random(&mut rng, self.rows);
        let mut weight = || (0..self.head_dim).map(|_| 1.0 + 0.3 * rng.normal()).collect::<Vec<f32>>();
        let (wq, wk) = (weight(), weight());
        let before = reference::random_activations(&mut rng, self.row() * self.rows);
        let mut places = Vec::new();
        for (row, x) in before.chunks(self.row() as usize).take(control.active as usize).enumerate() {
            let heads = x.chunks(self.head_dim as usize).take(self.heads() as usize).enumerate();
            places.extend(heads.flat_map(|(head, x)| {
                let weight = if head < self.n_heads as usize { &wq } else { &wk };
                let first = row * self.row() as usize + head * self.head_dim as usize;
                let normed = self.expected(x, weight).into_iter().enumerate();
                normed.map(move |(i, (v, bound))| (first + i, v, bound))
            }));
        }
        Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&wq))
            .input(reference::bytes_f32(&wk))
            .in_out(reference::bytes_f32(&before), Expect::NearF32(places))
    }
}

impl QkNorm {
    /// One head in f64 with bounds.
    pub(super) fn expected(&self, x: &[f32], weight: &[f32]) -> Vec<(f64, f64)> {
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / f64::from(self.head_dim);
        let scale = 1.0 / (mean + f64::from(self.eps)).sqrt();
        // Roundings of a lane's chain, the tree, and the four operations after it.
        let relative = reference::gamma(f64::from(self.turns()) + 12.0);
        let normed = x.iter().zip(weight).map(|(v, w)| f64::from(*v) * scale * f64::from(*w));
        normed.map(|v| (v, relative * v.abs())).collect()
    }
}
