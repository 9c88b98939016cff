//! Attention of one new position in one launch: biases, norms, rotation and the append before it, all stretches, and the
//! merge after it.

use super::handover::{Handover, Member};
use super::join::{Quad, Room, join_warps, store_blocks, store_floats};
use super::newest::{Extra, Workshop, gather, norms_in_pairs, prepare};
use super::step_trial;
use super::walk::{self, Source, Span, Staged, State, load_part, part_of, walk};
use super::{Attend, BLOCK, Extent, PER_LANE, tensor};
use crate::dsl::{BuildError, Kernel, Readable, prelude::*};
use crate::kernels::operation::{Cost, Operation, Trial};
use crate::kernels::quantize;
use crate::kernels::rope::RopeAppend;
use crate::kernels::rows::{Row, for_row_or_wait};
use ::plan::{KvType, RopeKind, WAITING_CTAS};

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

    /// Bytes of the room where stretches are handed over, which are 0 before and after each launch.
    pub const fn handover_bytes(&self) -> u64 {
        4 * Handover::words(&self.attend) as u64 * self.attend.rows.count as u64
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
pub(super) struct Inputs {
    pub(super) control: Settled<u32>,
    /// `(cos, sin)` of each position.
    pub(super) table: Fixed<f32>,
    pub(super) extra: Extra,
    pub(super) qkv: In<f32>,
    pub(super) kv: Settled<u64>,
}

/// Where outputs go, and as what.
pub(super) trait Outputs: Copy {
    /// Those of a lot of heads, the `lot`-th of its size, of a row of `q_dim`.
    fn store_lot(self, here: Row, q_dim: u32, lot: (&Attend, V<u32>), quads: &[Quad]);

    /// A warp's block of a row, one output a lane.
    fn store_block(self, here: Row, q_dim: u32, block: V<u32>, x: V<f32>);
}

/// Quantized.
#[derive(Clone, Copy)]
struct Blocks {
    quants: Out<u32>,
    meta: Out<u32>,
}

impl Outputs for Blocks {
    #[device]
    fn store_lot(self, here: Row, q_dim: u32, (attend, lot): (&Attend, V<u32>), quads: &[Quad]) {
        let Blocks { quants, meta } = self;
        store_blocks(attend, lot, quads, here.of(quants, q_dim / 4), here.of(meta, q_dim / 16));
    }

    #[device]
    fn store_block(self, here: Row, q_dim: u32, block: V<u32>, x: V<f32>) {
        let quants = here.of(self.quants, q_dim / 4).cast::<u8>();
        quantize::store_lane(x, block, quants, here.of(self.meta, q_dim / 16));
    }
}

/// As they are.
#[derive(Clone, Copy)]
pub(super) struct Floats(pub(super) Out<f32>);

impl Outputs for Floats {
    #[device]
    fn store_lot(self, here: Row, q_dim: u32, (attend, lot): (&Attend, V<u32>), quads: &[Quad]) {
        store_floats(attend, lot, quads, here.of(self.0, q_dim));
    }

    #[device]
    fn store_block(self, here: Row, q_dim: u32, block: V<u32>, x: V<f32>) {
        here.of(self.0, q_dim).at(block * BLOCK + lane_id()).store(x);
    }
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

/// The row's attention.
#[device]
pub(super) fn attend_row(s: &AttendStep, (from, handover): (Inputs, InOut<u32>), to: &impl Outputs) {
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
                    to.store_lot(here, s.attend.q_dim(), (&one, first_head), &quads);
                } else {
                    wait_for_earlier();
                }
            } else {
                attend_stretches(s, (from, here, handover), (extent, split, kv_head), to);
            }
        } else {
            attend_stretches(s, (from, here, handover), (extent, split, kv_head), to);
        }
    });
}

