//! Several sessions in one step: every row has the bits of the same token alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

#[path = "support/device.rs"]
mod device;

use codegen::ModelSpec;
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{Batch, BatchRow, CancelToken, Error, GenerateOptions, LoadOptions, Model, Session};
use monomorph::{golden, specs};

fn model() -> Model {
    model_of(&specs::find("tiny").unwrap())
}

fn model_of(spec: &ModelSpec) -> Model {
    let plan = codegen::plan::build(spec, golden::device(90).unwrap()).unwrap();
    let options = LoadOptions { context: Some(96), ..LoadOptions::default() };
    Model::load(&device::queue(), &plan.table, &SynthSource::new(1), &options).unwrap()
}

fn bits_of_session(session: &Session) -> Vec<u32> {
    let mut logits = vec![0.0; session.model().table().dims.vocab_size as usize];
    session.logits(&mut logits).unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

fn bits_of_row(batch: &Batch, model: &Model, row: usize) -> Vec<u32> {
    let mut logits = vec![0.0; model.table().dims.vocab_size as usize];
    batch.logits(row, &mut logits).unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

/// Prompts of different lengths, so that each row has a position of its own.
fn prompt(i: usize) -> Vec<u32> {
    (0..1 + i * 3 % 7).map(|k| (17 * i + 5 * k + 1) as u32).collect()
}

fn started(model: &Model, n: usize) -> Vec<Session> {
    let start = |i| {
        let mut session = model.session().unwrap();
        session.prefill(&prompt(i), &CancelToken::new()).unwrap();
        session
    };
    (0..n).map(start).collect()
}

/// What each session does alone: the logits' bits and the token of each of `steps` steps.
fn alone(model: &Model, n: usize, steps: usize) -> Vec<Vec<(Vec<u32>, u32)>> {
    let run = |mut session: Session| {
        let mut token = session.chosen().unwrap();
        let mut all = Vec::new();
        for _ in 0..steps {
            session.step_with_head(token).unwrap();
            token = session.chosen().unwrap();
            all.push((bits_of_session(&session), token));
        }
        all
    };
    started(model, n).into_iter().map(run).collect()
}

#[test]
fn a_row_has_the_bits_of_the_row_alone_and_finished_rows_drop_out() {
    let model = model();
    const STEPS: usize = 3;
    // More than 16, so that rows lie in the largest step too.
    const N: usize = 19;
    let wanted = alone(&model, N, STEPS);
    let mut sessions = started(&model, N);
    let mut tokens: Vec<u32> = sessions.iter().map(|s| s.chosen().unwrap()).collect();
    let mut batch = model.batch(N as u32).unwrap();
    // 19, 9 and 3 rows: three different steps of the table. Which rows stay changes the seats.
    let stays: [fn(usize) -> bool; STEPS] = [|_| true, |i| i.is_multiple_of(2), |i| i % 8 == 2];
    for (step, stays) in stays.into_iter().enumerate() {
        let here: Vec<usize> = (0..N).filter(|i| stays(*i)).collect();
        let now: Vec<[u32; 1]> = tokens.iter().map(|t| [*t]).collect();
        let mut rows: Vec<BatchRow<'_>> = sessions
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| here.contains(i))
            .map(|(i, session)| BatchRow { session, tokens: &now[i] })
            .collect();
        batch.step(&mut rows).unwrap();
        for (row, i) in here.iter().enumerate() {
            let (bits, token) = &wanted[*i][step];
            assert!(bits_of_row(&batch, &model, row) == *bits, "step {step}: logits of session {i}");
            tokens[*i] = batch.chosen(row).unwrap();
            assert_eq!(tokens[*i], *token, "step {step}: token of session {i}");
        }
    }
}

/// Rows that no shipped spec has: odd ones, more than 32, a step of prefill that is smaller than the prompt.
#[test]
fn steps_of_other_rows_have_the_bits_of_the_row_alone() {
    let mut spec = specs::find("tiny").unwrap();
    spec.dims.n_layers = 2;
    (spec.steps.decode, spec.steps.prefill) = (vec![1, 3, 7, 40], vec![5]);
    let model = model_of(&spec);
    assert_eq!((model.prefill_rows(), model.batch(41).is_err()), (Some(5), true));
    for n in [2, 3, 6, 37] {
        let wanted = alone(&model, n, 1);
        let mut sessions = started(&model, n);
        let tokens: Vec<[u32; 1]> = sessions.iter().map(|s| [s.chosen().unwrap()]).collect();
        let mut batch = model.batch(n as u32).unwrap();
        let mut rows: Vec<BatchRow<'_>> =
            sessions.iter_mut().zip(&tokens).map(|(session, tokens)| BatchRow { session, tokens }).collect();
        batch.step(&mut rows).unwrap();
        for (row, steps) in wanted.iter().enumerate() {
            assert!(bits_of_row(&batch, &model, row) == steps[0].0, "row {row} of {n}");
        }
    }
    // Without a step of prefill, a prompt goes token by token.
    spec.steps.prefill = vec![];
    let without = model_of(&spec);
    assert_eq!(without.prefill_rows(), None);
    let [mut a, mut b] = [&without, &model].map(|model| model.session().unwrap());
    a.prefill(&prompt(4), &CancelToken::new()).unwrap();
    prompt(4).iter().for_each(|token| b.step_with_head(*token).unwrap());
    assert!(bits_of_session(&a) == bits_of_session(&b));
}

#[test]
fn several_tokens_of_one_session_in_one_step_are_as_one_after_the_other() {
    let model = model();
    let tokens = [5u32, 900, 31, 77, 4000];
    let mut single = model.session().unwrap();
    single.step(3).unwrap();
    let mut wanted = Vec::new();
    for token in tokens {
        single.step_with_head(token).unwrap();
        wanted.push(bits_of_session(&single));
    }
    let mut session = model.session().unwrap();
    session.step(3).unwrap();
    let mut other = model.session().unwrap();
    let mut batch = model.batch(8).unwrap();
    let mut rows = [
        BatchRow { session: &mut other, tokens: &[9, 8] },
        BatchRow { session: &mut session, tokens: &tokens },
    ];
    batch.step(&mut rows).unwrap();
    assert_eq!((session.position(), other.position(), batch.last_rows()), (6, 2, 7));
    for (i, bits) in wanted.iter().enumerate() {
        assert!(bits_of_row(&batch, &model, 2 + i) == *bits, "token {i}");
    }
    // Back to after the third token: the rest is forgotten.
    session.rewind(4).unwrap();
    session.step_with_head(77).unwrap();
    assert!(bits_of_session(&session) == wanted[3]);
    assert!(matches!(session.rewind(6), Err(Error::Rewind { position: 6, found: 5 })));
}

#[test]
fn what_does_not_fit_is_refused_before_any_launch() {
    let model = model();
    assert!(matches!(model.batch(0), Err(Error::BatchRows { found: 0, limit: 32, .. })));
    assert!(matches!(model.batch(33), Err(Error::BatchRows { found: 33, limit: 32, .. })));
    let mut batch = model.batch(2).unwrap();
    let mut session = model.session().unwrap();
    let mut step = |session: &mut Session, tokens: &[u32]| batch.step(&mut [BatchRow { session, tokens }]);
    assert!(matches!(step(&mut session, &[]), Err(Error::BatchRows { found: 0, limit: 2, .. })));
    assert!(matches!(step(&mut session, &[1, 2, 3]), Err(Error::BatchRows { found: 3, limit: 2, .. })));
    assert!(matches!(step(&mut session, &[1, 99_999]), Err(Error::Token { token: 99_999, .. })));
    assert_eq!(session.position(), 0);
    let mut stranger = self::model().session().unwrap();
    assert!(matches!(step(&mut stranger, &[1]), Err(Error::OtherModel { index: 0 })));
    for _ in 0..48 {
        step(&mut session, &[1, 2]).unwrap();
    }
    assert!(matches!(step(&mut session, &[1]), Err(Error::ContextFull { wanted: 97, limit: 96 })));
    assert_eq!(session.position(), 96);
    assert!(batch.chosen(5).is_err());
}

#[test]
fn a_prompt_has_the_same_bits_however_it_is_cut_and_those_of_single_steps_nearly() {
    let model = model();
    let prompt: Vec<u32> = (0..75).map(|i| (i * 37 + 11) % 4096).collect();
    let whole = || {
        let mut session = model.session().unwrap();
        session.prefill(&prompt, &CancelToken::new()).unwrap();
        let mut logits = vec![0.0f32; 4096];
        session.logits(&mut logits).unwrap();
        logits
    };
    let first = whole();
    assert!(first == whole(), "a repetition");
    // One by one: other arithmetic in attention, the same function.
    let mut single = model.session().unwrap();
    let (last, before) = prompt.split_last().unwrap();
    before.iter().for_each(|token| single.step(*token).unwrap());
    single.step_with_head(*last).unwrap();
    let mut logits = vec![0.0f32; 4096];
    single.logits(&mut logits).unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(&first, &logits) / (dot(&first, &first) * dot(&logits, &logits)).sqrt();
    assert!(cosine > 0.999, "cosine {cosine}");
    // In a context of 96, the chunks of 8, 32 and 512 rows all come into play by cutting the prompt.
    let cut = |pieces: &[std::ops::Range<usize>]| {
        let mut session = model.session().unwrap();
        for piece in pieces {
            session.take(&prompt[piece.clone()]).unwrap();
        }
        session.step_with_head(prompt[74]).unwrap();
        let mut logits = vec![0.0f32; 4096];
        session.logits(&mut logits).unwrap();
        logits
    };
    assert!(cut(std::slice::from_ref(&(0..74))) == first, "one piece");
    assert!(cut(&[0..1, 1..33, 33..40, 40..74]) == first, "four pieces");
}

#[test]
fn drafted_decoding_gives_the_tokens_of_plain_decoding() {
    let model = model();
    let options = |n| GenerateOptions { max_tokens: Some(n), ..GenerateOptions::default() };
    // A prompt that repeats itself, so that guesses are made; some of them are wrong.
    let prompt: Vec<u32> = [3, 14, 15, 92, 65, 3, 14, 15, 92, 6, 3, 14].into();
    let mut plain = model.session().unwrap();
    let wanted: Vec<u32> = plain.generate(&prompt, options(40)).unwrap().map(Result::unwrap).collect();
    let mut session = model.session().unwrap();
    let mut speculation = session.speculate(&prompt, 5, options(40)).unwrap();
    let found: Vec<u32> = speculation.by_ref().map(Result::unwrap).collect();
    assert_eq!(found, wanted);
    let counts = speculation.counts();
    assert!(counts.drafted > 0 && counts.accepted > 0 && counts.steps < 40, "{counts:?}");
    assert_eq!(session.position(), plain.position());
    // A stop token in the middle of what was verified ends the stream there.
    let stop = GenerateOptions { stop: vec![wanted[7]], ..options(40) };
    let until: Vec<u32> = session_tokens(&model, &prompt, stop);
    let first = wanted.iter().position(|token| *token == wanted[7]).unwrap();
    assert_eq!(until, wanted[..first]);
    // Until the context is full.
    assert_eq!(session_tokens(&model, &prompt, GenerateOptions::default()).len(), 96 - prompt.len() + 1);
}

fn session_tokens(model: &Model, prompt: &[u32], options: GenerateOptions) -> Vec<u32> {
    let mut session = model.session().unwrap();
    session.speculate(prompt, 5, options).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_replayed_step_is_the_launches_one_by_one_and_every_repetition_of_it() {
    let model = model();
    let n = if model.queue().sm().is_some() { 1000 } else { 3 };
    let mut session = model.session().unwrap();
    session.take(&prompt(5)).unwrap();
    let position = session.position();
    session.profile_step(77).unwrap();
    let eager = bits_of_session(&session);
    for repetition in 0..n {
        session.rewind(position).unwrap();
        session.step_with_head(77).unwrap();
        assert!(bits_of_session(&session) == eager, "repetition {repetition}");
    }
}
