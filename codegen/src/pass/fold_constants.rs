//! Computes what is constant: instructions of constants by the meaning of their row ([`ptx::sem`]), integer
//! identities, branches on constants. Floats fold only by evaluation, which is exact; `x * 1.0` stays, because it
//! makes NaNs canonical.

use super::rewrite::Subst;
use crate::ir::{Block, Function, If, Inst, Operand, Stmt};
use ptx::{Imm, Mod, Op, Ty, sem};

/// Runs the pass.
pub fn run(function: &mut Function) {
    let mut subst = Subst::new(function);
    let body = std::mem::take(&mut function.body);
    function.body = fold_block(body, &mut subst, function);
}

fn fold_block(block: Block, subst: &mut Subst, function: &Function) -> Block {
    let mut stmts = Vec::with_capacity(block.stmts.len());
    for stmt in block.stmts {
        match stmt {
            Stmt::Inst(mut inst) => {
                subst.apply(&mut inst);
                match (folded(&inst), inst.result()) {
                    (Some(by), Some(result)) if fits(by, result, function) => subst.replace(result, by),
                    _ => stmts.push(Stmt::Inst(inst)),
                }
            }
            Stmt::If(branch) => fold_if(branch, subst, function, &mut stmts),
            Stmt::Loop(mut l) => {
                for c in &mut l.carried {
                    c.init = subst.of(c.init);
                }
                l.head = fold_block(l.head, subst, function);
                l.cond = subst.of(l.cond);
                l.body = fold_block(l.body, subst, function);
                for c in &mut l.carried {
                    c.next = subst.of(c.next);
                }
                if l.cond.imm() == Some(0) {
                    // Never entered: the head's results are still visible to nobody else.
                    l.carried.iter().for_each(|c| subst.replace(c.param, c.init));
                } else {
                    stmts.push(Stmt::Loop(l));
                }
            }
            note @ Stmt::Note(_) => stmts.push(note),
        }
    }
    Block { stmts }
}

/// A value may be replaced only by one in the same kind of register.
fn fits(by: Operand, result: crate::ir::ValueId, function: &Function) -> bool {
    by.value().is_none_or(|id| function.info(id).ty == function.info(result).ty)
}

fn fold_if(mut branch: If, subst: &mut Subst, function: &Function, stmts: &mut Vec<Stmt>) {
    branch.cond = subst.of(branch.cond);
    let taken = branch.cond.imm().map(|bits| bits & 1 == 1);
    if taken != Some(false) {
        branch.then = fold_block(branch.then, subst, function);
        branch.merges.iter_mut().for_each(|m| m.then = subst.of(m.then));
    }
    if taken != Some(true) {
        branch.otherwise = fold_block(branch.otherwise, subst, function);
        branch.merges.iter_mut().for_each(|m| m.otherwise = subst.of(m.otherwise));
    }
    if let Some(taken) = taken {
        for m in &branch.merges {
            subst.replace(m.result, if taken { m.then } else { m.otherwise });
        }
        stmts.extend(if taken { branch.then.stmts } else { branch.otherwise.stmts });
        return;
    }
    branch.merges.retain(|m| {
        let same = m.then == m.otherwise;
        if same {
            subst.replace(m.result, m.then);
        }
        !same
    });
    stmts.push(Stmt::If(branch));
}

/// What the instruction's result is, if that is an operand.
fn folded(inst: &Inst) -> Option<Operand> {
    if !inst.is_pure() || inst.results.len() != 1 {
        return None;
    }
    let operands = inst.operands()?;
    let constants: Option<Vec<u64>> = operands.iter().map(|o| o.imm()).collect();
    if let Some(constants) = constants {
        let bits = sem::eval(inst.form, &constants)?;
        // Narrow results are extended into the register by their type.
        let ty = inst.form.ty()?;
        let bits = if ty.bytes() == 1 { sem::extend(ty, bits) & sem::mask(32) } else { bits };
        return Some(Operand::Imm(Imm(bits)));
    }
    identity(inst, &operands)
}

/// Integer identities; operands are not all constant.
fn identity(inst: &Inst, operands: &[Operand]) -> Option<Operand> {
    let ty = inst.form.ty()?;
    let ones = if ty == Ty::Pred { 1 } else { sem::mask(ty.bits()) };
    let zero = Some(Operand::Imm(Imm(0)));
    let a = *operands.first()?;
    let b = operands.get(1).copied();
    let (ai, bi) = (a.imm(), b.and_then(Operand::imm));
    match inst.form.op {
        Op::AddInt | Op::Or | Op::Xor if ai == Some(0) => b,
        Op::AddInt | Op::SubInt | Op::Or | Op::Xor | Op::Shl | Op::Shr if bi == Some(0) => Some(a),
        Op::SubInt | Op::Xor if Some(a) == b => zero,
        Op::And | Op::Or if Some(a) == b => Some(a),
        Op::And if ai == Some(0) || bi == Some(0) => zero,
        Op::And if ai == Some(ones) => b,
        Op::And if bi == Some(ones) => Some(a),
        Op::Or if ai == Some(ones) || bi == Some(ones) => Some(Operand::Imm(Imm(ones))),
        Op::MulInt if inst.form.mods.has(Mod::Lo) => match (ai, bi) {
            (Some(0), _) | (_, Some(0)) => zero,
            (Some(1), _) => b,
            (_, Some(1)) => Some(a),
            _ => None,
        },
        Op::MadInt if inst.form.mods.has(Mod::Lo) && (ai == Some(0) || bi == Some(0)) => {
            operands.get(2).copied()
        }
        Op::DivInt if bi == Some(1) => Some(a),
        Op::RemInt if bi == Some(1) => zero,
        Op::MinInt | Op::MaxInt if Some(a) == b => Some(a),
        Op::Selp => match operands.get(2)?.imm() {
            Some(c) => {
                if c & 1 == 1 {
                    Some(a)
                } else {
                    b
                }
            }
            None if Some(a) == b => Some(a),
            None => None,
        },
        Op::Mov => Some(a),
        _ => None,
    }
}
