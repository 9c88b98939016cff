//! Where a kernel waits for the launches before it, and what it may do until then.

use super::{Block, Function, Inst, Stmt};
use ptx::{Mod, Op};

/// Whether a statement is `griddepcontrol` of this kind.
pub fn is(stmt: &Stmt, which: Mod) -> bool {
    matches!(stmt, Stmt::Inst(inst) if inst.form.op == Op::GridDepControl && inst.form.mods.has(which))
}

/// What is wrong with where a kernel waits, if anything.
pub fn fault(function: &Function) -> Option<&'static str> {
    let stmts = &function.body.stmts;
    let nested = |inst: &Inst| inst.form.op == Op::GridDepControl;
    if stmts.iter().any(|stmt| !matches!(stmt, Stmt::Inst(_)) && any(stmt, &nested)) {
        return Some(
            "wait_for_earlier() and let_next_start() stand in a branch or loop: all threads must pass them",
        );
    }
    let wait = stmts.iter().position(|stmt| is(stmt, Mod::Wait))?;
    let early = stmts.iter().take(wait).any(|stmt| any(stmt, &touches_what_launches_write));
    early.then_some("memory that is no `Fixed<T>` is used before wait_for_earlier()")
}

/// Whether an instruction reads or writes global memory that a launch may write.
fn touches_what_launches_write(inst: &Inst) -> bool {
    let mods = inst.form.mods;
    mods.has(Mod::Global)
        && match inst.form.op {
            Op::Ld => !mods.has(Mod::Nc),
            Op::St | Op::Atom | Op::AtomCas | Op::Red => true,
            _ => false,
        }
}

fn any(stmt: &Stmt, found: &dyn Fn(&Inst) -> bool) -> bool {
    let in_block = |block: &Block| block.stmts.iter().any(|stmt| any(stmt, found));
    match stmt {
        Stmt::Inst(inst) => found(inst),
        Stmt::If(branch) => in_block(&branch.then) || in_block(&branch.otherwise),
        Stmt::Loop(turns) => in_block(&turns.head) || in_block(&turns.body),
        Stmt::Note(_) => false,
    }
}
