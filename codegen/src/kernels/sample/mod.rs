//! Choosing the next token from logits on the device: what `plan::sampling` defines, by other means. No sort, and no sum
//! whose order matters: weights are integers, so the same token comes out on every device, here and on the emulator.
//!
//! ```text
//! sample_part   parts × rows   penalty; a logit's order; the greatest of each part
//! sample_bins   parts × rows   count and weight of the tokens by their distance from the greatest (top-k, top-p)
//! sample_cut    1 × rows       the last token that top-k and top-p keep (top-k, top-p)
//! sample_weigh  parts × rows   weight of each part's kept tokens (temperature > 0)
//! sample_final  1 × rows       the draw, the token at its place, and what the next step needs
//! ```
//!
//! Launches that a row's parameters make needless return at once. Orders compare as unsigned numbers; an order with the
//! complement of its index below it (a *rank*, u64) is unique, and greater for a token that goes before another.

mod block;
mod cut;
mod draw;
mod part;
mod trial;

pub use cut::sample_cut;
pub use draw::sample_final;
pub use part::{sample_bins, sample_part, sample_weigh};

use super::operation::Cost;
use super::rows::{Row, feed_back, for_row};
use crate::dsl::prelude::*;
use ::plan::sampling::{SAMPLING_WORDS, WEIGHT_BITS};

/// Threads of a CTA that works on a part, and of the last launch.
const THREADS: u32 = 256;
/// Orders of +∞ and above are no finite logits.
const ORDER_OF_INFINITY: u32 = 0xff80_0000;
/// Bins of distances, and digits of a search. One a thread of `sample_cut`.
const BINS: u32 = 1024;
/// Bins of a distance of 1: bins are 1/32 wide, and the last takes all from 32 on, where no weight is left.
const BINS_PER_ONE: f32 = 32.0;

/// A vocabulary, the parts it is cut into, and the rows of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Logits of a row.
    pub vocab_size: u32,
    /// CTAs that share a row, at most as many as the last launch has threads.
    pub parts: u32,
    /// Rows.
    pub rows: u32,
}

impl Sample {
    /// A part for each 1024 logits, at most one a multiprocessor.
    pub fn new(vocab_size: u32, rows: u32, n_sms: u32) -> Sample {
        Sample { vocab_size, parts: vocab_size.div_ceil(1024).clamp(1, n_sms.min(THREADS)), rows }
    }

    /// Orders of a row: whole quads, so that 16 bytes are loaded at a time. Those past the vocabulary are 0, less than
    /// any float's, and no weight comes of them.
    const fn stride(&self) -> u32 {
        self.vocab_size.next_multiple_of(4)
    }

    /// Tokens of a part; whole quads.
    const fn per_part(&self) -> u32 {
        self.stride().div_ceil(self.parts).next_multiple_of(4)
    }

    /// Bytes of the orders of all logits (`Slot::SampleKeys`).
    pub const fn keys_bytes(&self) -> u64 {
        self.rows as u64 * self.stride() as u64 * 4
    }

    /// Bytes of one rank or sum a part (`Slot::SampleBest`, `Slot::SampleSums`).
    pub const fn parts_bytes(&self) -> u64 {
        self.rows as u64 * self.parts as u64 * 8
    }

    /// Bytes of counts and weights by distance (`Slot::SampleBins`).
    pub const fn bins_bytes(&self) -> u64 {
        self.rows as u64 * BINS as u64 * 16
    }

    /// Bytes of one rank a row (`Slot::SampleCut`).
    pub const fn cut_bytes(&self) -> u64 {
        self.rows as u64 * 8
    }

    /// A launch that reads `words` 4-byte words for each logit.
    fn cost(&self, words: u64) -> Cost {
        let rows = u64::from(self.rows);
        let logits = rows * u64::from(self.vocab_size);
        // And the parameters with the greatest logit of each part.
        let a_row = 48 + 8 * u64::from(self.parts);
        Cost { bytes: logits * 4 * words + rows * a_row, macs: logits }
    }
}

/// The first launch.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplePart(pub Sample);

/// The second launch.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleBins(pub Sample);

/// The third launch.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleCut(pub Sample);

/// The fourth launch.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleWeigh(pub Sample);

/// The last launch.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleFinal(pub Sample);

/// The parameters of a row, as loaded.
#[derive(Clone, Copy)]
struct Params {
    temperature: V<f32>,
    min_p: V<f32>,
    penalty: V<f32>,
    top_k: V<u32>,
    top_p: V<u64>,
    seed: V<u64>,
    since: V<u32>,
}

impl Params {
    fn load(here: Row, params: Fixed<u32>) -> Params {
        let row = here.of(params, SAMPLING_WORDS);
        let [temperature, min_p, penalty, top_k] = row.at(0u32).load_x4();
        let [p_low, p_high, seed_low, seed_high] = row.at(4u32).load_x4();
        Params {
            temperature: V::<f32>::from_bits(temperature),
            min_p: V::<f32>::from_bits(min_p),
            penalty: V::<f32>::from_bits(penalty),
            top_k,
            top_p: pack([p_low, p_high]),
            seed: pack([seed_low, seed_high]),
            since: row.at(8u32).load(),
        }
    }
}

/// Whether a row draws at all, and of finite logits only.
#[device]
fn draws(params: Params, greatest: V<u64>) -> V<bool> {
    let [_, order] = unpack(greatest);
    params.temperature != 0.0 && order < ORDER_OF_INFINITY
}

/// Whether top-k keeps fewer than all.
#[device]
fn has_top_k(s: &Sample, params: Params) -> V<bool> {
    params.top_k != 0 && params.top_k < s.vocab_size
}

/// Whether a row's tokens are to be searched for a cut.
#[device]
fn has_cut(s: &Sample, params: Params, greatest: V<u64>) -> V<bool> {
    draws(params, greatest) && (has_top_k(s, params) || params.top_p != 0)
}

/// The order of a float.
#[device]
fn order_of(value: V<f32>) -> V<u32> {
    let bits = value.bits();
    select((bits >> 31) == 1, !bits, bits | 0x8000_0000)
}

/// The float of an order.
#[device]
fn value_of(order: V<u32>) -> V<f32> {
    V::<f32>::from_bits(select((order >> 31) == 1, order & 0x7fff_ffff, !order))
}

/// The rank of a token.
#[device]
fn rank_of(order: V<u32>, index: V<u32>) -> V<u64> {
    pack([!index, order])
}

/// The float that a rank stands for.
#[device]
fn value_of_rank(rank: V<u64>) -> V<f32> {
    let [_, order] = unpack(rank);
    value_of(order)
}

/// A weight as a whole number of 2^-40.
#[device]
fn weight_of(e: V<f32>) -> V<u64> {
    (e * (1u64 << WEIGHT_BITS) as f32).trunc_to_u64()
}

/// The bin of a value's distance from the greatest: never less for a lesser value.
#[device]
fn bin_of(value: V<f32>, greatest: V<f32>) -> V<u32> {
    min(((greatest - value) * BINS_PER_ONE).trunc_to_u32(), BINS - 1)
}
