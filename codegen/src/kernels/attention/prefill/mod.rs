//! Attention of a chunk of one sequence: rows at consecutive positions whose keys and values are in the cache already.
//!
//! Scores never reach memory: a CTA goes through the keys in tiles and keeps a running maximum, sum and output for each
//! of its queries (flash attention). Tiles begin at multiples of [`TILE`] positions and a tile that a row does not see
//! changes nothing of it, so a row's bits depend on its own position only, not on where its chunk begins.

mod exact;
mod tile;
mod trial;

use super::{LEAST, decay::decay};
use crate::dsl::{BuildError, Kernel, Ptr, Readable, Writable, prelude::*};
use crate::kernels::gemv::act_bytes;
use crate::kernels::kv_rows::KvRows;
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::quantize;
use crate::kernels::rows::{Row, Rows};
use ::plan::KvType;
use tile::{Source, Tiles};

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
/// Shared memory that a kernel may declare.
const SHARED_BYTES: u32 = 48 << 10;

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
            bytes <= SHARED_BYTES
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

/// What a CTA works on.
#[derive(Clone, Copy)]
struct Chunk {
    kv_head: V<u32>,
    /// Its first query.
    first: V<u32>,
    /// Queries of the launch in this key head.
    n_queries: V<u32>,
    /// Position of row 0.
    position: V<u32>,
}

impl Chunk {
    #[device]
    fn new(s: &AttendPrefill, control: In<u32>, first: V<u32>, n_queries: V<u32>) -> Chunk {
        let position = Row::new(s.rows.count, dev(0)).control(control).at(1).load();
        Chunk { kv_head: block_idx_y(), first, n_queries, position }
    }
}

/// Where a lane stands: lanes that share a query are 2, 4 and 8 apart, which lets both halves of a warp read shared
/// memory without conflicts.
#[derive(Clone, Copy)]
struct LanePlace {
    /// First query of the lane, in the CTA; the next are `QUERY_LANES` apart.
    query: V<u32>,
    /// First key of the lane, in a tile; the next are `KEY_LANES` apart.
    key: V<u32>,
    /// The lane of its queries that has key 0.
    home: V<u32>,
}

#[device]
fn lane_place(s: &AttendPrefill) -> LanePlace {
    let lane = lane_id();
    LanePlace {
        query: warp_id() * s.of_warp() + (lane & 1) + (lane >> 4) * 2,
        key: lane >> 1 & (KEY_LANES - 1),
        home: lane & 0b10001,
    }
}

/// The row of a query in the CTA; of queries beyond the last, the last row.
#[device]
fn row_of(s: &AttendPrefill, c: Chunk, query: V<u32>) -> V<u32> {
    min(c.first + query, c.n_queries - 1) / s.group()
}

/// Puts the CTA's queries into shared memory.
#[device]
fn load_queries<K: Readable>(s: &AttendPrefill, c: Chunk, qkv: Ptr<f32, K>, queries: Shared<f32>) {
    let of_query = s.head_dim / 4;
    let quads = s.of_cta() * of_query;
    for turn in 0..quads.div_ceil(THREADS) {
        let i = min(thread_idx_x() + turn * THREADS, quads - 1);
        let (query, quad) = (i / of_query, i % of_query);
        let place = min(c.first + query, c.n_queries - 1);
        let (row, head) = (place / s.group(), c.kv_head * s.group() + place % s.group());
        let from = qkv.offset(row * s.qkv_dim()).offset(head * s.head_dim + quad * 4);
        if thread_idx_x() + turn * THREADS < quads {
            queries.at(query * s.pitch() + quad * 4).store_x4(from.at(0).load_x4());
        }
    }
}

