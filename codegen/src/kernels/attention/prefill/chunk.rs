//! What a CTA does with its chunk of queries: it goes through the tiles of keys and values that any of them sees, scores them,
//! and keeps a running maximum, sum and output for each query.

use super::tile::{self, Source, Tiles};
use super::{AttendPrefill, KEY_LANES, KEY_STEPS, KEYS, QUERY_LANES, THREADS, TILE};
use crate::dsl::{Ptr, Readable, prelude::*};
use crate::kernels::attention::{LEAST, decay::decay};
use crate::kernels::rows::Row;

/// What a CTA works on.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub kv_head: V<u32>,
    /// Its first query.
    pub first: V<u32>,
    /// Queries of the launch in this key head.
    pub n_queries: V<u32>,
    /// Position of row 0.
    position: V<u32>,
}

impl Chunk {
    #[device]
    pub fn new(s: &AttendPrefill, control: In<u32>, first: V<u32>, n_queries: V<u32>) -> Chunk {
        let position = Row::new(s.rows.count, dev(0)).control(control).at(1).load();
        Chunk { kv_head: block_idx_y(), first, n_queries, position }
    }
}

/// Where a lane stands: lanes that share a query are 2, 4 and 8 apart, which lets both halves of a warp read shared
/// memory without conflicts.
#[derive(Clone, Copy)]
pub(super) struct LanePlace {
    /// First query of the lane, in the CTA; the next are `QUERY_LANES` apart.
    pub query: V<u32>,
    /// First key of the lane, in a tile; the next are `KEY_LANES` apart.
    pub key: V<u32>,
    /// The lane of its queries that has key 0.
    home: V<u32>,
}

#[device]
pub(super) fn lane_place(s: &AttendPrefill) -> LanePlace {
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
pub(super) struct State {
    /// Sums of the weights of the lane's own keys.
    pub l: Vec<V<f32>>,
    /// Quads of each query, element by element.
    pub o: Vec<Vec<V<f32>>>,
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

/// The first query of the CTA and how many the launch has in a key head.
#[device]
pub(super) fn queries_of(s: &AttendPrefill, control: In<u32>) -> (V<u32>, V<u32>) {
    // The last rows see the most positions: their CTAs come first.
    let first = (s.ctas() - 1 - block_idx_x()) * s.of_cta();
    (first, control.at(0).load() * s.group())
}

/// The caches of the sequence.
#[device]
pub(super) fn caches_of(s: &AttendPrefill, control: In<u32>, kv: In<u64>) -> [In<u8>; 2] {
    let [k, v] = Row::new(s.rows.count, dev(0)).caches(s.rows, control, kv);
    [at_address(k), at_address(v)]
}

/// What the lanes have of their queries in the end.
#[device]
pub(super) fn attend_chunk<K: Readable>(
    s: &AttendPrefill,
    c: Chunk,
    qkv: Ptr<f32, K>,
    caches: [In<u8>; 2],
) -> State {
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
