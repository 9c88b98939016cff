//! Loops over the 32 lanes of a warp, written so that they become vector code, and the scalar pieces they are made of.

use ptx::sem;

use crate::host::chosen;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// The mask of a warp whose lanes all execute.
pub(crate) const ALL: u32 = u32::MAX;

/// Lanes of a whole vector of 512 bits.
pub(crate) const WHOLE: usize = 16;

/// Sixteen values, one for each place of a whole vector. Not a loop: those become vectors of half that width, which are slow beside
/// whole ones (these close one of three ports), or, once they are unrolled, what the compiler thinks best.
#[inline(always)]
fn whole<D>(f: impl Fn(usize) -> D) -> [D; WHOLE] {
    [f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)]
}

/// The two whole vectors of a register.
#[inline(always)]
fn wholes<A>(row: &[A; LANES]) -> [&[A; WHOLE]; 2] {
    let wholes = row.as_chunks::<WHOLE>().0;
    [&wholes[0], &wholes[1]]
}

/// The reverse of [`wholes`].
#[inline(always)]
fn joined<D: Copy + Default>(wholes: [[D; WHOLE]; 2]) -> [D; LANES] {
    let mut out = [D::default(); LANES];
    let places = out.as_chunks_mut::<WHOLE>().0;
    (places[0], places[1]) = (wholes[0], wholes[1]);
    out
}

/// One operation on every lane.
#[inline(always)]
pub(crate) fn map1<A: Copy, D: Copy + Default>(a: &[A; LANES], f: impl Fn(A) -> D) -> [D; LANES] {
    let a = wholes(a);
    joined([whole(|i| f(a[0][i])), whole(|i| f(a[1][i]))])
}

/// One operation of two sources on every lane.
#[inline(always)]
pub(crate) fn map2<A: Copy, B: Copy, D: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    f: impl Fn(A, B) -> D,
) -> [D; LANES] {
    let (a, b) = (wholes(a), wholes(b));
    joined([whole(|i| f(a[0][i], b[0][i])), whole(|i| f(a[1][i], b[1][i]))])
}

/// One operation of three sources on every lane.
#[inline(always)]
pub(crate) fn map3<A: Copy, B: Copy, C: Copy, D: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    c: &[C; LANES],
    f: impl Fn(A, B, C) -> D,
) -> [D; LANES] {
    let (a, b, c) = (wholes(a), wholes(b), wholes(c));
    joined([whole(|i| f(a[0][i], b[0][i], c[0][i])), whole(|i| f(a[1][i], b[1][i], c[1][i]))])
}

/// One operation of any number of registers on every lane.
#[inline(always)]
pub(crate) fn map_rows<const N: usize>(
    rows: [&[u32; LANES]; N],
    f: impl Fn([u32; N]) -> u32,
) -> [u32; LANES] {
    let rows = rows.map(wholes);
    joined([whole(|i| f(rows.map(|row| row[0][i]))), whole(|i| f(rows.map(|row| row[1][i])))])
}

/// Writes the lanes of `mask`.
#[inline(always)]
pub(crate) fn write<D: Copy>(to: &mut [D; LANES], out: [D; LANES], mask: u32) {
    if mask == ALL {
        *to = out;
    } else {
        for i in 0..LANES {
            to[i] = if mask >> i & 1 == 1 { out[i] } else { to[i] };
        }
    }
}

/// All ones on the lanes of a mask. Lanes as bits of vectors, not as conditions: those become 32 branches.
#[inline(always)]
fn spread(mask: u32) -> [u32; LANES] {
    let mut out = [0; LANES];
    for (i, lane) in out.iter_mut().enumerate() {
        *lane = 0u32.wrapping_sub(mask >> i & 1);
    }
    out
}

/// Gives the lanes that are not in `mask` back what they had.
#[inline(always)]
pub(crate) fn restore(to: &mut [u32; LANES], old: &[u32; LANES], mask: u32) {
    *to = chosen(mask, to, old);
}

/// [`restore`] of 64-bit registers.
#[inline(always)]
pub(crate) fn restore_wide(to: &mut [u64; LANES], old: &[u64; LANES], mask: u32) {
    let wide = |keep: u32| i64::from(keep as i32) as u64;
    let new = map3(to, old, &spread(mask), |new, old, keep| new & wide(keep) | old & !wide(keep));
    *to = new;
}

