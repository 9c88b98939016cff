//! Every kind of trap, each with the clean kernel next to it that must run through.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{LOAD_OWN, impatient, load, machine, module, run_grid, run_words};
use monomorph_emulator::{Checks, Config, Error, Machine, Outcome, TrapKind};

const TILE: &str = ".shared .align 16 .b8 tile[256];\n.shared .align 16 .b8 next[16];";

/// A body that traps with a message that contains the text, and one that does not trap.
macro_rules! trap_test {
    ($name:ident, $threads:literal, $bad:expr => $message:literal, clean $good:expr) => {
        #[test]
        fn $name() {
            let run = |body: &str| {
                let machine = impatient(Checks::Full);
                let words: Vec<u32> = (0..$threads).collect();
                run_grid(&machine, [1, $threads], TILE, &format!("{LOAD_OWN}{body}\nret;\n"), &words)
            };
            let trap = run($bad).unwrap_err().to_string();
            assert!(trap.contains($message), "{trap}");
            assert!(trap.starts_with("k statement ") && !trap.contains('\n'), "{trap}");
            if let Err(trap) = run($good) {
                panic!("{trap}");
            }
        }
    };
}

trap_test!(load_beyond_the_end, 32,
    "ld.global.u32 %w_2, [%q_1+4];" => "thread [31, 0, 0]: out of bounds: 4 bytes at global address 0x10000000080, offset 128 of 128 bytes",
    clean "ld.global.u32 %w_2, [%q_1];");
trap_test!(store_before_the_start, 32,
    "st.global.u32 [%q_1+-4], %w_0;" => "thread [0, 0, 0]: no allocation: 4 bytes at global address 0xfffffffffc",
    clean "st.global.u32 [%q_1], %w_0;");
trap_test!(null, 32,
    "mov.u64 %q_5, 0;\nld.global.u32 %w_2, [%q_5];" => "no allocation: 4 bytes at global address 0x0",
    clean "mov.u64 %q_5, %q_0;\nld.global.u32 %w_2, [%q_5];");
trap_test!(vectors_are_aligned_as_a_whole, 32,
    "add.u64 %q_5, %q_0, 8;\nld.global.v4.u32 {%w_2, %w_3, %w_4, %w_5}, [%q_5];" => "misaligned: global address 0x10000000008 is no multiple of 16",
    clean "add.u64 %q_5, %q_0, 16;\nld.global.v4.u32 {%w_2, %w_3, %w_4, %w_5}, [%q_5];");
trap_test!(shared_beyond_the_end, 32,
    "shl.b32 %w_2, %w_1, 4;\nst.shared.u32 [%w_2], %w_0;" => "thread [17, 0, 0]: out of bounds: 4 bytes at shared address 0x110",
    clean "shl.b32 %w_2, %w_1, 2;\nst.shared.u32 [%w_2], %w_0;");
trap_test!(shared_misaligned, 32,
    "mov.u32 %w_2, 2;\nld.shared.u32 %w_3, [%w_2];" => "misaligned: shared address 0x2 is no multiple of 4",
    clean "shl.b32 %w_2, %w_1, 2;\nst.shared.u32 [%w_2], %w_0;\nld.shared.u32 %w_3, [%w_2];");
trap_test!(shared_uninitialised, 32,
    "shl.b32 %w_2, %w_1, 2;\nst.shared.u16 [%w_2], %w_0;\nld.shared.u32 %w_3, [%w_2];" => "uninitialised: read of 4 bytes at shared address 0x0",
    clean "shl.b32 %w_2, %w_1, 2;\nst.shared.u16 [%w_2], %w_0;\nld.shared.u16 %w_3, [%w_2];");
trap_test!(barrier_in_a_branch, 64,
    "setp.lt.u32 %p_0, %w_1, 40;\n@%p_0 bra $IN;\nbra $OUT;\n$IN:\nbar.sync 0;\n$OUT:" => "barrier divergence: bar.sync 0 reached by lanes 0x000000ff of live lanes 0xffffffff",
    clean "setp.lt.u32 %p_0, %w_1, 32;\n@%p_0 bra $IN;\nbra $OUT;\n$IN:\nbar.sync 0;\n$OUT:");
trap_test!(guarded_barrier, 32,
    "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 bar.sync 0;" => "reached by lanes 0x0000ffff",
    clean "setp.lt.u32 %p_0, %w_1, 32;\n@%p_0 bar.sync 0;");
trap_test!(warps_at_different_barriers, 64,
    "setp.lt.u32 %p_0, %w_1, 32;\n@%p_0 bar.sync 1;\n@!%p_0 bar.sync 2;" => "barrier deadlock: warp 0 waits at barrier 1, warp 1 at barrier 2",
    clean "bar.sync 1;\nbar.sync 2;");
