//! Whole models with other caches and heads than those of the shipped specs, on the emulator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

#[path = "support/device.rs"]
mod device;

use codegen::spec::LayerTypes;
use codegen::{Device, ModelSpec};
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{CancelToken, LoadOptions, Model, Session};
use monomorph::specs;
use plan::{KvType, QType, Sliding};

const CONTEXT: u32 = 96;
/// More than a tile of prefill and a stretch.
const TOKENS: u32 = 70;

/// Two layers of `tiny` in types that fit any width.
fn spec() -> ModelSpec {
    let mut spec = specs::find("tiny").unwrap();
    spec.dims.n_layers = 2;
    for types in spec.types.0.values_mut() {
        *types = LayerTypes::uniform(QType::Q8_0);
    }
    spec
}

fn load(spec: &ModelSpec) -> Model {
    let plan = codegen::plan::build(spec, Device::from_sm(90).unwrap()).unwrap();
    let options = LoadOptions { context: Some(CONTEXT), ..LoadOptions::default() };
    Model::load(&device::queue(), &plan.table, &SynthSource::new(1), &options).unwrap()
}

fn tokens() -> Vec<u32> {
    (0..TOKENS).map(|i| (i * 37 + 5) % 4096).collect()
}

fn logits_of(session: &Session) -> Vec<f32> {
    let mut logits = vec![0.0; session.model().table().dims.vocab_size as usize];
    session.logits(&mut logits).unwrap();
    logits
}

/// The logits after all tokens, one step each.
fn logits(spec: &ModelSpec) -> Vec<f32> {
    let mut session = load(spec).session().unwrap();
    let tokens = tokens();
    let (last, before) = tokens.split_last().unwrap();
    before.iter().for_each(|token| session.step(*token).unwrap());
    session.step_with_head(*last).unwrap();
    logits_of(&session)
}

/// The logits after all tokens, in chunks.
fn logits_of_prefill(spec: &ModelSpec) -> Vec<f32> {
    let mut session = load(spec).session().unwrap();
    session.prefill(&tokens(), &CancelToken::new()).unwrap();
    logits_of(&session)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn types_of_cache_differ_by_their_rounding_and_in_memory() {
    let of = |kv_type| {
        let mut spec = spec();
        spec.dims.kv_type = kv_type;
        spec
    };
    let exact = logits(&of(KvType::F32));
    for (kv_type, least) in [(KvType::F16, 0.999), (KvType::Q8_0, 0.99)] {
        let rounded = logits(&of(kv_type));
        let agree = cosine(&exact, &rounded);
        assert!(rounded != exact && agree > least, "{kv_type}: cosine {agree}");
    }
    // Two layers of K and V, 128 elements a position; q8_0 has 4 scales there and fills up to 160 bytes.
    for (kv_type, row) in [(KvType::F16, 256), (KvType::F32, 512), (KvType::Q8_0, 160)] {
        let bytes = load(&of(kv_type)).memory().kv_bytes;
        assert_eq!(bytes, 2 * 2 * row * u64::from(CONTEXT), "{kv_type}");
    }
}

/// Steps and chunks add up attention in other orders, and quantization makes a last bit a step of 1/127 now and then.
const LEAST_AGREEMENT: f64 = 0.999;

#[test]
fn heads_and_caches_of_every_kind_are_the_same_in_steps_and_in_chunks() {
    for (heads, kv_type) in
        [((4, 2, 80), KvType::F16), ((4, 1, 96), KvType::F32), ((2, 2, 112), KvType::Q8_0)]
    {
        let mut spec = spec();
        (spec.dims.n_heads, spec.dims.n_kv_heads, spec.dims.head_dim) = heads;
        spec.dims.kv_type = kv_type;
        spec.check().unwrap();
        let agree = cosine(&logits(&spec), &logits_of_prefill(&spec));
        assert!(agree > LEAST_AGREEMENT, "{heads:?} {kv_type}: cosine {agree}");
    }
}

#[test]
fn a_window_hides_what_lies_before_it_and_nothing_else() {
    let with = |window| {
        let mut spec = spec();
        let rope_base = spec.dims.rope_base;
        spec.dims.variant.sliding = Some(Sliding { window, global_every: 0, rope_base });
        spec
    };
    let full = logits(&spec());
    assert!(logits(&with(TOKENS)) == full, "a window of all tokens");
    assert!(logits(&with(TOKENS - 1)) != full, "a window without the first");
    let narrow = with(9);
    let steps = logits(&narrow);
    let agree = [cosine(&steps, &logits_of_prefill(&narrow)), cosine(&steps, &full)];
    assert!(agree[0] > LEAST_AGREEMENT && agree[1] < LEAST_AGREEMENT, "cosines {agree:?}");
}
