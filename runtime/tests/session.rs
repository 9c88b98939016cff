//! Model and session over a device in plain Rust: what the runtime adds to kernels, with results known by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use monomorph_runtime::queue::Queue;
use monomorph_runtime::sampling::{Sampler, SamplingConfig};
use monomorph_runtime::synth::SynthSource;
use monomorph_runtime::{
    CancelToken, Error, ErrorClass, FinishReason, GenerateOptions, LoadOptions, Model, PromptProgress,
    PromptWatch, Session,
};
use plan::Slot;
use support::{DIM, Failure, HostQueue, NAN_POSITION, VOCAB, toy_table};

fn load(host: &Arc<HostQueue>, options: &LoadOptions<'_>) -> Result<Model, Error> {
    let queue: Arc<dyn Queue> = host.clone();
    Model::load(&queue, &toy_table(), &SynthSource::new(1), options)
}

fn session(context: u32) -> Session {
    let options = LoadOptions { context: Some(context), ..LoadOptions::default() };
    load(&Arc::new(HostQueue::new()), &options).unwrap().session().unwrap()
}

/// The toy model, written down: the next token is the sum of all before it.
fn expected(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut all = prompt.to_vec();
    for _ in 0..n {
        all.push(all.iter().sum::<u32>() % VOCAB as u32);
    }
    all.split_off(prompt.len())
}

fn options(max_tokens: u32) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() }
}

#[test]
fn greedy_generation_is_the_model_written_down() {
    let mut session = session(64);
    let prompt = [3, 1, 4];
    let mut generation = session.generate(&prompt, options(9)).unwrap();
    let tokens: Vec<u32> = generation.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(tokens, expected(&prompt, 9));
    assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
    let timings = generation.timings();
    assert_eq!((timings.prefill_tokens, timings.decode_tokens), (3, 8));
    assert!(timings.decode_tok_s() > 0.0 && timings.prefill_tok_s() > 0.0);
    assert_eq!(session.position(), 3 + 8, "the last token is not in the caches");
    session.reset();
    assert_eq!(session.position(), 0);
}

#[test]
fn a_load_makes_ready_what_weights_and_every_session_need() {
    let host = Arc::new(HostQueue::new());
    let model = load(&host, &LoadOptions::default()).unwrap();
    // First what re-packs, then the step of one row; sampling waits for somebody who samples.
    assert_eq!(host.prepared(), ["repack", "embed", "head", "argmax"]);
    let timings = model.load_timings();
    assert!(timings.weights > Duration::ZERO && timings.kernels > Duration::ZERO, "{timings:?}");
}

#[test]
fn weights_went_through_their_repack_kernel() {
    let options = LoadOptions::default();
    let host = Arc::new(HostQueue::new());
    let model = load(&host, &options).unwrap();
    let table = toy_table();
    let mut packed = vec![0; VOCAB * DIM * 4];
    model.weights()[0].download(0, &mut packed).unwrap();
    let mut raw = vec![0; packed.len()];
    SynthSource::new(1).fill(&table, &table.weights[0], 0, &mut raw);
    raw.reverse();
    assert!(packed == raw);
    let mut norm = vec![0; DIM * 4];
    model.weights()[1].download(0, &mut norm).unwrap();
    let mut wanted = vec![0; norm.len()];
    SynthSource::new(1).fill(&table, &table.weights[1], 0, &mut wanted);
    assert!(norm == wanted);
}

