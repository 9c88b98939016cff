//! When a kernel starts and when the one after it may: programmatic dependent launch.
//!
//! Launches of a step follow one another, but a kernel may be put on the device while the one before it still runs. It then
//! waits (`griddepcontrol.wait`) before it looks at anything that a launch writes. A kernel that says nothing waits
//! first of all and lets the next one start first of all, so that only what it does before its own
//! [`wait_for_earlier`](crate::dsl::wait_for_earlier) overlaps: loads of memory that nobody writes.

use crate::ir::{Function, Inst, Stmt, waits};
use ptx::{Form, Mod, Op, Types};

/// The first compute capability (times ten) whose grids can depend on one another.
const FIRST_SM: u32 = 90;

/// Puts the two instructions first where the kernel has none, and takes them away from targets that lack them.
pub fn run(function: &mut Function, sm: u32) {
    let stmts = &mut function.body.stmts;
    if sm < FIRST_SM {
        stmts.retain(|stmt| !matches!(stmt, Stmt::Inst(inst) if inst.form.op == Op::GridDepControl));
        return;
    }
    for which in [Mod::Wait, Mod::LaunchDependents] {
        if !stmts.iter().any(|stmt| waits::is(stmt, which)) {
            let form = Form::new(Op::GridDepControl, &[which], Types::NONE);
            stmts.insert(0, Stmt::Inst(Inst { form, results: vec![], args: vec![] }));
        }
    }
}
