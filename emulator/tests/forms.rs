//! Every pure form of the table, with full and partial masks, registers of every permitted width, immediates and
//! edge values: what a warp computes equals `ptx::sem::eval` lane by lane.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Numbers, machine};
use monomorph_emulator::{Machine, Outcome};
use ptx::form::every_form;
use ptx::table::{Effect, Sig, T};
use ptx::*;

const CTAS: u32 = 24;
const CASES: usize = 32 * CTAS as usize;

/// What varies between the entries of a form.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    /// All lanes execute.
    Full,
    /// One lane in four does not.
    Guarded,
    /// Registers wider than the types, where the row permits.
    Wide,
    /// The last source is an immediate.
    Immediate,
}

struct Build {
    b: EntryBuilder,
    form: Form,
    style: Style,
    /// Thread index in the grid.
    thread: Reg,
}

fn form(op: Op, mods: &[Mod], types: Types) -> Form {
    Form::new(op, mods, types)
}

impl Build {
    fn new(name: &str, form: Form, style: Style) -> Build {
        let mut b = EntryBuilder::new(name, [32, 1, 1]);
        for param in ["a", "b", "c", "d", "out"] {
            b.param(param, Ty::U64);
        }
        let thread = b.reg("thread", Ty::U32);
        Build { b, form, style, thread }
    }

    fn emit(&mut self, op: Op, mods: &[Mod], types: Types, operands: Vec<Operand>) {
        self.b.emit(Inst::new(form(op, mods, types), operands));
    }

    fn thread_index(&mut self) {
        let (tid, cta) = (self.b.reg("tid", Ty::U32), self.b.reg("cta", Ty::U32));
        let u32s = Types::one(Ty::U32);
        self.emit(Op::Mov, &[], u32s, vec![Operand::Reg(tid), Operand::Special(Special::TidX)]);
        self.emit(Op::Mov, &[], u32s, vec![Operand::Reg(cta), Operand::Special(Special::CtaidX)]);
        let operands =
            vec![Operand::Reg(self.thread), Operand::Reg(cta), Operand::Imm(Imm(32)), Operand::Reg(tid)];
        self.emit(Op::MadInt, &[Mod::Lo], u32s, operands);
    }

    /// Address of the thread's eight bytes in a parameter's buffer.
    fn slot(&mut self, param: u32) -> Reg {
        let (base, addr) = (self.b.reg("base", Ty::U64), self.b.reg("addr", Ty::U64));
        let from = Operand::Addr(Addr { base: AddrBase::Param(param), offset: 0 });
        self.emit(Op::Ld, &[Mod::Param], Types::one(Ty::U64), vec![Operand::Reg(base), from]);
        let operands =
            vec![Operand::Reg(addr), Operand::Reg(self.thread), Operand::Imm(Imm(8)), Operand::Reg(base)];
        self.emit(Op::MadWide, &[Mod::Wide], Types::one(Ty::U32), operands);
        addr
    }

    fn register_type(&self, t: T) -> Ty {
        let ty = t.of(self.form.types).unwrap();
        match t {
            T::AtLeast(_) if self.style == Style::Wide && !ty.is_float() => Ty::B64,
            _ => ty.register(),
        }
    }

    /// A source register holding the low bits of the thread's number in buffer `i`.
    fn source(&mut self, i: u32, ty: Ty) -> Reg {
        let addr = self.slot(i);
        let memory = Operand::Addr(Addr { base: AddrBase::Reg(addr), offset: 0 });
        let reg = self.b.reg("source", ty);
        if ty == Ty::Pred {
            let word = self.b.reg("word", Ty::U32);
            self.emit(Op::Ld, &[Mod::Global], Types::one(Ty::U32), vec![Operand::Reg(word), memory]);
            let bit = self.b.reg("bit", Ty::B32);
            let one = Operand::Imm(Imm(1));
            self.emit(Op::And, &[], Types::one(Ty::B32), vec![Operand::Reg(bit), Operand::Reg(word), one]);
            let zero = Operand::Imm(Imm(0));
            let operands = vec![Operand::Reg(reg), Operand::Reg(bit), zero];
            self.emit(Op::Setp, &[Mod::Ne], Types::one(Ty::U32), operands);
        } else {
            self.emit(Op::Ld, &[Mod::Global], Types::one(ty), vec![Operand::Reg(reg), memory]);
        }
        reg
    }

