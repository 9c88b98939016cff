//! Moves pure instructions whose operands do not change in a loop in front of it. Only those that every iteration
//! runs are moved (arms of branches stay), innermost loops first, so that a value leaves as many loops as it can.

use crate::ir::{Block, Function, Stmt, ValueId};

/// Runs the pass.
pub fn run(function: &mut Function) {
    let mut inside = vec![false; function.values.len()];
    block(&mut function.body, &mut inside);
}

fn block(of: &mut Block, inside: &mut Vec<bool>) {
    let mut stmts = Vec::with_capacity(of.stmts.len());
    for mut stmt in std::mem::take(&mut of.stmts) {
        match &mut stmt {
            Stmt::If(b) => {
                block(&mut b.then, inside);
                block(&mut b.otherwise, inside);
            }
            Stmt::Loop(l) => {
                block(&mut l.head, inside);
                block(&mut l.body, inside);
                // Everything that the loop defines, until it is found to be invariant.
                let mut defined = Vec::new();
                defined.extend(l.carried.iter().map(|c| c.param));
                definitions(&l.head, &mut defined);
                definitions(&l.body, &mut defined);
                defined.iter().for_each(|id| inside[id.0 as usize] = true);
                take_invariants(&mut l.head, inside, &mut stmts);
                take_invariants(&mut l.body, inside, &mut stmts);
                defined.iter().for_each(|id| inside[id.0 as usize] = false);
            }
            _ => {}
        }
        stmts.push(stmt);
    }
    of.stmts = stmts;
}

fn definitions(block: &Block, defined: &mut Vec<ValueId>) {
    for stmt in &block.stmts {
        match stmt {
            Stmt::Note(_) => {}
            Stmt::Inst(inst) => defined.extend(&inst.results),
            Stmt::If(b) => {
                definitions(&b.then, defined);
                definitions(&b.otherwise, defined);
                defined.extend(b.merges.iter().map(|m| m.result));
            }
            Stmt::Loop(l) => {
                defined.extend(l.carried.iter().map(|c| c.param));
                definitions(&l.head, defined);
                definitions(&l.body, defined);
            }
        }
    }
}

fn take_invariants(block: &mut Block, inside: &mut [bool], before: &mut Vec<Stmt>) {
    let mut kept = Vec::with_capacity(block.stmts.len());
    for stmt in std::mem::take(&mut block.stmts) {
        let invariant = match &stmt {
            Stmt::Inst(inst) if inst.is_pure() => {
                let mut invariant = true;
                inst.each_use(&mut |id| invariant &= !inside[id.0 as usize]);
                if invariant {
                    inst.results.iter().for_each(|id| inside[id.0 as usize] = false);
                }
                invariant
            }
            _ => false,
        };
        if invariant { before.push(stmt) } else { kept.push(stmt) }
    }
    block.stmts = kept;
}
