//! Do the trials notice? Kernels with one instruction changed must fail them, on the emulator, without a GPU.
//!
//! Each mutant changes one statement of a kernel: another operation of the same form, an immediate off
//! by one, operands swapped, a barrier or a store dropped, a guard turned round. Those that no longer verify count as
//! killed by the verifier; the rest run the same trials as `kernels.rs`. Some mutants compute the same function
//! (a clamp that never bites, `max(a, b)` for `max(b, a)`), so the bar is a share, not all.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use emulator::{Checks, Config, Limits, Machine, Outcome};
use monomorph_codegen::kernels::activate::Activate;
use monomorph_codegen::kernels::argmax::{Argmax, ArgmaxFinal, ArgmaxPart};
use monomorph_codegen::kernels::attention::{
    Attend, AttendMerge, AttendPrefill, AttendSplit, AttendStep, QuantizeRows,
};
use monomorph_codegen::kernels::bias::AddBias;
use monomorph_codegen::kernels::embed::Embed;
use monomorph_codegen::kernels::ffn::{Crew, GateUp};
use monomorph_codegen::kernels::gemv::{Epilogue, Gemv, GemvQkv, Split};
use monomorph_codegen::kernels::norm::Norm;
use monomorph_codegen::kernels::post_norm::PostNorm;
use monomorph_codegen::kernels::qk_norm::QkNorm;
use monomorph_codegen::kernels::repack::Repack;
use monomorph_codegen::kernels::rope::RopeAppend;
use monomorph_codegen::kernels::sample::{Sample, SampleBins, SampleCut, SamplePart};
use monomorph_codegen::kernels::{Operation, Rows, Trial, judge};
use monomorph_codegen::layout::Matrix;
use monomorph_codegen::rng::Rng;
use plan::{Activation, KvType, QType, RopeKind};
use ptx::{Entry, Imm, Inst, Module, Op, Operand, Stmt};

/// Mutants tried of each kernel.
const PER_KERNEL: usize = 40;
/// Trials that a mutant must pass to live.
const TRIALS: u64 = 32;
/// Share that must be killed.
const LEAST_KILLED: f64 = 0.95;

/// Changes one instruction in place; `None` when this kind of change does not apply to it.
fn change(inst: &mut Inst, kind: u32) -> Option<()> {
    match kind {
        0 => {
            inst.form.op = match inst.form.op {
                Op::AddInt => Op::SubInt,
                Op::SubInt => Op::AddInt,
                Op::AddF => Op::SubF,
                Op::SubF => Op::AddF,
                Op::MulF => Op::AddF,
                Op::And => Op::Or,
                Op::Or => Op::And,
                Op::Shl => Op::Shr,
                Op::MinInt => Op::MaxInt,
                Op::MaxInt => Op::MinInt,
                Op::MaxF => Op::MinF,
                Op::DivF => Op::MulF,
                Op::RcpF => Op::SqrtF,
                _ => return None,
            };
            if inst.form.op == Op::Shr && inst.form.ty() == Some(ptx::Ty::B32) {
                inst.form.types = ptx::Types::one(ptx::Ty::U32);
            }
        }
        1 => {
            if inst.form.op == Op::BarSync {
                return None;
            }
            let (op, float) = (inst.form.op, inst.form.ty().is_some_and(ptx::Ty::is_float));
            let imm = inst.operands.iter_mut().find_map(|o| match o {
                Operand::Imm(imm) => Some(imm),
                _ => None,
            })?;
            *imm = Imm(match op {
                // A lane that exchanges with itself; a mask without its lowest bit; twice or half the number; off by one.
                Op::ShflSync => 0,
                Op::And | Op::Lop3 if imm.0 != 0 => imm.0 & (imm.0 - 1),
                _ if float && imm.0 == 0 => 0x3f80_0000,
                _ if float => imm.0 ^ 0x0080_0000,
                _ => imm.0 ^ 1,
            });
        }
        2 => {
            let addr = inst.operands.iter_mut().find_map(|o| match o {
                Operand::Addr(addr) => Some(addr),
                _ => None,
            })?;
            addr.offset += 4;
        }
        3 => {
            let n = inst.operands.len();
            let swappable =
                matches!(inst.form.op, Op::SubInt | Op::SubF | Op::DivF | Op::Selp | Op::FmaF | Op::Dp4a);
            if !swappable || inst.operands[n - 2] == inst.operands[n - 1] {
                return None;
            }
            // Selp's last operand is the predicate: swap the two values. Elsewhere the last two sources.
            if inst.form.op == Op::Selp { inst.operands.swap(1, 2) } else { inst.operands.swap(n - 2, n - 1) }
        }
        _ => {
            let guard = inst.guard.as_mut()?;
            guard.negated = !guard.negated;
        }
    }
    Some(())
}

