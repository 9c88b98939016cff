//! Attention of one new position in one launch: biases, norms, rotation and the append before it, all stretches, and the
//! merge after it.

use super::join::{Parts, Quad, Room, join_stretches, join_warps, store_blocks, store_floats};
use super::newest::{Extra, Workshop, gather, norms_in_pairs, prepare};
use super::step_trial;
use super::walk::{self, Source, Span, Staged, State, load_part, part_of, walk};
use super::{Attend, Extent, PER_LANE, tensor};
use crate::dsl::{BuildError, Kernel, Ordering, Readable, Rmw, Scope, prelude::*};
use crate::kernels::exact::Exact;
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::rope::RopeAppend;
use crate::kernels::rows::{Row, for_row_or_wait};
use ::plan::{KvType, RopeKind};

/// All of a step's attention: what [`RopeAppend`], [`super::AttendSplit`] and [`super::AttendMerge`] do, to the bit. The rows
/// of a launch must belong to different sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct AttendStep {
    /// Heads and stretches.
    pub attend: Attend,
    /// Which elements form a pair.
    pub kind: RopeKind,
    /// Whether biases are added to Q, K and V.
    pub bias: bool,
    /// What is added to the mean square of a head of Q or K, where these are normed.
    pub norm_eps: Option<f32>,
    /// What scores are multiplied by.
    pub score_scale: f32,
}

impl AttendStep {
    /// Whether one launch can do it: a key head's outputs, and its keys in a cache of blocks, are whole blocks, and a lane has the elements
    /// that a norm sums up. Elsewhere three launches do it, or four.
    pub const fn fits(&self) -> bool {
        let s = &self.attend;
        let blocks = s.merged_kv_heads() == 1;
        let cache = !matches!(s.kv, KvType::Q8_0) || s.head_dim.is_multiple_of(32);
        let norm = self.norm_eps.is_none() || !self.bias && norms_in_pairs(self.kind, s.head_dim);
        blocks && cache && norm
    }

    /// How a CTA sees one query head, where those of a key head can be dealt out when one stretch is all there is: to as many
    /// CTAs, each with whole blocks of outputs and as many warps as a CTA of the whole group.
    fn single_heads(&self) -> Option<Attend> {
        let s = &self.attend;
        let one = Attend { n_heads: s.n_kv_heads, ..s.clone() };
        let fits = s.group() > 1 && s.n_splits >= s.group() && one.merged_kv_heads() == 1;
        (fits && one.warps() == s.warps()).then_some(one)
    }

    /// Bytes of the counters, which are 0 before and after each launch.
    pub const fn arrived_bytes(&self) -> u64 {
        4 * self.attend.n_kv_heads as u64 * self.attend.rows.count as u64
    }

    /// What rotates and appends when it is a launch of its own.
    pub(super) fn rope(&self) -> RopeAppend {
        let Attend { n_heads, n_kv_heads, head_dim, kv, rows, .. } = self.attend;
        RopeAppend {
            n_heads,
            n_kv_heads,
            head_dim,
            kind: self.kind,
            bias: self.bias,
            score_scale: self.score_scale,
            kv,
            rows,
        }
    }
}

/// What a launch reads.
#[derive(Clone, Copy)]
struct Inputs {
    control: Settled<u32>,
    /// `(cos, sin)` of each position.
    table: Fixed<f32>,
    extra: Extra,
    qkv: In<f32>,
    kv: Settled<u64>,
}

/// Where the stretches of a row meet.
#[derive(Clone, Copy)]
struct Meeting {
    partial: InOut<f32>,
    stats: InOut<f32>,
    /// CTAs of each key head that are done.
    arrived: InOut<u32>,
}

/// What a CTA of a row does.
#[derive(Clone, Copy)]
struct Part {
    split: V<u32>,
    kv_head: V<u32>,
    /// Its first query head.
    first_head: V<u32>,
    is_last: V<bool>,
    appends: V<bool>,
}

