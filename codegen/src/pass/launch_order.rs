//! When a kernel starts and when the one after it may: programmatic dependent launch.
//!
//! Launches of a step follow one another, but a kernel may be put on the device while the one before it still runs. It then
//! waits (`griddepcontrol.wait`) before it looks at anything that a launch writes. A kernel that says nothing waits
//! first of all and lets the next one start first of all, so that only what it does before its own
//! [`wait_for_earlier`](crate::dsl::wait_for_earlier) overlaps: loads of memory that nobody writes. Those must not be `.nc`:
//! ptxas takes loads of the read-only path for independent of the wait and moves them behind it, to spare registers.

use crate::ir::{Block, Function, Inst, Stmt, waits};
use ptx::{Form, Mod, Op, Types};

/// The first compute capability (times ten) whose grids can depend on one another.
const FIRST_SM: u32 = 90;

/// Puts the two instructions first where the kernel has none, and takes them away from targets that lack them.
pub fn run(function: &mut Function, sm: u32) {
    if sm < FIRST_SM {
        take_away(&mut function.body);
        return;
    }
    if function.body.stmts.iter().any(|stmt| waits::is(stmt, Mod::Wait)) {
        pin_early_loads(&mut function.body);
    }
    let stmts = &mut function.body.stmts;
    for which in [Mod::Wait, Mod::LaunchDependents] {
        if !stmts.iter().any(|stmt| waits::is(stmt, which)) {
            let form = Form::new(Op::GridDepControl, &[which], Types::NONE);
            stmts.insert(0, Stmt::Inst(Inst { form, results: vec![], args: vec![] }));
        }
    }
}

/// Makes loads before the wait keep their place; gives whether a block's threads have waited at its end.
fn pin_early_loads(block: &mut Block) -> bool {
    for stmt in &mut block.stmts {
        let waited = match stmt {
            Stmt::Inst(inst) => {
                if inst.form.op == Op::Ld {
                    inst.form.mods = inst.form.mods.without(Mod::Nc);
                }
                inst.form.op == Op::GridDepControl && inst.form.mods.has(Mod::Wait)
            }
            Stmt::If(branch) => {
                let arms = [&mut branch.then, &mut branch.otherwise].map(pin_early_loads);
                arms == [true, true]
            }
            Stmt::Loop(turns) => {
                pin_early_loads(&mut turns.head);
                pin_early_loads(&mut turns.body);
                false
            }
            Stmt::Note(_) => false,
        };
        if waited {
            return true;
        }
    }
    false
}

fn take_away(block: &mut Block) {
    block.stmts.retain(|stmt| !matches!(stmt, Stmt::Inst(inst) if inst.form.op == Op::GridDepControl));
    for stmt in &mut block.stmts {
        if let Stmt::If(branch) = stmt {
            take_away(&mut branch.then);
            take_away(&mut branch.otherwise);
        }
    }
}
