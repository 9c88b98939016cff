//! Whole models beyond llama, with random weights, against a forward pass in f64 that is written from the architectures'
//! equations and shares no code with the kernels: activations, norms of heads and behind matrices, biases, windows, two RoPE
//! bases, scales. Then the same reference with one feature changed, which must agree less: it would not notice otherwise.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a failed case ends the test")]

use codegen::ModelSpec;
use monomorph::golden;
use monomorph::plan::{Activation, Dims, RopeKind, Table};
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{
    CancelToken, DeviceChoice, DeviceOptions, LoadOptions, Model, Session, open_device,
};
use std::collections::BTreeMap;

const SEED: u64 = 5;
const TOKENS: [u32; 21] = [3, 60, 7, 7, 41, 12, 0, 63, 22, 9, 33, 5, 50, 18, 2, 29, 44, 61, 13, 8, 27];
/// Activations go into matrices with 8 bits: about 0.4 % of noise an element, which sums hardly see.
const LEAST_COSINE: f64 = 0.9995;
/// A reference with a changed feature must be further from the result than the right one, by this factor of `1 − cosine`.
const LEAST_FACTOR: f64 = 3.0;

const SPEC: &str = r#"
name = "variant"
architecture = "llama"
vocab_size = 64
dim = 128
hidden_dim = 160
n_layers = 3
n_heads = 4
n_kv_heads = 2
head_dim = 64
context = 64
norm_eps = 1e-5
rope_base = 1000000.0
VARIANT
[types]
token_embd = "f32"
attn_q = "f32"
attn_k = "f32"
attn_v = "f32"
attn_output = "f32"
ffn_up = "f32"
ffn_down = "f32"
"#;

/// As gemma3, with a window that is shorter than the text.
const GEMMA: &str = r#"
rope_kind = "neox"
qkv_bias = false
tied_head = true
ffn = "geglu_tanh"
qk_norm = true
post_norms = true
embed_scale = 11.25
score_dim = 32
rope_scale = 2.0
sliding = { window = 6, global_every = 3, rope_base = 100.0 }
"#;

/// As phi2's feed-forward, and a bias wherever one may be.
const PLAIN: &str = r#"
rope_kind = "norm"
qkv_bias = true
tied_head = false
ffn = "gelu_erf"
ffn_bias = true
attn_output_bias = true
head_bias = true
"#;

fn table(variant: &str) -> Table {
    let mut text = SPEC.replace("VARIANT", variant);
    if variant.contains("geglu") {
        text.push_str("ffn_gate = \"f32\"\n");
    } else {
        text.push_str("output = \"f32\"\n");
    }
    let spec = ModelSpec::from_toml(&text).unwrap();
    codegen::plan::build(&spec, golden::device(90).unwrap()).unwrap().table
}

/// The weights by name.
type Weights = BTreeMap<String, Vec<f64>>;

