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
mod input;
mod k_quants;
mod lanes;
mod plain;
mod qkv;
mod staged;
mod stream;

pub(super) use bytes::{row_terms, word_bytes};
pub(super) use floats::Floats;
pub(super) use input::Input;
pub(super) use lanes::{
    Act, ActLane, Seat, SubBlock, Vector, dot_of_columns, dot_of_lane, load_act, load_sub_block,
    weights_of_lane,
};
pub use qkv::{GemvQkv, gemv_qkv, norm_gemv_qkv};
pub(crate) use staged::STAGED_WARPS;
use staged::copy_into;
pub(super) use staged::{Staged, fetch_weight, norm_into, room};
pub(super) use stream::{Behind, LaneActs, finish, is_narrow, start};

/// What becomes of a finished row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `y = W x`
    Store,
    /// `y += W x`
    Add,
}

/// Warps of a CTA whose vector need not be prepared.
pub(crate) const WARPS: u32 = 8;
/// Shared memory that a copied vector may take, bytes.
const STAGED_BYTES: u32 = 44 * 1024;

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

    /// The same parts in CTAs of `n_warps` warps.
    #[must_use]
    pub const fn with_warps(self, n_warps: u32) -> Split {
        Split { tiles_per_cta: n_warps / self.k_split, ..self }
    }

    /// CTAs that a multiprocessor must be able to hold: 1024 threads, which leaves each 64 registers. Without this ptxas
    /// aims at more threads than there is work for, and spills.
    pub const fn min_ctas(&self) -> u32 {
        1024 / self.threads()
    }

    /// Enough warps to fill the device's multiprocessors with 16 or more each, of the 32 that each holds with 64 registers a
    /// thread, in CTAs of at most `most_warps`; the parts do not depend on that. From sm_100 on
    /// ptxas needs more registers for the same code, and more than two super-blocks in flight would spill.
    pub fn choose(n_tiles: u32, n_super_blocks: u32, device: Device, most_warps: u32) -> Split {
        let n_sms = device.n_sms;
        let wanted = 16 * n_sms;
        let mut k_split = 1;
        while k_split < 8 && n_tiles * k_split < wanted && n_super_blocks >= 4 * k_split {
            k_split *= 2;
        }
        let mut tiles_per_cta = most_warps / k_split;
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

/// What becomes of a row: `before` is what it is added to.
#[device]
fn store_row(y: InOut<f32>, row: V<u32>, sum: V<f32>, before: Option<V<f32>>) {
    match before {
        None => y.at(row).store(sum),
        Some(before) => y.at(row).store(before + sum),
    }
}

/// What a thread's row is added to, fetched ahead.
#[device]
fn before_of(m: &Matrix, e: Epilogue, y: InOut<f32>, row: V<u32>) -> Option<V<f32>> {
    match e {
        Epilogue::Store => None,
        Epilogue::Add => Some(y.at(min(row, m.rows - 1)).load()),
    }
}

/// Where a CTA's rows go: the matrix's outputs, and the CTA's first tile.
#[derive(Clone, Copy)]
struct Rows {
    y: InOut<f32>,
    first_tile: V<u32>,
}

/// The row whose sum a thread gets in the end, which the first thread of a row, or of the CTA, stores.
#[device]
fn row_of_thread(s: Split, first_tile: V<u32>) -> V<u32> {
    if s.k_split == 1 {
        (first_tile + warp_id()) * TILE_ROWS + lane_id() / SUB_BLOCKS
    } else {
        first_tile * TILE_ROWS + thread_idx_x()
    }
}

/// Where a warp works. Warps beyond the last tile repeat it: barriers want every warp, and their rows are not stored.
#[device]
fn seat_of_warp(m: &Matrix, s: Split, first_tile: V<u32>) -> Seat {
    let whole = m.n_tiles() % s.tiles_per_cta == 0;
    let tile = first_tile + warp_id() / s.k_split;
    let tile = if whole { tile } else { min(tile, m.n_tiles() - 1) };
    Seat { tile, part: warp_id() % s.k_split }
}

/// Sums the rows of one CTA over lanes and parts, and stores them.
#[device]
fn store_rows(m: &Matrix, (s, e): (Split, Epilogue), to: Rows, acc: V<f32>, before: Option<V<f32>>) {
    let Rows { y, first_tile } = to;
    let row = row_of_thread(s, first_tile);
    let before = match before {
        None => before_of(m, e, y, row),
        fetched => fetched,
    };
    if s.k_split == 1 {
        let sum = sum_lanes(acc, SUB_BLOCKS);
        if lane_id() % SUB_BLOCKS == 0 && row < m.rows {
            store_row(y, row, sum, before);
        }
    } else {
        let sum = sum_tile_rows(s, acc);
        if thread_idx_x() < TILE_ROWS * s.tiles_per_cta && row < m.rows {
            store_row(y, row, sum, before);
        }
    }
}

/// Computes the rows of one CTA.
#[device]
fn gemv_rows<X: Vector>(m: &Matrix, how: (Split, Epilogue), w: Fixed<u32>, x: X, to: Rows) {
    let at = seat_of_warp(m, how.0, to.first_tile);
    let [acc] = dot_of_lane([m], how.0, [w], x, at);
    store_rows(m, how, to, acc, None);
}

/// Computes the rows of one CTA with weights on their way before the launches before this one are done. `meanwhile` is called
/// until then; `x` after that, for the vector from a lane's sub-block on, with what `meanwhile` gave and the weights behind those on
/// their way.
#[device]
fn stream_rows<X: LaneActs, E>(
    m: &Matrix,
    how: (Split, Epilogue),
    w: Fixed<u32>,
    to: Rows,
    (meanwhile, x): (impl Fn() -> E, impl Fn(Seat, V<u32>, (E, Behind)) -> X),
) {
    let at = seat_of_warp(m, how.0, to.first_tile);
    let stream = start([m], how.0, [w], at, [at.tile]);
    let early = meanwhile();
    wait_for_earlier();
    let before = before_of(m, how.1, to.y, row_of_thread(how.0, to.first_tile));
    let x = x(at, lane_id() % SUB_BLOCKS, (early, stream.behind([m])));
    let [acc] = finish([m], stream, x);
    store_rows(m, how, to, acc, before);
}

/// y[n] = Σ_k W[n,k]·x[k], or y[n] += …
/// shapes   W (rows, cols) packed · x (cols) int8 blocks of 32 · y (rows) f32
/// layout   tile of 4 rows × 8 lanes; lane j owns sub-block j of each super-block: one 16-byte load; where x is copied first, weights come nearer meanwhile
/// launch   grid ceil(rows / (4·tiles_per_cta)), block 32·k_split·tiles_per_cta, shared 16 bytes a warp when K is split, x where y is added to
/// source   GGML Q4_K, Q6_K; order of the sum: docs/numerics.md
#[kernel(grid = s.matrix.n_tiles().div_ceil(s.split.tiles_per_cta), block = s.split.threads(), min_ctas = s.split.min_ctas())]
pub fn gemv(s: &Gemv, w: Fixed<u32>, quants: In<u32>, meta: In<u32>, y: InOut<f32>) {
    let to = Rows { y, first_tile: cta_id() * s.split.tiles_per_cta };
    let (act, how) = (Act { quants, meta }, (s.split, s.epilogue));
    if s.stages() {
        let staged = Staged::room(s.matrix.cols);
        let of_lane = |at: Seat, sub, ((), behind): ((), Behind)| {
            copy_into(s.matrix.cols, s.split.threads(), (act, &behind), staged);
            staged.of_lane(at.part, sub)
        };
        stream_rows(&s.matrix, how, w, to, (|| (), of_lane));
    } else {
        let of_lane = |at: Seat, sub, _: ((), Behind)| act.of_lane(at.part, sub);
        stream_rows(&s.matrix, how, w, to, (|| (), of_lane));
    }
}

impl Gemv {
    /// Whether each CTA copies the vector for its warps first. That of the head does not: of its many CTAs, some copy while others
    /// multiply, and it gained nothing (bench/NOTES.md).
    pub(crate) fn stages(&self) -> bool {
        Staged::bytes(self.matrix.cols) <= STAGED_BYTES && matches!(self.epilogue, Epilogue::Add)
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
