//! Trials of prefill attention: chunks anywhere in a sequence, and softmax(q·K) V in f64 with error bounds.

use super::{AttendPrefill, TILE};
use crate::kernels::attention::scene::BELOW_RANGE;
use crate::kernels::exact::near_first;
use crate::kernels::operation::{Expect, Trial};
use crate::kernels::reference::{self, U, gamma};
use crate::kernels::{quantize, rows::Control};
use crate::rng::Rng;

/// Keys and values of one sequence, and queries of its last rows.
struct Chunk {
    /// Position of row 0.
    position: u32,
    n_active: u32,
    /// (row, head, element)
    q: Vec<f32>,
    k: Vec<u8>,
    v: Vec<u8>,
}

impl Chunk {
    fn random(s: &AttendPrefill, seed: u64) -> Chunk {
        let mut rng = Rng::new(seed);
        // At the beginning, at the edges of tiles, and with rows on both sides of an edge.
        let positions = [0, 1, TILE - 1, TILE, 3 * TILE + 5, 100, 7 * TILE - 2];
        let position = positions[rng.below(positions.len() as u32) as usize];
        let n_active = if seed.is_multiple_of(2) { s.rows.count } else { 1 + rng.below(s.rows.count) };
        let len = position + n_active;
        let (k, v) = (s.kv_rows().random(&mut rng, len), s.kv_rows().random(&mut rng, len));
        // Even weights, a few strong ones, or scores so far apart that one position takes all.
        let scale = [2.0, 20.0, 200.0][(seed % 3) as usize] / (s.head_dim as f32).sqrt();
        let q = (0..n_active * s.q_dim()).map(|_| rng.normal() * scale).collect();
        Chunk { position, n_active, q, k, v }
    }

    /// Output and bound of each element of a head of a row.
    fn attend(&self, s: &AttendPrefill, row: u32, head: u32) -> Vec<(f64, f64)> {
        let dim = s.head_dim as usize;
        let position = self.position + row;
        let positions = s.window.map_or(0, |w| (position + 1).saturating_sub(w))..position + 1;
        let of = |cache: &[u8], p: u32| -> Vec<f64> {
            let first = head / s.group() * s.head_dim;
            (first..first + s.head_dim).map(|e| s.kv_rows().decode(cache, p, e)).collect()
        };
        let q = &self.q[(row * s.n_heads + head) as usize * dim..][..dim];
        // Each of the chain's sums rounds once: their magnitudes bound its error.
        let score = |p: u32| {
            of(&self.k, p).iter().zip(q).fold((0.0, 0.0), |(sum, bound): (f64, f64), (k, q)| {
                let sum = sum + k * f64::from(*q);
                (sum, bound + 1.01 * U * sum.abs())
            })
        };
        let scores: Vec<(f64, f64)> = positions.clone().map(score).collect();
        let m = scores.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
        let score_bound = scores.iter().map(|s| s.1).fold(0.0, f64::max);
        let (mut l, mut o, mut magnitude) = (0.0, vec![0.0; dim], vec![0.0; dim]);
        for (p, (score, _)) in positions.clone().zip(&scores) {
            let weight = (score - m).exp2();
            l += weight;
            for (e, v) in of(&self.v, p).into_iter().enumerate() {
                o[e] += weight * v;
                magnitude[e] += (weight * v).abs() + BELOW_RANGE;
            }
        }
        // A term goes through one rounding for each later position and, for each later tile, an exp of two units and a
        // product; then comes a division. Errors of its score and of the maximum are absolute in the exponent.
        let n = f64::from(positions.end - positions.start);
        let relative = gamma(n + 4.0 * (n / f64::from(TILE) + 2.0) + 16.0) + 3.0 * score_bound;
        o.iter().zip(&magnitude).map(|(o, a)| (o / l, 2.0 * relative * a / l)).collect()
    }
}

/// Where a trial's outputs go.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Blocks,
    InPlace,
    Floats,
}

pub(super) fn trial(s: &AttendPrefill, seed: u64) -> Trial {
    trial_of(s, if s.quantizes() { Form::Blocks } else { Form::InPlace }, seed)
}

pub(super) fn exact(s: &AttendPrefill, seed: u64) -> Trial {
    trial_of(s, Form::Floats, seed)
}

/// A chunk somewhere in one of two sequences; what must not be read is NaN.
fn trial_of(s: &AttendPrefill, form: Form, seed: u64) -> Trial {
    let chunk = Chunk::random(s, seed);
    let n_sequences = if s.rows.count > 1 { 2 } else { 1 };
    let sequence = (seed / 2 % n_sequences) as u32;
    let rows = (0..s.rows.count).map(|row| [7, chunk.position + row, sequence, 0]).collect();
    let control = Control { active: chunk.n_active, waiting: 0, rows };
    let mut qkv = vec![f32::NAN; (s.rows.count * s.qkv_dim()) as usize];
    for (row, q) in qkv.chunks_mut(s.qkv_dim() as usize).zip(chunk.q.chunks(s.q_dim() as usize)) {
        row[..q.len()].copy_from_slice(q);
    }
    let heads = (0..chunk.n_active).flat_map(|row| (0..s.n_heads).map(move |head| (row, head)));
    let values: Vec<(f64, f64)> = heads.flat_map(|(row, head)| chunk.attend(s, row, head)).collect();
    let trial = Trial::new(seed).input(control.bytes());
    let n = n_sequences as usize;
    let bytes = u64::from(s.rows.count * s.q_dim());
    let trial = if form == Form::Blocks {
        let (quants, meta) = quantize::expect(&values);
        let trial = trial.input(reference::bytes_f32(&qkv)).caches(s.rows, n, 2);
        trial.output(bytes, quants).output(bytes / 4, meta)
    } else if form == Form::Floats {
        let trial = trial.input(reference::bytes_f32(&qkv)).caches(s.rows, n, 1);
        trial.output(bytes * 4, near_first(values))
    } else {
        let rows = values.chunks(s.q_dim() as usize).zip((0..).step_by(s.qkv_dim() as usize));
        let places =
            rows.flat_map(|(row, first)| (first..).zip(row).map(|(place, (v, bound))| (place, *v, *bound)));
        trial.in_out(reference::bytes_f32(&qkv), Expect::NearF32(places.collect())).caches(s.rows, n, 0)
    };
    (0..n_sequences as u32).fold(trial, |trial, n| {
        let of = |cache: &Vec<u8>| if n == sequence { cache.clone() } else { vec![0xff; cache.len()] };
        trial.linked(of(&chunk.k), Expect::Unchanged).linked(of(&chunk.v), Expect::Unchanged)
    })
}