/// The row's attention; `store` gets the CTA's row, its heads (those of a key head, or one) and their outputs: the heads are the
/// `n`-th such lot.
#[device]
fn attend_row(
    s: &AttendStep,
    from: Inputs,
    meeting: Meeting,
    store: impl Fn(Row, (&Attend, V<u32>), &[Quad]),
) {
    for_row_or_wait(s.attend.rows.count, block_idx_z(), from.control, |here| {
        let (kv_head, split) = (block_idx_x(), block_idx_y());
        let extent = Extent::new(&s.attend, here.control(from.control).at(1).load());
        if let Some(one) = s.single_heads() {
            // One stretch is all: its heads go to the CTAs that would have other stretches.
            if extent.cached <= extent.stretch {
                if split < s.attend.group() {
                    let first_head = kv_head * s.attend.group() + split;
                    let is_last = extent.cached <= extent.stretch;
                    let part = Part { split: dev(0), kv_head, first_head, is_last, appends: split == 0 };
                    let quads = attend_stretch((s, &one), (from, here), extent, part);
                    store(here, (&one, first_head), &quads);
                } else {
                    wait_for_earlier();
                }
            } else {
                attend_stretches(s, (from, here, meeting), (extent, split, kv_head), &store);
            }
        } else {
            attend_stretches(s, (from, here, meeting), (extent, split, kv_head), &store);
        }
    });
}

/// The CTA's stretch of a key head; the last CTA to be done stores what all of them give.
#[device]
fn attend_stretches(
    s: &AttendStep,
    (from, here, meeting): (Inputs, Row, Meeting),
    (extent, split, kv_head): (Extent, V<u32>, V<u32>),
    store: &impl Fn(Row, (&Attend, V<u32>), &[Quad]),
) {
    let attend = &s.attend;
    let offset = split * extent.stretch;
    if split == 0 || offset < extent.cached {
        let is_last = offset + extent.stretch >= extent.cached;
        let first_head = kv_head * attend.group();
        let part = Part { split, kv_head, first_head, is_last, appends: is_last };
        let quads = attend_stretch((s, attend), (from, here), extent, part);
        if s.single_heads().is_some() {
            meet(attend, (meeting, here), (extent.active(), kv_head, split), &quads, store);
        } else {
            if extent.cached <= extent.stretch {
                store(here, (attend, kv_head), &quads);
            } else {
                meet(attend, (meeting, here), (extent.active(), kv_head, split), &quads, store);
            }
        }
    } else {
        wait_for_earlier();
    }
}

/// The result of one stretch, for the query heads that `attend` says. Only what the matrices gave is waited for: the row's place,
/// its caches and the first of their rows were there before the step.
#[device]
fn attend_stretch(
    (s, attend): (&AttendStep, &Attend),
    (from, here): (Inputs, Row),
    extent: Extent,
    part: Part,
) -> Vec<Quad> {
    let (head_dim, group) = (attend.head_dim, attend.group());
    let caches = here.caches(attend.rows, from.control, from.kv);
    let [k, v] = caches;
    let element = part.kv_head * head_dim;
    let [k, v]: [Settled<u8>; 2] = [at_address(k), at_address(v)];
    let source = Source { k, v, element };
    let span = Span::new(attend, extent, part.split);
    let ahead = Ahead::new(attend, source, span);
    let queries = shared::<f32>(group * head_dim);
    let new = shared::<f32>(2 * head_dim);
    let workshop = Workshop {
        qkv: here.of(from.qkv, s.attend.qkv_dim()),
        angles: from.table.offset(extent.newest * head_dim),
        extra: from.extra,
        kv_head: part.kv_head,
        group,
        first_head: part.first_head,
        appends: part.appends,
        caches,
        newest: extent.newest,
        queries,
        new,
    };
    let early = gather(s, workshop);
    wait_for_earlier();
    prepare(s, workshop, early, part.is_last);
    sync_threads();
    let at = Stretch { source, span, queries, new, newest_here: part.is_last };
    let room = Room::new(attend);
    match ahead {
        Ahead::Lanes(ahead) => attend_by_lanes(attend, at, ahead, room),
        Ahead::Tensor(ahead) => attend_on_tensor_cores(attend, at, ahead, room),
    }
    join_warps(attend, room)
}

