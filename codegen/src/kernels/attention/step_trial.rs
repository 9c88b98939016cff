//! Trials of a step's attention: what the matrices may have given for random caches, and what must come out, in f64.

use super::scene::{Scene, Unsure};
use super::step::AttendStep;
use crate::kernels::exact::near_first;
use crate::kernels::kv_rows::KvRows;
use crate::kernels::operation::{Expect, Trial};
use crate::kernels::qk_norm::QkNorm;
use crate::kernels::rope::Bounded;
use crate::kernels::rows::Control;
use crate::kernels::{quantize, reference};
use crate::rng::Rng;
use ::plan::KvType;

pub(super) fn quantized(s: &AttendStep, seed: u64) -> Trial {
    let (trial, values, caches) = inputs(s, seed, 3);
    let (quants, meta) = quantize::expect(&values);
    let elements = u64::from(s.attend.q_dim() * s.attend.rows.count);
    with_caches(trial.output(elements, quants).output(elements / 4, meta), caches)
}

pub(super) fn exact(s: &AttendStep, seed: u64) -> Trial {
    let (trial, values, caches) = inputs(s, seed, 2);
    let elements = u64::from(s.attend.q_dim() * s.attend.rows.count);
    with_caches(trial.output(4 * elements, near_first(values)), caches)
}

type Caches = Vec<(Vec<u8>, Expect)>;

fn with_caches(trial: Trial, caches: Caches) -> Trial {
    caches.into_iter().fold(trial, |trial, (before, expect)| trial.linked(before, expect))
}

/// Weights of the layer as a trial has them.
struct Weights {
    table: Vec<f32>,
    extra: Vec<Vec<f32>>,
}

impl Weights {
    fn random(s: &AttendStep, rng: &mut Rng, n_positions: u32) -> Weights {
        let a = &s.attend;
        let mut normal = |n: u32, mean: f32| (0..n).map(|_| mean + 0.3 * rng.normal()).collect::<Vec<f32>>();
        let table = normal(n_positions * a.head_dim, 0.5);
        let lengths = match (s.bias, s.norm_eps) {
            (true, _) => vec![a.q_dim(), a.kv_rows().dim, a.kv_rows().dim],
            (false, Some(_)) => vec![a.head_dim; 2],
            (false, None) => vec![],
        };
        let extra = lengths.into_iter().map(|n| normal(n, 1.0)).collect();
        Weights { table, extra }
    }
}

/// A row of Q, K and V between their norm or biases and the rotation, with bounds.
fn before_rotation(s: &AttendStep, w: &Weights, row: &[f32]) -> Bounded {
    let a = &s.attend;
    if let Some(eps) = s.norm_eps {
        let (n_heads, n_kv_heads, head_dim) = (a.n_heads, a.n_kv_heads, a.head_dim);
        let norm = QkNorm { n_heads, n_kv_heads, head_dim, eps, rows: 1 };
        let heads = row.chunks(head_dim as usize).enumerate();
        return heads
            .flat_map(|(head, x)| match head as u32 {
                head if head < n_heads => norm.expected(x, &w.extra[0]),
                head if head < n_heads + n_kv_heads => norm.expected(x, &w.extra[1]),
                _ => x.iter().map(|v| (f64::from(*v), 0.0)).collect(),
            })
            .collect();
    }
    let biases = w.extra.concat();
    let bias = |i: usize| f64::from(biases.get(i).copied().unwrap_or(0.0));
    row.iter().enumerate().map(|(i, v)| (f64::from(*v) + bias(i), 0.0)).collect()
}

/// What rounding to the cache's type may add to the error of a row's elements: two of its units.
fn unit_of_cache(rows: KvRows, row: &[f64]) -> Vec<f64> {
    match rows.kv {
        KvType::F16 => row.iter().map(|x| x.abs() / 1024.0 + 1e-7).collect(),
        KvType::F32 => row.iter().map(|x| x.abs() * 2.0 * reference::U).collect(),
        KvType::Q8_0 => {
            let of_block = |block: &[f64]| {
                let largest = block.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
                vec![2.0 * largest / 127.0; block.len()]
            };
            row.chunks(32).flat_map(of_block).collect()
        }
    }
}

