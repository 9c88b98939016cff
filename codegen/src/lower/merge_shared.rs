//! Shared memory beyond what a module may declare becomes one dynamic variable, whose size the launch gives: the
//! kernel's variables are places in it.

use crate::ir::{Arg, Block, Function, Inst, MemBase, Operand, Stmt, ValueId};
use ptx::{Form, Imm, Op, SharedDecl, Storage, Ty, Types};

/// Shared memory that a module may declare (PTX ISA, `.shared`; `ptxas` refuses more).
pub(super) const MAX_STATIC_BYTES: u64 = ::plan::MAX_STATIC_SHARED_BYTES as u64;
/// Alignment of the dynamic variable: the most that a declaration may ask for.
const ALIGN: u32 = 128;

/// Merges the variables if they are too large to be declared.
pub(super) fn run(function: &mut Function) {
    if function.shared_bytes() <= MAX_STATIC_BYTES {
        return;
    }
    let mut starts = Vec::new();
    let mut end = 0u32;
    for decl in &function.shared {
        end = end.next_multiple_of(decl.align);
        starts.push(end);
        end += decl.bytes;
    }
    let mut body = std::mem::take(&mut function.body);
    block(&mut body, &starts, function);
    function.body = body;
    let name = "dynamic_shared".to_owned();
    function.shared = vec![SharedDecl { name, align: ALIGN, bytes: end, storage: Storage::Dynamic }];
}

fn block(of: &mut Block, starts: &[u32], function: &mut Function) {
    let mut stmts = Vec::with_capacity(of.stmts.len());
    for mut stmt in std::mem::take(&mut of.stmts) {
        match &mut stmt {
            Stmt::Note(_) => {}
            Stmt::Inst(inst) => stmts.extend(place(inst, starts, function).map(Stmt::Inst)),
            Stmt::If(branch) => {
                block(&mut branch.then, starts, function);
                block(&mut branch.otherwise, starts, function);
            }
            Stmt::Loop(turns) => {
                block(&mut turns.head, starts, function);
                block(&mut turns.body, starts, function);
            }
        }
        stmts.push(stmt);
    }
    of.stmts = stmts;
}

/// Makes an instruction's variables places in the one. A `mov` of an address becomes a sum, whose first operand the
/// instruction returned has to compute before.
fn place(inst: &mut Inst, starts: &[u32], function: &mut Function) -> Option<Inst> {
    let start = |variable: u32| starts.get(variable as usize).copied().unwrap_or(0);
    let mut before = None;
    for arg in &mut inst.args {
        match arg {
            Arg::Mem(base @ MemBase::Shared(_), offset) => {
                let MemBase::Shared(variable) = *base else { continue };
                // Both are below the size of shared memory or caught by the verifier.
                *offset = offset.saturating_add(start(variable) as i32);
                *base = MemBase::Shared(0);
            }
            Arg::SharedAddr(variable) => before = Some(std::mem::replace(variable, 0)),
            _ => {}
        }
    }
    let at = start(before?);
    if at == 0 {
        return None;
    }
    let base: ValueId = function.value(Ty::U32, None, u64::MAX);
    let mov = Inst { form: inst.form, results: vec![base], args: std::mem::take(&mut inst.args) };
    inst.form = Form::new(Op::AddInt, &[], Types::one(Ty::U32));
    inst.args = vec![Arg::One(Operand::Value(base)), Arg::One(Operand::Imm(Imm::u32(at)))];
    Some(mov)
}
