//! The draw, and what it leaves for the next step.

use super::part::{Kept, greatest_of_row};
use super::*;
use ::plan::sampling::{HISTORY_RING, NOT_FINITE};

const WARPS: u32 = THREADS / 32;

/// One step of splitmix64's output function.
#[device]
fn mix(z: V<u64>) -> V<u64> {
    let z = (z ^ z >> 30) * 0xbf58_476d_1ce4_e5b9u64;
    let z = (z ^ z >> 27) * 0x94d0_49bb_1331_11ebu64;
    z ^ z >> 31
}

/// 64 random bits for a seed and a position.
#[device]
fn random(seed: V<u64>, position: V<u32>) -> V<u64> {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(mix(seed + STEP) + (position.to_u64() + 1u64) * STEP)
}

/// Where a draw falls.
#[derive(Clone, Copy)]
struct Draw {
    /// Its place in the sum of all weights.
    place: V<u64>,
    kept: Kept,
}

/// The kept token at a place: first its part, then the thread whose tokens hold it, then the token.
#[device]
fn token_at(
    s: &Sample,
    here: Row,
    draw: Draw,
    memory: (In<u32>, V<u64>, Shared<u64>, Shared<u32>),
) -> V<u32> {
    let (keys, of_part, partial, told) = memory;
    let keys = here.of(keys, s.vocab_size);
    let parts = block::sums(of_part, partial, WARPS);
    if parts.before <= draw.place && draw.place - parts.before < of_part {
        let [low, high] = unpack(draw.place - parts.before);
        told.store(0u32, thread_idx_x());
        told.store(1u32, low);
        told.store(2u32, high);
    }
    sync_threads();
    let start = told.at(0u32).load() * s.per_part();
    let end = min(start + s.per_part(), s.vocab_size);
    let place = pack([told.at(1u32).load(), told.at(2u32).load()]);
    let each = s.per_part().div_ceil(THREADS);
    let first = min(start + thread_idx_x() * each, end);
    let last = min(first + each, end);
    let mut own = dev(0u64);
    for i in first..last {
        own = own + draw.kept.weight(keys.at(i).load(), i);
    }
    let before = block::sums(own, partial, WARPS).before;
    if before <= place && place - before < own {
        let mut sum = before;
        let mut token = first;
        for i in first..last {
            sum = sum + draw.kept.weight(keys.at(i).load(), i);
            // As long as the sum does not exceed the place, the token is a later one.
            token = select(sum <= place, i + 1, token);
        }
        told.store(3u32, token);
    }
    sync_threads();
    told.at(3u32).load()
}

/// token = the first kept one up to which Σ weight > ⌊random · Σ weight / 2^64⌋, or the greatest, or u32::MAX
/// shapes   params (row, 8) · keys (row, vocab) · best, sums (row, part) · cut, chosen (row) · history (row, ring)
/// layout   a thread a part, then contiguous tokens of one part a thread
/// launch   grid (1, rows), block 256, shared 80 bytes
/// source   plan::sampling; generator: Steele, Lea and Flood 2014
#[kernel(grid = (1, s.0.rows), block = THREADS)]
pub fn sample_final(
    s: &SampleFinal,
    params: In<u32>,
    keys: In<u32>,
    best: In<u64>,
    cut: In<u64>,
    sums: In<u64>,
    control: InOut<u32>,
    history: Out<u32>,
    chosen: Out<u32>,
) {
    let s = &s.0;
    let partial = shared::<u64>(WARPS);
    let told = shared::<u32>(4u32);
    for_row(s.rows, block_idx_y(), control, |here| {
        let params = Params::load(here, params);
        let greatest = greatest_of_row(s, here, best, partial);
        let own = here.control(control);
        let position = own.at(1u32).load();
        let produced = own.at(3u32).load();
        let [low, order] = unpack(greatest);
        let mut token = select(order >= ORDER_OF_INFINITY, NOT_FINITE, !low);
        if draws(params, greatest) {
            let mut of_part = dev(0u64);
            if thread_idx_x() < s.parts {
                of_part = here.of(sums, s.parts).at(thread_idx_x()).load();
            }
            let total = block::sums(of_part, partial, WARPS).total;
            let kept = Kept { params, greatest, cut: here.of(cut, 1).at(0u32).load() };
            let draw = Draw { place: mul_hi(random(params.seed, position), total), kept };
            token = token_at(s, here, draw, (keys, of_part, partial, told));
        }
        sync_threads();
        if thread_idx_x() == 0 {
            here.of(chosen, 1).store(0u32, token);
            here.of(history, HISTORY_RING).store(produced % HISTORY_RING, token);
            own.store(0u32, token);
            own.store(1u32, position + 1);
            own.store(3u32, produced + 1);
        }
    });
}
