//! Loops over the 32 lanes of a warp, written so that they become vector code, and the scalar pieces they are made of.

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// The mask of a warp whose lanes all execute.
pub(crate) const ALL: u32 = u32::MAX;

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

/// One operation of three sources on every lane.
#[inline(always)]
pub(crate) fn map3<A: Copy, B: Copy, C: Copy, D: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    c: &[C; LANES],
    f: impl Fn(A, B, C) -> D,
) -> [D; LANES] {
    let mut out = [D::default(); LANES];
    for i in 0..LANES {
        out[i] = f(a[i], b[i], c[i]);
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
