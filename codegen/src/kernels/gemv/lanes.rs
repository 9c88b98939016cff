//! A lane's share of a row: its pointers into the weights, its activations, and the walk over its super-blocks.

use super::{Split, block32, k_quants, plain};
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::layout::{Matrix, Planes, SUB_BLOCK, SUB_BLOCKS, SUPER_BLOCK, TILE_ROWS};
use ::plan::QType;

/// The activations of one lane's sub-block.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct ActLane {
    /// Quants 0 to 15.
    pub low: [V<u32>; 4],
    /// Quants 16 to 31.
    pub high: [V<u32>; 4],
    pub scale: V<f32>,
    /// The sums of both halves.
    pub sums: V<u32>,
}

/// The vector that is multiplied: quants as words and `(scale, sums)` pairs.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Act {
    pub quants: In<u32>,
    pub meta: In<u32>,
}

#[device]
pub(in crate::kernels) fn load_act(x: Act, super_block: u32) -> ActLane {
    let low = x.quants.at(super_block * 64).load_x4();
    let high = x.quants.at(super_block * 64 + 4).load_x4();
    let meta = x.meta.at(super_block * 16).load_x2();
    ActLane { low, high, scale: V::<f32>::from_bits(meta[0]), sums: meta[1] }
}

/// A lane's pointers into the planes of its tile. Types that lack a plane leave its pointer unused.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Weights {
    /// Bytes from one super-block to the next.
    pub step: Planes,
    pub quants: Fixed<u32>,
    pub high: Fixed<u32>,
    pub scales: Fixed<u32>,
    pub d: Fixed<F16>,
}

pub(super) fn words(bytes: u64) -> u32 {
    (bytes / 4) as u32
}

#[device]
pub(in crate::kernels) fn weights_of_lane(m: &Matrix, w: Fixed<u32>, cell: V<u32>) -> Weights {
    let lane = lane_id();
    let row = lane / SUB_BLOCKS;
    let (planes, step) = (m.planes(), m.cell_bytes());
    // A header of 16 bytes a row; the word that holds the scale pairs of two lanes; a word a lane.
    let scale = match m.qtype {
        QType::Q4K | QType::Q5K => cell * words(step.scales) + row * 4,
        QType::Q6K => cell * words(step.scales) + lane / 2,
        _ => cell * words(step.scales) + lane,
    };
    let d = w.offset(words(planes.d)).cast::<F16>();
    Weights {
        step,
        quants: w.offset(cell * words(step.quants) + lane * 4),
        high: w.offset(words(planes.high)).offset(cell * words(step.high) + lane * words(step.high / 32)),
        scales: w.offset(words(planes.scales)).offset(scale),
        // One d a row, or one a lane.
        d: match m.qtype.block_elems() {
            SUPER_BLOCK => d.offset(cell * 4 + row),
            _ => d.offset(cell * 32 + lane),
        },
    }
}

/// A lane's pointer into a matrix of a plain type: rows as in the file, those beyond the last repeat it.
#[device]
pub(super) fn plain_weights_of_lane(m: &Matrix, w: Fixed<u32>, at: Seat) -> Weights {
    let lane = lane_id();
    let row = min(at.tile * TILE_ROWS + lane / SUB_BLOCKS, m.rows - 1);
    let step = m.cell_bytes();
    // Lanes whose sub-block a last super-block lacks point to the row's last one.
    let sub = at.part * SUB_BLOCKS + lane % SUB_BLOCKS;
    let sub = if m.tail_sub_blocks() > 0 { min(sub, m.cols / SUB_BLOCK - 1) } else { sub };
    let place = sub * words(step.quants / u64::from(SUB_BLOCKS));
    let quants = w.offset(row * words(m.qtype.row_bytes(m.cols))).offset(place);
    Weights { step, quants, high: quants, scales: quants, d: quants.cast::<F16>() }
}

/// What a lane loads of one sub-block of a quantized type; what a type lacks is zero.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct SubBlock {
    /// The words of the lane's 16 bytes; Q8_0: those of both halves.
    pub quants: [[V<u32>; 4]; 2],
    /// High bits.
    pub high: [V<u32>; 2],
    /// The row's header, the pair of scales, or d and m.
    pub scales: [V<u32>; 4],
    /// The row's or the block's d where it has a plane of its own.
    pub d: V<F16>,
}

/// Loads the lane's sub-block of the super-block that lies `cells` further on.
#[device]
pub(in crate::kernels) fn load_sub_block(qtype: QType, w: Weights, cells: u32) -> SubBlock {
    SubBlock {
        quants: load_quants(qtype, w.quants.offset(cells * words(w.step.quants))),
        high: load_high(qtype, w.high.offset(cells * words(w.step.high))),
        scales: load_scales(qtype, w.scales.offset(cells * words(w.step.scales))),
        d: load_d(w.step.d, w.d.offset(cells * (w.step.d / 2) as u32)),
    }
}

