//! From an entry's statements to slots: registers and constants get indices, labels become slot numbers.

use std::collections::BTreeMap;

use ptx::sem::tensor::Adder;
use ptx::{Addr, AddrBase, Entry, Inst, Op, Operand, Reg, Stmt, Storage, Target, Ty};

use crate::allocate::compact;
use crate::chain::link;
use crate::code::{Code, EvalOp, File, Kind, NOWHERE, Place, Slot};
use crate::decode_pure::{Plan, plan};
use crate::error::Error;
use crate::full;
use crate::fuse::fuse;
use crate::reconverge::post_dominators;

/// Why a statement cannot be decoded.
pub(crate) type Why = &'static str;

const ILL_FORMED: Why = "operands do not fit the row, though the module was verified";

/// Decodes a verified entry of a module for `target`.
pub(crate) fn decode(entry: &Entry, target: Target) -> Result<Code, Error> {
    let mut decoder = Decoder::new(entry, Adder::of(target.sm))?;
    let blocks = Blocks::find(entry);
    for (i, stmt) in entry.body.iter().enumerate() {
        decoder.statement = i;
        decoder.code.text.push(match stmt {
            Stmt::Inst(inst) => ptx::print::print_inst(entry, inst),
            Stmt::Label(label) => format!("${}:", entry.labels.get(label.0 as usize).map_or("", |l| l)),
            Stmt::Comment(text) => format!("// {text}"),
        });
        if let Some(block) = blocks.starting_at(i) {
            decoder.block_slots.push(decoder.code.slots.len() as u32);
            if blocks.is_join[block] {
                decoder.push(Slot::new(Kind::Join));
            }
        }
        if let Stmt::Inst(inst) = stmt {
            let first = decoder.code.slots.len();
            decoder.inst(inst).map_err(|why| decoder.unsupported(why))?;
            let guard = decoder.guard(inst).map_err(|why| decoder.unsupported(why))?;
            for slot in &mut decoder.code.slots[first..] {
                slot.guard = guard;
            }
        }
    }
    // A body that ends without `ret` ends its threads all the same.
    decoder.push(Slot::new(Kind::Ret));
    decoder.resolve(&blocks);
    Ok(decoder.finish())
}

/// Basic blocks of a body, by statement index.
struct Blocks {
    /// First statement of each block, ascending.
    starts: Vec<usize>,
    /// Where a block's paths meet again; the number of blocks if only at the end.
    meets: Vec<usize>,
    /// Whether some branch's paths meet at the start of the block.
    is_join: Vec<bool>,
    /// Block of each label.
    labels: Vec<usize>,
}

impl Blocks {
    fn find(entry: &Entry) -> Blocks {
        let ends =
            |stmt: &Stmt| matches!(stmt, Stmt::Inst(i) if matches!(i.form.op, Op::Bra | Op::Ret | Op::Trap));
        let mut starts = vec![0];
        for (i, stmt) in entry.body.iter().enumerate() {
            if matches!(stmt, Stmt::Label(_)) || i > 0 && ends(&entry.body[i - 1]) {
                starts.push(i);
            }
        }
        starts.sort_unstable();
        starts.dedup();
        let mut labels = vec![0; entry.labels.len()];
        for (i, stmt) in entry.body.iter().enumerate() {
            if let Stmt::Label(label) = stmt {
                labels[label.0 as usize] = starts.partition_point(|s| *s <= i) - 1;
            }
        }
        let n = starts.len();
        let terminator = |b: usize| {
            let end = starts.get(b + 1).copied().unwrap_or(entry.body.len());
            entry.body[..end].last().filter(|_| end > starts[b])
        };
        let last_ret = (0..n).rev().find(|b| returns(terminator(*b)));
        let successors = |all_rets: bool| -> Vec<Vec<usize>> {
            (0..n)
                .map(|b| match terminator(b) {
                    Some(Stmt::Inst(inst)) if inst.form.op == Op::Bra => {
                        let target = inst.operands.iter().find_map(|o| match o {
                            Operand::Label(l) => Some(labels[l.0 as usize]),
                            _ => None,
                        });
                        target.into_iter().chain(inst.guard.map(|_| b + 1)).collect()
                    }
                    Some(Stmt::Inst(inst)) if inst.form.op == Op::Trap && inst.guard.is_none() => Vec::new(),
                    stmt if returns(stmt) => {
                        if all_rets || last_ret == Some(b) {
                            vec![n]
                        } else {
                            Vec::new()
                        }
                    }
                    _ => vec![b + 1],
                })
                .collect()
        };
        // A thread that returns early leaves its warp, and the others still meet where they would without it. So an
        // early `ret` is no path; only blocks that cannot reach the last one go by all of them.
        let early = post_dominators(&successors(false));
        let all = post_dominators(&successors(true));
        let meets: Vec<usize> = early.iter().zip(all).map(|(e, a)| if *e == n { a } else { *e }).collect();
        let mut is_join = vec![false; n + 1];
        for b in 0..n {
            if let Some(Stmt::Inst(inst)) = terminator(b)
                && inst.form.op == Op::Bra
                && inst.guard.is_some()
            {
                is_join[meets[b]] = true;
            }
        }
        is_join.truncate(n);
        Blocks { starts, meets, is_join, labels }
    }

