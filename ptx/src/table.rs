//! The instruction table: one row for each instruction that Monomorph may emit.
//!
//! A row says how the instruction is written (name, modifier axes in textual order, types), what its operands are,
//! what it does (`means`, and [`crate::sem`] for pure rows), what it touches ([`Effect`]), and which section of the
//! PTX ISA (numbering of version 8.1) defines it. Rows that share a PTX name (`add.u32`, `add.rn.f32`) are told
//! apart by their types and modifiers.
//!
//! The file is one table and exempt from the length limit: splitting it would scatter what belongs side by side.

use crate::types::{Mod, Ty, Types};
use Mod::*;

/// One position of modifiers: at most one of `choices`, exactly one if `required`.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// The alternatives.
    pub choices: &'static [Mod],
    /// Whether leaving it out is an error.
    pub required: bool,
}

const fn one(choices: &'static [Mod]) -> Axis {
    Axis { choices, required: true }
}

const fn opt(choices: &'static [Mod]) -> Axis {
    Axis { choices, required: false }
}

/// The type an operand must have, in terms of the instruction's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum T {
    /// The i-th type of the form.
    Nth(usize),
    /// Twice the width of the i-th type.
    Wide(usize),
    /// The i-th type or a wider register of the same kind (`ld.u8` into 32 bits, `cvt` from 8 bits).
    AtLeast(usize),
    /// Always this type.
    Fixed(Ty),
}

impl T {
    /// The type named, in a form's terms; `AtLeast` gives the least.
    pub fn of(self, types: Types) -> Option<Ty> {
        match self {
            T::Nth(i) | T::AtLeast(i) => types.get(i),
            T::Wide(i) => types.get(i).and_then(Ty::widened),
            T::Fixed(ty) => Some(ty),
        }
    }
}

/// One operand position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sig {
    /// A register written.
    Dst(T),
    /// A register or an immediate read.
    Src(T),
    /// A register read (no immediate).
    SrcReg(T),
    /// An immediate, by law of the ISA.
    Lit(T),
    /// Register or brace list of the form's vector length, written.
    DstVec(T),
    /// Register or brace list of the form's vector length, read.
    SrcVec(T),
    /// A brace list of n registers, written (`mma` fragments).
    DstList(u8, T),
    /// A brace list of n registers, read.
    SrcList(u8, T),
    /// Destination of `mov`: a register, or a list that unpacks.
    DstMov,
    /// Source of `mov`: register, immediate, special register, shared address, or a list that packs.
    SrcMov,
    /// `d` or `d|p` of `shfl.sync`.
    DstShfl,
    /// `[base + offset]`, in the space that the form names.
    Mem,
    /// `[base + offset]` in this space, for rows that access two.
    MemIn(Mod),
    /// A label.
    Target,
}

impl Sig {
    /// The type of the values at this position; `mov` moves the form's type.
    pub fn value(self) -> Option<T> {
        match self {
            Sig::Dst(t) | Sig::Src(t) | Sig::SrcReg(t) | Sig::Lit(t) => Some(t),
            Sig::DstVec(t) | Sig::SrcVec(t) | Sig::DstList(_, t) | Sig::SrcList(_, t) => Some(t),
            Sig::DstMov | Sig::SrcMov | Sig::DstShfl => Some(T::Nth(0)),
            Sig::Mem | Sig::MemIn(_) | Sig::Target => None,
        }
    }

    /// Whether the registers at this position are written (those of an address are read).
    pub fn writes(self) -> bool {
        matches!(self, Sig::Dst(_) | Sig::DstVec(_) | Sig::DstList(..) | Sig::DstMov | Sig::DstShfl)
    }
}

/// What an instruction touches beyond its registers; passes and the verifier go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: may be folded, shared, dropped.
    Pure,
    /// Reads memory.
    Load,
    /// Writes memory (or reads and writes).
    Store,
    /// Depends on, or synchronises with, other threads: keeps its place.
    Sync,
    /// Moves control.
    Control,
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// The opcode.
    pub op: Op,
    /// PTX name.
    pub name: &'static str,
    /// Modifier positions in textual order, between the name and the types.
    pub axes: &'static [Axis],
    /// Permitted types at each type position.
    pub types: &'static [&'static [Ty]],
    /// Operands in textual order.
    pub operands: &'static [Sig],
    /// What it touches.
    pub effect: Effect,
    /// Least compute capability (times ten) this row needs.
    pub min_sm: u32,
    /// What it computes.
    pub means: &'static str,
    /// PTX ISA section.
    pub isa: &'static str,
}

