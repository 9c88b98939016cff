//! Grids whose CTAs wait for one another at barriers made of ordinary instructions.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Numbers, load, module};
use monomorph_emulator::{
    Checks, Config, Error, LaunchShape, Limits, Machine, Outcome, Stats, Trap, TrapKind,
};

/// Threads of a block.
const THREADS: u32 = 96;

/// A barrier of the grid: `%w_20` counts the barriers passed, `%q_10` is the counter, `%p_20` holds on all threads but the
/// first. `arrive` and `read` are the two instructions on the counter.
fn barrier(n: usize, arrive: &str, read: &str) -> String {
    format!(
        "bar.sync 0;\nadd.u32 %w_20, %w_20, 1;\n@%p_20 bra $MET{n};\n{arrive}\nmov.u32 %w_21, %nctaid.x;\n\
         mul.lo.u32 %w_21, %w_21, %w_20;\n$POLL{n}:\n{read}\nsetp.lt.u32 %p_21, %w_22, %w_21;\n@%p_21 bra $POLL{n};\n\
         $MET{n}:\nbar.sync 0;\n"
    )
}

const RELEASE: &str = "red.release.gpu.global.add.u32 [%q_10], 1;";
const ACQUIRE: &str = "ld.acquire.gpu.global.u32 %w_22, [%q_10];";

/// The setting of [`barrier`], and the thread's own word: address in `%q_1`, index in `%w_0`, in a grid of `%w_1` threads.
const START: &str = "ld.param.u64 %q_10, [p0];\nld.param.u64 %q_0, [p1];\nmov.u32 %w_20, 0;\nmov.u32 %w_2, %tid.x;\n\
     setp.ne.u32 %p_20, %w_2, 0;\nmov.u32 %w_3, %ntid.x;\nmov.u32 %w_4, %ctaid.x;\nmov.u32 %w_5, %nctaid.x;\n\
     mad.lo.u32 %w_0, %w_4, %w_3, %w_2;\nmul.lo.u32 %w_1, %w_5, %w_3;\nmul.wide.u32 %q_2, %w_0, 4;\n\
     add.u64 %q_1, %q_0, %q_2;\n";

/// `own = own * 5 + word of the thread `shift` further on, in the grid`, with a barrier before and behind the store.
fn phase(n: usize, shift: u32, meet: &str) -> String {
    format!(
        "add.u32 %w_6, %w_0, {shift};\nrem.u32 %w_6, %w_6, %w_1;\nmul.wide.u32 %q_3, %w_6, 4;\nadd.u64 %q_3, %q_0, %q_3;\n\
         ld.global.u32 %w_7, [%q_3];\nld.global.u32 %w_8, [%q_1];\nmad.lo.u32 %w_7, %w_8, 5, %w_7;\n\
         mov.u32 %w_9, %w_4;\n$WORK{n}:\nmad.lo.u32 %w_7, %w_7, 3, 1;\nsetp.eq.u32 %p_1, %w_9, 0;\nadd.u32 %w_9, %w_9, -1;\n\
         @!%p_1 bra $WORK{n};\n{before}st.global.u32 [%q_1], %w_7;\n{after}",
        before = meet.replace("$POLL", &format!("$POLL{n}A")).replace("$MET", &format!("$MET{n}A")),
        after = meet.replace("$POLL", &format!("$POLL{n}B")).replace("$MET", &format!("$MET{n}B")),
    )
}

/// What [`phase`] computes.
fn model(words: &[u32], shift: u32) -> Vec<u32> {
    let n = words.len();
    let new = |i: usize| {
        let sum = words[i].wrapping_mul(5).wrapping_add(words[(i + shift as usize) % n]);
        (0..=i / THREADS as usize).fold(sum, |v, _| v.wrapping_mul(3).wrapping_add(1))
    };
    (0..n).map(new).collect()
}

