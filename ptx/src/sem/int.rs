//! Integer, bit and byte arithmetic of one lane: the 32-bit functions that kernels live on, and a wide path that
//! covers every width.

use super::{extend, mask};
use crate::inst::Form;
use crate::table::Op;
use crate::types::{Mod, Ty};

#[inline]
fn signed_byte(word: u32, i: u32) -> i32 {
    i32::from((word >> (8 * i)) as i8)
}

#[inline]
fn unsigned_byte(word: u32, i: u32) -> i32 {
    i32::from((word >> (8 * i)) as u8)
}

macro_rules! dp4a {
    ($name:ident, $doc:literal, $a:ident, $b:ident) => {
        #[doc = $doc]
        #[inline]
        pub fn $name(a: u32, b: u32, c: u32) -> u32 {
            // Four products of at most 17 bits cannot overflow 32; only the addition of c may wrap.
            let dot = $a(a, 0) * $b(b, 0) + $a(a, 1) * $b(b, 1) + $a(a, 2) * $b(b, 2) + $a(a, 3) * $b(b, 3);
            c.wrapping_add(dot as u32)
        }
    };
}

dp4a!(dp4a_s32_s32, "`dp4a.s32.s32`: c + Σ aᵢ·bᵢ, bytes signed.", signed_byte, signed_byte);
dp4a!(dp4a_u32_u32, "`dp4a.u32.u32`: c + Σ aᵢ·bᵢ, bytes unsigned.", unsigned_byte, unsigned_byte);
dp4a!(dp4a_u32_s32, "`dp4a.u32.s32`: bytes of a unsigned, of b signed.", unsigned_byte, signed_byte);
dp4a!(dp4a_s32_u32, "`dp4a.s32.u32`: bytes of a signed, of b unsigned.", signed_byte, unsigned_byte);

/// `dp4a` by its two types.
#[inline]
pub fn dp4a(a_ty: Ty, b_ty: Ty, [a, b, c]: [u32; 3]) -> u32 {
    match (a_ty.is_signed(), b_ty.is_signed()) {
        (true, true) => dp4a_s32_s32(a, b, c),
        (true, false) => dp4a_s32_u32(a, b, c),
        (false, true) => dp4a_u32_s32(a, b, c),
        (false, false) => dp4a_u32_u32(a, b, c),
    }
}

/// `dp2a` by its two types; `half` is `.lo` or `.hi`, which bytes of b are taken.
#[inline]
pub fn dp2a(half: Mod, a_ty: Ty, b_ty: Ty, [a, b, c]: [u32; 3]) -> u32 {
    let first = if half == Mod::Hi { 2 } else { 0 };
    let product = |i: u32| {
        let wide = a >> (16 * i);
        let a_half = if a_ty.is_signed() { i32::from(wide as i16) } else { i32::from(wide as u16) };
        let byte = if b_ty.is_signed() { signed_byte(b, first + i) } else { unsigned_byte(b, first + i) };
        a_half * byte
    };
    c.wrapping_add(product(0) as u32).wrapping_add(product(1) as u32)
}

/// Four bytes of b:a chosen by the low four nibbles of `selector`; bit 3 of a nibble replicates the byte's sign.
#[inline]
pub fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let pool = u64::from(b) << 32 | u64::from(a);
    let pick = |i: u32| {
        let nibble = selector >> (4 * i);
        let byte = (pool >> (8 * (nibble & 7))) as u8;
        let sign = ((byte as i8) >> 7) as u8;
        u32::from(if nibble & 8 != 0 { sign } else { byte }) << (8 * i)
    };
    pick(0) | pick(1) | pick(2) | pick(3)
}

/// The bitwise function of three words whose truth table is `lut` (bit 4a + 2b + c).
#[inline]
pub fn lop3(a: u32, b: u32, c: u32, lut: u32) -> u32 {
    let term = |i: u32| {
        let on = 0u32.wrapping_sub(lut >> i & 1);
        let side = |word: u32, bit: u32| if i & bit != 0 { word } else { !word };
        on & side(a, 4) & side(b, 2) & side(c, 1)
    };
    term(0) | term(1) | term(2) | term(3) | term(4) | term(5) | term(6) | term(7)
}

/// a << b, 0 when b > 31.
#[inline]
pub fn shl_b32(a: u32, b: u32) -> u32 {
    if b > 31 { 0 } else { a << (b & 31) }
}

/// a >> b, 0 when b > 31.
#[inline]
pub fn shr_u32(a: u32, b: u32) -> u32 {
    if b > 31 { 0 } else { a >> (b & 31) }
}

/// a >> b with sign, b clamped to 31.
#[inline]
pub fn shr_s32(a: u32, b: u32) -> u32 {
    ((a as i32) >> b.min(31)) as u32
}

