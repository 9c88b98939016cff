//! Several loads from one address register: whatever happens to the register, to the lanes or to the offsets in between, each
//! load reads what its own addresses name, or traps as it would alone.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Numbers, run_grid};
use monomorph_emulator::{Checks, Config, Machine, TrapKind};

const WORDS: usize = 1024;
/// Bytes of the buffer's first half; what is loaded is stored to the second.
const HALF: u32 = 2048;

/// Loads `vector` words twice, from `16 · lane` and from `offset` behind that, with `between` in between: it finds the address
/// in `%q_1` and `%w_5`, the lane in `%w_0`. Lanes from `lanes` on leave first.
fn twice(space: &str, [vector, offset, lanes]: [i32; 3], between: &str) -> String {
    let list = |at: i32| {
        let regs: Vec<String> = (at..at + vector).map(|reg| format!("%w_{reg}")).collect();
        if vector == 1 { regs.concat() } else { format!("{{{}}}", regs.join(", ")) }
    };
    let suffix = if vector == 1 { String::new() } else { format!("v{vector}.") };
    let base = if space == "shared" { "%w_5" } else { "%q_1" };
    let (one, other) = (list(10), list(14));
    let fill = "mov.u32 %w_6, 0;\n$FILL:\nmad.lo.u32 %w_7, %w_6, 128, 0;\nmad.lo.u32 %w_7, %w_0, 4, %w_7;\n\
                cvt.u64.u32 %q_2, %w_7;\nadd.u64 %q_2, %q_0, %q_2;\nld.global.u32 %w_8, [%q_2];\n\
                st.shared.u32 [%w_7], %w_8;\nadd.u32 %w_6, %w_6, 1;\nsetp.lt.u32 %p_1, %w_6, 16;\n@%p_1 bra $FILL;\n\
                bar.sync 0;\n";
    let store: String = (0..vector)
        .map(|k| {
            format!(
                "st.global.u32 [%q_3+{}], %w_{};\nst.global.u32 [%q_3+{}], %w_{};\n",
                HALF + 4 * k as u32,
                10 + k,
                HALF + 1024 + 4 * k as u32,
                14 + k
            )
        })
        .collect();
    format!(
        "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\nmul.wide.u32 %q_3, %w_0, 16;\nadd.u64 %q_3, %q_0, %q_3;\n{fill}\
         shl.b32 %w_5, %w_0, 4;\nadd.u64 %q_1, %q_3, 0;\nsetp.ge.u32 %p_0, %w_0, {lanes};\n@%p_0 bra $END;\n\
         ld.{space}.{suffix}u32 {one}, [{base}];\n{between}ld.{space}.{suffix}u32 {other}, [{base}+{offset}];\n{store}$END:\nret;\n"
    )
}

