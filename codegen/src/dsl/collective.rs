//! Reductions over lanes, warps and CTAs, written in the DSL.
//!
//! Every sum is a fixed tree, so it gives the same bits on every run and machine: lanes at distance width/2, width/4,
//! …, 1 are added (each lane as `own + other`, which commutes), then warps in ascending order.

use super::*;
use kernels_dsl::device;

/// Sum over groups of `width` neighbouring lanes (a power of two up to 32); every lane of the group gets it.
#[device]
pub fn sum_lanes<T: Word + Num>(v: V<T>, width: u32) -> V<T>
where
    V<T>: std::ops::Add<V<T>, Output = V<T>>,
{
    let mut sum = v;
    for step in each(halvings(width)) {
        sum = sum + shuffle_xor(sum, step);
    }
    sum
}

/// Greatest over groups of `width` neighbouring lanes; every lane of the group gets it. NaN counts as missing.
#[device]
pub fn max_lanes<T: Word + Num>(v: V<T>, width: u32) -> V<T> {
    let mut greatest = v;
    for step in each(halvings(width)) {
        greatest = max(greatest, shuffle_xor(greatest, step));
    }
    greatest
}

/// Sum over the warp; every lane gets it.
pub fn warp_sum<T: Word + Num>(v: V<T>) -> V<T>
where
    V<T>: std::ops::Add<V<T>, Output = V<T>>,
{
    sum_lanes(v, 32)
}

/// Greatest over the warp; every lane gets it.
pub fn warp_max<T: Word + Num>(v: V<T>) -> V<T> {
    max_lanes(v, 32)
}

/// Sum over the CTA: warps by [`warp_sum`], then the `n_warps` results in ascending order; every thread gets it.
///
/// `partial` is shared memory of `n_warps` elements. The helper synchronises before it writes and after, so the
/// memory may be reused by calling again.
#[device]
pub fn block_sum<T: Word + Num + Elem<Loaded = T>>(v: V<T>, partial: Shared<T>, n_warps: u32) -> V<T>
where
    V<T>: std::ops::Add<V<T>, Output = V<T>>,
{
    let own = warp_sum(v);
    exchange(own, partial);
    let mut total = partial.at(0u32).load();
    for warp in unroll(1..n_warps) {
        total = total + partial.at(warp).load();
    }
    total
}

/// Greatest over the CTA; `partial` as in [`block_sum`].
#[device]
pub fn block_max<T: Word + Num + Elem<Loaded = T>>(v: V<T>, partial: Shared<T>, n_warps: u32) -> V<T> {
    let own = warp_max(v);
    exchange(own, partial);
    let mut greatest = partial.at(0u32).load();
    for warp in unroll(1..n_warps) {
        greatest = max(greatest, partial.at(warp).load());
    }
    greatest
}

/// Puts the value of each warp's lane 0 into shared memory, visible to all.
#[device]
fn exchange<T: Word + Elem<Loaded = T>>(own: V<T>, partial: Shared<T>) {
    sync_threads();
    if lane_id() == 0 {
        partial.at(warp_id()).store(own);
    }
    sync_threads();
}

/// width/2, width/4, …, 1.
fn halvings(width: u32) -> Vec<u32> {
    if !width.is_power_of_two() || width > 32 {
        refuse(format!("lanes are reduced in groups of 1, 2, 4, 8, 16 or 32, not {width}"));
        return Vec::new();
    }
    (0..width.trailing_zeros()).rev().map(|bit| 1 << bit).collect()
}
