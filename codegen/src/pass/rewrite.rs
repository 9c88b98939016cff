//! Substitution and use counts, which passes share. Substitution is the one way in which values are replaced: a
//! walk in order of execution with a map from values to
//! what stands for them; uses are rewritten before a pass looks at a statement.

use crate::ir::{Arg, Block, Function, Inst, MemBase, Operand, Stmt, ValueId};

/// What stands for each value.
pub struct Subst(Vec<Option<Operand>>);

impl Subst {
    /// Every value stands for itself.
    pub fn new(function: &Function) -> Subst {
        Subst(vec![None; function.values.len()])
    }

    /// From now on `by` stands for `id`.
    pub fn replace(&mut self, id: ValueId, by: Operand) {
        let index = id.0 as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(self.of(by));
    }

    /// What stands for an operand.
    pub fn of(&self, operand: Operand) -> Operand {
        match operand {
            Operand::Value(id) => self.0.get(id.0 as usize).copied().flatten().unwrap_or(operand),
            Operand::Imm(_) => operand,
        }
    }

    /// Rewrites the operands of an instruction.
    pub fn apply(&self, inst: &mut Inst) {
        for arg in &mut inst.args {
            match arg {
                Arg::One(operand) => *operand = self.of(*operand),
                Arg::List(list) => list.iter_mut().for_each(|o| *o = self.of(*o)),
                Arg::Mem(MemBase::Value(id), _) => {
                    // An address that became a constant stays in its register.
                    if let Operand::Value(by) = self.of(Operand::Value(*id)) {
                        *id = by;
                    }
                }
                _ => {}
            }
        }
    }
}

/// Counts the uses of every value, phis included.
pub fn count_uses(block: &Block, uses: &mut [u32]) {
    let mut add = |operand: Operand| {
        if let Operand::Value(id) = operand {
            uses[id.0 as usize] += 1;
        }
    };
    for stmt in &block.stmts {
        match stmt {
            Stmt::Note(_) => {}
            Stmt::Inst(inst) => inst.each_use(&mut |id| add(Operand::Value(id))),
            Stmt::If(b) => {
                add(b.cond);
                b.merges.iter().for_each(|m| {
                    add(m.then);
                    add(m.otherwise);
                });
            }
            Stmt::Loop(l) => {
                add(l.cond);
                l.carried.iter().for_each(|c| {
                    add(c.init);
                    add(c.next);
                });
            }
        }
    }
    for stmt in &block.stmts {
        match stmt {
            Stmt::If(b) => [&b.then, &b.otherwise].into_iter().for_each(|b| count_uses(b, uses)),
            Stmt::Loop(l) => [&l.head, &l.body].into_iter().for_each(|b| count_uses(b, uses)),
            _ => {}
        }
    }
}
