//! A step's attention in one launch: against f64, and to the bit against the launches that it stands for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

mod kernel_trial;

use emulator::{Checks, Config, Limits, Machine, Outcome, TrapKind};
use kernel_trial::{check, machine};
use monomorph_codegen::kernels::attention::{Attend, AttendMerge, AttendSplit, AttendStep};
use monomorph_codegen::kernels::qk_norm::QkNorm;
use monomorph_codegen::kernels::rope::RopeAppend;
use monomorph_codegen::kernels::{Exact, Operation, Rows, Trial};
use plan::{KvType, RopeKind};

const SM_90: ptx::Target = ptx::Target { sm: 90, arch_specific: false };

/// Query heads, key heads, elements.
type Heads = (u32, u32, u32);

fn step((n_heads, n_kv_heads, head_dim): Heads, kv: KvType) -> AttendStep {
    let attend = Attend { n_heads, n_kv_heads, head_dim, n_splits: 3, window: None, kv, rows: Rows::ONE };
    AttendStep { attend, kind: RopeKind::Neox, bias: false, norm_eps: None, score_scale: 0.125 }
}

/// Every kind of rotation, weights, window and number of rows, one after the other, over shapes of all sizes and types.
fn steps() -> Vec<AttendStep> {
    let shapes =
        [(6, 1, 128), (4, 2, 64), (7, 1, 32), (2, 1, 16), (3, 1, 96), (4, 2, 80), (2, 1, 256), (8, 1, 192)];
    let mut steps = Vec::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        for (j, kv) in KvType::ALL.into_iter().enumerate() {
            let window = [None, Some(1), Some(70), Some(600)][(i + j) % 4];
            let rows = if (i + 2 * j) % 4 == 1 { Rows::new(3, 2) } else { Rows::ONE };
            let mut step = step(shape, kv);
            (step.attend.window, step.attend.rows) = (window, rows);
            step.kind = if (i + j) % 2 == 0 { RopeKind::Neox } else { RopeKind::Norm };
            step.bias = (i / 2 + j) % 2 == 0;
            if shape.2 % 64 == 0 && step.kind == RopeKind::Neox && !step.bias {
                step.norm_eps = Some(1e-3);
            }
            steps.extend(step.fits().then_some(step));
        }
    }
    // More stretches than are on their way at once, by lanes and on tensor cores.
    for (shape, kv) in [((2, 1, 256), KvType::F32), ((7, 1, 64), KvType::F16)] {
        let mut many = step(shape, kv);
        many.attend.n_splits = 29;
        steps.push(many);
    }
    assert!(steps.iter().any(|s| s.norm_eps.is_some()) && steps.len() > 18, "{}", steps.len());
    steps
}

/// Trials of the `i`-th: more of some, so that every length comes up; many of the one with many stretches.
fn seeds(i: usize, step: &AttendStep) -> std::ops::Range<u64> {
    0..if step.attend.n_splits > 3 { 16 } else { [8, 3, 3][i % 3] }
}

#[test]
fn a_step_attends_appends_and_cleans_up() {
    for (i, step) in steps().into_iter().enumerate() {
        check(&step, seeds(i, &step));
        check(&Exact(step), 2..4);
    }
}

fn launch(machine: &Machine, operation: &dyn Operation, params: &[u64]) {
    let kernel = operation.build().unwrap();
    let module = monomorph_codegen::lower::lower(&kernel, SM_90, "k").unwrap();
    let program = machine.load(&ptx::verify::verify(module).unwrap()).unwrap();
    let outcome = machine.launch(&program, "k", kernel.grid, kernel.block, params).unwrap();
    assert!(matches!(outcome, Outcome::Done(_)), "{} {outcome:?}", operation.name());
}

/// What `launches` leaves in the outputs and caches of a trial of a step, given the addresses of its arguments.
fn after(machine: &Machine, trial: &Trial, launches: impl Fn(&[u64])) -> Vec<Vec<u8>> {
    let addresses: Vec<u64> =
        trial.args.iter().map(|arg| machine.alloc(arg.before.len() as u64).unwrap()).collect();
    for (arg, address) in trial.args.iter().zip(&addresses) {
        machine.write(*address, &arg.linked(&addresses)).unwrap();
    }
    launches(&addresses);
    let n_inputs = trial.args.iter().position(|arg| !arg.links.is_empty()).unwrap() + 1;
    // What is handed over within a launch is nobody's business.
    let told = addresses.iter().zip(&trial.args).skip(n_inputs + 1);
    told.map(|(address, arg)| {
        let mut bytes = vec![0; arg.before.len()];
        machine.read(*address, &mut bytes).unwrap();
        bytes
    })
    .collect()
}

