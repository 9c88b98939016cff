//! How tensor cores add up products of halves: what `mma` with f32 sums leaves to the hardware.
//!
//! Products are exact. They and C are aligned to the greatest exponent among them that belongs to a value other than 0;
//! of each, bits below a fixed place are cut off; what is left is added exactly, and the sum is cut off (not rounded) to
//! an f32. How many products share one such sum and how far down the place lies differs from one generation to the next.
//!
//! The exponent of a product is the sum of its factors' exponents: its significand lies in [1, 4), and a subnormal
//! factor has the least exponent with a significand below 1. A sum that is 0, or is cut off to 0, is +0.
//!
//! Sources: Fasi, Higham, Mikaitis and Pranesh 2021 (earlier generations); Khattak and Mikaitis 2025, Xie et al. 2025
//! (Hopper). [`Adder::HOPPER`] was held against an H200: `ptx/tests/tensor.rs` has a part of what it gave.

use super::{NAN_F32, bf16_to_f32, f16_to_f32};

/// Elements of a row of A, or of a column of B: the K of `m16n8k16`.
pub const DEPTH: usize = 16;
/// Stands for the exponent of 0.
const NONE: i32 = -10_000;

/// The halves that `mma` multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// IEEE binary16.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl Half {
    /// Bits of a significand behind the point.
    const fn fraction(self) -> u32 {
        match self {
            Half::F16 => 10,
            Half::Bf16 => 7,
        }
    }

    const fn least_exponent(self) -> i32 {
        match self {
            Half::F16 => -14,
            Half::Bf16 => -126,
        }
    }

    fn widen(self, raw: u16) -> f32 {
        match self {
            Half::F16 => f16_to_f32(raw),
            Half::Bf16 => bf16_to_f32(raw),
        }
    }
}

/// A row of A or a column of B, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    half: Half,
    raw: [u16; DEPTH],
    /// Significands with their signs.
    significand: [i32; DEPTH],
    exponent: [i32; DEPTH],
    /// Whether all are finite.
    finite: bool,
}

impl Factors {
    /// Takes halves apart.
    pub fn new(half: Half, raw: [u16; DEPTH]) -> Factors {
        let (bits, least) = (half.fraction(), half.least_exponent());
        let (mut significand, mut exponent, mut finite) = ([0; DEPTH], [0; DEPTH], true);
        for i in 0..DEPTH {
            let raw = u32::from(raw[i]);
            let (field, rest) = (raw >> bits & (0x7fff >> bits), raw & ((1 << bits) - 1));
            finite &= field != 0x7fff >> bits;
            let normal = u32::from(field != 0);
            let size = (rest | normal << bits) as i32;
            significand[i] = if raw >> 15 == 1 { -size } else { size };
            exponent[i] = least + (field - normal) as i32;
        }
        Factors { half, raw, significand, exponent, finite }
    }
}

/// The adder of a generation of tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adder {
    /// Products that are added up at once, with C.
    terms: usize,
    /// Bits kept behind the point of the greatest exponent.
    fraction: u32,
}

impl Adder {
    /// sm_80 to sm_89, as published; not measured here.
    pub const AMPERE: Adder = Adder { terms: 8, fraction: 24 };
    /// sm_90, as published and as an H200 has it; sm_100 and sm_120, as published.
    pub const HOPPER: Adder = Adder { terms: 16, fraction: 25 };

    /// The one of a target.
    pub const fn of(sm: u32) -> Adder {
        if sm < 90 { Adder::AMPERE } else { Adder::HOPPER }
    }

    /// One element of `D = A · B + C`: bits of C in, bits of D out.
    pub fn dot(self, a: &Factors, b: &Factors, c: u32) -> u32 {
        if !(a.finite && b.finite && f32::from_bits(c).is_finite()) {
            return special(a, b, c);
        }
        let mut product = [0i32; DEPTH];
        let mut exponent = [NONE; DEPTH];
        for i in 0..DEPTH {
            product[i] = a.significand[i] * b.significand[i];
            let sum = a.exponent[i] + b.exponent[i];
            exponent[i] = if product[i] == 0 { NONE } else { sum };
        }
        // Every product comes with as many bits behind its point.
        let up = self.fraction - 2 * a.half.fraction();
        if self.terms == DEPTH {
            return self.add(&product, &exponent, up, c);
        }
        let blocks = product.chunks_exact(self.terms).zip(exponent.chunks_exact(self.terms));
        blocks.fold(c, |c, (product, exponent)| self.add(product, exponent, up, c))
    }

    /// One sum of products and C.
    #[inline(always)]
    fn add(self, product: &[i32], exponent: &[i32], up: u32, c: u32) -> u32 {
        let field = c >> 23 & 0xff;
        // An infinity comes from an earlier block that ran over.
        if field == 0xff {
            return c;
        }
        let normal = u32::from(field != 0);
        let size = i64::from(c & 0x7f_ffff | normal << 23);
        let of_c = if size == 0 { NONE } else { (field - normal) as i32 - 126 };
        let greatest = exponent.iter().fold(of_c, |a, b| a.max(*b));
        if greatest == NONE {
            return 0;
        }
        // 22 bits of a product of f16 and 5 more: sixteen of them fit.
        let mut sum = 0i32;
        for (product, exponent) in product.iter().zip(exponent) {
            let kept = (product.unsigned_abs() << up) >> (greatest - exponent).min(31);
            sum += if *product < 0 { -(kept as i32) } else { kept as i32 };
        }
        let kept = (size << (self.fraction - 23)) >> (greatest - of_c).min(63);
        let sum = i64::from(sum) + if c >> 31 == 1 { -kept } else { kept };
        cut_off(sum, greatest - self.fraction as i32)
    }
}

/// The f32 of `sum · 2^exponent` without its lower bits; infinite where it is none.
#[inline(always)]
fn cut_off(sum: i64, exponent: i32) -> u32 {
    let size = sum.unsigned_abs();
    if size == 0 {
        return 0;
    }
    let sign = u32::from(sum < 0) << 31;
    let top = 63 - size.leading_zeros() as i32;
    // The place of the last bit that an f32 of this size has.
    let last = (exponent + top - 23).max(-149);
    let down = last - exponent;
    let kept = (if down >= 0 { size >> down.min(63) } else { size << -down }) as u32;
    if kept == 0 {
        return 0;
    }
    if exponent + top > 127 {
        return sign | 0x7f80_0000;
    }
    // A subnormal's field is 0; the leading one of any other counts one more.
    sign | (((last + 149) as u32) << 23).wrapping_add(kept)
}

/// The sum when something is infinite or no number.
#[cold]
fn special(a: &Factors, b: &Factors, c: u32) -> u32 {
    let c = f32::from_bits(c);
    let (mut up, mut down, mut none) = (c == f32::INFINITY, c == f32::NEG_INFINITY, c.is_nan());
    for i in 0..DEPTH {
        let factors = [a.half.widen(a.raw[i]), b.half.widen(b.raw[i])];
        // A product of finite halves is finite, whatever f32 makes of it.
        if factors.iter().all(|f| f.is_finite()) {
            continue;
        }
        let product = factors[0] * factors[1];
        up |= product == f32::INFINITY;
        down |= product == f32::NEG_INFINITY;
        none |= product.is_nan();
    }
    if none || up && down {
        NAN_F32
    } else if up {
        f32::INFINITY.to_bits()
    } else {
        f32::NEG_INFINITY.to_bits()
    }
}
