//! Products for many rows on tensor cores: a CTA computes 32 or more outputs of 8 or more rows, so that weights come from
//! memory once for all of them.

use super::multiply::{shared_words, sums_of_tile};
use super::stage::{Job, Tile, WARPS};
use super::{Batch, Gemm, GemmGateUp, GemmQkv, Target};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::gemv::{Act, Epilogue};
use crate::kernels::{ffn, quantize};
use crate::layout::{Matrix, SUB_BLOCK};
use ::plan::QType;

const THREADS: u32 = 32 * WARPS;
/// Two CTAs a multiprocessor leave each thread 128 registers.
const MIN_CTAS: u32 = 2;

/// The tile for matrices that share a launch, or `None` where the lanes' walk is the better way: few rows, plain types, and
/// matrices smaller than a tile.
pub(super) fn choose(matrices: &[Matrix], k_split: u32, rows: u32) -> Option<Tile> {
    // Sums of more rows, and the wider sub-blocks of Q6_K, leave registers for fewer rows and fewer super-blocks on their way.
    let wide = matrices.iter().any(|m| matches!(m.qtype, QType::Q6K));
    let n = rows.div_ceil(8).next_power_of_two().min(if wide { 2 } else { 4 });
    let depth = if n == 1 || (n == 2 && !wide) { 2 } else { 1 };
    let tile = Tile { m: 2, n, depth };
    let fits =
        |m: &Matrix| !m.qtype.is_plain() && m.n_tiles() >= tile.tiles() && m.n_super_blocks() >= k_split;
    (rows > 4 && matrices.iter().all(fits)).then_some(tile)
}

/// CTAs in the direction of outputs.
fn ctas(m: &Matrix, t: Tile) -> u32 {
    m.n_tiles().div_ceil(t.tiles())
}

fn words(matrices: &[Matrix], t: Tile) -> u32 {
    matrices.iter().map(|m| shared_words(m.qtype, t)).max().unwrap_or(0)
}

/// The CTA's row of tiles in the grid, before its outputs are known.
struct Work {
    tile: Tile,
    k_split: u32,
    epilogue: Epilogue,
    x: Act,
    batch: Batch,
    control: In<u32>,
    memory: Shared<u32>,
}

impl Work {
    fn job<'a>(&self, m: &'a Matrix, w: In<u32>, first_tile: V<u32>) -> Job<'a> {
        let Work { tile, k_split, x, batch, memory, .. } = *self;
        Job { m, tile, k_split, w, x, first_tile, batch, memory }
    }
}

/// The output and the row of activations of a thread's element `i`, from those of the CTA.
#[device]
fn element(t: Tile, i: u32, (first_output, first_row): (V<u32>, V<u32>)) -> [V<u32>; 2] {
    let (thread, own) = (thread_idx_x(), thread_idx_x() % 128);
    let output = first_output + (thread / 128 + 2 * i % t.m) * 16 + own % 16;
    [output, first_row + (2 * i / t.m * 8 + own / 16)]
}

/// Computes the outputs of one CTA; `to.first` counts tiles of the CTA's size.
#[device]
fn outputs_of_cta(m: &Matrix, work: &Work, w: In<u32>, to: Target) {
    let t = work.tile;
    let wanted = to.first * t.tiles();
    let whole = m.n_tiles() % t.tiles() == 0;
    // A CTA at the edge begins earlier, where whole tiles lie, and stores only what is its own.
    let first_tile = if whole { wanted } else { min(wanted, m.n_tiles() - t.tiles()) };
    let sums = sums_of_tile(&work.job(m, w, first_tile));
    // Loaded again, so that it takes no register while super-blocks are multiplied.
    let n_active = work.control.at(0).load();
    for (i, sum) in each((0u32..).zip(sums)) {
        let [output, row] = element(t, i, (first_tile * 4, block_idx_y() * t.rows()));
        let mine = if whole { row < n_active } else { row < n_active && output >= wanted * 4 };
        if mine && output < m.rows {
            let place = to.y.at(row * to.stride + output);
            match work.epilogue {
                Epilogue::Store => place.store(sum),
                Epilogue::Add => place.store(place.load() + sum),
            }
        }
    }
}