/// Runs a body on `ctas` CTAs over a zeroed counter and `words`.
fn run(machine: &Machine, ctas: u32, body: &str, words: &[u32]) -> Result<(Vec<u32>, Stats), Box<Trap>> {
    let program = load(machine, &module(2, THREADS, "", body));
    let (counter, buffer) = (machine.alloc(4).unwrap(), machine.alloc(words.len() as u64 * 4).unwrap());
    machine.write(counter, &[0; 4]).unwrap();
    machine.write(buffer, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let shape =
        LaunchShape { grid: [ctas, 1, 1], block: [THREADS, 1, 1], dynamic_shared: 0, cooperative: true };
    match machine.launch_shaped(&program, "k", shape, &[counter, buffer]).unwrap() {
        Outcome::Trap(trap) => Err(Box::new(trap)),
        Outcome::Done(stats) => {
            let mut out = vec![0; words.len() * 4];
            machine.read(buffer, &mut out).unwrap();
            Ok((out.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect(), stats))
        }
    }
}

fn machine(threads: usize, checks: Checks) -> Machine {
    Machine::new(Config { threads, checks })
}

#[test]
fn phases_with_barriers_between_them_give_the_same_on_any_number_of_threads() {
    let ways = [
        (RELEASE, ACQUIRE),
        (
            "fence.acq_rel.gpu;\nred.relaxed.gpu.global.add.u32 [%q_10], 1;",
            "ld.relaxed.gpu.global.u32 %w_22, [%q_10];\nfence.acq_rel.gpu;",
        ),
        (
            "fence.sc.gpu;\natom.global.add.u32 %w_23, [%q_10], 1;",
            "ld.volatile.global.u32 %w_22, [%q_10];\nfence.sc.gpu;",
        ),
        (
            "atom.release.gpu.global.add.u32 %w_23, [%q_10], 1;",
            "atom.acquire.gpu.global.or.b32 %w_22, [%q_10], 0;",
        ),
    ];
    let ctas = 132;
    let mut numbers = Numbers(7);
    let words: Vec<u32> = (0..ctas * THREADS).map(|_| numbers.next() as u32).collect();
    let shifts = [1, 5 * THREADS + 3, 77 * THREADS];
    let expected = shifts.iter().fold(words.clone(), |words, shift| model(&words, *shift));
    for (arrive, read) in ways {
        let meet = barrier(0, arrive, read).replace("$POLL0", "$POLL").replace("$MET0", "$MET");
        let phases: String = shifts.iter().enumerate().map(|(n, shift)| phase(n, *shift, &meet)).collect();
        let body = format!("{START}{phases}ret;\n");
        for threads in [1, 2, 3, 8] {
            for checks in [Checks::Fast, Checks::Full] {
                let (got, _) = run(&machine(threads, checks), ctas, &body, &words).unwrap();
                assert!(got == expected, "{threads} threads, {checks:?}, {arrive}");
            }
        }
    }
}

#[test]
fn waiting_costs_few_instructions() {
    let meet: String = (0..20).map(|n| barrier(n, RELEASE, ACQUIRE)).collect();
    let (_, stats) = run(&machine(1, Checks::Fast), 132, &format!("{START}{meet}ret;\n"), &[0]).unwrap();
    // Three warps of some 12 instructions a barrier; each CTA polls a few times.
    let each = stats.warp_instructions / (132 * 20);
    assert!(each < 80, "{each} warp-instructions a CTA and barrier");
}

#[test]
fn a_cta_that_never_arrives_is_a_deadlock_that_names_the_others() {
    let meet = barrier(0, RELEASE, ACQUIRE);
    let body = format!("{START}setp.eq.u32 %p_2, %w_4, 2;\n@%p_2 bra $OUT;\n{meet}$OUT:\nret;\n");
    for threads in [1, 3] {
        let trap = run(&machine(threads, Checks::Fast), 9, &body, &[0]).unwrap_err();
        let TrapKind::GridDeadlock { ctas, begun, ended, waiting } = &trap.kind else { panic!("{trap}") };
        assert_eq!((*ctas, *begun, *ended), (9, 9, 1));
        assert_eq!(waiting.len(), 1);
        assert_eq!(
            (waiting[0].ctas, waiting[0].first, waiting[0].warp, waiting[0].value),
            (8, [0, 0, 0], 0, 8)
        );
        assert_eq!((trap.cta, trap.thread), ([0, 0, 0], [0, 0, 0]));
        let text = trap.to_string();
        for part in
            ["k statement", "grid deadlock", "8 at statement", "ld.acquire.gpu.global.u32", "finding 8"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn ctas_that_poll_with_atomics_deadlock_too() {
    let meet = barrier(0, RELEASE, "atom.acquire.gpu.global.or.b32 %w_22, [%q_10], 0;");
    let body = format!("{START}setp.eq.u32 %p_2, %w_4, 2;\n@%p_2 bra $OUT;\n{meet}$OUT:\nret;\n");
    let trap = run(&machine(2, Checks::Fast), 5, &body, &[0]).unwrap_err();
    assert!(matches!(trap.kind, TrapKind::GridDeadlock { ended: 1, .. }), "{trap}");
}

#[test]
fn a_kernel_that_counts_its_tries_gets_them() {
    // Polls what nobody writes, ten thousand times.
    let body = format!(
        "{START}mov.u32 %w_10, 0;\n$AGAIN:\n{ACQUIRE}\nadd.u32 %w_10, %w_10, 1;\nsetp.lt.u32 %p_3, %w_10, 10000;\n\
         @%p_3 bra $AGAIN;\nst.global.u32 [%q_1], %w_10;\nret;\n"
    );
    let (got, _) = run(&machine(2, Checks::Full), 3, &body, &[0; 3 * THREADS as usize]).unwrap();
    assert!(got.iter().all(|tries| *tries == 10000));
}

#[test]
fn without_the_barrier_a_cta_reads_what_nobody_wrote_yet() {
    let next = |meet: &str| {
        format!(
            "{START}add.u32 %w_6, %w_0, {THREADS};\nrem.u32 %w_6, %w_6, %w_1;\nmul.wide.u32 %q_3, %w_6, 4;\n\
             add.u64 %q_3, %q_0, %q_3;\nst.global.u32 [%q_1], %w_0;\n{meet}ld.global.u32 %w_7, [%q_3];\n\
             setp.ne.u32 %p_4, %w_7, %w_6;\n@%p_4 trap;\nret;\n"
        )
    };
    let launch = |body: &str| {
        let machine = machine(1, Checks::Full);
        let program = load(&machine, &module(2, THREADS, "", body));
        let (counter, buffer) =
            (machine.alloc(4).unwrap(), machine.alloc(6 * u64::from(THREADS) * 4).unwrap());
        machine.write(counter, &[0; 4]).unwrap();
        let shape =
            LaunchShape { grid: [6, 1, 1], block: [THREADS, 1, 1], dynamic_shared: 0, cooperative: true };
        machine.launch_shaped(&program, "k", shape, &[counter, buffer]).unwrap()
    };
    let whole = launch(&next(&barrier(0, RELEASE, ACQUIRE)));
    assert!(matches!(whole, Outcome::Done(_)), "{whole:?}");
    let Outcome::Trap(trap) = launch(&next("")) else { panic!("no trap") };
    assert!(matches!(trap.kind, TrapKind::Uninitialised { .. }), "{trap}");
}

#[test]
fn a_grid_that_cannot_be_resident_is_refused() {
    let limits = Limits { resident_ctas: 4, ..Limits::default() };
    let machine = Machine::with_limits(Config { threads: 2, checks: Checks::Fast }, limits);
    let program = load(&machine, &module(0, 32, "", "ret;\n"));
    let launch = |ctas| {
        let shape =
            LaunchShape { grid: [ctas, 1, 1], block: [32, 1, 1], dynamic_shared: 0, cooperative: true };
        machine.launch_shaped(&program, "k", shape, &[])
    };
    assert!(matches!(launch(4), Ok(Outcome::Done(_))));
    assert_eq!(launch(5), Err(Error::CooperativeGrid { entry: "k".to_owned(), ctas: 5, limit: 4 }));
}
