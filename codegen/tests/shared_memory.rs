//! Shared memory beyond what a module may declare.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod dsl_common;
use dsl_common::{Buf, count, run, text, words};
use monomorph_codegen::dsl::prelude::*;
use monomorph_codegen::lower::{LowerError, lower};
use ptx::Target;

/// Each thread passes its word through two variables, at places that others do not touch.
#[kernel(grid = 2, block = 64)]
pub fn passes(n: u32, x: In<u32>, y: Out<u32>) {
    let small = shared::<u8>(20u32);
    let first = shared::<u32>(n);
    let second = shared::<u32>(n);
    let t = thread_idx_x();
    let word = x.at(cta_id() * 64 + t).load();
    if t == 0 {
        small.store(3, 5u32);
    }
    first.store(n - 1 - t, word);
    sync_threads();
    second.offset(63 - t).store(n - 64, first.at(n - 64 + t).load() + small.at(3).load());
    sync_threads();
    y.store(cta_id() * 64 + t, second.at(t + (n - 64)).load());
}

#[test]
fn large_variables_are_places_in_a_dynamic_one() {
    let x: Vec<u32> = (0..128).map(|i| i * i + 1).collect();
    let want: Vec<u32> = x.iter().map(|v| v + 5).collect();
    // 64 KiB and 222 KiB.
    for n in [8_192, 28_400] {
        assert_eq!(run(passes(n), &[words(x.clone()), Buf::Fresh(128)]), want);
        let text = text(passes(n));
        assert_eq!(count(&text, ".extern .shared .align 128 .b8 dynamic_shared[];"), 1, "{text}");
        assert_eq!(count(&text, "\t.shared "), 0, "{text}");
    }
}

#[test]
fn small_variables_stay_as_they_are() {
    let x: Vec<u32> = (0..128).collect();
    let want: Vec<u32> = x.iter().map(|v| v + 5).collect();
    // 48 KiB to the last byte: 32 and twice 24,560.
    assert_eq!(run(passes(6_140), &[words(x), Buf::Fresh(128)]), want);
    let text = text(passes(6_140));
    assert_eq!((count(&text, ".extern"), count(&text, "\t.shared ")), (0, 3), "{text}");
    assert_eq!(passes(6_140).unwrap().shared_bytes, 49_152);
}

#[test]
fn a_target_without_that_much_is_refused() {
    let kernel = passes(28_400).unwrap();
    let refused = |sm| match lower(&kernel, Target { sm, arch_specific: false }, "passes") {
        Err(LowerError::Shared { found, limit, .. }) => Some((found, limit)),
        _ => None,
    };
    assert_eq!(refused(80), Some((227_232, 163 * 1024)));
    assert_eq!(refused(90), None);
}
