//! Each pass on a body small enough to read, by the IR's dump before and after.

use super::*;
use crate::dsl::prelude::*;
use crate::ir::{check, dump};

/// The body of a kernel after some passes.
fn after(kernel: std::result::Result<Kernel, BuildError>, passes: &[fn(&mut Function)]) -> String {
    let mut function = kernel.unwrap().ir;
    for pass in passes {
        pass(&mut function);
        check(&function).unwrap();
    }
    dump(&function)
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[kernel(grid = 1, block = 32)]
fn constants(y: Out<u32>) {
    let t = thread_idx_x();
    let seven = dev(3u32) + 4;
    let n = (t + 0) * 1 + (seven - 7);
    y.store(t, if seven == 7 { n ^ 9 } else { n ^ 8 });
}

#[test]
fn constants_fold_and_their_branches_are_decided() {
    let text = after(constants(), &[fold_constants::run, drop_dead::run]);
    assert_eq!((count(&text, "add"), count(&text, "mul"), count(&text, "if ")), (0, 0, 0), "{text}");
    assert_eq!((count(&text, "xor.b32"), count(&text, ", 9\n")), (1, 1), "{text}");
}

#[kernel(grid = 1, block = 32)]
fn common(x: In<u32>, y: Out<u32>) {
    let t = thread_idx_x();
    if t * 3 > 9 {
        y.store(t, t * 3 + x.at(0).load() + x.at(0).load());
    } else {
        y.store(t * 5, t * 5);
    }
    y.store(t, t * 5);
}

#[test]
fn equal_expressions_are_shared_where_one_dominates_and_loads_are_not() {
    let text = after(common(), &[share_common::run]);
    // t * 3 once; t * 5 once in the branch, which is over when it is needed again.
    assert_eq!((count(&text, "mul.lo"), count(&text, "ld.global")), (3, 2), "{text}");
}

#[kernel(grid = 1, block = 32)]
fn dead(n: u32, x: In<u32>, y: Out<u32>) {
    let (mut used, mut unused) = (0u32, 0u32);
    for i in 0..n {
        used += i;
        unused += x.at(i).load();
    }
    let t = thread_idx_x();
    if t == 3 {
        unused += 1;
    }
    y.store(t, used);
}

#[test]
fn cycles_of_unused_loop_variables_are_dropped_with_their_loads() {
    let text = after(dead(9), &[drop_dead::run]);
    assert_eq!((count(&text, "ld.global"), count(&text, "if "), count(&text, " then ")), (0, 0, 2), "{text}");
}

#[kernel(grid = 1, block = 32)]
fn invariant(n: u32, x: In<u32>, y: Out<u32>) {
    let t = thread_idx_x();
    let mut sum = 0u32;
    for i in 0..n {
        for j in 0..n {
            sum += x.at(t * 7 + i).load() ^ j;
        }
    }
    y.store(t, sum);
}

#[test]
fn invariants_leave_as_many_loops_as_they_can() {
    let text = after(invariant(9), &[hoist_invariants::run]);
    let indent = |what: &str| {
        let line = text.lines().find(|l| l.contains(what)).unwrap();
        line.len() - line.trim_start().len()
    };
    // t * 7 does not depend on i, the address does.
    assert_eq!((indent("mul.lo"), indent("mad.wide"), indent("ld.global")), (0, 2, 4), "{text}");
}

#[kernel(grid = 1, block = 32)]
fn divisions(x: In<u32>, y: Out<u32>) {
    let t = thread_idx_x();
    let v = x.at(t).load();
    let mut n = v;
    if v > 3 {
        n = v / t;
    }
    y.store(t, n);
}

#[test]
fn a_division_stays_behind_its_condition() {
    let text = after(divisions(), &[select_small_ifs::run]);
    assert_eq!((count(&text, "if "), count(&text, "selp")), (1, 0), "{text}");
}

#[kernel(grid = 1, block = 32)]
fn logic(x: In<u32>, y: Out<u32>) {
    let t = thread_idx_x();
    let (a, b) = (x.at(t).load(), x.at(t + 32).load());
    y.store(t, (a & b) ^ t);
    y.store(t + 32, (a & 15) | 0x6400);
}

#[test]
fn two_logic_instructions_are_one_lop3_unless_both_have_constants() {
    let text = after(logic(), &[fuse_logic::run, drop_dead::run]);
    // (F0 & CC) ^ AA = 6A
    assert_eq!(
        (count(&text, "lop3.b32"), count(&text, ", 106\n"), count(&text, "or.b32")),
        (1, 1, 1),
        "{text}"
    );
}