    /// The entry, and the immediate it was built with.
    fn finish(mut self, literal: u64) -> Entry {
        self.thread_index();
        let sigs = self.form.row().operands;
        let mut operands = Vec::new();
        let mut to = None;
        for (i, sig) in sigs.iter().enumerate() {
            let last = i + 1 == sigs.len();
            let operand = match sig {
                Sig::Dst(t) => {
                    let ty = self.register_type(*t);
                    let reg = self.b.reg("to", ty);
                    to = Some((reg, ty));
                    Operand::Reg(reg)
                }
                Sig::DstMov => {
                    let ty = self.register_type(T::Nth(0));
                    let reg = self.b.reg("to", ty);
                    to = Some((reg, ty));
                    Operand::Reg(reg)
                }
                Sig::Lit(_) => Operand::Imm(Imm(literal)),
                Sig::Src(t) if last && self.style == Style::Immediate => {
                    Operand::Imm(Imm(literal & sem::mask(t.of(self.form.types).unwrap().bits())))
                }
                Sig::Src(t) | Sig::SrcReg(t) => {
                    let ty = self.register_type(*t);
                    Operand::Reg(self.source(i as u32 - 1, ty))
                }
                Sig::SrcMov => {
                    let ty = self.register_type(T::Nth(0));
                    Operand::Reg(self.source(0, ty))
                }
                other => panic!("{other:?} in a pure row"),
            };
            operands.push(operand);
        }
        let (to, to_ty) = to.unwrap();
        let sentinel = Operand::Imm(Imm(if to_ty == Ty::Pred { 1 } else { 0x55 }));
        self.emit(Op::Mov, &[], Types::one(to_ty), vec![Operand::Reg(to), sentinel]);
        let inst = Inst::new(self.form, operands);
        if self.style == Style::Guarded {
            let (low, skip) = (self.b.reg("low", Ty::B32), self.b.reg("skip", Ty::Pred));
            let three = Operand::Imm(Imm(3));
            let mask = vec![Operand::Reg(low), Operand::Reg(self.thread), three.clone()];
            self.emit(Op::And, &[], Types::one(Ty::B32), mask);
            let test = vec![Operand::Reg(skip), Operand::Reg(low), three];
            self.emit(Op::Setp, &[Mod::Eq], Types::one(Ty::U32), test);
            self.b.emit_guarded(Guard { reg: skip, negated: true }, inst);
        } else {
            self.b.emit(inst);
        }
        self.store(to, to_ty);
        self.emit(Op::Ret, &[], Types::NONE, Vec::new());
        self.b.finish()
    }

    fn store(&mut self, to: Reg, ty: Ty) {
        let addr = self.slot(4);
        let memory = Operand::Addr(Addr { base: AddrBase::Reg(addr), offset: 0 });
        let (reg, ty) = if ty == Ty::Pred {
            let word = self.b.reg("truth", Ty::U32);
            let (one, zero) = (Operand::Imm(Imm(1)), Operand::Imm(Imm(0)));
            let operands = vec![Operand::Reg(word), one, zero, Operand::Reg(to)];
            self.emit(Op::Selp, &[], Types::one(Ty::U32), operands);
            (word, Ty::U32)
        } else {
            (to, ty)
        };
        self.emit(Op::St, &[Mod::Global], Types::one(ty), vec![memory, Operand::Reg(reg)]);
    }
}

/// Values where formulas break: ends of ranges, signs, NaN of every kind, denormals, shift counts around widths.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x7c00,
    0x7c01,
    0x7e00,
    0xfc00,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7f80_0001,
    0x7fc0_0000,
    0xffc0_0001,
    0x0000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x4f00_0000,
    0xcf00_0000,
    0x4f80_0000,
    0x477f_f000,
    0x3300_0000,
    0x3300_0001,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
    0xffff_ffff_8000_0000,
];

fn inputs(seed: u64) -> Vec<u64> {
    let mut numbers = Numbers(seed);
    let edge = |n: u64| EDGES[(n % EDGES.len() as u64) as usize];
    (0..CASES)
        .map(|_| match numbers.next() % 4 {
            0 => numbers.next(),
            // Small counts and small numbers.
            1 => numbers.next() % 70,
            // Floats of moderate size.
            2 => u64::from((numbers.next() as i32 as f32 / 65536.0).to_bits()),
            _ => edge(numbers.next()),
        })
        .collect()
}

