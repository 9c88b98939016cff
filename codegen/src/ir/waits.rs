//! Where a kernel waits for the launches before it, and what it may do until then.

use super::{Block, Function, Inst, Stmt};
use ptx::{Mod, Op};

/// Whether a statement is, or holds, `griddepcontrol` of this kind.
pub fn is(stmt: &Stmt, which: Mod) -> bool {
    any(stmt, &|inst| is_kind(inst, which))
}

/// What is wrong with where a kernel waits, if anything.
pub fn fault(function: &Function) -> Option<&'static str> {
    match passes(&function.body) {
        Ok(waited) => {
            // One that never waits does so first of all, by the pass `launch_order`.
            let starts_next = |inst: &Inst| is_kind(inst, Mod::LaunchDependents);
            let nested = |stmt: &Stmt| matches!(stmt, Stmt::Loop(_)) && any(stmt, &starts_next);
            let early = !waited && function.body.stmts.iter().any(|s| any(s, &|i| is_kind(i, Mod::Wait)));
            (early || function.body.stmts.iter().any(nested)).then_some(NOT_ALL)
        }
        Err(why) => Some(why),
    }
}

const NOT_ALL: &str = "wait_for_earlier() or let_next_start() stands where not all threads pass: in one arm of a branch, or a loop";
const TOO_EARLY: &str = "memory that is no `Fixed<T>` or `Settled<T>` is used before wait_for_earlier()";

/// Whether a block's threads have waited at its end. A kernel without any wait may use what it likes: it waits at its start.
fn passes(block: &Block) -> Result<bool, &'static str> {
    let mut waited = false;
    let waits = |stmt: &Stmt| any(stmt, &|inst| is_kind(inst, Mod::Wait));
    for (i, stmt) in block.stmts.iter().enumerate() {
        if waited {
            break;
        }
        let comes = block.stmts.iter().skip(i).any(waits);
        if !comes {
            break;
        }
        match stmt {
            Stmt::Inst(inst) if is_kind(inst, Mod::Wait) => waited = true,
            Stmt::If(branch) if waits(stmt) => {
                let arms = [passes(&branch.then)?, passes(&branch.otherwise)?];
                match arms {
                    [true, true] => waited = true,
                    _ => return Err(NOT_ALL),
                }
            }
            Stmt::Loop(_) if waits(stmt) => return Err(NOT_ALL),
            stmt if any(stmt, &touches_what_launches_write) => return Err(TOO_EARLY),
            _ => {}
        }
    }
    Ok(waited)
}

fn is_kind(inst: &Inst, which: Mod) -> bool {
    inst.form.op == Op::GridDepControl && inst.form.mods.has(which)
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
