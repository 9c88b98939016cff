//! The first of two launches of attention: each stretch of positions on its own.

use super::join::{Parts, Room, join_warps};
use super::scene::Scene;
use super::walk::{self, Source, Span, State, part_of, walk};
use super::{Attend, Extent, PER_LANE, tensor};
use crate::dsl::{BuildError, Kernel, Ptr, Readable, prelude::*};
use crate::kernels::operation::{Cost, Expect, Operation, Trial};
use crate::kernels::reference;
use crate::kernels::rows::for_row;

/// The first launch.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendSplit(pub Attend);

/// m = max s_p, l = Σ 2^(s_p − m), o = Σ 2^(s_p − m) v_p over one stretch, with s_p = q·k_p
/// shapes   control as in the plan · qkv: q (row, n_heads, head_dim) f32, scaled · kv (sequence) of the addresses of K, V (position, n_kv_heads, head_dim) in rows of the cache's type · partial (row, kv head, stretch, group, head_dim) f32 · stats likewise of (m, l)
/// layout   K and V are read once for all query heads of a group; a warp takes 16 positions on tensor cores, or in f32 with head_dim / 8 lanes to a position; a lane weighs a few positions and heads
/// launch   grid (n_splits, n_kv_heads, rows), block 256 or 128; stretches beyond the length return at once
/// source   Dao et al. 2022 and 2023 (flash decoding); powers of two by polynomial
#[kernel(grid = (s.0.n_splits, s.0.n_kv_heads, s.0.rows.count), block = s.0.threads())]
pub fn attend_split(
    s: &AttendSplit,
    control: In<u32>,
    qkv: In<f32>,
    kv: In<u64>,
    partial: Out<f32>,
    stats: Out<f32>,
) {
    let s = &s.0;
    for_row(s.rows.count, block_idx_z(), control, |here| {
        let (split, kv_head) = (block_idx_x(), block_idx_y());
        let extent = Extent::new(s, here.control(control).at(1).load());
        let offset = split * extent.stretch;
        if split == 0 || offset < extent.cached {
            let [k, v] = here.caches(s.rows, control, kv);
            let caches: [In<u8>; 2] = [at_address(k), at_address(v)];
            let source = Source { k: caches[0], v: caches[1], element: kv_head * s.head_dim };
            let has_newest = offset + extent.stretch >= extent.cached;
            let at = Stretch { source, span: Span::new(s, extent, split), newest: extent.newest, has_newest };
            let q = here.of(qkv, s.qkv_dim()).offset(kv_head * (s.group() * s.head_dim));
            let room = Room::new(s);
            if s.on_tensor_cores() {
                attend_on_tensor_cores(s, at, q, room);
            } else {
                attend_by_lanes(s, at, q, room);
            }
            let quads = join_warps(s, room);
            let parts = Parts { partial: here.of(partial, s.partials()), stats: here.of(stats, s.stats()) };
            parts.store(s, kv_head * s.n_splits + split, &quads);
        }
    });
}

/// What a CTA attends to.
#[derive(Clone, Copy)]
struct Stretch<K> {
    source: Source<K>,
    span: Span,
    newest: V<u32>,
    /// Whether the newest position belongs to it.
    has_newest: V<bool>,
}

impl<K: Readable + Copy> Stretch<K> {
    /// Eight elements of the newest position in `cache`, from one of the key head on.
    #[device]
    fn of_newest(self, s: &Attend, cache: Ptr<u8, K>, first: V<u32>) -> Vec<V<f32>> {
        let rows = s.kv_rows();
        rows.widen(&rows.fetch(cache, rows.place(self.newest), self.source.element + first))
    }
}

#[device]
fn attend_by_lanes<K: Readable + Copy>(s: &Attend, at: Stretch<K>, queries: In<f32>, room: Room) {
    let ahead = walk::fetch_first(s, at.source, at.span);
    let q = load_queries(s, queries);
    let (mut m, mut l, mut o) = State::empty(s).parts();
    if at.has_newest && warp_id() == s.warps() - 1 {
        let place = part_of(s) * PER_LANE;
        let [k, v] = [at.source.k, at.source.v].map(|cache| at.of_newest(s, cache, place));
        (m, l, o) = State::of_one(s, &q, &k, &v).parts();
    }
    room.put(s, walk(s, &q, (at.source, at.span), ahead, State { m, l, o }));
}

