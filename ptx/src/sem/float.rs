//! f32 arithmetic of one lane. IEEE results of the host are the device's results, except for NaN, which the device
//! makes canonical, and `fma`, which is rebuilt from f64 where the host has no fused instruction.

use crate::types::Mod;

/// The NaN that arithmetic produces.
pub const NAN_F32: u32 = 0x7fff_ffff;

/// `value`, any NaN replaced by the canonical one.
#[inline]
pub fn quiet_f32(value: f32) -> f32 {
    // Bits rather than floats, so that the select stays a blend and no NaN payload is at the host's mercy.
    f32::from_bits(if value.is_nan() { NAN_F32 } else { value.to_bits() })
}

/// a + b, rounded to nearest even.
#[inline]
pub fn add_f32(a: f32, b: f32) -> f32 {
    quiet_f32(a + b)
}

/// a - b, rounded to nearest even.
#[inline]
pub fn sub_f32(a: f32, b: f32) -> f32 {
    quiet_f32(a - b)
}

/// a · b, rounded to nearest even.
#[inline]
pub fn mul_f32(a: f32, b: f32) -> f32 {
    quiet_f32(a * b)
}

/// a / b, rounded to nearest even.
#[inline]
pub fn div_f32(a: f32, b: f32) -> f32 {
    quiet_f32(a / b)
}

/// 1 / a, rounded to nearest even.
#[inline]
pub fn rcp_f32(a: f32) -> f32 {
    quiet_f32(1.0 / a)
}

/// √a, rounded to nearest even; √-0 = -0.
#[inline]
pub fn sqrt_f32(a: f32) -> f32 {
    // The root is taken of |a| and the sign of -0 put back: on a plain `sqrt(a)`, LLVM folds the select for negative
    // arguments away, because one NaN is as good as another to it, and the host's own NaN comes through.
    let root = a.abs().sqrt().to_bits() | a.to_bits() & 0x8000_0000;
    f32::from_bits(if a >= 0.0 { root } else { NAN_F32 })
}

/// a · b + c with one rounding to nearest even.
#[inline]
pub fn fma_f32(a: f32, b: f32, c: f32) -> f32 {
    // Without the host instruction `mul_add` is a library call a lane, far slower than two f64 operations.
    if cfg!(target_feature = "fma") { quiet_f32(a.mul_add(b, c)) } else { fma_f32_by_f64(a, b, c) }
}

/// [`fma_f32`] without a fused instruction: the product is exact in f64, the sum is rounded to odd there, and
/// rounding an odd-rounded 53-bit value to 24 bits equals rounding the exact value once.
#[inline]
pub fn fma_f32_by_f64(a: f32, b: f32, c: f32) -> f32 {
    quiet_f32(add_odd(f64::from(a) * f64::from(b), f64::from(c)) as f32)
}

/// p + c rounded to odd: the exact sum if it fits, else the neighbour whose last bit is one. For sums that neither
/// overflow nor underflow f64, which holds for products and values of f32; infinities and NaN pass through.
#[inline]
fn add_odd(p: f64, c: f64) -> f64 {
    let s = p + c;
    // Knuth's two-sum: s + error is the exact sum.
    let c_part = s - p;
    let error = (p - (s - c_part)) + (c - c_part);
    // An infinite or NaN sum has a NaN error, for which neither comparison holds.
    let inexact = (error > 0.0) | (error < 0.0);
    let bits = s.to_bits();
    let toward = if (error > 0.0) == (s > 0.0) { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f64::from_bits(if inexact & (bits & 1 == 0) { toward } else { bits })
}

/// a + b rounded toward zero (`.rz`), -∞ (`.rm`) or +∞ (`.rp`). For `sub`, negate b.
pub fn add_f32_directed(round: Mod, a: f32, b: f32) -> f32 {
    let sum = add_odd(f64::from(a), f64::from(b));
    if sum == 0.0 && round == Mod::Rm {
        // IEEE 754 section 6.3: an exact zero sum is -0 toward -∞, unless both addends are +0.
        let negative = a.is_sign_negative() || b.is_sign_negative();
        return if negative { -0.0 } else { 0.0 };
    }
    narrow_directed(round, sum)
}

/// a · b rounded toward zero (`.rz`), -∞ (`.rm`) or +∞ (`.rp`).
pub fn mul_f32_directed(round: Mod, a: f32, b: f32) -> f32 {
    narrow_directed(round, f64::from(a) * f64::from(b))
}

/// f64 to f32 in a direction. An odd-rounded argument gives the exact sum's rounding.
fn narrow_directed(round: Mod, exact: f64) -> f32 {
    let nearest = exact as f32;
    let wide = f64::from(nearest);
    if exact.is_infinite() {
        return nearest;
    }
    let too_high = wide > exact;
    let too_low = wide < exact;
    let down = match round {
        Mod::Rz => exact > 0.0,
        Mod::Rm => true,
        _ => false,
    };
    let up = match round {
        Mod::Rz => exact < 0.0,
        Mod::Rp => true,
        _ => false,
    };
    quiet_f32(if too_high && down {
        nearest.next_down()
    } else if too_low && up {
        nearest.next_up()
    } else {
        nearest
    })
}

/// The lesser; -0 < +0; the number if one is NaN.
#[inline]
pub fn min_f32(a: f32, b: f32) -> f32 {
    // Equal values have equal bits except ±0, where OR keeps the sign.
    let ordered = if a < b {
        a.to_bits()
    } else if b < a {
        b.to_bits()
    } else {
        a.to_bits() | b.to_bits()
    };
    number_of(a, b, ordered)
}

/// The greater; -0 < +0; the number if one is NaN.
#[inline]
pub fn max_f32(a: f32, b: f32) -> f32 {
    let ordered = if a > b {
        a.to_bits()
    } else if b > a {
        b.to_bits()
    } else {
        a.to_bits() & b.to_bits()
    };
    number_of(a, b, ordered)
}

/// `ordered`, unless an operand is NaN: then the other, and the canonical NaN if both are.
#[inline]
fn number_of(a: f32, b: f32, ordered: u32) -> f32 {
    let bits = if a.is_nan() { b.to_bits() } else { ordered };
    let bits = if b.is_nan() { a.to_bits() } else { bits };
    f32::from_bits(if a.is_nan() & b.is_nan() { NAN_F32 } else { bits })
}

/// [`min_f32`], but NaN if either is.
#[inline]
pub fn min_nan_f32(a: f32, b: f32) -> f32 {
    f32::from_bits(if a.is_nan() | b.is_nan() { NAN_F32 } else { min_f32(a, b).to_bits() })
}

/// [`max_f32`], but NaN if either is.
#[inline]
pub fn max_nan_f32(a: f32, b: f32) -> f32 {
    f32::from_bits(if a.is_nan() | b.is_nan() { NAN_F32 } else { max_f32(a, b).to_bits() })
}

/// |a|; a NaN becomes the canonical one.
#[inline]
pub fn abs_f32(a: f32) -> f32 {
    quiet_f32(f32::from_bits(a.to_bits() & 0x7fff_ffff))
}

/// -a; a NaN becomes the canonical one.
#[inline]
pub fn neg_f32(a: f32) -> f32 {
    quiet_f32(f32::from_bits(a.to_bits() ^ 0x8000_0000))
}
