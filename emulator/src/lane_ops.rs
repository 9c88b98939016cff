//! The operations that run on all 32 lanes as vectors: one line each, name, sources, destination and meaning.
//!
//! `W` is the file of 32-bit registers, `Q` the file of 64-bit ones. Every line is tested against `ptx::sem` on edge
//! and random inputs (`tests/forms.rs`); forms without a line here go through `ptx::sem::eval` lane by lane.
//! The scalar meaning is `ptx::sem`'s; its functions are branch-free, so the loop over the lanes becomes vector code.

/// Calls `$callback!` with the table.
macro_rules! with_lane_ops {
    ($callback:ident) => {
        $callback! {
            MovW(a: W) -> W { a }
            AddW(a: W, b: W) -> W { a.wrapping_add(b) }
            SubW(a: W, b: W) -> W { a.wrapping_sub(b) }
            MulLoW(a: W, b: W) -> W { a.wrapping_mul(b) }
            MulHiU(a: W, b: W) -> W { sem::mul_hi_u32(a, b) }
            MulHiS(a: W, b: W) -> W { sem::mul_hi_s32(a, b) }
            MadLoW(a: W, b: W, c: W) -> W { a.wrapping_mul(b).wrapping_add(c) }
            MinU(a: W, b: W) -> W { a.min(b) }
            MinS(a: W, b: W) -> W { (a as i32).min(b as i32) as u32 }
            MaxU(a: W, b: W) -> W { a.max(b) }
            MaxS(a: W, b: W) -> W { (a as i32).max(b as i32) as u32 }
            NegW(a: W) -> W { a.wrapping_neg() }
            AbsW(a: W) -> W { (a as i32).wrapping_abs() as u32 }
            AndW(a: W, b: W) -> W { a & b }
            OrW(a: W, b: W) -> W { a | b }
            XorW(a: W, b: W) -> W { a ^ b }
            NotW(a: W) -> W { !a }
            AndOrW(a: W, b: W, c: W) -> W { a & b | c }
            Or3W(a: W, b: W, c: W) -> W { a | b | c }
            ShlW(a: W, b: W) -> W { sem::shl_b32(a, b) }
            ShrU(a: W, b: W) -> W { sem::shr_u32(a, b) }
            ShrS(a: W, b: W) -> W { sem::shr_s32(a, b) }
            ShfL(a: W, b: W, c: W) -> W { sem::shf_l_wrap(a, b, c) }
            ShfLClamp(a: W, b: W, c: W) -> W { sem::shf_l_clamp(a, b, c) }
            ShfR(a: W, b: W, c: W) -> W { sem::shf_r_wrap(a, b, c) }
            ShfRClamp(a: W, b: W, c: W) -> W { sem::shf_r_clamp(a, b, c) }
            BfeU(a: W, b: W, c: W) -> W { sem::bfe_u32(a, b, c) }
            BfeS(a: W, b: W, c: W) -> W { sem::bfe_s32(a, b, c) }
            Prmt(a: W, b: W, c: W) -> W { sem::prmt(a, b, c) }
            Dp4aSS(a: W, b: W, c: W) -> W { sem::dp4a_s32_s32(a, b, c) }
            Dp4aSU(a: W, b: W, c: W) -> W { sem::dp4a_s32_u32(a, b, c) }
            Dp4aUS(a: W, b: W, c: W) -> W { sem::dp4a_u32_s32(a, b, c) }
            Dp4aUU(a: W, b: W, c: W) -> W { sem::dp4a_u32_u32(a, b, c) }
            Dp2aLoSS(a: W, b: W, c: W) -> W { lanes::dp2a::<false, true, true>(a, b, c) }
            Dp2aLoSU(a: W, b: W, c: W) -> W { lanes::dp2a::<false, true, false>(a, b, c) }
            Dp2aLoUS(a: W, b: W, c: W) -> W { lanes::dp2a::<false, false, true>(a, b, c) }
            Dp2aLoUU(a: W, b: W, c: W) -> W { lanes::dp2a::<false, false, false>(a, b, c) }
            Dp2aHiSS(a: W, b: W, c: W) -> W { lanes::dp2a::<true, true, true>(a, b, c) }
            Dp2aHiSU(a: W, b: W, c: W) -> W { lanes::dp2a::<true, true, false>(a, b, c) }
            Dp2aHiUS(a: W, b: W, c: W) -> W { lanes::dp2a::<true, false, true>(a, b, c) }
            Dp2aHiUU(a: W, b: W, c: W) -> W { lanes::dp2a::<true, false, false>(a, b, c) }
            DivU(a: W, b: W) -> W { lanes::div_u32(a, b) }
            RemU(a: W, b: W) -> W { lanes::rem_u32(a, b) }
            DivS(a: W, b: W) -> W { lanes::div_s32(a, b) }
            RemS(a: W, b: W) -> W { lanes::rem_s32(a, b) }
            Popc(a: W) -> W { a.count_ones() }
            Clz(a: W) -> W { a.leading_zeros() }
            Brev(a: W) -> W { a.reverse_bits() }
            ExtS8(a: W) -> W { a as i8 as u32 }
            ExtU8(a: W) -> W { a & 0xff }
            ExtS16(a: W) -> W { a as i16 as u32 }
            ExtU16(a: W) -> W { a & 0xffff }
            AddF(a: W, b: W) -> W { sem::add_f32(float(a), float(b)).to_bits() }
            SubF(a: W, b: W) -> W { sem::sub_f32(float(a), float(b)).to_bits() }
            MulF(a: W, b: W) -> W { sem::mul_f32(float(a), float(b)).to_bits() }
            FmaF(a: W, b: W, c: W) -> W { sem::fma_f32(float(a), float(b), float(c)).to_bits() }
            DivF(a: W, b: W) -> W { sem::div_f32(float(a), float(b)).to_bits() }
            RcpF(a: W) -> W { sem::rcp_f32(float(a)).to_bits() }
            SqrtF(a: W) -> W { sem::sqrt_f32(float(a)).to_bits() }
            AbsF(a: W) -> W { sem::abs_f32(float(a)).to_bits() }
            NegF(a: W) -> W { sem::neg_f32(float(a)).to_bits() }
            MinF(a: W, b: W) -> W { lanes::min_f32(a, b) }
            MaxF(a: W, b: W) -> W { lanes::max_f32(a, b) }
            MinNanF(a: W, b: W) -> W { lanes::min_nan_f32(a, b) }
            MaxNanF(a: W, b: W) -> W { lanes::max_nan_f32(a, b) }
            F32FromS32(a: W) -> W { sem::cvt_rn_f32_s32(a as i32).to_bits() }
            F32FromU32(a: W) -> W { sem::cvt_rn_f32_u32(a).to_bits() }
            F32FromF16(a: W) -> W { lanes::float_of_half(a) }
            F32FromBf16(a: W) -> W { sem::bf16_to_f32(a as u16).to_bits() }
            F16FromF32(a: W) -> W { lanes::half_of_float(a) }
            Bf16FromF32(a: W) -> W { u32::from(sem::f32_to_bf16(float(a))) }
            PackF16x2(a: W, b: W) -> W { lanes::half_of_float(a) << 16 | lanes::half_of_float(b) }
            S32FromF32Rzi(a: W) -> W { sem::cvt_rzi_s32_f32(float(a)) as u32 }
            S32FromF32Rni(a: W) -> W { sem::cvt_rni_s32_f32(float(a)) as u32 }
            MovQ(a: Q) -> Q { a }
            AddQ(a: Q, b: Q) -> Q { a.wrapping_add(b) }
            SubQ(a: Q, b: Q) -> Q { a.wrapping_sub(b) }
            MulLoQ(a: Q, b: Q) -> Q { a.wrapping_mul(b) }
            MadLoQ(a: Q, b: Q, c: Q) -> Q { a.wrapping_mul(b).wrapping_add(c) }
            AndQ(a: Q, b: Q) -> Q { a & b }
            OrQ(a: Q, b: Q) -> Q { a | b }
            XorQ(a: Q, b: Q) -> Q { a ^ b }
            ShlQ(a: Q, b: W) -> Q { if b < 64 { a << (b & 63) } else { 0 } }
            ShrQ(a: Q, b: W) -> Q { if b < 64 { a >> (b & 63) } else { 0 } }
            ShrSQ(a: Q, b: W) -> Q { ((a as i64) >> b.min(63)) as u64 }
            MinUQ(a: Q, b: Q) -> Q { a.min(b) }
            MinSQ(a: Q, b: Q) -> Q { (a as i64).min(b as i64) as u64 }
            MaxUQ(a: Q, b: Q) -> Q { a.max(b) }
            MaxSQ(a: Q, b: Q) -> Q { (a as i64).max(b as i64) as u64 }
            NotQ(a: Q) -> Q { !a }
            NegQ(a: Q) -> Q { a.wrapping_neg() }
            MulWideU(a: W, b: W) -> Q { u64::from(a) * u64::from(b) }
            MulWideS(a: W, b: W) -> Q { (i64::from(a as i32) * i64::from(b as i32)) as u64 }
            MadWideU(a: W, b: W, c: Q) -> Q { (u64::from(a) * u64::from(b)).wrapping_add(c) }
            MadWideS(a: W, b: W, c: Q) -> Q { ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c) }
            ExtQU32(a: W) -> Q { u64::from(a) }
            ExtQS32(a: W) -> Q { a as i32 as u64 }
            LowQ(a: Q) -> W { a as u32 }
            HighQ(a: Q) -> W { (a >> 32) as u32 }
            PackQ(a: W, b: W) -> Q { u64::from(a) | u64::from(b) << 32 }
            PackW(a: W, b: W) -> W { a & 0xffff | b << 16 }
            HighW(a: W) -> W { a >> 16 }
        }
    };
}
pub(crate) use with_lane_ops;