/// y[i,n] = Σ_k W[n,k]·x[i,k], or y[i,n] += …, for the active rows i
/// shapes   W (outputs, cols) packed · x (rows, cols) int8 blocks of 32 · y (rows, outputs) f32
/// layout   warp j multiplies sub-block j of each super-block, 16 outputs by 8 rows an mma; super-blocks go through shared memory
/// launch   grid (ceil(outputs / (16·m)), ceil(rows / (8·n))), block 256, shared at most 48 KiB
/// source   GGML block types; PTX ISA, mma.m16n8k32; order of the sum: docs/numerics.md
#[kernel(grid = (ctas(&s.matrix, t), s.rows.div_ceil(t.rows())), block = THREADS, min_ctas = MIN_CTAS)]
fn gemm_tiles(
    s: &Gemm,
    t: Tile,
    control: In<u32>,
    w: In<u32>,
    quants: In<u32>,
    meta: In<u32>,
    y: InOut<f32>,
) {
    let batch = Batch { first: block_idx_y() * t.rows(), n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let memory = shared::<u32>(words(&[s.matrix], t));
    let x = Act { quants, meta };
    let work = Work { tile: t, k_split: s.split.k_split, epilogue: s.epilogue, x, batch, control, memory };
    outputs_of_cta(&s.matrix, &work, w, Target { y, stride: s.matrix.rows, first: cta_id() });
}

/// qkv[i] = (Wq x[i], Wk x[i], Wv x[i]) for the active rows i
/// shapes   Wq (q_dim, cols) · Wk, Wv (kv_dim, cols), packed, types may differ · x (rows, cols) int8 · qkv (rows, q_dim + 2 kv_dim) f32
/// layout   as gemm_tiles; CTAs are dealt to Q, then K, then V
/// launch   grid (the sum of the three, ceil(rows / (8·n))), block 256, shared at most 48 KiB
/// source   GGML block types; PTX ISA, mma.m16n8k32; order of the sum: docs/numerics.md
#[kernel(
    grid = (s.matrices.iter().map(|m| ctas(m, t)).sum::<u32>(), s.rows.div_ceil(t.rows())),
    block = THREADS,
    min_ctas = MIN_CTAS
)]
fn gemm_qkv_tiles(
    s: &GemmQkv,
    t: Tile,
    control: In<u32>,
    wq: In<u32>,
    wk: In<u32>,
    wv: In<u32>,
    quants: In<u32>,
    meta: In<u32>,
    qkv: InOut<f32>,
) {
    let batch = Batch { first: block_idx_y() * t.rows(), n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let [q, k, v] = &s.matrices;
    let memory = shared::<u32>(words(&s.matrices, t));
    let x = Act { quants, meta };
    let work =
        Work { tile: t, k_split: s.split.k_split, epilogue: Epilogue::Store, x, batch, control, memory };
    let stride = s.outputs();
    let cta = cta_id();
    let (n_q, n_k) = (ctas(q, t), ctas(k, t));
    if cta < n_q {
        outputs_of_cta(q, &work, wq, Target { y: qkv, stride, first: cta });
    } else {
        if cta < n_q + n_k {
            outputs_of_cta(k, &work, wk, Target { y: qkv.offset(q.rows), stride, first: cta - n_q });
        } else {
            let first = cta - (n_q + n_k);
            outputs_of_cta(v, &work, wv, Target { y: qkv.offset(q.rows + k.rows), stride, first });
        }
    }
}

/// q[i], a[i] = quantize(silu(Wg x[i]) · (Wu x[i])) for the active rows i
/// shapes   Wg, Wu (hidden_dim, dim) packed · x (rows, dim) int8 · quants (rows, hidden_dim) i8 · meta (rows, hidden_dim / 32)
/// layout   as gemm_tiles; a CTA computes the gate, then the other factor, of whole activation blocks
/// launch   grid (hidden_dim / (16·m), ceil(rows / (8·n))), block 256, shared at most 48 KiB
/// source   as gate_up_swiglu
#[kernel(grid = (ctas(&s.gate, t), s.rows.div_ceil(t.rows())), block = THREADS, min_ctas = MIN_CTAS)]
fn gemm_gate_up_tiles(
    s: &GemmGateUp,
    t: Tile,
    control: In<u32>,
    gate: In<u32>,
    up: In<u32>,
    x_quants: In<u32>,
    x_meta: In<u32>,
    quants: Out<u8>,
    meta: Out<u32>,
) {
    let batch = Batch { first: block_idx_y() * t.rows(), n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let memory = shared::<u32>(words(&[s.gate, s.up], t));
    let x = Act { quants: x_quants, meta: x_meta };
    let work = Work { tile: t, k_split: 1, epilogue: Epilogue::Store, x, batch, control, memory };
    let first_tile = cta_id() * t.tiles();
    // [row][output], a warp's block in one stretch. The gate waits here for the other factor.
    let values = shared::<f32>(t.outputs() * t.rows());
    for (i, g) in each((0u32..).zip(sums_of_tile(&work.job(&s.gate, gate, first_tile)))) {
        let [output, row] = element(t, i, (dev(0u32), dev(0u32)));
        values.at(row * t.outputs() + output).store(g);
    }
    for (i, u) in each((0u32..).zip(sums_of_tile(&work.job(&s.up, up, first_tile)))) {
        let [output, row] = element(t, i, (dev(0u32), dev(0u32)));
        let place = values.at(row * t.outputs() + output);
        place.store(ffn::gated(s.activation, place.load(), u));
    }
    sync_threads();
    let n_active = control.at(0).load();
    let per_row = t.outputs() / SUB_BLOCK;
    for i in unroll(0..per_row * t.n) {
        let own = i % t.n * WARPS + warp_id();
        let value = values.at(own * t.outputs() + i / t.n * SUB_BLOCK + lane_id()).load();
        let row = block_idx_y() * t.rows() + own;
        if row < n_active {
            let block = row * (s.gate.rows / SUB_BLOCK) + cta_id() * per_row + i / t.n;
            quantize::store_lane(value, block, quants, meta);
        }
    }
}

pub(super) fn build(s: &Gemm, t: Tile) -> Result<Kernel, BuildError> {
    gemm_tiles(s, t)
}

pub(super) fn build_qkv(s: &GemmQkv, t: Tile) -> Result<Kernel, BuildError> {
    gemm_qkv_tiles(s, t)
}

pub(super) fn build_gate_up(s: &GemmGateUp, t: Tile) -> Result<Kernel, BuildError> {
    gemm_gate_up_tiles(s, t)
}
