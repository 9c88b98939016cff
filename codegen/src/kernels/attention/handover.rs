//! Results of stretches on their way from the CTAs that have them to those that merge them, in one launch: what is handed
//! over says itself that it is there, so no CTA has to say so, and nothing waits for stores to be seen before the next step.
//!
//! A word of the room is 0 until a result is there, and again once it is taken. Results are stored with all bits turned:
//! only all ones would turn to 0, a NaN that arithmetic does not give (PTX ISA 9.7.3: a NaN as a result is 0x7fffffff).
//! Each word speaks for itself, so that relaxed accesses are enough.
//!
//! Of a key head's CTAs the last ones merge. CTAs begin in the order of their indices, so all others have begun before them and
//! end without waiting for anything. Those that merge wait for one another, so that all of them must have a place on the
//! device at once: how many may is told by the host, in [`plan::Slot::Control`]; one for each key head always may, since it
//! waits for earlier ones only. Who merges does not change what comes out.

use super::join::{Quad, Weighed, weigh};
use super::{Attend, BLOCK};
use crate::dsl::{InOut, Scope, prelude::*};

/// Lanes, and elements, that are of one head whatever its size.
const UNIT: u32 = 16;
/// Stretches that are taken together.
const LOT: u32 = 8;

/// How a key head's outputs are cut among warps.
struct Cut {
    /// Blocks of 32 outputs.
    blocks: u32,
    /// Heads that a block may belong to: the first lanes to one, the last ones to the next.
    heads: u32,
}

impl Cut {
    const fn new(s: &Attend) -> Cut {
        let blocks = s.group() * s.head_dim / BLOCK;
        let heads = if s.head_dim.is_multiple_of(BLOCK) { 1 } else { BLOCK / UNIT };
        Cut { blocks, heads }
    }
}

/// CTAs of a key head that merge at most: one for each block, unless that leaves too few that end at once, whose places the next
/// launch takes while these wait (bench/NOTES.md).
const fn most_mergers(s: &Attend) -> u32 {
    let blocks = Cut::new(s).blocks;
    let some = s.n_splits / 2;
    match (8 * blocks <= 7 * s.n_splits, some) {
        (true, _) => blocks,
        (false, 0) => 1,
        (false, some) => some,
    }
}

/// A CTA among those of its key head.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) kv_head: V<u32>,
    /// Its stretch.
    pub(super) split: V<u32>,
    /// Stretches that there are.
    pub(super) n_active: V<u32>,
    /// CTAs of the launch that may wait at once.
    pub(super) waiting: V<u32>,
}

/// Words of outputs of a row.
const fn outputs(s: &Attend) -> u32 {
    s.n_splits * s.q_dim()
}

/// (Maximum, sum) pairs of a stretch: one for each head of each block, so that each is taken once.
const fn pairs(s: &Attend) -> u32 {
    let cut = Cut::new(s);
    cut.blocks * cut.heads
}

/// Where results are handed over: outputs (kv head, stretch, group, head_dim), then pairs (kv head, stretch, block, head).
#[derive(Clone, Copy)]
pub(super) struct Handover(pub(super) InOut<u32>);

impl Handover {
    /// Words for a row, all 0 before and after each launch.
    pub(super) const fn words(s: &Attend) -> u32 {
        outputs(s) + 2 * s.n_kv_heads * s.n_splits * pairs(s)
    }

    /// A key head's outputs of its stretches, and their pairs.
    #[device]
    fn of(self, s: &Attend, kv_head: V<u32>) -> [InOut<u32>; 2] {
        let stretch = kv_head * s.n_splits;
        let of_outputs = self.0.offset(stretch * (s.group() * s.head_dim));
        [of_outputs, self.0.offset(outputs(s)).offset(stretch * (2 * pairs(s)))]
    }

    /// Hands over a stretch's result.
    #[device]
    pub(super) fn give(self, s: &Attend, from: Member, quads: &[Quad]) {
        let [outputs, of_pairs] = self.of(s, from.kv_head);
        let to = outputs.offset(from.split * (s.group() * s.head_dim));
        let of_pair = BLOCK / Cut::new(s).heads / 4;
        for quad in each(quads.iter()) {
            if quad.there {
                to.at(quad.place * 4).store_relaxed_x4(Scope::Gpu, quad.o.map(|o| !o.bits()));
                if quad.place % of_pair == 0 {
                    let pair = of_pairs.offset(from.split * (2 * pairs(s))).at(quad.place / of_pair * 2);
                    pair.store_relaxed_x2(Scope::Gpu, [quad.m, quad.l].map(|x| !x.bits()));
                }
            }
        }
    }

