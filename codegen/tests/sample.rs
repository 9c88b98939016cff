//! The sampling kernels against their definition, launch by launch, on the emulator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

#[path = "kernel_trial/mod.rs"]
mod kernel_trial;

use kernel_trial::check;
use monomorph_codegen::kernels::sample::{
    Sample, SampleBins, SampleCut, SampleFinal, SamplePart, SampleWeigh,
};

fn all(sample: &Sample, seeds: std::ops::Range<u64>) {
    check(&SamplePart(sample.clone()), seeds.clone());
    check(&SampleBins(sample.clone()), seeds.clone());
    check(&SampleCut(sample.clone()), seeds.clone());
    check(&SampleWeigh(sample.clone()), seeds.clone());
    check(&SampleFinal(sample.clone()), seeds);
}

#[test]
fn any_vocabulary_in_any_parts() {
    for (vocab_size, parts) in
        [(1, 1), (2, 1), (31, 1), (257, 1), (300, 7), (1025, 2), (1000, 256), (4500, 1)]
    {
        all(&Sample { vocab_size, parts, rows: 1 }, 0..12);
    }
}

#[test]
fn rows_do_not_meet() {
    all(&Sample { vocab_size: 133, parts: 3, rows: 4 }, 0..24);
}

#[test]
fn bins_with_more_tokens_than_a_list_holds() {
    // Every scene, among them those with all logits equal: 5000 ranks in one bin.
    all(&Sample { vocab_size: 5000, parts: 5, rows: 2 }, 0..16);
}

#[test]
fn parts_are_as_many_as_pay() {
    let parts = |vocab_size, n_sms| Sample::new(vocab_size, 1, n_sms).parts;
    assert_eq!(
        [parts(100, 132), parts(5000, 132), parts(151_936, 132), parts(151_936, 400)],
        [1, 5, 132, 149]
    );
    assert_eq!(parts(1_000_000, 400), 256);
}
