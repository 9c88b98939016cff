//! Structured IR as labels, branches and registers.

use super::moves::{self, Source};
use super::registers::{Webs, webs};
use crate::dsl::Kernel;
use crate::ir::{Arg, Block, Entering, Function, If, Inst, Loop, MemBase, Operand, Stmt, ValueId};
use ptx::table::Sig;
use ptx::{
    Addr, AddrBase, Effect, Entry, EntryBuilder, Form, Guard, Imm, Label, Op, Reg, Storage, Ty, Types,
};

/// A loop's condition is computed twice, at its top and at its bottom, when that takes at most so many instructions.
const MAX_DOUBLED_HEAD: usize = 3;
/// A branch of at most so many stores is written with guards instead of a jump.
const MAX_GUARDED: usize = 4;

/// Lowers an optimised function.
pub fn entry(kernel: &Kernel, function: &Function, name: &str) -> Entry {
    let mut builder = EntryBuilder::new(name, kernel.block);
    kernel.doc.iter().for_each(|line| builder.doc(line));
    if let Some(n) = kernel.min_ctas {
        builder.min_ctas_per_sm(n);
    }
    for param in &function.params {
        builder.param(param, Ty::U64);
    }
    for shared in &function.shared {
        match shared.storage {
            Storage::Static => builder.shared(&shared.name, shared.align, shared.bytes),
            Storage::Dynamic => builder.dynamic_shared(&shared.name, shared.align),
        };
    }
    let names = web_names(function);
    let mut emitter = Emitter {
        function,
        webs: names.0,
        names: names.1,
        builder,
        regs: vec![None; function.values.len()],
        labels: [0; 3],
    };
    emitter.block(&function.body);
    emitter.builder.emit(ptx::Inst::new(Form::new(Op::Ret, &[], Types::NONE), Vec::new()));
    emitter.builder.finish()
}

/// The webs, and the variable each is named after: the first of its values (by number) that has a name.
fn web_names(function: &Function) -> (Webs, Vec<Option<String>>) {
    let webs = webs(function);
    let mut names: Vec<Option<String>> = vec![None; function.values.len()];
    for (i, info) in function.values.iter().enumerate() {
        let root = webs.root(ValueId(i as u32)).0 as usize;
        if names[root].is_none() {
            names[root].clone_from(&info.name);
        }
    }
    (webs, names)
}

/// Kinds of labels, each with its own numbers.
#[derive(Clone, Copy)]
enum LabelKind {
    Loop,
    Else,
    End,
}

struct Emitter<'f> {
    function: &'f Function,
    webs: Webs,
    names: Vec<Option<String>>,
    builder: EntryBuilder,
    /// Register of each web, by its root.
    regs: Vec<Option<Reg>>,
    labels: [u32; 3],
}

