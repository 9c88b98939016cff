//! Runs cheap pure code of a branch unconditionally: what is left of a small branch is a `selp`, or a few stores under
//! a guard, and no jump. Divisions and roots stay behind their condition.

use crate::ir::{Arg, Block, Function, If, Inst, Stmt};
use ptx::{Form, Op, Ty, Types};

/// Arms of at most so many pure instructions are run unconditionally.
const MAX_INSTRUCTIONS: usize = 4;
/// At most so many values are selected.
const MAX_SELECTS: usize = 4;

/// Runs the pass.
pub fn run(function: &mut Function) {
    let mut body = std::mem::take(&mut function.body);
    block(&mut body, function);
    function.body = body;
}

fn block(of: &mut Block, function: &Function) {
    let mut stmts = Vec::with_capacity(of.stmts.len());
    for mut stmt in std::mem::take(&mut of.stmts) {
        match &mut stmt {
            Stmt::If(b) => {
                block(&mut b.then, function);
                block(&mut b.otherwise, function);
                flatten(b, &mut stmts, function);
                if b.then.stmts.is_empty() && b.otherwise.stmts.is_empty() && b.merges.is_empty() {
                    continue;
                }
            }
            Stmt::Loop(l) => {
                block(&mut l.head, function);
                block(&mut l.body, function);
            }
            _ => {}
        }
        stmts.push(stmt);
    }
    of.stmts = stmts;
}

fn is_cheap(inst: &Inst) -> bool {
    inst.is_pure() && !matches!(inst.form.op, Op::DivInt | Op::RemInt | Op::DivF | Op::RcpF | Op::SqrtF)
}

/// How many cheap instructions an arm has, if it has nothing else but stores.
fn cost(arm: &Block) -> Option<usize> {
    let mut n = 0;
    for stmt in &arm.stmts {
        match stmt {
            Stmt::Inst(inst) if is_cheap(inst) => n += 1,
            Stmt::Inst(inst) if matches!(inst.form.op, Op::St | Op::Red) => {}
            _ => return None,
        }
    }
    Some(n)
}

fn flatten(branch: &mut If, stmts: &mut Vec<Stmt>, function: &Function) {
    let costs = cost(&branch.then).zip(cost(&branch.otherwise));
    let small = costs.is_some_and(|(a, b)| a + b <= MAX_INSTRUCTIONS);
    if !small || branch.merges.len() > MAX_SELECTS || branch.cond.imm().is_some() {
        return;
    }
    let selectable = branch.merges.iter().all(|m| function.info(m.result).ty != Ty::Pred);
    if !selectable {
        return;
    }
    for arm in [&mut branch.then, &mut branch.otherwise] {
        let (pure, rest) = std::mem::take(&mut arm.stmts)
            .into_iter()
            .partition::<Vec<Stmt>, _>(|stmt| matches!(stmt, Stmt::Inst(inst) if is_cheap(inst)));
        stmts.extend(pure);
        arm.stmts = rest;
    }
    for m in std::mem::take(&mut branch.merges) {
        let form = Form::new(Op::Selp, &[], Types::one(function.info(m.result).ty));
        let args = [m.then, m.otherwise, branch.cond].map(Arg::One).to_vec();
        stmts.push(Stmt::Inst(Inst { form, results: vec![m.result], args }));
    }
}