    fn starting_at(&self, statement: usize) -> Option<usize> {
        self.starts.binary_search(&statement).ok()
    }

    fn of(&self, statement: usize) -> usize {
        self.starts.partition_point(|s| *s <= statement) - 1
    }
}

fn returns(stmt: Option<&Stmt>) -> bool {
    matches!(stmt, Some(Stmt::Inst(inst)) if inst.form.op == Op::Ret && inst.guard.is_none())
}

/// State of decoding one entry.
pub(crate) struct Decoder<'a> {
    pub entry: &'a Entry,
    pub code: Code,
    statement: usize,
    /// Place of the first register of each bank.
    banks: Vec<Place>,
    w_consts: BTreeMap<u32, u16>,
    q_consts: BTreeMap<u64, u16>,
    p_consts: BTreeMap<u32, u16>,
    /// First slot of each block so far.
    block_slots: Vec<u32>,
    /// Offset of each shared variable.
    shared: Vec<u32>,
    /// Two `W` registers for moves of several steps.
    pub scratch: [u16; 2],
    /// How the target's tensor cores add up floats.
    pub adder: Adder,
}

impl<'a> Decoder<'a> {
    fn new(entry: &'a Entry, adder: Adder) -> Result<Decoder<'a>, Error> {
        let mut code = Code {
            name: entry.name.clone(),
            reqntid: entry.reqntid,
            params: entry.params.len(),
            ..Code::default()
        };
        let mut banks = Vec::new();
        for bank in &entry.banks {
            let (file, used) = match bank.ty {
                Ty::Pred => (File::P, &mut code.p_regs),
                ty if ty.bytes() == 8 => (File::Q, &mut code.q_regs),
                _ => (File::W, &mut code.w_regs),
            };
            banks.push(Place { file, index: *used as u16, bits: bank.ty.bits() });
            *used += bank.count as usize;
        }
        let scratch = [code.w_regs as u16, code.w_regs as u16 + 1];
        code.w_regs += scratch.len();
        let mut shared = Vec::new();
        for var in &entry.shared {
            let start = code.shared_bytes.next_multiple_of(var.align.max(1));
            if var.storage == Storage::Dynamic {
                code.dynamic_start = Some(start);
                shared.push(start);
                continue;
            }
            code.shared_bytes = start.saturating_add(var.bytes);
            code.shared_vars.push((start, code.shared_bytes));
            shared.push(start);
        }
        let decoder = Decoder {
            entry,
            code,
            statement: 0,
            banks,
            w_consts: BTreeMap::new(),
            q_consts: BTreeMap::new(),
            p_consts: BTreeMap::new(),
            block_slots: Vec::new(),
            shared,
            scratch,
            adder,
        };
        // Half of the index space is left for constants; predicate guards use one bit of theirs.
        let code = &decoder.code;
        if code.w_regs.max(code.q_regs).max(code.p_regs) > 1 << 14 {
            return Err(decoder.unsupported("more than 16384 registers of one width"));
        }
        Ok(decoder)
    }

    fn unsupported(&self, why: Why) -> Error {
        Error::Unsupported {
            entry: self.entry.name.clone(),
            statement: self.statement,
            text: self.code.text.last().cloned().unwrap_or_default(),
            why,
        }
    }

    /// Appends a slot of the current statement.
    pub fn push(&mut self, slot: Slot) {
        self.code.slots.push(slot);
        self.code.origin.push(self.statement as u32);
    }

    /// Where a register lives.
    pub fn place(&self, reg: Reg) -> Result<Place, Why> {
        let bank = self.banks.get(reg.bank as usize).ok_or(ILL_FORMED)?;
        Ok(Place { index: bank.index + reg.index as u16, ..*bank })
    }

    /// A register operand.
    pub fn reg(&self, operand: Option<&Operand>) -> Result<Place, Why> {
        match operand {
            Some(Operand::Reg(reg)) => self.place(*reg),
            _ => Err(ILL_FORMED),
        }
    }

    /// A constant of a type, as a register.
    pub fn constant(&mut self, bits: u64, ty: Ty) -> Result<Place, Why> {
        let (file, index) = match ty {
            Ty::Pred => {
                let mask = if bits & 1 == 1 { u32::MAX } else { 0 };
                let next = self.code.p_regs + self.p_consts.len();
                (File::P, *self.p_consts.entry(mask).or_insert(next as u16))
            }
            ty if ty.bytes() == 8 => {
                let next = self.code.q_regs + self.q_consts.len();
                (File::Q, *self.q_consts.entry(bits).or_insert(next as u16))
            }
            ty => {
                let keep = u32::MAX >> (32 - ty.bits());
                let next = self.code.w_regs + self.w_consts.len();
                (File::W, *self.w_consts.entry(bits as u32 & keep).or_insert(next as u16))
            }
        };
        if self.w_consts.len().max(self.q_consts.len()) > 1 << 15 {
            return Err("more than 32768 different constants");
        }
        Ok(Place { file, index, bits: ty.bits() })
    }

    /// A source operand whose immediates have type `ty`.
    pub fn source(&mut self, operand: Option<&Operand>, ty: Ty) -> Result<Place, Why> {
        match operand {
            Some(Operand::Reg(reg)) => self.place(*reg),
            Some(Operand::Imm(imm)) => self.constant(imm.0, ty),
            Some(Operand::SharedAddr(var)) => {
                let start = *self.shared.get(*var as usize).ok_or(ILL_FORMED)?;
                self.constant(u64::from(start), ty)
            }
            _ => Err(ILL_FORMED),
        }
    }

    /// A source that must be in a file (an operand of another width is a mistake of the verifier).
    pub fn source_in(&mut self, operand: Option<&Operand>, ty: Ty, file: File) -> Result<u16, Why> {
        let place = self.source(operand, ty)?;
        if place.file == file { Ok(place.index) } else { Err(ILL_FORMED) }
    }

    /// A predicate register.
    pub fn pred(&mut self, operand: Option<&Operand>) -> Result<u16, Why> {
        self.source_in(operand, Ty::Pred, File::P)
    }

    /// Base register, and offset in bytes, of a memory operand.
    pub fn address(&mut self, operand: Option<&Operand>, file: File) -> Result<(u16, i32), Why> {
        let Some(Operand::Addr(Addr { base, offset })) = operand else { return Err(ILL_FORMED) };
        let place = match base {
            AddrBase::Reg(reg) => self.place(*reg)?,
            AddrBase::Shared(var) => self.source(Some(&Operand::SharedAddr(*var)), Ty::B32)?,
            AddrBase::Param(_) => return Err("parameters are only loaded"),
        };
        if place.file == file {
            Ok((place.index, *offset))
        } else {
            Err("address register of the wrong width")
        }
    }

    fn guard(&self, inst: &Inst) -> Result<u16, Why> {
        let Some(guard) = inst.guard else { return Ok(0) };
        let place = self.place(guard.reg)?;
        Ok((place.index << 1 | u16::from(guard.negated)) + 1)
    }

    fn inst(&mut self, inst: &Inst) -> Result<(), Why> {
        match plan(inst.form) {
            Plan::Lanes(kind) => self.lanes(inst, kind),
            Plan::Eval => self.eval(inst),
            Plan::Own => self.own(inst),
        }
    }

    fn lanes(&mut self, inst: &Inst, kind: Kind) -> Result<(), Why> {
        // `cvt` may have registers wider than its types, which the vector operations do not expect.
        if inst.form.op == Op::Cvt {
            let exact = |operand: Option<&Operand>, ty: Option<Ty>| match operand {
                Some(Operand::Reg(reg)) => {
                    self.place(*reg).is_ok_and(|p| ty.is_some_and(|ty| p.bits == ty.bits().max(16)))
                }
                _ => false,
            };
            let to = exact(inst.operands.first(), inst.form.types.get(0));
            if !to || !exact(inst.operands.get(1), inst.form.types.get(1)) {
                return self.eval(inst);
            }
        }
        let mut fields = [0; 4];
        for (i, field) in fields.iter_mut().enumerate().take(inst.operands.len()) {
            *field = if i == 0 {
                self.reg(inst.operands.first())?.index
            } else {
                let ty = source_type(inst, i);
                self.source(inst.operands.get(i), ty)?.index
            };
        }
        let [d, a, b, c] = fields;
        self.push(Slot { d, a, b, c, ..Slot::new(kind) });
        Ok(())
    }

    /// A form executed by [`ptx::sem::eval`].
    pub fn eval(&mut self, inst: &Inst) -> Result<(), Why> {
        let to = self.reg(inst.operands.first())?;
        let mut sources = Vec::new();
        for i in 1..inst.operands.len() {
            let ty = source_type(inst, i);
            let place = self.source(inst.operands.get(i), ty)?;
            // What `eval` sees of a register is what the operand's type holds.
            sources.push(Place { bits: ty.bits(), ..place });
        }
        let x = self.code.evals.len() as u32;
        self.code.evals.push(EvalOp { form: inst.form, sources, to });
        self.push(Slot { x, ..Slot::new(Kind::Eval) });
        Ok(())
    }

    /// Turns block numbers of branches into slots.
    fn resolve(&mut self, blocks: &Blocks) {
        let slot_of = |block: usize| self.block_slots.get(block).copied().unwrap_or(NOWHERE);
        for (slot, origin) in self.code.slots.iter_mut().zip(&self.code.origin) {
            if matches!(slot.kind, Kind::Bra | Kind::BraIf | Kind::BraIfUni) {
                let meet = slot_of(blocks.meets[blocks.of(*origin as usize)]);
                (slot.a, slot.b) = (meet as u16, (meet >> 16) as u16);
                slot.x = slot_of(blocks.labels[slot.x as usize]);
            }
        }
    }

    fn finish(self) -> Code {
        let mut code = self.code;
        code.w_consts = self.w_consts.into_iter().map(|(value, reg)| (reg, value)).collect();
        code.q_consts = self.q_consts.into_iter().map(|(value, reg)| (reg, value)).collect();
        code.p_consts = self.p_consts.into_iter().map(|(value, reg)| (reg, value)).collect();
        link(&mut code);
        fuse(&mut code);
        compact(&mut code);
        code.w_regs += code.w_consts.len();
        code.q_regs += code.q_consts.len();
        code.p_regs += code.p_consts.len();
        full::choose_all(&mut code);
        code
    }
}

/// The type of an operand by its row, which immediates take.
pub(crate) fn source_type(inst: &Inst, operand: usize) -> Ty {
    let value = inst.form.row().operands.get(operand).and_then(|sig| sig.value());
    value.and_then(|t| t.of(inst.form.types)).unwrap_or(Ty::B32)
}
