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
/// Rows of A, C and D.
pub const ROWS: usize = 16;
/// Columns of B, C and D.
pub const COLUMNS: usize = 8;
/// Products of a row of D.
const TERMS: usize = DEPTH * COLUMNS;
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

/// A row of A or a column of B.
pub struct Factors {
    half: Half,
    raw: [u16; DEPTH],
    parts: Operand<DEPTH>,
}

impl Factors {
    /// Takes halves apart.
    pub fn new(half: Half, raw: [u16; DEPTH]) -> Factors {
        Factors { half, raw, parts: Operand::new(half, |i| raw[i]) }
    }
}

/// Halves taken apart.
struct Operand<const N: usize> {
    /// With their signs.
    significand: [i32; N],
    exponent: [i32; N],
    /// Whether all are finite.
    finite: bool,
}

impl<const N: usize> Operand<N> {
    fn new(half: Half, raw: impl Fn(usize) -> u16) -> Operand<N> {
        let (bits, least) = (half.fraction(), half.least_exponent());
        let words: [u32; N] = std::array::from_fn(|i| u32::from(raw(i)));
        let (mut significand, mut exponent, mut largest) = ([0; N], [0; N], 0);
        for i in 0..N {
            let (field, rest) = (words[i] >> bits & (0x7fff >> bits), words[i] & ((1 << bits) - 1));
            let normal = field.min(1);
            let size = (rest | normal << bits) as i32;
            significand[i] = if words[i] >> 15 == 1 { -size } else { size };
            exponent[i] = least + (field - normal) as i32;
            largest = largest.max(field);
        }
        Operand { significand, exponent, finite: largest != 0x7fff >> bits }
    }
}

/// The terms of each sum brought together.
#[inline(always)]
fn fold(mut terms: [i32; TERMS], f: impl Fn(i32, i32) -> i32) -> [i32; COLUMNS] {
    let mut n = TERMS;
    while n > COLUMNS {
        n /= 2;
        let (low, high) = terms.split_at_mut(n);
        for (low, high) in low.iter_mut().zip(high) {
            *low = f(*low, *high);
        }
    }
    std::array::from_fn(|i| terms[i])
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
        if !(a.parts.finite && b.parts.finite && f32::from_bits(c).is_finite()) {
            return special(a, b, c);
        }
        let mut product = [0i32; DEPTH];
        let mut exponent = [NONE; DEPTH];
        for i in 0..DEPTH {
            product[i] = a.parts.significand[i] * b.parts.significand[i];
            let sum = a.parts.exponent[i] + b.parts.exponent[i];
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

    /// D = A · B + C, [`Adder::dot`] for each element. Kernels with few heads repeat rows of A to fill it: equal rows are added up once.
    pub fn tile(
        self,
        half: Half,
        a: &[[u16; DEPTH]; ROWS],
        b: &[[u16; DEPTH]; COLUMNS],
        c: &[[u32; COLUMNS]; ROWS],
    ) -> [[u32; COLUMNS]; ROWS] {
        let rows = Operand::<{ ROWS * DEPTH }>::new(half, |i| a[i / DEPTH][i % DEPTH]);
        let columns = Operand::<TERMS>::new(half, |i| b[i % COLUMNS][i / COLUMNS]);
        let mut d = [[0; COLUMNS]; ROWS];
        for row in 0..ROWS {
            if row > 0 && a[row] == a[row - 1] && c[row] == c[row - 1] {
                d[row] = d[row - 1];
                continue;
            }
            let finite =
                rows.finite && columns.finite && c[row].iter().all(|c| f32::from_bits(*c).is_finite());
            let quick = if finite && self.terms == DEPTH {
                self.sums(half, (&rows, row), &columns, c[row])
            } else {
                None
            };
            d[row] = quick.unwrap_or_else(|| {
                let a = Factors::new(half, a[row]);
                std::array::from_fn(|col| self.dot(&a, &Factors::new(half, b[col]), c[row][col]))
            });
        }
        d
    }

    /// A row of [`Adder::tile`] where all is finite and in one block: the terms of all its sums lie side by side, element by element of
    /// K, so that every loop is vector code. None where a sum is no normal number.
    #[inline(always)]
    fn sums(
        self,
        half: Half,
        (rows, row): (&Operand<{ ROWS * DEPTH }>, usize),
        columns: &Operand<TERMS>,
        c: [u32; COLUMNS],
    ) -> Option<[u32; COLUMNS]> {
        let (mut factor, mut power) = ([0i32; TERMS], [0i32; TERMS]);
        for k in 0..DEPTH {
            factor[k * COLUMNS..][..COLUMNS].fill(rows.significand[row * DEPTH + k]);
            power[k * COLUMNS..][..COLUMNS].fill(rows.exponent[row * DEPTH + k]);
        }
        let (mut product, mut exponent) = ([0i32; TERMS], [0i32; TERMS]);
        for i in 0..TERMS {
            product[i] = factor[i] * columns.significand[i];
            exponent[i] = if product[i] == 0 { NONE } else { power[i] + columns.exponent[i] };
        }
        let greatest = fold(exponent, i32::max);
        let mut of_c = [NONE; COLUMNS];
        for i in 0..COLUMNS {
            of_c[i] = if c[i] << 1 == 0 { NONE } else { ((c[i] >> 23 & 0xff) as i32).max(1) - 127 };
        }
        let mut top = [0i32; TERMS];
        for k in 0..DEPTH {
            for i in 0..COLUMNS {
                top[k * COLUMNS + i] = greatest[i].max(of_c[i]);
            }
        }
        let up = self.fraction - 2 * half.fraction();
        let mut kept = [0i32; TERMS];
        for i in 0..TERMS {
            let size = ((product[i].unsigned_abs() << up) >> (top[i] - exponent[i]).min(31)) as i32;
            kept[i] = if product[i] < 0 { -size } else { size };
        }
        self.finish(fold(kept, i32::wrapping_add), &top, &of_c, c)
    }

    /// Adds C to sums of products and cuts off what an f32 does not hold.
    #[inline(always)]
    fn finish(
        self,
        sum: [i32; COLUMNS],
        top: &[i32; TERMS],
        of_c: &[i32; COLUMNS],
        c: [u32; COLUMNS],
    ) -> Option<[u32; COLUMNS]> {
        let (mut out, mut all) = ([0; COLUMNS], true);
        for i in 0..COLUMNS {
            let normal = u32::from(c[i] >> 23 & 0xff != 0) << 23;
            let kept = ((c[i] & 0x7f_ffff | normal) << (self.fraction - 23)) >> (top[i] - of_c[i]).min(31);
            let kept = if c[i] >> 31 == 1 { -f64::from(kept) } else { f64::from(kept) };
            // Exact: whole numbers of 33 bits, times a power of two.
            let place = if top[i] == NONE { 0 } else { top[i] - self.fraction as i32 };
            let value = (f64::from(sum[i]) + kept) * f64::from_bits(((1023 + place) as u64) << 52);
            let size = value.abs();
            all &= size == 0.0 || size >= f64::from(f32::MIN_POSITIVE) && size < f64::from(f32::MAX);
            out[i] = (f64::from_bits(value.to_bits() & !0x1fff_ffff) as f32).to_bits();
        }
        all.then_some(out)
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
