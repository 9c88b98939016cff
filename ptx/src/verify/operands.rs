//! Instructions held against their rows: number, kind and type of operands, vector lengths, addresses.

use super::fault::Fault;
use crate::inst::{Addr, AddrBase, Form, Imm, Inst, Operand};
use crate::module::{Entry, Module, Reg, SharedDecl, Storage};
use crate::print::print_reg;
use crate::table::{Effect, Op, Sig, T};
use crate::types::{Mod, Ty};

/// What addresses and sizes of a bulk copy are multiples of (PTX ISA 9.7.8, cp.async.bulk).
const BULK_BYTES: u32 = 16;
/// Size of an mbarrier, and its alignment (PTX ISA 9.7.12, mbarrier).
const MBARRIER_BYTES: u32 = 8;

pub(super) fn check_inst(module: &Module, entry: &Entry, inst: &Inst) -> Result<(), Fault> {
    inst.form.check()?;
    let needed = inst.form.min_sm();
    if module.target.sm < needed {
        return Err(Fault::Target { needed, target: module.target.to_string() });
    }
    if let Some(guard) = inst.guard {
        let found = reg_type(entry, guard.reg)?;
        if found != Ty::Pred {
            return Err(Fault::Guard { reg: print_reg(entry, guard.reg), found });
        }
    }
    let sigs = inst.form.row().operands;
    if sigs.len() != inst.operands.len() {
        return Err(Fault::OperandCount { expected: sigs.len(), found: inst.operands.len() });
    }
    for (position, (sig, operand)) in sigs.iter().zip(&inst.operands).enumerate() {
        Site { entry, form: inst.form, position, sm: module.target.sm }.check(*sig, operand)?;
    }
    check_written_once(entry, inst)?;
    if inst.form.op == Op::Mov { check_mov_lists(entry, inst) } else { Ok(()) }
}

/// The type a register is declared with.
fn reg_type(entry: &Entry, reg: Reg) -> Result<Ty, Fault> {
    let Some(bank) = entry.banks.get(reg.bank as usize) else {
        return Err(Fault::BankRange { bank: reg.bank, count: entry.banks.len() });
    };
    if reg.index >= bank.count {
        return Err(Fault::RegisterRange { reg: print_reg(entry, reg), count: bank.count });
    }
    Ok(bank.ty)
}

/// No register stands twice among the destinations: which value it ends with is unspecified.
fn check_written_once(entry: &Entry, inst: &Inst) -> Result<(), Fault> {
    let mut written = inst.written();
    written.sort();
    match written.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Fault::WrittenTwice { reg: print_reg(entry, pair[0]) }),
        None => Ok(()),
    }
}

/// `mov` packs or unpacks: at most one side is a list, and its widths add up to the type (PTX ISA 9.7.8, mov).
fn check_mov_lists(entry: &Entry, inst: &Inst) -> Result<(), Fault> {
    let (Some(ty), [dst, src]) = (inst.form.ty(), inst.operands.as_slice()) else { return Ok(()) };
    let lists: Vec<&Vec<Reg>> = [dst, src]
        .into_iter()
        .filter_map(|operand| if let Operand::List(regs) = operand { Some(regs) } else { None })
        .collect();
    match lists.as_slice() {
        [] => Ok(()),
        [list] if ty.is_bits() => {
            let widths = list.iter().map(|reg| reg_type(entry, *reg));
            let found = widths.sum::<Result<Bits, Fault>>()?.0;
            let even = matches!(list.len(), 2 | 4);
            if found != ty.bits() || !even {
                return Err(Fault::PackedWidth { ty, expected: ty.bits(), found });
            }
            match if matches!(dst, Operand::List(_)) { src } else { dst } {
                Operand::Reg(_) => Ok(()),
                other => Err(kind_fault(1, "a register beside a list", other)),
            }
        }
        [_] => Err(Fault::OperandKind {
            position: 0,
            expected: "a register; lists are packed by .b32 and .b64".to_owned(),
            found: format!("a list for .{ty}"),
        }),
        _ => Err(kind_fault(1, "a register: one side of mov is a list", src)),
    }
}

/// A sum of register widths.
struct Bits(u32);

