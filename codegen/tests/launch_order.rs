//! When kernels wait for the launches before them: by themselves, where they say so, and what they must not do before.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use monomorph_codegen::dsl::prelude::*;
use monomorph_codegen::lower::lower;
use ptx::{Module, Target};

#[kernel(grid = 1, block = 32)]
fn silent(x: In<u32>, y: Out<u32>) {
    y.at(lane_id()).store(x.at(lane_id()).load());
}

#[kernel(grid = 1, block = 32)]
fn early_weights(w: Fixed<u32>, x: In<u32>, y: Out<u32>) {
    let weight = w.at(lane_id()).load();
    wait_for_earlier();
    y.at(lane_id()).store(weight + x.at(lane_id()).load());
}

#[kernel(grid = 1, block = 32)]
fn late_weights(w: Fixed<u32>, y: Out<u32>) {
    wait_for_earlier();
    y.at(lane_id()).store(w.at(lane_id()).load());
}

#[kernel(grid = 1, block = 32)]
fn early_input(x: In<u32>, y: Out<u32>) {
    let value = x.at(lane_id()).load();
    wait_for_earlier();
    y.at(lane_id()).store(value);
}

#[kernel(grid = 1, block = 32)]
fn early_history(x: Settled<u32>, y: Out<u32>) {
    let value = x.at(lane_id()).load();
    wait_for_earlier();
    y.at(lane_id()).store(value);
}

#[kernel(grid = 1, block = 32)]
fn early_store(y: Out<u32>) {
    if lane_id() == 0 {
        y.at(0).store(1u32);
    }
    wait_for_earlier();
}

#[kernel(grid = 1, block = 32)]
fn waits_in_a_branch(y: Out<u32>) {
    if lane_id() == 0 {
        wait_for_earlier();
    }
    y.at(lane_id()).store(1u32);
}

#[kernel(grid = 1, block = 32)]
fn waits_in_both_arms(n: u32, w: Fixed<u32>, x: In<u32>, y: Out<u32>) {
    if lane_id() < n {
        let weight = w.at(0).load();
        wait_for_earlier();
        y.at(lane_id()).store(weight + x.at(0).load());
    } else {
        wait_for_earlier();
        y.at(lane_id()).store(x.at(1).load());
    }
}

fn text(kernel: &Kernel, sm: u32) -> String {
    let module: Module = lower(kernel, Target { sm, arch_specific: false }, "k").unwrap();
    ptx::print::print(&ptx::verify::verify(module).unwrap())
}

/// Where `what` stands in the text.
fn place(text: &str, what: &str) -> usize {
    text.find(what).unwrap_or_else(|| panic!("no {what} in\n{text}"))
}

#[test]
fn a_kernel_that_says_nothing_waits_before_its_first_load() {
    let text = text(&silent().unwrap(), 90);
    assert!(place(&text, "griddepcontrol.launch_dependents") < place(&text, "griddepcontrol.wait"), "{text}");
    assert!(place(&text, "griddepcontrol.wait") < place(&text, "ld.global"), "{text}");
    assert!(
        !text.contains(".nc"),
        "what an earlier launch may write is not read through the read-only path\n{text}"
    );
}

#[test]
fn weights_are_loaded_before_the_wait() {
    let text = text(&early_weights().unwrap(), 90);
    let (before, after) = text.split_at(place(&text, "griddepcontrol.wait"));
    assert_eq!([before, after].map(|part| part.matches("ld.global").count()), [1, 1], "{text}");
    assert!(!before.contains(".nc"), "ptxas may move such loads behind the wait\n{text}");
}

#[test]
fn what_was_settled_before_the_step_is_loaded_before_the_wait() {
    let text = text(&early_history().unwrap(), 90);
    let load = text.find("ld.global").unwrap();
    assert!(load < place(&text, "griddepcontrol.wait"), "{text}");
}

#[test]
fn weights_after_the_wait_take_the_read_only_path() {
    let text = text(&late_weights().unwrap(), 90);
    assert!(place(&text, "griddepcontrol.wait") < place(&text, "ld.global.nc"), "{text}");
}

#[test]
fn targets_without_dependent_launches_have_no_wait() {
    for kernel in [silent().unwrap(), early_weights().unwrap(), waits_in_both_arms(16).unwrap()] {
        assert!(!text(&kernel, 89).contains("griddepcontrol"));
    }
}

#[test]
fn what_launches_write_is_not_used_before_the_wait() {
    for refused in [early_input(), early_store()] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("before wait_for_earlier()"), "{error}");
    }
}

#[test]
fn both_arms_of_a_branch_may_wait() {
    let text = text(&waits_in_both_arms(16).unwrap(), 90);
    assert_eq!(text.matches("griddepcontrol.wait").count(), 2, "{text}");
}

#[test]
fn all_threads_pass_the_wait() {
    let error = waits_in_a_branch().unwrap_err().to_string();
    assert!(error.contains("not all threads pass"), "{error}");
}
