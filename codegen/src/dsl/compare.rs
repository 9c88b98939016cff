//! Comparisons and logic that serve build time (giving `bool`) and the device (giving `V<bool>`).
//!
//! The macro writes `eq(&a, &b)` for `a == b` and `and(a, || b)` for `a && b`; types choose.

use super::value::{IntoV, Num, Scalar, V, dev, op};
use ptx::{Mod, Op, Ty};

/// A type of build time whose values may be compared in a kernel. Implement it for enums of kernel parameters.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be compared or assigned in device code",
    note = "device values compare with device values or constants of the same type; for an enum of build time, \
            `impl dsl::BuildTime for {Self} {{}}`"
)]
pub trait BuildTime {}

macro_rules! build_time { ($($ty:ty),*) => { $(impl BuildTime for $ty {})* }; }
build_time!(
    bool,
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    u64,
    i64,
    u128,
    i128,
    usize,
    isize,
    f32,
    f64,
    char,
    String,
    str,
    (),
    F16,
    BF16
);
use super::value::{BF16, F16};
impl<T: BuildTime + ?Sized> BuildTime for &T {}
impl<T: BuildTime> BuildTime for Option<T> {}
impl<T: BuildTime> BuildTime for [T] {}
impl<T: BuildTime, const N: usize> BuildTime for [T; N] {}
impl<A: BuildTime, B: BuildTime> BuildTime for (A, B) {}

/// The six comparisons between `Self` and `R`.
#[diagnostic::on_unimplemented(
    message = "cannot compare `{Self}` with `{R}` in device code",
    note = "both sides need the same scalar type: `V<T>` and `V<T>`, or `V<T>` and a constant `T`; an enum of build \
            time needs `impl dsl::BuildTime`"
)]
pub trait Compare<R: ?Sized> {
    /// `bool` at build time, `V<bool>` on the device.
    type Out;
    #[doc(hidden)]
    fn eq(&self, other: &R) -> Self::Out;
    #[doc(hidden)]
    fn ne(&self, other: &R) -> Self::Out;
}

/// The four orderings between `Self` and `R`.
#[diagnostic::on_unimplemented(
    message = "cannot order `{Self}` and `{R}` in device code",
    note = "both sides need the same scalar type: `V<T>` and `V<T>`, or `V<T>` and a constant `T`"
)]
pub trait Order<R: ?Sized>: Compare<R> {
    #[doc(hidden)]
    fn lt(&self, other: &R) -> Self::Out;
    #[doc(hidden)]
    fn le(&self, other: &R) -> Self::Out;
    #[doc(hidden)]
    fn gt(&self, other: &R) -> Self::Out;
    #[doc(hidden)]
    fn ge(&self, other: &R) -> Self::Out;
}

impl<T: BuildTime + PartialEq> Compare<T> for T {
    type Out = bool;
    fn eq(&self, other: &T) -> bool {
        self == other
    }
    fn ne(&self, other: &T) -> bool {
        self != other
    }
}

impl<T: BuildTime + PartialOrd> Order<T> for T {
    fn lt(&self, other: &T) -> bool {
        self < other
    }
    fn le(&self, other: &T) -> bool {
        self <= other
    }
    fn gt(&self, other: &T) -> bool {
        self > other
    }
    fn ge(&self, other: &T) -> bool {
        self >= other
    }
}

/// `setp`; `!=` is the unordered form for floats, so that NaN != NaN holds as in Rust.
fn setp<T: Scalar>(m: Mod, a: V<T>, b: V<T>) -> V<bool> {
    let m = if T::TY == Ty::F32 && m == Mod::Ne { Mod::Neu } else { m };
    op::<bool>(Op::Setp, &[m], T::TY, vec![a.arg(), b.arg()])
}

macro_rules! device_compare {
    ([$($g:tt)*] $left:ty, $right:ty, $scalar:ty) => {
        impl<$($g)*> Compare<$right> for $left {
            type Out = V<bool>;
            fn eq(&self, other: &$right) -> V<bool> { setp::<$scalar>(Mod::Eq, (*self).into_v(), (*other).into_v()) }
            fn ne(&self, other: &$right) -> V<bool> { setp::<$scalar>(Mod::Ne, (*self).into_v(), (*other).into_v()) }
        }
        impl<$($g)*> Order<$right> for $left {
            fn lt(&self, other: &$right) -> V<bool> { setp::<$scalar>(Mod::Lt, (*self).into_v(), (*other).into_v()) }
            fn le(&self, other: &$right) -> V<bool> { setp::<$scalar>(Mod::Le, (*self).into_v(), (*other).into_v()) }
            fn gt(&self, other: &$right) -> V<bool> { setp::<$scalar>(Mod::Gt, (*self).into_v(), (*other).into_v()) }
            fn ge(&self, other: &$right) -> V<bool> { setp::<$scalar>(Mod::Ge, (*self).into_v(), (*other).into_v()) }
        }
    };
}
device_compare!([T: Num] V<T>, V<T>, T);
device_compare!([T: Num] V<T>, T, T);
device_compare!([T: Num] T, V<T>, T);