/// Adds a slab's part of the dot products of a lane's queries with its keys, element by element.
#[device]
fn add_scores(
    s: &AttendPrefill,
    queries: Shared<f32>,
    keys: (Shared<f32>, u32),
    n_elements: u32,
    scores: &mut [Vec<V<f32>>],
) {
    let (keys, pitch) = keys;
    // Few queries a lane have little to compute while they wait for their loads.
    for quad in unroll(0..n_elements / 4, if s.per_lane == 1 { 4 } else { 2 }) {
        let (from_q, from_k) = (queries.offset(quad * 4), keys.offset(quad * 4));
        let mut q = Vec::new();
        for i in unroll(0..s.per_lane) {
            q.push(from_q.at(i * QUERY_LANES * s.pitch()).load_x4());
        }
        let mut k = Vec::new();
        for j in unroll(0..KEYS as u32) {
            k.push(from_k.at(j * KEY_LANES * pitch).load_x4());
        }
        for e in unroll(0..4) {
            for i in unroll(0..q.len()) {
                for j in unroll(0..KEYS) {
                    scores[i][j] = fma(q[i][e], k[j][e], scores[i][j]);
                }
            }
        }
    }
}

/// What a lane has of its queries in the end.
struct State {
    /// Sums of the weights of the lane's own keys.
    l: Vec<V<f32>>,
    /// Quads of each query, element by element.
    o: Vec<Vec<V<f32>>>,
}

/// Makes scores into weights relative to the new maximum, and rescales the state to it.
#[device]
fn weigh(scores: &mut [Vec<V<f32>>], m: &mut [V<f32>], l: &mut [V<f32>], o: &mut [Vec<V<f32>>]) {
    for i in unroll(0..scores.len()) {
        let mut largest = m[i];
        for j in unroll(0..KEYS) {
            largest = max(largest, scores[i][j]);
        }
        for step in each(KEY_STEPS) {
            largest = max(largest, shuffle_xor(largest, step));
        }
        let keep = decay(m[i] - largest);
        m[i] = largest;
        let mut sum = decay(scores[i][0] - largest);
        scores[i][0] = sum;
        for j in unroll(1..KEYS) {
            scores[i][j] = decay(scores[i][j] - largest);
            sum = sum + scores[i][j];
        }
        l[i] = fma(l[i], keep, sum);
        for e in unroll(0..o[i].len()) {
            o[i][e] = o[i][e] * keep;
        }
    }
}

