//! What happens to Q, K and V between their matrices and attention: biases, rotation, and the append to the cache.

use super::kv_rows::KvRows;
use super::operation::{Cost, Expect, Operation, Trial};
use super::reference;
use super::rows::{Control, Row, Rows, for_row};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;
use ::plan::{KvType, RopeKind};

/// Threads of a CTA: one pair each.
const THREADS: u32 = 128;

/// Heads and rotation of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeAppend {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Which elements form a pair.
    pub kind: RopeKind,
    /// Whether biases are added first.
    pub bias: bool,
    /// What scores are multiplied by. Queries get it, times log2 e: attention takes powers of two.
    pub score_scale: f32,
    /// Element type of the caches.
    pub kv: KvType,
    /// Rows of the step.
    pub rows: Rows,
}

impl RopeAppend {
    const fn q_pairs(&self) -> u32 {
        self.n_heads * self.head_dim / 2
    }

    const fn kv_pairs(&self) -> u32 {
        self.n_kv_heads * self.head_dim / 2
    }

    /// Rows of the caches.
    const fn kv_rows(&self) -> KvRows {
        KvRows::new(self.kv, self.kv_dim())
    }

    /// Threads before those of K: one a pair of Q, and for blocks of K and V, which are a warp each, up to a whole warp.
    const fn q_units(&self) -> u32 {
        if self.kv_rows().in_blocks() { self.q_pairs().next_multiple_of(32) } else { self.q_pairs() }
    }

    /// Threads of K, and of V: one a pair, or one an element of a block.
    const fn kv_units(&self) -> u32 {
        if self.kv_rows().in_blocks() { self.kv_dim() } else { self.kv_pairs() }
    }

    const fn ctas(&self) -> u32 {
        (self.q_units() + 2 * self.kv_units()).div_ceil(THREADS)
    }

    const fn q_dim(&self) -> u32 {
        2 * self.q_pairs()
    }

    const fn kv_dim(&self) -> u32 {
        2 * self.kv_pairs()
    }

    /// Elements of pair `i` of a head, on the host.
    fn pair_of(&self, i: u32) -> (u32, u32) {
        match self.kind {
            RopeKind::Norm => (2 * i, 2 * i + 1),
            RopeKind::Neox => (i, i + self.head_dim / 2),
        }
    }
}

/// What makes scores exponents of two: queries are multiplied by it.
pub(super) fn exponent_scale(score_scale: f32) -> f32 {
    (f64::from(score_scale) * std::f64::consts::LOG2_E) as f32
}

/// The elements of pair `i` of a head.
#[device]
pub(super) fn pair_places(kind: RopeKind, head_dim: u32, i: V<u32>) -> [V<u32>; 2] {
    match kind {
        RopeKind::Norm => [i * 2, i * 2 + 1],
        RopeKind::Neox => [i, i + head_dim / 2],
    }
}

/// The elements (first, second) of a head's pair, and the pair's index in the head, for the `unit`-th pair.
#[device]
fn place_of(s: &RopeAppend, unit: V<u32>) -> (V<u32>, V<u32>, V<u32>) {
    let half = s.head_dim / 2;
    let (head, i) = (unit / half, unit % half);
    match s.kind {
        RopeKind::Norm => (head * s.head_dim + i * 2, head * s.head_dim + i * 2 + 1, i),
        RopeKind::Neox => (head * s.head_dim + i, head * s.head_dim + i + half, i),
    }
}

/// `(a cos − b sin, a sin + b cos)`
#[device]
pub(super) fn rotate(pair: [V<f32>; 2], cos_sin: [V<f32>; 2]) -> [V<f32>; 2] {
    let [a, b] = pair;
    let [cos, sin] = cos_sin;
    [fma(a, cos, -(b * sin)), fma(a, sin, b * cos)]
}

/// Biases of Q, K and V, for models that have them.
#[derive(Clone, Copy)]
struct Biases {
    q: Fixed<f32>,
    k: Fixed<f32>,
    v: Fixed<f32>,
}

/// The two elements of a pair, with their biases added.
#[device]
fn load_pair(x: InOut<f32>, bias: Option<Fixed<f32>>, first: V<u32>, second: V<u32>) -> [V<f32>; 2] {
    let (a, b) = (x.at(first).load(), x.at(second).load());
    match bias {
        Some(bias) => [a + bias.at(first).load(), b + bias.at(second).load()],
        None => [a, b],
    }
}

/// What a launch works on besides Q, K and V.
#[derive(Clone, Copy)]
struct Rotation {
    control: In<u32>,
    /// `(cos, sin)` of each position.
    table: Fixed<f32>,
    /// Cache addresses of the layer.
    kv: In<u64>,
}