/// `a == b`.
pub fn eq<A: Compare<B> + ?Sized, B: ?Sized>(a: &A, b: &B) -> A::Out {
    a.eq(b)
}
/// `a != b`.
pub fn ne<A: Compare<B> + ?Sized, B: ?Sized>(a: &A, b: &B) -> A::Out {
    a.ne(b)
}
/// `a < b`.
pub fn lt<A: Order<B> + ?Sized, B: ?Sized>(a: &A, b: &B) -> A::Out {
    a.lt(b)
}
/// `a <= b`.
pub fn le<A: Order<B> + ?Sized, B: ?Sized>(a: &A, b: &B) -> A::Out {
    a.le(b)
}
/// `a > b`.
pub fn gt<A: Order<B> + ?Sized, B: ?Sized>(a: &A, b: &B) -> A::Out {
    a.gt(b)
}
/// `a >= b`.
pub fn ge<A: Order<B> + ?Sized, B: ?Sized>(a: &A, b: &B) -> A::Out {
    a.ge(b)
}

/// `&&` and `||` between `bool`s and `V<bool>`s.
#[diagnostic::on_unimplemented(message = "`&&` and `||` need `bool` or `V<bool>`, not `{Self}` and `{R}`")]
pub trait Logic<R> {
    /// `bool` at build time, `V<bool>` on the device.
    type Out;
    #[doc(hidden)]
    fn and(self, other: impl FnOnce() -> R) -> Self::Out;
    #[doc(hidden)]
    fn or(self, other: impl FnOnce() -> R) -> Self::Out;
}

impl Logic<bool> for bool {
    type Out = bool;
    fn and(self, other: impl FnOnce() -> bool) -> bool {
        self && other()
    }
    fn or(self, other: impl FnOnce() -> bool) -> bool {
        self || other()
    }
}

impl Logic<V<bool>> for bool {
    type Out = V<bool>;
    fn and(self, other: impl FnOnce() -> V<bool>) -> V<bool> {
        if self { other() } else { dev(false) }
    }
    fn or(self, other: impl FnOnce() -> V<bool>) -> V<bool> {
        if self { dev(true) } else { other() }
    }
}

impl Logic<bool> for V<bool> {
    type Out = V<bool>;
    fn and(self, other: impl FnOnce() -> bool) -> V<bool> {
        if other() { self } else { dev(false) }
    }
    fn or(self, other: impl FnOnce() -> bool) -> V<bool> {
        if other() { dev(true) } else { self }
    }
}

impl Logic<V<bool>> for V<bool> {
    type Out = V<bool>;
    fn and(self, other: impl FnOnce() -> V<bool>) -> V<bool> {
        self & other()
    }
    fn or(self, other: impl FnOnce() -> V<bool>) -> V<bool> {
        self | other()
    }
}

/// `a && b`: both sides run on the device, the right one is skipped only at build time.
pub fn and<A: Logic<B>, B>(a: A, b: impl FnOnce() -> B) -> A::Out {
    a.and(b)
}
/// `a || b`, as [`and`].
pub fn or<A: Logic<B>, B>(a: A, b: impl FnOnce() -> B) -> A::Out {
    a.or(b)
}

/// `x = literal` for a device variable or one of build time.
#[diagnostic::on_unimplemented(
    message = "cannot assign the literal of type `{R}` to a variable of type `{Self}`"
)]
pub trait Assign<R> {
    #[doc(hidden)]
    fn assign(&mut self, value: R);
}
impl<T: BuildTime> Assign<T> for T {
    fn assign(&mut self, value: T) {
        *self = value;
    }
}
impl<T: Scalar> Assign<T> for V<T> {
    fn assign(&mut self, value: T) {
        *self = dev(value);
    }
}
/// `x = literal`.
pub fn assign<A: Assign<R>, R>(place: &mut A, value: R) {
    place.assign(value);
}
