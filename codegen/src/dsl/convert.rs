//! Conversions between device scalars. Nothing converts by itself; every method names its rounding.

use super::record::emit1;
use super::value::{BF16, F16, Scalar, V};
use crate::ir::Arg;
use ptx::{Form, Mod, Op, Ty, Types};

fn cvt<T: Scalar>(mods: &[Mod], to: Ty, from: Ty, arg: Arg) -> V<T> {
    V::new(emit1(Form::new(Op::Cvt, mods, Types::two(to, from)), T::TY, vec![arg]))
}

/// `mov` between register kinds of one size.
fn bit_cast<T: Scalar>(ty: Ty, arg: Arg) -> V<T> {
    V::new(emit1(Form::new(Op::Mov, &[], Types::one(ty)), T::TY, vec![arg]))
}

impl V<f32> {
    /// To the nearest integer, ties to even; saturates, NaN gives 0.
    pub fn round_to_i32(self) -> V<i32> {
        cvt(&[Mod::Rni], Ty::S32, Ty::F32, self.arg())
    }
    /// Toward zero; saturates, NaN gives 0.
    pub fn trunc_to_i32(self) -> V<i32> {
        cvt(&[Mod::Rzi], Ty::S32, Ty::F32, self.arg())
    }
    /// Toward zero; saturates (negative gives 0), NaN gives 0.
    pub fn trunc_to_u32(self) -> V<u32> {
        cvt(&[Mod::Rzi], Ty::U32, Ty::F32, self.arg())
    }
    /// Toward zero, 64 bits; saturates, negative gives 0, NaN gives 2^63.
    pub fn trunc_to_u64(self) -> V<u64> {
        cvt(&[Mod::Rzi], Ty::U64, Ty::F32, self.arg())
    }
    /// To the nearest whole number as a float, ties to even.
    pub fn round(self) -> V<f32> {
        cvt(&[Mod::Rni], Ty::F32, Ty::F32, self.arg())
    }
    /// Toward minus infinity, as a float.
    pub fn floor(self) -> V<f32> {
        cvt(&[Mod::Rmi], Ty::F32, Ty::F32, self.arg())
    }
    /// To f16, nearest even.
    pub fn to_f16(self) -> V<F16> {
        cvt(&[Mod::Rn], Ty::F16, Ty::F32, self.arg())
    }
    /// To bf16, nearest even (sm_80).
    pub fn to_bf16(self) -> V<BF16> {
        cvt(&[Mod::Rn], Ty::Bf16, Ty::F32, self.arg())
    }
    /// The IEEE bits.
    pub fn bits(self) -> V<u32> {
        bit_cast(Ty::B32, self.arg())
    }
    /// A float of IEEE bits.
    pub fn from_bits(bits: V<u32>) -> V<f32> {
        bit_cast(Ty::B32, bits.arg())
    }
}

impl V<F16> {
    /// Exact.
    pub fn to_f32(self) -> V<f32> {
        cvt(&[], Ty::F32, Ty::F16, self.arg())
    }
    /// The low half of a word.
    pub fn from_bits(bits: V<u32>) -> V<F16> {
        cvt::<F16>(&[], Ty::U16, Ty::U32, bits.arg())
    }
    /// The bits in the low half of a word.
    pub fn bits(self) -> V<u32> {
        cvt(&[], Ty::U32, Ty::U16, self.arg())
    }
}

impl V<BF16> {
    /// Exact: the bits of a bf16 are the high half of an f32.
    pub fn to_f32(self) -> V<f32> {
        V::<f32>::from_bits(self.bits() << 16)
    }
    /// The low half of a word.
    pub fn from_bits(bits: V<u32>) -> V<BF16> {
        cvt::<BF16>(&[], Ty::U16, Ty::U32, bits.arg())
    }
    /// The bits in the low half of a word.
    pub fn bits(self) -> V<u32> {
        cvt(&[], Ty::U32, Ty::U16, self.arg())
    }
}

impl V<u32> {
    /// Nearest even.
    pub fn to_f32(self) -> V<f32> {
        cvt(&[Mod::Rn], Ty::F32, Ty::U32, self.arg())
    }
    /// The same bits as a signed integer.
    pub fn as_i32(self) -> V<i32> {
        self.retype()
    }
    /// The same bits as an unsigned integer.
    pub fn as_u32(self) -> V<u32> {
        self
    }
    /// Zero-extended.
    pub fn to_u64(self) -> V<u64> {
        cvt(&[], Ty::U64, Ty::U32, self.arg())
    }
    /// The low byte, sign-extended.
    pub fn low_i8(self) -> V<i32> {
        cvt(&[], Ty::S8, Ty::S32, self.arg())
    }
    /// The low half.
    pub fn to_u16(self) -> V<u16> {
        cvt(&[], Ty::U16, Ty::U32, self.arg())
    }
}

impl V<i32> {
    /// Nearest even.
    pub fn to_f32(self) -> V<f32> {
        cvt(&[Mod::Rn], Ty::F32, Ty::S32, self.arg())
    }
    /// The same bits as an unsigned integer.
    pub fn as_u32(self) -> V<u32> {
        self.retype()
    }
    /// The same bits as a signed integer.
    pub fn as_i32(self) -> V<i32> {
        self
    }
    /// Sign-extended.
    pub fn to_i64(self) -> V<i64> {
        cvt(&[], Ty::S64, Ty::S32, self.arg())
    }
}

impl V<u64> {
    /// The low word.
    pub fn to_u32(self) -> V<u32> {
        cvt(&[], Ty::U32, Ty::U64, self.arg())
    }
    /// The same bits as a signed integer.
    pub fn as_i64(self) -> V<i64> {
        self.retype()
    }
}

impl V<i64> {
    /// The low word.
    pub fn to_i32(self) -> V<i32> {
        cvt(&[], Ty::S32, Ty::S64, self.arg())
    }
    /// The same bits as an unsigned integer.
    pub fn as_u64(self) -> V<u64> {
        self.retype()
    }
}

impl V<u16> {
    /// Zero-extended.
    pub fn to_u32(self) -> V<u32> {
        cvt(&[], Ty::U32, Ty::U16, self.arg())
    }
}

impl V<i16> {
    /// Sign-extended.
    pub fn to_i32(self) -> V<i32> {
        cvt(&[], Ty::S32, Ty::S16, self.arg())
    }
}

impl V<bool> {
    /// 1 where it holds, else 0.
    pub fn to_u32(self) -> V<u32> {
        super::intrinsics::select(self, 1u32, 0u32)
    }
}