    /// Merges the stretches of a key head, if `to` is one of the CTAs that do so. `store` gets, warp by warp, a block's index
    /// among those of the key head and its outputs, one a lane.
    #[device]
    pub(super) fn take(self, s: &Attend, to: Member, store: impl Fn(V<u32>, V<f32>)) {
        let blocks = Cut::new(s).blocks;
        let room = to.waiting / (s.n_kv_heads * s.rows.count);
        let mergers = max(min(min(to.n_active, most_mergers(s)), room), 1);
        if to.split + mergers >= to.n_active {
            let mut block = to.split + mergers - to.n_active + warp_id() * mergers;
            while block < blocks {
                let at = (to.kv_head, block);
                let mut x = dev(0.0f32);
                // Where there are few stretches, what it takes to find that out of many counts.
                if s.n_splits <= LOT {
                    x = self.merged(s, at, (to.n_active, s.n_splits));
                } else {
                    if to.n_active <= LOT {
                        x = self.merged(s, at, (to.n_active, LOT));
                    } else {
                        x = self.merged(s, at, (to.n_active, s.n_splits));
                    }
                }
                store(block, x);
                block = block + mergers * s.warps();
            }
        }
    }

    /// The lane's output of a block, with the bits of [`super::join::join_stretches`].
    #[device]
    fn merged(self, s: &Attend, at: (V<u32>, V<u32>), (n_active, most): (V<u32>, u32)) -> V<f32> {
        let came = self.wait(s, at, (n_active, most));
        let mut of_heads: Vec<V<f32>> = Vec::new();
        for of_head in each(came.pairs.iter()) {
            let Weighed { weights, sum } = weigh(of_head, n_active);
            let mut o = dev(0.0f32);
            for (lot, words) in each((0u32..).zip(came.outputs.iter())) {
                if lot * LOT < n_active {
                    o = add_lot(&weights[(lot * LOT / 32) as usize], lot * LOT % 32, words, o);
                }
            }
            of_heads.push(o * rcp(sum));
        }
        match of_heads[..] {
            [first, second] => select(lane_id() < UNIT, first, second),
            _ => of_heads[0],
        }
    }

    /// Waits until a block of each stretch is there and takes it: some stretches at a time, so that all but the last to come
    /// are taken while those are waited for.
    #[device]
    fn wait(self, s: &Attend, (kv_head, block): (V<u32>, V<u32>), (n_active, most): (V<u32>, u32)) -> Came {
        let (cut, [outputs, of_pairs]) = (Cut::new(s), self.of(s, kv_head));
        let lanes = outputs.offset(block * BLOCK + lane_id());
        let of_block = of_pairs.offset(block * (2 * cut.heads));
        let (turns, lots) = (most.div_ceil(32), most.div_ceil(LOT));
        let n_words = |lot: u32| (most - lot * LOT).min(LOT) as usize;
        let mut words: Vec<Vec<V<u32>>> = (0..lots).map(|lot| vec![dev(!0u32); n_words(lot)]).collect();
        let mut pairs = vec![vec![vec![dev(!0u32); 2]; turns as usize]; cut.heads as usize];
        let mut taken = vec![dev(false); lots as usize];
        for lot in unroll(1..lots) {
            taken[lot as usize] = n_active <= lot * LOT;
        }
        let (mut paired, mut waits) = (dev(false), dev(true));
        while waits {
            // All that is missing is sent for before any of it is looked at.
            if !paired {
                pairs = load_pairs(s, of_block, (n_active, most));
            }
            for lot in unroll(0..lots) {
                if !taken[lot as usize] {
                    words[lot as usize] = load_lot(s, lanes, (lot, most));
                }
            }
            waits = dev(false);
            if !paired {
                paired = all_there(&pairs.concat().concat());
                if paired {
                    empty_pairs(s, of_block, (n_active, most));
                }
                waits = !paired;
            }
            for lot in unroll(0..lots) {
                if !taken[lot as usize] {
                    words[lot as usize] = without_absent(lot, &words[lot as usize], n_active);
                    taken[lot as usize] = all_there(&words[lot as usize]);
                    if taken[lot as usize] {
                        empty_lot(s, lanes, (lot, most));
                    }
                    waits = waits | !taken[lot as usize];
                }
            }
        }
        let float = |pair: &Vec<V<u32>>| [pair[0], pair[1]].map(|word| V::<f32>::from_bits(!word));
        let pairs = pairs.iter().map(|of_head| of_head.iter().map(float).collect()).collect();
        Came { outputs: words, pairs }
    }
}