macro_rules! table {
    ($($op:ident = $name:literal [$($axis:expr),*] [$($types:expr),*] ($($sig:expr),*) $effect:ident $sm:literal $isa:literal $means:literal;)*) => {
        /// An opcode: a row of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op { $(#[doc = $means] $op),* }

        /// The table, in the order of [`Op`].
        pub static ROWS: &[Row] = &[$(Row {
            op: Op::$op, name: $name, axes: &[$($axis),*], types: &[$($types),*], operands: &[$($sig),*],
            effect: Effect::$effect, min_sm: $sm, means: $means, isa: $isa,
        }),*];
    };
}

impl Op {
    /// The row of this opcode.
    pub fn row(self) -> &'static Row {
        // Invariant: ROWS is generated in the order of the enum.
        &ROWS[self as usize]
    }
}

const INT: &[Ty] = &[Ty::U32, Ty::S32, Ty::U64, Ty::S64, Ty::U16, Ty::S16];
const INT32: &[Ty] = &[Ty::U32, Ty::S32];
const SIGNED: &[Ty] = &[Ty::S32, Ty::S64];
const F32: &[Ty] = &[Ty::F32];
const B32: &[Ty] = &[Ty::B32];
const BITS: &[Ty] = &[Ty::B32, Ty::B64, Ty::B16];
const LOGIC: &[Ty] = &[Ty::B32, Ty::B64, Ty::B16, Ty::Pred];
const SCALARS: &[Ty] = &[
    Ty::B32,
    Ty::U32,
    Ty::S32,
    Ty::F32,
    Ty::B64,
    Ty::U64,
    Ty::S64,
    Ty::B16,
    Ty::U16,
    Ty::S16,
    Ty::B8,
    Ty::U8,
    Ty::S8,
];
const MOVES: &[Ty] =
    &[Ty::B32, Ty::U32, Ty::S32, Ty::F32, Ty::B64, Ty::U64, Ty::S64, Ty::B16, Ty::U16, Ty::Pred];
const COMPARED: &[Ty] = &[Ty::U32, Ty::S32, Ty::F32, Ty::U64, Ty::S64, Ty::B32, Ty::U16, Ty::S16];
const SELECTED: &[Ty] = &[Ty::B32, Ty::U32, Ty::S32, Ty::F32, Ty::B64, Ty::U64, Ty::B16];
const CONVERTED: &[Ty] =
    &[Ty::U8, Ty::S8, Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64, Ty::F16, Ty::Bf16, Ty::F32];
const ATOMIC: &[Ty] = &[Ty::U32, Ty::S32, Ty::B32, Ty::U64, Ty::B64];
const ADDRESS: &[Ty] = &[Ty::U64];
const B64: &[Ty] = &[Ty::B64];

const D: Sig = Sig::Dst(T::Nth(0));
const A: Sig = Sig::Src(T::Nth(0));
const D32: Sig = Sig::Dst(T::Fixed(Ty::B32));
const A32: Sig = Sig::Src(T::Fixed(Ty::B32));
const DP: Sig = Sig::Dst(T::Fixed(Ty::Pred));
const SP: Sig = Sig::SrcReg(T::Fixed(Ty::Pred));
const MASK: Sig = Sig::Src(T::Fixed(Ty::B32));

const SPACE: &[Mod] = &[Global, Shared, Param];
const GS: &[Mod] = &[Global, Shared];
const SCOPE: &[Mod] = &[Cta, Gpu, Sys];
const LOAD_ORDER: &[Mod] = &[Volatile, Weak, Relaxed, Acquire];
const STORE_ORDER: &[Mod] = &[Volatile, Weak, Relaxed, Release];
const RMW_ORDER: &[Mod] = &[Relaxed, Acquire, Release, AcqRel];
const CACHE: &[Mod] = &[Ca, Cg, Cs, Lu, NoAllocate, EvictFirst, EvictLast];
const COMPARE: &[Mod] = &[Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, IsNan];
const ROUND: &[Mod] = &[Rn, Rz, Rm, Rp, Rni, Rzi, Rmi, Rpi];
const RMW: &[Mod] = &[Add, Min, Max, And, Or, Xor, Exch, Inc];
const RED: &[Mod] = &[Add, Min, Max, And, Or, Xor, Inc];
const SHAPE_INT8: &[Mod] = &[M16n8k32];
const S8U8: &[Ty] = &[Ty::S8, Ty::U8];
const S32: &[Ty] = &[Ty::S32];
const HALF: &[Ty] = &[Ty::F16, Ty::Bf16];

