//! A whole model on f32 activations: close to the same model on int8 ones, closer to itself in chunks, and with the same
//! bits in a batch as alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

#[path = "support/device.rs"]
mod device;

use codegen::spec::LayerTypes;
use codegen::{Device, ModelSpec};
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{BatchRow, CancelToken, LoadOptions, Model, Session};
use monomorph::specs;
use plan::{ActType, QType, Role};

/// Two layers of `tiny` with types of every family, on activations of a type.
fn model(activations: ActType) -> Model {
    let mut spec: ModelSpec = specs::find("tiny").unwrap();
    spec.dims.n_layers = 2;
    spec.dims.activations = activations;
    for (role, types) in &mut spec.types.0 {
        *types = LayerTypes::uniform(match role {
            Role::AttnK => QType::Q5_1,
            Role::AttnV => QType::F16,
            Role::AttnOutput => QType::Q8_0,
            Role::FfnDown => QType::Q6K,
            _ => QType::Q4K,
        });
    }
    let plan = codegen::plan::build(&spec, Device::from_sm(90).unwrap()).unwrap();
    let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
    Model::load(&device::queue(), &plan.table, &SynthSource::new(1), &options).unwrap()
}

fn logits_of(session: &Session) -> Vec<f32> {
    let mut logits = vec![0.0; session.model().table().dims.vocab_size as usize];
    session.logits(&mut logits).unwrap();
    logits
}

fn tokens() -> Vec<u32> {
    (0..24).map(|i| (i * 37 + 5) % 4096).collect()
}

/// The logits after all tokens, one step each.
fn logits(model: &Model) -> Vec<f32> {
    let mut session = model.session().unwrap();
    let tokens = tokens();
    let (last, before) = tokens.split_last().unwrap();
    before.iter().for_each(|token| session.step(*token).unwrap());
    session.step_with_head(*last).unwrap();
    logits_of(&session)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn logits_are_those_of_int8_but_for_its_rounding() {
    let exact = model(ActType::F32);
    let found = logits(&exact);
    let int8 = logits(&model(ActType::Int8));
    let agree = cosine(&found, &int8);
    assert!(found != int8 && agree > 0.99, "cosine {agree}");
    // Chunks differ in the order of attention's sums alone, which nothing enlarges here.
    let mut session = exact.session().unwrap();
    session.prefill(&tokens(), &CancelToken::new()).unwrap();
    let chunked = cosine(&found, &logits_of(&session));
    assert!(chunked > 1.0 - 1e-6, "cosine {chunked}");
}

#[test]
fn a_row_of_a_batch_has_the_bits_of_its_token_alone() {
    let model = model(ActType::F32);
    let started = || -> Vec<Session> {
        let start = |n: usize| {
            let mut session = model.session().unwrap();
            session.prefill(&tokens()[..n], &CancelToken::new()).unwrap();
            session
        };
        [3, 1, 7].map(start).into()
    };
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
    let alone: Vec<Vec<u32>> = started()
        .into_iter()
        .map(|mut session| {
            session.step_with_head(11).unwrap();
            bits(logits_of(&session))
        })
        .collect();
    let mut sessions = started();
    let mut batch = model.batch(4).unwrap();
    let mut rows: Vec<BatchRow<'_>> =
        sessions.iter_mut().map(|session| BatchRow { session, tokens: &[11] }).collect();
    batch.step(&mut rows).unwrap();
    for (row, wanted) in alone.iter().enumerate() {
        let mut logits = vec![0.0; model.table().dims.vocab_size as usize];
        batch.logits(row, &mut logits).unwrap();
        assert!(bits(logits) == *wanted, "row {row}");
    }
}
