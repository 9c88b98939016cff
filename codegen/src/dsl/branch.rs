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
pub trait Condition: Copy {
    /// Whether the first arm runs at build time.
    fn wants_then(self) -> bool;
}
impl Condition for bool {
    fn wants_then(self) -> bool {
        self
    }
}
impl Condition for V<bool> {
    fn wants_then(self) -> bool {
        true
    }
}

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

impl<C> Branch<C> {
    /// Begins an `if`.
    pub fn open(cond: C) -> Branch<C>
    where
        C: Condition,
    {
        Branch { cond, before: Vec::new(), then: None, guard: Open::idle("if") }
    }

    /// Notes what the variables hold and begins the first arm.
    pub fn before<L>(&mut self, list: L)
    where
        C: Carries<L>,
    {
        C::before(self, list);
    }

    /// Whether the first arm runs at build time.
    pub fn wants_then(&self) -> bool
    where
        C: Condition,
    {
        self.cond.wants_then()
    }

    /// Ends the first arm; a recorded second one begins with what the variables held before.
    pub fn after_then<L>(&mut self, list: L)
    where
        C: Carries<L>,
    {
        C::after_then(self, list);
    }

    /// The value, when the first arm was all there is.
    pub fn settle<R, O>(&mut self, then: Option<R>) -> Result<O, Held<R>>
    where
        C: Settles<R, O>,
    {
        C::settle(then)
    }

    /// Ends the second arm and gives the variables and the value what they hold after the branch.
    pub fn join<R1, R2, L>(&mut self, held: Held<R1>, value: R2, names: &[&str], list: L) -> C::Out
    where
        C: Joins<R1, R2> + Carries<L>,
    {
        let mut join = C::carry_out(self, names, list);
        let out = C::join(held, value, &mut join);
        C::finish(self, join);
        out
    }
}

/// Conditions under which the variables of `L` may be assigned: any at build time, device values on the device.
pub trait Carries<L>: Condition {
    #[doc(hidden)]
    fn before(branch: &mut Branch<Self>, list: L);
    #[doc(hidden)]
    fn after_then(branch: &mut Branch<Self>, list: L);
    #[doc(hidden)]
    fn carry_out(branch: &mut Branch<Self>, names: &[&str], list: L) -> Join;
    #[doc(hidden)]
    fn finish(branch: &mut Branch<Self>, join: Join);
}

/// How the value of the first arm becomes that of the branch.
pub trait Settles<R, O>: Condition {
    #[doc(hidden)]
    fn settle(then: Option<R>) -> Result<O, Held<R>>;
}

/// How the values of both arms become that of the branch.
#[diagnostic::on_unimplemented(
    message = "the arms of this `if` give `{R1}` and `{R2}`, which do not make one value",
    note = "arms of an `if` over device values give device values of one scalar type (or constants of it), arrays or \
            tuples of them, or nothing",
    note = "`break` and `continue` (type `!`) cannot leave an `if` over device values"
)]
pub trait Joins<R1, R2>: Condition {
    /// The value after the branch.
    type Out;
    #[doc(hidden)]
    fn join(held: Held<R1>, value: R2, join: &mut Join) -> Self::Out;
}

/// At build time nothing is recorded: the arm that is taken runs, the other does not.
impl<L> Carries<L> for bool {
    fn before(_: &mut Branch<bool>, _: L) {}
    fn after_then(_: &mut Branch<bool>, _: L) {}
    fn carry_out(_: &mut Branch<bool>, _: &[&str], _: L) -> Join {
        Join::default()
    }
    fn finish(_: &mut Branch<bool>, _: Join) {}
}

impl<R> Settles<R, R> for bool {
    fn settle(then: Option<R>) -> Result<R, Held<R>> {
        then.ok_or(Held(None))
    }
}

impl<R> Joins<R, R> for bool {
    type Out = R;
    fn join(_: Held<R>, value: R, _: &mut Join) -> R {
        value
    }
}

/// On the device both arms are recorded.
impl<L: CarryList> Carries<L> for V<bool> {
    fn before(branch: &mut Branch<V<bool>>, mut list: L) {
        branch.before = carry::read(&mut list).into_iter().map(|(_, _, operand)| operand).collect();
        branch.guard.start();
        record::with(|r| r.open());
    }

    fn after_then(branch: &mut Branch<V<bool>>, mut list: L) {
        let after = carry::read(&mut list).into_iter().map(|(_, _, operand)| operand).collect();
        carry::write(&mut list, &branch.before);
        branch.then = record::with(|r| {
            let block = r.close();
            r.open();
            (block, after)
        });
    }

    fn carry_out(branch: &mut Branch<V<bool>>, names: &[&str], mut list: L) -> Join {
        let mut join = Join::default();
        let after_then = branch.then.as_ref().map(|(_, after)| after.as_slice()).unwrap_or_default();
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
        join
    }

    fn finish(branch: &mut Branch<V<bool>>, join: Join) {
        let then = branch.then.take().map(|(block, _)| block).unwrap_or_default();
        let cond = branch.cond.operand;
        record::with(|r| {
            let otherwise = r.close();
            r.push(Stmt::If(If { cond, then, otherwise, merges: join.phis }));
        });
        branch.guard.done();
    }
}

impl<R, O> Settles<R, O> for V<bool> {
    fn settle(then: Option<R>) -> Result<O, Held<R>> {
        Err(Held(then))
    }
}

impl<R1: Merge<R2>, R2> Joins<R1, R2> for V<bool> {
    type Out = R1::Out;
    fn join(held: Held<R1>, value: R2, join: &mut Join) -> R1::Out {
        match held.0 {
            Some(held) => held.merge(value, join),
            // Invariant: `wants_then` is true, so the first arm ran and gave its value.
            None => unreachable!("the first arm of a device branch always runs at build time"),
        }
    }
}