impl Emitter<'_> {
    /// The register of a value; `maker` names it when no variable does.
    fn reg(&mut self, id: ValueId, maker: &str) -> Reg {
        let root = self.webs.root(id).0 as usize;
        if let Some(reg) = self.regs[root] {
            return reg;
        }
        let name = self.names[root].clone().unwrap_or_else(|| maker.to_owned());
        let reg = self.builder.reg(&name, self.function.info(id).ty);
        self.regs[root] = Some(reg);
        reg
    }

    fn label(&mut self, kind: LabelKind) -> Label {
        let text = match kind {
            LabelKind::Loop => "LOOP",
            LabelKind::Else => "ELSE",
            LabelKind::End => "END",
        };
        let number = &mut self.labels[kind as usize];
        let label = self.builder.label(&format!("{text}_{number}"));
        *number += 1;
        label
    }

    fn branch(&mut self, to: Label, guard: Option<Guard>) {
        let inst = ptx::Inst::new(Form::new(Op::Bra, &[], Types::NONE), vec![ptx::Operand::Label(to)]);
        self.builder.emit(ptx::Inst { guard, ..inst });
    }

    fn mov(&mut self, dst: Reg, ty: Ty, src: ptx::Operand) {
        let form = Form::new(Op::Mov, &[], Types::one(ty));
        self.builder.emit(ptx::Inst::new(form, vec![ptx::Operand::Reg(dst), src]));
    }

    /// A constant in a register.
    fn constant(&mut self, imm: Imm, ty: Ty) -> Reg {
        let ty = ty.register();
        let reg = self.builder.reg("const", ty);
        self.mov(reg, ty, ptx::Operand::Imm(imm));
        reg
    }

    /// A register that holds an operand of that type.
    fn in_register(&mut self, operand: Operand, ty: Ty) -> Reg {
        match operand {
            Operand::Value(id) => self.reg(id, "v"),
            Operand::Imm(imm) => self.constant(imm, ty),
        }
    }

    fn block(&mut self, block: &Block) {
        for stmt in &block.stmts {
            match stmt {
                Stmt::Note(text) => self.builder.comment(text),
                Stmt::Inst(inst) => {
                    let inst = self.inst(inst);
                    self.builder.emit(inst);
                }
                Stmt::If(branch) => self.if_(branch),
                Stmt::Loop(l) => self.loop_(l),
            }
        }
    }

    fn inst(&mut self, inst: &Inst) -> ptx::Inst {
        let row = inst.form.row();
        let vector = inst.form.vector() as usize;
        let mut args = inst.args.iter();
        let mut results = inst.results.iter().copied();
        let mut operands = Vec::with_capacity(row.operands.len());
        // Sources first: a constant that needs a register is moved there before the instruction.
        let mut sources = Vec::new();
        for sig in row.operands.iter().filter(|sig| !is_destination(sig)) {
            if let Some(arg) = args.next() {
                sources.push(self.source(inst.form, sig, arg));
            }
        }
        let mut sources = sources.into_iter();
        for sig in row.operands {
            let list = match sig {
                Sig::DstVec(_) if vector > 1 => vector,
                Sig::DstList(n, _) => usize::from(*n),
                Sig::DstMov if inst.results.len() > 1 => inst.results.len(),
                _ => 1,
            };
            if !is_destination(sig) {
                operands.extend(sources.next());
            } else if list > 1 {
                let regs = results.by_ref().take(list).map(|id| self.reg(id, row.name)).collect();
                operands.push(ptx::Operand::List(regs));
            } else if let Some(id) = results.next() {
                operands.push(ptx::Operand::Reg(self.reg(id, row.name)));
            }
        }
        ptx::Inst::new(inst.form, operands)
    }

    fn source(&mut self, form: Form, sig: &Sig, arg: &Arg) -> ptx::Operand {
        let ty = match sig {
            Sig::Src(t) | Sig::SrcReg(t) | Sig::SrcVec(t) | Sig::SrcList(_, t) | Sig::Lit(t) => {
                t.of(form.types)
            }
            _ => form.ty(),
        };
        let ty = ty.unwrap_or(Ty::B32);
        match arg {
            Arg::One(Operand::Imm(imm)) => {
                let wants_register = matches!(sig, Sig::SrcReg(_) | Sig::SrcVec(_) | Sig::SrcList(..));
                if wants_register || (ty == Ty::Pred && form.op != Op::Mov) {
                    ptx::Operand::Reg(self.constant(*imm, ty))
                } else {
                    ptx::Operand::Imm(*imm)
                }
            }
            Arg::One(Operand::Value(id)) => ptx::Operand::Reg(self.reg(*id, "v")),
            Arg::List(list) => {
                // Only packing `mov` makes lists of another type than the form's: halves of it.
                let ty = match (form.op, ty) {
                    (Op::Mov, Ty::B64) => Ty::B32,
                    (Op::Mov, _) => Ty::B16,
                    (_, ty) => ty,
                };
                ptx::Operand::List(list.iter().map(|o| self.in_register(*o, ty)).collect())
            }
            Arg::Mem(base, offset) => {
                let base = match base {
                    MemBase::Value(id) => AddrBase::Reg(self.reg(*id, "address")),
                    MemBase::Param(i) => AddrBase::Param(*i),
                    MemBase::Shared(i) => AddrBase::Shared(*i),
                };
                ptx::Operand::Addr(Addr { base, offset: *offset })
            }
            Arg::Special(special) => ptx::Operand::Special(*special),
            Arg::SharedAddr(i) => ptx::Operand::SharedAddr(*i),
        }
    }

    /// Values that change together.
    fn copies(&mut self, copies: &[(ValueId, Operand)]) {
        let mut parallel = Vec::with_capacity(copies.len());
        for (dst, src) in copies {
            let ty = self.function.info(*dst).ty;
            let reg = self.reg(*dst, "phi");
            let source = match src {
                Operand::Value(id) => Source::Place((self.reg(*id, "v"), ty)),
                Operand::Imm(imm) => Source::Const(*imm),
            };
            parallel.push(((reg, ty), source));
        }
        let builder = &mut self.builder;
        let sequence = moves::sequence(&parallel, |(_, ty)| (builder.reg("swap", ty), ty));
        for ((dst, ty), src) in sequence {
            let src = match src {
                Source::Place((reg, _)) => ptx::Operand::Reg(reg),
                Source::Const(imm) => ptx::Operand::Imm(imm),
            };
            self.mov(dst, ty, src);
        }
    }

    /// Whether copies change any register.
    fn moves(&mut self, copies: &[(ValueId, Operand)]) -> bool {
        copies.iter().any(|(dst, src)| match src {
            Operand::Imm(_) => true,
            Operand::Value(id) => self.webs.root(*id) != self.webs.root(*dst),
        })
    }

    fn if_(&mut self, branch: &If) {
        let reg = self.in_register(branch.cond, Ty::Pred);
        let then: Vec<_> = branch.merges.iter().map(|m| (m.result, m.then)).collect();
        let otherwise: Vec<_> = branch.merges.iter().map(|m| (m.result, m.otherwise)).collect();
        let has_then = !branch.then.stmts.is_empty() || self.moves(&then);
        let has_otherwise = !branch.otherwise.stmts.is_empty() || self.moves(&otherwise);
        match (has_then, has_otherwise) {
            (false, false) => {}
            (true, false) if then.is_empty() && is_guardable(&branch.then) => {
                self.guarded(&branch.then, Guard { reg, negated: false });
            }
            (false, true) if otherwise.is_empty() && is_guardable(&branch.otherwise) => {
                self.guarded(&branch.otherwise, Guard { reg, negated: true });
            }
            (true, false) => self.skipping(Guard { reg, negated: true }, &branch.then, &then),
            (false, true) => self.skipping(Guard { reg, negated: false }, &branch.otherwise, &otherwise),
            (true, true) => {
                let (other, end) = (self.label(LabelKind::Else), self.label(LabelKind::End));
                self.branch(other, Some(Guard { reg, negated: true }));
                self.block(&branch.then);
                self.copies(&then);
                self.branch(end, None);
                self.builder.place(other);
                self.block(&branch.otherwise);
                self.copies(&otherwise);
                self.builder.place(end);
            }
        }
    }

    /// A block that a branch jumps over.
    fn skipping(&mut self, guard: Guard, block: &Block, copies: &[(ValueId, Operand)]) {
        let end = self.label(LabelKind::End);
        self.branch(end, Some(guard));
        self.block(block);
        self.copies(copies);
        self.builder.place(end);
    }

    fn guarded(&mut self, block: &Block, guard: Guard) {
        for stmt in &block.stmts {
            match stmt {
                Stmt::Inst(inst) => {
                    let inst = self.inst(inst);
                    self.builder.emit_guarded(guard, inst);
                }
                Stmt::Note(text) => self.builder.comment(text),
                Stmt::If(_) | Stmt::Loop(_) => {}
            }
        }
    }

    fn loop_(&mut self, l: &Loop) {
        let inits: Vec<_> = l.carried.iter().map(|c| (c.param, c.init)).collect();
        let nexts: Vec<_> = l.carried.iter().map(|c| (c.param, c.next)).collect();
        self.copies(&inits);
        let top = self.label(LabelKind::Loop);
        let spins = l.body.stmts.is_empty() && !self.moves(&nexts);
        let doubled = is_pure_line(&l.head, MAX_DOUBLED_HEAD);
        if spins {
            self.builder.place(top);
            self.block(&l.head);
            let reg = self.in_register(l.cond, Ty::Pred);
            self.branch(top, Some(Guard { reg, negated: false }));
        } else if doubled {
            let end = match l.enters {
                Entering::Always => {
                    if uses_any(&l.body, &l.head) || l.carried.iter().any(|c| defines(&l.head, c.next)) {
                        self.block(&l.head);
                    }
                    None
                }
                Entering::Unknown => {
                    self.block(&l.head);
                    let reg = self.in_register(l.cond, Ty::Pred);
                    let end = self.label(LabelKind::End);
                    self.branch(end, Some(Guard { reg, negated: true }));
                    Some(end)
                }
            };
            self.builder.place(top);
            self.block(&l.body);
            self.copies(&nexts);
            self.block(&l.head);
            let reg = self.in_register(l.cond, Ty::Pred);
            self.branch(top, Some(Guard { reg, negated: false }));
            end.into_iter().for_each(|end| self.builder.place(end));
        } else {
            let end = self.label(LabelKind::End);
            self.builder.place(top);
            self.block(&l.head);
            let reg = self.in_register(l.cond, Ty::Pred);
            self.branch(end, Some(Guard { reg, negated: true }));
            self.block(&l.body);
            self.copies(&nexts);
            self.branch(top, None);
            self.builder.place(end);
        }
    }
}