/// Whether what all lanes hold has been handed over.
#[device]
fn all_there(words: &[V<u32>]) -> V<bool> {
    let mut least = words[0];
    for word in each(words.iter().skip(1)) {
        least = min(least, *word);
    }
    all(least != 0)
}

/// The lane's outputs of some stretches.
#[device]
fn load_lot(s: &Attend, lanes: InOut<u32>, (lot, most): (u32, u32)) -> Vec<V<u32>> {
    let mut words: Vec<V<u32>> = Vec::new();
    for i in unroll(lot * LOT..most.min((lot + 1) * LOT)) {
        let word = lanes.at(i * (s.group() * s.head_dim)).load_relaxed(Scope::Gpu);
        words.push(word);
    }
    words
}

/// In place of what never comes, 0 with its bits turned: it counts nothing, but has to be a number.
#[device]
fn without_absent(lot: u32, words: &[V<u32>], n_active: V<u32>) -> Vec<V<u32>> {
    (lot * LOT..).zip(words).map(|(i, word)| select(n_active > i, *word, !0u32)).collect()
}

/// Each word has one reader, which is through with it: the next launch finds it empty.
#[device]
fn empty_lot(s: &Attend, lanes: InOut<u32>, (lot, most): (u32, u32)) {
    for i in unroll(lot * LOT..most.min((lot + 1) * LOT)) {
        lanes.at(i * (s.group() * s.head_dim)).store_relaxed(Scope::Gpu, 0);
    }
}

/// o += Σ weight · output of some stretches, the first of which has the weight of lane `first`.
#[device]
fn add_lot(weights: &V<f32>, first: u32, words: &[V<u32>], before: V<f32>) -> V<f32> {
    let mut o = before;
    for (i, word) in each((0u32..).zip(words.iter())) {
        o = fma(V::<f32>::from_bits(!*word), shuffle_idx(*weights, first + i), o);
    }
    o
}

/// The places of the pairs of the lane's stretch of each 32, by head of the block.
#[device]
fn places_of_pairs(
    s: &Attend,
    of_block: InOut<u32>,
    (n_active, most): (V<u32>, u32),
) -> Vec<Vec<InOut<u32>>> {
    let mut of_heads: Vec<Vec<InOut<u32>>> = vec![Vec::new(); Cut::new(s).heads as usize];
    for turn in unroll(0..most.div_ceil(32)) {
        let stretch = of_block.offset(min(lane_id() + turn * 32, n_active - 1) * (2 * pairs(s)));
        for (of_head, i) in of_heads.iter_mut().zip(0u32..) {
            of_head.push(stretch.offset(i * 2));
        }
    }
    of_heads
}

#[device]
fn load_pairs(s: &Attend, of_block: InOut<u32>, (n_active, most): (V<u32>, u32)) -> Vec<Vec<Vec<V<u32>>>> {
    let load = |place: &InOut<u32>| place.at(0).load_relaxed_x2(Scope::Gpu).to_vec();
    let of_heads = places_of_pairs(s, of_block, (n_active, most));
    of_heads.iter().map(|of_head| of_head.iter().map(load).collect()).collect()
}

#[device]
fn empty_pairs(s: &Attend, of_block: InOut<u32>, (n_active, most): (V<u32>, u32)) {
    for place in each(places_of_pairs(s, of_block, (n_active, most)).concat()) {
        place.at(0).store_relaxed_x2(Scope::Gpu, [dev(0), dev(0)]);
    }
}

/// What a warp took.
struct Came {
    /// By lot, the lane's output of each stretch, its bits turned.
    outputs: Vec<Vec<V<u32>>>,
    /// By head of the block and by 32 stretches, the pair of the lane's one.
    pairs: Vec<Vec<[V<f32>; 2]>>,
}
