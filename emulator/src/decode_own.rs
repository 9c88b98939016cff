//! Decoding of the rows whose operands do not fit the common d, a, b, c shape: moves, memory, warps, control.

use ptx::{AddrBase, Inst, Mod, Op, Operand, Special, Ty};

use crate::code::{
    Access, AtomOp, Compare, CopyOp, File, Kind, MmaElem, MmaOp, Reduction, ShflMode, ShflOp, Slot,
};
use crate::decode::{Decoder, Why};

const BAD_OPERAND: Why = "operand of a kind that the row does not have, though the module was verified";

fn file_of(ty: Ty) -> File {
    match ty.bits() {
        0 => File::P,
        64 => File::Q,
        _ => File::W,
    }
}

impl Decoder<'_> {
    /// Rows that have code of their own.
    pub fn own(&mut self, inst: &Inst) -> Result<(), Why> {
        match inst.form.op {
            Op::Mov => self.mov(inst),
            Op::Setp => self.setp(inst),
            Op::Selp => self.selp(inst),
            Op::Lop3 => self.lop3(inst),
            Op::Ld if inst.form.mods.has(Mod::Param) => self.load_param(inst),
            Op::Ld | Op::St => self.access(inst),
            Op::Atom | Op::AtomCas | Op::Red => self.atom(inst),
            Op::ShflSync => self.shuffle(inst),
            Op::VoteSync | Op::BallotSync => self.vote(inst),
            Op::ReduxSync => self.redux(inst),
            Op::MmaInt8 | Op::MmaHalf => self.mma(inst),
            Op::MbarrierInit | Op::MbarrierArrive | Op::MbarrierExpect | Op::MbarrierTryWait => {
                self.mbarrier(inst)
            }
            Op::CopyBulk => self.copy_bulk(inst),
            Op::Bra => self.branch(inst),
            _ => self.simple(inst),
        }
    }

    fn simple(&mut self, inst: &Inst) -> Result<(), Why> {
        let operand = inst.operands.first();
        let slot = match inst.form.op {
            Op::BarSync => match operand {
                Some(Operand::Imm(imm)) => Slot { x: imm.0 as u32, ..Slot::new(Kind::BarSync) },
                _ => return Err(BAD_OPERAND),
            },
            Op::BarWarpSync => {
                Slot { a: self.source_in(operand, Ty::B32, File::W)?, ..Slot::new(Kind::BarWarp) }
            }
            Op::Fence => Slot::new(Kind::Fence),
            Op::FenceProxyAsync | Op::FenceMbarrierInit => Slot::new(Kind::FenceAsync),
            Op::Ret => Slot::new(Kind::Ret),
            Op::Trap => Slot::new(Kind::Trap),
            // Timing only: there is no cache to warm, no other grid in flight, and nothing to wait for.
            Op::Prefetch | Op::GridDepControl | Op::Nanosleep => Slot::new(Kind::Nop),
            _ => return Err(BAD_OPERAND),
        };
        self.push(slot);
        Ok(())
    }

    fn mov(&mut self, inst: &Inst) -> Result<(), Why> {
        let ty = inst.form.ty().ok_or(BAD_OPERAND)?;
        match (inst.operands.first(), inst.operands.get(1)) {
            (Some(Operand::List(to)), source) => self.unpack(to, source),
            (to, Some(Operand::List(from))) => {
                let d = self.reg(to)?;
                let parts = from.iter().map(|r| self.place(*r)).collect::<Result<Vec<_>, _>>()?;
                match (d.file, parts.as_slice()) {
                    (File::Q, [lo, hi]) => self.push_op(Kind::PackQ, [d.index, lo.index, hi.index]),
                    (File::W, [lo, hi]) => self.push_op(Kind::PackW, [d.index, lo.index, hi.index]),
                    // Four 16-bit parts: two words through a scratch register.
                    (File::Q, [p0, p1, p2, p3]) => {
                        let [lo, hi] = self.scratch;
                        self.push_op(Kind::PackW, [lo, p0.index, p1.index]);
                        self.push_op(Kind::PackW, [hi, p2.index, p3.index]);
                        self.push_op(Kind::PackQ, [d.index, lo, hi]);
                    }
                    _ => return Err("packing of parts other than halves or quarters"),
                }
                Ok(())
            }
            (to, Some(Operand::Special(special))) => {
                let d = self.source_in(to, ty, File::W)?;
                let x = Special::ALL.iter().position(|(s, _)| s == special).ok_or(BAD_OPERAND)? as u32;
                self.push(Slot { d, x, ..Slot::new(Kind::Special) });
                Ok(())
            }
            (to, source) => {
                let d = self.reg(to)?;
                let a = self.source_in(source, ty, d.file)?;
                let kind = match d.file {
                    File::W => Kind::MovW,
                    File::Q => Kind::MovQ,
                    File::P => Kind::MovP,
                };
                self.push_op(kind, [d.index, a, 0]);
                Ok(())
            }
        }
    }

    fn unpack(&mut self, to: &[ptx::Reg], source: Option<&Operand>) -> Result<(), Why> {
        let from = self.reg(source)?;
        let parts = to.iter().map(|r| self.place(*r)).collect::<Result<Vec<_>, _>>()?;
        match (from.file, parts.as_slice()) {
            (File::Q, [lo, hi]) => {
                self.push_op(Kind::LowQ, [lo.index, from.index, 0]);
                self.push_op(Kind::HighQ, [hi.index, from.index, 0]);
            }
            (File::W, [lo, hi]) => {
                self.push_op(Kind::ExtU16, [lo.index, from.index, 0]);
                self.push_op(Kind::HighW, [hi.index, from.index, 0]);
            }
            (File::Q, [p0, p1, p2, p3]) => {
                let [word, _] = self.scratch;
                for (kind, pair) in [(Kind::LowQ, [p0, p1]), (Kind::HighQ, [p2, p3])] {
                    self.push_op(kind, [word, from.index, 0]);
                    self.push_op(Kind::ExtU16, [pair[0].index, word, 0]);
                    self.push_op(Kind::HighW, [pair[1].index, word, 0]);
                }
            }
            _ => return Err("unpacking into parts other than halves or quarters"),
        }
        Ok(())
    }

    fn push_op(&mut self, kind: Kind, [d, a, b]: [u16; 3]) {
        self.push(Slot { d, a, b, ..Slot::new(kind) });
    }

    fn setp(&mut self, inst: &Inst) -> Result<(), Why> {
        let ty = inst.form.ty().ok_or(BAD_OPERAND)?;
        let kind = match ty {
            Ty::F32 => Kind::SetpF,
            Ty::U32 | Ty::B32 => Kind::SetpU,
            Ty::S32 => Kind::SetpS,
            Ty::U64 | Ty::B64 => Kind::SetpUQ,
            Ty::S64 => Kind::SetpSQ,
            _ => return self.eval(inst),
        };
        let compare = COMPARES.iter().find(|(m, _)| inst.form.mods.has(*m)).ok_or(BAD_OPERAND)?.1;
        let d = self.pred(inst.operands.first())?;
        let a = self.source_in(inst.operands.get(1), ty, file_of(ty))?;
        let b = self.source_in(inst.operands.get(2), ty, file_of(ty))?;
        self.push(Slot { d, a, b, x: compare as u32, ..Slot::new(kind) });
        Ok(())
    }

    fn selp(&mut self, inst: &Inst) -> Result<(), Why> {
        let ty = inst.form.ty().ok_or(BAD_OPERAND)?;
        let file = file_of(ty);
        let kind = if file == File::Q { Kind::SelQ } else { Kind::SelW };
        let d = self.reg(inst.operands.first())?.index;
        let a = self.source_in(inst.operands.get(1), ty, file)?;
        let b = self.source_in(inst.operands.get(2), ty, file)?;
        let c = self.pred(inst.operands.get(3))?;
        self.push(Slot { d, a, b, c, ..Slot::new(kind) });
        Ok(())
    }

    fn lop3(&mut self, inst: &Inst) -> Result<(), Why> {
        let Some(Operand::Imm(lut)) = inst.operands.get(4) else { return Err(BAD_OPERAND) };
        let d = self.reg(inst.operands.first())?.index;
        let mut sources = [0; 3];
        for (i, source) in sources.iter_mut().enumerate() {
            *source = self.source_in(inst.operands.get(i + 1), Ty::B32, File::W)?;
        }
        let [a, b, c] = sources;
        // The two tables that kernels use; `Lop3` does any.
        let kind = match lut.0 {
            0xea => Kind::AndOrW,
            0xfe => Kind::Or3W,
            _ => Kind::Lop3,
        };
        self.push(Slot { d, a, b, c, x: lut.0 as u32, ..Slot::new(kind) });
        Ok(())
    }

    fn load_param(&mut self, inst: &Inst) -> Result<(), Why> {
        let (Some(ty), Some(Operand::Addr(addr))) = (inst.form.ty(), inst.operands.get(1)) else {
            return Err(BAD_OPERAND);
        };
        let AddrBase::Param(param) = addr.base else { return Err(BAD_OPERAND) };
        if inst.form.vector() != 1 {
            return Err("a parameter is one scalar; vectors of it cannot be loaded");
        }
        let d = self.reg(inst.operands.first())?;
        let kind = if d.file == File::Q { Kind::LdParamQ } else { Kind::LdParamW };
        let x = addr.offset as u32 & 7 | ty.bytes() << 8 | u32::from(ty.is_signed()) << 16;
        // The register's width says how far a narrow value is extended.
        self.push(Slot { d: d.index, a: param as u16, b: d.bits as u16, x, ..Slot::new(kind) });
        Ok(())
    }

    fn access(&mut self, inst: &Inst) -> Result<(), Why> {
        let form = inst.form;
        let ty = form.ty().ok_or(BAD_OPERAND)?;
        let is_load = form.op == Op::Ld;
        let shared = form.mods.has(Mod::Shared);
        let (data, memory) = if is_load { (0, 1) } else { (1, 0) };
        let (base, offset) =
            self.address(inst.operands.get(memory), if shared { File::W } else { File::Q })?;
        let places = match inst.operands.get(data) {
            Some(Operand::List(regs)) => {
                regs.iter().map(|r| self.place(*r)).collect::<Result<Vec<_>, _>>()?
            }
            operand => vec![self.source(operand, ty)?],
        };
        let first = *places.first().ok_or(BAD_OPERAND)?;
        if places.len() > 4 || places.iter().any(|p| p.file != first.file || p.file == File::P) {
            return Err("a vector of registers of different widths");
        }
        let mut regs = [first.index; 4];
        for (reg, place) in regs.iter_mut().zip(&places) {
            *reg = place.index;
        }
        let strong = [Mod::Volatile, Mod::Relaxed, Mod::Acquire, Mod::Release];
        let kind = match (is_load, shared) {
            (true, false) => Kind::LdGlobal,
            (true, true) => Kind::LdShared,
            (false, false) => Kind::StGlobal,
            (false, true) => Kind::StShared,
        };
        let x = self.code.accesses.len() as u32;
        self.code.accesses.push(Access {
            base,
            offset,
            vector: form.vector(),
            size: ty.bytes(),
            signed: ty.is_signed(),
            strong: strong.iter().any(|m| form.mods.has(*m)),
            regs,
            file: first.file,
            reg_bits: places.iter().map(|p| p.bits).min().unwrap_or(32),
        });
        self.push(Slot { x, ..Slot::new(kind) });
        Ok(())
    }

    fn atom(&mut self, inst: &Inst) -> Result<(), Why> {
        let form = inst.form;
        let ty = form.ty().ok_or(BAD_OPERAND)?;
        let shared = form.mods.has(Mod::Shared);
        let file = file_of(ty);
        let returns = form.op != Op::Red;
        let memory = usize::from(returns);
        let (base, offset) =
            self.address(inst.operands.get(memory), if shared { File::W } else { File::Q })?;
        let to = if returns { Some(self.source_in(inst.operands.first(), ty, file)?) } else { None };
        let value = self.source_in(inst.operands.get(memory + 1), ty, file)?;
        let new = match form.op {
            Op::AtomCas => self.source_in(inst.operands.get(memory + 2), ty, file)?,
            _ => value,
        };
        let op = reduction(inst, ty)?;
        let x = self.code.atoms.len() as u32;
        self.code.atoms.push(AtomOp { base, offset, op, file, to, value, new });
        self.push(Slot { x, ..Slot::new(if shared { Kind::AtomShared } else { Kind::AtomGlobal }) });
        Ok(())
    }

    fn mbarrier(&mut self, inst: &Inst) -> Result<(), Why> {
        let (kind, memory) = match inst.form.op {
            Op::MbarrierInit => (Kind::MbarrierInit, 0),
            Op::MbarrierArrive => (Kind::MbarrierArrive, 1),
            Op::MbarrierExpect => (Kind::MbarrierExpect, 1),
            _ => (Kind::MbarrierWait, 1),
        };
        let (a, offset) = self.address(inst.operands.get(memory), File::W)?;
        let b = match inst.operands.get(memory + 1) {
            Some(operand) => self.source_in(Some(operand), Ty::B32, File::W)?,
            None => 0,
        };
        let d = if memory == 1 { self.reg(inst.operands.first())?.index } else { 0 };
        self.push(Slot { d, a, b, x: offset as u32, ..Slot::new(kind) });
        Ok(())
    }

    fn copy_bulk(&mut self, inst: &Inst) -> Result<(), Why> {
        let to = self.address(inst.operands.first(), File::W)?;
        let from = self.address(inst.operands.get(1), File::Q)?;
        let bytes = self.source_in(inst.operands.get(2), Ty::B32, File::W)?;
        let mbarrier = self.address(inst.operands.get(3), File::W)?;
        let x = self.code.copies.len() as u32;
        self.code.copies.push(CopyOp { to, from, bytes, mbarrier });
        self.push(Slot { x, ..Slot::new(Kind::CopyBulk) });
        Ok(())
    }

    fn shuffle(&mut self, inst: &Inst) -> Result<(), Why> {
        let (to, in_range) = match inst.operands.first() {
            Some(Operand::Pair(to, p)) => (self.place(*to)?.index, Some(self.place(*p)?.index)),
            operand => (self.reg(operand)?.index, None),
        };
        let modes = [
            (Mod::Up, ShflMode::Up),
            (Mod::Down, ShflMode::Down),
            (Mod::Bfly, ShflMode::Bfly),
            (Mod::Idx, ShflMode::Idx),
        ];
        let mode = modes.iter().find(|(m, _)| inst.form.mods.has(*m)).ok_or(BAD_OPERAND)?.1;
        let mut sources = [0; 4];
        for (i, source) in sources.iter_mut().enumerate() {
            *source = self.source_in(inst.operands.get(i + 1), Ty::B32, File::W)?;
        }
        let [value, lane, clamp, members] = sources;
        let x = self.code.shuffles.len() as u32;
        self.code.shuffles.push(ShflOp { mode, to, in_range, value, lane, clamp, members });
        // The registers of the commonest ones are in the slot itself.
        self.push(Slot { d: to, a: value, b: lane, x, ..Slot::new(Kind::Shfl) });
        Ok(())
    }

    fn vote(&mut self, inst: &Inst) -> Result<(), Why> {
        let has = |m| inst.form.mods.has(m);
        let kind = match inst.form.op {
            Op::BallotSync => Kind::Ballot,
            _ if has(Mod::Any) => Kind::VoteAny,
            _ if has(Mod::All) => Kind::VoteAll,
            _ => Kind::VoteUni,
        };
        let d = self.reg(inst.operands.first())?.index;
        let a = self.pred(inst.operands.get(1))?;
        let b = self.source_in(inst.operands.get(2), Ty::B32, File::W)?;
        self.push(Slot { d, a, b, ..Slot::new(kind) });
        Ok(())
    }

    fn redux(&mut self, inst: &Inst) -> Result<(), Why> {
        let ty = inst.form.ty().ok_or(BAD_OPERAND)?;
        let d = self.reg(inst.operands.first())?.index;
        let a = self.source_in(inst.operands.get(1), ty, File::W)?;
        let b = self.source_in(inst.operands.get(2), Ty::B32, File::W)?;
        let x = reduction(inst, ty)? as u32;
        self.push(Slot { d, a, b, x, ..Slot::new(Kind::Redux) });
        Ok(())
    }

    fn fragment<const N: usize>(&self, operand: Option<&Operand>) -> Result<[u16; N], Why> {
        let Some(Operand::List(regs)) = operand else { return Err(BAD_OPERAND) };
        let mut out = [0; N];
        if regs.len() != N {
            return Err(BAD_OPERAND);
        }
        for (slot, reg) in out.iter_mut().zip(regs) {
            *slot = self.place(*reg)?.index;
        }
        Ok(out)
    }

    fn mma(&mut self, inst: &Inst) -> Result<(), Why> {
        let elem = |i| match inst.form.types.get(i) {
            Some(Ty::S8) => Ok(MmaElem::S8),
            Some(Ty::U8) => Ok(MmaElem::U8),
            Some(Ty::F16) => Ok(MmaElem::F16),
            Some(Ty::Bf16) => Ok(MmaElem::Bf16),
            _ => Err(BAD_OPERAND),
        };
        let op = MmaOp {
            adder: self.adder,
            a_elem: elem(1)?,
            b_elem: elem(2)?,
            saturate: inst.form.mods.has(Mod::Satfinite),
            d: self.fragment(inst.operands.first())?,
            a: self.fragment(inst.operands.get(1))?,
            b: self.fragment(inst.operands.get(2))?,
            c: self.fragment(inst.operands.get(3))?,
        };
        let kind = if inst.form.op == Op::MmaInt8 { Kind::MmaInt8 } else { Kind::MmaHalf };
        let x = self.code.mmas.len() as u32;
        self.code.mmas.push(op);
        self.push(Slot { x, ..Slot::new(kind) });
        Ok(())
    }

    fn branch(&mut self, inst: &Inst) -> Result<(), Why> {
        let Some(Operand::Label(label)) = inst.operands.first() else { return Err(BAD_OPERAND) };
        let kind = match (inst.guard.is_some(), inst.form.mods.has(Mod::Uni)) {
            (false, _) => Kind::Bra,
            (true, false) => Kind::BraIf,
            (true, true) => Kind::BraIfUni,
        };
        // Labels become slots when all of them are known.
        self.push(Slot { x: label.0, ..Slot::new(kind) });
        Ok(())
    }
}

