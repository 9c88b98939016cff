//! `V<T>`, a device value of scalar type `T`, and its operators.

use super::record::emit1;
use crate::ir::{Arg, Operand};
use ptx::{Form, Imm, Mod, Op, Ty, Types};
use std::marker::PhantomData;
use std::ops::{
    Add, AddAssign, BitAnd, BitAndAssign, BitOr, BitOrAssign, BitXor, BitXorAssign, Div, DivAssign, Mul,
    MulAssign, Neg, Not, Rem, RemAssign, Shl, ShlAssign, Shr, ShrAssign, Sub, SubAssign,
};

/// A 16-bit IEEE float, by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F16(pub u16);

/// A bfloat16, by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BF16(pub u16);

/// A type that a register can hold.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a scalar that a device register can hold",
    note = "device scalars are bool, u16, i16, F16, BF16, u32, i32, f32, u64 and i64"
)]
pub trait Scalar: Copy + 'static {
    /// Its PTX type.
    const TY: Ty;
    /// Its bits, zero-extended.
    fn to_bits(self) -> u64;
}

macro_rules! scalar {
    ($($ty:ty, $ptx:ident, |$v:ident| $bits:expr;)*) => {$(
        impl Scalar for $ty {
            const TY: Ty = Ty::$ptx;
            fn to_bits(self) -> u64 { let $v = self; $bits }
        }
    )*};
}

scalar! {
    bool, Pred, |v| u64::from(v);
    u16, U16, |v| u64::from(v);
    i16, S16, |v| u64::from(v as u16);
    F16, F16, |v| u64::from(v.0);
    BF16, Bf16, |v| u64::from(v.0);
    u32, U32, |v| u64::from(v);
    i32, S32, |v| u64::from(v as u32);
    f32, F32, |v| u64::from(v.to_bits());
    u64, U64, |v| v;
    i64, S64, |v| v as u64;
}

/// A scalar with integer arithmetic.
pub trait Int: Scalar {}
/// An integer with a sign.
pub trait Signed: Int {}
/// A scalar of 32 bits.
pub trait Word: Scalar {}
/// A scalar with arithmetic.
pub trait Num: Scalar {}
macro_rules! marks { ($($mark:ident: $($ty:ty),*;)*) => { $($(impl $mark for $ty {})*)* }; }
marks! {
    Int: u16, i16, u32, i32, u64, i64;
    Signed: i16, i32, i64;
    Word: u32, i32, f32;
    Num: u16, i16, u32, i32, u64, i64, f32;
}

/// A device value: a handle, cheap to copy. It names the value that a variable has *now*; assignment changes which
/// value the variable names and never the value.
pub struct V<T> {
    pub(crate) operand: Operand,
    scalar: PhantomData<T>,
}

impl<T> Clone for V<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for V<T> {}

impl<T: Scalar> V<T> {
    pub(crate) fn new(operand: Operand) -> V<T> {
        V { operand, scalar: PhantomData }
    }

    pub(crate) fn arg(self) -> Arg {
        Arg::One(self.operand)
    }

    /// The same bits as another type of the same register.
    pub(crate) fn retype<U: Scalar>(self) -> V<U> {
        V::new(self.operand)
    }
}

/// Something that is, or becomes, a device value of type `T`: `V<T>` itself or a build-time `T`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `V<{T}>` and not a build-time `{T}`",
    note = "device types do not convert by themselves: see `to_f32`, `to_i32`, `as_u32`, `dev`"
)]
pub trait IntoV<T: Scalar> {
    /// The device value.
    fn into_v(self) -> V<T>;
}

impl<T: Scalar> IntoV<T> for V<T> {
    fn into_v(self) -> V<T> {
        self
    }
}

impl<T: Scalar> IntoV<T> for T {
    fn into_v(self) -> V<T> {
        V::new(Operand::Imm(Imm(self.to_bits())))
    }
}

/// A device value of a build-time scalar.
pub fn dev<T: Scalar>(value: T) -> V<T> {
    value.into_v()
}

/// Records an instruction whose operands and result are given.
pub(crate) fn op<T: Scalar>(op: Op, mods: &[Mod], ty: Ty, args: Vec<Arg>) -> V<T> {
    V::new(emit1(Form::new(op, mods, Types::one(ty)), T::TY, args))
}

/// Untyped bits of a scalar's width, for instructions that know no numbers.
pub(crate) const fn bits_of(ty: Ty) -> Ty {
    match ty.bytes() {
        0 => Ty::Pred,
        1 | 2 => Ty::B16,
        4 => Ty::B32,
        _ => Ty::B64,
    }
}

