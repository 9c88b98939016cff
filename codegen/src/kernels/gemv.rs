//! Matrix times quantized vector: the bulk of decoding.
//!
//! A warp owns a tile of 4 rows; lane `8 r + j` multiplies sub-block `j` of row `r` in every super-block of its share
//! of K, then the 8 lanes of a row are summed. When a matrix has too few tiles to fill the device, `k_split` warps
//! share a tile and their sums are added in order.

use super::operation::{Cost, Operation, Trial};
use super::reference;
use crate::dsl::{BuildError, Carry, Kernel, prelude::*};
use crate::ir::Operand;
use crate::layout::{ActBlocks, Matrix, SUB_BLOCKS, TILE_ROWS, quantize_row};
use crate::rng::Rng;
use crate::spec::Device;
use ::plan::QType;

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

/// The activations of one lane's sub-block.
#[derive(Clone, Copy)]
pub(super) struct ActLane {
    low: [V<u32>; 4],
    high: [V<u32>; 4],
    scale: V<f32>,
    sums: V<u32>,
}

/// The vector that is multiplied: quants as words and `(scale, sums)` pairs.
#[derive(Clone, Copy)]
pub(super) struct Act {
    pub quants: In<u32>,
    pub meta: In<u32>,
}

#[device]
pub(super) fn load_act(x: Act, super_block: u32) -> ActLane {
    let low = x.quants.at(super_block * 64).load_x4();
    let high = x.quants.at(super_block * 64 + 4).load_x4();
    let meta = x.meta.at(super_block * 16).load_x2();
    ActLane { low, high, scale: V::<f32>::from_bits(meta[0]), sums: meta[1] }
}

/// A lane's pointers into the planes of its tile.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    quants: In<u32>,
    high: In<u32>,
    scales: In<u32>,
    d: In<F16>,
}

#[device]
pub(super) fn weights_of_lane(m: &Matrix, w: In<u32>, cell: V<u32>) -> Weights {
    let lane = lane_id();
    let row = lane / SUB_BLOCKS;
    let planes = m.planes();
    let word = |bytes: u64| (bytes / 4) as u32;
    // Q4_K: the 16-byte header of the row. Q6_K: the word that holds the scale pairs of two lanes.
    let scale = match m.qtype {
        QType::Q6K => cell * 16 + lane / 2,
        _ => cell * 16 + row * 4,
    };
    Weights {
        quants: w.offset(cell * 128 + lane * 4),
        high: w.offset(word(planes.high)).offset(cell * 64 + lane * 2),
        scales: w.offset(word(planes.scales)).offset(scale),
        d: w.offset(word(planes.d)).cast::<F16>().offset(cell * 4 + row),
    }
}

/// `acc + a·(d·Σ sc·q·x − dmin·m·Σ x)` over one sub-block: 8 dp4a; high nibbles stay in place and count 16 times.
#[device]
fn accumulate_q4k(w: Weights, cells: u32, x: ActLane, acc: V<f32>) -> V<f32> {
    let quants = w.quants.at(cells * 128).load_x4();
    let header = w.scales.at(cells * 16).load_x4();
    let mut low = 0i32;
    let mut high = 0i32;
    for g in unroll(0..4) {
        low = dp4a_us(quants[g] & 0x0f0f_0f0f, x.low[g].as_i32(), low);
        high = dp4a_us(quants[g] & 0xf0f0_f0f0, x.high[g].as_i32(), high);
    }
    let dot = low + (high >> 4);
    let shift = lane_id() % SUB_BLOCKS * 4;
    let pairs = header[3] >> shift;
    let scale = (header[1] >> shift & 15) | (pairs & 3) << 4;
    let min = (header[2] >> shift & 15) | (pairs & 12) << 2;
    let scaled = (dot * scale.as_i32()).to_f32();
    let sum = (dp2a_lo_ss(x.sums.as_i32(), dev(0x0101i32), dev(0i32)) * min.as_i32()).to_f32();
    let [d, dmin] = unpack_f16(header[0]);
    let value = fma(d.to_f32(), scaled, -(dmin.to_f32() * sum));
    fma(x.scale, value, acc)
}

/// `acc + a·d·Σ sc·(q − 32)·x` over one sub-block; the −32 comes from the sums of the activations.
#[device]
fn accumulate_q6k(w: Weights, cells: u32, x: ActLane, acc: V<f32>) -> V<f32> {
    let quants = w.quants.at(cells * 128).load_x4();
    let bits = w.high.at(cells * 64).load_x2();
    let pairs = w.scales.at(cells * 16).load();
    let d = w.d.at(cells * 4).load();
    // Bytes of the second operand: -32 for the half that is wanted, 0 for the other.
    let mut first = dp2a_lo_ss(x.sums.as_i32(), dev(0x00e0i32), dev(0i32));
    let mut second = dp2a_lo_ss(x.sums.as_i32(), dev(0xe000i32), dev(0i32));
    for g in unroll(0..4) {
        let align =
            |word: V<u32>| if g < 2 { word << (4 - 2 * g as u32) } else { word >> (2 * g as u32 - 4) };
        let low = quants[g] & 0x0f0f_0f0f | align(bits[0]) & 0x3030_3030;
        let high = quants[g] >> 4 & 0x0f0f_0f0f | align(bits[1]) & 0x3030_3030;
        first = dp4a_us(low, x.low[g].as_i32(), first);
        second = dp4a_us(high, x.high[g].as_i32(), second);
    }
    let scales = (pairs >> (lane_id() % 2 * 16)).as_i32();
    let scaled = first * bfe(scales, 0, 8) + second * bfe(scales, 8, 8);
    fma(x.scale, d.to_f32() * scaled.to_f32(), acc)
}

