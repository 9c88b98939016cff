//! Asynchronous copies and mbarriers: what they move, what they order, and every way to use them wrongly, each with the
//! clean kernel next to it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{impatient, load, machine, module, run_grid};
use monomorph_emulator::{Checks, Error, LaunchShape, Outcome, Trap};

const RING: &str = ".shared .align 16 .b8 ring[256];\n.shared .align 8 .b8 bars[32];";

/// Thread index in `%w_1`, address of the buffer in `%q_0`, of the thread's word in `%q_1`; whether the thread is the
/// first in `%p_0`, and whether it is of warp 0 in `%p_1`; address of the ring and of the thread's word in it in `%w_2` and `%w_3`.
const START: &str = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_1, %tid.x;\nmul.wide.u32 %q_2, %w_1, 4;\n\
     add.u64 %q_1, %q_0, %q_2;\nsetp.eq.u32 %p_0, %w_1, 0;\nsetp.lt.u32 %p_1, %w_1, 32;\nmov.u32 %w_2, ring;\n\
     mad.lo.u32 %w_3, %w_1, 4, %w_2;\n";
/// The first thread makes an mbarrier for one arrival.
const INIT: &str =
    "@%p_0 mbarrier.init.shared.b64 [bars], 1;\n@%p_0 fence.mbarrier_init.release.cluster;\nbar.sync 0;\n";
/// The first thread copies 128 bytes from the start of the buffer to that of the ring.
const COPY: &str = "@%p_0 mbarrier.arrive.expect_tx.shared.b64 %q_3, [bars], 128;\n\
     @%p_0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [ring], [%q_0], 128, [bars];\n";
const WAIT: &str = "$WAIT:\nmbarrier.try_wait.parity.shared.b64 %p_2, [bars], 0;\n@!%p_2 bra $WAIT;\n";
/// The thread's word of the ring, plus 1000, to the buffer.
const READ: &str = "ld.shared.u32 %w_4, [%w_3];\nadd.u32 %w_4, %w_4, 1000;\nst.global.u32 [%q_1], %w_4;\n";

fn run(threads: u32, parts: &[&str]) -> Result<Vec<u32>, Box<Trap>> {
    let words: Vec<u32> = (0..64).map(|i| 7 * i).collect();
    let body = format!("{START}{}ret;\n", parts.concat());
    run_grid(&impatient(Checks::Full), [1, threads], RING, &body, &words)
}

fn trapped(threads: u32, parts: &[&str]) -> String {
    run(threads, parts).unwrap_err().to_string()
}

#[test]
fn a_copy_is_read_after_its_phase() {
    let got = run(32, &[INIT, COPY, WAIT, READ]).unwrap_or_else(|trap| panic!("{trap}"));
    let want: Vec<u32> = (0..64).map(|i| 7 * i + if i < 32 { 1000 } else { 0 }).collect();
    assert_eq!(got, want);
}

#[test]
fn a_copy_is_not_read_before() {
    let trap = trapped(32, &[INIT, COPY, READ]);
    let want = "race: read of shared address 0x0 conflicts with the asynchronous copy by thread 0";
    assert!(trap.contains(want), "{trap}");
    // What the copy does not touch may be read.
    let other = "st.shared.u32 [%w_3+128], %w_1;\nld.shared.u32 %w_4, [%w_3+128];\n";
    run(32, &[INIT, COPY, other]).unwrap_or_else(|trap| panic!("{trap}"));
}

#[test]
fn a_wait_of_one_lane_counts_for_others_after_a_barrier() {
    let lane = "@!%p_0 bra $SKIP;\n$WAIT:\nmbarrier.try_wait.parity.shared.b64 %p_2, [bars], 0;\n@!%p_2 bra $WAIT;\n$SKIP:\n";
    let warp = lane.replace("%p_0", "%p_1");
    let trap = trapped(32, &[INIT, COPY, lane, READ]);
    assert!(trap.contains("thread [1, 0, 0]: race: read") && trap.contains("asynchronous copy"), "{trap}");
    run(32, &[INIT, COPY, lane, "bar.warp.sync 4294967295;\n", READ]).unwrap_or_else(|trap| panic!("{trap}"));
    let second = "ld.shared.u32 %w_4, [%w_2];\n";
    let trap = trapped(64, &[INIT, COPY, &warp, second]);
    assert!(trap.contains("thread [32, 0, 0]: race: read") && trap.contains("asynchronous copy"), "{trap}");
    run(64, &[INIT, COPY, &warp, "bar.sync 0;\n", second]).unwrap_or_else(|trap| panic!("{trap}"));
}