const COMPARES: [(Mod, Compare); 14] = [
    (Mod::Eq, Compare::Eq),
    (Mod::Ne, Compare::Ne),
    (Mod::Lt, Compare::Lt),
    (Mod::Le, Compare::Le),
    (Mod::Gt, Compare::Gt),
    (Mod::Ge, Compare::Ge),
    (Mod::Equ, Compare::Equ),
    (Mod::Neu, Compare::Neu),
    (Mod::Ltu, Compare::Ltu),
    (Mod::Leu, Compare::Leu),
    (Mod::Gtu, Compare::Gtu),
    (Mod::Geu, Compare::Geu),
    (Mod::Num, Compare::Num),
    (Mod::IsNan, Compare::IsNan),
];

fn reduction(inst: &Inst, ty: Ty) -> Result<Reduction, Why> {
    let has = |m| inst.form.mods.has(m);
    let signed = ty.is_signed();
    let table = [
        (Mod::Add, Reduction::Add),
        (Mod::Min, if signed { Reduction::MinS } else { Reduction::MinU }),
        (Mod::Max, if signed { Reduction::MaxS } else { Reduction::MaxU }),
        (Mod::And, Reduction::And),
        (Mod::Or, Reduction::Or),
        (Mod::Xor, Reduction::Xor),
        (Mod::Exch, Reduction::Exch),
        (Mod::Inc, Reduction::Inc),
        (Mod::Cas, Reduction::Cas),
    ];
    table.iter().find(|(m, _)| has(*m)).map(|(_, op)| *op).ok_or(BAD_OPERAND)
}
