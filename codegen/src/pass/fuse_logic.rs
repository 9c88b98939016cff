//! Two 32-bit logic instructions in a row are one `lop3`, when nobody else uses the first.

use crate::ir::{Arg, Block, Function, Inst, Operand, Stmt, ValueId};
use ptx::{Form, Imm, Op, Ty, Types};
use std::collections::BTreeMap;

/// Truth-table columns of the three operands (PTX ISA, lop3).
const COLUMNS: [u8; 3] = [0xF0, 0xCC, 0xAA];

/// Runs the pass.
pub fn run(function: &mut Function) {
    let mut uses = vec![0; function.values.len()];
    super::rewrite::count_uses(&function.body, &mut uses);
    let mut body = std::mem::take(&mut function.body);
    block(&mut body, &uses, &mut BTreeMap::new());
    function.body = body;
}

fn block(of: &mut Block, uses: &[u32], defs: &mut BTreeMap<ValueId, Inst>) {
    for stmt in &mut of.stmts {
        match stmt {
            Stmt::Note(_) => {}
            Stmt::Inst(inst) => {
                fuse(inst, uses, defs);
                if let (Some(result), true) = (inst.result(), is_logic(inst)) {
                    defs.insert(result, inst.clone());
                }
            }
            Stmt::If(b) => {
                block(&mut b.then, uses, defs);
                block(&mut b.otherwise, uses, defs);
            }
            Stmt::Loop(l) => {
                // What is outside a loop runs less often: fusing it into the loop would only keep an operand alive.
                block(&mut l.head, uses, &mut BTreeMap::new());
                block(&mut l.body, uses, &mut BTreeMap::new());
            }
        }
    }
}

fn is_logic(inst: &Inst) -> bool {
    matches!(inst.form.op, Op::And | Op::Or | Op::Xor | Op::Not) && inst.form.ty() == Some(Ty::B32)
}

fn table(op: Op, a: u8, b: u8) -> u8 {
    match op {
        Op::And => a & b,
        Op::Or => a | b,
        Op::Xor => a ^ b,
        _ => !a,
    }
}

fn fuse(inst: &mut Inst, uses: &[u32], defs: &BTreeMap<ValueId, Inst>) {
    let Some(operands) = inst.operands().filter(|_| is_logic(inst)) else { return };
    let inner = |o: &Operand| o.value().filter(|id| uses[id.0 as usize] == 1).and_then(|id| defs.get(&id));
    let Some((at, first)) = operands.iter().enumerate().find_map(|(i, o)| Some((i, inner(o)?))) else {
        return;
    };
    let Some(leaves) = first.operands() else { return };
    // The three operands: those of the first instruction, then the other one of the second.
    let mut three = leaves.clone();
    three.extend(operands.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, o)| *o));
    if three.len() > 3 || three.is_empty() {
        return;
    }
    let column = |i: usize| COLUMNS.get(i).copied().unwrap_or(0);
    let made = table(first.form.op, column(0), column(1));
    let other = column(leaves.len());
    let lut = table(inst.form.op, if at == 0 { made } else { other }, if at == 0 { other } else { made });
    while three.len() < 3 {
        // An operand that the table ignores.
        three.push(three[0]);
    }
    // A second constant would need a register: then nothing is saved.
    if three.iter().filter(|o| o.imm().is_some()).count() > 1 {
        return;
    }
    inst.form = Form::new(Op::Lop3, &[], Types::one(Ty::B32));
    inst.args = three.into_iter().chain([Operand::Imm(Imm(u64::from(lut)))]).map(Arg::One).collect();
}
