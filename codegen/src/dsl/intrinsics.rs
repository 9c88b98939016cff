//! Device instructions as functions, named after `core::arch::nvptx` and PTX.

use super::record::{self, emit_n, emit0};
use super::value::{F16, Int, IntoV, Num, Scalar, V, Word, dev, op};
use crate::ir::Arg;
use ptx::{Form, Mod, Op, Special, Ty, Types};

fn special(register: Special) -> V<u32> {
    op(Op::Mov, &[], Ty::U32, vec![Arg::Special(register)])
}

macro_rules! specials {
    ($($(#[$doc:meta])* $name:ident = $special:ident;)*) => {
        $($(#[$doc])* pub fn $name() -> V<u32> { special(Special::$special) })*
    };
}
specials! {
    /// Index of the thread in its CTA, x.
    thread_idx_x = TidX;
    /// Index of the thread in its CTA, y.
    thread_idx_y = TidY;
    /// Index of the CTA in the grid, x.
    block_idx_x = CtaidX;
    /// Index of the CTA in the grid, y.
    block_idx_y = CtaidY;
    /// Index of the CTA in the grid, z.
    block_idx_z = CtaidZ;
    /// Index of the CTA in a one-dimensional grid.
    cta_id = CtaidX;
}

/// Threads of the CTA in x: a constant of the kernel.
pub fn block_dim() -> u32 {
    record::with(|r| r.block()[0]).unwrap_or(1)
}

/// CTAs of the grid in x: a constant of the kernel.
pub fn grid_dim() -> u32 {
    record::with(|r| r.grid()[0]).unwrap_or(1)
}

/// Lane of the thread in its warp: `tid.x & 31` (blocks of several dimensions have warps along x only when x is a
/// multiple of 32).
pub fn lane_id() -> V<u32> {
    thread_idx_x() & 31
}

/// Warp of the thread in its CTA: `tid.x >> 5`.
pub fn warp_id() -> V<u32> {
    thread_idx_x() >> 5
}

/// Barrier 0: waits for all threads of the CTA.
pub fn sync_threads() {
    emit0(Form::new(Op::BarSync, &[Mod::Sync], Types::NONE), vec![dev(0u32).arg()]);
}

/// Waits for all lanes of the warp and orders their memory accesses.
pub fn sync_warp() {
    emit0(Form::new(Op::BarWarpSync, &[Mod::Warp, Mod::Sync], Types::NONE), vec![dev(ALL_LANES).arg()]);
}

/// `fence.acq_rel` at a scope.
pub fn fence(scope: super::pointer::Scope) {
    emit0(Form::new(Op::Fence, &[Mod::AcqRel, scope.modifier()], Types::NONE), vec![]);
}

/// Waits until the launches before this one are done and their writes visible. A kernel may start while they still run; before
/// this it may read only [`Fixed`](super::Fixed) and [`Settled`](super::Settled) memory and write none. A kernel that does not call it waits
/// first of all.
pub fn wait_for_earlier() {
    emit0(Form::new(Op::GridDepControl, &[Mod::Wait], Types::NONE), vec![]);
}

/// Lets the launch after this one start as soon as every CTA has got here; a kernel that does not call it does so first of all.
pub fn let_next_start() {
    emit0(Form::new(Op::GridDepControl, &[Mod::LaunchDependents], Types::NONE), vec![]);
}

/// Aborts the launch.
pub fn trap() {
    emit0(Form::new(Op::Trap, &[], Types::NONE), vec![]);
}

/// Suspends the thread for about `ns` nanoseconds.
pub fn nanosleep(ns: impl IntoV<u32>) {
    emit0(Form::new(Op::Nanosleep, &[], Types::one(Ty::U32)), vec![ns.into_v().arg()]);
}

/// `a * b + c`, one rounding.
pub fn fma(a: impl IntoV<f32>, b: impl IntoV<f32>, c: impl IntoV<f32>) -> V<f32> {
    op(Op::FmaF, &[Mod::Rn], Ty::F32, vec![a.into_v().arg(), b.into_v().arg(), c.into_v().arg()])
}

/// `a * b + c`, modulo 2^n.
pub fn mad<T: Int>(a: impl IntoV<T>, b: impl IntoV<T>, c: V<T>) -> V<T> {
    op(Op::MadInt, &[Mod::Lo], T::TY, vec![a.into_v().arg(), b.into_v().arg(), c.arg()])
}

/// The high half of `a * b`.
pub fn mul_hi<T: Int>(a: V<T>, b: impl IntoV<T>) -> V<T> {
    op(Op::MulInt, &[Mod::Hi], T::TY, vec![a.arg(), b.into_v().arg()])
}

/// `a * b` in 64 bits.
pub fn mul_wide(a: V<u32>, b: impl IntoV<u32>) -> V<u64> {
    op(Op::MulWide, &[Mod::Wide], Ty::U32, vec![a.arg(), b.into_v().arg()])
}

macro_rules! dot {
    ($($(#[$doc:meta])* $name:ident $op:ident [$($m:ident)?] $a:ident $b:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name<A: DotWord, B: DotWord, C: DotSum>(a: V<A>, b: V<B>, c: V<C>) -> V<C> {
            let form = Form::new(Op::$op, &[$(Mod::$m)?], Types::two(Ty::$a, Ty::$b));
            V::new(record::emit1(form, C::TY, vec![a.arg(), b.arg(), c.arg()]))
        }
    )*};
}
/// A 32-bit word of packed bytes or halves.
pub trait DotWord: Scalar {}
impl DotWord for u32 {}
impl DotWord for i32 {}
/// A 32-bit sum.
pub trait DotSum: Scalar {}
impl DotSum for u32 {}
impl DotSum for i32 {}
dot! {
    /// `c` + dot product of 4 unsigned bytes with 4 unsigned bytes.
    dp4a_uu Dp4a [] U32 U32;
    /// `c` + dot product of 4 unsigned bytes with 4 signed bytes.
    dp4a_us Dp4a [] U32 S32;
    /// `c` + dot product of 4 signed bytes with 4 unsigned bytes.
    dp4a_su Dp4a [] S32 U32;
    /// `c` + dot product of 4 signed bytes with 4 signed bytes.
    dp4a_ss Dp4a [] S32 S32;
    /// `c` + dot product of 2 unsigned halves of `a` with the low 2 unsigned bytes of `b`.
    dp2a_lo_uu Dp2a [Lo] U32 U32;
    /// `c` + dot product of 2 signed halves of `a` with the low 2 signed bytes of `b`.
    dp2a_lo_ss Dp2a [Lo] S32 S32;
    /// `c` + dot product of 2 signed halves of `a` with the low 2 unsigned bytes of `b`.
    dp2a_lo_su Dp2a [Lo] S32 U32;
    /// `c` + dot product of 2 unsigned halves of `a` with the high 2 unsigned bytes of `b`.
    dp2a_hi_uu Dp2a [Hi] U32 U32;
    /// `c` + dot product of 2 signed halves of `a` with the high 2 signed bytes of `b`.
    dp2a_hi_ss Dp2a [Hi] S32 S32;
    /// `c` + dot product of 2 signed halves of `a` with the high 2 unsigned bytes of `b`.
    dp2a_hi_su Dp2a [Hi] S32 U32;
}

fn is_float<T: Scalar>() -> bool {
    T::TY == Ty::F32
}

/// The lesser; of a number and a NaN the number.
pub fn min<T: Num>(a: impl IntoV<T>, b: impl IntoV<T>) -> V<T> {
    op(
        if is_float::<T>() { Op::MinF } else { Op::MinInt },
        &[],
        T::TY,
        vec![a.into_v().arg(), b.into_v().arg()],
    )
}

/// The greater; of a number and a NaN the number.
pub fn max<T: Num>(a: impl IntoV<T>, b: impl IntoV<T>) -> V<T> {
    op(
        if is_float::<T>() { Op::MaxF } else { Op::MaxInt },
        &[],
        T::TY,
        vec![a.into_v().arg(), b.into_v().arg()],
    )
}

/// The lesser; NaN if either is.
pub fn min_nan(a: impl IntoV<f32>, b: impl IntoV<f32>) -> V<f32> {
    op(Op::MinF, &[Mod::Nan], Ty::F32, vec![a.into_v().arg(), b.into_v().arg()])
}

/// The greater; NaN if either is.
pub fn max_nan(a: impl IntoV<f32>, b: impl IntoV<f32>) -> V<f32> {
    op(Op::MaxF, &[Mod::Nan], Ty::F32, vec![a.into_v().arg(), b.into_v().arg()])
}

/// `|a|` of a float or signed integer.
pub fn abs<T: Magnitude>(a: V<T>) -> V<T> {
    op(if is_float::<T>() { Op::AbsF } else { Op::AbsInt }, &[], T::TY, vec![a.arg()])
}
/// A scalar with a sign.
pub trait Magnitude: Num {}
impl Magnitude for f32 {}
impl Magnitude for i32 {}
impl Magnitude for i64 {}

/// Square root, IEEE.
pub fn sqrt(a: V<f32>) -> V<f32> {
    op(Op::SqrtF, &[Mod::Rn], Ty::F32, vec![a.arg()])
}

/// `1 / a`, IEEE.
pub fn rcp(a: V<f32>) -> V<f32> {
    op(Op::RcpF, &[Mod::Rn], Ty::F32, vec![a.arg()])
}

/// Number of one bits.
pub fn popc(a: V<u32>) -> V<u32> {
    op(Op::Popc, &[], Ty::B32, vec![a.arg()])
}

/// Number of leading zero bits.
pub fn clz(a: V<u32>) -> V<u32> {
    op(Op::Clz, &[], Ty::B32, vec![a.arg()])
}

/// Number of leading zero bits of 64.
pub fn clz_u64(a: V<u64>) -> V<u32> {
    V::new(record::emit1(Form::new(Op::Clz, &[], Types::one(Ty::B64)), Ty::U32, vec![a.arg()]))
}

/// Bits in reverse.
pub fn brev(a: V<u32>) -> V<u32> {
    op(Op::Brev, &[], Ty::B32, vec![a.arg()])
}

/// `len` bits of `a` from bit `pos`, extended by the type's sign.
pub fn bfe<T: Int + Word>(a: V<T>, pos: impl IntoV<u32>, len: impl IntoV<u32>) -> V<T> {
    op(Op::Bfe, &[], T::TY, vec![a.arg(), pos.into_v().arg(), len.into_v().arg()])
}

/// `b` with `len` bits from bit `pos` replaced by the low bits of `a`.
pub fn bfi(a: impl IntoV<u32>, b: impl IntoV<u32>, pos: impl IntoV<u32>, len: impl IntoV<u32>) -> V<u32> {
    let args = vec![a.into_v().arg(), b.into_v().arg(), pos.into_v().arg(), len.into_v().arg()];
    op(Op::Bfi, &[], Ty::B32, args)
}

/// Four bytes of `b:a` chosen by the nibbles of `selector`; bit 3 of a nibble replicates the sign.
pub fn prmt(a: impl IntoV<u32>, b: impl IntoV<u32>, selector: impl IntoV<u32>) -> V<u32> {
    op(Op::Prmt, &[], Ty::B32, vec![a.into_v().arg(), b.into_v().arg(), selector.into_v().arg()])
}

/// Bitwise function with truth table `lut`, where `a` is 0xF0, `b` 0xCC and `c` 0xAA.
pub fn lop3(a: impl IntoV<u32>, b: impl IntoV<u32>, c: impl IntoV<u32>, lut: u8) -> V<u32> {
    let args = vec![a.into_v().arg(), b.into_v().arg(), c.into_v().arg(), dev(u32::from(lut)).arg()];
    op(Op::Lop3, &[], Ty::B32, args)
}

/// The high word of `hi:lo << by`, `by` modulo 32.
pub fn shf_l(lo: impl IntoV<u32>, hi: impl IntoV<u32>, by: impl IntoV<u32>) -> V<u32> {
    op(Op::Shf, &[Mod::L, Mod::Wrap], Ty::B32, vec![lo.into_v().arg(), hi.into_v().arg(), by.into_v().arg()])
}

/// The low word of `hi:lo >> by`, `by` modulo 32.
pub fn shf_r(lo: impl IntoV<u32>, hi: impl IntoV<u32>, by: impl IntoV<u32>) -> V<u32> {
    op(Op::Shf, &[Mod::R, Mod::Wrap], Ty::B32, vec![lo.into_v().arg(), hi.into_v().arg(), by.into_v().arg()])
}

/// `c ? a : b`, both computed.
pub fn select<T: Scalar>(c: V<bool>, a: impl IntoV<T>, b: impl IntoV<T>) -> V<T> {
    let (a, b): (V<T>, V<T>) = (a.into_v(), b.into_v());
    match T::TY {
        Ty::Pred => ((c & a.retype::<bool>()) | (!c & b.retype::<bool>())).retype(),
        Ty::F16 | Ty::Bf16 | Ty::U16 | Ty::S16 => op(Op::Selp, &[], Ty::B16, vec![a.arg(), b.arg(), c.arg()]),
        Ty::S64 | Ty::U64 => op(Op::Selp, &[], Ty::B64, vec![a.arg(), b.arg(), c.arg()]),
        ty => op(Op::Selp, &[], ty, vec![a.arg(), b.arg(), c.arg()]),
    }
}

/// Members of a full warp.
const ALL_LANES: u32 = u32::MAX;
/// Clamp of `shfl.sync` for segments of the whole warp (PTX ISA, shfl.sync: lower 5 bits the last lane).
const WHOLE_WARP: u32 = 31;

macro_rules! shuffles {
    ($($(#[$doc:meta])* $name:ident $mode:ident $clamp:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name<T: Word>(a: V<T>, b: impl IntoV<u32>) -> V<T> {
            let args = vec![a.arg(), b.into_v().arg(), dev($clamp).arg(), dev(ALL_LANES).arg()];
            op(Op::ShflSync, &[Mod::Sync, Mod::$mode], Ty::B32, args)
        }
    )*};
}
shuffles! {
    /// `a` of lane `lane ^ b`. All lanes of the warp take part.
    shuffle_xor Bfly WHOLE_WARP;
    /// `a` of lane `lane + b`; past the end, own `a`. All lanes of the warp take part.
    shuffle_down Down WHOLE_WARP;
    /// `a` of lane `lane - b`; before lane 0, own `a`. All lanes of the warp take part.
    shuffle_up Up 0u32;
    /// `a` of lane `b`. All lanes of the warp take part.
    shuffle_idx Idx WHOLE_WARP;
}

/// `a` of lane `lane ^ b`, 64 bits by two shuffles.
pub fn shuffle_xor_u64(a: V<u64>, b: u32) -> V<u64> {
    let [lo, hi] = unpack(a);
    pack([shuffle_xor(lo, b), shuffle_xor(hi, b)])
}

/// `a` of lane `lane - b`, 64 bits by two shuffles; before lane 0, own `a`.
pub fn shuffle_up_u64(a: V<u64>, b: u32) -> V<u64> {
    let [lo, hi] = unpack(a);
    pack([shuffle_up(lo, b), shuffle_up(hi, b)])
}

fn vote(mode: Mod, p: V<bool>) -> V<bool> {
    op(Op::VoteSync, &[Mod::Sync, mode], Ty::Pred, vec![p.arg(), dev(ALL_LANES).arg()])
}

/// Whether any lane's predicate holds.
pub fn any(p: V<bool>) -> V<bool> {
    vote(Mod::Any, p)
}

/// Whether all lanes' predicates hold.
pub fn all(p: V<bool>) -> V<bool> {
    vote(Mod::All, p)
}

/// Bit i is set where lane i's predicate holds.
pub fn ballot(p: V<bool>) -> V<u32> {
    op(Op::BallotSync, &[Mod::Sync, Mod::Ballot], Ty::B32, vec![p.arg(), dev(ALL_LANES).arg()])
}

macro_rules! redux {
    ($($(#[$doc:meta])* $name:ident $m:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name<T: Int + Word>(a: V<T>) -> V<T> {
            op(Op::ReduxSync, &[Mod::Sync, Mod::$m], T::TY, vec![a.arg(), dev(ALL_LANES).arg()])
        }
    )*};
}
redux! {
    /// Sum over the lanes of the warp, modulo 2^32 (sm_80).
    redux_add Add;
    /// Least of the lanes of the warp (sm_80).
    redux_min Min;
    /// Greatest of the lanes of the warp (sm_80).
    redux_max Max;
}

/// `hi:lo` of `[lo, hi]`.
pub fn pack(words: [V<u32>; 2]) -> V<u64> {
    op(Op::Mov, &[], Ty::B64, vec![Arg::List(words.iter().map(|w| w.operand).collect())])
}

/// `[lo, hi]`.
pub fn unpack(a: V<u64>) -> [V<u32>; 2] {
    emit_n::<2>(Form::new(Op::Mov, &[], Types::one(Ty::B64)), Ty::U32, vec![a.arg()]).map(V::new)
}

/// Two f16 in a word, `lo` in the low half.
pub fn pack_f16(lo: V<F16>, hi: V<F16>) -> V<u32> {
    op(Op::Mov, &[], Ty::B32, vec![Arg::List(vec![lo.operand, hi.operand])])
}

/// The low and high f16 of a word.
pub fn unpack_f16(a: V<u32>) -> [V<F16>; 2] {
    emit_n::<2>(Form::new(Op::Mov, &[], Types::one(Ty::B32)), Ty::F16, vec![a.arg()]).map(V::new)
}

/// Two f32 rounded to f16 in a word, `lo` in the low half (sm_80).
pub fn cvt_pack_f16(lo: V<f32>, hi: V<f32>) -> V<u32> {
    let form = Form::new(Op::CvtPack, &[Mod::Rn], Types::two(Ty::F16x2, Ty::F32));
    V::new(record::emit1(form, Ty::B32, vec![hi.arg(), lo.arg()]))
}

fn list<T, const N: usize>(values: [V<T>; N]) -> Arg {
    Arg::List(values.iter().map(|v| v.operand).collect())
}

macro_rules! mma_int {
    ($($(#[$doc:meta])* $name:ident $a:ident $b:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(a: [V<u32>; 4], b: [V<u32>; 2], c: [V<i32>; 4]) -> [V<i32>; 4] {
            let mods = [Mod::Sync, Mod::Aligned, Mod::M16n8k32, Mod::Row, Mod::Col];
            let form = Form::new(Op::MmaInt8, &mods, Types::four(Ty::S32, Ty::$a, Ty::$b, Ty::S32));
            emit_n::<4>(form, Ty::S32, vec![list(a), list(b), list(c)]).map(V::new)
        }
    )*};
}
mma_int! {
    /// 16x8 += 16x32 signed bytes times 32x8 signed bytes (fragments as in the PTX ISA).
    mma_s8 S8 S8;
    /// 16x8 += 16x32 unsigned bytes times 32x8 signed bytes.
    mma_u8_s8 U8 S8;
    /// 16x8 += 16x32 signed bytes times 32x8 unsigned bytes.
    mma_s8_u8 S8 U8;
}

macro_rules! mma_half {
    ($($(#[$doc:meta])* $name:ident $ty:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(a: [V<u32>; 4], b: [V<u32>; 2], c: [V<f32>; 4]) -> [V<f32>; 4] {
            let mods = [Mod::Sync, Mod::Aligned, Mod::M16n8k16, Mod::Row, Mod::Col];
            let form = Form::new(Op::MmaHalf, &mods, Types::four(Ty::F32, Ty::$ty, Ty::$ty, Ty::F32));
            emit_n::<4>(form, Ty::F32, vec![list(a), list(b), list(c)]).map(V::new)
        }
    )*};
}
mma_half! {
    /// 16x8 += 16x16 f16 times 16x8 f16, added up as `ptx::sem::tensor` says.
    mma_f16 F16;
    /// 16x8 += 16x16 bf16 times 16x8 bf16, added up as `ptx::sem::tensor` says.
    mma_bf16 Bf16;
}

impl<T: Num> V<T> {
    /// The lesser, as [`min`].
    pub fn min(self, other: impl IntoV<T>) -> V<T> {
        min(self, other)
    }
    /// The greater, as [`max`].
    pub fn max(self, other: impl IntoV<T>) -> V<T> {
        max(self, other)
    }
}