fn is_destination(sig: &Sig) -> bool {
    matches!(sig, Sig::Dst(_) | Sig::DstVec(_) | Sig::DstList(..) | Sig::DstMov | Sig::DstShfl)
}

/// Whether a block is a few stores, which a guard serves better than a jump.
fn is_guardable(block: &Block) -> bool {
    let store = |stmt: &Stmt| match stmt {
        Stmt::Inst(inst) => {
            let memory = matches!(inst.form.op, Op::St | Op::Red);
            // A constant to store would be moved into a register first, outside the guard: harmless, but not a store.
            memory && inst.form.row().effect == Effect::Store && inst.results.is_empty()
        }
        Stmt::Note(_) => true,
        _ => false,
    };
    block.stmts.len() <= MAX_GUARDED && block.stmts.iter().all(store)
}

/// Whether a block is at most `n` pure instructions.
fn is_pure_line(block: &Block, n: usize) -> bool {
    block.stmts.len() <= n && block.stmts.iter().all(|s| matches!(s, Stmt::Inst(inst) if inst.is_pure()))
}

fn defines(head: &Block, operand: Operand) -> bool {
    head.stmts
        .iter()
        .any(|s| matches!(s, Stmt::Inst(inst) if inst.results.iter().any(|r| Operand::Value(*r) == operand)))
}

/// Whether a block uses a value that `head` defines.
fn uses_any(block: &Block, head: &Block) -> bool {
    let hit = |operand: Operand| defines(head, operand);
    block.stmts.iter().any(|stmt| match stmt {
        Stmt::Note(_) => false,
        Stmt::Inst(inst) => {
            let mut found = false;
            inst.each_use(&mut |id| found |= hit(Operand::Value(id)));
            found
        }
        Stmt::If(b) => {
            hit(b.cond)
                || b.merges.iter().any(|m| hit(m.then) || hit(m.otherwise))
                || uses_any(&b.then, head)
                || uses_any(&b.otherwise, head)
        }
        Stmt::Loop(l) => {
            hit(l.cond)
                || l.carried.iter().any(|c| hit(c.init) || hit(c.next))
                || uses_any(&l.head, head)
                || uses_any(&l.body, head)
        }
    })
}