#[test]
fn a_stage_is_not_overwritten_while_it_is_read() {
    let again = COPY.replace("%q_0]", "%q_0+128]");
    let wait = WAIT.replace("WAIT", "AGAIN").replace("[bars], 0", "[bars], 1");
    let trap = trapped(32, &[INIT, COPY, WAIT, READ, &again]);
    let want = "race: asynchronous copy of shared address 0x4 conflicts with the read by thread 1";
    assert!(trap.contains("thread [0, 0, 0]: race") && trap.contains(want), "{trap}");
    let sync = "bar.warp.sync 4294967295;\n";
    let got = run(32, &[INIT, COPY, WAIT, READ, sync, &again, &wait, READ]);
    let got = got.unwrap_or_else(|trap| panic!("{trap}"));
    assert_eq!(got[..3], [7 * 32 + 1000, 7 * 33 + 1000, 7 * 34 + 1000]);
    // A copy over one that nobody has waited for.
    let trap = trapped(
        32,
        &[INIT, COPY, &again.replace("@%p_0 mbarrier.arrive.expect_tx.shared.b64 %q_3, [bars], 128;\n", "")],
    );
    assert!(
        trap.contains(
            "race: asynchronous copy of shared address 0x0 conflicts with the asynchronous copy by thread 0"
        ),
        "{trap}"
    );
}

/// Waits until the stage is empty: in the first round it is.
const EMPTY: &str = "xor.b32 %w_7, %w_6, 1;\n$EMPTY:\n\
     mbarrier.try_wait.parity.shared.b64 %p_2, [bars+8], %w_7;\n@!%p_2 bra $EMPTY;\n";

/// Warp 0 copies four times through one stage, warp 1 reads; `bars` is full, `bars+8` empty.
fn pair(empty: &str) -> Result<Vec<u32>, Box<Trap>> {
    let init = "@%p_0 mbarrier.init.shared.b64 [bars], 1;\n@%p_0 mbarrier.init.shared.b64 [bars+8], 32;\n\
         @%p_0 fence.proxy.async.shared::cta;\nbar.sync 0;\nmov.u32 %w_5, 0;\nmov.u32 %w_6, 0;\nmov.u64 %q_4, %q_0;\n\
         mov.u32 %w_9, 0;\n@!%p_1 bra $CONSUMER;\n";
    let producer = format!(
        "$PRODUCE:\n{empty}@%p_0 mbarrier.arrive.expect_tx.shared.b64 %q_3, [bars], 64;\n\
         @%p_0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [ring], [%q_4], 64, [bars];\n\
         add.u64 %q_4, %q_4, 64;\nxor.b32 %w_6, %w_6, 1;\nadd.u32 %w_5, %w_5, 1;\nsetp.lt.u32 %p_3, %w_5, 4;\n\
         @%p_3 bra $PRODUCE;\nret;\n"
    );
    let consumer = "$CONSUMER:\n$FULL:\nmbarrier.try_wait.parity.shared.b64 %p_2, [bars], %w_6;\n@!%p_2 bra $FULL;\n\
         ld.shared.u32 %w_8, [ring+4];\nadd.u32 %w_9, %w_9, %w_8;\nmbarrier.arrive.shared.b64 %q_3, [bars+8];\n\
         xor.b32 %w_6, %w_6, 1;\nadd.u32 %w_5, %w_5, 1;\nsetp.lt.u32 %p_3, %w_5, 4;\n@%p_3 bra $CONSUMER;\n\
         st.global.u32 [%q_1], %w_9;\n";
    run(64, &[init, &producer, consumer])
}

#[test]
fn arrivals_order_what_came_before_them() {
    let got = pair(EMPTY).unwrap_or_else(|trap| panic!("{trap}"));
    assert_eq!(got[32..], [7 * (1 + 17 + 33 + 49); 32]);
    let trap = pair("").unwrap_err().to_string();
    assert!(trap.contains("asynchronous copy of shared address 0x0 conflicts"), "{trap}");
}

#[test]
fn a_fresh_mbarrier_has_the_phase_before_it_behind_it() {
    let wait = WAIT.replace("[bars], 0", "[bars], 1");
    run(32, &[INIT, &wait]).unwrap_or_else(|trap| panic!("{trap}"));
}

#[test]
fn a_wait_without_end_is_a_deadlock() {
    let short = COPY.replace("[%q_0], 128", "[%q_0], 112");
    let want = "mbarrier deadlock: warp 0 waits at shared address 0x100 for a phase that nobody completes (0 phases are over)";
    for parts in [[INIT, &short, WAIT], [INIT, "", WAIT]] {
        let trap = trapped(32, &parts);
        assert!(trap.contains(want), "{trap}");
    }
    // One warp at a barrier, the other in a wait; and without checks.
    let half = "@!%p_1 bra $SKIP;\n$WAIT:\nmbarrier.try_wait.parity.shared.b64 %p_2, [bars], 0;\n@!%p_2 bra $WAIT;\n$SKIP:\nbar.sync 0;\n";
    let body = format!("{START}{INIT}{half}ret;\n");
    let trap = run_grid(&impatient(Checks::Fast), [1, 64], RING, &body, &[0; 64]).unwrap_err().to_string();
    assert!(trap.contains(want), "{trap}");
}

