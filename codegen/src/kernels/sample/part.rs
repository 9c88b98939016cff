//! The launches in which many CTAs share a row.

use super::*;
use ::plan::sampling::{HISTORY_RING, PENALTY_WINDOW};

const WARPS: u32 = THREADS / 32;

/// Marks which tokens of a part are recent: a bit each.
#[device]
fn mark_recent(here: Row, control: In<u32>, history: In<u32>, seen: Shared<u32>, part: [V<u32>; 2]) {
    let [start, end] = part;
    let produced = here.control(control).at(3).load();
    let back = thread_idx_x();
    if back < PENALTY_WINDOW && back < produced {
        let token = here.of(history, HISTORY_RING).at((produced - 1 - back) % HISTORY_RING).load();
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
/// shapes   logits, keys (row, vocab) · params (row, 8) · history (row, ring) · best (row, part) · bins (row, 2, 1024)
/// layout   threads stride through a contiguous part; one bit a token says whether it is recent
/// launch   grid (parts, rows), block 256, shared: a bit a token of the part, 64 bytes
/// source   plan::sampling; penalty: Keskar et al. 2019
#[kernel(grid = (s.0.parts, s.0.rows), block = THREADS)]
pub fn sample_part(
    s: &SamplePart,
    control: In<u32>,
    params: In<u32>,
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
        let end = min(start + s.per_part(), s.vocab_size);
        for word in (thread_idx_x()..words).step_by(THREADS) {
            seen.store(word, 0u32);
        }
        let of_part = (2 * BINS).div_ceil(s.parts);
        let last = min((part + 1) * of_part, 2 * BINS);
        for bin in (part * of_part + thread_idx_x()..last).step_by(THREADS) {
            here.of(bins, 2 * BINS).store(bin, 0u64);
        }
        sync_threads();
        mark_recent(here, control, history, seen, [start, end]);
        sync_threads();
        let penalty = Params::load(here, params).penalty;
        let mut rank = dev(0u64);
        for i in (start + thread_idx_x()..end).step_by(THREADS) {
            let recent = (seen.at((i - start) / 32).load() >> ((i - start) % 32) & 1) == 1;
            let order = penalised_order(here.of(logits, s.vocab_size).at(i).load(), recent, penalty);
            here.of(keys, s.vocab_size).store(i, order);
            rank = max(rank, rank_of(order, i));
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
/// shapes   params (row, 8) · keys (row, vocab) · best (row, part) · bins (row, 2, 1024) u64
/// layout   threads stride through a contiguous part; bins of the part in shared memory first
/// launch   grid (parts, rows), block 256, shared 16448 bytes
/// source   plan::sampling
#[kernel(grid = (s.0.parts, s.0.rows), block = THREADS)]
pub fn sample_bins(
    s: &SampleBins,
    control: In<u32>,
    params: In<u32>,
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
            let start = block_idx_x() * s.per_part();
            let end = min(start + s.per_part(), s.vocab_size);
            for bin in (thread_idx_x()..BINS).step_by(THREADS) {
                counts.store(bin, 0u64);
                weights.store(bin, 0u64);
            }
            sync_threads();
            for i in (start + thread_idx_x()..end).step_by(THREADS) {
                let value = value_of(here.of(keys, s.vocab_size).at(i).load());
                let bin = bin_of(value, value_of_rank(greatest));
                counts.at(bin).red_add(Scope::Cta, 1u64);
                weights.at(bin).red_add(Scope::Cta, weight_of(exp(value - value_of_rank(greatest))));
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
/// shapes   params (row, 8) · keys (row, vocab) · best, sums (row, part) · cut (row)
/// layout   threads stride through a contiguous part
/// launch   grid (parts, rows), block 256, shared 64 bytes
/// source   plan::sampling
#[kernel(grid = (s.0.parts, s.0.rows), block = THREADS)]
pub fn sample_weigh(
    s: &SampleWeigh,
    control: In<u32>,
    params: In<u32>,
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
            let start = block_idx_x() * s.per_part();
            let end = min(start + s.per_part(), s.vocab_size);
            let kept = Kept { params, greatest, cut: here.of(cut, 1).at(0u32).load() };
            let mut sum = dev(0u64);
            for i in (start + thread_idx_x()..end).step_by(THREADS) {
                sum = sum + kept.weight(here.of(keys, s.vocab_size).at(i).load(), i);
            }
            let sums_of_part = block::sums(sum, partial, WARPS);
            if thread_idx_x() == 0 {
                here.of(sums, s.parts).store(block_idx_x(), sums_of_part.total);
            }
        }
    });
}

/// What decides whether a token is kept, and its weight.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub params: Params,
    pub greatest: V<u64>,
    pub cut: V<u64>,
}

impl Kept {
    /// The weight of a token in the draw; 0 when it is not kept.
    #[device]
    pub(super) fn weight(self, order: V<u32>, index: V<u32>) -> V<u64> {
        let distance = value_of(order) - value_of_rank(self.greatest);
        let kept = rank_of(order, index) >= self.cut && exp(distance) >= self.params.min_p;
        select(kept, weight_of(exp(distance / self.params.temperature)), dev(0u64))
    }
}
