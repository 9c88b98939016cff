//! The last token that top-k and top-p keep: a search by digits, over counts for top-k and over weights for top-p.

use super::part::{Quad, greatest_of_row};
use super::*;

/// One a bin.
const CUT_THREADS: u32 = BINS;
const WARPS: u32 = CUT_THREADS / 32;
/// Ranks of one bin that are kept in shared memory; a bin with more is read from the orders at each digit.
const LISTED: u32 = 2048;
/// Bits of a digit.
const DIGIT_BITS: u32 = BINS.ilog2();

/// The shared memory of the search.
#[derive(Clone, Copy)]
struct Room {
    counts: Shared<u64>,
    weights: Shared<u64>,
    list: Shared<u64>,
    partial: Shared<u64>,
    /// Digit, count before, weight before, count of the digit.
    found: Shared<u64>,
    /// Least and greatest rank of the bin, and how many are listed.
    range: Shared<u64>,
}

/// A digit, and what goes before it.
#[derive(Clone, Copy)]
struct Found {
    digit: V<u32>,
    before: Measure,
    count: V<u64>,
}

/// A count and a weight.
#[derive(Clone, Copy)]
struct Measure {
    count: V<u64>,
    weight: V<u64>,
}

impl Measure {
    /// The one that is searched for.
    fn of(self, by_weight: V<bool>) -> V<u64> {
        select(by_weight, self.weight, self.count)
    }
}

/// The first digit up to which the measure reaches `need`; thread t has the measure of digit t.
#[device]
fn find(room: Room, own: Measure, by_weight: V<bool>, need: V<u64>) -> Found {
    let count = block::sums(own.count, room.partial, WARPS).before;
    let weight = block::sums(own.weight, room.partial, WARPS).before;
    let before = Measure { count, weight }.of(by_weight);
    if before < need && need <= before + own.of(by_weight) {
        room.found.store(0u32, thread_idx_x().to_u64());
        room.found.store(1u32, count);
        room.found.store(2u32, weight);
        room.found.store(3u32, own.count);
    }
    sync_threads();
    let digit = room.found.at(0u32).load().to_u32();
    let before = Measure { count: room.found.at(1u32).load(), weight: room.found.at(2u32).load() };
    Found { digit, before, count: room.found.at(3u32).load() }
}

/// The orders of a row.
#[derive(Clone, Copy)]
struct Orders {
    here: Row,
    keys: In<u32>,
}

/// Puts the ranks of a bin into the list, if they fit, and their range into the room.
#[device]
fn gather(s: &Sample, room: Room, from: Orders, greatest: V<u64>, bin: [V<u32>; 2]) {
    let [bin, count] = bin;
    if thread_idx_x() == 0 {
        room.range.store(0u32, u64::MAX);
        room.range.store(1u32, 0u64);
        room.range.store(2u32, 0u64);
    }
    sync_threads();
    let mut least = dev(u64::MAX);
    let mut most = dev(0u64);
    for turn in 0..s.stride().div_ceil(4 * CUT_THREADS) {
        let quad = Quad { first: (turn * CUT_THREADS + thread_idx_x()) * 4, end: dev(s.stride()) };
        let orders = quad.load(s, from.here, from.keys);
        for e in unroll(0..4u32) {
            let order = orders[e as usize];
            if order != 0 && bin_of(value_of(order), value_of_rank(greatest)) == bin {
                let rank = rank_of(order, quad.first + e);
                least = min(least, rank);
                most = max(most, rank);
                if count <= LISTED {
                    let place = room.range.at(2u32).atomic_add(Scope::Cta, 1u64);
                    room.list.store(place.to_u32(), rank);
                }
            }
        }
    }
    if most != 0 {
        room.range.at(0u32).red_min(Scope::Cta, least);
        room.range.at(1u32).red_max(Scope::Cta, most);
    }
    sync_threads();
}

