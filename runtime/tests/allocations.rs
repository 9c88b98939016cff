//! Decoding allocates nothing: neither on the host, counted by the allocator of this test, nor on the device.

#![allow(unsafe_code, reason = "an allocator that counts is a trait with unsafe functions")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use monomorph_runtime::queue::Queue;
use monomorph_runtime::sampling::SamplingConfig;
use monomorph_runtime::synth::SynthSource;
use monomorph_runtime::{GenerateOptions, LoadOptions, Model};
use support::{HostQueue, toy_table};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local number that needs no
// allocation itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Host allocations of ten decoded tokens, after ten in which buffers reach their size, less those that the fake kernels make themselves.
fn decode_allocations(sampling: SamplingConfig) -> u64 {
    let host = Arc::new(HostQueue::new());
    let queue: Arc<dyn Queue> = host.clone();
    let model = Model::load(&queue, &toy_table(), &SynthSource::new(1), &LoadOptions::default()).unwrap();
    let mut session = model.session().unwrap();
    let (made, _) = host.allocations();
    host.count_own(|| ALLOCATIONS.get());
    let options = GenerateOptions { sampling, ..GenerateOptions::default() };
    let mut generation = session.generate(&[1; 25], options).unwrap();
    assert!(generation.by_ref().take(10).all(|token| token.is_ok()));
    let before = ALLOCATIONS.get() - host.own_allocations();
    let mut tokens = 0;
    for token in generation.by_ref().take(10) {
        token.unwrap();
        tokens += 1;
    }
    let after = ALLOCATIONS.get() - host.own_allocations();
    assert_eq!(tokens, 10);
    assert_eq!(host.allocations().0, made, "device allocations while decoding");
    after - before
}

#[test]
fn a_decoded_token_allocates_nothing() {
    assert_eq!(decode_allocations(SamplingConfig::default()), 0);
}

#[test]
fn a_sampled_token_allocates_nothing() {
    let sampling = SamplingConfig {
        temperature: 0.8,
        top_k: 4,
        top_p: 0.9,
        repetition_penalty: 1.1,
        ..SamplingConfig::default()
    };
    assert_eq!(decode_allocations(sampling), 0);
}

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(Vec::<u8>::with_capacity(8));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}
