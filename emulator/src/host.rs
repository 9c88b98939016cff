//! What the host's vector unit does in one instruction and the compiler does not find by itself: sums of products of bytes, and lanes
//! chosen by index. Where the crate is compiled for a CPU that has the instruction, it is used; elsewhere a loop does the same.

use crate::lanes::LANES;

/// Words of a vector here.
pub(crate) const WORDS: usize = 8;

/// What instructions do, as loops.
#[cfg_attr(all(target_arch = "x86_64", target_feature = "avx2", not(test)), allow(dead_code))]
mod portable {
    use bytemuck::cast;

    use super::{LANES, WORDS};
    use crate::lanes::mask_of;

    /// Words of four bytes each.
    #[derive(Clone, Copy)]
    pub(crate) struct Bytes([u32; WORDS]);

    impl Bytes {
        /// Of a register.
        #[inline(always)]
        pub fn of(words: &[u32; WORDS]) -> Bytes {
            Bytes(*words)
        }

        /// Both, bit by bit.
        #[inline(always)]
        pub fn and(self, mask: u32) -> Bytes {
            Bytes(self.0.map(|word| word & mask))
        }

        /// Either, bit by bit.
        #[inline(always)]
        pub fn or(self, other: Bytes) -> Bytes {
            Bytes(std::array::from_fn(|i| self.0[i] | other.0[i]))
        }

        /// Words shifted to the left.
        #[inline(always)]
        pub fn shl<const BY: i32>(self) -> Bytes {
            Bytes(self.0.map(|word| word << BY))
        }

        /// Words shifted to the right, without signs.
        #[inline(always)]
        pub fn shr<const BY: i32>(self) -> Bytes {
            Bytes(self.0.map(|word| word >> BY))
        }

        /// Products of these bytes, without signs and below 128, with signed ones; those of two neighbours added up.
        #[inline(always)]
        pub fn products(self, signed: Bytes) -> Halves {
            let (a, b): ([i16; 2 * WORDS], [i16; 2 * WORDS]) = (cast(self.0), cast(signed.0));
            let mut out = [0; 2 * WORDS];
            for i in 0..2 * WORDS {
                let even = (a[i] & 0xff).wrapping_mul(b[i] << 8 >> 8);
                out[i] = even.wrapping_add((a[i] >> 8).wrapping_mul(b[i] >> 8));
            }
            Halves(out)
        }
    }

    /// Two signed numbers of 16 bits a word.
    #[derive(Clone, Copy)]
    pub(crate) struct Halves([i16; 2 * WORDS]);

    impl Halves {
        /// Sums; they do not overflow.
        #[inline(always)]
        pub fn add(self, other: Halves) -> Halves {
            Halves(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
        }

        /// The sum of each word's two.
        #[inline(always)]
        pub fn sums(self) -> [u32; WORDS] {
            let words: [u32; WORDS] = cast(self.0);
            words.map(|word| ((word as i16 as i32) + ((word as i32) >> 16)) as u32)
        }
    }

    /// `values[from[i] % 32]` on every lane.
    #[inline(always)]
    pub(crate) fn permuted(values: &[u32; LANES], from: &[u32; LANES]) -> [u32; LANES] {
        from.map(|from| values[from as usize % LANES])
    }

    /// `yes` on the lanes of a mask, `no` on the others.
    #[inline(always)]
    pub(crate) fn chosen(mask: u32, yes: &[u32; LANES], no: &[u32; LANES]) -> [u32; LANES] {
        let mut out = [0; LANES];
        for i in 0..LANES {
            // Lanes as bits of vectors, not as conditions: those become 32 branches.
            let keep = 0u32.wrapping_sub(mask >> i & 1);
            out[i] = yes[i] & keep | no[i] & !keep;
        }
        out
    }

    /// Eight groups of four words as four rows, each twice.
    #[inline(always)]
    pub(crate) fn team_rows(words: &[u32; 4 * WORDS]) -> [[u32; 2 * WORDS]; 4] {
        std::array::from_fn(|k| std::array::from_fn(|i| words[4 * (i % WORDS) + k]))
    }

    /// The lanes on which two are the same.
    #[inline(always)]
    pub(crate) fn equal(a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        mask_of(|i| a[i] == b[i])
    }

