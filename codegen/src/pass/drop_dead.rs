//! Drops what nobody uses: pure instructions and plain loads without uses, phis without uses, empty branches and
//! loops. Runs to a fixed point over marks, so cycles of loop variables that only feed each other go as well.

use crate::ir::{Block, Function, Operand, Stmt, ValueId};

/// Runs the pass.
pub fn run(function: &mut Function) {
    let mut live = vec![false; function.values.len()];
    let mut body = std::mem::take(&mut function.body);
    while mark(&body, &mut live).0 {}
    sweep(&mut body, &live);
    function.body = body;
}

fn set(id: ValueId, live: &mut [bool]) -> bool {
    !std::mem::replace(&mut live[id.0 as usize], true)
}

fn set_operand(operand: Operand, live: &mut [bool]) -> bool {
    operand.value().is_some_and(|id| set(id, live))
}

/// Marks uses of live statements, from the end to the start. Gives whether a mark was added and whether the block
/// has any statement to keep.
fn mark(block: &Block, live: &mut [bool]) -> (bool, bool) {
    let (mut changed, mut keeps) = (false, false);
    for stmt in block.stmts.iter().rev() {
        match stmt {
            Stmt::Note(_) => {}
            Stmt::Inst(inst) => {
                if !inst.is_droppable() || inst.results.iter().any(|id| live[id.0 as usize]) {
                    keeps = true;
                    inst.each_use(&mut |id| changed |= set(id, live));
                }
            }
            Stmt::If(branch) => {
                let mut needed = false;
                for m in branch.merges.iter().filter(|m| live[m.result.0 as usize]).collect::<Vec<_>>() {
                    needed = true;
                    changed |= set_operand(m.then, live);
                    changed |= set_operand(m.otherwise, live);
                }
                for arm in [&branch.then, &branch.otherwise] {
                    let (more, arm_keeps) = mark(arm, live);
                    changed |= more;
                    needed |= arm_keeps;
                }
                if needed {
                    keeps = true;
                    changed |= set_operand(branch.cond, live);
                }
            }
            Stmt::Loop(l) => {
                let mut needed = l.carried.iter().any(|c| live[c.param.0 as usize]);
                loop {
                    let mut more = false;
                    for c in l.carried.iter().filter(|c| live[c.param.0 as usize]).collect::<Vec<_>>() {
                        more |= set_operand(c.next, live);
                        more |= set_operand(c.init, live);
                    }
                    for part in [&l.body, &l.head] {
                        let (marked, part_keeps) = mark(part, live);
                        more |= marked;
                        needed |= part_keeps;
                    }
                    if needed {
                        more |= set_operand(l.cond, live);
                    }
                    changed |= more;
                    if !more {
                        break;
                    }
                }
                keeps |= needed;
            }
        }
    }
    (changed, keeps)
}

fn sweep(block: &mut Block, live: &[bool]) {
    let is_live = |id: &ValueId| live[id.0 as usize];
    block.stmts.retain_mut(|stmt| match stmt {
        Stmt::Note(_) => true,
        Stmt::Inst(inst) => !inst.is_droppable() || inst.results.iter().any(is_live),
        Stmt::If(branch) => {
            sweep(&mut branch.then, live);
            sweep(&mut branch.otherwise, live);
            branch.merges.retain(|m| is_live(&m.result));
            !(branch.merges.is_empty() && is_empty(&branch.then) && is_empty(&branch.otherwise))
        }
        Stmt::Loop(l) => {
            sweep(&mut l.head, live);
            sweep(&mut l.body, live);
            l.carried.retain(|c| is_live(&c.param));
            !(l.carried.is_empty() && is_empty(&l.head) && is_empty(&l.body))
        }
    });
}

fn is_empty(block: &Block) -> bool {
    block.stmts.iter().all(|stmt| matches!(stmt, Stmt::Note(_)))
}