trap_test!(shuffle_without_all_members, 32,
    "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 shfl.sync.bfly.b32 %w_2, %w_0, 1, 31, 4294967295;" => "member mask 0xffffffff names live lanes that are not executing; executing: 0x0000ffff",
    clean "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 shfl.sync.bfly.b32 %w_2, %w_0, 1, 31, 65535;");
trap_test!(shuffle_from_a_lane_that_is_not_there, 32,
    "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 shfl.sync.bfly.b32 %w_2, %w_0, 16, 31, 65535;" => "shuffle reads lane 16, which is not executing",
    clean "shfl.sync.bfly.b32 %w_2, %w_0, 16, 31, 4294967295;");
trap_test!(vote_without_being_a_member, 32,
    "setp.lt.u32 %p_0, %w_1, 16;\nvote.sync.ballot.b32 %w_2, %p_0, 65535;" => "lane 16 is not in its own member mask 0x0000ffff",
    clean "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 vote.sync.ballot.b32 %w_2, %p_0, 65535;");
trap_test!(warp_barrier_without_all_members, 32,
    "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 bar.warp.sync 131071;" => "member mask 0x0001ffff",
    clean "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 bar.warp.sync 65535;");
trap_test!(a_uniform_branch_that_is_not, 32,
    "setp.lt.u32 %p_0, %w_1, 16;\n@%p_0 bra.uni $END;\n$END:" => "divergence: all 0xffffffff lanes must agree here, 0x0000ffff do",
    clean "setp.lt.u32 %p_0, %w_1, 32;\n@%p_0 bra.uni $END;\n$END:");
trap_test!(aligned_mma_by_half_a_warp, 32,
    "mov.u32 %w_2, 0;\nmov.u32 %w_3, 0;\nmov.u32 %w_4, 0;\nmov.u32 %w_5, 0;\nsetp.lt.u32 %p_0, %w_1, 16;\n@%p_0 mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%w_6, %w_7, %w_8, %w_9}, {%w_2, %w_3, %w_4, %w_5}, {%w_2, %w_3}, {%w_2, %w_3, %w_4, %w_5};" => "must agree here, 0x0000ffff do",
    clean "mov.u32 %w_2, 0;\nmma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%w_6, %w_7, %w_8, %w_9}, {%w_2, %w_2, %w_2, %w_2}, {%w_2, %w_2}, {%w_2, %w_2, %w_2, %w_2};");
trap_test!(explicit, 32,
    "setp.eq.u32 %p_0, %w_1, 9;\n@%p_0 trap;" => "thread [9, 0, 0]: the kernel executed trap",
    clean "setp.eq.u32 %p_0, %w_1, 99;\n@%p_0 trap;");
trap_test!(endless, 32,
    "$LOOP:\nadd.u32 %w_2, %w_0, 1;\nbra $LOOP;" => "step limit: the CTA executed",
    clean "mov.u32 %w_2, 0;\n$LOOP:\nadd.u32 %w_2, %w_2, 1;\nsetp.lt.u32 %p_0, %w_2, 50;\n@%p_0 bra $LOOP;");
trap_test!(endless_by_a_uniform_branch, 32,
    "setp.lt.u32 %p_0, %w_1, 32;\n$LOOP:\n@%p_0 bra.uni $LOOP;" => "step limit: the CTA executed",
    clean "setp.ge.u32 %p_0, %w_1, 32;\n$LOOP:\n@%p_0 bra.uni $LOOP;");

// Races: each rule once broken and once kept.
trap_test!(write_after_write_by_another_warp, 64,
    "st.shared.u32 [tile], %w_0;" => "race: write of shared address 0x0 conflicts with the write by thread 0",
    clean "setp.ne.u32 %p_0, %w_1, 40;\n@!%p_0 st.shared.u32 [tile], %w_0;");
trap_test!(read_after_write_without_a_barrier, 64,
    "setp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.u32 [tile], %w_0;\nld.shared.u32 %w_2, [tile];" => "race: read of shared address 0x0 conflicts with the write by thread 0",
    clean "setp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.u32 [tile], %w_0;\nbar.sync 0;\nld.shared.u32 %w_2, [tile];");
trap_test!(write_after_read_without_a_barrier, 64,
    "setp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.u32 [tile], %w_0;\nbar.sync 0;\nld.shared.u32 %w_2, [tile];\n@%p_0 st.shared.u32 [tile], %w_2;" => "race: write of shared address 0x0 conflicts with the read",
    clean "setp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.u32 [tile], %w_0;\nbar.sync 0;\nld.shared.u32 %w_2, [tile];\nbar.sync 0;\n@%p_0 st.shared.u32 [tile], %w_2;");
