//! Computes equal pure expressions once where one dominates the other. Loads are not shared: the read-only path
//! would allow it, but holding a loaded value longer costs a register where a second load may cost nothing.

use super::rewrite::Subst;
use crate::ir::{Arg, Block, Function, Inst, Operand, Stmt, ValueId};
use ptx::{Effect, Form, Op};
use std::collections::BTreeMap;

/// Runs the pass.
pub fn run(function: &mut Function) {
    let mut sharer = Sharer { subst: Subst::new(function), known: BTreeMap::new() };
    sharer.block(&mut function.body);
}

/// An expression, behind a digest of it, which tells most apart by one comparison.
type Key = (u64, Form, Vec<Arg>);

fn key(inst: &Inst) -> Key {
    let digest = inst.args.iter().fold(inst.form.op as u64, |digest, arg| {
        let word = match arg {
            Arg::One(Operand::Value(id)) => u64::from(id.0) + 1,
            _ => 0,
        };
        // FNV's prime.
        (digest ^ word).wrapping_mul(0x100_0000_01b3)
    });
    (digest, inst.form, inst.args.clone())
}

struct Sharer {
    subst: Subst,
    known: BTreeMap<Key, Vec<ValueId>>,
}

impl Sharer {
    /// Shares within a block and gives what it made known, in order to forget it where the block is left.
    fn block(&mut self, block: &mut Block) -> Vec<Key> {
        let mut made = Vec::new();
        block.stmts.retain_mut(|stmt| match stmt {
            Stmt::Inst(inst) => {
                self.subst.apply(inst);
                self.keep(inst, &mut made)
            }
            Stmt::If(branch) => {
                branch.cond = self.subst.of(branch.cond);
                let then = self.block(&mut branch.then);
                branch.merges.iter_mut().for_each(|m| m.then = self.subst.of(m.then));
                self.forget(then);
                let otherwise = self.block(&mut branch.otherwise);
                branch.merges.iter_mut().for_each(|m| m.otherwise = self.subst.of(m.otherwise));
                self.forget(otherwise);
                true
            }
            Stmt::Loop(l) => {
                l.carried.iter_mut().for_each(|c| c.init = self.subst.of(c.init));
                let head = self.block(&mut l.head);
                l.cond = self.subst.of(l.cond);
                let body = self.block(&mut l.body);
                l.carried.iter_mut().for_each(|c| c.next = self.subst.of(c.next));
                self.forget(body);
                self.forget(head);
                true
            }
            Stmt::Note(_) => true,
        });
        made
    }

    fn keep(&mut self, inst: &Inst, made: &mut Vec<Key>) -> bool {
        // A parameter does not change while the kernel runs.
        let param = inst.form.op == Op::Ld && inst.form.mods.has(ptx::Mod::Param);
        if !(inst.is_pure() || param) || inst.form.row().effect == Effect::Control {
            return true;
        }
        let key = key(inst);
        match self.known.get(&key) {
            Some(results) if results.len() == inst.results.len() => {
                for (id, by) in inst.results.iter().zip(results.clone()) {
                    self.subst.replace(*id, Operand::Value(by));
                }
                false
            }
            _ => {
                self.known.insert(key.clone(), inst.results.clone());
                made.push(key);
                true
            }
        }
    }

    fn forget(&mut self, made: Vec<Key>) {
        for key in made {
            self.known.remove(&key);
        }
    }
}
