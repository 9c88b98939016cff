//! A lane's weights on their way before it is known what they are multiplied by.
//!
//! Weights never change, so a kernel sends for the first super-blocks of each lane's share before it waits for the launches
//! before it ([`wait_for_earlier`]). Then a ring of registers keeps as many on their way: a super-block is multiplied and its
//! place is filled with the one that lies a ring's length further on. Between the two a CTA may prepare its vector, for which memory
//! has little to do: what lies behind the ring can be brought into L2 meanwhile ([`Behind`]).

use super::lanes::{
    Act, ActLane, Seat, SubBlock, Weights, accumulate_one, advance_weights, load_act, load_high, load_quants,
    load_sub_block, plain_weights_of_lane, weights_of_lane, words,
};
use super::{Split, plain};
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::layout::{Matrix, SUB_BLOCKS, SUPER_BLOCK};
use ::plan::QType;
use std::ops::{Add, Div, Mul, Rem, Sub};

/// A vector of quantized activations as a lane walks through it.
pub(in crate::kernels) trait LaneActs: Copy + Carry {
    /// The lane's sub-block of the super-block that lies `cells` further on.
    fn load(self, cells: u32) -> ActLane;

    /// `cells` super-blocks further on.
    fn advance(self, cells: u32) -> Self;
}

impl LaneActs for Act {
    fn load(self, cells: u32) -> ActLane {
        load_act(self, cells)
    }

    fn advance(self, cells: u32) -> Act {
        super::Vector::advance(self, cells)
    }
}

/// What a lane has on its way of one super-block.
#[derive(Clone)]
enum InFlight {
    Quants(Box<SubBlock>),
    Plain(Vec<V<f32>>),
}

impl Carry for InFlight {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        match self {
            InFlight::Quants(block) => block.carry(f),
            InFlight::Plain(weights) => weights.carry(f),
        }
    }
}

#[device]
fn send(m: &Matrix, w: Weights, cells: u32) -> InFlight {
    match m.qtype {
        QType::F16 | QType::Bf16 | QType::F32 => InFlight::Plain(plain::weights_of_block(m.qtype, w, cells)),
        QType::Q4K | QType::Q5K => {
            let word = w.scales.at(cells * words(w.step.scales)).load();
            InFlight::Quants(Box::new(SubBlock {
                quants: load_quants(m.qtype, w.quants.offset(cells * words(w.step.quants))),
                high: load_high(m.qtype, w.high.offset(cells * words(w.step.high))),
                scales: [word, dev(0), dev(0), dev(0)],
                d: dev(F16(0)),
            }))
        }
        _ => InFlight::Quants(Box::new(load_sub_block(m.qtype, w, cells))),
    }
}

/// The whole header of the lane's row, from a word of it in each of the row's first 4 lanes.
#[device]
fn deal_header(word: V<u32>) -> [V<u32>; 4] {
    let first = lane_id() / SUB_BLOCKS * SUB_BLOCKS;
    [0u32, 1, 2, 3].map(|i| shuffle_idx(word, first + i))
}

/// Registers that a lane's sub-block takes on its way.
fn registers(m: &Matrix) -> u32 {
    let bytes = m.cell_bytes();
    let of_planes = (bytes.quants + bytes.high) / 128;
    let header = match m.qtype {
        QType::F16 | QType::Bf16 | QType::F32 => 0,
        QType::Q6K => 2,
        _ => 1,
    };
    of_planes as u32 + header
}

/// Whether a super-block of each of 4 tiles can be on its way at once.
pub(in crate::kernels) fn is_narrow(m: &Matrix) -> bool {
    4 * registers(m) <= RING_REGISTERS
}

#[device]
fn send_all<const N: usize>(m: [&Matrix; N], w: [Weights; N], cells: u32) -> [InFlight; N] {
    std::array::from_fn(|i| send(m[i], w[i], cells))
}

#[device]
fn add(m: &Matrix, came: InFlight, x: ActLane, acc: V<f32>) -> V<f32> {
    match came {
        InFlight::Quants(block) => {
            let scales = match m.qtype {
                QType::Q4K | QType::Q5K => deal_header(block.scales[0]),
                _ => block.scales,
            };
            accumulate_one(m.qtype, SubBlock { scales, ..*block }, x, acc)
        }
        InFlight::Plain(weights) => plain::accumulate(&weights, x, acc),
    }
}

/// The walk of one lane: `n_whole / k_split` super-blocks that every part has, then at most one more.
#[derive(Clone, Copy)]
struct Walk {
    k_split: u32,
    /// Super-blocks that every part has.
    rounds: u32,
    /// Of these, on their way at once.
    depth: u32,
    /// Parts with a whole super-block more.
    odd: u32,
    /// Sub-blocks of the last super-block, which the part after those has, when it is cut short.
    tail: u32,
}