/// The entry with one seeded change and the text of what was changed.
fn mutate(entry: &Entry, rng: &mut Rng) -> Option<(Entry, String)> {
    let mut mutant = entry.clone();
    let at = rng.below(mutant.body.len() as u32) as usize;
    let Stmt::Inst(inst) = &mut mutant.body[at] else { return None };
    let text = ptx::print::print_inst(entry, inst);
    let kind = rng.below(6);
    if kind == 5 {
        // Dropping anything but these leaves registers unwritten, which the verifier sees.
        if !matches!(inst.form.op, Op::BarSync | Op::St | Op::Red) {
            return None;
        }
        mutant.body.remove(at);
        return Some((mutant, format!("{text} (dropped)")));
    }
    change(inst, kind)?;
    let changed = ptx::print::print_inst(
        &mutant,
        match &mutant.body[at] {
            Stmt::Inst(inst) => inst,
            _ => return None,
        },
    );
    // A lane number that was 0 before, for one, is no change.
    (changed != text).then(|| (mutant, format!("{text}  =>  {changed}")))
}

/// Whether a module passes a trial.
fn passes(module: &Module, operation: &dyn Operation, trial: &Trial, names: &[String]) -> bool {
    let Ok(module) = ptx::verify::verify(module.clone()) else { return false };
    let limits = Limits { cta_steps: 1 << 22, ..Limits::default() };
    let machine = Machine::with_limits(Config { threads: 1, checks: Checks::Full }, limits);
    let kernel = operation.build().unwrap();
    let program = machine.load(&module).unwrap();
    let addresses: Vec<u64> =
        trial.args.iter().map(|arg| machine.alloc(arg.before.len() as u64).unwrap()).collect();
    for (arg, address) in trial.args.iter().zip(&addresses) {
        machine.write(*address, &arg.linked(&addresses)).unwrap();
    }
    let params = &addresses[..trial.n_params()];
    match machine.launch(&program, "k", kernel.grid, kernel.block, params) {
        Ok(Outcome::Done(_)) => {}
        _ => return false,
    }
    let mut after = Vec::new();
    for (arg, address) in trial.args.iter().zip(&addresses) {
        let mut bytes = vec![0; arg.before.len()];
        machine.read(*address, &mut bytes).unwrap();
        after.push(arg.unlinked(&bytes));
    }
    judge(trial, names, &after).is_ok()
}

/// Tries mutants of one kernel; returns how many there were and the survivors.
fn hunt(operation: &dyn Operation, seed: u64) -> (usize, Vec<String>) {
    let kernel = operation.build().unwrap();
    let target = ptx::Target { sm: 90, arch_specific: false };
    let module = monomorph_codegen::lower::lower(&kernel, target, "k").unwrap();
    let names: Vec<String> = kernel.params.iter().map(|p| p.name.clone()).collect();
    let trials: Vec<Trial> = (0..TRIALS).map(|seed| operation.trial(seed)).collect();
    assert!(
        trials.iter().all(|t| passes(&module, operation, t, &names)),
        "{} fails unchanged",
        operation.name()
    );
    let mut rng = Rng::new(seed);
    let (mut tried, mut survivors) = (0, Vec::new());
    for _ in 0..PER_KERNEL * 50 {
        if tried == PER_KERNEL {
            break;
        }
        let Some((entry, what)) = mutate(&module.entries[0], &mut rng) else { continue };
        tried += 1;
        let mutant = Module { entries: vec![entry], ..module.clone() };
        if trials.iter().all(|t| passes(&mutant, operation, t, &names)) {
            survivors.push(format!("{}: {what}", operation.name()));
        }
    }
    (tried, survivors)
}

