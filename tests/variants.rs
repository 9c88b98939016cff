//! Whole models beyond llama, with random weights, against a forward pass in f64 that is written from the architectures'
//! equations and shares no code with the kernels: activations, norms of heads and behind matrices, biases, windows, two RoPE
//! bases, scales. Then the same reference with one feature changed, which must agree less: it would not notice otherwise.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a failed case ends the test")]

#[path = "support/device.rs"]
mod device;
#[path = "support/reference.rs"]
mod reference;

use codegen::ModelSpec;
use monomorph::golden;
use monomorph::plan::{Activation, Dims, Table};
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{CancelToken, LoadOptions, Model, Session};
use reference::{Reference, Weights, cosine, weights};

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

/// Logits after the last token.
fn logits_of_reference(dims: &Dims, weights: &Weights) -> Vec<f64> {
    let caches = vec![vec![]; dims.n_layers as usize];
    let mut forward = Reference { dims, weights, keys: caches.clone(), values: caches };
    let all = TOKENS.iter().enumerate().map(|(position, token)| forward.step(*token as usize, position));
    all.last().unwrap()
}

fn logits(session: &Session) -> Vec<f32> {
    let mut out = vec![0.0; 64];
    session.logits(&mut out).unwrap();
    out
}

/// Logits after the last token, once token by token and once as a prompt.
fn computed(table: &Table) -> [Vec<f32>; 2] {
    let source = SynthSource::new(SEED);
    let model = Model::load(&device::queue(), table, &source, &LoadOptions::default()).unwrap();
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
    let weights = weights(&table, SEED);
    let wanted = logits_of_reference(&table.dims, &weights);
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
        let cosine = cosine(&computed[0], &logits_of_reference(&dims, &changed));
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