/// Registers for weights on their way, of the 64 that a thread has. More were slower on an H200: what is left has room for the
/// activations of the super-block after the one that is multiplied (bench/NOTES.md).
const RING_REGISTERS: u32 = 20;
/// The same for shares that are short: of those most are on their way before the launches before are done.
const SHORT_RING_REGISTERS: u32 = 30;
/// Super-blocks of a share that is short.
const SHORT: u32 = 4;
/// The longest ring: the body of the loop grows with it.
const LONGEST_RING: u32 = 6;

impl Walk {
    fn new<const N: usize>(m: [&Matrix; N], s: Split) -> Walk {
        let n_whole = m[0].cols / SUPER_BLOCK;
        let rounds = n_whole / s.k_split;
        let (odd, tail) = (n_whole % s.k_split, m[0].tail_sub_blocks());
        let budget = if N == 1 && rounds <= SHORT { SHORT_RING_REGISTERS } else { RING_REGISTERS };
        let depth = budget / m.iter().map(|m| registers(m)).sum::<u32>();
        Walk { k_split: s.k_split, rounds, depth: depth.clamp(1, LONGEST_RING).min(rounds), odd, tail }
    }

    /// Parts with one more super-block, whole or not.
    fn parts_with_more(&self) -> u32 {
        self.odd + u32::from(self.tail > 0)
    }
}

/// The weights of one row in each of `N` tiles, of matrices of one shape, as far as they are on their way.
pub(in crate::kernels) struct Stream<const N: usize> {
    walk: Walk,
    at: Seat,
    /// At the first super-block that is not on its way.
    ahead: [Weights; N],
    /// By place in the ring.
    ring: Vec<[InFlight; N]>,
    /// The one beyond the rounds; of lanes that have none, their first one.
    more: Option<[InFlight; N]>,
}

impl<const N: usize> Stream<N> {
    /// What lies behind the ring, of matrices of quants.
    pub(in crate::kernels) fn behind(&self, m: [&Matrix; N]) -> Behind {
        let n_cells = BEHIND.min(self.walk.rounds - self.walk.depth);
        let tiles = m.into_iter().zip(&self.ahead).filter(|(m, _)| n_cells > 0 && !m.qtype.is_plain());
        Behind { n_cells, k_split: self.walk.k_split, tiles: tiles.map(|(_, ahead)| *ahead).collect() }
    }
}

/// Super-blocks of each tile behind the ring that are worth it: with 4 or more, what they keep from memory is missed (bench/NOTES.md).
const BEHIND: u32 = 2;
/// Words that one request brings into L2.
const LINE: u32 = 32;
/// Words of quants that a lane's share of a super-block lies from the share of the lane before.
const OF_LANE: u32 = 4;

/// The first super-blocks behind a warp's ring.
pub(in crate::kernels) struct Behind {
    n_cells: u32,
    k_split: u32,
    /// Where the lane's share of them begins in each tile.
    tiles: Vec<Weights>,
}

impl Behind {
    /// For a vector that is ready too soon.
    pub(in crate::kernels) const NOTHING: Behind = Behind { n_cells: 0, k_split: 1, tiles: Vec::new() };

    /// Brings their quants into L2, a line a lane; eight lanes a line, each for its own share, was slower (bench/NOTES.md).
    #[device]
    pub(in crate::kernels) fn bring(&self) {
        let line = lane_id();
        for ahead in each(self.tiles.iter()) {
            let words = words(ahead.step.quants);
            let quants = ahead.quants.offset(from_share_to_line(line, words, self.k_split));
            if line < self.n_cells * (words / LINE) {
                quants.at(0).prefetch_l2();
            }
        }
    }
}

/// How many words behind the share of lane `line` in a warp's first super-block the line lies that the lane asks for: lines run through
/// super-blocks of so many `words`, of which every `k_split`-th is the warp's.
fn from_share_to_line<T>(line: T, words: u32, k_split: u32) -> T
where
    T: Copy + Add<Output = T> + Sub<Output = T>,
    T: Mul<u32, Output = T> + Div<u32, Output = T> + Rem<u32, Output = T>,
{
    let of_cell = words / LINE;
    line / of_cell * (k_split * words) + line % of_cell * LINE - line * OF_LANE
}