/// What happens in between, and where a lane's second load is then (without its offset).
type Between = (&'static str, fn(u32) -> u32);

const BETWEENS: &[Between] = &[
    ("", |lane| 16 * lane),
    ("add.u64 %q_1, %q_1, 32;\nadd.u32 %w_5, %w_5, 32;\n", |lane| 16 * lane + 32),
    ("setp.eq.u32 %p_2, %w_0, 9;\n@%p_2 add.u64 %q_1, %q_1, 48;\n@%p_2 add.u32 %w_5, %w_5, 48;\n", |lane| {
        16 * lane + if lane == 9 { 48 } else { 0 }
    }),
    (
        "setp.lt.u32 %p_2, %w_0, 5;\n@%p_2 bra $SKIP;\nadd.u64 %q_1, %q_1, 64;\nadd.u32 %w_5, %w_5, 64;\n$SKIP:\n",
        |lane| 16 * lane + if lane < 5 { 0 } else { 64 },
    ),
    (
        "mov.u32 %w_9, 0;\n$AGAIN:\nadd.u64 %q_1, %q_1, 16;\nadd.u32 %w_5, %w_5, 16;\nadd.u32 %w_9, %w_9, 1;\n\
         setp.lt.u32 %p_2, %w_9, %w_0;\n@%p_2 bra $AGAIN;\n",
        |lane| 16 * lane + 16 * lane.max(1),
    ),
    (
        "mul.lo.u32 %w_5, %w_0, 12;\nand.b32 %w_5, %w_5, 496;\ncvt.u64.u32 %q_1, %w_5;\nadd.u64 %q_1, %q_0, %q_1;\n",
        |lane| (12 * lane) & 496,
    ),
];

#[test]
fn a_second_load_goes_by_its_own_addresses() {
    let mut numbers = Numbers(5);
    let words: Vec<u32> = (0..WORDS).map(|_| numbers.next() as u32).collect();
    for checks in [Checks::Fast, Checks::Full] {
        let machine = Machine::new(Config { threads: 1, checks });
        for (space, vector) in [("global", 1), ("global", 4), ("shared", 1), ("shared", 2), ("shared", 4)] {
            for ((between, place), lanes) in BETWEENS.iter().flat_map(|b| [32, 31, 8].map(|lanes| (b, lanes)))
            {
                for offset in [0, 16, 112] {
                    let body = twice(space, [vector, offset, lanes], between);
                    let got = run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", &body, &words);
                    let got = got.unwrap_or_else(|trap| panic!("{space} v{vector} {between}: {trap}"));
                    for (lane, k) in
                        (0..lanes as u32).flat_map(|lane| (0..vector as u32).map(move |k| (lane, k)))
                    {
                        let at = |byte: u32| words[(byte / 4 + k) as usize];
                        let found = |byte: u32| got[((byte + 16 * lane) / 4 + k) as usize];
                        let told = format!(
                            "{space} v{vector} lane {lane} of {lanes}, offset {offset}, after {between}"
                        );
                        assert_eq!(found(HALF), at(16 * lane), "first, {told}");
                        assert_eq!(found(HALF + 1024), at(place(lane) + offset as u32), "second, {told}");
                    }
                }
            }
        }
    }
}

/// The second load stands right behind the first, but is come to from below, where the register changes.
#[test]
fn a_load_that_is_jumped_to_looks_itself() {
    let words: Vec<u32> = (0..WORDS as u32).map(|i| i * 3).collect();
    let body = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\nmad.wide.u32 %q_1, %w_0, 4, %q_0;\nadd.u64 %q_3, %q_1, 0;\n\
                ld.global.u32 %w_1, [%q_1];\nbra $CHANGE;\n$AGAIN:\nld.global.u32 %w_2, [%q_1];\n\
                st.global.u32 [%q_3+2048], %w_2;\nret;\n$CHANGE:\nadd.u64 %q_1, %q_1, 64;\nbra $AGAIN;\n";
    for checks in [Checks::Fast, Checks::Full] {
        let machine = Machine::new(Config { threads: 1, checks });
        let got = run_grid(&machine, [1, 32], "", body, &words).unwrap();
        for lane in 0..32 {
            assert_eq!(got[512 + lane], words[lane + 16], "lane {lane}");
        }
    }
}

/// A load that overwrites the register it started from.
#[test]
fn a_load_may_write_the_address_that_the_next_one_starts_from() {
    let words: Vec<u32> = (0..WORDS as u32).map(|i| if i < 32 { (i * 7 % 32) * 4 } else { i }).collect();
    let body = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\nmul.wide.u32 %q_1, %w_0, 4;\nadd.u64 %q_1, %q_0, %q_1;\n\
                ld.global.u32 %w_1, [%q_1];\nshl.b32 %w_2, %w_0, 2;\nst.shared.u32 [%w_2], %w_1;\nbar.sync 0;\n\
                ld.shared.u32 %w_2, [%w_2];\nld.shared.u32 %w_2, [%w_2];\nst.global.u32 [%q_1+2048], %w_2;\nret;\n";
    for checks in [Checks::Fast, Checks::Full] {
        let machine = Machine::new(Config { threads: 1, checks });
        let got = run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", body, &words).unwrap();
        for lane in 0..32 {
            assert_eq!(got[512 + lane], words[words[lane] as usize / 4], "lane {lane}");
        }
    }
}

#[test]
fn a_second_load_traps_as_it_would_alone() {
    for checks in [Checks::Fast, Checks::Full] {
        let machine = Machine::new(Config { threads: 1, checks });
        for (space, end) in [("global", 4096), ("shared", 2048)] {
            let run = |offset: i32, between: &str| {
                let body = twice(space, [4, offset, 32], between);
                let out =
                    run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", &body, &vec![3; WORDS]);
                out.map(|_| ()).map_err(|trap| (trap.thread[0], trap.kind))
            };
            assert_eq!(run(end - 512, ""), Ok(()), "{space}");
            let (lane, kind) = run(end - 496, "").unwrap_err();
            assert!(
                matches!(kind, TrapKind::OutOfBounds { .. }) && lane == 31,
                "{space}: lane {lane}, {kind:?}"
            );
            let out = "setp.eq.u32 %p_2, %w_0, 9;\n@%p_2 add.u64 %q_1, %q_1, 8192;\n@%p_2 add.u32 %w_5, %w_5, 8192;\n";
            let (lane, kind) = run(0, out).unwrap_err();
            assert!(
                matches!(kind, TrapKind::OutOfBounds { .. }) && lane == 9,
                "{space}: lane {lane}, {kind:?}"
            );
            let (lane, kind) = run(0, &out.replace("8192", "4")).unwrap_err();
            assert!(
                matches!(kind, TrapKind::Misaligned { .. }) && lane == 9,
                "{space}: lane {lane}, {kind:?}"
            );
        }
        let body = twice("global", [4, 0, 32], "add.u64 %q_1, %q_1, -4096;\n");
        let trap = run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", &body, &vec![3; WORDS]);
        assert!(matches!(
            trap.unwrap_err().kind,
            TrapKind::NoAllocation { .. } | TrapKind::OutOfBounds { .. }
        ));
    }
}

/// What was aligned for a word is not for four.
#[test]
fn a_second_load_of_more_bytes_must_be_aligned_for_them() {
    for (space, base) in [("global", "%q_1"), ("shared", "%w_5")] {
        let body = |at: u32| {
            format!(
                "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\nmad.wide.u32 %q_1, %w_0, 16, %q_0;\nadd.u64 %q_1, %q_1, {at};\n\
                 mad.lo.u32 %w_5, %w_0, 16, {at};\nld.{space}.u32 %w_10, [{base}];\n\
                 ld.{space}.v4.u32 {{%w_11, %w_12, %w_13, %w_14}}, [{base}];\nret;\n"
            )
        };
        let machine = Machine::new(Config { threads: 1, checks: Checks::Fast });
        let run = |at: u32| {
            let out = run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", &body(at), &[3; WORDS]);
            out.map(|_| ()).map_err(|trap| (trap.thread[0], trap.kind))
        };
        assert_eq!(run(16), Ok(()), "{space}");
        let (lane, kind) = run(4).unwrap_err();
        assert!(matches!(kind, TrapKind::Misaligned { .. }) && lane == 0, "{space}: lane {lane}, {kind:?}");
    }
}

/// With all checks, bytes that the second load is the first to read must have been written.
#[test]
fn a_second_load_of_unwritten_bytes_is_told() {
    let body = "mov.u32 %w_0, %tid.x;\nshl.b32 %w_1, %w_0, 2;\nst.shared.u32 [%w_1], %w_0;\nbar.sync 0;\n\
                ld.shared.u32 %w_2, [%w_1];\nld.shared.u32 %w_3, [%w_1+4];\nret;\n";
    let run = |checks| {
        let machine = Machine::new(Config { threads: 1, checks });
        run_grid(&machine, [1, 32], ".shared .align 16 .b8 buf[2048];", body, &[0]).map_err(|trap| trap.kind)
    };
    assert_eq!(run(Checks::Fast), Ok(vec![0]));
    assert!(matches!(run(Checks::Full), Err(TrapKind::Uninitialised { .. })));
}