/// A lane mask from a predicate on lane indices.
#[inline(always)]
pub(crate) fn mask_of(f: impl Fn(usize) -> bool) -> u32 {
    let mut mask = 0;
    for i in 0..LANES {
        mask |= u32::from(f(i)) << i;
    }
    mask
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub(crate) fn each(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

/// The f32 that a register holds.
#[inline(always)]
pub(crate) fn float(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// `cvt.f32.f16` of the lower half of a word, in operations of 32 bits alone.
#[inline(always)]
pub(crate) fn float_of_half(word: u32) -> u32 {
    let abs = word & 0x7fff;
    let normal = (abs << 13) + (112 << 23);
    let subnormal = (abs as i32 as f32 * float(0x3380_0000)).to_bits(); // abs · 2^-24
    let finite = if abs < 0x0400 { subnormal } else { normal };
    let number = if abs == 0x7c00 { 0x7f80_0000 } else { finite } | (word & 0x8000) << 16;
    if abs > 0x7c00 { sem::NAN_F32 } else { number }
}

/// `cvt.rn.f16.f32` likewise.
#[inline(always)]
pub(crate) fn half_of_float(bits: u32) -> u32 {
    let abs = bits & 0x7fff_ffff;
    let rebased = abs.wrapping_sub(112 << 23);
    let normal = rebased.wrapping_add(0xfff + (rebased >> 13 & 1)) >> 13;
    // Below 2^-14 the result is a multiple of 2^-24, the last place of numbers in [0.5, 1): the sum rounds there.
    let subnormal = (float(abs) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    // By a mask: a condition would become a branch.
    let small = 0u32.wrapping_sub(u32::from(abs < 0x3880_0000));
    let finite = subnormal & small | normal & !small;
    // What is rounded beyond the largest number is infinity.
    let number = finite.min(0x7c00) | bits >> 16 & 0x8000;
    if is_nan(bits) { 0x7fff } else { number }
}

#[inline(always)]
fn is_nan(bits: u32) -> bool {
    bits & 0x7fff_ffff > 0x7f80_0000
}

/// `max.f32` of floats by their bits, in operations that become vector code: numbers in order, -0 below +0, are integers in order
/// once those below zero are turned around.
#[inline(always)]
pub(crate) fn max_f32(a: u32, b: u32) -> u32 {
    let order = |bits: u32| (bits ^ ((bits as i32 >> 31) as u32 >> 1)) as i32;
    let larger = if order(a) > order(b) { a } else { b };
    let number = if is_nan(a) { b } else { larger };
    let number = if is_nan(b) { a } else { number };
    if is_nan(number) { sem::NAN_F32 } else { number }
}

/// `max.NaN.f32` likewise.
#[inline(always)]
pub(crate) fn max_nan_f32(a: u32, b: u32) -> u32 {
    let larger = max_f32(a, b);
    let larger = if is_nan(a) { sem::NAN_F32 } else { larger };
    if is_nan(b) { sem::NAN_F32 } else { larger }
}

/// The bits of a number with the other sign.
const SIGN: u32 = 1 << 31;

/// `min.f32`: the largest of the negatives, turned around again, except for NaN.
#[inline(always)]
pub(crate) fn min_f32(a: u32, b: u32) -> u32 {
    let smaller = max_f32(a ^ SIGN, b ^ SIGN);
    if is_nan(smaller) { smaller } else { smaller ^ SIGN }
}

/// `min.NaN.f32` likewise.
#[inline(always)]
pub(crate) fn min_nan_f32(a: u32, b: u32) -> u32 {
    let smaller = max_nan_f32(a ^ SIGN, b ^ SIGN);
    if is_nan(smaller) { smaller } else { smaller ^ SIGN }
}

/// `lop3`: the bitwise function with truth table `lut`, as a tree of selections.
#[inline(always)]
pub(crate) fn lop3(lut: u32, a: u32, b: u32, c: u32) -> u32 {
    let row = |k: u32| 0u32.wrapping_sub(lut >> k & 1);
    let pick = |s: u32, one: u32, zero: u32| zero ^ (s & (one ^ zero));
    let low = pick(b, pick(c, row(3), row(2)), pick(c, row(1), row(0)));
    let high = pick(b, pick(c, row(7), row(6)), pick(c, row(5), row(4)));
    pick(a, high, low)
}

/// `dp2a` of the upper or lower two bytes of `b`; whether halves of `a` and bytes of `b` are signed.
#[inline(always)]
pub(crate) fn dp2a<const UPPER: bool, const A_SIGNED: bool, const B_SIGNED: bool>(
    a: u32,
    b: u32,
    c: u32,
) -> u32 {
    let half = |i: u32| {
        let high = a << (16 - 16 * i);
        if A_SIGNED { ((high as i32) >> 16) as u32 } else { high >> 16 }
    };
    let byte = |i: u32| {
        let high = b << (if UPPER { 8 } else { 24 } - 8 * i);
        if B_SIGNED { ((high as i32) >> 24) as u32 } else { high >> 24 }
    };
    c.wrapping_add(half(0).wrapping_mul(byte(0))).wrapping_add(half(1).wrapping_mul(byte(1)))
}

/// `div.u32` as vector code: there is no vector instruction that divides integers. Exact: a quotient of 32-bit integers
/// that is no integer lies at least 1/b below the next one, n, and n·b < 2^33: a relative distance above 2^-33, where
/// a division rounds by 2^-53. Division by 0 gives all ones.
#[inline(always)]
pub(crate) fn div_u32(a: u32, b: u32) -> u32 {
    let quotient = (f64::from(a) / f64::from(b)) as u32;
    if b == 0 { u32::MAX } else { quotient }
}

/// `rem.u32`; by 0 it gives all ones.
#[inline(always)]
pub(crate) fn rem_u32(a: u32, b: u32) -> u32 {
    let rest = a.wrapping_sub(div_u32(a, b).wrapping_mul(b));
    if b == 0 { u32::MAX } else { rest }
}

/// `div.s32`: toward zero; the least value over -1 wraps, and division by 0 gives all ones.
#[inline(always)]
pub(crate) fn div_s32(a: u32, b: u32) -> u32 {
    let (a, b) = (a as i32, b as i32);
    let size = div_u32(a.unsigned_abs(), b.unsigned_abs());
    let quotient = if (a ^ b) < 0 { size.wrapping_neg() } else { size };
    if b == 0 { u32::MAX } else { quotient }
}

/// `rem.s32`: the sign of a; by 0 it gives all ones.
#[inline(always)]
pub(crate) fn rem_s32(a: u32, b: u32) -> u32 {
    let rest = a.wrapping_sub(div_s32(a, b).wrapping_mul(b));
    if b == 0 { u32::MAX } else { rest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptx::sem;

    /// Quotients next to an integer are where a division in floats could go wrong.
    #[test]
    fn division_in_floats_is_the_integers() {
        let mut edges: Vec<u32> = (0..32).flat_map(|k| [1 << k, (1 << k) - 1, u32::MAX >> k]).collect();
        edges.extend([3, 5, 7, 10, 0xffff_fffb, 0x8000_0001, 0xaaaa_aaab, 65_521, 4_294_836_225]);
        let products = edges.iter().flat_map(|a| edges.iter().map(move |b| a.wrapping_mul(*b)));
        let around: Vec<u32> = products.flat_map(|n| [n.wrapping_sub(1), n, n.wrapping_add(1)]).collect();
        for a in around {
            for b in &edges {
                let (sa, sb) = (a as i32, *b as i32);
                assert_eq!(div_u32(a, *b), sem::div_u32(a, *b), "{a} / {b}");
                assert_eq!(rem_u32(a, *b), sem::rem_u32(a, *b), "{a} % {b}");
                assert_eq!(div_s32(a, *b), sem::div_s32(sa, sb) as u32, "{sa} / {sb}");
                assert_eq!(rem_s32(a, *b), sem::rem_s32(sa, sb) as u32, "{sa} % {sb}");
            }
        }
    }

    #[test]
    fn halves_are_converted_as_the_table_says() {
        for half in 0..=u16::MAX {
            let word = u32::from(half) | 0xabcd_0000;
            assert_eq!(float_of_half(word), sem::f16_to_f32(half).to_bits(), "{half:#x}");
            // Every half, the middles between two of them, and what is next to both.
            for bits in [0u32, 0x1000].map(|middle| float_of_half(half.into()).wrapping_add(middle)) {
                for near in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
                    let want = u32::from(sem::f32_to_f16(float(near)));
                    assert_eq!(half_of_float(near), want, "{near:#x}");
                }
            }
        }
    }

    #[test]
    fn the_larger_and_the_smaller_are_those_of_the_table() {
        let ends = [0u32, 1, 0x3f80_0000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0x7fc0_0000, 0x7fff_ffff];
        let all: Vec<u32> = ends.into_iter().flat_map(|bits| [bits, bits ^ SIGN]).collect();
        for a in &all {
            for b in &all {
                let (x, y) = (float(*a), float(*b));
                let want =
                    [sem::max_f32(x, y), sem::min_f32(x, y), sem::max_nan_f32(x, y), sem::min_nan_f32(x, y)];
                let got = [max_f32(*a, *b), min_f32(*a, *b), max_nan_f32(*a, *b), min_nan_f32(*a, *b)];
                assert_eq!(got, want.map(f32::to_bits), "{a:#x} {b:#x}");
            }
        }
    }
}
