//! Which Rust values can change under device control flow: device values and what is made of them.

use super::pointer::Ptr;
use super::record::{self, Recorder};
use super::value::{Scalar, V};
use crate::ir::{Merge as Phi, Operand};
use ptx::Ty;

/// A Rust value made of device values, which a runtime loop or device branch may change.
#[diagnostic::on_unimplemented(
    message = "a build-time value (`{Self}`) cannot change in a runtime loop or under a device condition",
    label = "this variable belongs to build time",
    note = "make it a device value (`let mut n = 0u32;`, `let mut n = dev(n);`), or run the loop at build time: \
            `for i in unroll(a..b)`"
)]
pub trait Carry {
    /// Visits the device values in a fixed order.
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand));
}

impl<T: Scalar> Carry for V<T> {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        f(T::TY, &mut self.operand);
    }
}

impl<T, A> Carry for Ptr<T, A>
where
    A: super::memory_kind::Kind,
{
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        let (ty, operand) = self.settled();
        f(ty, operand);
    }
}

impl<C: Carry> Carry for [C] {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        self.iter_mut().for_each(|c| c.carry(f));
    }
}
impl<C: Carry, const N: usize> Carry for [C; N] {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        self.as_mut_slice().carry(f);
    }
}
impl<C: Carry> Carry for Vec<C> {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        self.as_mut_slice().carry(f);
    }
}
impl<C: Carry + ?Sized> Carry for &mut C {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        (**self).carry(f);
    }
}
impl<A: Carry, B: Carry> Carry for (A, B) {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        self.0.carry(f);
        self.1.carry(f);
    }
}
impl<A: Carry, B: Carry, C: Carry> Carry for (A, B, C) {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        self.0.carry(f);
        self.1.carry(f);
        self.2.carry(f);
    }
}
impl<A: Carry, B: Carry, C: Carry, D: Carry> Carry for (A, B, C, D) {
    fn carry(&mut self, f: &mut dyn FnMut(Ty, &mut Operand)) {
        self.0.carry(f);
        self.1.carry(f);
        self.2.carry(f);
        self.3.carry(f);
    }
}

/// The assigned variables of a body, as the macro lists them: `(&mut a, (&mut b, ()))`.
pub trait CarryList {
    /// Visits the device values with the number of their variable.
    fn visit(&mut self, variable: usize, f: &mut dyn FnMut(usize, Ty, &mut Operand));
}

impl CarryList for () {
    fn visit(&mut self, _: usize, _: &mut dyn FnMut(usize, Ty, &mut Operand)) {}
}

impl<C: Carry + ?Sized, L: CarryList> CarryList for (&mut C, L) {
    fn visit(&mut self, variable: usize, f: &mut dyn FnMut(usize, Ty, &mut Operand)) {
        self.0.carry(&mut |ty, operand| f(variable, ty, operand));
        self.1.visit(variable + 1, f);
    }
}

/// What a variable list holds now.
pub(crate) fn read(list: &mut impl CarryList) -> Vec<(usize, Ty, Operand)> {
    let mut held = Vec::new();
    list.visit(0, &mut |variable, ty, operand| held.push((variable, ty, *operand)));
    held
}

/// Makes a variable list hold other values.
pub(crate) fn write(list: &mut impl CarryList, values: &[Operand]) {
    let mut values = values.iter();
    list.visit(0, &mut |_, _, operand| {
        if let Some(value) = values.next() {
            *operand = *value;
        }
    });
}

/// Gathers the phis of a branch.
#[derive(Default)]
pub struct Join {
    pub(crate) phis: Vec<Phi>,
}

impl Join {
    /// The value after the branch of what is `then` or `otherwise` before its end.
    pub(crate) fn phi(&mut self, ty: Ty, name: Option<&str>, then: Operand, otherwise: Operand) -> Operand {
        if then == otherwise {
            return then;
        }
        let make = |r: &mut Recorder| {
            let max = r.function.max_of(then).max(r.function.max_of(otherwise));
            let name = name.map(|n| n.trim_start_matches('_').to_owned()).filter(|n| !n.is_empty());
            r.function.value(ty, name, max)
        };
        let Some(result) = record::with(make) else { return then };
        self.phis.push(Phi { result, then, otherwise });
        Operand::Value(result)
    }
}

/// A value of an `if` expression whose arms give `Self` and `R`.
#[diagnostic::on_unimplemented(
    message = "the arms of an `if` over device values give `{Self}` and `{R}`, which do not make one device value",
    note = "arms give device values of one scalar type (or constants of it), arrays or tuples of them, or nothing",
    note = "`break` and `continue` (type `!`) cannot leave an `if` over device values"
)]
pub trait Merge<R> {
    /// The value after the branch.
    type Out;
    #[doc(hidden)]
    fn merge(self, other: R, join: &mut Join) -> Self::Out;
}

macro_rules! merge_scalar {
    ($left:ty, $right:ty) => {
        impl<T: Scalar> Merge<$right> for $left {
            type Out = V<T>;
            fn merge(self, other: $right, join: &mut Join) -> V<T> {
                use super::value::IntoV;
                let (then, otherwise): (V<T>, V<T>) = (self.into_v(), other.into_v());
                V::new(join.phi(T::TY, None, then.operand, otherwise.operand))
            }
        }
    };
}
merge_scalar!(V<T>, V<T>);
merge_scalar!(V<T>, T);
merge_scalar!(T, V<T>);
merge_scalar!(T, T);

impl Merge<()> for () {
    type Out = ();
    fn merge(self, (): (), _: &mut Join) {}
}

impl<A: Merge<B>, B, const N: usize> Merge<[B; N]> for [A; N] {
    type Out = [A::Out; N];
    fn merge(self, other: [B; N], join: &mut Join) -> Self::Out {
        let mut pairs = self.into_iter().zip(other);
        // Invariant: both arrays have N elements, so `next` gives one for each.
        std::array::from_fn(|_| match pairs.next() {
            Some((a, b)) => a.merge(b, join),
            None => unreachable!("arrays of N elements zip to N pairs"),
        })
    }
}

impl<A: Merge<B>, B, C: Merge<D>, D> Merge<(B, D)> for (A, C) {
    type Out = (A::Out, C::Out);
    fn merge(self, other: (B, D), join: &mut Join) -> Self::Out {
        (self.0.merge(other.0, join), self.1.merge(other.1, join))
    }
}

impl<A: Merge<B>, B, C: Merge<D>, D, E: Merge<F>, F> Merge<(B, D, F)> for (A, C, E) {
    type Out = (A::Out, C::Out, E::Out);
    fn merge(self, other: (B, D, F), join: &mut Join) -> Self::Out {
        (self.0.merge(other.0, join), self.1.merge(other.1, join), self.2.merge(other.2, join))
    }
}
