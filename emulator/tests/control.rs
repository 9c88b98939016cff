//! Divergence, barriers, exchanges among lanes and atomics: what threads that take different paths end up with.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{LOAD_OWN, STORE_OWN, machine, run_grid, run_words};

/// Runs `body` between loading and storing the thread's word, over `0, 1, 2 … threads - 1`.
fn per_thread(threads: u32, shared: &str, body: &str) -> Vec<u32> {
    let words: Vec<u32> = (0..threads).collect();
    let body = format!("{LOAD_OWN}{body}\n{STORE_OWN}");
    run_words(threads, shared, &body, &words).unwrap_or_else(|trap| panic!("{trap}"))
}

#[test]
fn nested_branches_meet_again() {
    let body = "and.b32 %w_3, %w_0, 1;\nsetp.eq.u32 %p_0, %w_3, 1;\nmov.u32 %w_2, 100;\n@%p_0 bra $ODD;\n\
                setp.lt.u32 %p_1, %w_0, 10;\n@%p_1 bra $SMALL;\nadd.u32 %w_2, %w_2, 1;\nbra.uni $MEET;\n\
                $SMALL:\nadd.u32 %w_2, %w_2, 2;\n$MEET:\nadd.u32 %w_2, %w_2, 10;\nbra.uni $END;\n\
                $ODD:\nadd.u32 %w_2, %w_2, 1000;\n$END:\n\
                vote.sync.ballot.b32 %w_4, %p_0, 4294967295;\nadd.u32 %w_2, %w_2, %w_4;";
    for (i, got) in per_thread(32, "", body).iter().enumerate() {
        let path = match (i % 2 == 1, i < 10) {
            (true, _) => 1100,
            (false, true) => 112,
            (false, false) => 111,
        };
        assert_eq!(*got, 0xaaaa_aaaau32.wrapping_add(path), "lane {i}");
    }
}

#[test]
fn each_lane_has_its_own_trip_count() {
    let body = "mov.u32 %w_2, 0;\nmov.u32 %w_3, 0;\n$LOOP:\nsetp.ge.u32 %p_0, %w_3, %w_0;\n@%p_0 bra $DONE;\n\
                add.u32 %w_3, %w_3, 1;\nadd.u32 %w_2, %w_2, %w_3;\nbra $LOOP;\n$DONE:\n\
                bar.warp.sync 4294967295;";
    for (i, got) in per_thread(32, "", body).iter().enumerate() {
        assert_eq!(*got as usize, i * (i + 1) / 2, "lane {i}");
    }
}

#[test]
fn a_loop_that_tests_at_its_end_meets_behind_it() {
    let body = "mov.u32 %w_2, 0;\n$LOOP:\nadd.u32 %w_2, %w_2, 1;\nsetp.lt.u32 %p_0, %w_2, %w_0;\n@%p_0 bra $LOOP;\n\
                bar.sync 0;";
    for (i, got) in per_thread(64, "", body).iter().enumerate() {
        assert_eq!(*got as usize, i.max(1), "thread {i}");
    }
}

#[test]
fn early_returns_leave_the_others_together() {
    // Lanes below 5 return; inside an outer branch, lanes above 20 do; the rest pass a barrier and a full vote.
    let body = "mov.u32 %w_2, 7;\nsetp.lt.u32 %p_0, %w_0, 5;\n@%p_0 ret;\nand.b32 %w_3, %w_0, 1;\n\
                setp.eq.u32 %p_1, %w_3, 0;\n@%p_1 bra $EVEN;\nsetp.le.u32 %p_2, %w_0, 20;\n@%p_2 bra $STAY;\nret;\n\
                $STAY:\nadd.u32 %w_2, %w_2, 1;\n$EVEN:\nbar.sync 0;\nbar.warp.sync 4294967295;";
    for (i, got) in per_thread(32, "", body).iter().enumerate() {
        let want = match i {
            0..5 => i,
            _ if i % 2 == 0 => 7,
            5..=20 => 8,
            _ => i,
        };
        assert_eq!(*got as usize, want, "lane {i}");
    }
}

#[test]
fn barriers_order_shared_memory_across_warps() {
    let body = "mov.u32 %w_3, tile;\nmad.lo.u32 %w_3, %w_1, 4, %w_3;\nst.shared.u32 [%w_3], %w_0;\nbar.sync 0;\n\
                mov.u32 %w_4, tile;\nsub.u32 %w_5, 127, %w_1;\nmad.lo.u32 %w_4, %w_5, 4, %w_4;\n\
                ld.shared.u32 %w_2, [%w_4];";
    for (i, got) in per_thread(128, ".shared .align 16 .b8 tile[512];", body).iter().enumerate() {
        assert_eq!(*got as usize, 127 - i, "thread {i}");
    }
}

