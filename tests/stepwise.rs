//! Steps launch by launch: the same bits as a step at once, and other weights found at the launch that reads them.

#![allow(clippy::unwrap_used, reason = "a failed case ends the test")]

#[path = "support/device.rs"]
mod device;

use std::sync::Arc;

use monomorph::parity::{self, ParityError};
use monomorph::plan::{Phase, Slot, Table};
use monomorph::runtime::queue::Queue;
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{LoadOptions, Model};
use monomorph::{compiled_table, stepwise};

const TOKENS: [u32; 3] = [1, 40, 41];

fn table() -> &'static Table {
    compiled_table("tiny", 90).unwrap()
}

/// Launches of a step that ends in the greatest logit.
fn n_greedy() -> usize {
    table().single().unwrap().launches.iter().filter(|launch| launch.phase != Phase::Sample).count()
}

fn model(seed: u64) -> Model {
    model_on(&device::queue(), seed)
}

/// What the others are held against.
fn emulated(seed: u64) -> Model {
    model_on(&device::emulator(), seed)
}

fn model_on(queue: &Arc<dyn Queue>, seed: u64) -> Model {
    let options = LoadOptions { context: Some(16), ..LoadOptions::default() };
    Model::load(queue, table(), &SynthSource::new(seed), &options).unwrap()
}

#[test]
fn a_walk_leaves_what_a_step_leaves() {
    let model = model(1);
    let (mut walked, mut stepped) = (model.session().unwrap(), model.session().unwrap());
    let n_logits = table().dims.vocab_size as usize;
    let (mut a, mut b) = (vec![0.0f32; n_logits], vec![0.0f32; n_logits]);
    for token in TOKENS {
        stepped.step_with_head(token).unwrap();
        let mut walk = walked.walk(token).unwrap();
        let mut n_launches = 0;
        while walk.advance().unwrap() {
            n_launches += 1;
        }
        assert_eq!(n_launches, n_greedy());
        assert_eq!(walked.position(), stepped.position());
        walked.logits(&mut a).unwrap();
        stepped.logits(&mut b).unwrap();
        assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(walked.chosen().unwrap(), stepped.chosen().unwrap());
    }
}

#[test]
fn a_walk_that_ends_early_takes_no_token() {
    let model = model(1);
    let mut session = model.session().unwrap();
    session.take(&TOKENS[..2]).unwrap();
    let mut walk = session.walk(TOKENS[2]).unwrap();
    for _ in 0..5 {
        assert!(walk.advance().unwrap());
    }
    assert_eq!(session.position(), 2);
    assert!(session.chosen().is_err());
    session.step_with_head(TOKENS[2]).unwrap();
    assert_eq!(session.position(), 3);
}

#[test]
fn each_launch_shows_what_it_wrote_and_caches_their_row() {
    let model = model(1);
    let (mut session, mut plain) = (model.session().unwrap(), model.session().unwrap());
    session.take(&TOKENS[..2]).unwrap();
    plain.take(&TOKENS).unwrap();
    let row = table().caches[0].bytes_per_pos as usize;
    let mut cache = vec![0; 3 * row];
    plain.read_slot(Slot::KCache(0), &mut cache).unwrap();
    let mut walk = session.walk(TOKENS[2]).unwrap();
    let mut rows = 0;
    while walk.advance().unwrap() {
        let regions = walk.written();
        assert!(!regions.is_empty());
        for region in regions {
            let bytes = walk.read(&region).unwrap();
            assert_eq!(bytes.len() as u64, region.bytes);
            rows += usize::from(matches!(region.slot, Slot::KCache(_) | Slot::VCache(_)));
            if region.slot == Slot::KCache(0) {
                assert_eq!(region.offset, 2 * row as u64);
                assert_eq!(bytes, cache[2 * row..]);
            }
        }
    }
    assert_eq!(rows, 2 * table().dims.n_layers as usize);
}

#[test]
fn other_weights_are_found_at_the_first_launch() {
    let (one, same, other) = (model(1), emulated(1), emulated(2));
    let (mut a, mut b, mut c) = (one.session().unwrap(), same.session().unwrap(), other.session().unwrap());
    let mut device = a.walk(TOKENS[0]).unwrap();
    let mut reference = b.walk(TOKENS[0]).unwrap();
    let mut n_launches = 0;
    while let Some(report) = stepwise::advance(&mut device, Some(&mut reference), 2).unwrap() {
        assert_eq!(report.first_difference(), None, "launch {}", report.index);
        assert!(report.buffers.iter().all(|buffer| buffer.summary.nan == 0), "{report:?}");
        n_launches += 1;
    }
    assert_eq!(n_launches, n_greedy());
    let mut device = a.walk(TOKENS[0]).unwrap();
    let mut reference = c.walk(TOKENS[0]).unwrap();
    let report = stepwise::advance(&mut device, Some(&mut reference), 2).unwrap().unwrap();
    let (buffer, difference) = report.first_difference().unwrap();
    assert_eq!((report.index, buffer.slot.as_str()), (0, "Hidden"));
    assert_ne!(difference.device_bits, difference.reference_bits);
}

#[test]
fn parity_holds_for_equal_weights_and_names_the_logit_for_others() {
    let (one, same, other) = (model(1), emulated(1), emulated(2));
    parity::check(&one, &same, &TOKENS).unwrap();
    assert!(matches!(parity::check(&one, &same, &[]), Err(ParityError::NoTokens)));
    let error = parity::check(&one, &other, &TOKENS).unwrap_err();
    assert!(matches!(error, ParityError::Differs { index: 0, token: 1, .. }), "{error}");
}
