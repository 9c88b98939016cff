//! Loads and stores of every width against a byte array: lanes that follow each other, that share one address, that lie
//! apart, that start inside a word, whole and partial warps. The emulator moves each of these patterns in its own way.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Numbers, run_words};

/// Bytes of the buffer that is loaded from; as many that are stored to follow.
const HALF: usize = 2048;

/// Loads and stores an element as `ty`, lane `i` at `start + i * stride`, in both halves of the buffer.
fn copy(ty: &str, reg: &str, threads: u32, [start, stride]: [u32; 2]) -> String {
    format!(
        "ld.param.u64 %q_0, [p0];\nmov.u32 %w_1, %tid.x;\nmad.lo.u32 %w_3, %w_1, {stride}, {start};\n\
         cvt.u64.u32 %q_2, %w_3;\nadd.u64 %q_1, %q_0, %q_2;\nsetp.ge.u32 %p_0, %w_1, {threads};\n\
         @%p_0 bra $END;\nld.global.{ty} {reg}, [%q_1];\nst.global.{ty} [%q_1+{HALF}], {reg};\n$END:\nret;\n"
    )
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn every_width_and_pattern_copies_exactly_its_bytes() {
    let types = [
        ("u8", "%w_2", 1),
        ("s8", "%w_2", 1),
        ("u16", "%w_2", 2),
        ("s16", "%w_2", 2),
        ("u32", "%w_2", 4),
        ("u64", "%q_3", 8),
        ("v2.u32", "{%w_2, %w_4}", 8),
        ("v4.u32", "{%w_2, %w_4, %w_5, %w_6}", 16),
        ("v2.u64", "{%q_3, %q_4}", 16),
        ("v2.u16", "{%w_2, %w_4}", 4),
        ("v4.u8", "{%w_2, %w_4, %w_5, %w_6}", 4),
    ];
    let mut numbers = Numbers(7);
    let words: Vec<u32> = (0..HALF / 2).map(|_| numbers.next() as u32).collect();
    let before = bytes_of(&words);
    for (ty, reg, bytes) in types {
        for threads in [32, 29, 1] {
            for (start, stride) in [(0, 1), (1, 1), (2, 1), (3, 1), (5, 0), (4, 2), (1, 3), (0, 3)] {
                let at = [start * bytes, stride * bytes];
                let after = run_words(32, "", &copy(ty, reg, threads, at), &words);
                let after = bytes_of(&after.unwrap_or_else(|trap| panic!("{ty} {at:?}: {trap}")));
                let mut expected = before.clone();
                for lane in 0..threads {
                    let from = (at[0] + lane * at[1]) as usize;
                    let moved = &before[from..from + bytes as usize];
                    expected[HALF + from..HALF + from + bytes as usize].copy_from_slice(moved);
                }
                assert!(after == expected, "{ty}, {threads} lanes, start and stride {at:?}");
            }
        }
    }
}

/// The register after a narrow load: extended by the type, on every lane.
#[test]
fn narrow_loads_extend_by_their_type() {
    let words: Vec<u32> = (0..32).map(|i| 0x8180_7f01u32.rotate_left(i) ^ i << 9).collect();
    let bytes = bytes_of(&words);
    for (ty, size, signed) in [("u8", 1, false), ("s8", 1, true), ("u16", 2, false), ("s16", 2, true)] {
        let body = format!(
            "ld.param.u64 %q_0, [p0];\nmov.u32 %w_1, %tid.x;\nmul.wide.u32 %q_2, %w_1, {size};\n\
             add.u64 %q_2, %q_0, %q_2;\nld.global.{ty} %w_2, [%q_2];\nmul.wide.u32 %q_3, %w_1, 4;\n\
             add.u64 %q_3, %q_0, %q_3;\nst.global.u32 [%q_3], %w_2;\nret;\n"
        );
        let after = run_words(32, "", &body, &words).unwrap_or_else(|trap| panic!("{ty}: {trap}"));
        for (lane, word) in after.iter().enumerate() {
            let raw = &bytes[lane * size..][..size];
            let value = raw.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte));
            let unused = 32 - 8 * size as u32;
            let expected = if signed { ((value << unused) as i32 >> unused) as u32 } else { value };
            assert_eq!(*word, expected, "{ty}, lane {lane}");
        }
    }
}