/// The CTA's stretch of a key head, and, for the last CTAs, what all stretches give.
#[device]
fn attend_stretches(
    s: &AttendStep,
    (from, here, handover): (Inputs, Row, InOut<u32>),
    (extent, split, kv_head): (Extent, V<u32>, V<u32>),
    to: &impl Outputs,
) {
    let attend = &s.attend;
    let offset = split * extent.stretch;
    if split == 0 || offset < extent.cached {
        let is_last = offset + extent.stretch >= extent.cached;
        let first_head = kv_head * attend.group();
        let waiting = from.control.at(WAITING_CTAS).load();
        let part = Part { split, kv_head, first_head, is_last, appends: is_last };
        let quads = attend_stretch((s, attend), (from, here), extent, part);
        let handover = Handover(here.of(handover, Handover::words(attend)));
        let member = Member { kv_head, split, n_active: extent.active(), waiting };
        if s.single_heads().is_some() {
            meet(attend, (here, handover), member, &quads, to);
        } else {
            if extent.cached <= extent.stretch {
                to.store_lot(here, attend.q_dim(), (attend, kv_head), &quads);
            } else {
                meet(attend, (here, handover), member, &quads, to);
            }
        }
    } else {
        wait_for_earlier();
    }
}

/// Hands over a stretch's result, and, in the last CTAs of a key head, takes and merges those of all.
#[device]
fn meet(s: &Attend, (here, handover): (Row, Handover), member: Member, quads: &[Quad], to: &impl Outputs) {
    handover.give(s, member, quads);
    let first = member.kv_head * (s.group() * s.head_dim / BLOCK);
    handover.take(s, member, |block, x| to.store_block(here, s.q_dim(), first + block, x));
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
    let newest = tensor::Newest {
        here: at.newest_here,
        key: |first| load_part(at.new.offset(first), 0),
        value: |first| load_part(at.new.offset(first), s.head_dim),
    };
    let query = |first: V<u32>| own.at(first).load_x4().to_vec();
    room.put_tensor(s, &tensor::attend(s, query, newest, (at.source, at.span, ahead)));
}

/// x = softmax(rope(q)·K) V over the positions of a row, its new one (rope(k), v) included and appended; quantized
/// shapes   control as in the plan · table (position, head_dim / 2) of (cos, sin) · qkv (row, q_dim + 2 kv_dim) f32 · kv (sequence) of the addresses of K, V (position, kv_dim) in rows of the cache's type · handover (row), 0 before and after: outputs (kv head, stretch, group, head_dim), pairs (kv head, stretch, block) of (m, l), f32 with all bits turned · quants (row, q_dim) i8 · meta (row, q_dim / 32)
/// layout   as attend_split; the last stretch has the new position; the last CTAs of a key head merge as attend_merge, a warp a block of outputs
/// launch   grid (n_kv_heads, n_splits, rows), block 256 or 128; stretches beyond the length return at once
/// source   Su et al. 2021; Dao et al. 2022 and 2023 (flash decoding)
#[kernel(grid = (s.attend.n_kv_heads, s.attend.n_splits, s.attend.rows.count), block = s.attend.threads(), min_ctas = s.attend.min_ctas())]
pub fn attend_step(
    s: &AttendStep,
    control: Settled<u32>,
    table: Fixed<f32>,
    qkv: In<f32>,
    kv: Settled<u64>,
    handover: InOut<u32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let from = Inputs { control, table, extra: Extra::Nothing, qkv, kv };
    attend_row(s, (from, handover), &Blocks { quants, meta });
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
    handover: InOut<u32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let from = Inputs { control, table, extra: Extra::Biases([bq, bk, bv]), qkv, kv };
    attend_row(s, (from, handover), &Blocks { quants, meta });
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
    handover: InOut<u32>,
    quants: Out<u32>,
    meta: Out<u32>,
) {
    let from = Inputs { control, table, extra: Extra::Norms([wq, wk]), qkv, kv };
    attend_row(s, (from, handover), &Blocks { quants, meta });
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
