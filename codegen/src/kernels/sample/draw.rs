//! The draw, and what it leaves for the next step.

use super::part::{Kept, Quad, greatest_of_row};
use super::*;
use ::plan::sampling::NOT_FINITE;

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
    here: Row,
    keys: In<u32>,
    kept: Kept,
    /// Its place in the sum of all weights.
    place: V<u64>,
}

impl Draw {
    /// A quad of tokens with their weights.
    #[device]
    fn weights(self, s: &Sample, quad: Quad) -> [V<u64>; 4] {
        let orders = quad.load(s, self.here, self.keys);
        let mut weights = [dev(0u64); 4];
        for e in unroll(0..4usize) {
            weights[e] = self.kept.weight(orders[e], quad.first + e as u32);
        }
        weights
    }
}

/// The kept token at a place: first its part, then the thread whose tokens hold it, then the token. `of_part` is the
/// weight of the part whose number the thread has.
#[device]
fn token_at(s: &Sample, draw: Draw, of_part: V<u64>, partial: Shared<u64>) -> V<u32> {
    let told = shared::<u32>(4u32);
    let parts = block::sums(of_part, partial, WARPS);
    if parts.before <= draw.place && draw.place - parts.before < of_part {
        let [low, high] = unpack(draw.place - parts.before);
        told.store(0u32, thread_idx_x());
        told.store(1u32, low);
        told.store(2u32, high);
    }
    sync_threads();
    let start = told.at(0u32).load() * s.per_part();
    let end = min(start + s.per_part(), s.stride());
    let place = pack([told.at(1u32).load(), told.at(2u32).load()]);
    let quads = s.per_part().div_ceil(4 * THREADS);
    let first = start + thread_idx_x() * (quads * 4);
    let mut own = dev(0u64);
    for turn in unroll(0..quads, 2) {
        for weight in each(draw.weights(s, Quad { first: first + turn * 4, end })) {
            own = own + weight;
        }
    }
    let before = block::sums(own, partial, WARPS).before;
    if before <= place && place - before < own {
        let mut sum = before;
        let mut token = first;
        for turn in unroll(0..quads, 2) {
            for weight in each(draw.weights(s, Quad { first: first + turn * 4, end })) {
                sum = sum + weight;
                // Weights are not negative: the sums that do not exceed the place are those before its token.
                token = token + (sum <= place).to_u32();
            }
        }
        told.store(3u32, token);
    }
    sync_threads();
    told.at(3u32).load()
}

/// token = the first kept one up to which Σ weight > ⌊random · Σ weight / 2^64⌋, or the greatest, or u32::MAX
/// shapes   params (row, 12) · keys (row, vocab) · best, sums (row, part) · cut, chosen (row) · history (row, ring)
/// layout   a thread a part, then contiguous tokens of one part a thread
/// launch   grid (1, rows), block 256, shared 80 bytes
/// source   plan::sampling; generator: Steele, Lea and Flood 2014
#[kernel(grid = (1, s.0.rows), block = THREADS)]
pub fn sample_final(
    s: &SampleFinal,
    params: Fixed<u32>,
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
    for_row(s.rows, block_idx_y(), control, |here| {
        let params = Params::load(here, params);
        let greatest = greatest_of_row(s, here, best, partial);
        let position = here.control(control).at(1u32).load();
        let [low, order] = unpack(greatest);
        let mut token = select(order >= ORDER_OF_INFINITY, NOT_FINITE, !low);
        if draws(params, greatest) {
            let mut of_part = dev(0u64);
            if thread_idx_x() < s.parts {
                of_part = here.of(sums, s.parts).at(thread_idx_x()).load();
            }
            let total = block::sums(of_part, partial, WARPS).total;
            let kept = Kept { params, greatest, cut: here.of(cut, 1).at(0u32).load() };
            let draw = Draw { here, keys, kept, place: mul_hi(random(params.seed, position), total) };
            token = token_at(s, draw, of_part, partial);
        }
        if thread_idx_x() == 0 {
            here.of(chosen, 1).at(0u32).store(token);
            feed_back(here, token, control, history);
        }
    });
}
