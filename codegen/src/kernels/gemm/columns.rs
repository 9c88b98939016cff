//! The walk of the one-row kernels with several rows of activations: a lane loads its weights once and multiplies them
//! by a few vectors. Serves every type and shape; rows beyond the lane's few are blocks of their own in the grid.

use super::{Batch, Gemm, GemmGateUp, GemmQkv, Target};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::gemv::{Act, Epilogue, Seat, Split, Vector, dot_of_columns};
use crate::kernels::{ffn, quantize};
use crate::layout::{Matrix, SUB_BLOCK, SUB_BLOCKS, TILE_ROWS};

/// Warps of a CTA of gate and up: 8 tiles of 4 outputs make the 32 activations of one block.
pub(super) const GATE_UP_WARPS: u32 = 8;

/// Vectors that a lane multiplies its weights by: with more, sums and pointers leave too few registers for loads in flight.
pub(super) const fn columns(rows: u32) -> u32 {
    match rows {
        1 => 1,
        2 => 2,
        _ => 4,
    }
}

/// The split of the one-row kernel, whose order of sums it keeps, with fewer super-blocks in flight: each brings
/// activations of every column.
fn walk(s: Split, columns: u32, matrices: &[Matrix]) -> Split {
    Split { unroll: (s.unroll / columns).max(1), ..s }.fit(matrices)
}

/// CTAs that a multiprocessor must be able to hold when a lane keeps `sums`: so many threads that each has 64 registers,
/// or 128 from 4 sums on.
pub(super) const fn min_ctas(s: Split, sums: u32) -> u32 {
    let threads = if sums < 4 { 1024 } else { 512 };
    if s.threads() > threads { 1 } else { threads / s.threads() }
}

/// The rows of activations that one CTA multiplies.
pub(super) struct Columns<X> {
    pub(super) acts: Vec<X>,
    pub(super) first: V<u32>,
    pub(super) n_active: V<u32>,
}

/// Rows `first …`; those that are not active repeat the last that is.
#[device]
pub(super) fn columns_from<X: Vector>(b: Batch, n: u32, cols: u32, x: X) -> Columns<X> {
    let of = |c| {
        let row = min(b.first + c, b.n_active - 1);
        x.row(row, cols)
    };
    let acts: Vec<X> = (0..n).map(of).collect();
    Columns { acts, first: b.first, n_active: b.n_active }
}

#[device]
fn store(e: Epilogue, y: InOut<f32>, place: V<u32>, sum: V<f32>) {
    match e {
        Epilogue::Store => y.at(place).store(sum),
        Epilogue::Add => y.at(place).store(y.at(place).load() + sum),
    }
}

/// Computes the outputs of one CTA for its columns.
#[device]
pub(super) fn outputs_of_cta<X: Vector>(
    m: &Matrix,
    (s, e): (Split, Epilogue),
    w: Fixed<u32>,
    x: &Columns<X>,
    to: Target,
) {
    let Target { y, stride, first } = to;
    let tile = min(first + warp_id() / s.k_split, m.n_tiles() - 1);
    let [acc] = dot_of_columns([m], s, [w], &x.acts, Seat { tile, part: warp_id() % s.k_split });
    let lane = lane_id();
    if s.k_split == 1 {
        let row = (first + warp_id()) * TILE_ROWS + lane / SUB_BLOCKS;
        for (c, acc) in each((0u32..).zip(acc.iter().copied())) {
            let sum = sum_lanes(acc, SUB_BLOCKS);
            // Lane c of the eight stores column c, so that stores of different columns go out together.
            if lane % SUB_BLOCKS == c && row < m.rows && x.first + c < x.n_active {
                store(e, y, (x.first + c) * stride + row, sum);
            }
        }
    } else {
        let (n_rows, n_columns) = (TILE_ROWS * s.tiles_per_cta, acc.len() as u32);
        let sums = shared::<f32>(n_rows * n_columns * s.k_split);
        // [column][row of the CTA][part], so that the parts of an output lie together.
        let row = warp_id() / s.k_split * TILE_ROWS + lane / SUB_BLOCKS;
        for (c, acc) in each((0u32..).zip(acc.iter().copied())) {
            let sum = sum_lanes(acc, SUB_BLOCKS);
            if lane % SUB_BLOCKS == c {
                sums.at((row + c * n_rows) * s.k_split + warp_id() % s.k_split).store(sum);
            }
        }
        sync_threads();
        let mine = min(thread_idx_x(), n_rows * n_columns - 1);
        let mut sum = sums.at(mine * s.k_split).load();
        for part in unroll(1..s.k_split) {
            sum = sum + sums.at(mine * s.k_split + part).load();
        }
        let (column, row) = (x.first + mine / n_rows, first * TILE_ROWS + mine % n_rows);
        if thread_idx_x() < n_rows * n_columns && row < m.rows && column < x.n_active {
            store(e, y, column * stride + row, sum);
        }
    }
}