#[test]
fn mbarriers_and_copies_are_held_against_their_rules() {
    let unsynchronised = INIT.replace("bar.sync 0;\n", "");
    let cases: [(&[&str], &str); 13] = [
        (
            &[&INIT.replace("@%p_0 fence.mbarrier_init.release.cluster;\n", ""), COPY],
            "no fence.proxy.async or fence.mbarrier_init between",
        ),
        (&[COPY], "no mbarrier was initialised at shared address 0x100"),
        (
            &[INIT, "mbarrier.arrive.shared.b64 %q_3, [bars+8];\n"],
            "no mbarrier was initialised at shared address 0x108",
        ),
        (
            &[INIT, "@%p_0 mbarrier.init.shared.b64 [bars], 1;\n"],
            "shared address 0x100 was initialised before",
        ),
        (&["mbarrier.init.shared.b64 [bars], 0;\n"], "race: write of shared address 0x100"),
        (&["@%p_0 mbarrier.init.shared.b64 [bars], 0;\n"], "0 arrivals or bytes in a phase, limit 1048575"),
        (
            &[INIT, "@%p_0 mbarrier.arrive.expect_tx.shared.b64 %q_3, [bars], 1048576;\n"],
            "1048576 arrivals or bytes in a phase, limit 1048575",
        ),
        (
            &[INIT, "mbarrier.arrive.expect_tx.shared.b64 %q_3, [bars], 16;\n"],
            "has had its 1 arrivals and waits for 32 bytes",
        ),
        (
            &[INIT, "mov.u32 %w_4, 24;\n", &COPY.replace("[%q_0], 128", "[%q_0], %w_4")],
            "bulk copy of 24 bytes",
        ),
        (
            &[INIT, "add.u64 %q_0, %q_0, 8;\n", COPY],
            "misaligned: global address 0x10000000008 is no multiple of 16",
        ),
        (
            &[INIT, "add.u32 %w_2, %w_2, 8;\n", &COPY.replace("[ring]", "[%w_2]")],
            "misaligned: shared address 0x8 is no multiple of 16",
        ),
        (
            &[INIT, COPY, "@%p_0 ld.shared.u32 %w_4, [bars];\n"],
            "uninitialised: read of 4 bytes at shared address 0x100",
        ),
        (
            &[&unsynchronised, WAIT],
            "race: atomic of shared address 0x100 conflicts with the write by thread 0",
        ),
    ];
    for (parts, want) in cases {
        let trap = trapped(32, parts);
        assert!(trap.contains(want), "{trap}\n  instead of {want}");
    }
}

#[test]
fn copies_stay_inside_and_read_what_was_written() {
    let far = COPY.replace("[ring]", "[%w_2+144]");
    let trap = trapped(32, &[INIT, &far]);
    assert!(
        trap.contains("out of bounds: 128 bytes at shared address 0x90, offset 144 of 256 bytes"),
        "{trap}"
    );
    let trap = trapped(32, &[INIT, &COPY.replace("%q_0]", "%q_0+144]")]);
    assert!(
        trap.contains("out of bounds: 128 bytes at global address 0x10000000090, offset 144 of 256 bytes"),
        "{trap}"
    );
    let machine = machine();
    let body = format!("{START}{INIT}{COPY}ret;\n");
    let program = load(&machine, &module(1, 32, RING, &body));
    let fresh = machine.alloc(256).unwrap();
    machine.fill(fresh, 64, 1).unwrap();
    match machine.launch(&program, "k", [1, 1, 1], [32, 1, 1], &[fresh]).unwrap() {
        Outcome::Trap(trap) => {
            let trap = trap.to_string();
            assert!(
                trap.contains("uninitialised: read of 16 bytes at global address 0x10000000040"),
                "{trap}"
            );
        }
        Outcome::Done(_) => panic!("read what nobody wrote"),
    }
}

#[test]
fn dynamic_shared_memory_is_as_large_as_the_launch_says() {
    let body = "mov.u32 %w_2, big;\nmov.u32 %w_1, %tid.x;\nmad.lo.u32 %w_3, %w_1, 4, %w_2;\n\
                st.shared.u32 [%w_3+65536], %w_1;\nst.shared.u32 [tile], %w_1;\nret;\n";
    let text = module(0, 1, ".shared .align 16 .b8 tile[20];", body);
    let text = text.replace(".visible", ".extern .shared .align 128 .b8 big[];\n.visible");
    let machine = machine();
    let program = load(&machine, &text);
    let launch = |dynamic_shared| {
        let shape = LaunchShape { grid: [3, 1, 1], block: [1, 1, 1], dynamic_shared, cooperative: false };
        machine.launch_shaped(&program, "k", shape, &[])
    };
    assert!(matches!(launch(65_540).unwrap(), Outcome::Done(_)));
    match launch(65_536).unwrap() {
        Outcome::Trap(trap) => {
            // The variable starts at its alignment behind the static one.
            let want = "out of bounds: 4 bytes at shared address 0x10080";
            assert!(trap.to_string().contains(want), "{trap}");
        }
        Outcome::Done(_) => panic!("stored beyond the end"),
    }
    let error = launch(227 * 1024).unwrap_err();
    assert_eq!(
        error,
        Error::SharedSize { entry: "k".to_owned(), bytes: 227 * 1024 + 128, limit: 227 * 1024 }
    );
}