#[test]
fn a_seeded_sampler_repeats_itself_and_is_not_greedy() {
    let run = |seed| {
        let sampling = SamplingConfig { temperature: 50.0, seed, ..SamplingConfig::default() };
        let options = GenerateOptions { sampling, ..options(12) };
        session(64).generate(&[1], options).unwrap().collect::<Result<Vec<u32>, _>>().unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert_ne!(run(1), expected(&[1], 12));
}

#[test]
fn a_stop_token_ends_the_stream_and_is_not_given() {
    let all = expected(&[2, 3], 8);
    let stop = *all.last().unwrap();
    let until = all.iter().position(|t| *t == stop).unwrap();
    let mut session = session(64);
    let options = GenerateOptions { stop: vec![stop], ..options(20) };
    let mut generation = session.generate(&[2, 3], options).unwrap();
    let tokens: Vec<u32> = generation.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(tokens, all[..until]);
    assert_eq!(generation.finish_reason(), Some(FinishReason::Stop(stop)));
    assert!(generation.next().is_none());
}

#[test]
fn the_end_of_the_context_is_a_finish_reason_and_not_a_shift() {
    let mut session = session(6);
    let mut generation = session.generate(&[1, 1], GenerateOptions::default()).unwrap();
    let tokens: Vec<u32> = generation.by_ref().collect::<Result<_, _>>().unwrap();
    // Two of the prompt, four decoded, and the one chosen after the last position.
    assert_eq!(tokens, expected(&[1, 1], 5));
    assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
    let error = session.step(1).unwrap_err();
    assert!(matches!(error, Error::ContextFull { wanted: 7, limit: 6 }), "{error}");
    assert_eq!(error.class(), ErrorClass::Request);
}

#[test]
fn bad_requests_are_refused_before_any_launch() {
    let host = Arc::new(HostQueue::new());
    let model = load(&host, &LoadOptions { context: Some(4), ..LoadOptions::default() }).unwrap();
    let mut session = model.session().unwrap();
    let before = host.calls();
    assert!(matches!(session.generate(&[], options(1)), Err(Error::EmptyPrompt)));
    assert!(matches!(session.generate(&[1; 5], options(1)), Err(Error::ContextFull { wanted: 5, limit: 4 })));
    assert!(matches!(
        session.generate(&[1, 16], options(1)),
        Err(Error::Token { token: 16, vocab_size: 16 })
    ));
    assert!(matches!(session.step(99), Err(Error::Token { token: 99, .. })));
    assert!(matches!(session.chosen(), Err(Error::NoLogits)));
    let sampling = SamplingConfig { temperature: -1.0, ..SamplingConfig::default() };
    let bad = GenerateOptions { sampling, ..options(1) };
    assert!(matches!(session.generate(&[1], bad), Err(Error::Sampling(_))));
    assert_eq!(host.calls(), before);
    session.step(1).unwrap();
    assert!(matches!(session.chosen(), Err(Error::NoLogits)));
}

#[test]
fn logits_that_are_not_finite_end_the_sequence_and_only_it() {
    let mut session = session(64);
    let prompt = vec![1; NAN_POSITION as usize];
    let mut generation = session.generate(&prompt, options(10)).unwrap();
    assert!(generation.next().unwrap().is_ok());
    let error = generation.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::NotFinite { position: NAN_POSITION }), "{error}");
    assert_eq!(error.class(), ErrorClass::Request);
    assert!(generation.next().is_none());
    assert_eq!(generation.finish_reason(), Some(FinishReason::Failed));
    session.reset();
    let tokens: Vec<u32> = session.generate(&[5], options(3)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(tokens, expected(&[5], 3));
}

#[test]
fn cancelling_ends_a_stream_and_a_load() {
    let cancel = CancelToken::new();
    let mut toy = session(64);
    let mut generation =
        toy.generate(&[1], GenerateOptions { cancel: cancel.clone(), ..options(10) }).unwrap();
    assert!(generation.next().is_some());
    cancel.cancel();
    assert!(generation.next().is_none());
    assert_eq!(generation.finish_reason(), Some(FinishReason::Cancelled));

    let host = Arc::new(HostQueue::new());
    let error = load(&host, &LoadOptions { cancel, ..LoadOptions::default() }).unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    let (made, live) = host.allocations();
    assert!(made > 0 && live == 0, "{made} made, {live} live");
}

#[test]
fn a_prompt_tells_how_far_it_is() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&told);
    let watch = PromptWatch::new(move |progress| kept.lock().unwrap().push(progress));
    let mut toy = session(64);
    toy.step(3).unwrap();
    let with_watch = GenerateOptions { watch, ..options(1) };
    assert!(toy.generate(&[1; 40], with_watch).unwrap().next().is_some());
    let of = |done_tokens| PromptProgress { done_tokens, total_tokens: 40 };
    assert_eq!(*told.lock().unwrap(), [of(32), of(39), of(40)]);
}

#[test]
fn memory_is_checked_before_anything_is_taken() {
    let host = Arc::new(HostQueue::with(4096, None));
    let error = load(&host, &LoadOptions::default()).unwrap_err();
    let Error::Memory { plan, free, .. } = &error else { panic!("{error}") };
    assert_eq!(error.class(), ErrorClass::Resource);
    // 16 × 32 and two times 32 values; 64 positions of 16 pairs; 64 cached tokens; staging of the largest.
    assert_eq!(
        (plan.weights_bytes, plan.tables_bytes, plan.staging_bytes),
        (2048 + 512 + 512, 64 * 128, 2048)
    );
    assert_eq!((plan.kv_bytes, plan.arena_bytes, plan.own_bytes, *free), (512, 512, 2560, 4096));
    assert_eq!(plan.peak_bytes(), 3072 + 8192 + 512 + 512 + 2560);
    assert_eq!(host.allocations(), (0, 0));
    let enough = Arc::new(HostQueue::with(plan.peak_bytes(), None));
    load(&enough, &LoadOptions::default()).unwrap();
}

