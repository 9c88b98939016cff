//! The token with the greatest logit, the lowest index on ties, for any vocabulary; and a flag for logits that are no
//! numbers.
//!
//! A logit and its index become one u64 whose order is the order wanted: the float's bits mapped to unsigned order
//! above, the complement of the index below. NaN (always canonical here) and +∞ come out on top and are told at the end.

use super::operation::{Cost, Expect, Operation, Trial};
use super::reference;
use super::rows::{Control, feed_back, for_row};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::rng::Rng;
use ::plan::HISTORY;

/// Threads of a CTA.
const THREADS: u32 = 256;
/// Orders of +∞ and above are no finite logits.
const ORDER_OF_INFINITY: u32 = 0xff80_0000;
/// What the last launch stores when a logit is NaN or infinite.
const NOT_FINITE: u32 = u32::MAX;

/// The vocabulary and the parts it is cut into.
#[derive(Clone, Debug, PartialEq)]
pub struct Argmax {
    /// Logits.
    pub vocab_size: u32,
    /// CTAs of the first launch, for each row.
    pub parts: u32,
    /// Rows of the step.
    pub rows: u32,
}

/// The first launch: the best of each part.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgmaxPart(pub Argmax);

/// The second launch: the best of the parts.
#[derive(Clone, Debug, PartialEq)]
pub struct ArgmaxFinal(pub Argmax);

impl Argmax {
    /// A part for each 1024 logits, at most one a multiprocessor.
    pub fn new(vocab_size: u32, n_sms: u32, rows: u32) -> Argmax {
        Argmax { vocab_size, parts: vocab_size.div_ceil(1024).clamp(1, n_sms), rows }
    }

    const fn per_part(&self) -> u32 {
        self.vocab_size.div_ceil(self.parts)
    }

    fn key(value: f32, index: u32) -> u64 {
        let bits = if value.is_nan() { 0x7fff_ffff } else { (value + 0.0).to_bits() };
        let order = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(order) << 32 | u64::from(!index)
    }

    fn best_of_part(&self, logits: &[f32], part: u32) -> u64 {
        let range = part * self.per_part()..((part + 1) * self.per_part()).min(self.vocab_size);
        range.map(|i| Argmax::key(logits[i as usize], i)).max().unwrap_or(0)
    }

    fn best_of_row(&self, logits: &[f32]) -> Vec<u8> {
        (0..self.parts).flat_map(|part| self.best_of_part(logits, part).to_le_bytes()).collect()
    }

    /// Mostly normal logits with ties for the first place; sometimes one that is not finite.
    fn random_logits(&self, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        let mut logits: Vec<f32> = (0..self.vocab_size).map(|_| rng.normal()).collect();
        for _ in 0..3 {
            logits[rng.below(self.vocab_size) as usize] = 9.0;
        }
        match seed % 8 {
            1 => logits[rng.below(self.vocab_size) as usize] = f32::NAN,
            2 => logits[rng.below(self.vocab_size) as usize] = f32::INFINITY,
            3 => logits.iter_mut().enumerate().for_each(|(i, v)| *v = if i % 3 == 0 { -0.0 } else { 0.0 }),
            4 => logits.fill(-3.0e38),
            _ => {}
        }
        logits
    }
}

/// The key of a logit. Adding 0 makes −0 equal to +0, and every NaN the canonical one.
#[device]
fn key_of(value: V<f32>, index: V<u32>) -> V<u64> {
    let bits = (value + 0.0).bits();
    let order = select((bits >> 31) == 1, !bits, bits | 0x8000_0000);
    pack([!index, order])
}

/// The greatest key of `width` neighbouring lanes, in each of them.
#[device]
fn greatest_of_lanes(key: V<u64>, width: u32) -> V<u64> {
    let mut best = key;
    for bit in each((0..width.ilog2()).rev()) {
        best = max(best, shuffle_xor_u64(best, 1 << bit));
    }
    best
}

/// The greatest key of a CTA, in every thread of its first warp.
#[device]
fn greatest(key: V<u64>) -> V<u64> {
    let of_warp = greatest_of_lanes(key, 32);
    let keys = shared::<u64>(THREADS / 32);
    if lane_id() == 0 {
        keys.at(warp_id()).store(of_warp);
    }
    sync_threads();
    greatest_of_lanes(keys.at(lane_id() % (THREADS / 32)).load(), THREADS / 32)
}

