//! What trials of attention are made of: random caches, and attention over them in f64 with error bounds.

use super::{Attend, STRETCH_UNIT};
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
}

impl Scene {
    pub(super) fn random(s: &Attend, seed: u64) -> Scene {
        let mut rng = Rng::new(seed);
        // Short, long and just around the edge of a stretch.
        let lens =
            [1, 2, STRETCH_UNIT - 1, STRETCH_UNIT, STRETCH_UNIT + 1, 200, STRETCH_UNIT * s.n_splits + 3];
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
        Scene { len, q, k, v }
    }

    pub(super) fn stretch(&self, s: &Attend, head: u32, positions: std::ops::Range<u32>) -> Stretch {
        let dim = s.head_dim as usize;
        let row = |cache: &[u8], p: u32| -> Vec<f64> {
            let first = head / s.group() * s.head_dim;
            (first..first + s.head_dim).map(|e| s.kv_rows().decode(cache, p, e)).collect()
        };
        let q: Vec<f64> = self.q[head as usize * dim..][..dim].iter().map(|v| f64::from(*v)).collect();
        let dot = |p: u32| {
            let products = row(&self.k, p).into_iter().zip(&q).map(|(k, q)| k * q);
            products.fold((0.0, 0.0), |(s, a), x: f64| (s + x, a + x.abs()))
        };
        let scores: Vec<(f64, f64)> = positions.clone().map(dot).collect();
        let m = scores.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
        let score_bound = scores.iter().map(|s| reference::gamma(16.0) * s.1).fold(0.0, f64::max);
        let mut out =
            Stretch { m, l: 0.0, o: vec![0.0; dim], magnitude: vec![0.0; dim], relative: 0.0, score_bound };
        for (p, (score, _)) in positions.clone().zip(&scores) {
            let weight = (score - m).exp();
            out.l += weight;
            for (e, v) in row(&self.v, p).into_iter().enumerate() {
                out.o[e] += weight * v;
                out.magnitude[e] += (weight * v).abs() + BELOW_RANGE;
            }
        }
        // A term is rescaled once a turn, each time by an exp of two ulps and a rounding; its score's error is absolute
        // in the exponent, and so is the maximum's.
        let turns = f64::from((positions.end - positions.start).div_ceil(s.step()) + s.step());
        out.relative = reference::gamma(6.0 * turns + 16.0) + 3.0 * score_bound;
        out
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