#[test]
fn a_block_may_end_within_a_warp() {
    let body = "setp.lt.u32 %p_0, %w_0, 100;\nvote.sync.ballot.b32 %w_2, %p_0, 4294967295;\nbar.sync 0;";
    let got = per_thread(40, "", body);
    assert_eq!((got[0], got[31], got[32], got[39]), (u32::MAX, u32::MAX, 0xff, 0xff));
}

macro_rules! shfl_test {
    ($name:ident, $operands:literal, $source:expr) => {
        #[test]
        fn $name() {
            let body = concat!(
                "mov.u32 %w_5, 0;\nshfl.sync.",
                $operands,
                ", 4294967295;\nselp.u32 %w_6, 256, 0, %p_0;\nor.b32 %w_2, %w_3, %w_6;"
            );
            let source: fn(i32) -> i32 = $source;
            for (i, got) in per_thread(32, "", body).iter().enumerate() {
                let i = i as i32;
                let from = source(i);
                let want = if from >= 0 { from | 256 } else { i };
                assert_eq!(*got as i32, want, "lane {i}");
            }
        }
    };
}

shfl_test!(shfl_bfly, "bfly.b32 %w_3|%p_0, %w_0, 5, 31", |i| i ^ 5);
shfl_test!(shfl_up, "up.b32 %w_3|%p_0, %w_0, 3, 0", |i| if i >= 3 { i - 3 } else { -1 });
shfl_test!(shfl_down, "down.b32 %w_3|%p_0, %w_0, 3, 31", |i| if i + 3 <= 31 { i + 3 } else { -1 });
shfl_test!(shfl_idx, "idx.b32 %w_3|%p_0, %w_0, 9, 31", |_| 9);
// Segments of eight lanes: mask 0b11000 in bits 8 to 12 of c.
shfl_test!(shfl_up_in_segments, "up.b32 %w_3|%p_0, %w_0, 2, 6144", |i| if i % 8 >= 2 { i - 2 } else { -1 });
shfl_test!(shfl_down_in_segments, "down.b32 %w_3|%p_0, %w_0, 2, 6175", |i| if i % 8 < 6 {
    i + 2
} else {
    -1
});
shfl_test!(shfl_idx_in_segments, "idx.b32 %w_3|%p_0, %w_0, 3, 6175", |i| i / 8 * 8 + 3);
shfl_test!(shfl_bfly_beyond_its_segment, "bfly.b32 %w_3|%p_0, %w_0, 8, 6175", |i| if i & 8 != 0 {
    i ^ 8
} else {
    -1
});
shfl_test!(shfl_down_with_a_clamp, "down.b32 %w_3|%p_0, %w_0, 1, 20", |i| if i < 20 { i + 1 } else { -1 });

#[test]
fn votes_and_reductions() {
    let body = "setp.gt.u32 %p_0, %w_0, 29;\nvote.sync.any.pred %p_1, %p_0, 4294967295;\n\
                vote.sync.all.pred %p_2, %p_0, 4294967295;\nvote.sync.uni.pred %p_3, %p_0, 4294967295;\n\
                selp.u32 %w_3, 1, 0, %p_1;\nselp.u32 %w_4, 2, 0, %p_2;\nselp.u32 %w_5, 4, 0, %p_3;\n\
                or.b32 %w_3, %w_3, %w_4;\nor.b32 %w_3, %w_3, %w_5;\nredux.sync.add.u32 %w_6, %w_0, 4294967295;\n\
                sub.u32 %w_7, %w_0, 16;\nredux.sync.min.s32 %w_8, %w_7, 4294967295;\n\
                redux.sync.max.u32 %w_9, %w_7, 4294967295;\nadd.u32 %w_8, %w_8, 16;\nnot.b32 %w_9, %w_9;\n\
                shl.b32 %w_6, %w_6, 3;\nor.b32 %w_2, %w_3, %w_6;\nor.b32 %w_2, %w_2, %w_8;\nor.b32 %w_2, %w_2, %w_9;";
    assert!(per_thread(32, "", body).iter().all(|got| *got == 1 | 496 << 3));
}

#[test]
fn halves_of_a_warp_exchange_under_masks_of_their_own() {
    let body = "setp.lt.u32 %p_0, %w_0, 16;\n@%p_0 bra $LOW;\nredux.sync.add.u32 %w_2, %w_0, 4294901760;\nbra $END;\n\
                $LOW:\nredux.sync.add.u32 %w_2, %w_0, 65535;\n$END:";
    for (i, got) in per_thread(32, "", body).iter().enumerate() {
        assert_eq!(*got, if i < 16 { 120 } else { 376 }, "lane {i}");
    }
}