#[test]
fn progress_reaches_the_total() {
    let seen = std::cell::RefCell::new(Vec::new());
    let progress = |p| seen.borrow_mut().push(p);
    let options = LoadOptions { progress: Some(&progress), ..LoadOptions::default() };
    load(&Arc::new(HostQueue::new()), &options).unwrap();
    let seen = seen.into_inner();
    let last = seen.last().unwrap();
    assert_eq!((last.done_bytes, last.total_bytes), (2048 + 256, 2048 + 256));
    assert!(seen.windows(2).all(|w| w[0].done_bytes < w[1].done_bytes));
}

#[test]
fn sessions_do_not_share_caches_but_share_the_rope_table() {
    let host = Arc::new(HostQueue::new());
    let model = load(&host, &LoadOptions::default()).unwrap();
    let (mut a, mut b) = (model.session().unwrap(), model.session().unwrap());
    a.prefill(&[1, 2, 3], &CancelToken::new()).unwrap();
    b.prefill(&[5], &CancelToken::new()).unwrap();
    assert_eq!((a.chosen().unwrap(), b.chosen().unwrap()), (6, 5));
    let read = |session: &Session| {
        let mut row = [0; 8];
        session.read_slot(Slot::RopeTable, &mut row).unwrap();
        [
            f32::from_le_bytes([row[0], row[1], row[2], row[3]]),
            f32::from_le_bytes([row[4], row[5], row[6], row[7]]),
        ]
    };
    assert_eq!(read(&a), [1.0, 0.0]);
    let mut logits = [0.0; VOCAB];
    a.logits(&mut logits).unwrap();
    assert_eq!(logits[6], 1.0);
    assert!(matches!(a.logits(&mut [0.0; 3]), Err(Error::Room { found: 3, wanted: VOCAB, .. })));
    drop(model);
    a.step(1).unwrap();
    drop((a, b));
    assert_eq!(host.allocations().1, 0);
}

#[test]
fn profiling_times_every_launch_of_a_step() {
    let mut session = session(64);
    assert_eq!(session.profile_step(7).unwrap().len(), 3);
    assert_eq!(session.chosen().unwrap(), 7);
    assert_eq!(session.position(), 1);
}

/// Loads, starts a session and generates, with call `k` failing; everything is given back whatever fails.
#[test]
fn every_call_may_fail_and_nothing_leaks() {
    let run = |host: &Arc<HostQueue>| -> Result<Vec<u32>, Error> {
        let model = load(host, &LoadOptions::default())?;
        model.session()?.generate(&[1, 2, 3], options(5))?.collect()
    };
    let clean = Arc::new(HostQueue::new());
    assert_eq!(run(&clean).unwrap(), expected(&[1, 2, 3], 5));
    let n_calls = clean.calls();
    assert!(n_calls > 30, "{n_calls} calls");
    for failure in [Failure::OutOfMemory, Failure::Fatal, Failure::Request] {
        for k in 0..n_calls {
            let host = Arc::new(HostQueue::with(u64::MAX, Some((k, failure))));
            let error = run(&host).expect_err("a call failed");
            let class = match failure {
                Failure::OutOfMemory => ErrorClass::Resource,
                Failure::Fatal => ErrorClass::Fatal,
                Failure::Request => ErrorClass::Request,
            };
            assert_eq!(error.class(), class, "call {k}: {error}");
            assert_eq!(host.allocations().1, 0, "call {k}: {failure:?}");
            if failure == Failure::Fatal {
                let calls = host.calls();
                let again = run(&host).expect_err("the device is lost");
                assert!(again.to_string().contains(&format!("injected at call {k}")), "{again}");
                assert_eq!(host.calls(), calls, "a lost device is not called");
            }
        }
    }
}

/// Some tokens of a prompt with these options.
fn tokens_of(session: &mut Session, prompt: &[u32], options: GenerateOptions) -> Vec<u32> {
    session.generate(prompt, options).unwrap().collect::<Result<_, _>>().unwrap()
}

fn warm(seed: u64) -> SamplingConfig {
    SamplingConfig { temperature: 6.0, top_k: 9, repetition_penalty: 1.4, seed, ..SamplingConfig::default() }
}

