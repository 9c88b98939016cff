//! Q, K and V in one launch, with the norm before them where the vector comes as it is.

use super::{
    Act, Behind, Epilogue, Input, Rows, STAGED_WARPS, Seat, Split, Vector, act_bytes, fetch_weight,
    gemv_rows, norm_into, room, stream_rows,
};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::norm::Norm;
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::reference;
use crate::layout::Matrix;
use crate::rng::Rng;

/// Q, K and V, one behind the other in `qkv`, read by one launch.
#[derive(Clone, Debug, PartialEq)]
pub struct GemvQkv {
    /// Q, K, V.
    pub matrices: [Matrix; 3],
    /// The layout all three share.
    pub split: Split,
    /// The norm of the vector, when it comes as f32.
    pub norm: Option<Norm>,
}

impl GemvQkv {
    /// The split with CTAs large enough for the norm, where there is one.
    fn walk(&self) -> Split {
        match self.norm {
            Some(_) => self.split.with_warps(STAGED_WARPS),
            None => self.split,
        }
    }

    pub(super) fn ctas(&self, i: usize) -> u32 {
        self.matrices[i].n_tiles().div_ceil(self.walk().tiles_per_cta)
    }
}

/// qkv = (Wq x, Wk x, Wv x)
/// shapes   Wq (q_dim, cols) · Wk, Wv (kv_dim, cols), packed, types may differ · x (cols) int8 · qkv (q_dim + 2 kv_dim) f32
/// layout   as gemv; CTAs are dealt to Q, then K, then V
/// launch   grid the sum of the three, block 32·k_split·tiles_per_cta
/// source   GGML Q4_K, Q6_K; order of the sum: docs/numerics.md
#[kernel(grid = s.ctas(0) + s.ctas(1) + s.ctas(2), block = s.split.threads(), min_ctas = s.split.min_ctas())]
pub fn gemv_qkv(
    s: &GemvQkv,
    wq: Fixed<u32>,
    wk: Fixed<u32>,
    wv: Fixed<u32>,
    quants: In<u32>,
    meta: In<u32>,
    qkv: InOut<f32>,
) {
    of_three(s, [wq, wk, wv], qkv, |m, w, to| {
        let of_lane = |at: Seat, sub, _: ((), Behind)| Act { quants, meta }.of_lane(at.part, sub);
        stream_rows(m, (s.walk(), Epilogue::Store), w, to, (|| (), of_lane));
    });
}

/// qkv = (Wq n, Wk n, Wv n) with n = quantize(x / √(Σ x² / dim + eps) · weight)
/// shapes   x (cols), weight (cols) f32 · Wq, Wk, Wv and qkv as gemv_qkv
/// layout   as gemv_qkv; each CTA norms the vector for itself, its weights on their way meanwhile
/// launch   grid the sum of the three, block 512, shared the vector and, beyond 2 quads a thread, the norm's weights
/// source   as norm_quantize and gemv_qkv
#[kernel(grid = s.ctas(0) + s.ctas(1) + s.ctas(2), block = s.walk().threads(), min_ctas = s.walk().min_ctas())]
pub fn norm_gemv_qkv(
    s: &GemvQkv,
    norm: &Norm,
    x: In<f32>,
    weight: Fixed<f32>,
    wq: Fixed<u32>,
    wk: Fixed<u32>,
    wv: Fixed<u32>,
    qkv: InOut<f32>,
) {
    let room = room(norm, STAGED_WARPS);
    of_three(s, [wq, wk, wv], qkv, |m, w, to| {
        let how = (s.walk(), Epilogue::Store);
        let meanwhile = || fetch_weight(norm, STAGED_WARPS, weight);
        // Bringing more of these matrices near gained nothing (bench/NOTES.md).
        let of_lane = |at: Seat, sub, (weights, _): (Vec<[V<f32>; 4]>, Behind)| {
            norm_into(norm, STAGED_WARPS, (x, &Behind::NOTHING), &weights, room);
            room.staged.of_lane(at.part, sub)
        };
        stream_rows(m, how, w, to, (meanwhile, of_lane));
    });
}

/// Does `rows` for the matrix that the CTA belongs to.
#[device]
fn of_three(
    s: &GemvQkv,
    [wq, wk, wv]: [Fixed<u32>; 3],
    qkv: InOut<f32>,
    rows: impl Fn(&Matrix, Fixed<u32>, Rows),
) {
    let cta = cta_id();
    let (n_q, n_k) = (s.ctas(0), s.ctas(1));
    let [q, k, v] = &s.matrices;
    let tiles = s.walk().tiles_per_cta;
    if cta < n_q {
        rows(q, wq, Rows { y: qkv, first_tile: cta * tiles });
    } else {
        if cta < n_q + n_k {
            rows(k, wk, Rows { y: qkv.offset(q.rows), first_tile: (cta - n_q) * tiles });
        } else {
            let first_tile = (cta - (n_q + n_k)) * tiles;
            rows(v, wv, Rows { y: qkv.offset(q.rows + k.rows), first_tile });
        }
    }
}

/// Computes the rows of one CTA of three matrices, in this walk.
#[device]
pub(super) fn qkv_rows<X: Vector>(s: &GemvQkv, walk: Split, w: [Fixed<u32>; 3], x: X, qkv: InOut<f32>) {
    of_three(s, w, qkv, |m, w, to| gemv_rows(m, (walk, Epilogue::Store), w, x, to));
}

impl Operation for GemvQkv {
    fn name(&self) -> &'static str {
        if self.norm.is_some() { "norm_gemv_qkv" } else { "gemv_qkv" }
    }

    fn constants(&self) -> String {
        match &self.norm {
            Some(norm) => format!("{:?} {:?} {norm:?}", self.matrices, self.walk()),
            None => format!("{:?} {:?}", self.matrices, self.split),
        }
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match &self.norm {
            Some(norm) => norm_gemv_qkv(self, norm),
            None => gemv_qkv(self),
        }
    }

    fn cost(&self) -> Cost {
        let cols = self.matrices[0].cols;
        let rows: u32 = self.matrices.iter().map(|m| m.rows).sum();
        let weights: u64 = self.matrices.iter().map(|m| m.planes().bytes).sum();
        let vector = if self.norm.is_some() { u64::from(cols) * 8 } else { act_bytes(cols) };
        Cost { bytes: weights + vector + u64::from(rows) * 4, macs: u64::from(rows) * u64::from(cols) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let cols = self.matrices[0].cols;
        let input = Input::random(&mut rng, cols, self.norm.as_ref());
        let mut trial = input.first(Trial::new(seed));
        let mut rows = Vec::new();
        for m in &self.matrices {
            let raw = m.random(&mut rng);
            rows.extend(input.product(m, &raw));
            trial = trial.input(m.pack(&raw));
        }
        let bytes = rows.len() as u64 * 4;
        input.last(trial).output(bytes, reference::near(rows, None))
    }
}
