//! Makes addresses cheap: constant parts of index arithmetic become immediate offsets, a product with a power of two
//! a shift, a product and a sum one `mad`.
//!
//! An address `base + (x + c) * size` is `[(base + x * size) + c * size]` only when `x + c` does not wrap at 32 bits.
//! The upper bounds that the recorder keeps of values (thread and CTA indices are below the launch's, loop indices
//! below their ends) prove that, or the sum stays where it is.

use crate::ir::{Arg, Block, Function, Inst, MemBase, Operand, Stmt, ValueId};
use ptx::{Form, Imm, Mod, Op, Ty, Types};
use std::collections::BTreeMap;

/// Runs the pass.
pub fn run(function: &mut Function) {
    let mut folder =
        Folder { defs: BTreeMap::new(), uses: vec![0; function.values.len()], split: BTreeMap::new() };
    super::rewrite::count_uses(&function.body, &mut folder.uses);
    let mut body = std::mem::take(&mut function.body);
    folder.block(&mut body, function);
    function.body = body;
}

/// An address in parts: the value of `base + index * size`, and a constant in bytes beside it.
struct Split {
    base: ValueId,
    bytes: i64,
}

struct Folder {
    /// Integer instructions with one result, by it. Dominance is scoping, so an entry of a block that is over is
    /// never looked up.
    defs: BTreeMap<ValueId, Inst>,
    uses: Vec<u32>,
    /// Addresses whose constant part was taken out.
    split: BTreeMap<ValueId, Split>,
}

fn is_u32(form: Form, op: Op) -> bool {
    form.op == op && matches!(form.ty(), Some(Ty::U32 | Ty::S32 | Ty::B32)) && !form.mods.has(Mod::Hi)
}

/// A value and a constant in either order.
fn value_and_constant(inst: &Inst) -> Option<(ValueId, u64)> {
    match inst.args.as_slice() {
        [Arg::One(Operand::Value(x)), Arg::One(Operand::Imm(c))]
        | [Arg::One(Operand::Imm(c)), Arg::One(Operand::Value(x))] => Some((*x, c.0)),
        _ => None,
    }
}

impl Folder {
    fn block(&mut self, block: &mut Block, function: &mut Function) {
        let mut stmts = Vec::with_capacity(block.stmts.len());
        for mut stmt in std::mem::take(&mut block.stmts) {
            match &mut stmt {
                Stmt::Note(_) => {}
                Stmt::Inst(inst) => {
                    self.address(inst, &mut stmts, function);
                    self.multiply_add(inst);
                    strength(inst);
                    self.memory(inst);
                    if let Some(result) = inst.result() {
                        self.defs.insert(result, inst.clone());
                    }
                }
                Stmt::If(b) => {
                    self.block(&mut b.then, function);
                    self.block(&mut b.otherwise, function);
                }
                Stmt::Loop(l) => {
                    self.block(&mut l.head, function);
                    self.block(&mut l.body, function);
                }
            }
            stmts.push(stmt);
        }
        block.stmts = stmts;
    }

    /// `x` and `c` with `id == x + c` exactly (no wrap), looking through sums and products with constants.
    fn linear(&self, id: ValueId, function: &mut Function, made: &mut Vec<Stmt>) -> Option<(Operand, u64)> {
        let limit = u64::from(u32::MAX);
        if function.info(id).max > limit {
            return None;
        }
        let inst = self.defs.get(&id)?.clone();
        let constant = value_and_constant(&inst);
        if is_u32(inst.form, Op::AddInt) {
            if let Some((x, c)) = constant {
                // Bounded, so x + c does not wrap: `max` is kept only for sums that do not.
                return match self.linear(x, function, made) {
                    Some((rest, more)) => Some((rest, more + c)),
                    None => Some((Operand::Value(x), c)),
                };
            }
            let operands = inst.operands()?;
            let [a, b] = [operands.first()?.value()?, operands.get(1)?.value()?];
            let (left, right) = (self.linear(a, function, made), self.linear(b, function, made));
            let (a, c) = left.unwrap_or((Operand::Value(a), 0));
            let (b, d) = right.unwrap_or((Operand::Value(b), 0));
            if c + d == 0 {
                return None;
            }
            let sum = self.make(inst.form, &[a, b], id, function, made);
            return Some((sum, c + d));
        }
        let factor = match constant {
            Some((x, c)) if is_u32(inst.form, Op::MulInt) => Some((x, c)),
            Some((x, c))
                if is_u32(inst.form, Op::Shl) && c < 32 && inst.args[0] == Arg::One(Operand::Value(x)) =>
            {
                Some((x, 1 << c))
            }
            _ => None,
        };
        let (x, factor) = factor?;
        let (rest, more) = self.linear(x, function, made)?;
        let product = self.make(
            Form::new(Op::MulInt, &[Mod::Lo], Types::one(Ty::U32)),
            &[rest, Operand::Imm(Imm(factor))],
            id,
            function,
            made,
        );
        Some((product, more * factor))
    }

