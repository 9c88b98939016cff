//! What trials of attention are made of: random caches, and attention over them in f64 with error bounds.

use super::Attend;
use crate::kernels::reference;
use crate::kernels::rows::Control;
use crate::rng::Rng;

/// Stands in a term's magnitude for what is lost where it lies below f32's normal numbers: a millionth of it is more.
pub(super) const BELOW_RANGE: f64 = 1e-36;

/// A cache of random keys and values with queries that see it, and what attention makes of them in f64.
pub(super) struct Scene {
    pub(super) len: u32,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<u8>,
    pub(super) v: Vec<u8>,
    /// What queries and the newest position may be off by, when a launch makes them itself.
    pub(super) unsure: Option<Unsure>,
}

/// Absolute errors of a row's queries (element by element), and of its new key and value as the cache has them.
pub(super) struct Unsure {
    pub(super) q: Vec<f64>,
    pub(super) k: Vec<f64>,
    pub(super) v: Vec<f64>,
}

/// The state of one stretch of one head in f64: maximum, sum, outputs with their magnitudes, and the relative error
/// that f32 may make of each term.
pub(super) struct Stretch {
    pub(super) m: f64,
    pub(super) l: f64,
    pub(super) o: Vec<f64>,
    pub(super) magnitude: Vec<f64>,
    pub(super) relative: f64,
    pub(super) score_bound: f64,
    /// What outputs may be off by because the newest value is.
    pub(super) slack: Vec<f64>,
}

/// Roundings that one product of tensor cores is worth: of 17 terms, bits below the 25th place of the greatest are cut off (each
/// half a rounding of it at most), and so is the sum, which is two.
const PRODUCT: f64 = 10.5;

/// What the arithmetic of a score may be off by.
fn score_error(s: &Attend, k: &[f64], magnitude: f64) -> f64 {
    if !s.on_tensor_cores() {
        return reference::gamma(16.0) * magnitude;
    }
    // Products one after the other in each of two sums; a query's two halves lack two roundings of it, but at most half of the least
    // half where the second is subnormal.
    let of_sum = f64::from(s.head_dim / 32) * PRODUCT;
    let lost: f64 = k.iter().map(|k| k.abs()).sum::<f64>() * 2f64.powi(-25);
    reference::gamma(of_sum + 5.0) * magnitude + lost
}

/// What a weight, at most 1, may be off by whatever its size: half of the least half, of what weights are scaled to.
fn weight_error(s: &Attend) -> f64 {
    if s.on_tensor_cores() { 2f64.powi(-25 - 14) } else { 0.0 }
}

impl Scene {
    pub(super) fn random(s: &Attend, seed: u64) -> Scene {
        let mut rng = Rng::new(seed);
        // Short, long and just around the edges of rounds and stretches, with several rounds of one stretch and of many; the newest
        // position counts besides.
        let (round, alone) = (s.round(), s.stretch(0));
        let most = s.n_splits * round;
        let short = [1, 2, round, round + 1, alone - 3, alone + 1];
        let lens = [&short[..], &[alone + 2, alone + round / 2, most, most + 4, 2 * most - 5]].concat();
        let len = lens[rng.below(lens.len() as u32) as usize];
        let rows = s.kv_rows();
        let (mut k, mut v) = (rows.random(&mut rng, len), rows.random(&mut rng, len));
        // What is not seen would show: these are NaN in every type.
        let hidden = ((len - s.seen(len)) * rows.bytes()) as usize;
        k[..hidden].fill(0xff);
        v[..hidden].fill(0xff);
        // Even weights, a few strong ones, or scores so far apart that one position takes all.
        let scale = [2.0, 20.0, 200.0][(seed % 3) as usize] / (s.head_dim as f32).sqrt();
        let q = (0..s.n_heads * s.head_dim).map(|_| rng.normal() * scale).collect();
        Scene { len, q, k, v, unsure: None }
    }

