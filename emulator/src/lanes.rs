//! Loops over the 32 lanes of a warp, written so that they become vector code, and the scalar pieces they are made of.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// The mask of a warp whose lanes all execute.
pub(crate) const ALL: u32 = u32::MAX;

/// Lanes of a whole vector of 512 bits.
pub(crate) const WHOLE: usize = 16;

/// One operation on every lane.
#[inline(always)]
pub(crate) fn map1<A: Copy, D: Copy + Default>(a: &[A; LANES], f: impl Fn(A) -> D) -> [D; LANES] {
    let mut out = [D::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i]);
    }
    out
}

/// One operation of two sources on every lane.
#[inline(always)]
pub(crate) fn map2<A: Copy, B: Copy, D: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    f: impl Fn(A, B) -> D,
) -> [D; LANES] {
    let mut out = [D::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i]);
    }
    out
}

/// One operation of three sources on every lane. A loop over as many lanes as a vector has is unrolled and becomes one; the long loop
/// would become vectors of half that width, which are slow beside whole ones: those close one of three ports.
#[inline(always)]
pub(crate) fn map3<A: Copy, B: Copy, C: Copy, D: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    c: &[C; LANES],
    f: impl Fn(A, B, C) -> D,
) -> [D; LANES] {
    let mut out = [D::default(); LANES];
    let (a, b, c) = (a.as_chunks::<WHOLE>().0, b.as_chunks::<WHOLE>().0, c.as_chunks::<WHOLE>().0);
    for (((out, a), b), c) in out.as_chunks_mut::<WHOLE>().0.iter_mut().zip(a).zip(b).zip(c) {
        for i in 0..WHOLE {
            out[i] = f(a[i], b[i], c[i]);
        }
    }
    out
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
    let new = map3(to, old, &spread(mask), |new, old, keep| new & keep | old & !keep);
    *to = new;
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
}
