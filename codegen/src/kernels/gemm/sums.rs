//! Sums of a tile: those of a team's eight warps and of the parts of K, added up through shared memory in the order of the
//! one-row kernel, and which of them a thread has in the end.

use super::stage::{Job, stage_words};
use super::tile::{FRAGMENT_WORDS, TEAM, Tile};
use crate::dsl::prelude::*;
use ::plan::QType;

/// Where sums begin: in place of the stages, or behind them where a stage of the next part is there when one part is added up.
pub(super) const fn first_sum(qtype: QType, t: Tile, rounds: u32) -> u32 {
    if rounds > 1 && t.fills_during() { stage_words(qtype, t) * t.buffers } else { 0 }
}

/// The output and the row of activations, from those of the CTA, of a thread's element `i`. Sums of fragments lie in shared memory
/// as `mma` leaves them, four a lane, and each thread of a team adds up as many neighbours.
#[device]
pub(super) fn element(t: Tile, i: u32) -> [V<u32>; 2] {
    let team = if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across * (16 * t.m) };
    let (first, own) = (own_word(t), i % width(t));
    let (fragment, lane) = (first / FRAGMENT_WORDS + i / width(t) * t.sums_at_once(), first / 4 % 32);
    let [output, row] = if width(t) == 4 {
        [dev(own / 2 * 8), dev(own % 2)]
    } else {
        let r = first % 4 + own;
        [r / 2 * 8, r % 2]
    };
    [team + fragment % t.m * 16 + lane / 4 + output, fragment / t.m * 8 + lane % 4 * 2 + row]
}

/// Words that a thread adds up of the fragments that are in shared memory at once.
const fn width(t: Tile) -> u32 {
    if t.sums_at_once() == 1 { 1 } else { t.sums_at_once() * FRAGMENT_WORDS / (32 * TEAM) }
}

/// The first of a thread's words.
#[device]
fn own_word(t: Tile) -> V<u32> {
    // One fragment has words for half of a team: the others repeat them.
    let threads = if t.sums_at_once() == 1 { FRAGMENT_WORDS } else { 32 * TEAM };
    (thread_idx_x() & (threads - 1)) * width(t)
}

/// Whether a thread has elements at all: those of the first part have.
#[device]
pub(super) fn has_elements(t: Tile) -> V<bool> {
    let of_first_part = thread_idx_x() < 32 * t.warps_of_part();
    if t.sums_at_once() == 1 { of_first_part && thread_idx_x() & FRAGMENT_WORDS == 0 } else { of_first_part }
}

/// Sums of the parts that are being multiplied, in their order, each that of its 8 warps in the order of the one-row
/// kernel's tree: at distance 4, then 2, then 1. `join` puts the first of them to the thread's element of the parts before.
/// All threads take part; shared memory is free again when they are through.
#[device]
pub(super) fn reduce(job: &Job, acc: &[V<f32>], join: impl Fn(usize, V<f32>) -> V<f32>) -> Vec<V<f32>> {
    let t = job.tile;
    let at_once = t.sums_at_once();
    let memory = job.memory.offset(first_sum(job.m.qtype, t, job.rounds())).cast::<f32>();
    let to = memory.offset(warp_id() * (at_once * FRAGMENT_WORDS) + lane_id() * 4);
    let team = if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across };
    let from = memory.offset(team * (TEAM * at_once * FRAGMENT_WORDS) + own_word(t));
    let mut sums: Vec<V<f32>> = Vec::new();
    for chunk in each(acc.chunks(4 * at_once as usize)) {
        sync_threads();
        for (i, of) in each((0u32..).zip(chunk.chunks_exact(4))) {
            to.at(i * FRAGMENT_WORDS).store_x4([of[0], of[1], of[2], of[3]]);
        }
        sync_threads();
        let of_part = |part: u32| {
            let first = part * t.warps_of_part();
            let of =
                |warp: u32| load_words(from.offset((first + warp) * (at_once * FRAGMENT_WORDS)), width(t));
            let pair = |warp: u32| add_each(of(warp), of(warp + 4));
            add_each(add_each(pair(0), pair(2)), add_each(pair(1), pair(3)))
        };
        let parts: Vec<Vec<V<f32>>> = (0..t.parts).map(of_part).collect();
        for r in unroll(0..width(t) as usize) {
            let first = join(sums.len(), parts[0][r]);
            sums.push(parts[1..].iter().fold(first, |sum, part| sum + part[r]));
        }
    }
    sync_threads();
    sums
}

#[device]
fn load_words(from: Shared<f32>, width: u32) -> Vec<V<f32>> {
    match width {
        1 => vec![from.at(0).load()],
        2 => from.at(0).load_x2().to_vec(),
        _ => from.at(0).load_x4().to_vec(),
    }
}

#[device]
fn add_each(a: Vec<V<f32>>, b: Vec<V<f32>>) -> Vec<V<f32>> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}