    pub(super) fn stretch(&self, s: &Attend, head: u32, positions: std::ops::Range<u32>) -> Stretch {
        let dim = s.head_dim as usize;
        let row = |cache: &[u8], p: u32| -> Vec<f64> {
            let first = head / s.group() * s.head_dim;
            (first..first + s.head_dim).map(|e| s.kv_rows().decode(cache, p, e)).collect()
        };
        let q: Vec<f64> = self.q[head as usize * dim..][..dim].iter().map(|v| f64::from(*v)).collect();
        let dot = |p: u32| {
            let k = row(&self.k, p);
            let products = k.iter().zip(&q).map(|(k, q)| k * q);
            let (score, magnitude) = products.fold((0.0, 0.0), |(s, a), x: f64| (s + x, a + x.abs()));
            (score, score_error(s, &k, magnitude) + self.unsure_of_score(s, head, p, [&q, &k]))
        };
        let scores: Vec<(f64, f64)> = positions.clone().map(dot).collect();
        let m = scores.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
        let score_bound = scores.iter().map(|s| s.1).fold(0.0, f64::max);
        let (o, magnitude, slack) = (vec![0.0; dim], vec![0.0; dim], vec![0.0; dim]);
        let mut out = Stretch { m, l: 0.0, o, magnitude, relative: 0.0, score_bound, slack };
        for (p, (score, _)) in positions.clone().zip(&scores) {
            let weight = (score - m).exp2();
            out.l += weight;
            for (e, v) in row(&self.v, p).into_iter().enumerate() {
                out.o[e] += weight * v;
                out.magnitude[e] += (weight * v).abs() + BELOW_RANGE;
                out.slack[e] += weight_error(s) * v.abs();
            }
            if let Some(unsure) = self.unsure.as_ref().filter(|_| p + 1 == self.len) {
                let first = (head / s.group() * s.head_dim) as usize;
                for (slack, v) in out.slack.iter_mut().zip(&unsure.v[first..]) {
                    *slack += weight * v;
                }
            }
        }
        // In each round a term goes through a power of two of two ulps, a product and the sums of its team; then come
        // teams and warps. Its score's error is absolute in the exponent, and so is the maximum's.
        let rounds = f64::from((positions.end - positions.start).div_ceil(s.round()) + 1);
        let joins = f64::from(3 * s.warps() + 5);
        let of_round = if s.on_tensor_cores() { PRODUCT + 5.0 } else { f64::from(s.at_once()) + 4.0 };
        out.relative = reference::gamma(of_round * rounds + joins + 16.0) + 3.0 * score_bound;
        out
    }

    /// What the score of a position may be off by because the query is, or the newest key.
    fn unsure_of_score(&self, s: &Attend, head: u32, p: u32, [q, k]: [&[f64]; 2]) -> f64 {
        let Some(unsure) = &self.unsure else { return 0.0 };
        let dim = s.head_dim as usize;
        let products = |values: &[f64], errors: &[f64]| -> f64 {
            values.iter().zip(errors).map(|(x, error)| x.abs() * error).sum()
        };
        let of_query = products(k, &unsure.q[head as usize * dim..][..dim]);
        let of_key = products(q, &unsure.k[(head / s.group()) as usize * dim..][..dim]);
        of_query + if p + 1 == self.len { of_key } else { 0.0 }
    }

    /// A scene for each active row of a step, and the control that says so.
    pub(super) fn random_rows(s: &Attend, seed: u64) -> (Control, Vec<Scene>) {
        let mut rng = Rng::new(seed);
        let mut control = Control::random(&mut rng, s.rows.count);
        let scenes: Vec<Scene> =
            (0..control.active).map(|row| Scene::random(s, seed + u64::from(row))).collect();
        for (row, scene) in control.rows.iter_mut().zip(&scenes) {
            row[1] = scene.len - 1;
        }
        (control, scenes)
    }
}