/// The first positions of a warp on their way.
enum Ahead {
    Lanes(walk::Fetched),
    Tensor(tensor::Fetched),
}

impl Ahead {
    #[device]
    fn new<K: Readable + Copy>(s: &Attend, source: Source<K>, span: Span) -> Ahead {
        if s.on_tensor_cores() {
            Ahead::Tensor(tensor::fetch_first(s, source, span))
        } else {
            Ahead::Lanes(walk::fetch_first(s, source, span))
        }
    }
}

/// What a CTA attends to.
#[derive(Clone, Copy)]
struct Stretch<K> {
    source: Source<K>,
    span: Span,
    /// The queries of its heads.
    queries: Shared<f32>,
    /// The new key, then the new value.
    new: Shared<f32>,
    /// Whether the newest position belongs to it.
    newest_here: V<bool>,
}

#[device]
fn attend_by_lanes<K: Readable + Copy>(s: &Attend, at: Stretch<K>, ahead: walk::Fetched, room: Room) {
    let place = part_of(s) * PER_LANE;
    let q = Staged { first: at.queries.offset(place), head_dim: s.head_dim };
    let (mut m, mut l, mut o) = State::empty(s).parts();
    if at.newest_here && warp_id() == s.warps() - 1 {
        let [k, v] = [0, s.head_dim].map(|first| load_part(at.new.offset(place), first));
        (m, l, o) = State::of_one(s, &q, &k, &v).parts();
    }
    room.put(s, walk(s, &q, (at.source, at.span), ahead, State { m, l, o }));
}

#[device]
fn attend_on_tensor_cores<K: Readable + Copy>(
    s: &Attend,
    at: Stretch<K>,
    ahead: tensor::Fetched,
    room: Room,
) {
    let own = at.queries.offset(tensor::head_of(s) * s.head_dim);
    let query = |first: V<u32>| own.at(first).load_x4().to_vec();
    let (mut m, mut l, mut o) = tensor::State::empty(s).parts();
    if at.newest_here && warp_id() == s.warps() - 1 {
        let key = |first: V<u32>| load_part(at.new.offset(first), 0);
        let value = |first: V<u32>| load_part(at.new.offset(first), s.head_dim);
        (m, l, o) = tensor::State::of_one(s, query, key, value).parts();
    }
    let q = tensor::Queries::new(s, query);
    let state = tensor::walk(s, q, (at.source, at.span), ahead, tensor::State::of_parts((m, l, o)));
    room.put_tensor(s, &state);
}

/// Leaves a stretch's result for the CTA of the key head that comes last, which merges them all.
#[device]
fn meet(
    s: &Attend,
    (meeting, here): (Meeting, Row),
    (n_active, kv_head, split): (V<u32>, V<u32>, V<u32>),
    quads: &[Quad],
    store: &impl Fn(Row, (&Attend, V<u32>), &[Quad]),
) {
    let parts =
        Parts { partial: here.of(meeting.partial, s.partials()), stats: here.of(meeting.stats, s.stats()) };
    parts.store(s, kv_head * s.n_splits + split, quads);
    let arrived = here.of(meeting.arrived, s.n_kv_heads).at(kv_head);
    let before = shared::<u32>(1u32);
    sync_threads();
    if thread_idx_x() == 0 {
        before.at(0).store(arrived.atomic(Rmw::Add, Ordering::AcqRel, Scope::Gpu, 1));
    }
    sync_threads();
    if before.at(0).load() == n_active - 1 {
        if thread_idx_x() == 0 {
            arrived.store(0);
        }
        store(here, (s, kv_head), &join_stretches(s, &parts, kv_head, n_active));
    }
}