fn weights(table: &Table) -> Weights {
    let values = |weight| {
        let mut raw = vec![0; plan_bytes(weight)];
        SynthSource::new(SEED).fill(table, weight, 0, &mut raw);
        raw.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    table.weights.iter().map(|weight| (weight.name(), values(weight))).collect()
}

fn plan_bytes(weight: &monomorph::plan::WeightDesc) -> usize {
    usize::try_from(weight.raw_bytes()).unwrap()
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
struct Reference<'a> {
    dims: &'a Dims,
    weights: &'a Weights,
    keys: Vec<Vec<Vec<f64>>>,
    values: Vec<Vec<Vec<f64>>>,
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

    fn step(&mut self, token: usize, position: usize) -> Vec<f64> {
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

/// Logits after the last token.
fn reference(dims: &Dims, weights: &Weights) -> Vec<f64> {
    let caches = vec![vec![]; dims.n_layers as usize];
    let mut forward = Reference { dims, weights, keys: caches.clone(), values: caches };
    let all = TOKENS.iter().enumerate().map(|(position, token)| forward.step(*token as usize, position));
    all.last().unwrap()
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let a: Vec<f64> = a.iter().map(|v| f64::from(*v)).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(&a, b) / (dot(&a, &a) * dot(b, b)).sqrt()
}

fn logits(session: &Session) -> Vec<f32> {
    let mut out = vec![0.0; 64];
    session.logits(&mut out).unwrap();
    out
}

/// Logits after the last token, once token by token and once as a prompt.
fn computed(table: &Table) -> [Vec<f32>; 2] {
    let opened = open_device(DeviceChoice::Emulator, &DeviceOptions::default()).unwrap();
    let source = SynthSource::new(SEED);
    let model = Model::load(&opened.queue, table, &source, &LoadOptions::default()).unwrap();
    let mut session = model.session().unwrap();
    for token in TOKENS {
        session.step_with_head(token).unwrap();
    }
    let one_by_one = logits(&session);
    session.reset();
    session.prefill(&TOKENS, &CancelToken::new()).unwrap();
    [one_by_one, logits(&session)]
}

/// A change of the reference by name.
type Change = (&'static str, fn(&mut Dims, &mut Weights));

fn compare(variant: &str, changes: &[Change]) {
    let table = table(variant);
    let weights = weights(&table);
    let wanted = reference(&table.dims, &weights);
    let computed = computed(&table);
    for (how, found) in ["steps", "a prompt"].iter().zip(&computed) {
        let cosine = cosine(found, &wanted);
        eprintln!("{how}: cosine {cosine:.6}");
        assert!(cosine >= LEAST_COSINE, "{how}: cosine {cosine}");
    }
    let noise = 1.0 - cosine(&computed[0], &wanted);
    for (what, change) in changes {
        let (mut dims, mut changed) = (table.dims.clone(), weights.clone());
        change(&mut dims, &mut changed);
        let cosine = cosine(&computed[0], &reference(&dims, &changed));
        eprintln!("{what}: cosine {cosine:.6}");
        assert!(1.0 - cosine > LEAST_FACTOR * noise, "{what} is not noticed: cosine {cosine}");
    }
}

fn drop_named(weights: &mut Weights, part: &str) {
    weights.retain(|name, _| !name.contains(part));
}

#[test]
fn a_model_like_gemma3_is_its_equations() {
    compare(
        GEMMA,
        &[
            ("no window", |d, _| d.variant.sliding.as_mut().unwrap().window = 64),
            ("another window", |d, _| d.variant.sliding.as_mut().unwrap().window = 5),
            ("no global layer", |d, _| d.variant.sliding.as_mut().unwrap().global_every = 0),
            ("one base", |d, _| d.variant.sliding.as_mut().unwrap().rope_base = 1e6),
            ("no interpolation", |d, _| d.variant.rope_scale = 1.0),
            ("no norms of heads", |_, w| {
                w.retain(|name, _| {
                    !name.ends_with("_norm.weight") || !name.contains("attn_q") && !name.contains("attn_k")
                })
            }),
            ("no norms behind matrices", |d, _| d.variant.post_norms = false),
            ("no scale of the embedding", |d, _| d.variant.embed_scale = 1.0),
            ("scores by the head's size", |d, _| d.variant.score_dim = 0),
            ("another activation", |d, _| {
                d.variant.ffn = monomorph::plan::Ffn::Gated(Activation::Silu);
            }),
        ],
    );
}

#[test]
fn a_model_with_a_plain_feed_forward_and_biases_is_its_equations() {
    compare(
        PLAIN,
        &[
            ("no bias of Q", |_, w| drop_named(w, "attn_q.bias")),
            ("no bias of O", |_, w| drop_named(w, "attn_output.bias")),
            ("no bias of up", |_, w| drop_named(w, "ffn_up.bias")),
            ("no bias of down", |_, w| drop_named(w, "ffn_down.bias")),
            ("no bias of the head", |_, w| w.retain(|name, _| name != "output.bias")),
            ("another activation", |d, _| d.variant.ffn = monomorph::plan::Ffn::Plain(Activation::Silu)),
        ],
    );
}