#[device]
fn attend_on_tensor_cores<K: Readable + Copy>(s: &Attend, at: Stretch<K>, queries: In<f32>, room: Room) {
    let ahead = tensor::fetch_first(s, at.source, at.span);
    let own = queries.offset(tensor::head_of(s) * s.head_dim);
    let query = |first: V<u32>| own.at(first).load_x4().to_vec();
    let newest = tensor::Newest {
        here: at.has_newest,
        key: |first| at.of_newest(s, at.source.k, first),
        value: |first| at.of_newest(s, at.source.v, first),
    };
    room.put_tensor(s, &tensor::attend(s, query, newest, (at.source, at.span, ahead)));
}

#[device]
fn load_eight(from: In<f32>) -> Vec<V<f32>> {
    [from.at(0).load_x4(), from.at(4).load_x4()].concat()
}

/// The lane's elements of each query head of a group.
#[device]
fn load_queries(s: &Attend, queries: In<f32>) -> Vec<Vec<V<f32>>> {
    let mut q = Vec::new();
    for g in unroll(0..s.group()) {
        q.push(load_eight(queries.offset(part_of(s) * PER_LANE + g * s.head_dim)));
    }
    q
}

impl Operation for AttendSplit {
    fn name(&self) -> &'static str {
        "attend_split"
    }

    fn constants(&self) -> String {
        format!("{:?}", self.0)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        attend_split(self)
    }

    /// For one position of one row; a launch moves this times the lengths of the rows' caches.
    fn cost(&self) -> Cost {
        let s = &self.0;
        Cost { bytes: 2 * u64::from(s.kv_rows().bytes()), macs: 2 * u64::from(s.q_dim()) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0;
        let (control, scenes) = Scene::random_rows(s, seed);
        let (mut parts, mut qkv) = (ExpectedParts::default(), Vec::new());
        for (r, scene) in (0..).zip(&scenes) {
            qkv.extend(scene.q.iter().copied());
            qkv.resize((r as usize + 1) * s.qkv_dim() as usize, 0.0);
            parts.add(s, r, scene);
        }
        let n = s.rows.count as usize;
        let mut caches = vec![[vec![], vec![]]; n];
        for (row, scene) in control.rows.iter().zip(&scenes) {
            caches[row[2] as usize] = [scene.k.clone(), scene.v.clone()];
        }
        let trial =
            Trial::new(seed).input(control.bytes()).input(reference::bytes_f32(&qkv)).caches(s.rows, n, 2);
        let trial = trial
            .output(s.partial_bytes(), Expect::NearF32(parts.partial))
            .output(s.stats_bytes(), Expect::NearF32(parts.stats));
        caches.into_iter().flatten().fold(trial, |t, cache| t.linked(cache, Expect::Unchanged))
    }
}

/// What the stretches of rows must come to: (place, value, bound).
#[derive(Default)]
pub(super) struct ExpectedParts {
    pub(super) partial: Vec<(usize, f64, f64)>,
    pub(super) stats: Vec<(usize, f64, f64)>,
}

impl ExpectedParts {
    /// Adds the stretches of row `r`.
    pub(super) fn add(&mut self, s: &Attend, r: u32, scene: &Scene) {
        for head in 0..s.n_heads {
            for (split, positions) in (0..).zip(s.stretches(scene.len)) {
                let x = scene.stretch(s, head, positions);
                let row = r * s.n_splits * s.n_heads
                    + (head / s.group() * s.n_splits + split) * s.group()
                    + head % s.group();
                let row = row as usize;
                self.stats.push((2 * row, x.m, x.score_bound));
                self.stats.push((2 * row + 1, x.l, x.relative * x.l));
                let outputs = x.o.iter().zip(&x.magnitude).zip(&x.slack).enumerate();
                self.partial.extend(
                    outputs.map(|(e, ((o, a), slack))| {
                        (row * s.head_dim as usize + e, *o, x.relative * a + slack)
                    }),
                );
            }
        }
    }
}