/// `shf.l`: the high word of b:a << n, n at most 32.
#[inline]
fn funnel_left(a: u32, b: u32, n: u32) -> u32 {
    ((u64::from(b) << 32 | u64::from(a)) << n >> 32) as u32
}

/// `shf.r`: the low word of b:a >> n, n at most 32.
#[inline]
fn funnel_right(a: u32, b: u32, n: u32) -> u32 {
    ((u64::from(b) << 32 | u64::from(a)) >> n) as u32
}

/// `shf.l.wrap.b32`.
#[inline]
pub fn shf_l_wrap(a: u32, b: u32, c: u32) -> u32 {
    funnel_left(a, b, c & 31)
}

/// `shf.l.clamp.b32`.
#[inline]
pub fn shf_l_clamp(a: u32, b: u32, c: u32) -> u32 {
    funnel_left(a, b, c.min(32))
}

/// `shf.r.wrap.b32`.
#[inline]
pub fn shf_r_wrap(a: u32, b: u32, c: u32) -> u32 {
    funnel_right(a, b, c & 31)
}

/// `shf.r.clamp.b32`.
#[inline]
pub fn shf_r_clamp(a: u32, b: u32, c: u32) -> u32 {
    funnel_right(a, b, c.min(32))
}

/// `shf` by its modifiers: `direction` is `.l` or `.r`, `mode` is `.wrap` or `.clamp`.
#[inline]
pub fn shf(direction: Mod, mode: Mod, [a, b, c]: [u32; 3]) -> u32 {
    match (direction, mode) {
        (Mod::L, Mod::Wrap) => shf_l_wrap(a, b, c),
        (Mod::L, _) => shf_l_clamp(a, b, c),
        (_, Mod::Wrap) => shf_r_wrap(a, b, c),
        (_, _) => shf_r_clamp(a, b, c),
    }
}

/// `bfe.u32`: `length` bits of a from bit `start` (both modulo 256), zero-extended.
#[inline]
pub fn bfe_u32(a: u32, start: u32, length: u32) -> u32 {
    shr_u32(a, start & 255) & mask((length & 255).min(32)) as u32
}

/// `bfe.s32`: `length` bits of a from bit `start` (both modulo 256), extended by the field's top bit (or a's).
#[inline]
pub fn bfe_s32(a: u32, start: u32, length: u32) -> u32 {
    let length = (length & 255).min(32);
    let unused = 32 - length;
    // In 64 bits, so that a field of no bits (a shift by 32) gives 0 like any other.
    let field = u64::from(shr_s32(a, start & 255)) << unused & mask(32);
    (i64::from(field as u32 as i32) >> unused) as u32
}

/// `bfi.b32`: b with `length` bits from bit `start` (both modulo 256) replaced by the low bits of a.
#[inline]
pub fn bfi_b32([a, b]: [u32; 2], start: u32, length: u32) -> u32 {
    let field = shl_b32(mask((length & 255).min(32)) as u32, start & 255);
    b & !field | shl_b32(a, start & 255) & field
}