/// `acc` plus the lane's sub-block of the super-block that lies `cells` further on, in each matrix.
#[device]
pub(super) fn accumulate<const N: usize>(
    m: [&Matrix; N],
    w: [Weights; N],
    cells: u32,
    x: ActLane,
    acc: [V<f32>; N],
) -> [V<f32>; N] {
    std::array::from_fn(|i| match m[i].qtype {
        QType::Q6K => accumulate_q6k(w[i], cells, x, acc[i]),
        _ => accumulate_q4k(w[i], cells, x, acc[i]),
    })
}

/// Moves a lane's pointers on by `cells` super-blocks.
#[device]
pub(super) fn advance_weights(w: Weights, cells: u32) -> Weights {
    Weights {
        quants: w.quants.offset(cells * 128),
        high: w.high.offset(cells * 64),
        scales: w.scales.offset(cells * 16),
        d: w.d.offset(cells * 4),
    }
}

#[device]
pub(super) fn advance_act(x: Act, cells: u32) -> Act {
    Act { quants: x.quants.offset(cells * 64), meta: x.meta.offset(cells * 16) }
}

impl Carry for Weights {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        self.quants.carry(f);
        self.high.carry(f);
        self.scales.carry(f);
        self.d.carry(f);
    }
}

impl Carry for Act {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        self.quants.carry(f);
        self.meta.carry(f);
    }
}

/// Where a warp works: a tile, and which share of K.
#[derive(Clone, Copy)]
pub(super) struct Seat {
    pub tile: V<u32>,
    pub part: V<u32>,
}

/// One lane's sums over its share of K of one row in each of `N` matrices of one shape: every `k_split`-th super-block
/// from `part`. The matrices share the loads of activations.
#[device]
pub(super) fn dot_of_lane<const N: usize>(
    m: [&Matrix; N],
    s: Split,
    w: [In<u32>; N],
    x: Act,
    at: Seat,
) -> [V<f32>; N] {
    let sub = lane_id() % SUB_BLOCKS;
    let n_super_blocks = m[0].n_super_blocks();
    let cell = at.tile * n_super_blocks + at.part;
    let mut weights: [Weights; N] = std::array::from_fn(|i| weights_of_lane(m[i], w[i], cell));
    let mut acts =
        Act { quants: x.quants.offset(at.part * 64 + sub * 8), meta: x.meta.offset(at.part * 16 + sub * 2) };
    let mut acc = [dev(0.0f32); N];
    let rounds = n_super_blocks / s.k_split;
    let turns = if rounds > s.unroll { rounds / s.unroll } else { 0 };
    let rest = rounds - turns * s.unroll;
    if turns > 0 {
        for _turn in 0..turns {
            for i in unroll(0..s.unroll) {
                acc = accumulate(m, weights, i * s.k_split, load_act(acts, i * s.k_split), acc);
            }
            weights = weights.map(|w| advance_weights(w, s.unroll * s.k_split));
            acts = advance_act(acts, s.unroll * s.k_split);
        }
    }
    for i in unroll(0..rest) {
        acc = accumulate(m, weights, i * s.k_split, load_act(acts, i * s.k_split), acc);
    }
    let odd = n_super_blocks % s.k_split;
    if odd > 0 {
        if at.part < odd {
            acc = accumulate(m, weights, rest * s.k_split, load_act(acts, rest * s.k_split), acc);
        }
    }
    acc
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
fn gemv_rows(m: &Matrix, (s, e): (Split, Epilogue), w: In<u32>, x: Act, to: Rows) {
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
pub fn gemv(s: &Gemv, w: In<u32>, quants: In<u32>, meta: In<u32>, y: InOut<f32>) {
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
    wq: In<u32>,
    wk: In<u32>,
    wv: In<u32>,
    quants: In<u32>,
    meta: In<u32>,
    qkv: InOut<f32>,
) {
    let x = Act { quants, meta };
    let cta = cta_id();
    let (n_q, n_k) = (s.ctas(0), s.ctas(1));
    let [q, k, v] = &s.matrices;
    let how = (s.split, Epilogue::Store);
    let tiles = s.split.tiles_per_cta;
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
        match (self.matrix.qtype, self.epilogue) {
            (QType::Q6K, Epilogue::Store) => "gemv_q6k",
            (QType::Q6K, Epilogue::Add) => "gemv_q6k_residual",
            (_, Epilogue::Store) => "gemv_q4k",
            (_, Epilogue::Add) => "gemv_q4k_residual",
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

/// Bytes of a quantized vector: a byte an element and 8 a block.
pub(crate) const fn act_bytes(cols: u32) -> u64 {
    cols as u64 + cols as u64 / 32 * 8
}

fn random_act(rng: &mut Rng, cols: u32) -> ActBlocks {
    quantize_row(&reference::random_activations(rng, cols))
}
