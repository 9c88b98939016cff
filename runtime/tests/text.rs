//! From a model file to text, over the device in plain Rust.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use monomorph_runtime::gguf::Gguf;
use monomorph_runtime::queue::Queue;
use monomorph_runtime::synth::write_gguf;
use monomorph_runtime::{Error, FinishReason, GenerateOptions, LoadOptions, TextModel};
use plan::{Slot, Table};
use support::{HostQueue, toy_table};

/// The toy model with tokens for all bytes; its kernels only ever choose the first sixteen.
fn table() -> Table {
    let mut table = toy_table();
    table.dims.vocab_size = 257;
    let embedding = &mut table.weights.to_mut()[0];
    (embedding.rows, embedding.repack) = (257, None);
    embedding.packed_bytes = embedding.raw_bytes();
    table.steps.to_mut()[0].buffers.to_mut().iter_mut().find(|b| b.slot == Slot::Logits).unwrap().bytes =
        257 * 4;
    table.steps.to_mut()[0].arena_bytes = 256 + 257 * 4;
    table
}

fn model(host: &Arc<HostQueue>) -> TextModel {
    let gguf = Gguf::from_bytes(write_gguf(&table(), 1).unwrap()).unwrap();
    let queue: Arc<dyn Queue> = host.clone();
    TextModel::load(&gguf, &[table()], &queue, &LoadOptions::default()).unwrap()
}

#[test]
fn a_prompt_becomes_a_stream_of_text() {
    let host = Arc::new(HostQueue::new());
    let model = model(&host);
    let options = || GenerateOptions { max_tokens: Some(4), ..GenerateOptions::default() };
    let mut stream = model.stream("\u{1}\u{2}", options()).unwrap();
    let text: String = stream.by_ref().collect::<Result<_, _>>().unwrap();
    // 1 + 2, 1 + 2 + 3, … modulo 16
    assert_eq!(text, "\u{3}\u{6}\u{c}\u{8}");
    assert_eq!((stream.prompt_tokens(), stream.tokens()), (&[1, 2][..], &[3, 6, 12, 8][..]));
    assert_eq!(stream.finish_reason(), Some(FinishReason::Length));
    assert_eq!((stream.timings().prefill_tokens, stream.timings().decode_tokens), (2, 3));
    assert!(stream.next().is_none());
    assert!(matches!(model.stream("", options()), Err(Error::EmptyPrompt)));
}

#[test]
fn a_stream_dropped_at_any_token_gives_its_memory_back() {
    let host = Arc::new(HostQueue::new());
    let model = model(&host);
    let (_, live) = host.allocations();
    for n in 0..5 {
        let mut stream = model.stream("\u{1}", GenerateOptions::default()).unwrap();
        assert!(stream.by_ref().take(n).all(|piece| piece.is_ok()));
        assert!(host.allocations().1 > live);
        drop(stream);
        assert_eq!(host.allocations().1, live, "dropped after {n} tokens");
    }
}