trap_test!(lanes_need_a_warp_barrier, 32,
    "shl.b32 %w_2, %w_1, 2;\nst.shared.u32 [%w_2], %w_0;\nxor.b32 %w_3, %w_2, 4;\nld.shared.u32 %w_4, [%w_3];" => "race: read of shared address 0x4 conflicts with the write by thread 1",
    clean "shl.b32 %w_2, %w_1, 2;\nst.shared.u32 [%w_2], %w_0;\nbar.warp.sync 4294967295;\nxor.b32 %w_3, %w_2, 4;\nld.shared.u32 %w_4, [%w_3];");
trap_test!(a_warp_barrier_is_not_enough_for_two_warps, 64,
    "shl.b32 %w_2, %w_1, 2;\nst.shared.u32 [%w_2], %w_0;\nbar.warp.sync 4294967295;\nxor.b32 %w_3, %w_2, 128;\nsetp.ge.u32 %p_0, %w_1, 32;\n@%p_0 ld.shared.u32 %w_4, [%w_3];" => "race: read of shared address 0x0 conflicts with the write by thread 0",
    clean "shl.b32 %w_2, %w_1, 2;\nst.shared.u32 [%w_2], %w_0;\nbar.warp.sync 4294967295;\nxor.b32 %w_3, %w_2, 64;\nld.shared.u32 %w_4, [%w_3];");
trap_test!(an_atomic_and_a_plain_read, 64,
    "setp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.u32 [tile], %w_0;\nbar.sync 0;\nred.shared.add.u32 [tile], 1;\nld.shared.u32 %w_2, [tile];" => "race: read of shared address 0x0 conflicts with the atomic",
    clean "setp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.u32 [tile], %w_0;\nbar.sync 0;\nred.shared.add.u32 [tile], 1;\nbar.sync 0;\nld.shared.u32 %w_2, [tile];");
trap_test!(neighbouring_bytes_are_no_race, 64,
    "shr.u32 %w_2, %w_1, 1;\nst.shared.u8 [%w_2], %w_0;" => "race: write of shared address 0x0 conflicts with the write by thread 0",
    clean "st.shared.u8 [%w_1], %w_0;");
trap_test!(many_readers_and_one_of_them_writes, 32,
    "setp.eq.u32 %p_0, %w_1, 31;\n@%p_0 st.shared.u32 [tile], %w_0;\nbar.sync 0;\nld.shared.u32 %w_2, [tile];\n@%p_0 st.shared.u32 [tile], %w_0;" => "race: write of shared address 0x0 conflicts with the read",
    clean "setp.eq.u32 %p_0, %w_1, 31;\n@%p_0 st.shared.u32 [tile], %w_0;\nbar.sync 0;\n@%p_0 ld.shared.u32 %w_2, [tile];\n@%p_0 st.shared.u32 [tile], %w_0;");

#[test]
fn leaving_one_shared_variable_for_the_next_is_caught_with_all_checks() {
    let body = "setp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.u32 [tile], %w_0;\nmov.u32 %w_2, tile;\nadd.u32 %w_2, %w_2, 248;\n\
                @%p_0 st.shared.v4.u32 [%w_2+0], {%w_0, %w_0, %w_0, %w_0};\nret;\n";
    // 16 bytes at 248 are misaligned; at 240 they end where the variable ends.
    let run = |add: &str| run_words(32, TILE, &format!("{LOAD_OWN}{}", body.replace("248", add)), &[0; 32]);
    assert!(run("240").is_ok());
    assert!(matches!(run("248").unwrap_err().kind, TrapKind::Misaligned { .. }));
    let straddle = ".shared .align 4 .b8 a[12];\n.shared .align 4 .b8 b[20];";
    let body = format!(
        "{LOAD_OWN}mov.u32 %w_2, a;\nsetp.eq.u32 %p_0, %w_1, 0;\n@%p_0 st.shared.v2.u32 [%w_2+8], {{%w_0, %w_0}};\nret;\n"
    );
    let trap = run_words(32, straddle, &body, &[0; 32]).unwrap_err();
    assert!(trap.to_string().contains("shared address 0x8, offset 8 of 12 bytes"), "{trap}");
}