/// y[i,n] = Σ_k W[n,k]·x[i,k], or y[i,n] += …, for the active rows i
/// shapes   W (outputs, cols) packed · x (rows, cols) int8 blocks of 32 · y (rows, outputs) f32
/// layout   as gemv; a lane multiplies each sub-block that it loads by up to 4 rows
/// launch   grid (ceil(outputs / (4·tiles_per_cta)), ceil(rows / columns)), block 32·k_split·tiles_per_cta
/// source   GGML block types; order of the sum: docs/numerics.md
#[kernel(
    grid = (s.matrix.n_tiles().div_ceil(s.split.tiles_per_cta), s.rows.div_ceil(columns(s.rows))),
    block = s.split.threads(),
    min_ctas = min_ctas(s.split, columns(s.rows))
)]
fn gemm_columns(s: &Gemm, control: In<u32>, w: Fixed<u32>, quants: In<u32>, meta: In<u32>, y: InOut<f32>) {
    let n_columns = columns(s.rows);
    let batch = Batch { first: block_idx_y() * n_columns, n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let x = columns_from(batch, n_columns, s.matrix.cols, Act { quants, meta });
    let how = (walk(s.split, n_columns, &[s.matrix]), s.epilogue);
    let to = Target { y, stride: s.matrix.rows, first: cta_id() * s.split.tiles_per_cta };
    outputs_of_cta(&s.matrix, how, w, &x, to);
}

/// CTAs of one of the three matrices.
pub(super) fn ctas(s: &GemmQkv, i: usize) -> u32 {
    s.matrices[i].n_tiles().div_ceil(s.split.tiles_per_cta)
}

/// qkv[i] = (Wq x[i], Wk x[i], Wv x[i]) for the active rows i
/// shapes   Wq (q_dim, cols) · Wk, Wv (kv_dim, cols), packed, types may differ · x (rows, cols) int8 · qkv (rows, q_dim + 2 kv_dim) f32
/// layout   as gemm_columns; CTAs are dealt to Q, then K, then V
/// launch   grid (the sum of the three, ceil(rows / columns)), block 32·k_split·tiles_per_cta
/// source   GGML block types; order of the sum: docs/numerics.md
#[kernel(
    grid = (ctas(s, 0) + ctas(s, 1) + ctas(s, 2), s.rows.div_ceil(columns(s.rows))),
    block = s.split.threads(),
    min_ctas = min_ctas(s.split, columns(s.rows))
)]
fn gemm_qkv_columns(
    s: &GemmQkv,
    control: In<u32>,
    wq: Fixed<u32>,
    wk: Fixed<u32>,
    wv: Fixed<u32>,
    quants: In<u32>,
    meta: In<u32>,
    qkv: InOut<f32>,
) {
    let n_columns = columns(s.rows);
    let batch = Batch { first: block_idx_y() * n_columns, n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let x = columns_from(batch, n_columns, s.matrices[0].cols, Act { quants, meta });
    qkv_of_cta(s, walk(s.split, n_columns, &s.matrices), [wq, wk, wv], &x, qkv);
}

/// Computes the outputs of one CTA of three matrices for its columns, in this walk.
#[device]
pub(super) fn qkv_of_cta<X: Vector>(
    s: &GemmQkv,
    walk: Split,
    [wq, wk, wv]: [Fixed<u32>; 3],
    x: &Columns<X>,
    qkv: InOut<f32>,
) {
    let [q, k, v] = &s.matrices;
    let how = (walk, Epilogue::Store);
    let (stride, tiles) = (s.outputs(), s.split.tiles_per_cta);
    let cta = cta_id();
    let (n_q, n_k) = (ctas(s, 0), ctas(s, 1));
    if cta < n_q {
        outputs_of_cta(q, how, wq, x, Target { y: qkv, stride, first: cta * tiles });
    } else {
        if cta < n_q + n_k {
            let to = Target { y: qkv.offset(q.rows), stride, first: (cta - n_q) * tiles };
            outputs_of_cta(k, how, wk, x, to);
        } else {
            let first = (cta - (n_q + n_k)) * tiles;
            outputs_of_cta(v, how, wv, x, Target { y: qkv.offset(q.rows + k.rows), stride, first });
        }
    }
}

/// The layout of gate and up: K is not split.
pub(super) fn gate_up_split(s: &GemmGateUp) -> Split {
    Split { k_split: 1, tiles_per_cta: GATE_UP_WARPS, unroll: s.unroll }
}

/// q[i], a[i] = quantize(silu(Wg x[i]) · (Wu x[i])) for the active rows i
/// shapes   Wg, Wu (hidden_dim, dim) packed · x (rows, dim) int8 · quants (rows, hidden_dim) i8 · meta (rows, hidden_dim / 32)
/// layout   as gemm_columns; a warp computes 4 outputs of both matrices, a CTA the 32 of one activation block
/// launch   grid (hidden_dim / 32, ceil(rows / columns)), block 256, shared 128 bytes a column
/// source   as gate_up_swiglu
#[kernel(
    grid = (s.gate.rows / SUB_BLOCK, s.rows.div_ceil(columns(s.rows))),
    block = 32 * GATE_UP_WARPS,
    min_ctas = min_ctas(gate_up_split(s), 2 * columns(s.rows))
)]
fn gemm_gate_up_columns(
    s: &GemmGateUp,
    control: In<u32>,
    gate: Fixed<u32>,
    up: Fixed<u32>,
    x_quants: In<u32>,
    x_meta: In<u32>,
    quants: Out<u8>,
    meta: Out<u32>,
) {
    let n_columns = columns(s.rows);
    let batch = Batch { first: block_idx_y() * n_columns, n_active: control.at(0).load() };
    if batch.first >= batch.n_active {
        return;
    }
    let x = columns_from(batch, n_columns, s.gate.cols, Act { quants: x_quants, meta: x_meta });
    let values = gated_columns(s, walk(gate_up_split(s), n_columns, &[s.gate, s.up]), [gate, up], &x);
    // Warp c quantizes column c.
    let row = x.first + warp_id();
    if warp_id() < n_columns && row < x.n_active {
        let block = row * (s.gate.rows / SUB_BLOCK) + cta_id();
        quantize::store_lane(values.at(warp_id() * SUB_BLOCK + lane_id()).load(), block, quants, meta);
    }
}