/// best[row, part] = max over the part of (order of logit, −index)
/// shapes   control as in the plan · logits (row, vocab) f32 · best (row, parts) u64
/// layout   threads stride through a contiguous part
/// launch   grid (parts, rows), block 256, shared 64 bytes
/// source   lowest index on ties: as argmax of NumPy
#[kernel(grid = (s.0.parts, s.0.rows), block = THREADS)]
pub fn argmax_part(s: &ArgmaxPart, control: In<u32>, logits: In<f32>, best: Out<u64>) {
    let s = &s.0;
    for_row(s.rows, block_idx_y(), control, |here| {
        let logits = here.of(logits, s.vocab_size);
        let start = block_idx_x() * s.per_part();
        let end = min(start + s.per_part(), s.vocab_size);
        let mut key = dev(0u64);
        for turn in 0..s.per_part().div_ceil(THREADS) {
            let i = start + turn * THREADS + thread_idx_x();
            let logit = logits.at(min(i, s.vocab_size - 1)).load();
            key = max(key, select(i < end, key_of(logit, i), dev(0u64)));
        }
        let key = greatest(key);
        if thread_idx_x() == 0 {
            here.of(best, s.parts).at(block_idx_x()).store(key);
        }
    });
}

/// chosen[row] = index of max best[row, part], or u32::MAX when that logit is not finite; it is the row's next token
/// shapes   best (row, parts) u64 · chosen (row) u32 · control, history as in the plan
/// layout   threads stride through the parts
/// launch   grid rows, block 256, shared 64 bytes
/// source   lowest index on ties: as argmax of NumPy
#[kernel(grid = s.0.rows, block = THREADS)]
pub fn argmax_final(
    s: &ArgmaxFinal,
    best: In<u64>,
    control: InOut<u32>,
    chosen: Out<u32>,
    history: Out<u32>,
) {
    let s = &s.0;
    for_row(s.rows, block_idx_x(), control, |here| {
        let best = here.of(best, s.parts);
        let mut key = dev(0u64);
        for turn in unroll(0..s.parts.div_ceil(THREADS)) {
            let i = thread_idx_x() + turn * THREADS;
            key = max(key, best.at(min(i, s.parts - 1)).load());
        }
        let key = greatest(key);
        if thread_idx_x() == 0 {
            let [low, order] = unpack(key);
            let token = select(order >= ORDER_OF_INFINITY, NOT_FINITE, !low);
            here.of(chosen, 1).at(0).store(token);
            feed_back(here, token, control, history);
        }
    });
}

impl Operation for ArgmaxPart {
    fn name(&self) -> &'static str {
        "argmax_part"
    }

    fn constants(&self) -> String {
        format!("{:?}", self.0)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        argmax_part(self)
    }

    fn cost(&self) -> Cost {
        let (s, rows) = (&self.0, u64::from(self.0.rows));
        let bytes = u64::from(s.vocab_size) * 4 + u64::from(s.parts) * 8;
        Cost { bytes: rows * bytes, macs: rows * u64::from(s.vocab_size) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0;
        let control = Control::random(&mut Rng::new(seed), s.rows);
        let rows: Vec<Vec<f32>> =
            (0..control.active).map(|row| s.random_logits(seed + u64::from(row))).collect();
        let best = rows.iter().flat_map(|row| s.best_of_row(row)).collect();
        let bytes = u64::from(s.parts * s.rows) * 8;
        Trial::new(seed)
            .input(control.bytes())
            .input(reference::bytes_f32(&rows.concat()))
            .output(bytes, Expect::First(best))
    }
}

impl Operation for ArgmaxFinal {
    fn name(&self) -> &'static str {
        "argmax_final"
    }

    fn constants(&self) -> String {
        format!("{:?}", self.0)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        argmax_final(self)
    }

    fn cost(&self) -> Cost {
        let rows = u64::from(self.0.rows);
        Cost { bytes: rows * (u64::from(self.0.parts) * 8 + 20), macs: rows * u64::from(self.0.parts) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let s = &self.0;
        let control = Control::random(&mut Rng::new(seed), s.rows);
        let rows: Vec<Vec<f32>> =
            (0..control.active).map(|row| s.random_logits(seed + u64::from(row))).collect();
        let best: Vec<u8> = rows.iter().flat_map(|row| s.best_of_row(row)).collect();
        let chosen: Vec<u32> = rows.iter().map(|row| greatest_logit(row)).collect();
        let (after, history) = control.fed_back(&chosen);
        let history_bytes = u64::from(s.rows * HISTORY) * 4;
        Trial::new(seed)
            .input(best)
            .in_out(control.bytes(), Expect::Exact(after.bytes()))
            .output(u64::from(s.rows) * 4, Expect::First(reference::bytes_u32(&chosen)))
            .output(history_bytes, Expect::Exact(history))
    }
}

/// Argmax by its definition, not through the keys.
fn greatest_logit(logits: &[f32]) -> u32 {
    let finite = logits.iter().all(|v| !v.is_nan() && *v != f32::INFINITY);
    let first = logits.iter().enumerate().fold(0, |first, (i, v)| if *v > logits[first] { i } else { first });
    if finite { first as u32 } else { NOT_FINITE }
}