/// Sends for the first super-blocks of a lane's share of each tile: of matrix `m[i]`, tile `tiles[i]`.
pub(in crate::kernels) fn start<const N: usize>(
    m: [&Matrix; N],
    s: Split,
    w: [Fixed<u32>; N],
    at: Seat,
    tiles: [V<u32>; N],
) -> Stream<N> {
    let walk = Walk::new(m, s);
    let n_super_blocks = m[0].n_super_blocks();
    // Parts for which there is no super-block at all send for one that there is.
    let part = if walk.rounds == 0 { min(at.part, n_super_blocks - 1) } else { at.part };
    let first: [Weights; N] = std::array::from_fn(|i| {
        if m[i].qtype.is_plain() {
            plain_weights_of_lane(m[i], w[i], Seat { part, tile: tiles[i] })
        } else {
            of_header(m[i], weights_of_lane(m[i], w[i], tiles[i] * n_super_blocks + part))
        }
    });
    let ring = (0..walk.depth).map(|place| send_all(m, first, place * walk.k_split)).collect();
    let more = (walk.parts_with_more() > 0).then(|| match has_more(walk, at) {
        Some(there) => {
            let cells = select(there, dev(walk.rounds * walk.k_split), dev(0u32));
            send_all(m, first.map(|w| moved(w, cells)), 0)
        }
        None => send_all(m, first, walk.rounds * walk.k_split),
    });
    let ahead = first.map(|w| advance_weights(w, walk.depth * walk.k_split));
    Stream { walk, at, ahead, ring, more }
}

/// Where a header is dealt out, the lane's pointer to the one word that it sends for.
fn of_header(m: &Matrix, w: Weights) -> Weights {
    match m.qtype {
        QType::Q4K | QType::Q5K => Weights { scales: w.scales.offset(lane_id() & 3), ..w },
        _ => w,
    }
}

/// A lane's pointers moved on by a number of super-blocks that only the device knows.
#[device]
fn moved(w: Weights, cells: V<u32>) -> Weights {
    let step = w.step;
    Weights {
        step,
        quants: w.quants.offset(cells * words(step.quants)),
        high: w.high.offset(cells * words(step.high)),
        scales: w.scales.offset(cells * words(step.scales)),
        d: w.d.offset(cells * (step.d / 2) as u32),
    }
}

/// The lane's sums over its share. `x` begins at the lane's first sub-block.
#[device]
pub(in crate::kernels) fn finish<X: LaneActs, const N: usize>(
    m: [&Matrix; N],
    stream: Stream<N>,
    x: X,
) -> [V<f32>; N] {
    let Stream { walk, at, mut ahead, mut ring, more } = stream;
    let mut x = x;
    let mut acc = [dev(0.0f32); N];
    let (depth, k_split) = (walk.depth, walk.k_split);
    let turns = if depth > 0 { (walk.rounds - depth) / depth } else { 0 };
    // Activations of the super-block after the one that is multiplied.
    let mut next = if walk.rounds > 0 { x.load(0) } else { ActLane::none() };
    if turns > 0 {
        for _turn in 0..turns {
            for place in unroll(0..depth) {
                let act = next;
                next = x.load((place + 1) * k_split);
                acc = add_all(m, &ring[place as usize], act, acc);
                ring[place as usize] = send_all(m, ahead, place * k_split);
            }
            ahead = ahead.map(|w| advance_weights(w, depth * k_split));
            x = x.advance(depth * k_split);
        }
    }
    let left = walk.rounds - turns * depth;
    for round in unroll(0..left) {
        let place = (round % depth) as usize;
        let act = next;
        if round + 1 < left {
            next = x.load((round + 1) * k_split);
        }
        acc = add_all(m, &ring[place], act, acc);
        if round + depth < left {
            ring[place] = send_all(m, ahead, round * k_split);
        }
    }
    if let Some(more) = more {
        match has_more(walk, at) {
            Some(there) => {
                if there {
                    acc = add_all(m, &more, x.load(left * k_split), acc);
                }
            }
            None => acc = add_all(m, &more, x.load(left * k_split), acc),
        }
    }
    acc
}

#[device]
fn add_all<const N: usize>(
    m: [&Matrix; N],
    came: &[InFlight; N],
    x: ActLane,
    acc: [V<f32>; N],
) -> [V<f32>; N] {
    std::array::from_fn(|i| add(m[i], came[i].clone(), x, acc[i]))
}

/// Whether the lane has the super-block beyond the rounds; `None` when all lanes have it.
#[device]
fn has_more(walk: Walk, at: Seat) -> Option<V<bool>> {
    let sub = lane_id() % SUB_BLOCKS;
    match (walk.tail, walk.k_split) {
        (0, _) => Some(at.part < walk.odd),
        (tail, 1) => Some(sub < tail),
        (tail, _) => Some(at.part < walk.odd || at.part == walk.odd && sub < tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_ask_for_each_line_of_the_warps_super_blocks_once() {
        for (words, k_split) in [(128, 1), (128, 4), (256, 2), (64, 8)] {
            let of_cell = words / LINE;
            let asked = (0..BEHIND * of_cell)
                .map(|line: u32| line * OF_LANE + from_share_to_line(line, words, k_split));
            let cells = (0..BEHIND).map(|cell| cell * k_split * words);
            let lines = cells.flat_map(|first| (0..of_cell).map(move |i| first + i * LINE));
            assert!(asked.eq(lines), "{words} words, {k_split} parts");
        }
    }
}