    /// Records an instruction in front of the one under way; its value is bounded by that of `like`.
    fn make(
        &self,
        form: Form,
        args: &[Operand],
        like: ValueId,
        function: &mut Function,
        made: &mut Vec<Stmt>,
    ) -> Operand {
        let result = function.value(Ty::U32, None, function.info(like).max);
        let mut inst =
            Inst { form, results: vec![result], args: args.iter().map(|a| Arg::One(*a)).collect() };
        strength(&mut inst);
        made.push(Stmt::Inst(inst));
        Operand::Value(result)
    }

    /// Takes the constant part out of `mad.wide(x + c, size, base)`.
    fn address(&mut self, inst: &Inst, stmts: &mut Vec<Stmt>, function: &mut Function) {
        if inst.form.op != Op::MadWide {
            return;
        }
        let (Some(result), [Arg::One(Operand::Value(index)), Arg::One(Operand::Imm(size)), Arg::One(base)]) =
            (inst.result(), inst.args.as_slice())
        else {
            return;
        };
        let inherited = base.value().and_then(|b| self.split.get(&b)).map(|s| (s.base, s.bytes));
        let mut made = Vec::new();
        // A signed index is the same number as an unsigned one below 2^31.
        let signed = inst.form.ty() == Some(Ty::S32);
        let bounded = !signed || function.info(*index).max < 1 << 31;
        let linear = if bounded { self.linear(*index, function, &mut made) } else { None };
        if linear.is_none() && inherited.is_none() {
            return;
        }
        let (index, constant) = linear.unwrap_or((Operand::Value(*index), 0));
        let (base, before) = match inherited {
            Some((base, bytes)) => (Operand::Value(base), bytes),
            None => (*base, 0),
        };
        let bytes = before + (constant * size.0) as i64;
        if i32::try_from(bytes).is_err() {
            return;
        }
        let value = function.value(Ty::U64, function.info(result).name.clone(), u64::MAX);
        let args = vec![Arg::One(index), Arg::One(Operand::Imm(*size)), Arg::One(base)];
        stmts.extend(made);
        stmts.push(Stmt::Inst(Inst { form: inst.form, results: vec![value], args }));
        self.split.insert(result, Split { base: value, bytes });
    }

    /// Uses a split address with its constant as the immediate offset.
    fn memory(&self, inst: &mut Inst) {
        for arg in &mut inst.args {
            if let Arg::Mem(MemBase::Value(id), offset) = arg
                && let Some(split) = self.split.get(id)
                && let Ok(total) = i32::try_from(split.bytes + i64::from(*offset))
            {
                *id = split.base;
                *offset = total;
            }
        }
    }

    /// `a * b + c` with a product nobody else uses.
    fn multiply_add(&self, inst: &mut Inst) {
        if !is_u32(inst.form, Op::AddInt) {
            return;
        }
        let Some(operands) = inst.operands() else { return };
        for (i, operand) in operands.iter().enumerate() {
            let product =
                operand.value().filter(|id| self.uses[id.0 as usize] == 1).and_then(|id| self.defs.get(&id));
            let Some(product) = product.filter(|p| is_u32(p.form, Op::MulInt)) else { continue };
            let Some(factors) = product.operands() else { continue };
            let other = operands[1 - i];
            inst.form = Form::new(Op::MadInt, &[Mod::Lo], inst.form.types);
            inst.args = factors.into_iter().chain([other]).map(Arg::One).collect();
            return;
        }
    }
}

/// A product with a power of two is a shift; unsigned quotients and remainders likewise.
fn strength(inst: &mut Inst) {
    let Some((x, c)) = value_and_constant(inst) else { return };
    if !c.is_power_of_two() || inst.form.ty().is_none_or(|ty| ty.bytes() != 4) {
        return;
    }
    let x_first = inst.args[0] == Arg::One(Operand::Value(x));
    let shift = Operand::Imm(Imm(u64::from(c.trailing_zeros())));
    let (op, ty, by) = match inst.form.op {
        Op::MulInt if inst.form.mods.has(Mod::Lo) => (Op::Shl, Ty::B32, shift),
        Op::DivInt if x_first && inst.form.ty() == Some(Ty::U32) => (Op::Shr, Ty::U32, shift),
        Op::RemInt if x_first && inst.form.ty() == Some(Ty::U32) => {
            (Op::And, Ty::B32, Operand::Imm(Imm(c - 1)))
        }
        _ => return,
    };
    inst.form = Form::new(op, &[], Types::one(ty));
    inst.args = vec![Arg::One(Operand::Value(x)), Arg::One(by)];
}
