//! The launches in which many CTAs share a row.

use super::*;
use ::plan::HISTORY;
use ::plan::sampling::PENALTY_WINDOW;

const WARPS: u32 = THREADS / 32;

/// Where recent tokens are found.
#[derive(Clone, Copy)]
struct Recent {
    control: In<u32>,
    history: In<u32>,
    since: V<u32>,
}

/// Marks which tokens of a part are recent: a bit each. The thread's token is that many positions back.
#[device]
fn mark_recent(here: Row, from: Recent, seen: Shared<u32>, part: [V<u32>; 2]) {
    let [start, end] = part;
    let position = here.control(from.control).at(1).load();
    let back = thread_idx_x();
    if back < PENALTY_WINDOW && back <= position && position - back >= from.since {
        let token = here.of(from.history, HISTORY).at((position - back) % HISTORY).load();
        if token >= start && token < end {
            let bit = 1u32 << ((token - start) % 32);
            seen.at((token - start) / 32).red(Rmw::Or, Ordering::Relaxed, Scope::Cta, bit);
        }
    }
}

/// The order of a logit under the penalty; above all finite ones when it is none.
#[device]
fn penalised_order(logit: V<f32>, recent: V<bool>, penalty: V<f32>) -> V<u32> {
    let changed = select(logit > 0.0, logit / penalty, logit * penalty);
    let changed = max(min(changed, f32::MAX), f32::MIN);
    // Adding 0 makes −0 equal to +0.
    let value = select(recent, changed, logit) + 0.0;
    let finite = (logit.bits() & 0x7f80_0000) != 0x7f80_0000;
    select(finite, order_of(value), u32::MAX)
}

/// keys[i] = order of logit i after the penalty; best[part] = greatest (keys[i], −i); bins = 0
/// shapes   logits, keys (row, vocab) · params (row, 12) · history (row, ring) · best (row, part) · bins (row, 2, 1024)
/// layout   threads stride through a contiguous part; one bit a token says whether it is recent
/// launch   grid (parts, rows), block 256, shared: a bit a token of the part, 64 bytes
/// source   plan::sampling; penalty: Keskar et al. 2019
#[kernel(grid = (s.0.parts, s.0.rows), block = THREADS)]
pub fn sample_part(
    s: &SamplePart,
    control: In<u32>,
    params: Fixed<u32>,
    history: In<u32>,
    logits: In<f32>,
    keys: Out<u32>,
    best: Out<u64>,
    bins: Out<u64>,
) {
    let s = &s.0;
    let words = s.per_part().div_ceil(32);
    let seen = shared::<u32>(words);
    let partial = shared::<u64>(WARPS);
    for_row(s.rows, block_idx_y(), control, |here| {
        let part = block_idx_x();
        let start = part * s.per_part();
        let end = min(start + s.per_part(), s.stride());
        for word in (thread_idx_x()..words).step_by(THREADS) {
            seen.store(word, 0u32);
        }
        let of_part = (2 * BINS).div_ceil(s.parts);
        let last = min((part + 1) * of_part, 2 * BINS);
        for bin in (part * of_part + thread_idx_x()..last).step_by(THREADS) {
            here.of(bins, 2 * BINS).store(bin, 0u64);
        }
        sync_threads();
        let params = Params::load(here, params);
        mark_recent(here, Recent { control, history, since: params.since }, seen, [start, end]);
        sync_threads();
        let penalty = params.penalty;
        let mut rank = dev(0u64);
        for turn in unroll(0..s.per_part().div_ceil(THREADS), 4) {
            let within = turn * THREADS + thread_idx_x();
            let i = start + within;
            let logit = here.of(logits, s.vocab_size).at(min(i, s.vocab_size - 1)).load();
            let recent = (seen.at(min(within / 32, words - 1)).load() >> (within % 32) & 1) == 1;
            let order = select(i < s.vocab_size, penalised_order(logit, recent, penalty), dev(0u32));
            if i < end {
                here.of(keys, s.stride()).store(i, order);
                rank = max(rank, rank_of(order, i));
            }
        }
        let rank = block::greatest(rank, partial, WARPS);
        if thread_idx_x() == 0 {
            here.of(best, s.parts).store(part, rank);
        }
    });
}

/// The greatest rank of a row, in every thread.
#[device]
pub(super) fn greatest_of_row(s: &Sample, here: Row, best: In<u64>, partial: Shared<u64>) -> V<u64> {
    // A rank is never 0: the complement of an index below 2^32 − 1 is not.
    let mut rank = dev(0u64);
    if thread_idx_x() < s.parts {
        rank = here.of(best, s.parts).at(thread_idx_x()).load();
    }
    block::greatest(rank, partial, block_dim() / 32)
}