/// What the thread's slot holds afterwards.
fn expected(build: &Build, args: [u64; 4], literal: u64, lane: usize) -> u64 {
    let form = build.form;
    let sigs = form.row().operands;
    let mut values = Vec::new();
    for (i, sig) in sigs.iter().enumerate().skip(1) {
        let ty = sig.value().and_then(|t| t.of(form.types)).unwrap();
        let raw = match sig {
            Sig::Lit(_) => literal,
            Sig::Src(_) if i + 1 == sigs.len() && build.style == Style::Immediate => literal,
            _ => args[i - 1],
        };
        values.push(raw & sem::mask(ty.bits().max(1)));
    }
    let t = sigs[0].value().unwrap();
    let to = build.register_type(t);
    if build.style == Style::Guarded && lane % 4 == 3 {
        return if to == Ty::Pred { 1 } else { 0x55 };
    }
    if form.op == Op::SqrtF {
        return root(values[0] as u32);
    }
    let value = sem::eval(form, &values).unwrap_or_else(|| panic!("{} has no meaning", form.text()));
    let ty = t.of(form.types).unwrap();
    let extended = if ty.bits() < to.bits() { sem::extend(ty, value) } else { value };
    extended & sem::mask(to.bits().max(1))
}

/// The square root by way of f64 (53 bits are more than 2 · 24 + 2, so rounding twice is rounding once), with the NaN
/// decided on the operand: an optimiser may take a test of the result away, in `sem` as anywhere.
fn root(a: u32) -> u64 {
    let x = f32::from_bits(a);
    let nan = x.is_nan() || x < 0.0;
    u64::from(if nan { sem::NAN_F32 } else { (f64::from(x).sqrt() as f32).to_bits() })
}

fn buffers(machine: &Machine) -> (Vec<Vec<u64>>, Vec<u64>) {
    let data: Vec<Vec<u64>> = (0..4).map(|i| inputs(i + 1)).collect();
    let mut addrs = Vec::new();
    for values in &data {
        let addr = machine.alloc(CASES as u64 * 8).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        machine.write(addr, &bytes).unwrap();
        addrs.push(addr);
    }
    addrs.push(machine.alloc(CASES as u64 * 8).unwrap());
    (data, addrs)
}

#[test]
fn every_pure_form_computes_what_sem_says() {
    let machine = machine();
    let (data, addrs) = buffers(&machine);
    let mut entries = 0;
    for form in every_form().into_iter().filter(|f| f.row().effect == Effect::Pure) {
        let sigs = form.row().operands;
        let literals: &[u64] = match sigs.last() {
            Some(Sig::Lit(_)) => &[0x00, 0x96, 0xe8, 0xca, 0xea, 0x1b, 0x80, 0xff],
            _ => &[0xffff_fff5],
        };
        for style in [Style::Full, Style::Guarded, Style::Wide, Style::Immediate] {
            let wide = sigs.iter().any(|s| matches!(s.value(), Some(T::AtLeast(_))));
            let immediate = matches!(sigs.last(), Some(Sig::Src(t)) if t.of(form.types) != Some(Ty::Pred));
            if style == Style::Wide && !wide || style == Style::Immediate && (!immediate || sigs.len() < 3) {
                continue;
            }
            for literal in literals {
                check(&machine, (&data, &addrs), (form, style, *literal));
                entries += 1;
            }
        }
    }
    assert!(entries > 1000, "only {entries} entries");
}

fn check(machine: &Machine, (data, addrs): (&[Vec<u64>], &[u64]), case: (Form, Style, u64)) {
    let (form, style, literal) = case;
    let describe = Build::new("k", form, style);
    let literal = match form.row().operands.last() {
        Some(Sig::Src(t)) => literal & sem::mask(t.of(form.types).unwrap().bits()),
        _ => literal,
    };
    let entry = Build::new("k", form, style).finish(literal);
    let target = Target { sm: 90, arch_specific: false };
    let module = Module { header: Vec::new(), version: (8, 1), target, entries: vec![entry] };
    let module = verify(module).unwrap_or_else(|e| panic!("{} {style:?}: {e}", form.text()));
    let program = machine.load(&module).unwrap();
    machine.fill(addrs[4], CASES as u64 * 8, 0).unwrap();
    match machine.launch(&program, "k", [CTAS, 1, 1], [32, 1, 1], addrs).unwrap() {
        Outcome::Done(_) => {}
        Outcome::Trap(trap) => panic!("{} {style:?}: {trap}", form.text()),
    }
    let mut out = vec![0; CASES * 8];
    machine.read(addrs[4], &mut out).unwrap();
    for (i, bytes) in out.as_chunks::<8>().0.iter().enumerate() {
        let args = [data[0][i], data[1][i], data[2][i], data[3][i]];
        let want = expected(&describe, args, literal, i);
        let got = u64::from_le_bytes(*bytes);
        assert_eq!(got, want, "{} {style:?} lane {i}: {args:x?} gave {got:#x}, not {want:#x}", form.text());
    }
}
