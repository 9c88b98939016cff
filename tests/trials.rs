//! Every kernel of the tiny spec computes what its reference says, and the judgement is one that kernels can fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed case ends the test")]

use codegen::kernels::{Expect, Trial, judge};
use codegen::plan::{Plan, build};
use monomorph::plan::KernelDesc;
use monomorph::{golden, matrix, specs, trial};

fn tiny() -> Plan {
    build(&specs::find("tiny").unwrap(), golden::device(90).unwrap()).unwrap()
}

fn names(kernel: &KernelDesc) -> Vec<String> {
    kernel.params.iter().map(|param| param.name.to_string()).collect()
}

#[test]
fn every_kernel_agrees_with_its_reference() {
    let plan = tiny();
    for (kernel, operation) in plan.table.kernels.iter().zip(&plan.operations) {
        if let Err(error) = trial::check(kernel, operation.as_ref(), 3, 0) {
            panic!("{}: {error} [{}]", kernel.entry, kernel.constants);
        }
    }
}

/// What a kernel would leave that does nothing, or stores one byte everywhere.
fn left_by_a_bad_kernel(trial: &Trial, fill: Option<u8>) -> Vec<Vec<u8>> {
    let bytes = |arg: &codegen::kernels::TrialArg| match (fill, &arg.expect) {
        (None, _) | (_, Expect::Unchanged) => arg.before.clone(),
        (Some(byte), _) => vec![byte; arg.before.len()],
    };
    trial.args.iter().map(bytes).collect()
}

#[test]
fn kernels_that_do_nothing_or_store_a_constant_fail() {
    let plan = tiny();
    for (kernel, operation) in plan.table.kernels.iter().zip(&plan.operations) {
        for fill in [None, Some(0), Some(1), Some(0x7f), Some(0xff)] {
            let passes = (0..trial::SEEDS).all(|seed| {
                let trial = operation.trial(seed);
                judge(&trial, &names(kernel), &left_by_a_bad_kernel(&trial, fill)).is_ok()
            });
            assert!(!passes, "{} passes with {fill:?}", kernel.entry);
        }
    }
}

#[test]
fn a_result_of_other_inputs_fails() {
    let plan = tiny();
    for (kernel, operation) in plan.table.kernels.iter().zip(&plan.operations) {
        let (_, other) = trial::check(kernel, operation.as_ref(), 4, 0).unwrap();
        let trial = operation.trial(3);
        assert!(judge(&trial, &names(kernel), &other).is_err(), "{}", kernel.entry);
    }
}

#[test]
fn a_trial_that_does_not_fit_is_refused() {
    let plan = tiny();
    let error = trial::emulate(&plan.table.kernels[0], &Trial::new(1), 1).unwrap_err();
    assert!(matches!(error, trial::TrialError::Arity { found: 0, .. }), "{error}");
}

#[test]
fn a_sample_of_the_matrix_agrees_with_its_references() {
    let device = golden::device(90).unwrap();
    // A step that shares no factor with the numbers of types, rows and shapes, so that all of them come up.
    let sample = matrix::cases().into_iter().step_by(29);
    for (i, operation) in sample.enumerate() {
        let kernel = codegen::plan::kernel(operation.as_ref(), device).unwrap();
        if let Err(error) = trial::check(&kernel, operation.as_ref(), i as u64 % matrix::SEEDS.end, 0) {
            panic!("{}: {error} [{}]", kernel.entry, kernel.constants);
        }
    }
}
