//! Conversions of one lane: between f32, f16, bf16 and integers. The half formats are done on bits, in straight lines
//! of selects, so that loops over lanes become vector code on hosts without half instructions.

use super::float::{NAN_F32, quiet_f32};
use super::mask;
use crate::types::{Mod, Ty};

/// What an out-of-range conversion does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Keeps the low bits (`cvt` between integers without `.sat`); floats are left as they are.
    Wrap,
    /// Takes the nearest representable value (`.sat`); floats are clamped into [0, 1].
    Saturate,
}

/// f16 bits to f32, exact; a NaN becomes the canonical one.
#[inline]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let abs = u32::from(h & 0x7fff);
    // Rebias the exponent from 15 to 127.
    let normal = (abs << 13) + (112 << 23);
    let subnormal = (abs as f32 * f32::from_bits(0x3380_0000)).to_bits(); // abs · 2^-24
    let finite = if abs < 0x0400 { subnormal } else { normal };
    let bits = if abs >= 0x7c00 { 0x7f80_0000 } else { finite };
    f32::from_bits(if abs > 0x7c00 { NAN_F32 } else { bits | sign })
}

/// f32 to f16 bits, to nearest even, with subnormals; overflow gives infinity, NaN gives 0x7fff.
#[inline]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let abs = bits & 0x7fff_ffff;
    // Rebias, then add half an ulp (less one, plus the last kept bit) and cut: nearest even.
    let rebased = abs.wrapping_sub(112 << 23);
    let normal = rebased.wrapping_add(0xfff + ((rebased >> 13) & 1)) >> 13;
    // Below 2^-14 the result is a multiple of 2^-24, the last place of numbers in [0.5, 1): the sum rounds there.
    let subnormal = (f32::from_bits(abs) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if abs < 0x3880_0000 { subnormal } else { normal };
    // From 65520 on, nearest even is infinity.
    let magnitude = if abs >= 0x477f_f000 { 0x7c00 } else { finite };
    (if abs > 0x7f80_0000 { 0x7fff } else { magnitude | sign }) as u16
}

/// bf16 bits to f32, exact, all bits kept.
#[inline]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// f32 to bf16 bits, to nearest even, with subnormals; NaN gives 0x7fff.
#[inline]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }) as u16
}

/// `cvt.rn.f16x2.f32 d, a, b`: a in the high half, b in the low half.
#[inline]
pub fn pack_f16x2(a: f32, b: f32) -> u32 {
    u32::from(f32_to_f16(a)) << 16 | u32::from(f32_to_f16(b))
}

/// Into [0, 1]; NaN and -0 give +0.
#[inline]
pub fn saturate_f32(x: f32) -> f32 {
    let low = if x > 0.0 { x } else { 0.0 };
    if low < 1.0 { low } else { 1.0 }
}

/// x rounded to an integral value: `.rni` nearest even, `.rzi` toward zero, `.rmi` down, `.rpi` up.
#[inline]
pub fn round_integral(round: Mod, x: f32) -> f32 {
    quiet_f32(match round {
        Mod::Rzi => x.trunc(),
        Mod::Rmi => x.floor(),
        Mod::Rpi => x.ceil(),
        _ => x.round_ties_even(),
    })
}

/// `cvt.rni.s32.f32`: nearest even, saturating, NaN to 0.
#[inline]
pub fn cvt_rni_s32_f32(x: f32) -> i32 {
    x.round_ties_even() as i32
}

/// `cvt.rzi.s32.f32`: toward zero, saturating, NaN to 0.
#[inline]
pub fn cvt_rzi_s32_f32(x: f32) -> i32 {
    x as i32
}

/// `cvt.rn.f32.s32`: to nearest even.
#[inline]
pub fn cvt_rn_f32_s32(x: i32) -> f32 {
    x as f32
}

/// `cvt.rn.f32.u32`: to nearest even.
#[inline]
pub fn cvt_rn_f32_u32(x: u32) -> f32 {
    x as f32
}

/// An integral float (or NaN) as an integer of type `to`, saturating; raw bits of that type. NaN gives 0, and the
/// most significant bit alone for 64-bit types.
#[inline]
pub fn float_to_int(to: Ty, x: f32) -> u64 {
    let bits = match to {
        Ty::U8 => u64::from(x as u8),
        Ty::S8 => x as i8 as u64,
        Ty::U16 => u64::from(x as u16),
        Ty::S16 => x as i16 as u64,
        Ty::U32 => u64::from(x as u32),
        Ty::S32 => x as i32 as u64,
        _ if x.is_nan() => 1 << 63,
        Ty::S64 => x as i64 as u64,
        _ => x as u64,
    };
    bits & mask(to.bits())
}

/// An integer as an integer of type `to`; raw bits of that type.
pub fn int_to_int(to: Ty, overflow: Overflow, value: i128) -> u64 {
    let value = match overflow {
        Overflow::Wrap => value,
        Overflow::Saturate => {
            let (low, high) = match to.is_signed() {
                true => (-(1i128 << (to.bits() - 1)), (1i128 << (to.bits() - 1)) - 1),
                false => (0, (1i128 << to.bits()) - 1),
            };
            value.clamp(low, high)
        }
    };
    value as u64 & mask(to.bits())
}

/// An integer of at most 64 bits as f32, `.rn`, `.rz`, `.rm` or `.rp`.
pub fn int_to_f32(round: Mod, value: i128) -> f32 {
    let nearest = value as f32;
    let back = nearest as i128;
    let down = back > value && (round == Mod::Rm || round == Mod::Rz && value > 0);
    let up = back < value && (round == Mod::Rp || round == Mod::Rz && value < 0);
    if down {
        nearest.next_down()
    } else if up {
        nearest.next_up()
    } else {
        nearest
    }
}

/// An integer of at most 64 bits as f32 with the last bit set when bits were lost: a second rounding to a narrower
/// format then equals rounding once.
pub fn int_to_f32_odd(value: i128) -> f32 {
    let toward_zero = int_to_f32(Mod::Rz, value);
    let inexact = toward_zero as i128 != value;
    f32::from_bits(toward_zero.to_bits() | u32::from(inexact))
}