#[device]
fn rotate_and_append(s: &RopeAppend, r: Rotation, b: Option<Biases>, qkv: InOut<f32>, here: Row) {
    let unit = block_idx_x() * THREADS + thread_idx_x();
    let position = here.control(r.control).at(1).load();
    let caches = here.caches(s.rows, r.control, r.kv);
    let angles = r.table.offset(position * s.head_dim);
    let qkv = here.of(qkv, s.q_dim() + 2 * s.kv_dim());
    if unit < s.q_pairs() {
        let (first, second, i) = place_of(s, unit);
        let turned = rotate(load_pair(qkv, b.map(|b| b.q), first, second), angles.at(i * 2).load_x2());
        let scale = exponent_scale(s.score_scale);
        qkv.at(first).store(turned[0] * scale);
        qkv.at(second).store(turned[1] * scale);
    } else {
        let new = NewRow { qkv: qkv.offset(s.q_dim()), angles, place: s.kv_rows().place(position) };
        if s.kv_rows().in_blocks() {
            if unit >= s.q_units() {
                append_element(s, unit - s.q_units(), new, b, caches);
            }
        } else {
            append_pair(s, unit, new, b, caches);
        }
    }
}

/// A row's K and V on their way into the caches.
#[derive(Clone, Copy)]
struct NewRow {
    /// K, then V.
    qkv: InOut<f32>,
    /// `(cos, sin)` of its position.
    angles: Fixed<f32>,
    /// Where its rows of the caches begin.
    place: V<u32>,
}

/// A thread's pair of K or V.
#[device]
fn append_pair(s: &RopeAppend, unit: V<u32>, new: NewRow, b: Option<Biases>, caches: [V<u64>; 2]) {
    if unit < s.q_pairs() + s.kv_pairs() {
        let (first, second, i) = place_of(s, unit - s.q_pairs());
        let pair = load_pair(new.qkv, b.map(|b| b.k), first, second);
        let turned = rotate(pair, new.angles.at(i * 2).load_x2());
        s.kv_rows().store(caches[0], new.place, [first, second], turned);
    } else {
        if unit < s.q_pairs() + s.kv_pairs() * 2 {
            let first = (unit - (s.q_pairs() + s.kv_pairs())) * 2;
            let pair = load_pair(new.qkv.offset(s.kv_dim()), b.map(|b| b.v), first, first + 1);
            s.kv_rows().store(caches[1], new.place, [first, first + 1], pair);
        }
    }
}

/// A thread's element of K or V, a warp's block: both threads of a pair rotate it, each for its own element.
#[device]
fn append_element(s: &RopeAppend, unit: V<u32>, new: NewRow, b: Option<Biases>, caches: [V<u64>; 2]) {
    if unit < s.kv_dim() {
        let half = s.head_dim / 2;
        let (head, e) = (unit / s.head_dim, unit % s.head_dim);
        let (pair_in_head, is_second) = match s.kind {
            RopeKind::Norm => (e / 2, e % 2 == 1),
            RopeKind::Neox => (e % half, e >= half),
        };
        let (first, second, i) = place_of(s, head * half + pair_in_head);
        let pair = load_pair(new.qkv, b.map(|b| b.k), first, second);
        let turned = rotate(pair, new.angles.at(i * 2).load_x2());
        let value = select(is_second, turned[1], turned[0]);
        s.kv_rows().store_block(caches[0], new.place, unit, value);
    } else {
        if unit < s.kv_dim() * 2 {
            let element = unit - s.kv_dim();
            let value = new.qkv.at(s.kv_dim() + element).load();
            let value = match b {
                Some(b) => value + b.v.at(element).load(),
                None => value,
            };
            s.kv_rows().store_block(caches[1], new.place, element, value);
        }
    }
}

/// q = rope(q) · score_scale · log2 e; K[pos] = kv(rope(k)); V[pos] = kv(v)
/// shapes   control as in the plan · table (position, head_dim / 2) of (cos, sin) · qkv (row, q_dim + 2 kv_dim) f32 · kv (sequence) of the addresses of K, V (position, kv_dim) in rows of the cache's type kv
/// layout   one thread a pair: Q, then K, then V; V's pairs are neighbours; into q8_0 one thread an element of K and V, a warp a block
/// launch   grid (threads / 128, rows), block 128, shared 0
/// source   Su et al. 2021; NORM and NEOX pairs as in GGML
#[kernel(grid = (s.ctas(), s.rows.count), block = THREADS)]
pub fn rope_append(s: &RopeAppend, control: In<u32>, table: Fixed<f32>, qkv: InOut<f32>, kv: In<u64>) {
    let rotation = Rotation { control, table, kv };
    for_row(s.rows.count, block_idx_y(), control, |here| rotate_and_append(s, rotation, None, qkv, here));
}

/// q = rope(q + bq) · score_scale · log2 e; K[pos] = kv(rope(k + bk)); V[pos] = kv(v + bv)
/// shapes   as rope_append · bq (q_dim), bk, bv (kv_dim) f32
/// layout   as rope_append
/// launch   as rope_append
/// source   as rope_append; biases as in Qwen2
#[kernel(grid = (s.ctas(), s.rows.count), block = THREADS)]
pub fn rope_append_bias(
    s: &RopeAppend,
    control: In<u32>,
    table: Fixed<f32>,
    bq: Fixed<f32>,
    bk: Fixed<f32>,
    bv: Fixed<f32>,
    qkv: InOut<f32>,
    kv: In<u64>,
) {
    let rotation = Rotation { control, table, kv };
    let biases = Some(Biases { q: bq, k: bk, v: bv });
    for_row(s.rows.count, block_idx_y(), control, |here| rotate_and_append(s, rotation, biases, qkv, here));
}