/// bins[0][b] += |B|, bins[1][b] += Σ_B weight(e^(value − greatest)), B the tokens at distance b
/// shapes   params (row, 12) · keys (row, vocab) · best (row, part) · bins (row, 2, 1024) u64
/// layout   threads stride through a contiguous part; bins of the part in shared memory first
/// launch   grid (parts, rows), block 256, shared 16448 bytes
/// source   plan::sampling
#[kernel(grid = (s.0.parts, s.0.rows), block = THREADS)]
pub fn sample_bins(
    s: &SampleBins,
    control: In<u32>,
    params: Fixed<u32>,
    keys: In<u32>,
    best: In<u64>,
    bins: InOut<u64>,
) {
    let s = &s.0;
    let counts = shared::<u64>(BINS);
    let weights = shared::<u64>(BINS);
    let partial = shared::<u64>(WARPS);
    for_row(s.rows, block_idx_y(), control, |here| {
        let params = Params::load(here, params);
        let greatest = greatest_of_row(s, here, best, partial);
        if has_cut(s, params, greatest) {
            for bin in (thread_idx_x()..BINS).step_by(THREADS) {
                counts.store(bin, 0u64);
                weights.store(bin, 0u64);
            }
            sync_threads();
            for turn in unroll(0..s.per_part().div_ceil(4 * THREADS), 2) {
                let quad = Quad::of_part(s, turn);
                for order in each(quad.load(s, here, keys)) {
                    if order != 0 {
                        let value = value_of(order);
                        let bin = bin_of(value, value_of_rank(greatest));
                        counts.at(bin).red_add(Scope::Cta, 1u64);
                        weights.at(bin).red_add(Scope::Cta, weight_of(exp(value - value_of_rank(greatest))));
                    }
                }
            }
            sync_threads();
            let bins = here.of(bins, 2 * BINS);
            for bin in (thread_idx_x()..BINS).step_by(THREADS) {
                let count = counts.at(bin).load();
                if count != 0 {
                    bins.at(bin).red_add(Scope::Gpu, count);
                    bins.offset(BINS).at(bin).red_add(Scope::Gpu, weights.at(bin).load());
                }
            }
        }
    });
}

/// sums[part] = Σ weight(e^((value − greatest) / temperature)) over the kept tokens of the part
/// shapes   params (row, 12) · keys (row, vocab) · best, sums (row, part) · cut (row)
/// layout   threads stride through a contiguous part
/// launch   grid (parts, rows), block 256, shared 64 bytes
/// source   plan::sampling
#[kernel(grid = (s.0.parts, s.0.rows), block = THREADS)]
pub fn sample_weigh(
    s: &SampleWeigh,
    control: In<u32>,
    params: Fixed<u32>,
    keys: In<u32>,
    best: In<u64>,
    cut: In<u64>,
    sums: Out<u64>,
) {
    let s = &s.0;
    let partial = shared::<u64>(WARPS);
    for_row(s.rows, block_idx_y(), control, |here| {
        let params = Params::load(here, params);
        let greatest = greatest_of_row(s, here, best, partial);
        if draws(params, greatest) {
            let kept = Kept { params, greatest, cut: here.of(cut, 1).at(0u32).load() };
            let mut sum = dev(0u64);
            for turn in unroll(0..s.per_part().div_ceil(4 * THREADS), 2) {
                let quad = Quad::of_part(s, turn);
                let orders = quad.load(s, here, keys);
                for e in unroll(0..4u32) {
                    sum = sum + kept.weight(orders[e as usize], quad.first + e);
                }
            }
            let sums_of_part = block::sums(sum, partial, WARPS);
            if thread_idx_x() == 0 {
                here.of(sums, s.parts).store(block_idx_x(), sums_of_part.total);
            }
        }
    });
}

/// Four neighbouring tokens.
#[derive(Clone, Copy)]
pub(super) struct Quad {
    /// The first of them.
    pub first: V<u32>,
    /// Where the quads that may be loaded end.
    pub end: V<u32>,
}

impl Quad {
    /// The thread's quad of the CTA's part at a turn.
    #[device]
    fn of_part(s: &Sample, turn: V<u32>) -> Quad {
        let start = block_idx_x() * s.per_part();
        Quad {
            first: start + (turn * THREADS + thread_idx_x()) * 4,
            end: min(start + s.per_part(), s.stride()),
        }
    }

    /// The orders; 0 past the end.
    #[device]
    pub(super) fn load(self, s: &Sample, here: Row, keys: In<u32>) -> [V<u32>; 4] {
        let orders = here.of(keys, s.stride()).at(min(self.first, s.stride() - 4)).load_x4();
        orders.map(|order| select(self.first < self.end, order, 0u32))
    }
}

/// What decides whether a token is kept, and its weight.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub params: Params,
    pub greatest: V<u64>,
    pub cut: V<u64>,
}

impl Kept {
    /// The weight of a token in the draw; 0 when it is not kept, or none: order 0 stands for a NaN, which no bound admits.
    #[device]
    pub(super) fn weight(self, order: V<u32>, index: V<u32>) -> V<u64> {
        let distance = value_of(order) - value_of_rank(self.greatest);
        let kept = rank_of(order, index) >= self.cut && exp(distance) >= self.params.min_p;
        select(kept, weight_of(exp(distance / self.params.temperature)), dev(0u64))
    }
}