#[test]
fn atomics_of_many_ctas_add_up() {
    let body = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\nmov.u32 %w_1, %ctaid.x;\n\
                mad.lo.u32 %w_2, %w_1, 64, %w_0;\nred.global.add.u32 [%q_0], 1;\n\
                atom.global.max.u32 %w_3, [%q_0+4], %w_2;\ncvt.u64.u32 %q_1, %w_2;\nshl.b64 %q_1, %q_1, 16;\n\
                red.relaxed.gpu.global.add.u64 [%q_0+8], %q_1;\natom.global.inc.u32 %w_4, [%q_0+16], 6;\n\
                red.global.min.s32 [%q_0+20], %w_2;\nret;\n";
    let out = run_grid(&machine(), [100, 64], "", body, &[0, 0, 0, 0, 0, 0x7fff_ffff]).unwrap();
    let sum: u64 = (0..6400u64).sum::<u64>() << 16;
    assert_eq!(out, [6400, 6399, sum as u32, (sum >> 32) as u32, 6400 % 7, 0]);
}

#[test]
fn compare_and_swap_sees_the_old_value() {
    let body = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\natom.global.cas.b32 %w_3, [%q_0], %w_0, 77;\n\
                setp.ne.u32 %p_0, %w_3, %w_0;\n@%p_0 ret;\nst.global.u32 [%q_0+4], %w_0;\nret;\n";
    assert_eq!(run_words(32, "", body, &[9, 0]).unwrap(), [77, 9]);
}

/// A barrier of the whole grid: every CTA counts itself in and polls.
const GRID_BARRIER: &str = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %tid.x;\nsetp.ne.u32 %p_0, %w_0, 0;\n@%p_0 bra $WAIT;\n\
    fence.acq_rel.gpu;\nred.relaxed.gpu.global.add.u32 [%q_0], 1;\n$POLL:\nld.acquire.gpu.global.u32 %w_1, [%q_0];\n\
    mov.u32 %w_2, %nctaid.x;\nsetp.lt.u32 %p_1, %w_1, %w_2;\n@%p_1 bra $POLL;\n$WAIT:\nbar.sync 0;\n\
    @%p_0 ret;\nred.global.add.u32 [%q_0+4], 1;\nret;\n";

#[test]
fn ctas_that_wait_for_each_other_take_turns() {
    let out = run_grid(&machine(), [50, 64], "", GRID_BARRIER, &[0, 0]).unwrap();
    assert_eq!(out, [50, 50]);
}

#[test]
fn a_grid_barrier_over_more_ctas_than_fit_never_completes() {
    let machine = common::impatient(monomorph_emulator::Checks::Fast);
    let trap = run_grid(&machine, [5, 64], "", GRID_BARRIER, &[0, 0]).unwrap_err();
    assert!(trap.to_string().contains("grid deadlock: of 5 CTAs 4 began and 0 ended"), "{trap}");
    assert_eq!(run_grid(&machine, [4, 64], "", GRID_BARRIER, &[0, 0]).unwrap(), [4, 4]);
}

#[test]
fn threads_know_where_they_are() {
    let body = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %ctaid.x;\nmov.u32 %w_1, %ntid.x;\nmov.u32 %w_2, %tid.x;\n\
                mad.lo.u32 %w_3, %w_0, %w_1, %w_2;\nmad.wide.u32 %q_1, %w_3, 4, %q_0;\nmov.u32 %w_4, %laneid;\n\
                mov.u32 %w_5, %lanemask_lt;\npopc.b32 %w_5, %w_5;\nmad.lo.u32 %w_4, %w_4, 100, %w_5;\n\
                mov.u32 %w_6, %nctaid.x;\nmad.lo.u32 %w_4, %w_6, 10000, %w_4;\nst.global.u32 [%q_1], %w_4;\nret;\n";
    let out = run_grid(&machine(), [3, 48], "", body, &[0; 144]).unwrap();
    for (i, got) in out.iter().enumerate() {
        let lane = i % 48 % 32;
        assert_eq!(*got as usize, 30000 + lane * 100 + lane, "thread {i}");
    }
}

#[test]
fn narrow_memory_is_extended_and_its_neighbours_stay() {
    let body = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_1, %tid.x;\ncvt.u64.u32 %q_1, %w_1;\nadd.u64 %q_1, %q_0, %q_1;\n\
                ld.global.s8 %w_2, [%q_1];\nneg.s32 %w_2, %w_2;\nst.global.u8 [%q_1+32], %w_2;\n\
                shl.b64 %q_2, %q_1, 0;\nmul.wide.u32 %q_3, %w_1, 2;\nadd.u64 %q_3, %q_0, %q_3;\n\
                cvt.u16.u32 %h_0, %w_2;\nst.global.u16 [%q_3+64], %h_0;\nret;\n";
    let mut words = vec![0u32; 32];
    for i in 0..32 {
        words[i / 4] |= u32::from((i as u8).wrapping_mul(9)) << (8 * (i % 4));
    }
    let out = run_words(32, "", body, &words).unwrap();
    for i in 0..32usize {
        let value = -i32::from((i as u8).wrapping_mul(9) as i8);
        assert_eq!((out[8 + i / 4] >> (8 * (i % 4))) as u8, value as u8, "byte {i}");
        assert_eq!((out[16 + i / 2] >> (16 * (i % 2))) as u16, value as u16, "half {i}");
    }
}