#[test]
fn steps_that_are_ahead_choose_what_single_steps_choose() {
    for sampling in [SamplingConfig::default(), warm(3), warm(4)] {
        let run = |steps_ahead| {
            let options = GenerateOptions { sampling, steps_ahead: Some(steps_ahead), ..options(17) };
            let mut session = session(64);
            let tokens = tokens_of(&mut session, &[5, 2], options);
            assert_eq!(session.position(), 2 + 16);
            tokens
        };
        let single = run(1);
        assert_eq!(single.len(), 17);
        for ahead in [2, 3, 8, 16, 1000] {
            assert_eq!(run(ahead), single, "{ahead}");
        }
    }
}

#[test]
fn fewer_looks_at_the_device_are_needed_for_steps_that_are_ahead() {
    let calls = |steps_ahead| {
        let host = Arc::new(HostQueue::new());
        let model = load(&host, &LoadOptions::default()).unwrap();
        let mut session = model.session().unwrap();
        let options = GenerateOptions { steps_ahead: Some(steps_ahead), ..options(17) };
        let mut generation = session.generate(&[1], options).unwrap();
        generation.next();
        let before = host.calls();
        assert_eq!(generation.count(), 16);
        host.calls() - before
    };
    // One look a token, and a launch; two looks for 16 tokens.
    assert_eq!((calls(1), calls(8)), (32, 18));
}

#[test]
fn the_first_token_does_not_wait_for_others() {
    let host = Arc::new(HostQueue::new());
    let mut session = load(&host, &LoadOptions::default()).unwrap().session().unwrap();
    let options = GenerateOptions { steps_ahead: Some(8), ..options(20) };
    let mut generation = session.generate(&[1], options).unwrap();
    let before = host.calls();
    generation.next();
    assert_eq!(host.calls() - before, 1, "a read of the token that the prompt chose");
}

#[test]
fn a_stop_token_among_steps_that_are_ahead_leaves_the_right_position() {
    for sampling in [SamplingConfig::default(), warm(8)] {
        let mut reference = session(64);
        let all = tokens_of(&mut reference, &[2, 3], GenerateOptions { sampling, ..options(16) });
        let stop = all[9];
        let until = all.iter().position(|token| *token == stop).unwrap();
        let run = |steps_ahead| {
            let mut session = session(64);
            let steps_ahead = Some(steps_ahead);
            let until_stop = GenerateOptions { sampling, stop: vec![stop], steps_ahead, ..options(16) };
            let mut generation = session.generate(&[2, 3], until_stop).unwrap();
            let tokens: Vec<u32> = generation.by_ref().collect::<Result<_, _>>().unwrap();
            assert_eq!(generation.finish_reason(), Some(FinishReason::Stop(stop)));
            assert_eq!(tokens, all[..until]);
            // As if the steps after the stop token had never been: it and another token go on from there.
            let position = session.position();
            let more = tokens_of(&mut session, &[stop, 1], GenerateOptions { sampling, ..options(6) });
            (position, more)
        };
        let single = run(1);
        assert_eq!(single.0, 2 + until as u32);
        assert_eq!(run(8), single);
        assert_eq!(run(16), single);
    }
}

#[test]
fn logits_that_are_no_numbers_are_told_at_their_token() {
    for sampling in [SamplingConfig::default(), warm(1)] {
        let mut session = session(64);
        let options = GenerateOptions { sampling, steps_ahead: Some(8), ..GenerateOptions::default() };
        let mut generation = session.generate(&[1], options).unwrap();
        let good = generation.by_ref().take(NAN_POSITION as usize).filter(Result::is_ok).count();
        assert_eq!(good, NAN_POSITION as usize);
        let error = generation.next().unwrap().unwrap_err();
        assert!(matches!(error, Error::NotFinite { position: NAN_POSITION }), "{error}");
        assert_eq!(generation.finish_reason(), Some(FinishReason::Failed));
    }
}

#[test]
fn the_device_samples_what_the_sampler_samples() {
    for (seed, prompt) in [(1, &[3, 1, 4][..]), (2, &[7; 30]), (3, &[1; 40])] {
        let mut sampler = Sampler::new(warm(seed)).unwrap();
        let mut stepped = session(64);
        stepped.prefill(prompt, &CancelToken::new()).unwrap();
        let mut all = prompt.to_vec();
        let mut logits = vec![0.0; VOCAB];
        for _ in 0..24 {
            stepped.logits(&mut logits).unwrap();
            let recent = &all[all.len().saturating_sub(64)..];
            let Ok(token) = sampler.sample(&logits, recent, stepped.position() - 1) else { break };
            all.push(token);
            stepped.step_with_head(token).unwrap();
        }
        let wanted = &all[prompt.len()..];
        let options = GenerateOptions { sampling: warm(seed), ..options(wanted.len() as u32) };
        assert_eq!(tokens_of(&mut session(64), prompt, options), wanted);
        assert!(wanted.len() > 10);
    }
}
