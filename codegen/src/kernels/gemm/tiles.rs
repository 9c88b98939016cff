//! Products for many rows on tensor cores: a CTA computes 32 or more outputs of 8 or more rows, so that weights come from
//! memory once for all of them.

use super::multiply::{Early, send_for_weights, shared_words, sums_of_tile};
use super::stage::Job;
use super::sums::{element, has_elements};
use super::tile::{Tile, VALUES_ROW};
use super::{Batch, Gemm, GemmGateUp, GemmQkv, Target};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::gemv::{Act, Epilogue};
use crate::kernels::{ffn, quantize};
use crate::layout::{Matrix, SUB_BLOCK, TILE_ROWS};

/// Words of shared memory for products of any of the matrices.
fn words(matrices: &[Matrix], t: Tile, k_split: u32) -> u32 {
    matrices.iter().map(|m| shared_words(m.qtype, t, t.rounds(k_split))).max().unwrap_or(0)
}

/// The CTA's row of tiles in the grid, before its outputs are known.
struct Work {
    tile: Tile,
    /// Rows of the step.
    rows: u32,
    k_split: u32,
    epilogue: Epilogue,
    x: Act,
    control: In<u32>,
    memory: Shared<u32>,
}

impl Work {
    fn job<'a>(&self, m: &'a Matrix, w: &'a [Fixed<u32>], first_tile: V<u32>) -> Job<'a> {
        let Work { tile, k_split, x, memory, .. } = *self;
        Job { m, w, tile, k_split, x, first_tile, memory }
    }
}

/// Sends for the job's first weights, waits for the launches before, and does `body` unless none of the CTA's rows is active.
/// Where a step has so many rows that this may be, the weights are sent for when it is known. Rows are the fast direction of
/// the grid, so that CTAs which run together share weights.
#[device]
fn for_batch(work: &Work, job: &Job, body: impl Fn(Batch, Early)) {
    let t = work.tile;
    let active = |control: In<u32>| Batch { first: block_idx_x() * t.rows(), n_active: control.at(0).load() };
    if work.rows <= t.rows() {
        let early = send_for_weights(job);
        wait_for_earlier();
        // A step has a row at least.
        body(active(work.control), early);
    } else {
        wait_for_earlier();
        let batch = active(work.control);
        if batch.first < batch.n_active {
            body(batch, send_for_weights(job));
        }
    }
}

/// Computes the outputs of one CTA; `to.first` counts tiles of the CTA's size.
#[device]
fn outputs_of_cta(m: &Matrix, work: &Work, w: Fixed<u32>, to: Target) {
    let t = work.tile;
    let wanted = to.first * t.tiles();
    let whole = m.n_tiles() % t.tiles() == 0;
    // A CTA at the edge begins earlier, where whole tiles lie, and stores only what is its own.
    let first_tile = if whole { wanted } else { min(wanted, m.n_tiles() - t.tiles()) };
    let w = [w];
    let job = work.job(m, &w, first_tile);
    for_batch(work, &job, |batch, early| {
        let sums = sums_of_tile(&job, batch, early);
        // Loaded again, so that it takes no register while super-blocks are multiplied.
        let n_active = work.control.at(0).load();
        for (i, sum) in each((0u32..).zip(sums)) {
            let [output, row] = element(t, i);
            let (output, row) = (first_tile * 4 + output, block_idx_x() * t.rows() + row);
            let mine = has_elements(t) && row < n_active && output < m.rows;
            let mine = if whole { mine } else { mine && output >= wanted * 4 };
            if mine {
                let place = to.y.at(row * to.stride + output);
                match work.epilogue {
                    Epilogue::Store => place.store(sum),
                    Epilogue::Add => place.store(place.load() + sum),
                }
            }
        }
    });
}

/// y[i,n] = Σ_k W[n,k]·x[i,k], or y[i,n] += …, for the active rows i
/// shapes   W (outputs, cols) packed · x (rows, cols) int8 blocks of 32 · y (rows, outputs) f32
/// layout   warp j multiplies sub-block j of each super-block, 16 outputs by 8 rows an mma; super-blocks go through shared memory
/// launch   grid (ceil(rows / rows of a tile), ceil(outputs / those of a tile)), block 32 a warp, shared for stages or sums
/// source   GGML block types; PTX ISA, mma.m16n8k32; order of the sum: docs/numerics.md
#[kernel(grid = (s.rows.div_ceil(t.rows()), t.ctas(&s.matrix)), block = t.threads(), min_ctas = t.resident)]
fn gemm_tiles(
    s: &Gemm,
    t: Tile,
    control: In<u32>,
    w: Fixed<u32>,
    quants: In<u32>,
    meta: In<u32>,
    y: InOut<f32>,
) {
    let memory = shared::<u32>(words(&[s.matrix], t, s.split.k_split));
    let (x, k_split, epilogue) = (Act { quants, meta }, s.split.k_split, s.epilogue);
    let work = Work { tile: t, rows: s.rows, k_split, epilogue, x, control, memory };
    outputs_of_cta(&s.matrix, &work, w, Target { y, stride: s.matrix.rows, first: block_idx_y() });
}