/// Visits the values that are not constants: a type has zeros where it lacks words.
fn carry_words<T: Scalar>(words: &mut [V<T>], f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
    for word in words.iter_mut().filter(|w| matches!(w.operand, Operand::Value(_))) {
        word.carry(f);
    }
}

impl ActLane {
    /// None yet.
    pub(super) fn none() -> ActLane {
        let zeros = [dev(0u32); 4];
        ActLane { low: zeros, high: zeros, scale: dev(0.0f32), sums: dev(0u32) }
    }
}

impl Carry for ActLane {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        carry_words(&mut self.low, f);
        carry_words(&mut self.high, f);
        carry_words(std::slice::from_mut(&mut self.scale), f);
        carry_words(std::slice::from_mut(&mut self.sums), f);
    }
}

impl Carry for SubBlock {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        self.quants.iter_mut().for_each(|words| carry_words(words, f));
        carry_words(&mut self.high, f);
        carry_words(&mut self.scales, f);
        carry_words(std::slice::from_mut(&mut self.d), f);
    }
}

#[device]
pub(super) fn load_quants(qtype: QType, from: Fixed<u32>) -> [[V<u32>; 4]; 2] {
    match qtype {
        QType::Q8_0 => {
            let low = from.at(0).load_x4();
            let high = from.at(128).load_x4();
            [low, high]
        }
        _ => {
            let quants = from.at(0).load_x4();
            [quants, [dev(0); 4]]
        }
    }
}

#[device]
fn load_d(bytes: u64, from: Fixed<F16>) -> V<F16> {
    match bytes {
        0 => dev(F16(0)),
        _ => {
            let d = from.at(0).load();
            d
        }
    }
}

#[device]
pub(super) fn load_high(qtype: QType, from: Fixed<u32>) -> [V<u32>; 2] {
    match qtype {
        QType::Q6K => {
            let bits = from.at(0).load_x2();
            bits
        }
        QType::Q5K | QType::Q5_0 | QType::Q5_1 => {
            let bits = from.at(0).load();
            [bits, dev(0)]
        }
        _ => [dev(0); 2],
    }
}

#[device]
fn load_scales(qtype: QType, from: Fixed<u32>) -> [V<u32>; 4] {
    match qtype {
        QType::Q4K | QType::Q5K => {
            let header = from.at(0).load_x4();
            header
        }
        QType::Q6K => {
            let pairs = from.at(0).load();
            [pairs, dev(0), dev(0), dev(0)]
        }
        QType::Q4_1 | QType::Q5_1 => [from.at(0).load(), dev(0), dev(0), dev(0)],
        _ => [dev(0); 4],
    }
}

/// A vector that a walk multiplies by, in device memory; what a lane does of its products.
pub(in crate::kernels) trait Vector: Copy + Carry {
    /// Row `row` of such vectors of `cols` elements, one behind the other.
    fn row(self, row: V<u32>, cols: u32) -> Self;

    /// From the sub-block `sub` of the super-block `part` on.
    fn of_lane(self, part: V<u32>, sub: V<u32>) -> Self;

    /// `cells` super-blocks further on.
    fn advance(self, cells: u32) -> Self;

    /// `acc` plus the lane's sub-block of the super-block that lies `cells` further on, in each matrix and for each
    /// vector of `x`.
    fn accumulate<const N: usize>(
        m: [&Matrix; N],
        w: [Weights; N],
        cells: u32,
        x: &[Self],
        acc: [Vec<V<f32>>; N],
    ) -> [Vec<V<f32>>; N];
}

impl Vector for Act {
    fn row(self, row: V<u32>, cols: u32) -> Act {
        Act {
            quants: self.quants.offset(row * (cols / 4)),
            meta: self.meta.offset(row * (cols / SUB_BLOCK * 2)),
        }
    }

    fn of_lane(self, part: V<u32>, sub: V<u32>) -> Act {
        Act { quants: self.quants.offset(part * 64 + sub * 8), meta: self.meta.offset(part * 16 + sub * 2) }
    }

    fn advance(self, cells: u32) -> Act {
        Act { quants: self.quants.offset(cells * 64), meta: self.meta.offset(cells * 16) }
    }

    fn accumulate<const N: usize>(
        m: [&Matrix; N],
        w: [Weights; N],
        cells: u32,
        x: &[Act],
        acc: [Vec<V<f32>>; N],
    ) -> [Vec<V<f32>>; N] {
        accumulate(m, w, cells, &load_acts(x, cells), acc)
    }
}

/// `acc` plus the lane's sub-block of the super-block that lies `cells` further on, in each matrix and for each vector.
#[device]
fn accumulate<const N: usize>(
    m: [&Matrix; N],
    w: [Weights; N],
    cells: u32,
    x: &[ActLane],
    acc: [Vec<V<f32>>; N],
) -> [Vec<V<f32>>; N] {
    std::array::from_fn(|i| {
        let pairs = x.iter().zip(&acc[i]).map(|(x, acc)| (*x, *acc));
        match m[i].qtype {
            QType::F16 | QType::Bf16 | QType::F32 => {
                let weights = plain::weights_of_block(m[i].qtype, w[i], cells);
                pairs.map(|(x, acc)| plain::accumulate(&weights, x, acc)).collect()
            }
            qtype => {
                let loaded = load_sub_block(qtype, w[i], cells);
                pairs.map(|(x, acc)| accumulate_one(qtype, loaded, x, acc)).collect()
            }
        }
    })
}

