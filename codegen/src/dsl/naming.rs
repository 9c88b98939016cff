//! Registers take the names of variables: the macro follows each `let x = …` with `(&Namer(&x)).give_name("x")`.
//!
//! Two traits and one level of reference decide by type whether there is something to name: a `Namer` of device
//! values matches [`NameDevice`] as it stands, any other needs one more `&` and matches [`NameAny`], which does nothing.

use super::memory_kind::Kind;
use super::pointer::Ptr;
use super::record;
use super::value::V;
use crate::ir::Operand;

/// What a variable holds, on its way to a name.
pub struct Namer<'a, X: ?Sized>(pub &'a X);

/// Values that have registers to name.
pub trait Named {
    #[doc(hidden)]
    fn named(&self, name: &str);
}
impl<T> Named for V<T> {
    fn named(&self, name: &str) {
        if let Operand::Value(id) = self.operand {
            record::with(|r| r.name(id, name));
        }
    }
}
impl<T, K: Kind> Named for Ptr<T, K> {
    fn named(&self, name: &str) {
        self.give_name(name);
    }
}
impl<X: Named, const N: usize> Named for [X; N] {
    fn named(&self, name: &str) {
        self.iter().for_each(|x| x.named(name));
    }
}
impl<X: Named> Named for Vec<X> {
    fn named(&self, name: &str) {
        self.iter().for_each(|x| x.named(name));
    }
}

/// Names device values.
pub trait NameDevice {
    #[doc(hidden)]
    fn give_name(&self, name: &str);
}
impl<X: Named + ?Sized> NameDevice for Namer<'_, X> {
    fn give_name(&self, name: &str) {
        self.0.named(name);
    }
}

/// Leaves build-time values alone.
pub trait NameAny {
    #[doc(hidden)]
    fn give_name(&self, _: &str) {}
}
impl<X: ?Sized> NameAny for &Namer<'_, X> {}
