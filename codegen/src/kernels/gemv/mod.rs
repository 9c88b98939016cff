//! Matrix times quantized vector: the bulk of decoding.
//!
//! A warp owns a tile of 4 rows; lane `8 r + j` multiplies sub-block `j` of row `r` in every super-block of its share
//! of K, then the 8 lanes of a row are summed. When a matrix has too few tiles to fill the device, `k_split` warps
//! share a tile and their sums are added in order.

use super::operation::{Cost, Operation, Trial, name_by_type};
use super::reference;
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::layout::{ActBlocks, Matrix, SUB_BLOCKS, TILE_ROWS, quantize_row};
use crate::rng::Rng;
use crate::spec::Device;

mod block32;
mod bytes;
mod exact;
mod floats;
mod k_quants;
mod lanes;
mod plain;

pub(super) use bytes::{row_terms, word_bytes};
pub(super) use floats::Floats;
pub(super) use lanes::{
    Act, ActLane, Seat, SubBlock, Vector, dot_of_columns, dot_of_lane, load_act, load_sub_block,
    weights_of_lane,
};

/// What becomes of a finished row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `y = W x`
    Store,
    /// `y += W x`
    Add,
}

/// How the work of one matrix is laid over warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Warps that share a tile, each taking every `k_split`-th super-block.
    pub k_split: u32,
    /// Tiles of a CTA.
    pub tiles_per_cta: u32,
    /// Super-blocks in flight a lane.
    pub unroll: u32,
}

impl Split {
    /// Warps of a CTA.
    pub const fn warps(&self) -> u32 {
        self.k_split * self.tiles_per_cta
    }

    /// Threads of a CTA.
    pub const fn threads(&self) -> u32 {
        32 * self.warps()
    }

    /// CTAs that a multiprocessor must be able to hold: 1024 threads, which leaves each 64 registers. Without this ptxas
    /// aims at more threads than there is work for, and spills.
    pub const fn min_ctas(&self) -> u32 {
        1024 / self.threads()
    }

    /// Enough warps to fill the device's multiprocessors with 8 or more each, in CTAs of at most 8 warps. From sm_100 on
    /// ptxas needs more registers for the same code, and more than two super-blocks in flight would spill.
    pub fn choose(n_tiles: u32, n_super_blocks: u32, device: Device) -> Split {
        let n_sms = device.n_sms;
        let wanted = 8 * n_sms;
        let mut k_split = 1;
        while k_split < 8 && n_tiles * k_split < wanted && n_super_blocks >= 4 * k_split {
            k_split *= 2;
        }
        let mut tiles_per_cta = 8 / k_split;
        while tiles_per_cta > 1 && (!n_tiles.is_multiple_of(tiles_per_cta) || n_tiles / tiles_per_cta < n_sms)
        {
            tiles_per_cta /= 2;
        }
        Split { k_split, tiles_per_cta, unroll: if device.sm < 100 { 4 } else { 2 } }
    }

    /// The same layout with as many super-blocks in flight as the registers have room for: `unroll` of those that a
    /// lane reads in 16 bytes, fewer of wider ones.
    #[must_use]
    pub fn fit(self, matrices: &[Matrix]) -> Split {
        Split { unroll: in_flight(self.unroll, matrices), ..self }
    }
}

/// One matrix with its epilogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemv {
    /// The weights.
    pub matrix: Matrix,
    /// What becomes of a row.
    pub epilogue: Epilogue,
    /// The work's layout.
    pub split: Split,
}

/// Q, K and V, one behind the other in `qkv`, read by one launch.
#[derive(Clone, Debug, PartialEq)]
pub struct GemvQkv {
    /// Q, K, V.
    pub matrices: [Matrix; 3],
    /// The layout all three share.
    pub split: Split,
}

impl GemvQkv {
    fn ctas(&self, i: usize) -> u32 {
        self.matrices[i].n_tiles().div_ceil(self.split.tiles_per_cta)
    }
}