table! {
    // ── integers ────────────────────────────────────────────────────────────────────────────────────────────────
    AddInt = "add" [] [INT] (D, A, A) Pure 50 "9.7.1 add" "d = a + b, modulo 2^n";
    SubInt = "sub" [] [INT] (D, A, A) Pure 50 "9.7.1 sub" "d = a - b, modulo 2^n";
    MulInt = "mul" [one(&[Lo, Hi])] [INT] (D, A, A) Pure 50 "9.7.1 mul" "d = low or high half of a * b";
    MulWide = "mul" [one(&[Wide])] [&[Ty::U32, Ty::S32, Ty::U16, Ty::S16]] (Sig::Dst(T::Wide(0)), A, A) Pure 50 "9.7.1 mul" "d = a * b, of twice the width";
    MadInt = "mad" [one(&[Lo, Hi])] [INT] (D, A, A, A) Pure 50 "9.7.1 mad" "d = low or high half of a * b, plus c, modulo 2^n";
    MadWide = "mad" [one(&[Wide])] [&[Ty::U32, Ty::S32, Ty::U16, Ty::S16]] (Sig::Dst(T::Wide(0)), A, A, Sig::Src(T::Wide(0))) Pure 50 "9.7.1 mad" "d = a * b + c, of twice the width";
    DivInt = "div" [] [INT] (D, A, A) Pure 50 "9.7.1 div" "d = a / b toward zero; b = 0 is unspecified by the ISA and all ones here, as on devices";
    RemInt = "rem" [] [INT] (D, A, A) Pure 50 "9.7.1 rem" "d = a mod b, sign of a; b = 0 is unspecified by the ISA and all ones here, as on devices";
    MinInt = "min" [] [INT] (D, A, A) Pure 50 "9.7.1 min" "d = lesser of a and b";
    MaxInt = "max" [] [INT] (D, A, A) Pure 50 "9.7.1 max" "d = greater of a and b";
    AbsInt = "abs" [] [SIGNED] (D, A) Pure 50 "9.7.1 abs" "d = |a|, the least value stays";
    NegInt = "neg" [] [SIGNED] (D, A) Pure 50 "9.7.1 neg" "d = -a, modulo 2^n";
    Popc = "popc" [] [&[Ty::B32, Ty::B64]] (D32, A) Pure 50 "9.7.1 popc" "d = number of one bits of a";
    Clz = "clz" [] [&[Ty::B32, Ty::B64]] (D32, A) Pure 50 "9.7.1 clz" "d = number of leading zero bits of a";
    Brev = "brev" [] [&[Ty::B32, Ty::B64]] (D, A) Pure 50 "9.7.1 brev" "d = bits of a in reverse";
    // 64-bit bfe and bfi are left out: devices do not reduce their position and length as the ISA says.
    Bfe = "bfe" [] [INT32] (D, A, A32, A32) Pure 50 "9.7.1 bfe" "d = c bits of a from bit b, extended by the type's sign (b and c modulo 256)";
    Bfi = "bfi" [] [B32] (D, A, A, A32, A32) Pure 50 "9.7.1 bfi" "f = b with d bits from bit c replaced by the low bits of a (c and d modulo 256)";
    Dp4a = "dp4a" [] [INT32, INT32] (D32, A32, A32, A32) Pure 61 "9.7.1 dp4a" "d = c + sum of the 4 products of bytes of a and b, each extended by its type, modulo 2^32";
    Dp2a = "dp2a" [one(&[Lo, Hi])] [INT32, INT32] (D32, A32, A32, A32) Pure 61 "9.7.1 dp2a" "d = c + sum of the 2 products of halves of a and the low or high two bytes of b";

    // ── floating point: every rounding is explicit, NaN results are 0x7fffffff ─────────────────────────────────
    AddF = "add" [one(&[Rn, Rz, Rm, Rp])] [F32] (D, A, A) Pure 50 "9.7.3 add" "d = a + b, one rounding";
    SubF = "sub" [one(&[Rn, Rz, Rm, Rp])] [F32] (D, A, A) Pure 50 "9.7.3 sub" "d = a - b, one rounding";
    MulF = "mul" [one(&[Rn, Rz, Rm, Rp])] [F32] (D, A, A) Pure 50 "9.7.3 mul" "d = a * b, one rounding";
    FmaF = "fma" [one(&[Rn])] [F32] (D, A, A, A) Pure 50 "9.7.3 fma" "d = a * b + c, one rounding";
    DivF = "div" [one(&[Rn])] [F32] (D, A, A) Pure 50 "9.7.3 div" "d = a / b, IEEE";
    RcpF = "rcp" [one(&[Rn])] [F32] (D, A) Pure 50 "9.7.3 rcp" "d = 1 / a, IEEE";
    SqrtF = "sqrt" [one(&[Rn])] [F32] (D, A) Pure 50 "9.7.3 sqrt" "d = square root of a, IEEE";
    MinF = "min" [opt(&[Nan])] [F32] (D, A, A) Pure 50 "9.7.3 min" "d = lesser; -0 < +0; the number if one is NaN, NaN with .NaN (sm_80) if either is";
    MaxF = "max" [opt(&[Nan])] [F32] (D, A, A) Pure 50 "9.7.3 max" "d = greater; -0 < +0; the number if one is NaN, NaN with .NaN (sm_80) if either is";
    AbsF = "abs" [] [F32] (D, A) Pure 50 "9.7.3 abs" "d = a with the sign cleared; a NaN gives the canonical NaN";
    NegF = "neg" [] [F32] (D, A) Pure 50 "9.7.3 neg" "d = a with the sign flipped; a NaN gives the canonical NaN";

    // ── comparison and selection ────────────────────────────────────────────────────────────────────────────────
    Setp = "setp" [one(COMPARE)] [COMPARED] (DP, A, A) Pure 50 "9.7.5 setp" "p = a cmp b; ordered comparisons with NaN are false, unordered (..u) true";
    Selp = "selp" [] [SELECTED] (D, A, A, SP) Pure 50 "9.7.5 selp" "d = c ? a : b";

    // ── logic and shifts ────────────────────────────────────────────────────────────────────────────────────────
    And = "and" [] [LOGIC] (D, A, A) Pure 50 "9.7.7 and" "d = a & b";
    Or = "or" [] [LOGIC] (D, A, A) Pure 50 "9.7.7 or" "d = a | b";
    Xor = "xor" [] [LOGIC] (D, A, A) Pure 50 "9.7.7 xor" "d = a ^ b";
    Not = "not" [] [LOGIC] (D, A) Pure 50 "9.7.7 not" "d = ~a";
    Lop3 = "lop3" [] [B32] (D, A, A, A, Sig::Lit(T::Fixed(Ty::B32))) Pure 50 "9.7.7 lop3" "d = bitwise function of a, b, c with truth table immLut (F0, CC, AA)";
    Shl = "shl" [] [BITS] (D, A, A32) Pure 50 "9.7.7 shl" "d = a << b; 0 when b is not less than the width";
    Shr = "shr" [] [&[Ty::U32, Ty::S32, Ty::U64, Ty::S64, Ty::B32, Ty::U16, Ty::S16]] (D, A, A32) Pure 50 "9.7.7 shr" "d = a >> b, sign-extending for signed types; b clamped to the width";
    Shf = "shf" [one(&[L, R]), one(&[Wrap, Clamp])] [B32] (D, A, A, A32) Pure 50 "9.7.7 shf" "d = high (l) or low (r) word of the 64-bit b:a shifted by c, c modulo 32 (wrap) or at most 32 (clamp)";

    // ── data movement and conversion ────────────────────────────────────────────────────────────────────────────
    Mov = "mov" [] [MOVES] (Sig::DstMov, Sig::SrcMov) Pure 50 "9.7.8 mov" "d = a; lists pack (first element in the low bits) or unpack";
    Prmt = "prmt" [] [B32] (D, A, A, A32) Pure 50 "9.7.8 prmt" "d = four bytes of b:a chosen by the nibbles of c; bit 3 of a nibble replicates the sign";
    Ld = "ld" [opt(LOAD_ORDER), opt(SCOPE), one(SPACE), opt(&[Nc]), opt(CACHE), opt(&[L2x128, L2x256]), opt(&[V2, V4])] [SCALARS] (Sig::DstVec(T::AtLeast(0)), Sig::Mem) Load 50 "9.7.8 ld" "d = memory at a; narrow types are extended to the register";
    St = "st" [opt(STORE_ORDER), opt(SCOPE), one(GS), opt(&[Cg, Cs]), opt(&[V2, V4])] [SCALARS] (Sig::Mem, Sig::SrcVec(T::AtLeast(0))) Store 50 "9.7.8 st" "memory at a = b; narrow types take the low bits";
    Prefetch = "prefetch" [one(&[Global]), one(&[L1, L2])] [] (Sig::Mem) Load 50 "9.7.8 prefetch" "brings the line of a toward the cache named; no effect on values";
    Cvta = "cvta" [one(&[To]), one(&[Global])] [ADDRESS] (D, A) Pure 50 "9.7.8 cvta" "d = generic address a as an address of the space";
    Cvt = "cvt" [opt(ROUND), opt(&[Sat])] [CONVERTED, CONVERTED] (Sig::Dst(T::AtLeast(0)), Sig::SrcReg(T::AtLeast(1))) Pure 50 "9.7.8 cvt" "d = a converted; float to int saturates, NaN gives 0 (2^63 for 64-bit types); int narrowing wraps unless .sat; bf16 to f32 keeps all bits";
    CvtPack = "cvt" [one(&[Rn])] [&[Ty::F16x2], F32] (D32, Sig::Src(T::Nth(1)), Sig::Src(T::Nth(1))) Pure 80 "9.7.8 cvt" "d = f16 pair: a rounded in the high half, b in the low half";
    ShflSync = "shfl" [one(&[Sync]), one(&[Bfly, Down, Up, Idx])] [B32] (Sig::DstShfl, A, A32, A32, MASK) Sync 50 "9.7.8 shfl.sync" "d = a of another lane (b: lane or offset, c: clamp and segment); p = whether that lane was in range, else d = own a";

    // ── warps ───────────────────────────────────────────────────────────────────────────────────────────────────
    VoteSync = "vote" [one(&[Sync]), one(&[Any, All, Uni])] [&[Ty::Pred]] (DP, SP, MASK) Sync 50 "9.7.12 vote.sync" "p = any / all / uniform of the lanes' predicates";
    BallotSync = "vote" [one(&[Sync]), one(&[Ballot])] [B32] (D32, SP, MASK) Sync 50 "9.7.12 vote.sync" "d = bit i set where lane i's predicate holds";
    ReduxSync = "redux" [one(&[Sync]), one(&[Add, Min, Max])] [INT32] (D, Sig::SrcReg(T::Nth(0)), MASK) Sync 80 "9.7.12 redux.sync" "d = sum, least or greatest of the lanes' values";

    // ── synchronisation ─────────────────────────────────────────────────────────────────────────────────────────
    BarSync = "bar" [one(&[Sync])] [] (Sig::Lit(T::Fixed(Ty::B32))) Sync 50 "9.7.12 bar.sync" "waits for all threads of the CTA; memory is ordered among them";
    BarWarpSync = "bar" [one(&[Warp]), one(&[Sync])] [] (MASK) Sync 50 "9.7.12 bar.warp.sync" "waits for the lanes of the mask; memory is ordered among them";
    Fence = "fence" [one(&[AcqRel, Sc]), one(SCOPE)] [] () Sync 70 "9.7.12 fence" "orders this thread's memory accesses at the scope";
    Atom = "atom" [opt(RMW_ORDER), opt(SCOPE), one(GS), one(RMW)] [ATOMIC] (D, Sig::Mem, A) Store 50 "9.7.12 atom" "d = memory at a; memory = memory op b, as one step";
    AtomCas = "atom" [opt(RMW_ORDER), opt(SCOPE), one(GS), one(&[Cas])] [&[Ty::B32, Ty::B64]] (D, Sig::Mem, A, A) Store 50 "9.7.12 atom" "d = memory at a; memory = c if it was b, as one step";
    Red = "red" [opt(&[Relaxed, Release]), opt(SCOPE), one(GS), one(RED)] [ATOMIC] (Sig::Mem, A) Store 50 "9.7.12 red" "memory at a = memory op b, as one step";
    GridDepControl = "griddepcontrol" [one(&[Wait, LaunchDependents])] [] () Sync 90 "9.7.12 griddepcontrol" "wait: until the grids this one depends on are done and visible; launch_dependents: dependents may be scheduled";
    Nanosleep = "nanosleep" [] [&[Ty::U32]] (A) Sync 70 "9.7.12 nanosleep" "suspends the thread for about a nanoseconds";

    // ── asynchronous copies: an mbarrier counts threads that arrive and bytes that land, and passes from phase to phase ──
    MbarrierInit = "mbarrier" [one(&[Init]), one(&[Shared])] [B64] (Sig::Mem, A32) Sync 80 "9.7.12 mbarrier.init" "makes an mbarrier of 8 bytes at a, whose phases take b arrivals each";
    MbarrierArrive = "mbarrier" [one(&[Arrive]), one(&[Shared])] [B64] (D, Sig::Mem) Sync 80 "9.7.12 mbarrier.arrive" "arrives at a, releasing earlier accesses; d = opaque state of the phase";
    MbarrierExpect = "mbarrier" [one(&[Arrive]), one(&[ExpectTx]), one(&[Shared])] [B64] (D, Sig::Mem, A32) Sync 90 "9.7.12 mbarrier.arrive" "the phase of a also waits for b bytes; then arrives; d = opaque state of the phase";
    MbarrierTryWait = "mbarrier" [one(&[TryWait]), one(&[Parity]), one(&[Shared])] [B64] (DP, Sig::Mem, A32) Sync 90 "9.7.12 mbarrier.try_wait" "p = whether the phase of parity b is over at a, acquiring what it released; may suspend the thread for a while first";
    CopyBulk = "cp" [one(&[Async]), one(&[Bulk]), one(&[SharedCluster]), one(&[Global]), one(&[CompleteTx])] [] (Sig::MemIn(Shared), Sig::MemIn(Global), A32, Sig::MemIn(Shared)) Sync 90 "9.7.8 cp.async.bulk" "c bytes from b to a, some time; the mbarrier d counts them as they land; addresses and size are multiples of 16";
    FenceProxyAsync = "fence" [one(&[Proxy]), one(&[Async]), one(&[SharedCta])] [] () Sync 90 "9.7.12 fence.proxy" "orders this thread's accesses of shared memory and those of asynchronous copies";
    FenceMbarrierInit = "fence" [one(&[Mod::MbarrierInit]), one(&[Release]), one(&[Cluster])] [] () Sync 90 "9.7.12 fence" "this thread's mbarrier.init come before its later accesses, for asynchronous copies too";

    // ── matrices ────────────────────────────────────────────────────────────────────────────────────────────────
    MmaInt8 = "mma" [one(&[Sync]), one(&[Aligned]), one(SHAPE_INT8), one(&[Row]), one(&[Col]), opt(&[Satfinite])] [S32, S8U8, S8U8, S32] (Sig::DstList(4, T::Fixed(Ty::B32)), Sig::SrcList(4, T::Fixed(Ty::B32)), Sig::SrcList(2, T::Fixed(Ty::B32)), Sig::SrcList(4, T::Fixed(Ty::B32))) Sync 80 "9.7.13 mma" "D(16x8) = A(16x32) * B(32x8) + C in exact 32-bit integers, modulo 2^32";
    MmaHalf = "mma" [one(&[Sync]), one(&[Aligned]), one(&[M16n8k16]), one(&[Row]), one(&[Col])] [F32, HALF, HALF, F32] (Sig::DstList(4, T::Fixed(Ty::F32)), Sig::SrcList(4, T::Fixed(Ty::B32)), Sig::SrcList(2, T::Fixed(Ty::B32)), Sig::SrcList(4, T::Fixed(Ty::F32))) Sync 80 "9.7.13 mma" "D(16x8) = A(16x16) * B(16x8) + C; products exact; the ISA leaves the sum open, sem::tensor has it as devices do";

    // ── control ─────────────────────────────────────────────────────────────────────────────────────────────────
    Bra = "bra" [opt(&[Uni])] [] (Sig::Target) Control 50 "9.7.11 bra" "continues at the label; .uni promises that all active lanes agree";
    Ret = "ret" [] [] () Control 50 "9.7.11 ret" "ends the thread (in an entry)";
    Trap = "trap" [] [] () Control 50 "9.7.14 trap" "aborts the launch";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_enum() {
        for (i, row) in ROWS.iter().enumerate() {
            assert_eq!(row.op as usize, i, "{}", row.name);
        }
    }

    #[test]
    fn no_modifier_stands_in_two_axes_of_a_row() {
        for row in ROWS {
            let mut seen = crate::types::Mods::NONE;
            for m in row.axes.iter().flat_map(|axis| axis.choices) {
                assert!(!seen.has(*m), "{}: .{} stands twice", row.name, m);
                seen = seen.with(*m);
            }
        }
    }
}
