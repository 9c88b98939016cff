//! A forward pass in f64 that is written from the architectures' equations and shares no code with the kernels.

use std::collections::BTreeMap;

use codegen::layout::Matrix;
use monomorph::plan::{Activation, Dims, RopeKind, Table, WeightDesc};
use monomorph::runtime::synth::SynthSource;

/// The weights by name.
pub type Weights = BTreeMap<String, Vec<f64>>;

/// The weights of `table` that the seed makes, as its kernels see them.
pub fn weights(table: &Table, seed: u64) -> Weights {
    let values = |weight: &WeightDesc| {
        let mut raw = vec![0; usize::try_from(weight.raw_bytes()).unwrap()];
        SynthSource::new(seed).fill(table, weight, 0, &mut raw);
        let matrix = Matrix { qtype: weight.qtype, rows: weight.rows, cols: weight.cols };
        matrix.dequantize(&raw).into_iter().map(f64::from).collect()
    };
    table.weights.iter().map(|weight| (weight.name(), values(weight))).collect()
}

fn matvec(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn rms_norm(x: &[f64], weight: &[f64], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(v, w)| v / (mean + f64::from(eps)).sqrt() * w).collect()
}

/// erf by numerical integration: slow, and nothing like the kernel's polynomial.
fn erf(z: f64) -> f64 {
    let (n, z) = (4000, z.clamp(-6.0, 6.0));
    let h = z / f64::from(n);
    let f = |i: i32| (-(f64::from(i) * h).powi(2)).exp();
    let inner: f64 = (1..n).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    (f(0) + inner + f(n)) * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
        Activation::GeluErf => x / 2.0 * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / 2.0 * (1.0 + inner.tanh())
        }
    }
}

/// A forward pass over all tokens, in f64; keys and values of each layer by position.
pub struct Reference<'a> {
    pub dims: &'a Dims,
    pub weights: &'a Weights,
    pub keys: Vec<Vec<Vec<f64>>>,
    pub values: Vec<Vec<Vec<f64>>>,
}

impl Reference<'_> {
    fn layer(&self, layer: usize, name: &str) -> Option<&Vec<f64>> {
        self.weights.get(&format!("blk.{layer}.{name}"))
    }

    fn product(&self, layer: usize, name: &str, x: &[f64]) -> Vec<f64> {
        let mut y = matvec(self.layer(layer, &format!("{name}.weight")).unwrap(), x);
        if let Some(bias) = self.layer(layer, &format!("{name}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    /// A head of Q or K: its norm, then its rotation.
    fn head(&self, layer: usize, name: &str, x: &[f64], position: usize) -> Vec<f64> {
        let (d, n) = (self.dims, x.len());
        let x = match self.layer(layer, &format!("{name}_norm.weight")) {
            Some(weight) => rms_norm(x, weight, d.norm_eps),
            None => x.to_vec(),
        };
        let (base, scale) = match d.variant.sliding {
            Some(s) if s.global_every == 0 || !(layer as u32 + 1).is_multiple_of(s.global_every) => {
                (s.rope_base, 1.0)
            }
            _ => (d.rope_base, d.variant.rope_scale),
        };
        let mut out = x.clone();
        for i in 0..n / 2 {
            let (a, b) = if d.rope_kind == RopeKind::Norm { (2 * i, 2 * i + 1) } else { (i, i + n / 2) };
            let frequency = f64::from(base).powf(-2.0 * i as f64 / n as f64) / f64::from(scale);
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            out[a] = x[a] * cos - x[b] * sin;
            out[b] = x[a] * sin + x[b] * cos;
        }
        out
    }

    fn attention(&mut self, layer: usize, x: &[f64], position: usize) -> Vec<f64> {
        let (n, group) = (self.dims.head_dim as usize, self.dims.group() as usize);
        let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|name| self.product(layer, name, x));
        let k: Vec<f64> = k.chunks(n).flat_map(|head| self.head(layer, "attn_k", head, position)).collect();
        self.keys[layer].push(k);
        self.values[layer].push(v);
        let scale_dim = match self.dims.variant.score_dim {
            0 => self.dims.head_dim,
            dim => dim,
        };
        let first = match self.dims.window(layer as u32) {
            Some(window) => (position + 1).saturating_sub(window as usize),
            None => 0,
        };
        let mut out = Vec::new();
        for (i, head) in q.chunks(n).enumerate() {
            let (q, at) = (self.head(layer, "attn_q", head, position), i / group * n);
            let score = |p: usize| {
                let dot: f64 = q.iter().zip(&self.keys[layer][p][at..at + n]).map(|(q, k)| q * k).sum();
                (dot / f64::from(scale_dim).sqrt()).exp()
            };
            let scores: Vec<f64> = (first..=position).map(score).collect();
            let total: f64 = scores.iter().sum();
            let mixed = |e: usize| -> f64 {
                let terms = (first..=position).zip(&scores);
                terms.map(|(p, s)| s / total * self.values[layer][p][at + e]).sum()
            };
            out.extend((0..n).map(mixed));
        }
        self.product(layer, "attn_output", &out)
    }

    fn feed_forward(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let up = self.product(layer, "ffn_up", x);
        let ffn = self.dims.variant.ffn;
        let inner: Vec<f64> = if ffn.is_gated() {
            let gate = self.product(layer, "ffn_gate", x);
            gate.iter().zip(&up).map(|(g, u)| activate(ffn.activation(), *g) * u).collect()
        } else {
            up.iter().map(|u| activate(ffn.activation(), *u)).collect()
        };
        self.product(layer, "ffn_down", &inner)
    }

    /// The logits after `token` at `position`, where the caches end.
    pub fn step(&mut self, token: usize, position: usize) -> Vec<f64> {
        let (dim, eps, v) = (self.dims.dim as usize, self.dims.norm_eps, self.dims.variant);
        let row = &self.weights["token_embd.weight"][token * dim..(token + 1) * dim];
        let mut x: Vec<f64> = row.iter().map(|e| e * f64::from(v.embed_scale)).collect();
        let post = |this: &Self, layer, name: &str, y: Vec<f64>| match v.post_norms {
            true => rms_norm(&y, this.layer(layer, name).unwrap(), eps),
            false => y,
        };
        for layer in 0..self.dims.n_layers as usize {
            let normed = rms_norm(&x, self.layer(layer, "attn_norm.weight").unwrap(), eps);
            let y = self.attention(layer, &normed, position);
            let y = post(self, layer, "post_attention_norm.weight", y);
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            let normed = rms_norm(&x, self.layer(layer, "ffn_norm.weight").unwrap(), eps);
            let y = post(self, layer, "post_ffw_norm.weight", self.feed_forward(layer, &normed));
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
        let normed = rms_norm(&x, &self.weights["output_norm.weight"], eps);
        let head = self.weights.get("output.weight").unwrap_or(&self.weights["token_embd.weight"]);
        let mut logits = matvec(head, &normed);
        if let Some(bias) = self.weights.get("output.bias") {
            logits.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        logits
    }
}

/// The cosine of the angle between what was computed and what is wanted.
pub fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let a: Vec<f64> = a.iter().map(|v| f64::from(*v)).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(&a, b) / (dot(&a, &a) * dot(b, b)).sqrt()
}