/// Rows of one CTA's tiles, summed over lanes and over the warps that share a tile; thread `i` of the CTA's first
/// `4 · tiles_per_cta` ends up with row `i`. Returns that sum (other threads hold nothing of use).
#[device]
fn sum_tile_rows(s: Split, acc: V<f32>) -> V<f32> {
    let total = sum_lanes(acc, SUB_BLOCKS);
    let sums = shared::<f32>(TILE_ROWS * s.warps());
    let lane = lane_id();
    if lane % SUB_BLOCKS == 0 {
        // [tile of the CTA][row][part], so that one row's parts lie together.
        let place =
            (warp_id() / s.k_split * TILE_ROWS + lane / SUB_BLOCKS) * s.k_split + warp_id() % s.k_split;
        sums.at(place).store(total);
    }
    sync_threads();
    let mine = min(thread_idx_x(), TILE_ROWS * s.tiles_per_cta - 1);
    let mut sum = sums.at(mine * s.k_split).load();
    for part in unroll(1..s.k_split) {
        sum = sum + sums.at(mine * s.k_split + part).load();
    }
    sum
}

#[device]
fn store_row(e: Epilogue, y: InOut<f32>, row: V<u32>, sum: V<f32>) {
    match e {
        Epilogue::Store => y.at(row).store(sum),
        Epilogue::Add => y.at(row).store(y.at(row).load() + sum),
    }
}

/// Where a CTA's rows go: the matrix's outputs, and the CTA's first tile.
#[derive(Clone, Copy)]
struct Rows {
    y: InOut<f32>,
    first_tile: V<u32>,
}

/// Computes the rows of one CTA.
#[device]
fn gemv_rows<X: Vector>(m: &Matrix, (s, e): (Split, Epilogue), w: Fixed<u32>, x: X, to: Rows) {
    let Rows { y, first_tile } = to;
    let whole = m.n_tiles() % s.tiles_per_cta == 0;
    let tile = first_tile + warp_id() / s.k_split;
    // Warps beyond the last tile repeat it: barriers want every warp, and their rows are not stored.
    let tile = if whole { tile } else { min(tile, m.n_tiles() - 1) };
    let [acc] = dot_of_lane([m], s, [w], x, Seat { tile, part: warp_id() % s.k_split });
    if s.k_split == 1 {
        let sum = sum_lanes(acc, SUB_BLOCKS);
        let row = (first_tile + warp_id()) * TILE_ROWS + lane_id() / SUB_BLOCKS;
        if lane_id() % SUB_BLOCKS == 0 && row < m.rows {
            store_row(e, y, row, sum);
        }
    } else {
        let sum = sum_tile_rows(s, acc);
        let row = first_tile * TILE_ROWS + thread_idx_x();
        if thread_idx_x() < TILE_ROWS * s.tiles_per_cta && row < m.rows {
            store_row(e, y, row, sum);
        }
    }
}

/// y[n] = Σ_k W[n,k]·x[k], or y[n] += …
/// shapes   W (rows, cols) packed · x (cols) int8 blocks of 32 · y (rows) f32
/// layout   tile of 4 rows × 8 lanes; lane j owns sub-block j of each super-block: one 16-byte load
/// launch   grid ceil(rows / (4·tiles_per_cta)), block 32·k_split·tiles_per_cta, shared 16 bytes a warp when K is split
/// source   GGML Q4_K, Q6_K; order of the sum: docs/numerics.md
#[kernel(grid = s.matrix.n_tiles().div_ceil(s.split.tiles_per_cta), block = s.split.threads(), min_ctas = s.split.min_ctas())]
pub fn gemv(s: &Gemv, w: Fixed<u32>, quants: In<u32>, meta: In<u32>, y: InOut<f32>) {
    let x = Act { quants, meta };
    let to = Rows { y, first_tile: cta_id() * s.split.tiles_per_cta };
    gemv_rows(&s.matrix, (s.split, s.epilogue), w, x, to);
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
    qkv_rows(s, s.split, [wq, wk, wv], Act { quants, meta }, qkv);
}

