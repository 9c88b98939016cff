//! Loads and stores of every width against a byte array: lanes that follow each other, that share one address, that lie
//! apart, that start inside a word, whole and partial warps. The emulator moves each of these patterns in its own way.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Numbers, run_grid, run_words};
use monomorph_emulator::{Checks, Config, Machine, TrapKind};

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

/// Loads `vector` words at `inner * (lane mod 8) + outer * (lane div 8) + 4 * shift` of global or shared memory, with the
/// address of one lane moved by `odd` words, and stores them to the lane's place behind the buffer's first half.
fn grid_load(space: &str, vector: u32, [inner, outer, shift]: [u32; 3], [lane, odd]: [u32; 2]) -> String {
    let list = ["", "%w_10", "{%w_10, %w_11}", "", "{%w_10, %w_11, %w_12, %w_13}"][vector as usize];
    let suffix = if vector == 1 { String::new() } else { format!("v{vector}.") };
    let base = if space == "shared" { "%w_5" } else { "%q_1" };
    let fill = "mov.u32 %w_6, 0;\n$FILL:\nmad.lo.u32 %w_7, %w_6, 128, 0;\nmad.lo.u32 %w_7, %w_0, 4, %w_7;\n\
                cvt.u64.u32 %q_2, %w_7;\nadd.u64 %q_2, %q_0, %q_2;\nld.global.u32 %w_8, [%q_2];\nmov.u32 %w_9, buf;\n\
                add.u32 %w_9, %w_9, %w_7;\nst.shared.u32 [%w_9], %w_8;\nadd.u32 %w_6, %w_6, 1;\n\
                setp.lt.u32 %p_1, %w_6, 16;\n@%p_1 bra $FILL;\nbar.sync 0;\n";
    format!(
        "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\n{fill}and.b32 %w_1, %w_0, 7;\nshr.u32 %w_2, %w_0, 3;\n\
         mul.lo.u32 %w_3, %w_1, {inner};\nmad.lo.u32 %w_3, %w_2, {outer}, %w_3;\nsetp.eq.u32 %p_0, %w_0, {lane};\n\
         @%p_0 add.u32 %w_3, %w_3, {odd};\nmov.u32 %w_5, buf;\nadd.u32 %w_5, %w_5, %w_3;\ncvt.u64.u32 %q_1, %w_3;\n\
         add.u64 %q_1, %q_0, %q_1;\nld.{space}.{suffix}u32 {list}, [{base}+{at}];\nmul.wide.u32 %q_3, %w_0, {bytes};\n\
         add.u64 %q_3, %q_0, %q_3;\nst.global.{suffix}u32 [%q_3+{HALF}], {list};\nret;\n",
        at = 4 * shift,
        bytes = 4 * vector,
        odd = 4 * odd,
    )
}

/// With few checks loads of whole warps whose addresses are a grid go a way of their own; with all checks they do not.
#[test]
fn grids_of_words_load_the_same_in_every_way() {
    let mut numbers = Numbers(11);
    let words: Vec<u32> = (0..HALF / 2).map(|_| numbers.next() as u32).collect();
    let mut loads = 0;
    for checks in [Checks::Fast, Checks::Full] {
        let machine = Machine::new(Config { threads: 1, checks });
        for (space, vector) in ["global", "shared"].iter().flat_map(|s| [1, 2, 4].map(|v| (s, v))) {
            let size = 4 * vector;
            let steps = [[1, 8], [0, 0], [1, 0], [0, 1], [0, 3], [2, 16], [3, 1], [2, 0]];
            for ([inner, outer], odd) in
                steps.iter().flat_map(|s| [[40, 0], [7, 1], [31, 1], [8, 1]].map(|o| (*s, o)))
            {
                let (grid, odd) = ([inner * size, outer * size, 2 * vector], [odd[0], odd[1] * vector]);
                let place = |lane: u32| {
                    let moved = if lane == odd[0] { odd[1] } else { 0 };
                    (lane % 8 * inner + lane / 8 * outer) * vector + 2 * vector + moved
                };
                let last = (0..32).map(place).max().unwrap() + vector;
                let body = grid_load(space, vector, grid, odd);
                let got = run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", &body, &words);
                if last as usize * 4 > HALF && *space == "shared" {
                    let trap = got.unwrap_err();
                    assert!(matches!(trap.kind, TrapKind::OutOfBounds { .. }), "{trap}");
                    continue;
                }
                let got = got.unwrap_or_else(|trap| panic!("{space} {vector} {grid:?} {odd:?}: {trap}"));
                loads += 1;
                for (lane, k) in (0..32).flat_map(|lane| (0..vector).map(move |k| (lane, k))) {
                    let found = got[HALF / 4 + (lane * vector + k) as usize];
                    let expected = words[(place(lane) + k) as usize];
                    assert_eq!(found, expected, "{space} v{vector} {grid:?} {odd:?} lane {lane} word {k}");
                }
            }
        }
    }
    assert!(loads > 300, "{loads}");
}

#[test]
fn the_last_lane_of_a_grid_may_not_leave_its_memory() {
    for checks in [Checks::Fast, Checks::Full] {
        let machine = Machine::new(Config { threads: 1, checks });
        for space in ["global", "shared"] {
            // 32 words of 16 bytes from byte 16 * 96 end where 2048 bytes do.
            let run = |inner: u32, shift: u32| {
                let body = grid_load(space, 4, [inner, 128, shift], [40, 0]);
                let words = vec![1; if space == "global" { 1024 } else { 1025 }];
                let out = run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", &body, &words);
                out.map(|_| ()).map_err(|trap| trap.kind)
            };
            let end = if space == "global" { 1024 } else { 512 };
            assert_eq!(run(16, end - 128), Ok(()), "{space}");
            assert!(matches!(run(16, end - 124), Err(TrapKind::OutOfBounds { .. })), "{space}");
            assert!(matches!(run(20, 0), Err(TrapKind::Misaligned { .. })), "{space}");
        }
    }
}
