//! Asynchronous copies: a ring of stages that each warp streams a vector through.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod dsl_common;
use dsl_common::{Buf, count, module, run, text, words};
use emulator::{Checks, Config, Machine, Outcome};
use monomorph_codegen::dsl::prelude::*;

/// What a kernel leaves out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Without {
    Nothing,
    Wait,
    Sync,
    Publish,
    Copy,
}
impl BuildTime for Without {}

#[derive(Clone, Copy)]
pub struct Ring {
    /// Stages of a warp.
    pub stages: u32,
    /// Words of a stage.
    pub words: u32,
    /// Stages of the vector for each warp.
    pub turns: u32,
    pub warps: u32,
    pub without: Without,
}

/// y[t] = Σ x over the words that fall to thread t: warp w sums stages `w * turns ..`
#[kernel(grid = 2, block = 32 * s.warps)]
pub fn stream(s: &Ring, x: Fixed<u32>, y: Out<u32>) {
    let (lane, warp) = (lane_id(), warp_id());
    let bytes = s.words * 4;
    let first = x.offset((cta_id() * s.warps + warp) * (s.turns * s.words));
    let ring = shared::<u32>(s.warps * s.stages * s.words).offset(warp * (s.stages * s.words));
    let full = barriers(s.warps * s.stages).offset(warp * s.stages);
    if lane == 0 {
        for i in unroll(0..s.stages) {
            full.at(i).init(1);
        }
        if s.without != Without::Publish {
            publish_barriers();
        }
        for i in unroll(0..s.stages.min(s.turns)) {
            full.at(i).expect(bytes);
            copy_async(first.offset(i * s.words), ring.offset(i * s.words), bytes, full.at(i));
        }
    }
    sync_warp();
    let mut sum = 0u32;
    for i in 0..s.turns {
        let stage = i % s.stages;
        if s.without != Without::Wait {
            full.at(stage).wait(i / s.stages % 2);
        }
        for k in unroll(0..s.words / 32) {
            sum += ring.at(stage * s.words + lane + k * 32).load();
        }
        if s.without != Without::Sync {
            sync_warp();
        }
        if s.without != Without::Copy {
            if lane == 0 && i + s.stages < s.turns {
                full.at(stage).expect(bytes);
                let next = first.offset((i + s.stages) * s.words);
                copy_async(next, ring.offset(stage * s.words), bytes, full.at(stage));
            }
        }
    }
    y.store(cta_id() * (32 * s.warps) + thread_idx_x(), sum);
}

const RING: Ring = Ring { stages: 4, words: 64, turns: 11, warps: 3, without: Without::Nothing };

fn vector(s: &Ring) -> Vec<u32> {
    (0..2 * s.warps * s.turns * s.words).map(|i| i.wrapping_mul(2_654_435_761)).collect()
}

fn sums(s: &Ring, x: &[u32]) -> Vec<u32> {
    let of_warp = |warp: &[u32]| -> Vec<u32> {
        (0..32).map(|lane| warp.iter().skip(lane).step_by(32).fold(0u32, |a, v| a.wrapping_add(*v))).collect()
    };
    x.chunks((s.turns * s.words) as usize).flat_map(of_warp).collect()
}

#[test]
fn a_ring_streams_a_vector() {
    // Fewer turns than stages, as many, more; and a ring beyond 48 KiB.
    let large = Ring { stages: 6, words: 1024, turns: 14, ..RING };
    let short = [1, 4, 5].map(|turns| Ring { turns, ..RING });
    for s in short.into_iter().chain([RING, large]) {
        let x = vector(&s);
        let want = sums(&s, &x);
        assert_eq!(run(stream(&s), &[words(x), Buf::Fresh(want.len())]), want, "{} turns", s.turns);
    }
    let bytes = stream(&large).unwrap().shared_bytes;
    assert!(bytes > 48 * 1024, "{bytes}");
}

#[test]
fn the_text_is_what_hardware_runs() {
    let text = text(stream(&RING));
    let copy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    let counts = [copy, "mbarrier.init", "mbarrier.try_wait.parity", "fence.mbarrier_init", "not.pred"]
        .map(|what| count(&text, what));
    assert_eq!(counts, [5, 4, 1, 1, 1], "{text}");
}

fn trap(s: &Ring) -> String {
    let (kernel, verified) = module(stream(s));
    let machine = Machine::new(Config { threads: 1, checks: Checks::Full });
    let program = machine.load(&verified).unwrap();
    let x: Vec<u8> = vector(s).iter().flat_map(|v| v.to_le_bytes()).collect();
    let args = [machine.alloc(x.len() as u64).unwrap(), machine.alloc(4 * 64 * u64::from(s.warps)).unwrap()];
    machine.write(args[0], &x).unwrap();
    match machine.launch(&program, "stream", kernel.grid, kernel.block, &args).unwrap() {
        Outcome::Trap(trap) => trap.to_string(),
        Outcome::Done(_) => panic!("ran through without {:?}", s.without),
    }
}

#[test]
fn a_ring_with_a_piece_missing_is_caught() {
    let cases = [
        (Without::Wait, "race: read of shared address"),
        (Without::Sync, "race: asynchronous copy of shared address"),
        (Without::Publish, "no fence.proxy.async or fence.mbarrier_init"),
        (Without::Copy, "mbarrier deadlock: warp 0 waits"),
    ];
    for (without, want) in cases {
        let trap = trap(&Ring { without, ..RING });
        assert!(trap.contains(want), "{without:?}: {trap}");
    }
}

#[kernel(grid = 1, block = 32)]
pub fn odd(bytes: u32, x: Fixed<u32>) {
    let to = shared::<u32>(64u32);
    let full = barriers(1);
    copy_async(x, to, bytes, full.at(0));
}

#[test]
fn sizes_known_when_building_are_checked_then() {
    let error = odd(24).unwrap_err().to_string();
    assert!(error.contains("an asynchronous copy of 24 bytes; sizes are multiples of 16"), "{error}");
    assert!(odd(32).is_ok());
}
