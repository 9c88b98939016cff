//! Branches as the macro records them.
//!
//! The bodies stay where they stand in the Rust function and run once; the calls between them open and close blocks
//! of the IR and swap the values of assigned variables.

use super::carry::{self, CarryList, Join, Merge};
use super::record;
use super::value::V;
use crate::ir::{Block, If, Operand, Stmt};

/// What an `if` may test.
#[diagnostic::on_unimplemented(
    message = "an `if` in device code tests a `bool` (decided at build time) or a `V<bool>`, not `{Self}`"
)]
pub trait Condition: Copy {}
impl Condition for bool {}
impl Condition for V<bool> {}

/// An `if` being recorded.
pub struct Branch<C> {
    cond: C,
    before: Vec<Operand>,
    then: Option<(Block, Vec<Operand>)>,
    guard: Open,
}

/// The value of the first arm of an `if`, kept until the second has run.
pub struct Held<R>(Option<R>);

/// Sees to it that a construct left by a Rust jump is reported and its blocks are closed.
pub(super) struct Open {
    construct: &'static str,
    depth: Option<usize>,
}

impl Open {
    pub(super) fn idle(construct: &'static str) -> Open {
        Open { construct, depth: None }
    }
    pub(super) fn start(&mut self) {
        self.depth = record::with(|r| r.depth());
    }
    pub(super) fn done(&mut self) {
        self.depth = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(depth) = self.depth {
            record::with(|r| r.unwind(depth, self.construct));
        }
    }
}

impl<C: Condition> Branch<C> {
    /// Begins an `if`.
    pub fn open(cond: C) -> Branch<C> {
        Branch { cond, before: Vec::new(), then: None, guard: Open::idle("if") }
    }
}

/// At build time nothing is recorded: the arm that is taken runs, the other does not.
impl Branch<bool> {
    /// Notes what the variables hold.
    pub fn before<L>(&mut self, _: L) {}
    /// Whether the first arm runs.
    pub fn wants_then(&self) -> bool {
        self.cond
    }
    /// Ends the first arm.
    pub fn after_then<L>(&mut self, _: L) {}
    /// The value, when the first arm has run.
    pub fn settle<R>(&mut self, then: Option<R>) -> Result<R, Held<R>> {
        then.ok_or(Held(None))
    }
    /// The value of the second arm.
    pub fn join<R, L>(&mut self, _: Held<R>, value: R, _: &[&str], _: L) -> R {
        value
    }
}

impl Branch<V<bool>> {
    /// Notes what the variables hold and opens the first arm.
    pub fn before<L: CarryList>(&mut self, mut list: L) {
        self.before = carry::read(&mut list).into_iter().map(|(_, _, operand)| operand).collect();
        self.guard.start();
        record::with(|r| r.open());
    }
    /// Both arms are recorded.
    pub fn wants_then(&self) -> bool {
        true
    }
    /// Ends the first arm: the variables hold again what they held before; opens the second.
    pub fn after_then<L: CarryList>(&mut self, mut list: L) {
        let after = carry::read(&mut list).into_iter().map(|(_, _, operand)| operand).collect();
        carry::write(&mut list, &self.before);
        self.then = record::with(|r| {
            let block = r.close();
            r.open();
            (block, after)
        });
    }
    /// Never settles early: the second arm follows.
    pub fn settle<R, O>(&mut self, then: Option<R>) -> Result<O, Held<R>> {
        Err(Held(then))
    }
    /// Ends the second arm and gives the variables and the value what they hold after the branch.
    pub fn join<R1: Merge<R2>, R2, L: CarryList>(
        &mut self,
        held: Held<R1>,
        value: R2,
        names: &[&str],
        mut list: L,
    ) -> R1::Out {
        let mut join = Join::default();
        let (then, after_then) = self.then.take().unwrap_or_default();
        let mut index = 0;
        list.visit(0, &mut |variable, ty, operand| {
            if let Some(then) = after_then.get(index) {
                *operand = join.phi(ty, names.get(variable).copied(), *then, *operand);
            }
            index += 1;
        });
        if index != after_then.len() {
            record::refuse("a Vec changed its length under a device condition");
        }
        let Some(held) = held.0 else {
            // Invariant: `wants_then` is true, so the first arm ran and gave its value.
            unreachable!("the first arm of a device branch always runs at build time")
        };
        let merged = held.merge(value, &mut join);
        let cond = self.cond.operand;
        record::with(|r| {
            let otherwise = r.close();
            r.push(Stmt::If(If { cond, then, otherwise, merges: join.phis }));
        });
        self.guard.done();
        merged
    }
}