#[test]
fn unwritten_global_memory_is_seen_with_full_checks_only() {
    let text = module(1, 32, "", "ld.param.u64 %q_0, [p0];\nld.global.u16 %w_0, [%q_0+2];\nret;");
    for (checks, traps) in [(Checks::Full, true), (Checks::Fast, false)] {
        let machine = Machine::new(Config { threads: 1, checks });
        let program = load(&machine, &text);
        let buffer = machine.alloc(4).unwrap();
        machine.write(buffer, &[1, 2, 3]).unwrap();
        let outcome = machine.launch(&program, "k", [1, 1, 1], [32, 1, 1], &[buffer]).unwrap();
        match outcome {
            Outcome::Trap(trap) => {
                assert!(traps, "{trap}");
                assert!(
                    trap.to_string()
                        .contains("uninitialised: read of 2 bytes at global address 0x10000000002"),
                    "{trap}"
                );
            }
            Outcome::Done(stats) => assert!(!traps && stats.ctas == 1),
        }
        machine.write(buffer + 3, &[4]).unwrap();
        let outcome = machine.launch(&program, "k", [1, 1, 1], [32, 1, 1], &[buffer]).unwrap();
        assert!(matches!(outcome, Outcome::Done(_)));
    }
}

#[test]
fn freed_memory_and_neighbours_are_out_of_reach() {
    let machine = machine();
    let program = load(
        &machine,
        &module(1, 32, "", "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, 5;\nst.global.u32 [%q_0], %w_0;\nret;"),
    );
    let (first, second) = (machine.alloc(4).unwrap(), machine.alloc(4).unwrap());
    let launch = |addr| machine.launch(&program, "k", [1, 1, 1], [32, 1, 1], &[addr]).unwrap();
    assert!(matches!(launch(second), Outcome::Done(_)));
    assert_eq!(machine.allocated_bytes(), 8);
    machine.free(second).unwrap();
    assert_eq!(machine.allocated_bytes(), 4);
    assert_eq!(machine.free(second), Err(Error::BadFree { addr: second }));
    assert_eq!(machine.free(first + 1), Err(Error::BadFree { addr: first + 1 }));
    assert!(matches!(launch(second), Outcome::Trap(t) if matches!(t.kind, TrapKind::NoAllocation { .. })));
    assert!(matches!(launch(first + 4), Outcome::Trap(t) if matches!(t.kind, TrapKind::OutOfBounds { .. })));
    assert_ne!(machine.alloc(4).unwrap(), second, "addresses are not used twice");
}

#[test]
fn launches_that_no_device_accepts_are_errors() {
    let machine = machine();
    let program = load(&machine, &module(1, 32, "", "ret;"));
    let launch = |grid, block, args: &[u64]| machine.launch(&program, "k", grid, block, args);
    let entry = || "k".to_owned();
    assert_eq!(
        launch([1, 1, 1], [32, 1, 1], &[]),
        Err(Error::ArgumentCount { entry: entry(), expected: 1, got: 0 })
    );
    let (expected, got) = ([32, 1, 1], [64, 1, 1]);
    assert_eq!(launch([1, 1, 1], got, &[0]), Err(Error::BlockShape { entry: entry(), expected, got }));
    assert!(matches!(launch([1, 0, 1], [32, 1, 1], &[0]), Err(Error::LaunchShape { .. })));
    let unknown = machine.launch(&program, "other", [1, 1, 1], [32, 1, 1], &[0]);
    assert_eq!(unknown, Err(Error::UnknownEntry { entry: "other".to_owned(), entries: 1 }));
}

#[test]
fn host_copies_of_any_alignment_are_exact_and_bounded() {
    let machine = machine();
    let buffer = machine.alloc(37).unwrap();
    let mut image = [0xaau8; 37];
    machine.fill(buffer, 37, 0xaa).unwrap();
    for (offset, len) in [(0, 37), (1, 2), (3, 9), (5, 4), (7, 30), (36, 1), (37, 0), (2, 0)] {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset) as u8).collect();
        machine.write(buffer + offset as u64, &data).unwrap();
        image[offset..offset + len].copy_from_slice(&data);
        let mut all = [0; 37];
        machine.read(buffer, &mut all).unwrap();
        assert_eq!(all, image, "after {len} bytes at {offset}");
        let mut part = vec![0; len];
        machine.read(buffer + offset as u64, &mut part).unwrap();
        assert_eq!(part, data);
    }
    machine.fill(buffer + 3, 11, 0x5c).unwrap();
    image[3..14].fill(0x5c);
    let mut all = [0; 37];
    machine.read(buffer, &mut all).unwrap();
    assert_eq!(all, image);
    assert_eq!(
        machine.write(buffer + 36, &[0; 2]),
        Err(Error::BadRange { addr: buffer + 36, bytes: 2, limit: 37 })
    );
    assert!(machine.read(0, &mut [0]).is_err());
    assert!(machine.alloc(1 << 41).is_err());
}