/// x = softmax(rope(q)·K) V over the positions of a row, its new one (rope(k), v) included and appended; quantized
/// shapes   control as in the plan · table (position, head_dim / 2) of (cos, sin) · qkv (row, q_dim + 2 kv_dim) f32 · kv (sequence) of the addresses of K, V (position, kv_dim) in rows of the cache's type · partial (row, kv head, stretch, group, head_dim), stats likewise of (m, l) f32 · arrived (row, kv head), 0 before and after · quants (row, q_dim) i8 · meta (row, q_dim / 32)
/// layout   as attend_split; the last stretch has the new position; the CTA of a key head that is done last merges as attend_merge
/// launch   grid (n_kv_heads, n_splits, rows), block 256 or 128; stretches beyond the length return at once
/// source   Su et al. 2021; Dao et al. 2022 and 2023 (flash decoding)
#[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
pub fn attend_step(
    s: &AttendStep,
    control: Settled<u32>,
    table: Fixed<f32>,
    qkv: In<f32>,
    kv: Settled<u64>,
    partial: InOut<f32>,
    stats: InOut<f32>,
    arrived: InOut<u32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let from = Inputs { control, table, extra: Extra::Nothing, qkv, kv };
    attend_row(s, from, Meeting { partial, stats, arrived }, |here, heads, quads| {
        quantized(s, here, (heads, quads), (quants, meta));
    });
}

/// x = softmax(rope(q + bq)·K) V, with (rope(k + bk), v + bv) appended
/// shapes   as attend_step · bq (q_dim), bk, bv (kv_dim) f32
/// layout   as attend_step
/// launch   as attend_step
/// source   as attend_step; biases as in Qwen2
#[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
pub fn attend_step_bias(
    s: &AttendStep,
    control: Settled<u32>,
    table: Fixed<f32>,
    bq: Fixed<f32>,
    bk: Fixed<f32>,
    bv: Fixed<f32>,
    qkv: In<f32>,
    kv: Settled<u64>,
    partial: InOut<f32>,
    stats: InOut<f32>,
    arrived: InOut<u32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let from = Inputs { control, table, extra: Extra::Biases([bq, bk, bv]), qkv, kv };
    attend_row(s, from, Meeting { partial, stats, arrived }, |here, heads, quads| {
        quantized(s, here, (heads, quads), (quants, meta));
    });
}

/// x = softmax(rope(norm(q))·K) V, with (rope(norm(k)), v) appended
/// shapes   as attend_step · wq, wk (head_dim) f32
/// layout   as attend_step
/// launch   as attend_step
/// source   as attend_step; norms as qk_norm
#[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
pub fn attend_step_norm(
    s: &AttendStep,
    control: Settled<u32>,
    table: Fixed<f32>,
    wq: Fixed<f32>,
    wk: Fixed<f32>,
    qkv: In<f32>,
    kv: Settled<u64>,
    partial: InOut<f32>,
    stats: InOut<f32>,
    arrived: InOut<u32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let from = Inputs { control, table, extra: Extra::Norms([wq, wk]), qkv, kv };
    attend_row(s, from, Meeting { partial, stats, arrived }, |here, heads, quads| {
        quantized(s, here, (heads, quads), (quants, meta));
    });
}

/// Stores the outputs of a lot of heads as blocks.
#[device]
fn quantized(
    s: &AttendStep,
    here: Row,
    ((attend, lot), quads): ((&Attend, V<u32>), &[Quad]),
    (quants, meta): (Out<u32>, Out<u32>),
) {
    let q_dim = s.attend.q_dim();
    store_blocks(attend, lot, quads, here.of(quants, q_dim / 4), here.of(meta, q_dim / 16));
}

impl Operation for AttendStep {
    fn name(&self) -> &'static str {
        match (self.bias, self.norm_eps) {
            (true, _) => "attend_step_bias",
            (false, Some(_)) => "attend_step_norm",
            (false, None) => "attend_step",
        }
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match (self.bias, self.norm_eps) {
            (true, _) => attend_step_bias(self),
            (false, Some(_)) => attend_step_norm(self),
            (false, None) => attend_step(self),
        }
    }

    /// For one position of one row, what a launch moves and computes whatever the length included; a launch moves the
    /// cache's part times the lengths of the rows' caches.
    fn cost(&self) -> Cost {
        let s = &self.attend;
        Cost { bytes: 2 * u64::from(s.kv_rows().bytes()), macs: 2 * u64::from(s.q_dim()) }
    }

    fn trial(&self, seed: u64) -> Trial {
        step_trial::quantized(self, seed)
    }
}

