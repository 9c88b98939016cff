//! A decoded entry: a flat list of 32-byte slots, and side tables for what does not fit one.
//!
//! Operands are register indices. Immediates are registers too: constants that are written once when a warp is made,
//! so an operation has no variants by operand kind. 16- and 32-bit registers share the `W` file, 64-bit ones are the
//! `Q` file, predicates the `P` file.
//!
//! Invariant: a 16-bit register's upper half is zero in its `W` register.

use ptx::sem::tensor::Adder;
use ptx::{Form, sem};

use crate::chain::DotChain;
use crate::full::{self, Full};
use crate::lane_ops::with_lane_ops;

macro_rules! define_kinds {
    ($($name:ident($($p:ident: $file:ident),*) -> $to:ident $body:block)*) => {
        /// What a slot does. Lane operations come from the table; the rest is executed by hand-written code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(clippy::enum_variant_names)]
        pub(crate) enum Kind {
            $($name,)*
            /// Several of them in one: d, a, b, c: W, x: two more of W, then `more`; what it does is its function for all lanes.
            Fused,
            /// d: W, x: index into `chains`.
            DotChain,
            /// d: W, a, b, c: W, x: table.
            Lop3,
            /// d: W, a, b: W, c: P.
            SelW,
            /// d: Q, a, b: Q, c: P.
            SelQ,
            /// d: P, a, b: W, x: [`Compare`].
            SetpU, SetpS, SetpF,
            /// d: P, a, b: Q, x: [`Compare`].
            SetpUQ, SetpSQ,
            /// d, a, b: P.
            MovP, AndP, OrP, XorP, NotP,
            /// d: W, x: index into [`ptx::Special::ALL`].
            Special,
            /// d: W or Q, a: parameter, x: byte offset | size << 8 | signed << 16.
            LdParamW, LdParamQ,
            /// x: index into `evals`.
            Eval,
            /// x: index into `accesses`.
            LdGlobal, LdShared, StGlobal, StShared,
            /// x: index into `atoms`.
            AtomGlobal, AtomShared,
            /// x: index into `shuffles`.
            Shfl,
            /// d: P, a: P, b: W mask.
            VoteAny, VoteAll, VoteUni,
            /// d: W, a: P, b: W mask.
            Ballot,
            /// d: W, a: W, b: W mask, x: [`Reduction`].
            Redux,
            /// x: index into `mmas`.
            MmaInt8, MmaHalf,
            /// x: barrier.
            BarSync,
            /// a: W mask.
            BarWarp,
            /// Between `mbarrier.init` and asynchronous copies.
            FenceAsync,
            /// a: W address, b: W count, x: offset.
            MbarrierInit,
            /// d: Q, a: W address, b: W bytes, x: offset.
            MbarrierArrive, MbarrierExpect,
            /// d: P, a: W address, b: W parity, x: offset.
            MbarrierWait,
            /// x: index into `copies`.
            CopyBulk,
            Fence, Nop,
            /// x: target slot.
            Bra,
            /// x: target slot, a | b << 16: slot where the paths meet again ([`NOWHERE`] if only at the end).
            BraIf, BraIfUni,
            /// Stands where paths meet again.
            Join,
            Ret, Trap,
        }
    };
}
with_lane_ops!(define_kinds);

/// The reconvergence slot of branches whose paths meet only after the last instruction.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Comparisons of `setp`. On integers the unordered ones do not occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    IsNan,
}

/// Reductions of `redux.sync` and read-modify-write operations of `atom` and `red`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
    Exch,
    Inc,
    Cas,
}

/// One micro-operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub kind: Kind,
    /// 0: none. Otherwise (predicate register << 1 | negated) + 1.
    pub guard: u16,
    pub d: u16,
    pub a: u16,
    pub b: u16,
    pub c: u16,
    pub x: u32,
    /// More sources of a fused slot.
    pub more: [u16; 4],
    /// The file of the one register that `full` writes, for all lanes and whatever they hold: other lanes than those that
    /// execute can get theirs back.
    pub writes: Option<File>,
    /// What it does when all lanes execute.
    pub full: Full,
}

impl Slot {
    /// A slot without guard and operands.
    pub fn new(kind: Kind) -> Slot {
        Slot { kind, guard: 0, d: 0, a: 0, b: 0, c: 0, x: 0, more: [0; 4], writes: None, full: full::general }
    }
}

/// A register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    W,
    Q,
    P,
}

