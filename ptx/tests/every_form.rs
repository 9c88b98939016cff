//! One entry for each legal form, in each way its operands may be given: the verifier takes it, its text is read back
//! to the same module, and `ptxas` (named by the environment variable MONOMORPH_PTXAS) assembles it.

use monomorph_ptx::form::every_form;
use monomorph_ptx::table::{Sig, T};
use monomorph_ptx::*;

/// How operands are chosen where there is a choice.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    /// Registers of the type.
    Plain,
    /// Immediates wherever they are allowed.
    Immediate,
    /// The widest register, and f32 registers for bit types.
    Other,
}

struct Case {
    builder: EntryBuilder,
    form: Form,
    style: Style,
}

impl Case {
    fn new(name: &str, form: Form, style: Style) -> Case {
        let mut builder = EntryBuilder::new(name, [32, 1, 1]);
        builder.doc(&format!("{} {style:?}", form.text()));
        builder.param("p", Ty::B64);
        builder.shared("tile", 16, 64);
        Case { builder, form, style }
    }

    fn written(&mut self, ty: Ty) -> Reg {
        self.builder.reg("d", ty)
    }

    fn read(&mut self, ty: Ty) -> Reg {
        let reg = self.builder.reg("a", ty);
        let form = Form::new(Op::Mov, &[], Types::one(ty));
        let value = Operand::Imm(Imm(u64::from(ty == Ty::Pred)));
        self.builder.emit(Inst::new(form, vec![Operand::Reg(reg), value]));
        reg
    }

    fn register_type(&self, t: T) -> Ty {
        // A form without that type would ask for a predicate and fail in the verifier.
        let ty = t.of(self.form.types).unwrap_or(Ty::Pred);
        match (self.style, t) {
            (Style::Other, T::AtLeast(_)) if ty == Ty::B32 => Ty::F32,
            (Style::Other, T::AtLeast(_)) if !ty.is_float() => Ty::B64,
            (Style::Other, T::Nth(_)) if ty == Ty::B32 => Ty::F32,
            _ => ty.register(),
        }
    }

    fn list(&mut self, n: usize, t: T, make: fn(&mut Case, Ty) -> Reg) -> Operand {
        let ty = self.register_type(t);
        Operand::List((0..n).map(|_| make(self, ty)).collect())
    }

    fn operand(&mut self, sig: Sig) -> Operand {
        let n = self.form.vector() as usize;
        match sig {
            Sig::Src(t) if self.style == Style::Immediate && t.of(self.form.types) != Some(Ty::Pred) => {
                // Sizes of bulk copies are multiples of 16.
                Operand::Imm(Imm(if self.form.op == Op::CopyBulk { 16 } else { 1 }))
            }
            Sig::Lit(_) => Operand::Imm(Imm(1)),
            Sig::Dst(t) => Operand::Reg(self.written(self.register_type(t))),
            Sig::Src(t) | Sig::SrcReg(t) => Operand::Reg(self.read(self.register_type(t))),
            Sig::DstVec(t) if n == 1 => Operand::Reg(self.written(self.register_type(t))),
            Sig::SrcVec(t) if n == 1 => Operand::Reg(self.read(self.register_type(t))),
            Sig::DstVec(t) => self.list(n, t, Case::written),
            Sig::SrcVec(t) => self.list(n, t, Case::read),
            Sig::DstList(n, t) => self.list(usize::from(n), t, Case::written),
            Sig::SrcList(n, t) => self.list(usize::from(n), t, Case::read),
            Sig::DstMov => Operand::Reg(self.written(self.register_type(T::Nth(0)))),
            Sig::SrcMov if self.style == Style::Immediate => Operand::Imm(Imm(1)),
            Sig::SrcMov => Operand::Reg(self.read(self.register_type(T::Nth(0)))),
            Sig::DstShfl if self.style == Style::Immediate => {
                Operand::Pair(self.written(Ty::B32), self.written(Ty::Pred))
            }
            Sig::DstShfl => Operand::Reg(self.written(self.register_type(T::Nth(0)))),
            Sig::Mem => self.address(self.form.mods),
            Sig::MemIn(space) => self.address(Mods::of(&[space])),
            Sig::Target => {
                let label = self.builder.label("END");
                self.builder.place(label);
                Operand::Label(label)
            }
        }
    }

    fn address(&mut self, mods: Mods) -> Operand {
        let bulk = self.form.op == Op::CopyBulk;
        let bytes = if bulk { 16 } else { (self.form.ty().map_or(4, Ty::bytes) * self.form.vector()) as i32 };
        let (base, offset) = if mods.has(Mod::Param) {
            (AddrBase::Param(0), 0)
        } else if mods.has(Mod::Global) {
            (AddrBase::Reg(self.read(Ty::B64)), bytes)
        } else if self.style == Style::Plain {
            (AddrBase::Shared(0), bytes)
        } else {
            (AddrBase::Reg(self.read(Ty::B32)), -bytes)
        };
        Operand::Addr(Addr { base, offset })
    }

    fn finish(mut self) -> Entry {
        let operands = self.form.row().operands.iter().map(|sig| self.operand(*sig)).collect();
        self.end(operands)
    }