impl Operation for RopeAppend {
    fn name(&self) -> &'static str {
        if self.bias { "rope_append_bias" } else { "rope_append" }
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        if self.bias { rope_append_bias(self) } else { rope_append(self) }
    }

    fn cost(&self) -> Cost {
        let rows = u64::from(self.rows.count);
        let qkv = u64::from(self.q_dim() + 2 * self.kv_dim());
        let biases = if self.bias { qkv * 4 } else { 0 };
        let a_row = qkv * 4 + u64::from(self.head_dim + self.q_dim()) * 4;
        let a_row = a_row + 2 * u64::from(self.kv_rows().bytes());
        Cost { bytes: biases + rows * a_row, macs: 2 * rows * qkv }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let n = self.rows.count as usize;
        let mut control = Control::random(&mut rng, self.rows.count);
        control.rows.iter_mut().for_each(|row| row[1] = rng.below(TRIAL_POSITIONS));
        let mut normal = |n: u32| (0..n).map(|_| rng.normal()).collect::<Vec<f32>>();
        let table = normal(TRIAL_POSITIONS * self.head_dim);
        let lengths: &[u32] = if self.bias { &[self.q_dim(), self.kv_dim(), self.kv_dim()] } else { &[] };
        let biases: Vec<Vec<f32>> = lengths.iter().map(|n| normal(*n)).collect();
        let before = normal((self.q_dim() + 2 * self.kv_dim()) * self.rows.count);
        let (mut qkv, mut caches) = (Vec::new(), vec![[None, None]; n]);
        let active = control.rows.iter().take(control.active as usize);
        for (row, control) in before.chunks(before.len() / n).zip(active) {
            let bias = biases.concat();
            let bias = |i: usize| f64::from(bias.get(i).copied().unwrap_or(0.0));
            let x: Vec<f64> = row.iter().enumerate().map(|(i, v)| f64::from(*v) + bias(i)).collect();
            let position = control[1];
            let angles = &table[(position * self.head_dim) as usize..][..self.head_dim as usize];
            let (q, k, v) = self.expected(&x, angles);
            // Only Q is written back; K and V stay as they were.
            qkv.extend(
                q.into_iter().chain(row[self.q_dim() as usize..].iter().map(|v| (f64::from(*v), 0.0))),
            );
            caches[control[2] as usize] = [k, v].map(|x| Some((position, x)));
        }
        let qkv = qkv.into_iter().enumerate().map(|(i, (v, b))| (i, v, b)).collect();
        let trial = Trial::new(seed).input(control.bytes()).input(reference::bytes_f32(&table));
        let trial = biases.iter().fold(trial, |t, bias| t.input(reference::bytes_f32(bias)));
        let trial = trial.in_out(reference::bytes_f32(&before), Expect::NearF32(qkv));
        let cache_bytes = (TRIAL_POSITIONS * self.kv_rows().bytes()) as usize;
        let trial = trial.caches(self.rows, n, 0);
        caches
            .into_iter()
            .flatten()
            .fold(trial, |t, row| t.linked(vec![0xcd; cache_bytes], self.kv_rows().expect(row)))
    }
}

/// Rows of the caches and the table in a trial.
const TRIAL_POSITIONS: u32 = 9;

/// Values with bounds.
pub(super) type Bounded = Vec<(f64, f64)>;

impl RopeAppend {
    /// Q, K and V in f64 with bounds, from values that have their biases.
    pub(super) fn expected(&self, x: &[f64], angles: &[f32]) -> (Bounded, Bounded, Bounded) {
        let turned = |from: u32, n_heads: u32, scale: f64| {
            let mut out = vec![(0.0, 0.0); (n_heads * self.head_dim) as usize];
            for head in 0..n_heads {
                for i in 0..self.head_dim / 2 {
                    let (first, second) = self.pair_of(i);
                    let at = |e: u32| x[(from + head * self.head_dim + e) as usize];
                    let (a, b) = (at(first), at(second));
                    let (cos, sin) =
                        (f64::from(angles[2 * i as usize]), f64::from(angles[2 * i as usize + 1]));
                    // The bias, the two products, their sum and the scale each round once.
                    let bound = reference::gamma(6.0) * (a.abs() + b.abs()) * (cos.abs() + sin.abs()) * scale;
                    out[(head * self.head_dim + first) as usize] = ((a * cos - b * sin) * scale, bound);
                    out[(head * self.head_dim + second) as usize] = ((a * sin + b * cos) * scale, bound);
                }
            }
            out
        };
        let q = turned(0, self.n_heads, f64::from(exponent_scale(self.score_scale)));
        let k = turned(self.q_dim(), self.n_kv_heads, 1.0);
        let v = x[(self.q_dim() + self.kv_dim()) as usize..]
            .iter()
            .map(|v| (*v, reference::U * v.abs()))
            .collect();
        (q, k, v)
    }
}