/// qkv[i] = (Wq x[i], Wk x[i], Wv x[i]) for the active rows i
/// shapes   Wq (q_dim, cols) · Wk, Wv (kv_dim, cols), packed, types may differ · x (rows, cols) int8 · qkv (rows, q_dim + 2 kv_dim) f32
/// layout   as gemm_tiles; CTAs are dealt to Q, then K, then V
/// launch   as gemm_tiles, with the sum of the three
/// source   GGML block types; PTX ISA, mma.m16n8k32; order of the sum: docs/numerics.md
#[kernel(
    grid = (s.rows.div_ceil(t.rows()), s.matrices.iter().map(|m| t.ctas(m)).sum::<u32>()),
    block = t.threads(),
    min_ctas = t.resident
)]
fn gemm_qkv_tiles(
    s: &GemmQkv,
    t: Tile,
    control: In<u32>,
    wq: Fixed<u32>,
    wk: Fixed<u32>,
    wv: Fixed<u32>,
    quants: In<u32>,
    meta: In<u32>,
    qkv: InOut<f32>,
) {
    let [q, k, v] = &s.matrices;
    let memory = shared::<u32>(words(&s.matrices, t, s.split.k_split));
    let (x, k_split, epilogue) = (Act { quants, meta }, s.split.k_split, Epilogue::Store);
    let work = Work { tile: t, rows: s.rows, k_split, epilogue, x, control, memory };
    let stride = s.outputs();
    let cta = block_idx_y();
    let (n_q, n_k) = (t.ctas(q), t.ctas(k));
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
/// layout   as gemm_tiles; a CTA computes whole activation blocks, of matrices of one type the gate and the other factor in one
///          tile, else one after the other
/// launch   grid (ceil(rows / rows of a tile), hidden_dim / 32), block 32 a warp, shared for stages, sums or values
/// source   as gate_up_swiglu
#[kernel(
    grid = (s.rows.div_ceil(t.rows()), s.gate.rows / SUB_BLOCK),
    block = t.threads(),
    min_ctas = t.resident
)]
fn gemm_gate_up_tiles(
    s: &GemmGateUp,
    t: Tile,
    control: In<u32>,
    gate: Fixed<u32>,
    up: Fixed<u32>,
    x_quants: In<u32>,
    x_meta: In<u32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let x = Act { quants: x_quants, meta: x_meta };
    // Values are [row][output]. Beside each other the matrices are done when values need memory.
    let n_values = VALUES_ROW * t.rows();
    let is_apart = t.outputs() == SUB_BLOCK;
    let n_words = words(&[s.gate, s.up], t, 1);
    let memory = shared::<u32>(n_words.max(if is_apart { n_values } else { 2 * n_values }));
    let (k_split, epilogue) = (1, Epilogue::Store);
    let work = Work { tile: t, rows: s.rows, k_split, epilogue, x, control, memory };
    let free = memory.cast::<f32>();
    let [gates, ups] = if is_apart { [shared::<f32>(n_values), free] } else { [free, free.offset(n_values)] };
    let first_tile = block_idx_y() * (SUB_BLOCK / TILE_ROWS);
    let both = [gate, up];
    let job = work.job(&s.gate, if is_apart { &both[..1] } else { &both }, first_tile);
    for_batch(&work, &job, |batch, early| {
        let sums = sums_of_tile(&job, batch, early);
        put_values(t, gates, 0, &sums);
        if is_apart {
            let job = work.job(&s.up, &both[1..], first_tile);
            let early = send_for_weights(&job);
            put_values(t, ups, 0, &sums_of_tile(&job, batch, early));
        } else {
            put_values(t, ups, SUB_BLOCK, &sums);
        }
        sync_threads();
        quantize_values(s, &work, [gates, ups], (quants, meta));
    });
}

/// Quantizes the CTA's products: four outputs a thread where there are enough, else a row a warp.
#[device]
fn quantize_values(
    s: &GemmGateUp,
    work: &Work,
    [gates, ups]: [Shared<f32>; 2],
    (quants, meta): (Out<u32>, Out<u32>),
) {
    let t = work.tile;
    let n_active = work.control.at(0).load();
    let n_quads = t.rows() * (SUB_BLOCK / 4);
    if n_quads < t.threads() {
        for i in unroll(0..t.rows().div_ceil(t.warps())) {
            let own = i * t.warps() + warp_id();
            let row = block_idx_x() * t.rows() + own;
            if row < n_active && own < t.rows() {
                let place = own * VALUES_ROW + lane_id();
                let value = ffn::gated(s.activation, gates.at(place).load(), ups.at(place).load());
                let block = row * (s.gate.rows / SUB_BLOCK) + block_idx_y();
                quantize::store_lane(value, block, quants.cast::<u8>(), meta);
            }
        }
    } else {
        for i in unroll(0..n_quads / t.threads()) {
            let turn = i * t.threads() + thread_idx_x();
            let (own, quad) = (turn / (SUB_BLOCK / 4), turn % (SUB_BLOCK / 4));
            let place = own * VALUES_ROW + quad * 4;
            let (g, u) = (gates.at(place).load_x4(), ups.at(place).load_x4());
            let products = [0, 1, 2, 3].map(|e: usize| ffn::gated(s.activation, g[e], u[e]));
            let found = quantize::quad(products);
            let row = block_idx_x() * t.rows() + own;
            if row < n_active {
                let block = row * (s.gate.rows / SUB_BLOCK) + block_idx_y();
                quants.at(block * (SUB_BLOCK / 4) + quad).store(found.word);
                if quad == 0 {
                    meta.at(block * 2).store_x2([found.scale.bits(), found.sums]);
                }
            }
        }
    }
}

/// Stores the thread's sums of the 32 outputs of the tile from `first` on.
#[device]
fn put_values(t: Tile, values: Shared<f32>, first: u32, sums: &[V<f32>]) {
    for (i, sum) in each((0u32..).zip(sums.iter().copied())) {
        let [output, row] = element(t, i);
        let mine = output >= first && output < first + SUB_BLOCK;
        if has_elements(t) && mine {
            values.at(row * VALUES_ROW + (output - first)).store(sum);
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