/// A register of a file, with the width in bits of its declaration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub file: File,
    pub index: u16,
    pub bits: u32,
}

/// A form executed lane by lane through [`ptx::sem::eval`].
#[derive(Clone, Debug)]
pub(crate) struct EvalOp {
    pub form: Form,
    pub sources: Vec<Place>,
    pub to: Place,
}

/// A load or store.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Address register: `Q` for global, `W` for shared.
    pub base: u16,
    /// Bytes.
    pub offset: i32,
    /// Elements: 1, 2 or 4.
    pub vector: u32,
    /// Bytes of an element.
    pub size: u32,
    /// Whether a narrow element is sign-extended to the register.
    pub signed: bool,
    /// Whether the access is strong (volatile, relaxed, acquire, release).
    pub strong: bool,
    /// Destinations or sources; all in one file.
    pub regs: [u16; 4],
    pub file: File,
    /// Width of the registers.
    pub reg_bits: u32,
}

impl Access {
    /// Bytes of the whole access, which is also its alignment.
    pub fn bytes(&self) -> u32 {
        self.vector * self.size
    }

    /// The register of a narrow element at an address, from the word around it.
    #[inline(always)]
    pub fn narrow(&self, word: u32, at: u64) -> u32 {
        let unused = 32 - 8 * self.size;
        let high = word >> (8 * (at as u32 & 3)) << (unused & 31);
        let value = if self.signed { (high as i32 >> (unused & 31)) as u32 } else { high >> (unused & 31) };
        value & sem::mask(self.reg_bits) as u32
    }
}

/// An atomic or a reduction.
#[derive(Clone, Debug)]
pub(crate) struct AtomOp {
    pub base: u16,
    pub offset: i32,
    pub op: Reduction,
    /// `Q` for 64-bit operations.
    pub file: File,
    /// Where the old value goes, if anywhere.
    pub to: Option<u16>,
    pub value: u16,
    /// The new value of `cas` (`value` is then what is compared with).
    pub new: u16,
}

/// A bulk copy from global to shared memory; addresses are registers with offsets.
#[derive(Clone, Debug)]
pub(crate) struct CopyOp {
    /// `W`.
    pub to: (u16, i32),
    /// `Q`.
    pub from: (u16, i32),
    /// `W`.
    pub bytes: u16,
    /// `W`.
    pub mbarrier: (u16, i32),
}

/// Modes of `shfl.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// A shuffle.
#[derive(Clone, Debug)]
pub(crate) struct ShflOp {
    pub mode: ShflMode,
    pub to: u16,
    /// Predicate: whether the source lane was in range.
    pub in_range: Option<u16>,
    pub value: u16,
    pub lane: u16,
    pub clamp: u16,
    pub members: u16,
}

/// Operand types of an `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaElem {
    S8,
    U8,
    F16,
    Bf16,
}

/// A matrix multiply-accumulate; registers are `W`.
#[derive(Clone, Debug)]
pub(crate) struct MmaOp {
    /// How floats are added up.
    pub adder: Adder,
    pub a_elem: MmaElem,
    pub b_elem: MmaElem,
    pub saturate: bool,
    pub d: [u16; 4],
    pub a: [u16; 4],
    pub b: [u16; 2],
    pub c: [u16; 4],
}

/// A decoded entry.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub name: String,
    pub reqntid: [u32; 3],
    pub params: usize,
    pub slots: Vec<Slot>,
    /// The statement each slot comes from.
    pub origin: Vec<u32>,
    /// Text of every statement.
    pub text: Vec<String>,
    pub w_regs: usize,
    pub q_regs: usize,
    pub p_regs: usize,
    /// Constants: register and value, on every lane.
    pub w_consts: Vec<(u16, u32)>,
    pub q_consts: Vec<(u16, u64)>,
    pub p_consts: Vec<(u16, u32)>,
    /// Bytes of the static shared variables.
    pub shared_bytes: u32,
    /// Start of the dynamic one, behind them.
    pub dynamic_start: Option<u32>,
    /// `(start, end)` of each static shared variable.
    pub shared_vars: Vec<(u32, u32)>,
    pub evals: Vec<EvalOp>,
    pub accesses: Vec<Access>,
    pub atoms: Vec<AtomOp>,
    pub copies: Vec<CopyOp>,
    pub shuffles: Vec<ShflOp>,
    pub mmas: Vec<MmaOp>,
    pub chains: Vec<DotChain>,
}