/// The launches that a step stands for, on its parameters.
fn separately(machine: &Machine, s: &AttendStep, at: &[u64]) {
    let (attend, n_extra) = (&s.attend, if s.bias { 3 } else { 2 * usize::from(s.norm_eps.is_some()) });
    let (control, table, extra) = (at[0], at[1], &at[2..2 + n_extra]);
    let [qkv, kv, _, ref out @ ..] = at[2 + n_extra..] else { panic!("{at:?}") };
    let [partial, stats] =
        [attend.partial_bytes(), attend.stats_bytes()].map(|bytes| machine.alloc(bytes).unwrap());
    let Attend { n_heads, n_kv_heads, head_dim, kv: kv_type, rows, .. } = *attend;
    if let Some(eps) = s.norm_eps {
        let norm = QkNorm { n_heads, n_kv_heads, head_dim, eps, rows: rows.count };
        launch(machine, &norm, &[control, extra[0], extra[1], qkv]);
    }
    let rope = RopeAppend {
        n_heads,
        n_kv_heads,
        head_dim,
        kind: s.kind,
        bias: s.bias,
        score_scale: s.score_scale,
        kv: kv_type,
        rows,
    };
    let biases = if s.bias { extra } else { &[] };
    launch(machine, &rope, &[&[control, table], biases, &[qkv, kv]].concat());
    launch(machine, &AttendSplit(attend.clone()), &[control, qkv, kv, partial, stats]);
    let inputs = [control, partial, stats];
    match out {
        [x] => launch(machine, &Exact(AttendMerge(attend.clone())), &[&inputs[..], &[*x]].concat()),
        blocks => launch(machine, &AttendMerge(attend.clone()), &[&inputs[..], blocks].concat()),
    }
}

#[test]
fn a_step_has_the_bits_of_its_parts() {
    let machine = machine();
    for (i, step) in steps().into_iter().enumerate() {
        for seed in seeds(i + 2, &step) {
            let exact = Exact(step.clone());
            let operation: &dyn Operation = if seed % 2 == 0 { &step } else { &exact };
            let trial = operation.trial(seed);
            let n = trial.n_params();
            let at_once = after(&machine, &trial, |at| launch(&machine, operation, &at[..n]));
            let parts = after(&machine, &trial, |at| separately(&machine, &step, &at[..n]));
            assert!(at_once.len() > 2 && at_once == parts, "{} seed {seed}", operation.constants());
        }
    }
}

/// How a trial's launch ends on a device with `resident` places that tells it of `waiting`.
fn outcome(step: &AttendStep, seed: u64, (resident, waiting): (u64, u32)) -> Outcome {
    let limits = Limits { resident_ctas: resident, ..Limits::default() };
    let machine = Machine::with_limits(Config { threads: 2, checks: Checks::Full }, limits);
    let mut trial = step.trial(seed);
    let word = 4 * plan::WAITING_CTAS as usize;
    trial.args[0].before[word..word + 4].copy_from_slice(&waiting.to_le_bytes());
    let kernel = step.build().unwrap();
    let module = monomorph_codegen::lower::lower(&kernel, SM_90, "k").unwrap();
    let program = machine.load(&ptx::verify::verify(module).unwrap()).unwrap();
    let at: Vec<u64> = trial.args.iter().map(|arg| machine.alloc(arg.before.len() as u64).unwrap()).collect();
    for (arg, address) in trial.args.iter().zip(&at) {
        machine.write(*address, &arg.linked(&at)).unwrap();
    }
    machine.launch(&program, "k", kernel.grid, kernel.block, &at[..trial.n_params()]).unwrap()
}

#[test]
fn as_many_ctas_wait_as_are_told_to_have_a_place() {
    let mut many = step((7, 1, 64), KvType::F16);
    many.attend.n_splits = 29;
    let mut deadlocks = 0;
    for seed in 0..12 {
        for told in [(1, 0), (1, 1), (3, 3), (14, 14), (132, 132)] {
            let outcome = outcome(&many, seed, told);
            assert!(matches!(outcome, Outcome::Done(_)), "{told:?} seed {seed}: {outcome:?}");
        }
        // What it is told matters: more than there is place for never end.
        if let Outcome::Trap(trap) = outcome(&many, seed, (3, 132)) {
            assert!(matches!(trap.kind, TrapKind::GridDeadlock { .. }), "{trap:?}");
            deadlocks += 1;
        }
    }
    assert!(deadlocks > 0);
}

#[test]
fn shapes_that_one_launch_cannot_take_are_told() {
    for heads in [(1, 1, 16), (2, 2, 80), (3, 3, 112)] {
        assert!(!step(heads, KvType::F16).fits(), "{heads:?}");
    }
    assert!(!step((4, 2, 80), KvType::Q8_0).fits());
    let normed =
        |kind, head_dim| AttendStep { kind, norm_eps: Some(1e-5), ..step((2, 1, head_dim), KvType::F16) };
    assert!(normed(RopeKind::Neox, 128).fits());
    assert!(!normed(RopeKind::Norm, 128).fits() && !normed(RopeKind::Neox, 96).fits());
}
