//! Files built to cost time or memory: as many entries, names and strings as the caps allow, in the worst order.

use std::time::{Duration, Instant};

use monomorph_runtime::gguf::{Gguf, GgufError as E};

use crate::bytes::*;
use crate::cases;

/// What the reader may hold: 16 MiB and one and a half times the metadata.
fn allowed_bytes(metadata: u64) -> usize {
    (16 << 20) + metadata as usize * 3 / 2
}

fn open_in(limit: Duration, file: Vec<u8>) -> Gguf {
    let started = Instant::now();
    let g = Gguf::from_bytes(file).unwrap();
    let took = started.elapsed();
    assert!(took <= limit, "{took:?} for {g:?}, the limit is {limit:?}");
    assert!(g.heap_bytes() <= allowed_bytes(g.data_start()), "{} bytes for {g:?}", g.heap_bytes());
    g
}

/// The limits are of an optimised build on a quiet machine; tests run beside others and without optimisation.
fn limit(quiet_ms: u64) -> Duration {
    Duration::from_millis(quiet_ms * 10)
}

/// A key of eight characters in an order that is far from sorted.
fn scattered(idx: u64) -> String {
    format!("{:08x}", (idx as u32).wrapping_mul(0x9e37_79b1))
}

#[test]
fn two_hundred_thousand_keys() {
    let n = 200_000;
    let mut file = File::new();
    file.entries = (0..n).map(|idx| entry(scattered(idx), U8, [idx as u8])).collect();
    let g = open_in(limit(200), file.build());
    for idx in [0, 1, n / 2, n - 1] {
        assert_eq!(g.get_u32(&scattered(idx)).unwrap(), u32::from(idx as u8));
    }
    // The last key repeats one in the middle: found in the same time.
    file.entries.push(entry(scattered(n / 3), U8, [0]));
    let started = Instant::now();
    cases! { "duplicate among 200,000": file.build() => E::DuplicateKey { .. }, }
    assert!(started.elapsed() < limit(400));
}

#[test]
fn keys_that_differ_only_at_the_end() {
    let mut file = File::new();
    file.entries = (0..400).map(|idx| entry(format!("{}{idx:03}", "k".repeat(60_000)), U8, [1])).collect();
    let g = open_in(limit(200), file.build());
    assert_eq!(g.get_u32(&format!("{}399", "k".repeat(60_000))).unwrap(), 1);
}

#[test]
fn as_many_tensors_as_are_accepted() {
    let mut file = File::new().data(32 * 65_536);
    file.tensors = (0..65_536).map(|idx| tensor(scattered(idx), &[1], T_I8, 32 * (65_535 - idx))).collect();
    let g = open_in(limit(200), file.build());
    assert_eq!(g.find_tensor(&scattered(77)).unwrap().idx(), 77);
}

#[test]
fn four_million_empty_strings() {
    let n = 4_000_000;
    let g = open_in(limit(500), with_entry(entry("k", ARRAY, array(STR, n, vec![0; 8 * n as usize]))));
    assert_eq!(g.get_arr_str("k").unwrap().iter().filter(|s| s.is_empty()).count(), n as usize);
}

#[test]
fn a_million_empty_arrays_in_arrays() {
    let n = 1_000_000;
    let inner = array(U8, 0, []).repeat(n);
    let outer = array(ARRAY, 1, array(ARRAY, 1, array(ARRAY, n as u64, inner)));
    let g = open_in(limit(500), with_entry(entry("k", ARRAY, outer)));
    assert_eq!(g.entries().count(), 2);
}