/// Each kernel function once, in a shape with rows that do not fill their tiles and parts that do not fill their CTAs,
/// so that guards and clamps matter.
fn operations() -> Vec<Box<dyn Operation>> {
    let m = |qtype, rows, cols| Matrix { qtype, rows, cols };
    let split = |k_split, tiles_per_cta| Split { k_split, tiles_per_cta, unroll: 2 };
    let rope = |kind, bias| RopeAppend {
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 64,
        kind,
        bias,
        score_scale: 0.125,
        kv: KvType::F16,
        rows: Rows::ONE,
    };
    let attend = Attend {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        n_splits: 4,
        window: None,
        kv: KvType::F16,
        rows: Rows::ONE,
    };
    let prefill = AttendPrefill {
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 64,
        per_lane: 2,
        window: Some(70),
        kv: KvType::F16,
        rows: Rows::new(21, 3),
    };
    let argmax = Argmax { vocab_size: 1000, parts: 3, rows: 2 };
    let sample = Sample { vocab_size: 333, parts: 3, rows: 6 };
    let qkv = [m(QType::Q4K, 13, 512), m(QType::Q6K, 6, 512), m(QType::Q4K, 7, 512)];
    vec![
        Box::new(Gemv { matrix: m(QType::Q4K, 13, 1280), epilogue: Epilogue::Add, split: split(2, 2) }),
        Box::new(Gemv { matrix: m(QType::Q6K, 13, 1280), epilogue: Epilogue::Store, split: split(1, 2) }),
        Box::new(Gemv { matrix: m(QType::Q5K, 13, 1280), epilogue: Epilogue::Add, split: split(2, 2) }),
        Box::new(Gemv { matrix: m(QType::Q8_0, 13, 640), epilogue: Epilogue::Store, split: split(2, 2) }),
        Box::new(Gemv { matrix: m(QType::Q4_0, 13, 1184), epilogue: Epilogue::Add, split: split(1, 2) }),
        Box::new(Gemv { matrix: m(QType::Q5_1, 13, 640), epilogue: Epilogue::Store, split: split(4, 1) }),
        Box::new(Gemv { matrix: m(QType::F16, 13, 640), epilogue: Epilogue::Add, split: split(2, 2) }),
        Box::new(GemvQkv { matrices: qkv, split: split(1, 2), norm: None }),
        Box::new(GemvQkv {
            matrices: qkv,
            split: split(2, 1),
            norm: Some(Norm { dim: qkv[0].cols, eps: 1e-2, rows: 1 }),
        }),
        Box::new(GateUp {
            gate: m(QType::Q4K, 128, 512),
            up: m(QType::Q4K, 128, 512),
            activation: Activation::Silu,
            unroll: 2,
            norm: Some(Norm { dim: 512, eps: 1e-2, rows: 1 }),
            crew: Crew { warps: 8, tiles: 2 },
        }),
        Box::new(GateUp {
            gate: m(QType::Q5_0, 64, 288),
            up: m(QType::Q8_0, 64, 288),
            activation: Activation::GeluTanh,
            unroll: 2,
            norm: None,
            crew: Crew::BLOCK,
        }),
        Box::new(Activate { dim: 160, activation: Activation::GeluErf, bias: true, rows: 1 }),
        Box::new(Activate { dim: 160, activation: Activation::GeluQuick, bias: false, rows: 2 }),
        Box::new(AddBias { dim: 300, rows: 2 }),
        Box::new(QkNorm { n_heads: 3, n_kv_heads: 2, head_dim: 80, eps: 1e-2, rows: 2 }),
        Box::new(PostNorm(Norm { dim: 640, eps: 1e-2, rows: 2 })),
        Box::new(Norm { dim: 512, eps: 1e-2, rows: 1 }),
        Box::new(rope(RopeKind::Norm, false)),
        Box::new(rope(RopeKind::Neox, true)),
        Box::new(RopeAppend { kv: KvType::Q8_0, ..rope(RopeKind::Neox, true) }),
        Box::new(AttendSplit(attend.clone())),
        // More stretches than a merge has on their way at once, so that each of its places counts.
        Box::new(AttendMerge(Attend { n_splits: 53, ..attend.clone() })),
        Box::new(AttendStep { attend, kind: RopeKind::Neox, bias: true, norm_eps: None, score_scale: 0.125 }),
        Box::new(prefill.clone()),
        Box::new(AttendPrefill { head_dim: 80, per_lane: 1, kv: KvType::Q8_0, ..prefill }),
        Box::new(QuantizeRows { dim: 160, stride: 224, rows: 3 }),
        Box::new(ArgmaxPart(argmax)),
        Box::new(SamplePart(sample.clone())),
        Box::new(SampleBins(sample.clone())),
        Box::new(SampleCut(sample)),
        Box::new(ArgmaxFinal(Argmax { vocab_size: 40_000, parts: 300, rows: 1 })),
        Box::new(Embed { matrix: m(QType::Q4K, 9, 512), scale: 1.0, rows: 3 }),
        Box::new(Embed { matrix: m(QType::Q6K, 9, 512), scale: 1.0, rows: 1 }),
        Box::new(Embed { matrix: m(QType::F32, 9, 256), scale: 1.0, rows: 1 }),
        Box::new(Embed { matrix: m(QType::Q5K, 9, 512), scale: 1.0, rows: 1 }),
        Box::new(Embed { matrix: m(QType::Q8_0, 9, 640), scale: 25.25, rows: 1 }),
        Box::new(Embed { matrix: m(QType::Q5_1, 9, 640), scale: 1.0, rows: 1 }),
        Box::new(Embed { matrix: m(QType::Bf16, 9, 384), scale: 1.0, rows: 1 }),
        Box::new(Repack { matrix: m(QType::Q4K, 5, 512) }),
        Box::new(Repack { matrix: m(QType::Q6K, 5, 512) }),
        Box::new(Repack { matrix: m(QType::Q5K, 9, 512) }),
        Box::new(Repack { matrix: m(QType::Q8_0, 9, 640) }),
        Box::new(Repack { matrix: m(QType::Q5_1, 9, 640) }),
    ]
}

#[test]
fn changed_kernels_fail_their_trials() {
    let (mut tried, mut survivors) = (0, Vec::new());
    for operation in &operations() {
        let (n, alive) = hunt(operation.as_ref(), 11);
        tried += n;
        survivors.extend(alive);
    }
    let killed = 1.0 - survivors.len() as f64 / tried as f64;
    println!("{tried} mutants, {:.1} % killed; alive:\n  {}", killed * 100.0, survivors.join("\n  "));
    assert!(killed >= LEAST_KILLED, "{:.1} % killed; alive:\n  {}", killed * 100.0, survivors.join("\n  "));
}