/// High 32 bits of an unsigned product.
#[inline]
pub fn mul_hi_u32(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

/// High 32 bits of a signed product.
#[inline]
pub fn mul_hi_s32(a: u32, b: u32) -> u32 {
    ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
}

/// a / b, all ones when b is 0.
#[inline]
pub fn div_u32(a: u32, b: u32) -> u32 {
    a.checked_div(b).unwrap_or(u32::MAX)
}

/// a mod b, all ones when b is 0.
#[inline]
pub fn rem_u32(a: u32, b: u32) -> u32 {
    a.checked_rem(b).unwrap_or(u32::MAX)
}

/// a / b toward zero, all ones when b is 0, wrapping for the least value over -1.
#[inline]
pub fn div_s32(a: i32, b: i32) -> i32 {
    if b == 0 { -1 } else { a.wrapping_div(b) }
}

/// a mod b with the sign of a, all ones when b is 0.
#[inline]
pub fn rem_s32(a: i32, b: i32) -> i32 {
    if b == 0 { -1 } else { a.wrapping_rem(b) }
}

/// The mathematical value of the bits of an integer type.
pub(super) fn value_of(ty: Ty, bits: u64) -> i128 {
    let extended = extend(ty, bits);
    if ty.is_signed() { i128::from(extended as i64) } else { i128::from(extended) }
}

/// Integer rows of any width.
pub(super) fn eval_int(form: Form, args: &[u64]) -> Option<u64> {
    match form.op {
        Op::AddInt | Op::SubInt | Op::MulInt | Op::MulWide | Op::MadInt | Op::MadWide => {
            arithmetic(form, args)
        }
        Op::DivInt | Op::RemInt | Op::MinInt | Op::MaxInt | Op::AbsInt | Op::NegInt => arithmetic(form, args),
        Op::Shl | Op::Shr | Op::Bfe | Op::Bfi => fields(form, args),
        _ => words(form, args),
    }
}

fn arithmetic(form: Form, args: &[u64]) -> Option<u64> {
    let ty = form.ty()?;
    let arg = |i: usize| args.get(i).map(|bits| value_of(ty, *bits));
    let a = arg(0)?;
    if matches!(form.op, Op::AbsInt | Op::NegInt) {
        let value = if form.op == Op::AbsInt { a.abs() } else { -a };
        return Some(value as u64 & mask(ty.bits()));
    }
    let b = arg(1)?;
    let high = if form.mods.has(Mod::Hi) { ty.bits() } else { 0 };
    let (value, bits) = match form.op {
        Op::AddInt => (a + b, ty.bits()),
        Op::SubInt => (a - b, ty.bits()),
        // The product of two u64 exceeds i128 only in its sign bit; wrapping keeps all 128 bits, and the shift is
        // logical for unsigned types.
        Op::MulInt | Op::MadInt => {
            let product = a.wrapping_mul(b);
            let part = if ty.is_signed() { product >> high } else { ((product as u128) >> high) as i128 };
            let c = if form.op == Op::MadInt { arg(2)? } else { 0 };
            ((part as u64 as i128) + c, ty.bits())
        }
        Op::MulWide => (a * b, 2 * ty.bits()),
        Op::MadWide => (a * b + i128::from(*args.get(2)?), 2 * ty.bits()),
        Op::DivInt => (if b == 0 { -1 } else { a / b }, ty.bits()),
        Op::RemInt => (if b == 0 { -1 } else { a % b }, ty.bits()),
        Op::MinInt => (a.min(b), ty.bits()),
        Op::MaxInt => (a.max(b), ty.bits()),
        _ => return None,
    };
    Some(value as u64 & mask(bits))
}

fn fields(form: Form, args: &[u64]) -> Option<u64> {
    let ty = form.ty()?;
    let bits = ty.bits();
    let full = mask(bits);
    let a = *args.first()? & full;
    let b = *args.get(1)?;
    let left = |value: u64, n: u64| if n >= u64::from(bits) { 0 } else { value << n & full };
    let right = |value: u64, n: u64| {
        let n = n.min(u64::from(bits)) as u32;
        (value_of(ty, value) >> n) as u64 & full
    };
    Some(match form.op {
        Op::Shl => left(a, b & mask(32)),
        Op::Shr => right(a, b & mask(32)),
        Op::Bfe => {
            let length = (*args.get(2)? & 255).min(u64::from(bits)) as u32;
            let field = right(a, b & 255) & mask(length);
            let negative = ty.is_signed() && length > 0 && field >> (length - 1) & 1 == 1;
            (if negative { field | !mask(length) } else { field }) & full
        }
        Op::Bfi => {
            let start = *args.get(2)? & 255;
            let field = left(mask((*args.get(3)? & 255) as u32), start);
            b & full & !field | left(a, start) & field
        }
        _ => return None,
    })
}

fn words(form: Form, args: &[u64]) -> Option<u64> {
    let a = *args.first()?;
    let word = |i: usize| args.get(i).map(|v| *v as u32);
    let types = || Some((form.types.get(0)?, form.types.get(1)?));
    let pick = |one: Mod, other: Mod| if form.mods.has(one) { one } else { other };
    let wide = form.ty().is_some_and(|ty| ty.bits() == 64);
    Some(match form.op {
        Op::Popc => u64::from(a.count_ones()),
        Op::Clz if wide => u64::from(a.leading_zeros()),
        Op::Clz => u64::from((a as u32).leading_zeros()),
        Op::Brev if wide => a.reverse_bits(),
        Op::Brev => u64::from((a as u32).reverse_bits()),
        Op::Dp4a => {
            let (a_ty, b_ty) = types()?;
            u64::from(dp4a(a_ty, b_ty, [word(0)?, word(1)?, word(2)?]))
        }
        Op::Dp2a => {
            let (a_ty, b_ty) = types()?;
            u64::from(dp2a(pick(Mod::Hi, Mod::Lo), a_ty, b_ty, [word(0)?, word(1)?, word(2)?]))
        }
        Op::Prmt => u64::from(prmt(word(0)?, word(1)?, word(2)?)),
        Op::Lop3 => u64::from(lop3(word(0)?, word(1)?, word(2)?, word(3)?)),
        Op::Shf => {
            let operands = [word(0)?, word(1)?, word(2)?];
            u64::from(shf(pick(Mod::L, Mod::R), pick(Mod::Wrap, Mod::Clamp), operands))
        }
        _ => return None,
    })
}
