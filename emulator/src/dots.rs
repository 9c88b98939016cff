//! Products of four bytes with four bytes, summed, on every lane: `dp4a` in a form that becomes short vector code.
//!
//! Lane by lane each product is a 32-bit one. Here the even and the odd bytes are 16-bit numbers side by side, so that one vector
//! instruction multiplies twice as many, and a product of two bytes, one of them signed, fits in 16 bits.

use bytemuck::cast;

use crate::lanes::LANES;

type Words = [u32; LANES];
type Halves = [i16; 2 * LANES];

/// The sum of the two 16-bit numbers of a word.
#[inline(always)]
fn sum_of_halves(word: u32) -> u32 {
    ((word as i16 as i32) + ((word as i32) >> 16)) as u32
}

/// `dp4a.u32.s32`, or `.s32.s32` if `SIGNED`.
#[inline(always)]
pub(crate) fn dot<const SIGNED: bool>(a: &Words, b: &Words, c: &Words) -> Words {
    let (a, b): (Halves, Halves) = (cast(*a), cast(*b));
    let (mut even, mut odd) = ([0i16; 2 * LANES], [0i16; 2 * LANES]);
    for i in 0..2 * LANES {
        let low = if SIGNED { a[i] << 8 >> 8 } else { a[i] & 0xff };
        let high = if SIGNED { a[i] >> 8 } else { (a[i] as u16 >> 8) as i16 };
        even[i] = low.wrapping_mul(b[i] << 8 >> 8);
        odd[i] = high.wrapping_mul(b[i] >> 8);
    }
    let (even, odd): (Words, Words) = (cast(even), cast(odd));
    let mut out = [0; LANES];
    for i in 0..LANES {
        out[i] = c[i].wrapping_add(sum_of_halves(even[i])).wrapping_add(sum_of_halves(odd[i]));
    }
    out
}

/// `dp4a.u32.s32` of bytes of `a` that are below 128: then two products fit in 16 bits as well. The dot product goes through
/// `scale` before `c` is added.
#[inline(always)]
pub(crate) fn dot_of_small(a: Words, b: &Words, c: &Words, scale: impl Fn(u32) -> u32) -> Words {
    let (a, b): (Halves, Halves) = (cast(a), cast(*b));
    let mut both = [0i16; 2 * LANES];
    for i in 0..2 * LANES {
        let even = (a[i] & 0xff).wrapping_mul(b[i] << 8 >> 8);
        both[i] = even.wrapping_add((a[i] >> 8).wrapping_mul(b[i] >> 8));
    }
    let both: Words = cast(both);
    let mut out = [0; LANES];
    for i in 0..LANES {
        out[i] = c[i].wrapping_add(scale(sum_of_halves(both[i])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::words;
    use ptx::sem;

    #[test]
    fn dots_are_dp4a() {
        for seed in 0..2000 {
            let (a, b, c) = (words(3 * seed), words(3 * seed + 1), words(3 * seed + 2));
            let small = a.map(|a| a & 0x7f7f_7f7f);
            let nibbles = a.map(|a| a & 0x0f0f_0f0f);
            let dots = [
                dot::<false>(&a, &b, &c),
                dot::<true>(&a, &b, &c),
                dot_of_small(small, &b, &c, |dot| dot),
                dot_of_small(nibbles, &b, &c, |dot| dot << 4),
            ];
            for i in 0..LANES {
                let (a, b, c) = (a[i], b[i], c[i]);
                let want = [
                    sem::dp4a_u32_s32(a, b, c),
                    sem::dp4a_s32_s32(a, b, c),
                    sem::dp4a_u32_s32(a & 0x7f7f_7f7f, b, c),
                    sem::dp4a_u32_s32((a & 0x0f0f_0f0f) << 4, b, c),
                ];
                assert_eq!(dots.map(|dot| dot[i]), want, "{a:#x} {b:#x} {c:#x}");
            }
        }
    }
}