/// `acc` plus a loaded sub-block times one vector. What depends on the weights alone is computed once for all vectors.
#[device]
pub(super) fn accumulate_one(qtype: QType, w: SubBlock, x: ActLane, acc: V<f32>) -> V<f32> {
    match qtype {
        QType::Q4K => k_quants::accumulate_q4k(w, x, acc),
        QType::Q5K => k_quants::accumulate_q5k(w, x, acc),
        QType::Q6K => k_quants::accumulate_q6k(w, x, acc),
        QType::Q8_0 => block32::accumulate_q8_0(w, x, acc),
        QType::Q4_0 => block32::accumulate_q4_0(w, x, acc),
        QType::Q4_1 => block32::accumulate_q4_1(w, x, acc),
        QType::Q5_0 => block32::accumulate_q5_0(w, x, acc),
        QType::Q5_1 => block32::accumulate_q5_1(w, x, acc),
        QType::F16 | QType::Bf16 | QType::F32 => {
            refuse(format!("{qtype} has no sub-blocks of quants"));
            acc
        }
    }
}

/// Moves a lane's pointers on by `cells` super-blocks.
#[device]
pub(super) fn advance_weights(w: Weights, cells: u32) -> Weights {
    let step = w.step;
    Weights {
        step,
        quants: w.quants.offset(cells * words(step.quants)),
        high: w.high.offset(cells * words(step.high)),
        scales: w.scales.offset(cells * words(step.scales)),
        d: w.d.offset(cells * (step.d / 2) as u32),
    }
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
pub(in crate::kernels) struct Seat {
    pub tile: V<u32>,
    pub part: V<u32>,
}

/// One lane's sums over its share of K of one row in each of `N` matrices of one shape: every `k_split`-th super-block
/// from `part`. The matrices share the loads of activations.
#[device]
pub(in crate::kernels) fn dot_of_lane<X: Vector, const N: usize>(
    m: [&Matrix; N],
    s: Split,
    w: [Fixed<u32>; N],
    x: X,
    at: Seat,
) -> [V<f32>; N] {
    dot_of_columns(m, s, w, &[x], at).map(|sums| sums[0])
}

/// The activations of the lane's sub-block of each vector.
#[device]
fn load_acts(acts: &[Act], super_block: u32) -> Vec<ActLane> {
    acts.iter().map(|x| load_act(*x, super_block)).collect()
}

/// As [`dot_of_lane`] for several vectors: the sums of each. The vectors share the loads of weights.
#[device]
pub(in crate::kernels) fn dot_of_columns<X: Vector, const N: usize>(
    m: [&Matrix; N],
    s: Split,
    w: [Fixed<u32>; N],
    x: &[X],
    at: Seat,
) -> [Vec<V<f32>>; N] {
    let sub = lane_id() % SUB_BLOCKS;
    let n_super_blocks = m[0].n_super_blocks();
    let cell = at.tile * n_super_blocks + at.part;
    let mut weights: [Weights; N] = std::array::from_fn(|i| {
        if m[i].qtype.is_plain() {
            plain_weights_of_lane(m[i], w[i], at)
        } else {
            weights_of_lane(m[i], w[i], cell)
        }
    });
    let mut acts: Vec<X> = x.iter().map(|x| x.of_lane(at.part, sub)).collect();
    let mut acc: [Vec<V<f32>>; N] = std::array::from_fn(|_| vec![dev(0.0f32); x.len()]);
    let n_whole = m[0].cols / SUPER_BLOCK;
    let rounds = n_whole / s.k_split;
    let turns = if rounds > s.unroll { rounds / s.unroll } else { 0 };
    let rest = rounds - turns * s.unroll;
    if turns > 0 {
        for _turn in 0..turns {
            for i in unroll(0..s.unroll) {
                acc = X::accumulate(m, weights, i * s.k_split, &acts, acc);
            }
            weights = weights.map(|w| advance_weights(w, s.unroll * s.k_split));
            acts = acts.iter().map(|x| x.advance(s.unroll * s.k_split)).collect();
        }
    }
    for i in unroll(0..rest) {
        acc = X::accumulate(m, weights, i * s.k_split, &acts, acc);
    }
    let (odd, tail) = (n_whole % s.k_split, m[0].tail_sub_blocks());
    if tail > 0 {
        // The last super-block is cut short: lanes whose sub-block it lacks sit out.
        if at.part < odd || (at.part == odd && sub < tail) {
            acc = X::accumulate(m, weights, rest * s.k_split, &acts, acc.clone());
        }
    } else {
        if odd > 0 {
            if at.part < odd {
                acc = X::accumulate(m, weights, rest * s.k_split, &acts, acc.clone());
            }
        }
    }
    acc
}
