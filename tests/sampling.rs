//! Sampling on the device against the sampler on the host, through a whole model on the emulator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

#[path = "support/device.rs"]
mod device;

use std::sync::LazyLock;

use monomorph::plan::HISTORY;
use monomorph::plan::sampling::PENALTY_WINDOW;
use monomorph::runtime::sampling::{Sampler, SamplingConfig};
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{
    BatchRow, CancelToken, FinishReason, GenerateOptions, LoadOptions, Model, RowSampling, Session,
};
use monomorph::{golden, specs};

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let plan = codegen::plan::build(&specs::find("tiny").unwrap(), golden::device(90).unwrap()).unwrap();
    let options = LoadOptions { context: Some(192), ..LoadOptions::default() };
    Model::load(&device::queue(), &plan.table, &SynthSource::new(1), &options).unwrap()
});

fn configs() -> Vec<SamplingConfig> {
    let base = SamplingConfig { temperature: 0.9, seed: 11, ..SamplingConfig::default() };
    vec![
        SamplingConfig { repetition_penalty: 1.5, ..SamplingConfig::default() },
        base,
        SamplingConfig { top_k: 7, temperature: 3.0, ..base },
        SamplingConfig { top_p: 0.8, ..base },
        SamplingConfig { min_p: 0.2, seed: u64::MAX, ..base },
        SamplingConfig { top_k: 40, top_p: 0.95, min_p: 0.02, repetition_penalty: 1.3, ..base },
    ]
}

fn prompt(n: u32) -> Vec<u32> {
    let vocab_size = MODEL.table().dims.vocab_size;
    (0..n).map(|i| (i * i * 7 + 3) % vocab_size).collect()
}

/// Longer than the penalty looks back.
const LONG: u32 = PENALTY_WINDOW + 6;

fn options(sampling: SamplingConfig, steps_ahead: u32, max_tokens: u32) -> GenerateOptions {
    let (max_tokens, steps_ahead) = (Some(max_tokens), Some(steps_ahead));
    GenerateOptions { max_tokens, sampling, steps_ahead, ..GenerateOptions::default() }
}

fn tokens_of(session: &mut Session, prompt: &[u32], options: GenerateOptions) -> Vec<u32> {
    session.generate(prompt, options).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What the host chooses from the logits, step by step.
fn on_the_host(sampling: SamplingConfig, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(sampling).unwrap();
    let mut session = MODEL.session().unwrap();
    session.prefill(prompt, &CancelToken::new()).unwrap();
    let mut logits = vec![0.0; MODEL.table().dims.vocab_size as usize];
    let mut all = prompt.to_vec();
    for _ in 0..n {
        session.logits(&mut logits).unwrap();
        let recent = &all[all.len().saturating_sub(PENALTY_WINDOW as usize)..];
        let token = sampler.sample(&logits, recent, session.position() - 1).unwrap();
        all.push(token);
        session.step_with_head(token).unwrap();
    }
    all.split_off(prompt.len())
}

#[test]
fn the_device_chooses_what_the_host_chooses() {
    let mut seen = Vec::new();
    let cases = configs().into_iter().map(|sampling| (sampling, prompt(3)));
    for (sampling, prompt) in cases.chain([(configs()[0], prompt(LONG))]) {
        let wanted = on_the_host(sampling, &prompt, 9);
        let found = tokens_of(&mut MODEL.session().unwrap(), &prompt, options(sampling, 1, 9));
        assert_eq!(found, wanted, "{sampling:?}");
        seen.push(found);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), configs().len() + 1, "every configuration draws tokens of its own");
}

#[test]
fn the_tokens_do_not_depend_on_how_far_the_device_is_ahead() {
    // Steps across the end of the ring of tokens.
    let prompt = prompt(HISTORY - 6);
    for sampling in [SamplingConfig::default(), configs()[5]] {
        let run = |ahead| tokens_of(&mut MODEL.session().unwrap(), &prompt, options(sampling, ahead, 12));
        let single = run(1);
        assert_eq!(run(3), single, "{sampling:?}");
        assert_eq!(run(64), single, "{sampling:?}");
    }
}

#[test]
fn a_stop_token_among_steps_ahead_leaves_the_session_where_it_belongs() {
    let (prompt, sampling) = (prompt(5), configs()[5]);
    let all = tokens_of(&mut MODEL.session().unwrap(), &prompt, options(sampling, 1, 10));
    let stop = all[6];
    let until = all.iter().position(|token| *token == stop).unwrap();
    let run = |ahead| {
        let mut session = MODEL.session().unwrap();
        let with_stop = GenerateOptions { stop: vec![stop], ..options(sampling, ahead, 10) };
        let mut generation = session.generate(&prompt, with_stop).unwrap();
        let tokens: Vec<u32> = generation.by_ref().map(Result::unwrap).collect();
        assert_eq!(generation.finish_reason(), Some(FinishReason::Stop(stop)));
        assert_eq!(tokens, all[..until]);
        let position = session.position();
        // Those that were run beyond the stop token are not in the caches.
        (position, tokens_of(&mut session, &[stop, 5], options(sampling, ahead, 4)))
    };
    assert_eq!(run(16), run(1));
}

#[test]
fn rows_of_a_batch_sample_as_their_sessions_alone() {
    const STEPS: usize = 4;
    let whole = prompt(LONG);
    let prompts: Vec<&[u32]> = vec![&whole[..], &whole[..1], &whole[2..30], &whole[..9]];
    let configs = &configs()[..prompts.len()];
    let mut sessions: Vec<Session> = prompts.iter().map(|_| MODEL.session().unwrap()).collect();
    let mut all: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    for (session, prompt) in sessions.iter_mut().zip(&prompts) {
        if prompt.len() > 1 {
            session.take(&prompt[..prompt.len() - 1]).unwrap();
        }
    }
    let mut batch = MODEL.batch(4).unwrap();
    for _ in 0..STEPS {
        let parts = all.iter().map(|tokens| tokens.split_at(tokens.len() - 1));
        let sampling: Vec<RowSampling<'_>> = configs
            .iter()
            .zip(parts.clone())
            .map(|(config, (recent, _))| RowSampling { config: *config, recent })
            .collect();
        let mut rows: Vec<BatchRow<'_>> = sessions
            .iter_mut()
            .zip(parts)
            .map(|(session, (_, tokens))| BatchRow { session, tokens })
            .collect();
        batch.step_sampled(&mut rows, &sampling).unwrap();
        for (row, tokens) in all.iter_mut().enumerate() {
            tokens.push(batch.chosen(row).unwrap());
        }
    }
    for ((prompt, config), tokens) in prompts.iter().zip(configs).zip(&all) {
        let alone = tokens_of(&mut MODEL.session().unwrap(), prompt, options(*config, 1, STEPS as u32));
        assert_eq!(tokens[prompt.len()..], alone, "{config:?}");
    }
}