/// The 32 products of a CTA for each of its columns, for all its threads to see.
#[device]
pub(super) fn gated_columns<X: Vector>(
    s: &GemmGateUp,
    walk: Split,
    w: [Fixed<u32>; 2],
    x: &Columns<X>,
) -> Shared<f32> {
    let at = Seat { tile: cta_id() * GATE_UP_WARPS + warp_id(), part: dev(0u32) };
    let [g, u] = dot_of_columns([&s.gate, &s.up], walk, w, &x.acts, at);
    let values = shared::<f32>(SUB_BLOCK * x.acts.len() as u32);
    let lane = lane_id();
    for (c, (g, u)) in each((0u32..).zip(g.into_iter().zip(u))) {
        let (g, u) = (sum_lanes(g, SUB_BLOCKS), sum_lanes(u, SUB_BLOCKS));
        if lane % SUB_BLOCKS == c {
            let place = warp_id() * TILE_ROWS + lane / SUB_BLOCKS;
            values.at(place + c * SUB_BLOCK).store(ffn::gated(s.activation, g, u));
        }
    }
    sync_threads();
    values
}

pub(super) fn build(s: &Gemm) -> Result<Kernel, BuildError> {
    gemm_columns(s)
}

pub(super) fn build_qkv(s: &GemmQkv) -> Result<Kernel, BuildError> {
    gemm_qkv_columns(s)
}

pub(super) fn build_gate_up(s: &GemmGateUp) -> Result<Kernel, BuildError> {
    gemm_gate_up_columns(s)
}
