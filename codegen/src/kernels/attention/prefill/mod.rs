//! Attention of a chunk of one sequence: rows at consecutive positions whose keys and values are in the cache already.
//!
//! Scores never reach memory: a CTA goes through the keys in tiles and keeps a running maximum, sum and output for each
//! of its queries (flash attention). Tiles begin at multiples of [`TILE`] positions and a tile that a row does not see
//! changes nothing of it, so a row's bits depend on its own position only, not on where its chunk begins.

mod chunk;
mod exact;
mod tile;
mod trial;

use crate::dsl::{BuildError, Kernel, Ptr, Writable, prelude::*};
use crate::kernels::gemv::act_bytes;
use crate::kernels::kv_rows::KvRows;
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::quantize;
use crate::kernels::rows::Rows;
use ::plan::KvType;
use chunk::{Chunk, State, attend_chunk, caches_of, lane_place, queries_of};
use tile::Tiles;

/// Positions that are scored at once.
pub(super) const TILE: u32 = 32;
/// Lanes of a warp that share its queries: as many hold different ones.
const QUERY_LANES: u32 = 4;
/// Lanes that share a query: each has every eighth key of a tile and every eighth quad of the output.
const KEY_LANES: u32 = 8;
/// Keys of a tile that a lane scores.
const KEYS: usize = (TILE / KEY_LANES) as usize;
/// Distances of the lanes that share a query.
const KEY_STEPS: [u32; 3] = [8, 4, 2];
/// Warps of a CTA.
const WARPS: u32 = 4;
/// Threads of a CTA.
const THREADS: u32 = 32 * WARPS;

/// Attention of all rows of a launch, which belong to one sequence: row 0 names it and its position, row `i` is `i`
/// positions further.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendPrefill {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Elements of a head: a multiple of 16 up to 256.
    pub head_dim: u32,
    /// Queries of a lane: see [`AttendPrefill::per_lane_for`].
    pub per_lane: u32,
    /// A row sees this many positions, its own included; all, if `None`.
    pub window: Option<u32>,
    /// Element type of the caches.
    pub kv: KvType,
    /// Rows of the step.
    pub rows: Rows,
}

impl AttendPrefill {
    /// The queries a lane that fit shared memory and take the multiprocessors the least time, by a rough count: a CTA issues
    /// about six instructions a query for one that does not depend on how many it has, the busiest multiprocessor sets
    /// the pace, and one CTA alone waits at barriers for two fifths of what two side by side take for each.
    pub fn per_lane_for(n_heads: u32, head_dim: u32, rows: u32, n_sms: u32) -> u32 {
        let queries = |per_lane: u32| WARPS * QUERY_LANES * per_lane;
        let fits = |per_lane: &u32| {
            let bytes = 4 * (queries(*per_lane) * (head_dim + 4) + Tiles::new(head_dim).elements());
            bytes <= ::plan::MAX_STATIC_SHARED_BYTES
        };
        let time = |per_lane: &u32| {
            let of_one = (rows * n_heads).div_ceil(queries(*per_lane)).div_ceil(n_sms);
            of_one * (6 * per_lane + 1) * if of_one == 1 { 7 } else { 5 }
        };
        (1..=4).filter(fits).min_by_key(time).unwrap_or(1)
    }

    /// Query heads that share a key head.
    const fn group(&self) -> u32 {
        self.n_heads / self.n_kv_heads
    }

    /// Rows of the caches.
    const fn kv_rows(&self) -> KvRows {
        KvRows::new(self.kv, self.n_kv_heads * self.head_dim)
    }

