//! Sums and maxima of u64 over a CTA. Integers: any order gives the same.

use crate::dsl::prelude::*;

/// The greatest value of a CTA of `n_warps`, in every thread; `partial` is shared memory of `n_warps` elements.
#[device]
pub(super) fn greatest(value: V<u64>, partial: Shared<u64>, n_warps: u32) -> V<u64> {
    let mut best = value;
    for bit in each((0..5).rev()) {
        best = max(best, shuffle_xor_u64(best, 1 << bit));
    }
    exchange(best, partial, 0);
    for warp in unroll(0..n_warps) {
        best = max(best, partial.at(warp).load());
    }
    best
}

/// The sum before each thread's value, by thread index, and the sum of all.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub before: V<u64>,
    pub total: V<u64>,
}

/// Sums over a CTA of `n_warps`; `partial` is shared memory of `n_warps` elements.
#[device]
pub(super) fn sums(value: V<u64>, partial: Shared<u64>, n_warps: u32) -> Sums {
    let mut upto = value;
    for bit in each(0..5) {
        let other = shuffle_up_u64(upto, 1u32 << bit);
        upto = upto + select(lane_id() >= (1u32 << bit), other, dev(0u64));
    }
    exchange(upto, partial, 31);
    let mut before = upto - value;
    let mut total = dev(0u64);
    for warp in unroll(0..n_warps, 8) {
        let of_warp = partial.at(warp).load();
        before = before + select(warp < warp_id(), of_warp, dev(0u64));
        total = total + of_warp;
    }
    Sums { before, total }
}

/// Puts the value of one lane of each warp into shared memory, visible to all.
#[device]
fn exchange(own: V<u64>, partial: Shared<u64>, lane: u32) {
    sync_threads();
    if lane_id() == lane {
        partial.at(warp_id()).store(own);
    }
    sync_threads();
}