    fn end(mut self, operands: Vec<Operand>) -> Entry {
        let guarded = self.form.op == Op::Trap;
        let guard = guarded.then(|| Guard { reg: self.read(Ty::Pred), negated: true });
        self.builder.emit(Inst { guard, ..Inst::new(self.form, operands) });
        if self.form.op != Op::Ret && self.form.op != Op::Bra {
            self.builder.emit(Inst::new(Form::new(Op::Ret, &[], Types::NONE), vec![]));
        }
        self.builder.finish()
    }
}

/// What `mov` moves beyond registers and immediates.
fn special_moves(entries: &mut Vec<Entry>) {
    for ty in [Ty::U32, Ty::B32] {
        for (special, _) in Special::ALL {
            let form = Form::new(Op::Mov, &[], Types::one(ty));
            let mut case = Case::new(&format!("e{}", entries.len()), form, Style::Plain);
            let dst = case.written(ty);
            entries.push(case.end(vec![Operand::Reg(dst), Operand::Special(*special)]));
        }
        let form = Form::new(Op::Mov, &[], Types::one(ty));
        let mut case = Case::new(&format!("e{}", entries.len()), form, Style::Plain);
        let dst = case.written(ty);
        entries.push(case.end(vec![Operand::Reg(dst), Operand::SharedAddr(0)]));
    }
    for (ty, part, n) in
        [(Ty::B32, Ty::B16, 2), (Ty::B64, Ty::B32, 2), (Ty::B64, Ty::F32, 2), (Ty::B64, Ty::B16, 4)]
    {
        let form = Form::new(Op::Mov, &[], Types::one(ty));
        let mut pack = Case::new(&format!("e{}", entries.len()), form, Style::Plain);
        let list = (0..n).map(|_| pack.read(part)).collect();
        let dst = pack.written(ty);
        entries.push(pack.end(vec![Operand::Reg(dst), Operand::List(list)]));
        let mut unpack = Case::new(&format!("e{}", entries.len()), form, Style::Plain);
        let src = unpack.read(ty);
        let list = (0..n).map(|_| unpack.written(part)).collect();
        entries.push(unpack.end(vec![Operand::List(list), Operand::Reg(src)]));
    }
}

fn all_entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    special_moves(&mut entries);
    for form in every_form() {
        let mut bodies = Vec::new();
        for style in [Style::Plain, Style::Immediate, Style::Other] {
            let entry = Case::new(&format!("e{}", entries.len()), form, style).finish();
            if !bodies.contains(&(entry.body.clone(), entry.banks.clone())) {
                bodies.push((entry.body.clone(), entry.banks.clone()));
                entries.push(entry);
            }
        }
    }
    entries
}

fn modules() -> Vec<Module> {
    let target = Target { sm: 90, arch_specific: false };
    all_entries()
        .chunks(400)
        .map(|chunk| Module {
            header: vec!["every form".to_owned()],
            version: (8, 1),
            target,
            entries: chunk.to_vec(),
        })
        .chain([dynamic_module(target)])
        .collect()
}

/// Two entries over one dynamic variable, whose declaration stands before each.
fn dynamic_module(target: Target) -> Module {
    let entries = ["first", "second"].map(|name| {
        let mut case = Case::new(name, Form::new(Op::Mov, &[], Types::one(Ty::U32)), Style::Plain);
        let ring = case.builder.dynamic_shared("ring", 128);
        let dst = case.written(Ty::U32);
        case.end(vec![Operand::Reg(dst), Operand::SharedAddr(ring)])
    });
    Module { header: vec!["dynamic".to_owned()], version: (8, 1), target, entries: entries.to_vec() }
}

#[test]
fn every_form_is_verified_printed_and_read_back() {
    for module in modules() {
        let verified = verify(module).unwrap_or_else(|error| panic!("{error}"));
        let text = print(&verified);
        let read = parse(&text).unwrap_or_else(|error| panic!("{error}"));
        assert!(read == *verified, "structure differs");
        let again = verify(read).unwrap_or_else(|error| panic!("{error}"));
        assert!(text == print(&again), "text differs");
    }
}

#[test]
fn ptxas_assembles_every_form() {
    let Ok(ptxas) = std::env::var("MONOMORPH_PTXAS") else {
        println!("skipped: no ptxas");
        return;
    };
    let folder = std::env::temp_dir().join(format!("monomorph-every-form-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut complaints = String::new();
    for (i, module) in modules().into_iter().enumerate() {
        let path = folder.join(format!("forms{i}.ptx"));
        let text = print(&verify(module).unwrap());
        std::fs::write(&path, &text).unwrap();
        let output = std::process::Command::new(&ptxas)
            .args(["-arch=sm_90", "-O0", "-o"])
            .arg(folder.join("forms.cubin"))
            .arg(&path)
            .output()
            .unwrap();
        complaints += &annotated(&String::from_utf8_lossy(&output.stderr), &text);
        assert!(output.status.success() || !complaints.is_empty(), "ptxas failed without a message");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(complaints.is_empty(), "{complaints}");
}

/// The errors of `ptxas`, each with the line it names.
fn annotated(messages: &str, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let line_of = |message: &str| {
        let number = message.split("line ").nth(1)?.split(';').next()?.trim().parse::<usize>().ok()?;
        lines.get(number.checked_sub(1)?).copied()
    };
    messages
        .lines()
        .filter(|message| message.contains("error"))
        .map(|message| format!("{}\n    {message}\n", line_of(message).unwrap_or("")))
        .collect()
}