/// The launches whose outputs stay f32.
mod floats {
    use super::*;

    /// x = softmax(rope(q)·K) V, with (rope(k), v) appended
    /// shapes   as attend_step · x (row, q_dim) f32
    /// layout   as attend_step
    /// launch   as attend_step
    /// source   as attend_step
    #[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
    pub fn attend_step_exact(
        s: &AttendStep,
        control: Settled<u32>,
        table: Fixed<f32>,
        qkv: In<f32>,
        kv: Settled<u64>,
        partial: InOut<f32>,
        stats: InOut<f32>,
        arrived: InOut<u32>,
        x: Out<f32>,
    ) {
        let from = Inputs { control, table, extra: Extra::Nothing, qkv, kv };
        attend_row(s, from, Meeting { partial, stats, arrived }, |here, (attend, lot), quads| {
            store_floats(attend, lot, quads, here.of(x, s.attend.q_dim()));
        });
    }

    /// x = softmax(rope(q + bq)·K) V, with (rope(k + bk), v + bv) appended
    /// shapes   as attend_step_exact · bq (q_dim), bk, bv (kv_dim) f32
    /// layout   as attend_step
    /// launch   as attend_step
    /// source   as attend_step_bias
    #[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
    pub fn attend_step_bias_exact(
        s: &AttendStep,
        control: Settled<u32>,
        table: Fixed<f32>,
        bq: Fixed<f32>,
        bk: Fixed<f32>,
        bv: Fixed<f32>,
        qkv: In<f32>,
        kv: Settled<u64>,
        partial: InOut<f32>,
        stats: InOut<f32>,
        arrived: InOut<u32>,
        x: Out<f32>,
    ) {
        let from = Inputs { control, table, extra: Extra::Biases([bq, bk, bv]), qkv, kv };
        attend_row(s, from, Meeting { partial, stats, arrived }, |here, (attend, lot), quads| {
            store_floats(attend, lot, quads, here.of(x, s.attend.q_dim()));
        });
    }

    /// x = softmax(rope(norm(q))·K) V, with (rope(norm(k)), v) appended
    /// shapes   as attend_step_exact · wq, wk (head_dim) f32
    /// layout   as attend_step
    /// launch   as attend_step
    /// source   as attend_step_norm
    #[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
    pub fn attend_step_norm_exact(
        s: &AttendStep,
        control: Settled<u32>,
        table: Fixed<f32>,
        wq: Fixed<f32>,
        wk: Fixed<f32>,
        qkv: In<f32>,
        kv: Settled<u64>,
        partial: InOut<f32>,
        stats: InOut<f32>,
        arrived: InOut<u32>,
        x: Out<f32>,
    ) {
        let from = Inputs { control, table, extra: Extra::Norms([wq, wk]), qkv, kv };
        attend_row(s, from, Meeting { partial, stats, arrived }, |here, (attend, lot), quads| {
            store_floats(attend, lot, quads, here.of(x, s.attend.q_dim()));
        });
    }
}

impl Operation for Exact<AttendStep> {
    fn name(&self) -> &'static str {
        match (self.0.bias, self.0.norm_eps) {
            (true, _) => "attend_step_bias_exact",
            (false, Some(_)) => "attend_step_norm_exact",
            (false, None) => "attend_step_exact",
        }
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match (self.0.bias, self.0.norm_eps) {
            (true, _) => floats::attend_step_bias_exact(&self.0),
            (false, Some(_)) => floats::attend_step_norm_exact(&self.0),
            (false, None) => floats::attend_step_exact(&self.0),
        }
    }

    fn cost(&self) -> Cost {
        self.0.cost()
    }

    fn trial(&self, seed: u64) -> Trial {
        step_trial::exact(&self.0, seed)
    }
}