impl std::iter::Sum<Ty> for Bits {
    fn sum<I: Iterator<Item = Ty>>(types: I) -> Bits {
        Bits(types.map(Ty::bits).sum())
    }
}

fn describe(operand: &Operand) -> &'static str {
    match operand {
        Operand::Reg(_) => "a register",
        Operand::List(_) => "a list",
        Operand::Imm(_) => "an immediate",
        Operand::Special(_) => "a special register",
        Operand::SharedAddr(_) => "a shared variable's address",
        Operand::Addr(_) => "a memory operand",
        Operand::Label(_) => "a label",
        Operand::Pair(..) => "a register and predicate pair",
    }
}

fn kind_fault(position: usize, expected: &str, found: &Operand) -> Fault {
    Fault::OperandKind { position, expected: expected.to_owned(), found: describe(found).to_owned() }
}

/// An operand position of one instruction.
struct Site<'a> {
    entry: &'a Entry,
    form: Form,
    position: usize,
    sm: u32,
}

impl Site<'_> {
    fn check(&self, sig: Sig, operand: &Operand) -> Result<(), Fault> {
        let wrong = |expected: &str| Err(kind_fault(self.position, expected, operand));
        match (sig, operand) {
            (Sig::Dst(t) | Sig::Src(t) | Sig::SrcReg(t), Operand::Reg(reg)) => self.register(*reg, t),
            (Sig::Src(t) | Sig::Lit(t), Operand::Imm(imm)) => self.immediate(*imm, t),
            (Sig::Dst(_) | Sig::SrcReg(_), _) => wrong("a register"),
            (Sig::Src(_), _) => wrong("a register or an immediate"),
            (Sig::Lit(_), _) => wrong("an immediate"),
            (Sig::DstVec(t) | Sig::SrcVec(t), _) => match (self.form.vector(), operand) {
                (1, Operand::Reg(reg)) => self.register(*reg, t),
                (1, _) => wrong("a register"),
                (n, Operand::List(regs)) => self.list(regs, n as usize, t),
                (_, _) => wrong("a list"),
            },
            (Sig::DstList(n, t) | Sig::SrcList(n, t), Operand::List(regs)) => {
                self.list(regs, usize::from(n), t)
            }
            (Sig::DstList(..) | Sig::SrcList(..), _) => wrong("a list"),
            (Sig::DstMov, _) => self.mov_destination(operand),
            (Sig::SrcMov, _) => self.mov_source(operand),
            (Sig::DstShfl, Operand::Reg(reg)) => self.register(*reg, T::Nth(0)),
            (Sig::DstShfl, Operand::Pair(reg, pred)) => {
                self.register(*reg, T::Nth(0))?;
                self.register(*pred, T::Fixed(Ty::Pred))
            }
            (Sig::DstShfl, _) => wrong("a register, or a register and predicate pair"),
            (Sig::Mem, Operand::Addr(addr)) => {
                let spaces = [Mod::Global, Mod::Shared, Mod::Param];
                self.memory(*addr, spaces.into_iter().find(|m| self.form.mods.has(*m)))
            }
            (Sig::MemIn(space), Operand::Addr(addr)) => self.memory(*addr, Some(space)),
            (Sig::Mem | Sig::MemIn(_), _) => wrong("a memory operand"),
            (Sig::Target, Operand::Label(label)) => super::structure::check_label(self.entry, *label),
            (Sig::Target, _) => wrong("a label"),
        }
    }

    fn mov_destination(&self, operand: &Operand) -> Result<(), Fault> {
        match operand {
            Operand::Reg(reg) => self.register(*reg, T::Nth(0)),
            // Widths are added up by `check_mov_lists`.
            Operand::List(_) => Ok(()),
            _ => Err(kind_fault(self.position, "a register or a list", operand)),
        }
    }

    fn mov_source(&self, operand: &Operand) -> Result<(), Fault> {
        let ty = self.form.ty();
        let word = matches!(ty, Some(Ty::U32 | Ty::B32));
        match operand {
            Operand::Reg(reg) => self.register(*reg, T::Nth(0)),
            Operand::Imm(imm) => self.immediate(*imm, T::Nth(0)),
            Operand::List(_) => Ok(()),
            // Special registers read here are 32 bits wide (PTX ISA 10); shared addresses are used as 32 bits.
            Operand::Special(_) if word => Ok(()),
            Operand::SharedAddr(index) if word => {
                let count = self.entry.shared.len();
                let exists = (*index as usize) < count;
                exists.then_some(()).ok_or(Fault::Dangling { kind: "shared variable", index: *index, count })
            }
            Operand::Special(_) | Operand::SharedAddr(_) => Err(kind_fault(
                self.position,
                "a value of the type (that one is moved by .u32 or .b32)",
                operand,
            )),
            _ => Err(kind_fault(self.position, "something to move", operand)),
        }
    }

    /// Register types: integers, floats and predicates have one; bits go by width wherever PTX's "bit types agree
    /// with any type of the same size" (ISA 9.2) holds.
    fn register(&self, reg: Reg, t: T) -> Result<(), Fault> {
        let found = reg_type(self.entry, reg)?;
        let Some(ty) = t.of(self.form.types) else { return Ok(()) };
        let declared = ty.register();
        let fits = match t {
            T::Fixed(_) => found == declared,
            // A narrow integer may lie in a wider register, a float only in its own kind (ISA 9.4.1).
            T::AtLeast(_) if !ty.is_float() => {
                found == declared
                    || found != Ty::Pred && !found.is_float() && found.bytes() >= ty.bytes()
                    || ty.is_bits() && found.is_float() && found.bytes() == ty.bytes()
            }
            _ if ty.is_bits() => found != Ty::Pred && found.bytes() == ty.bytes(),
            _ => found == declared,
        };
        if fits {
            return Ok(());
        }
        let expected = format!("a .{declared} register for .{ty}");
        Err(Fault::RegisterType { position: self.position, reg: print_reg(self.entry, reg), found, expected })
    }

    fn list(&self, regs: &[Reg], expected: usize, t: T) -> Result<(), Fault> {
        if regs.len() != expected {
            return Err(Fault::ListLength { position: self.position, expected, found: regs.len() });
        }
        regs.iter().try_for_each(|reg| self.register(*reg, t))
    }

    fn immediate(&self, Imm(bits): Imm, t: T) -> Result<(), Fault> {
        let Some(ty) = t.of(self.form.types) else { return Ok(()) };
        let width = if ty == Ty::Pred { 1 } else { ty.bits() };
        if bits & !crate::sem::mask(width) != 0 {
            return Err(Fault::ImmediateRange { bits, ty });
        }
        match self.form.op {
            Op::BarSync if bits >= 16 => Err(Fault::Barrier { found: bits }),
            Op::CopyBulk if bits % u64::from(BULK_BYTES) != 0 => Err(Fault::CopySize { found: bits }),
            Op::Lop3 if self.position == 4 && bits > 0xff => Err(Fault::TruthTable { found: bits }),
            Op::And | Op::Or | Op::Xor | Op::Not if ty == Ty::Pred => {
                Err(kind_fault(self.position, "a predicate register", &Operand::Imm(Imm(bits))))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that the instruction surely accesses at its address; 0 for a prefetch.
    fn access_bytes(&self) -> u32 {
        if self.form.op == Op::CopyBulk {
            return if self.position == 3 { MBARRIER_BYTES } else { BULK_BYTES };
        }
        self.form.ty().map_or(0, Ty::bytes) * self.form.vector()
    }

    fn memory(&self, addr: Addr, space: Option<Mod>) -> Result<(), Fault> {
        let expected = space.map_or("", Mod::text);
        let (name, found) = match addr.base {
            AddrBase::Reg(reg) => return self.based_on_register(addr, reg, space),
            AddrBase::Param(index) => (self.param_name(index)?, Mod::Param),
            AddrBase::Shared(index) => (self.shared_name(index)?, Mod::Shared),
        };
        if space != Some(found) {
            return Err(Fault::Space { name: name.to_owned(), found: found.text(), expected });
        }
        self.inside_variable(addr)
    }

    /// Global addresses are 64 bits, shared ones 32; a vector access needs its offset aligned as its base is.
    fn based_on_register(&self, addr: Addr, reg: Reg, space: Option<Mod>) -> Result<(), Fault> {
        let found = reg_type(self.entry, reg)?;
        let needed = match space {
            Some(Mod::Global) => Ty::B64,
            Some(Mod::Shared) => Ty::B32,
            _ => {
                let (name, expected) = (print_reg(self.entry, reg), "param, whose variables are named");
                return Err(Fault::Space { name, found: "a register", expected });
            }
        };
        if found != needed {
            let expected = format!("a .{needed} address");
            let reg = print_reg(self.entry, reg);
            return Err(Fault::RegisterType { position: self.position, reg, found, expected });
        }
        let bytes = self.access_bytes();
        if self.form.vector() > 1 && i64::from(addr.offset) % i64::from(bytes) != 0 {
            return Err(Fault::Misaligned { offset: i64::from(addr.offset), bytes });
        }
        Ok(())
    }

    fn param_name(&self, index: u32) -> Result<&str, Fault> {
        let params = &self.entry.params;
        let missing = Fault::Dangling { kind: "parameter", index, count: params.len() };
        params.get(index as usize).map(|param| param.name.as_str()).ok_or(missing)
    }

    fn shared_name(&self, index: u32) -> Result<&str, Fault> {
        let shared = &self.entry.shared;
        let missing = Fault::Dangling { kind: "shared variable", index, count: shared.len() };
        shared.get(index as usize).map(|decl| decl.name.as_str()).ok_or(missing)
    }

    /// How far a shared variable may reach: a dynamic one as far as any CTA's memory; the launch decides.
    fn extent(&self, decl: &SharedDecl) -> u32 {
        match decl.storage {
            Storage::Static => decl.bytes,
            Storage::Dynamic => super::shared_bytes_of_cta(self.sm),
        }
    }

    /// An access to a named variable lies inside it and is naturally aligned.
    fn inside_variable(&self, addr: Addr) -> Result<(), Fault> {
        let variable = match addr.base {
            AddrBase::Param(index) => {
                self.entry.params.get(index as usize).map(|p| (&p.name, p.ty.bytes(), p.ty.bytes()))
            }
            AddrBase::Shared(index) => {
                self.entry.shared.get(index as usize).map(|decl| (&decl.name, self.extent(decl), decl.align))
            }
            AddrBase::Reg(_) => None,
        };
        let Some((name, size, align)) = variable else { return Ok(()) };
        let bytes = self.access_bytes();
        let (start, end) = (i64::from(addr.offset), i64::from(addr.offset) + i64::from(bytes));
        if start < 0 || end > i64::from(size) {
            return Err(Fault::OutOfVariable { name: name.clone(), start, end, size });
        }
        if bytes > 0 && start % i64::from(bytes) != 0 {
            return Err(Fault::Misaligned { offset: start, bytes });
        }
        if align < bytes {
            return Err(Fault::UnderAligned { name: name.clone(), align, bytes });
        }
        Ok(())
    }
}

impl Inst {
    /// The registers this instruction writes (under its guard, if it has one), in operand order.
    pub fn written(&self) -> Vec<Reg> {
        let mut regs = Vec::new();
        for (sig, operand) in self.form.row().operands.iter().zip(&self.operands) {
            if sig.writes() {
                collect(operand, &mut regs);
            }
        }
        regs
    }

    /// The registers this instruction reads, its guard first, then in operand order.
    pub fn read(&self) -> Vec<Reg> {
        let mut regs: Vec<Reg> = self.guard.iter().map(|guard| guard.reg).collect();
        for (sig, operand) in self.form.row().operands.iter().zip(&self.operands) {
            if !sig.writes() {
                collect(operand, &mut regs);
            }
        }
        regs
    }

    /// Whether control cannot pass to the next statement.
    pub fn ends_block(&self) -> bool {
        self.guard.is_none() && self.form.row().effect == Effect::Control
    }
}

fn collect(operand: &Operand, regs: &mut Vec<Reg>) {
    match operand {
        Operand::Reg(reg) | Operand::Addr(Addr { base: AddrBase::Reg(reg), .. }) => regs.push(*reg),
        Operand::List(list) => regs.extend(list),
        Operand::Pair(reg, pred) => regs.extend([*reg, *pred]),
        _ => {}
    }
}