/// Computes the rows of one CTA of three matrices, in this walk.
#[device]
fn qkv_rows<X: Vector>(s: &GemvQkv, walk: Split, [wq, wk, wv]: [Fixed<u32>; 3], x: X, qkv: InOut<f32>) {
    let cta = cta_id();
    let (n_q, n_k) = (s.ctas(0), s.ctas(1));
    let [q, k, v] = &s.matrices;
    let how = (walk, Epilogue::Store);
    let tiles = walk.tiles_per_cta;
    if cta < n_q {
        gemv_rows(q, how, wq, x, Rows { y: qkv, first_tile: cta * tiles });
    } else {
        if cta < n_q + n_k {
            gemv_rows(k, how, wk, x, Rows { y: qkv.offset(q.rows), first_tile: (cta - n_q) * tiles });
        } else {
            let first_tile = (cta - (n_q + n_k)) * tiles;
            gemv_rows(v, how, wv, x, Rows { y: qkv.offset(q.rows + k.rows), first_tile });
        }
    }
}

impl Operation for Gemv {
    fn name(&self) -> &'static str {
        match self.epilogue {
            Epilogue::Store => name_by_type!("gemv_", self.matrix.qtype),
            Epilogue::Add => name_by_type!("gemv_", self.matrix.qtype, "_residual"),
        }
    }

    fn constants(&self) -> String {
        format!("{:?} {:?} {:?}", self.matrix, self.epilogue, self.split)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gemv(self)
    }

    fn cost(&self) -> Cost {
        let m = &self.matrix;
        let per_row = if self.epilogue == Epilogue::Add { 8 } else { 4 };
        let bytes = m.planes().bytes + act_bytes(m.cols) + u64::from(m.rows) * per_row;
        Cost { bytes, macs: u64::from(m.rows) * u64::from(m.cols) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let (raw, x) = (self.matrix.random(&mut rng), random_act(&mut rng, self.matrix.cols));
        let rows = reference::gemv(&self.matrix, &raw, &x);
        let trial =
            Trial::new(seed).input(self.matrix.pack(&raw)).input(x.quant_bytes()).input(x.meta_bytes());
        match self.epilogue {
            Epilogue::Store => trial.output(u64::from(self.matrix.rows) * 4, reference::near(rows, None)),
            Epilogue::Add => {
                let before = reference::random_activations(&mut rng, self.matrix.rows);
                trial.in_out(reference::bytes_f32(&before), reference::near(rows, Some(&before)))
            }
        }
    }
}

impl Operation for GemvQkv {
    fn name(&self) -> &'static str {
        "gemv_qkv"
    }

    fn constants(&self) -> String {
        format!("{:?} {:?}", self.matrices, self.split)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gemv_qkv(self)
    }

    fn cost(&self) -> Cost {
        let cols = self.matrices[0].cols;
        let rows: u32 = self.matrices.iter().map(|m| m.rows).sum();
        let weights: u64 = self.matrices.iter().map(|m| m.planes().bytes).sum();
        Cost {
            bytes: weights + act_bytes(cols) + u64::from(rows) * 4,
            macs: u64::from(rows) * u64::from(cols),
        }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let x = random_act(&mut rng, self.matrices[0].cols);
        let mut trial = Trial::new(seed);
        let mut rows = Vec::new();
        for m in &self.matrices {
            let raw = m.random(&mut rng);
            rows.extend(reference::gemv(m, &raw, &x));
            trial = trial.input(m.pack(&raw));
        }
        let bytes = rows.len() as u64 * 4;
        trial.input(x.quant_bytes()).input(x.meta_bytes()).output(bytes, reference::near(rows, None))
    }
}

/// Super-blocks that a lane may have in flight: `most` when each takes it one 16-byte load of quants.
pub(super) fn in_flight(most: u32, matrices: &[Matrix]) -> u32 {
    let loads = matrices.iter().map(|m| (m.cell_bytes().quants / 512) as u32).max().unwrap_or(1);
    (most / loads).max(1)
}

/// Bytes of a quantized vector: a byte an element and 8 a block.
pub(crate) const fn act_bytes(cols: u32) -> u64 {
    cols as u64 + cols as u64 / 32 * 8
}

fn random_act(rng: &mut Rng, cols: u32) -> ActBlocks {
    quantize_row(&reference::random_activations(rng, cols))
}