/// o += p_k v_k for eight keys in order, whose weights lie in place `j` of the lanes.
#[device]
fn add_values(
    s: &AttendPrefill,
    at: LanePlace,
    values: (Shared<f32>, u32),
    weights: &[V<f32>],
    o: &mut [Vec<V<f32>>],
) {
    let (values, pitch) = values;
    let (of_all, of_half) = (values.offset(at.key * 4), values.offset(at.key % (KEY_LANES / 2) * 4));
    for key in unroll(0..KEY_LANES, 2) {
        let mut p = Vec::new();
        for weight in each(weights.iter().copied()) {
            p.push(shuffle_idx(weight, at.home + key * 2));
        }
        for quad in unroll(0..s.quads()) {
            let row = if s.is_half(quad) { of_half } else { of_all }.offset(key * pitch);
            let v = row.at(quad * 4 * KEY_LANES).load_x4();
            for i in unroll(0..p.len()) {
                for e in unroll(0..4) {
                    let place = quad as usize * 4 + e;
                    o[i][place] = fma(p[i], v[e], o[i][place]);
                }
            }
        }
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

/// The first query of the CTA and how many the launch has in a key head.
#[device]
fn queries_of(s: &AttendPrefill, control: In<u32>) -> (V<u32>, V<u32>) {
    // The last rows see the most positions: their CTAs come first.
    let first = (s.ctas() - 1 - block_idx_x()) * s.of_cta();
    (first, control.at(0).load() * s.group())
}

/// The caches of the sequence.
#[device]
fn caches_of(s: &AttendPrefill, control: In<u32>, kv: In<u64>) -> [In<u8>; 2] {
    let [k, v] = Row::new(s.rows.count, dev(0)).caches(s.rows, control, kv);
    [at_address(k), at_address(v)]
}

/// What the lanes have of their queries in the end.
#[device]
fn attend_chunk<K: Readable>(s: &AttendPrefill, c: Chunk, qkv: Ptr<f32, K>, caches: [In<u8>; 2]) -> State {
    let queries = shared::<f32>(s.of_cta() * s.pitch());
    load_queries(s, c, qkv, queries);
    let source = Source {
        k: caches[0],
        v: caches[1],
        rows: s.kv_rows(),
        element: c.kv_head * s.head_dim,
        last: c.position + row_of(s, c, dev(s.of_cta() - 1)),
    };
    let at = lane_place(s);
    attend_tiles(s, c, at, queries.offset(at.query * s.pitch()), source)
}

/// The first position that a row sees.
#[device]
fn first_seen(s: &AttendPrefill, position: V<u32>) -> V<u32> {
    match s.window {
        Some(window) => max(position + 1, window) - window,
        None => dev(0),
    }
}

/// Whether a row at `position` sees the position `key`.
#[device]
fn sees(s: &AttendPrefill, position: V<u32>, key: V<u32>) -> V<bool> {
    if s.window.is_some() { key <= position && key >= first_seen(s, position) } else { key <= position }
}

/// Goes through all tiles that any row of the CTA sees.
#[device]
fn attend_tiles(s: &AttendPrefill, c: Chunk, at: LanePlace, queries: Shared<f32>, source: Source) -> State {
    let tiles = Tiles::new(s.head_dim);
    let buffer = shared::<f32>(tiles.elements());
    let n = s.per_lane as usize;
    let mut positions = Vec::new();
    for i in unroll(0..s.per_lane) {
        positions.push(c.position + row_of(s, c, at.query + i * QUERY_LANES));
    }
    let mut m = vec![dev(LEAST); n];
    let mut l = vec![dev(0.0f32); n];
    let mut o = vec![vec![dev(0.0f32); s.quads() as usize * 4]; n];
    let begin = first_seen(s, c.position + row_of(s, c, dev(0))) / TILE;
    let mut held = tile::fetch(source, tiles.keys(0), begin * TILE);
    for turn in begin..source.last / TILE + 1 {
        let start = turn * TILE;
        let mut scores = vec![vec![dev(0.0f32); KEYS]; n];
        for slab in unroll(0..tiles.n_keys()) {
            tile::put(source.rows, &held, tiles.keys(slab), buffer);
            held = if slab + 1 < tiles.n_keys() {
                tile::fetch(source, tiles.keys(slab + 1), start)
            } else {
                tile::fetch(source, tiles.values(0), start)
            };
            let k = tiles.keys(slab);
            let keys = (buffer.offset(at.key * k.pitch()), k.pitch());
            add_scores(s, queries.offset(k.first_element), keys, k.n_elements, &mut scores);
        }
        for i in unroll(0..n) {
            for j in unroll(0..KEYS) {
                let key = start + at.key + j as u32 * KEY_LANES;
                scores[i][j] = select(sees(s, positions[i], key), scores[i][j], f32::NEG_INFINITY);
            }
        }
        weigh(&mut scores, &mut m, &mut l, &mut o);
        for slab in unroll(0..tiles.n_values()) {
            tile::put(source.rows, &held, tiles.values(slab), buffer);
            held = if slab + 1 < tiles.n_values() {
                tile::fetch(source, tiles.values(slab + 1), start)
            } else {
                tile::fetch(source, tiles.keys(0), start + TILE)
            };
            let v = tiles.values(slab);
            for eighth in unroll(0..v.n_keys / KEY_LANES) {
                let values = buffer.offset(eighth * KEY_LANES * v.pitch());
                let j = ((v.first_key + eighth * KEY_LANES) / KEY_LANES) as usize;
                let weights: Vec<V<f32>> = scores.iter().map(|of_query| of_query[j]).collect();
                add_values(s, at, (values, v.pitch()), &weights, &mut o);
            }
        }
    }
    State { l, o }
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