macro_rules! operator {
    ($trait:ident $method:ident $assign_trait:ident $assign:ident [$($ty:ty),*] $op:expr, $mods:expr, $ptx:expr) => {$(
        impl $trait<V<$ty>> for V<$ty> {
            type Output = V<$ty>;
            fn $method(self, other: V<$ty>) -> V<$ty> {
                op::<$ty>($op, $mods, $ptx(<$ty>::TY), vec![self.arg(), other.arg()])
            }
        }
        impl $trait<$ty> for V<$ty> {
            type Output = V<$ty>;
            fn $method(self, other: $ty) -> V<$ty> { $trait::$method(self, dev(other)) }
        }
        impl $trait<V<$ty>> for $ty {
            type Output = V<$ty>;
            fn $method(self, other: V<$ty>) -> V<$ty> { $trait::$method(dev(self), other) }
        }
        impl $assign_trait<V<$ty>> for V<$ty> {
            fn $assign(&mut self, other: V<$ty>) { *self = $trait::$method(*self, other); }
        }
        impl $assign_trait<$ty> for V<$ty> {
            fn $assign(&mut self, other: $ty) { *self = $trait::$method(*self, other); }
        }
    )*};
}

const fn same(ty: Ty) -> Ty {
    ty
}

operator!(Add add AddAssign add_assign [u16, i16, u32, i32, u64, i64] Op::AddInt, &[], same);
operator!(Sub sub SubAssign sub_assign [u16, i16, u32, i32, u64, i64] Op::SubInt, &[], same);
operator!(Mul mul MulAssign mul_assign [u16, i16, u32, i32, u64, i64] Op::MulInt, &[Mod::Lo], same);
operator!(Div div DivAssign div_assign [u16, i16, u32, i32, u64, i64] Op::DivInt, &[], same);
operator!(Rem rem RemAssign rem_assign [u16, i16, u32, i32, u64, i64] Op::RemInt, &[], same);
operator!(Add add AddAssign add_assign [f32] Op::AddF, &[Mod::Rn], same);
operator!(Sub sub SubAssign sub_assign [f32] Op::SubF, &[Mod::Rn], same);
operator!(Mul mul MulAssign mul_assign [f32] Op::MulF, &[Mod::Rn], same);
operator!(Div div DivAssign div_assign [f32] Op::DivF, &[Mod::Rn], same);
operator!(BitAnd bitand BitAndAssign bitand_assign [bool, u16, i16, u32, i32, u64, i64] Op::And, &[], bits_of);
operator!(BitOr bitor BitOrAssign bitor_assign [bool, u16, i16, u32, i32, u64, i64] Op::Or, &[], bits_of);
operator!(BitXor bitxor BitXorAssign bitxor_assign [bool, u16, i16, u32, i32, u64, i64] Op::Xor, &[], bits_of);

macro_rules! shift {
    ($trait:ident $method:ident $assign_trait:ident $assign:ident $op:expr, $ptx:expr, [$($ty:ty),*]) => {$(
        impl $trait<V<u32>> for V<$ty> {
            type Output = V<$ty>;
            fn $method(self, by: V<u32>) -> V<$ty> {
                op::<$ty>($op, &[], $ptx(<$ty>::TY), vec![self.arg(), by.arg()])
            }
        }
        impl $trait<u32> for V<$ty> {
            type Output = V<$ty>;
            fn $method(self, by: u32) -> V<$ty> { $trait::$method(self, dev(by)) }
        }
        impl $trait<V<u32>> for $ty {
            type Output = V<$ty>;
            fn $method(self, by: V<u32>) -> V<$ty> { $trait::$method(dev(self), by) }
        }
        impl $assign_trait<V<u32>> for V<$ty> {
            fn $assign(&mut self, by: V<u32>) { *self = $trait::$method(*self, by); }
        }
        impl $assign_trait<u32> for V<$ty> {
            fn $assign(&mut self, by: u32) { *self = $trait::$method(*self, by); }
        }
    )*};
}

shift!(Shl shl ShlAssign shl_assign Op::Shl, bits_of, [u16, i16, u32, i32, u64, i64]);
shift!(Shr shr ShrAssign shr_assign Op::Shr, same, [u16, i16, u32, i32, u64, i64]);

macro_rules! negation {
    ($($ty:ty, $op:ident;)*) => {$(
        impl Neg for V<$ty> {
            type Output = V<$ty>;
            fn neg(self) -> V<$ty> { op::<$ty>(Op::$op, &[], <$ty>::TY, vec![self.arg()]) }
        }
    )*};
}
negation! { i32, NegInt; i64, NegInt; f32, NegF; }

macro_rules! complement {
    ($($ty:ty),*) => {$(
        impl Not for V<$ty> {
            type Output = V<$ty>;
            fn not(self) -> V<$ty> { op::<$ty>(Op::Not, &[], bits_of(<$ty>::TY), vec![self.arg()]) }
        }
    )*};
}
complement!(bool, u16, i16, u32, i32, u64, i64);