/// Makes a scene's queries and its newest position what a row of Q, K and V comes to; gives key and value with bounds.
fn complete(s: &AttendStep, w: &Weights, scene: &mut Scene, row: &[f32]) -> [Bounded; 2] {
    let (rows, dim) = (s.attend.kv_rows(), s.attend.head_dim);
    let x = before_rotation(s, w, row);
    let values: Vec<f64> = x.iter().map(|x| x.0).collect();
    let angles = &w.table[((scene.len - 1) * dim) as usize..][..dim as usize];
    let (q, k, v) = s.rope().expected(&values, angles);
    // A rotation turns an error into one of both elements, no larger than the greatest error times what it multiplies.
    let worst = x.iter().map(|x| x.1).fold(0.0, f64::max)
        * angles.iter().fold(1.0, |a: f64, x| a.max(f64::from(x.abs())));
    let widened = |values: Bounded, scale: f64| -> Bounded {
        values.into_iter().map(|(v, bound)| (v, bound + 2.0 * worst * scale)).collect()
    };
    let (q, k) = (widened(q, f64::from(s.score_scale) * 1.5), widened(k, 1.0));
    scene.q = q.iter().map(|q| q.0 as f32).collect();
    let newest = ((scene.len - 1) * rows.bytes()) as usize;
    let errors = |values: &Bounded| -> Vec<f64> {
        let unit = unit_of_cache(rows, &values.iter().map(|v| v.0).collect::<Vec<_>>());
        values.iter().zip(unit).map(|((_, bound), unit)| bound + unit).collect()
    };
    for (cache, values) in [(&mut scene.k, &k), (&mut scene.v, &v)] {
        let row: Vec<f32> = values.iter().map(|v| v.0 as f32).collect();
        cache[newest..].copy_from_slice(&rows.encode(&row));
    }
    let of_q = q.iter().map(|(v, bound)| bound + reference::U * v.abs()).collect();
    scene.unsure = Some(Unsure { q: of_q, k: errors(&k), v: errors(&v) });
    [k, v]
}

/// A trial up to the handover, with `between` more parameters after the cache addresses; the outputs of its rows with
/// their bounds; and the caches.
fn inputs(s: &AttendStep, seed: u64, between: usize) -> (Trial, Vec<(f64, f64)>, Caches) {
    let a = &s.attend;
    let mut rng = Rng::new(seed ^ 0x5eed);
    let (control, mut scenes) = Scene::random_rows(a, seed);
    let w = Weights::random(s, &mut rng, scenes.iter().map(|scene| scene.len).max().unwrap_or(1));
    let spread = [1.0, 3.0, 30.0][(seed % 3) as usize];
    let qkv: Vec<f32> = (0..a.qkv_dim() * a.rows.count).map(|_| rng.normal() * spread).collect();
    let n = a.rows.count as usize;
    let mut caches: Caches = vec![(vec![], Expect::Unchanged); 2 * n];
    let mut outputs = Vec::new();
    for (r, scene) in (0..).zip(scenes.iter_mut()) {
        let row = &qkv[(r * a.qkv_dim()) as usize..][..a.qkv_dim() as usize];
        let new = complete(s, &w, scene, row);
        for (i, (cache, values)) in [&scene.k, &scene.v].into_iter().zip(new).enumerate() {
            let mut before = cache.clone();
            before[((scene.len - 1) * a.kv_rows().bytes()) as usize..].fill(0xcd);
            let expect = a.kv_rows().expect(Some((scene.len - 1, values)));
            caches[2 * control.rows[r as usize][2] as usize + i] = (before, expect);
        }
        outputs.extend((0..a.n_heads).flat_map(|head| expected(s, scene, head)));
    }
    let trial = trial_of(s, seed, &control, &w).input(reference::bytes_f32(&qkv)).caches(a.rows, n, between);
    let zeros = vec![0; s.handover_bytes() as usize];
    (trial.in_out(zeros.clone(), Expect::Exact(zeros)), outputs, caches)
}

fn trial_of(s: &AttendStep, seed: u64, control: &Control, w: &Weights) -> Trial {
    let trial = Trial::new(seed).input(control.bytes()).input(reference::bytes_f32(&w.table));
    debug_assert_eq!(s.bias || s.norm_eps.is_some(), !w.extra.is_empty());
    w.extra.iter().fold(trial, |trial, extra| trial.input(reference::bytes_f32(extra)))
}

/// A head's outputs with their bounds.
fn expected(s: &AttendStep, scene: &Scene, head: u32) -> Vec<(f64, f64)> {
    let a = &s.attend;
    let whole = scene.stretch(a, head, scene.len - a.seen(scene.len)..scene.len);
    let joins = reference::gamma(6.0 * f64::from(a.n_splits) + 48.0);
    let relative = whole.relative + joins + 4.0 * reference::U * (whole.m.abs() + 1.0);
    let outputs = whole.o.iter().zip(&whole.magnitude).zip(&whole.slack);
    outputs.map(|((o, a), slack)| (o / whole.l, (2.0 * relative * a + slack) / whole.l)).collect()
}