/// Counts and weighs the ranks from `least` to `most` by their digit `(most − rank) >> shift`.
#[device]
fn tally(s: &Sample, room: Room, from: Orders, search: Search) {
    let keys = from.here.of(from.keys, s.stride());
    sync_threads();
    room.counts.store(thread_idx_x(), 0u64);
    room.weights.store(thread_idx_x(), 0u64);
    sync_threads();
    let n = select(search.listed <= LISTED, search.listed, s.vocab_size);
    for i in (thread_idx_x()..n).step_by(CUT_THREADS) {
        let mut rank = dev(0u64);
        if search.listed <= LISTED {
            rank = room.list.at(i).load();
        } else {
            rank = rank_of(keys.at(i).load(), i);
        }
        if rank >= search.least && rank <= search.most {
            let digit = ((search.most - rank) >> search.shift).to_u32();
            let weight = weight_of(exp(value_of_rank(rank) - value_of_rank(search.greatest)));
            room.counts.at(digit).red_add(Scope::Cta, 1u64);
            room.weights.at(digit).red_add(Scope::Cta, weight);
        }
    }
    sync_threads();
}

/// Where a search stands.
#[derive(Clone, Copy)]
struct Search {
    least: V<u64>,
    most: V<u64>,
    shift: V<u32>,
    /// Ranks of the bin.
    listed: V<u32>,
    greatest: V<u64>,
}

/// cut = the least rank that top-k and top-p keep; 0: all
/// shapes   params (row, 12) · keys (row, vocab) · best (row, part) · bins (row, 2, 1024) · cut (row)
/// layout   one thread a bin; the ranks of the bin that has the cut in shared memory, in any order
/// launch   grid (1, rows), block 1024, shared 33080 bytes
/// source   plan::sampling; nucleus: Holtzman et al. 2019
#[kernel(grid = (1, s.0.rows), block = CUT_THREADS)]
pub fn sample_cut(
    s: &SampleCut,
    control: In<u32>,
    params: Fixed<u32>,
    keys: In<u32>,
    best: In<u64>,
    bins: In<u64>,
    cut: Out<u64>,
) {
    let s = &s.0;
    let counts = shared::<u64>(BINS);
    let weights = shared::<u64>(BINS);
    let list = shared::<u64>(LISTED);
    let partial = shared::<u64>(WARPS);
    let found = shared::<u64>(4u32);
    let range = shared::<u64>(3u32);
    let room = Room { counts, weights, list, partial, found, range };
    for_row(s.rows, block_idx_y(), control, |here| {
        let params = Params::load(here, params);
        let greatest = greatest_of_row(s, here, best, partial);
        let from = Orders { here, keys };
        let mut least_kept = dev(0u64);
        if has_cut(s, params, greatest) {
            let bins = here.of(bins, 2 * BINS).offset(thread_idx_x());
            let mut total = block::sums(bins.at(BINS).load(), partial, WARPS).total;
            for round in 0..2u32 {
                let by_weight = round == 1;
                let share = max(mul_hi(total, params.top_p), 1u64);
                let wanted = select(by_weight, share, params.top_k.to_u64());
                if select(by_weight, params.top_p != 0, has_top_k(s, params)) {
                    // Loaded again in each round: registers are few with so many threads.
                    let of_bin = Measure { count: bins.at(0u32).load(), weight: bins.at(BINS).load() };
                    let first = find(room, of_bin, by_weight, wanted);
                    let mut need = wanted - first.before.of(by_weight);
                    let mut above = first.before.weight;
                    let listed = first.count.to_u32();
                    gather(s, room, from, greatest, [first.digit, listed]);
                    let mut least = range.at(0u32).load();
                    let mut most = range.at(1u32).load();
                    while least < most {
                        let bits = 64u32 - clz_u64(most - least);
                        let shift = max(bits, DIGIT_BITS) - DIGIT_BITS;
                        tally(s, room, from, Search { least, most, shift, listed, greatest });
                        let count = room.counts.at(thread_idx_x()).load();
                        let weight = room.weights.at(thread_idx_x()).load();
                        let next = find(room, Measure { count, weight }, by_weight, need);
                        need = need - next.before.of(by_weight);
                        above = above + next.before.weight;
                        most = most - (next.digit.to_u64() << shift);
                        least = max(least, most - ((dev(1u64) << shift) - 1));
                    }
                    least_kept = max(least_kept, most);
                    total = above + weight_of(exp(value_of_rank(most) - value_of_rank(greatest)));
                }
            }
        }
        if thread_idx_x() == 0 {
            here.of(cut, 1).store(0u32, least_kept);
        }
    });
}