    const fn q_dim(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    const fn qkv_dim(&self) -> u32 {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    /// Queries of a warp.
    const fn of_warp(&self) -> u32 {
        QUERY_LANES * self.per_lane
    }

    /// Queries of a CTA: heads of a group, row after row.
    const fn of_cta(&self) -> u32 {
        WARPS * self.of_warp()
    }

    /// CTAs of a key head.
    const fn ctas(&self) -> u32 {
        (self.rows.count * self.group()).div_ceil(self.of_cta())
    }

    /// Elements from a query to the next in shared memory: an odd number of quads, so that neighbours lie in other banks.
    const fn pitch(&self) -> u32 {
        self.head_dim + 4
    }

    /// Quads of the output that a lane holds for each of its queries. Where a head ends in half a block, half of the lanes
    /// hold the last quad and the others repeat it.
    const fn quads(&self) -> u32 {
        self.head_dim.div_ceil(4 * KEY_LANES)
    }

    /// Whether a quad is one of half of the lanes.
    const fn is_half(&self, quad: u32) -> bool {
        (quad + 1) * 4 * KEY_LANES > self.head_dim
    }

    /// Whether heads are whole activation blocks. Otherwise a block belongs to two heads, which need not be in one CTA:
    /// outputs then take the place of the queries, and [`super::QuantizeRows`] comes after.
    pub const fn quantizes(&self) -> bool {
        self.head_dim.is_multiple_of(32)
    }
}

/// o = softmax(q·K) V for each row over the positions that it sees, quantized
/// shapes   control as in the plan, rows at consecutive positions · qkv (row, q_dim + 2 kv_dim) f32, q scaled · kv (sequence) of the addresses of K, V (position, n_kv_heads, head_dim) in rows of the cache's type · quants (row, q_dim) i8 · meta (row, q_dim / 32)
/// layout   a CTA takes (row, head of a group) pairs of a key head; a warp scores its queries with 32 keys at a time, 8 lanes a query
/// launch   grid (rows · group / queries of a CTA, n_kv_heads), block 128; CTAs beyond the active rows return at once
/// source   Dao et al. 2022 (flash attention), Milakov and Gimelshein 2018 (online softmax); powers of two by polynomial
#[kernel(grid = (s.ctas(), s.n_kv_heads), block = THREADS)]
pub fn attend_prefill(
    s: &AttendPrefill,
    control: In<u32>,
    qkv: In<f32>,
    kv: In<u64>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let (first, n_queries) = queries_of(s, control);
    if first >= n_queries {
        return;
    }
    let c = Chunk::new(s, control, first, n_queries);
    let state = attend_chunk(s, c, qkv, caches_of(s, control, kv));
    store_blocks(s, c, state, quants, meta);
}

/// o = softmax(q·K) V for each row over the positions that it sees, in place of q
/// shapes   as attend_prefill · qkv (row, q_dim + 2 kv_dim) f32, of which q becomes o
/// layout   as attend_prefill; a CTA reads and writes the queries that are its own
/// launch   as attend_prefill
/// source   as attend_prefill
#[kernel(grid = (s.ctas(), s.n_kv_heads), block = THREADS)]
pub fn attend_prefill_in_place(s: &AttendPrefill, control: In<u32>, qkv: InOut<f32>, kv: In<u64>) {
    let (first, n_queries) = queries_of(s, control);
    if first >= n_queries {
        return;
    }
    let c = Chunk::new(s, control, first, n_queries);
    let state = attend_chunk(s, c, qkv, caches_of(s, control, kv));
    store_rows(s, c, state, (qkv, s.qkv_dim()));
}

/// The outputs of a lane's query `i`, divided by the sum, with the query's place: row and head.
#[device]
fn outputs(s: &AttendPrefill, c: Chunk, state: &State, i: u32) -> (Vec<[V<f32>; 4]>, [V<u32>; 2]) {
    let mut sum = state.l[i as usize];
    for step in each(KEY_STEPS) {
        sum = sum + shuffle_xor(sum, step);
    }
    let query = c.first + lane_place(s).query + i * QUERY_LANES;
    let place = [query / s.group(), c.kv_head * s.group() + query % s.group()];
    let quads = state.o[i as usize].chunks_exact(4);
    (quads.map(|o| [o[0] / sum, o[1] / sum, o[2] / sum, o[3] / sum]).collect(), place)
}

/// Quantizes and stores the outputs of active rows.
#[device]
fn store_blocks(s: &AttendPrefill, c: Chunk, state: State, quants: Out<u32>, meta: Out<u32>) {
    let at = lane_place(s);
    for i in unroll(0..s.per_lane) {
        let (quads, [row, head]) = outputs(s, c, &state, i);
        let there = c.first + at.query + i * QUERY_LANES < c.n_queries;
        let first = row * (s.q_dim() / 4) + head * (s.head_dim / 4) + at.key;
        for (n, quad) in each((0..).zip(quads)) {
            quantize::store_quad_spread(quad, first + n * KEY_LANES, there, quants, meta);
        }
    }
}

/// Stores the outputs of active rows, which are so many elements apart.
#[device]
fn store_rows<K: Writable>(s: &AttendPrefill, c: Chunk, state: State, (to, stride): (Ptr<f32, K>, u32)) {
    let at = lane_place(s);
    for i in unroll(0..s.per_lane) {
        let (quads, [row, head]) = outputs(s, c, &state, i);
        let there = c.first + at.query + i * QUERY_LANES < c.n_queries;
        let first = to.offset(row * stride).offset(head * s.head_dim + at.key * 4);
        for (n, quad) in each((0u32..).zip(quads)) {
            let last = if s.is_half(n) { KEY_LANES / 2 } else { KEY_LANES };
            if there && at.key < last {
                first.at(n * KEY_LANES * 4).store_x4(quad);
            }
        }
    }
}

impl Operation for AttendPrefill {
    fn name(&self) -> &'static str {
        if self.quantizes() { "attend_prefill" } else { "attend_prefill_in_place" }
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        if self.quantizes() { attend_prefill(self) } else { attend_prefill_in_place(self) }
    }

    /// For one position that all rows see; a launch moves and computes this times the positions seen.
    fn cost(&self) -> Cost {
        let (rows, q_dim) = (u64::from(self.rows.count), u64::from(self.q_dim()));
        let kv = 2 * u64::from(self.kv_rows().bytes());
        Cost { bytes: kv + rows * (4 * q_dim + act_bytes(self.q_dim())), macs: 2 * rows * q_dim }
    }

    fn trial(&self, seed: u64) -> Trial {
        trial::trial(self, seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_a_lane_keep_every_multiprocessor_busy() {
        // (query heads, elements, rows), on 132 multiprocessors.
        for (shape, wanted) in
            [((12, 128, 256), 1), ((28, 128, 256), 2), ((32, 128, 256), 2), ((32, 128, 32), 1)]
        {
            let (n_heads, head_dim, rows) = shape;
            assert_eq!(AttendPrefill::per_lane_for(n_heads, head_dim, rows, 132), wanted, "{shape:?}");
        }
        // Of a device with few, each has work for many.
        assert_eq!(AttendPrefill::per_lane_for(32, 64, 256, 8), 4);
    }
}