    /// The lanes on which the first, without sign, is the smaller.
    #[inline(always)]
    pub(crate) fn below(a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        mask_of(|i| a[i] < b[i])
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
mod avx2 {
    use bytemuck::cast;
    use safe_arch::{
        add_i16_m256i, bitand_m256i, bitor_m256i, m256i, mul_i16_horizontal_add_m256i,
        mul_u8i8_add_horizontal_saturating_m256i, set_splat_i16_m256i, set_splat_i32_m256i,
        shl_imm_u32_m256i, shr_imm_u32_m256i,
    };

    use super::WORDS;

    /// Words of four bytes each.
    #[derive(Clone, Copy)]
    pub(crate) struct Bytes(m256i);

    impl Bytes {
        /// Of a register.
        #[inline(always)]
        pub fn of(words: &[u32; WORDS]) -> Bytes {
            Bytes(cast(*words))
        }

        /// Both, bit by bit.
        #[inline(always)]
        pub fn and(self, mask: u32) -> Bytes {
            Bytes(bitand_m256i(self.0, set_splat_i32_m256i(mask as i32)))
        }

        /// Either, bit by bit.
        #[inline(always)]
        pub fn or(self, other: Bytes) -> Bytes {
            Bytes(bitor_m256i(self.0, other.0))
        }

        /// Words shifted to the left.
        #[inline(always)]
        pub fn shl<const BY: i32>(self) -> Bytes {
            Bytes(shl_imm_u32_m256i::<BY>(self.0))
        }

        /// Words shifted to the right, without signs.
        #[inline(always)]
        pub fn shr<const BY: i32>(self) -> Bytes {
            Bytes(shr_imm_u32_m256i::<BY>(self.0))
        }

        /// Products of these bytes, without signs and below 128, with signed ones; those of two neighbours added up. (The
        /// instruction saturates, which two products of at most 127 · 128 do not come to.)
        #[inline(always)]
        pub fn products(self, signed: Bytes) -> Halves {
            Halves(mul_u8i8_add_horizontal_saturating_m256i(self.0, signed.0))
        }
    }

    /// Two signed numbers of 16 bits a word.
    #[derive(Clone, Copy)]
    pub(crate) struct Halves(m256i);

    impl Halves {
        /// Sums; they do not overflow.
        #[inline(always)]
        pub fn add(self, other: Halves) -> Halves {
            Halves(add_i16_m256i(self.0, other.0))
        }

        /// The sum of each word's two.
        #[inline(always)]
        pub fn sums(self) -> [u32; WORDS] {
            cast(mul_i16_horizontal_add_m256i(self.0, set_splat_i16_m256i(1)))
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx512f", target_feature = "avx512vl"))]
mod avx512 {
    use std::arch::x86_64::{_MM_CMPINT_EQ, _MM_CMPINT_LT};

    use bytemuck::cast;
    use safe_arch::{blend_varying_i32_m512i, cmp_op_mask_u32, m512i, permute2_i32_m512i};

    use super::{LANES, WORDS};

    /// `values[from[i] % 32]` on every lane.
    #[inline(always)]
    pub(crate) fn permuted(values: &[u32; LANES], from: &[u32; LANES]) -> [u32; LANES] {
        let ([low, high], from): ([m512i; 2], [m512i; 2]) = (cast(*values), cast(*from));
        cast(from.map(|from| permute2_i32_m512i(low, from, high)))
    }

    /// `yes` on the lanes of a mask, `no` on the others.
    #[inline(always)]
    pub(crate) fn chosen(mask: u32, yes: &[u32; LANES], no: &[u32; LANES]) -> [u32; LANES] {
        let (yes, no): ([m512i; 2], [m512i; 2]) = (cast(*yes), cast(*no));
        let half = |i: usize| blend_varying_i32_m512i(no[i], yes[i], (mask >> (16 * i)) as u16);
        cast([half(0), half(1)])
    }

    /// Where the words of [`team_rows`] are.
    const GROUPS: [[u32; 2 * WORDS]; 4] = {
        let mut from = [[0; 2 * WORDS]; 4];
        let mut i = 0;
        while i < from.len() * 2 * WORDS {
            from[i / (2 * WORDS)][i % (2 * WORDS)] = (4 * (i % WORDS) + i / (2 * WORDS)) as u32;
            i += 1;
        }
        from
    };

    /// Eight groups of four words as four rows, each twice.
    #[inline(always)]
    pub(crate) fn team_rows(words: &[u32; 4 * WORDS]) -> [[u32; 2 * WORDS]; 4] {
        let [low, high]: [m512i; 2] = cast(*words);
        GROUPS.map(|from| cast(permute2_i32_m512i(low, cast(from), high)))
    }

    /// The lanes on which a comparison holds.
    #[inline(always)]
    fn mask<const HOW: i32>(a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        let (a, b): ([m512i; 2], [m512i; 2]) = (cast(*a), cast(*b));
        let half = |i: usize| u32::from(cmp_op_mask_u32::<HOW>(a[i], b[i]));
        half(0) | half(1) << 16
    }

    /// The lanes on which two are the same.
    #[inline(always)]
    pub(crate) fn equal(a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        mask::<_MM_CMPINT_EQ>(a, b)
    }

    /// The lanes on which the first, without sign, is the smaller.
    #[inline(always)]
    pub(crate) fn below(a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
        mask::<_MM_CMPINT_LT>(a, b)
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
pub(crate) use avx2::{Bytes, Halves};
#[cfg(all(target_arch = "x86_64", target_feature = "avx512f", target_feature = "avx512vl"))]
pub(crate) use avx512::{below, chosen, equal, permuted, team_rows};
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
pub(crate) use portable::{Bytes, Halves};
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx512f", target_feature = "avx512vl")))]
pub(crate) use portable::{below, chosen, equal, permuted, team_rows};

#[cfg(test)]
mod tests {
    use ptx::sem;

    use super::*;
    use crate::lanes::mask_of;
    use crate::trial::words;

    /// The sums of both ways, which are to be those of `dp4a`.
    macro_rules! sums {
        ($way:ident, $a:expr, $b:expr) => {{
            let (a, b) = ($way::Bytes::of($a), $way::Bytes::of($b));
            let seven = a.and(0x7f7f_7f7f).products(b).sums();
            let six =
                a.shr::<2>().and(0x3f3f_3f3f).products(b).add(a.shl::<2>().and(0x3c3c_3c3c).products(b));
            let either = a.and(0x0f0f_0f0f).or(a.and(0x7070_7070)).products(b).sums();
            [seven, six.sums(), either]
        }};
    }

    #[test]
    fn sums_of_products_are_those_of_dp4a() {
        for seed in 0..2000 {
            let (a, b) = (words::<WORDS>(2 * seed), words::<WORDS>(2 * seed + 1));
            let dot = |i: usize, bytes: u32| sem::dp4a_u32_s32(bytes, b[i], 0);
            let seven: [u32; WORDS] = std::array::from_fn(|i| dot(i, a[i] & 0x7f7f_7f7f));
            let six = std::array::from_fn(|i| {
                dot(i, a[i] >> 2 & 0x3f3f_3f3f).wrapping_add(dot(i, a[i] << 2 & 0x3c3c_3c3c))
            });
            let want = [seven, six, seven];
            assert_eq!(sums!(portable, &a, &b), want, "{a:x?} {b:x?}");
            assert_eq!(sums!(super, &a, &b), want, "{a:x?} {b:x?}");
        }
    }

    #[test]
    fn lanes_are_chosen_by_index() {
        for seed in 0..200 {
            let (values, from) = (words::<LANES>(2 * seed), words::<LANES>(2 * seed + 1));
            let want: [u32; LANES] = std::array::from_fn(|i| values[from[i] as usize & 31]);
            assert_eq!(portable::permuted(&values, &from), want);
            assert_eq!(permuted(&values, &from), want);
            let want: [[u32; 16]; 4] =
                std::array::from_fn(|k| std::array::from_fn(|i| values[i % 8 * 4 + k]));
            assert_eq!(portable::team_rows(&values), want);
            assert_eq!(team_rows(&values), want);
        }
    }

    #[test]
    fn lanes_are_told_apart_by_masks() {
        for seed in 0..200 {
            let (a, b) = (words::<LANES>(2 * seed), words::<LANES>(2 * seed + 1));
            let mixed: [u32; LANES] = std::array::from_fn(|i| if b[i] % 3 == 0 { a[i] } else { b[i] });
            let mask = a[0] ^ b[7];
            let want: [u32; LANES] = std::array::from_fn(|i| if mask >> i & 1 == 1 { a[i] } else { b[i] });
            let (same, less) = (mask_of(|i| a[i] == mixed[i]), mask_of(|i| a[i] < mixed[i]));
            assert_eq!((portable::chosen(mask, &a, &b), chosen(mask, &a, &b)), (want, want));
            assert_eq!((portable::equal(&a, &mixed), equal(&a, &mixed)), (same, same));
            assert_eq!((portable::below(&a, &mixed), below(&a, &mixed)), (less, less));
        }
    }
}
