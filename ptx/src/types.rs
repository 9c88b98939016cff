//! Scalar types and instruction modifiers, with their spelling in PTX.

use std::fmt;

macro_rules! spelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),* }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The spelling in PTX, without the leading dot.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.text()) }
        }
    };
}

spelled! {
    /// A scalar type. `Bxx` are untyped bits; registers are declared as `Pred`, `B16`, `B32`, `B64`, `F32` or `F64`.
    #[allow(missing_docs)]
    Ty {
        Pred = "pred",
        U8 = "u8", S8 = "s8", B8 = "b8",
        U16 = "u16", S16 = "s16", B16 = "b16", F16 = "f16", Bf16 = "bf16",
        U32 = "u32", S32 = "s32", B32 = "b32", F32 = "f32", F16x2 = "f16x2",
        U64 = "u64", S64 = "s64", B64 = "b64", F64 = "f64",
    }
}

impl Ty {
    /// Size in bytes; a predicate has none in memory and counts as 0.
    pub const fn bytes(self) -> u32 {
        match self {
            Ty::Pred => 0,
            Ty::U8 | Ty::S8 | Ty::B8 => 1,
            Ty::U16 | Ty::S16 | Ty::B16 | Ty::F16 | Ty::Bf16 => 2,
            Ty::U32 | Ty::S32 | Ty::B32 | Ty::F32 | Ty::F16x2 => 4,
            Ty::U64 | Ty::S64 | Ty::B64 | Ty::F64 => 8,
        }
    }

    /// Size in bits, as in the type's name.
    pub const fn bits(self) -> u32 {
        self.bytes() * 8
    }

    /// Whether values are two's-complement signed integers.
    pub const fn is_signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// Whether this is an integer type (signed or unsigned), as opposed to bits, floats and predicates.
    pub const fn is_int(self) -> bool {
        self.is_signed() || matches!(self, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64)
    }

    /// Whether this is untyped bits.
    pub const fn is_bits(self) -> bool {
        matches!(self, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64)
    }

    /// Whether values are IEEE numbers (or pairs of them).
    pub const fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::F32 | Ty::F64)
    }

    /// The type a register that holds such a value is declared with. Integers are declared as bits, so that signed
    /// and unsigned instructions share registers; f16 and bf16 live in 16-bit registers, 8-bit values in 16-bit ones.
    pub const fn register(self) -> Ty {
        match self {
            Ty::Pred => Ty::Pred,
            Ty::F32 => Ty::F32,
            Ty::F64 => Ty::F64,
            _ => match self.bytes() {
                1 | 2 => Ty::B16,
                4 => Ty::B32,
                _ => Ty::B64,
            },
        }
    }

    /// The integer or bit type of twice the width and the same signedness, for `.wide` instructions.
    pub const fn widened(self) -> Option<Ty> {
        match self {
            Ty::U16 => Some(Ty::U32),
            Ty::S16 => Some(Ty::S32),
            Ty::U32 => Some(Ty::U64),
            Ty::S32 => Some(Ty::S64),
            _ => None,
        }
    }
}

spelled! {
    /// A modifier: what stands between an opcode's name and its types. State spaces are modifiers too.
    #[allow(missing_docs)]
    Mod {
        // rounding
        Rn = "rn", Rz = "rz", Rm = "rm", Rp = "rp", Rni = "rni", Rzi = "rzi", Rmi = "rmi", Rpi = "rpi",
        // arithmetic
        Sat = "sat", Ftz = "ftz", Nan = "NaN", Approx = "approx", Wide = "wide", Lo = "lo", Hi = "hi",
        // comparisons
        Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge",
        Equ = "equ", Neu = "neu", Ltu = "ltu", Leu = "leu", Gtu = "gtu", Geu = "geu", Num = "num", IsNan = "nan",
        // shifts
        L = "l", R = "r", Wrap = "wrap", Clamp = "clamp",
        // state spaces
        Param = "param", Global = "global", Shared = "shared", Const = "const", To = "to",
        // memory
        Volatile = "volatile", Weak = "weak", Relaxed = "relaxed", Acquire = "acquire", Release = "release", AcqRel = "acq_rel",
        Sc = "sc", Cta = "cta", Gpu = "gpu", Sys = "sys", Nc = "nc", Ca = "ca", Cg = "cg", Cs = "cs", Lu = "lu",
        NoAllocate = "L1::no_allocate", EvictFirst = "L1::evict_first", EvictLast = "L1::evict_last", L2x128 = "L2::128B", L2x256 = "L2::256B",
        V2 = "v2", V4 = "v4", L1 = "L1", L2 = "L2",
        // atomics and reductions
        Add = "add", Min = "min", Max = "max", And = "and", Or = "or", Xor = "xor", Exch = "exch", Cas = "cas", Inc = "inc",
        // warps and barriers
        Sync = "sync", Aligned = "aligned", Bfly = "bfly", Down = "down", Up = "up", Idx = "idx",
        Any = "any", All = "all", Uni = "uni", Ballot = "ballot", Warp = "warp",
        // dependent launches
        Wait = "wait", LaunchDependents = "launch_dependents",
        // matrix shapes and layouts
        M16n8k16 = "m16n8k16", M16n8k32 = "m16n8k32", Row = "row", Col = "col", Satfinite = "satfinite",
        // asynchronous copies
        Async = "async", CommitGroup = "commit_group", WaitGroup = "wait_group", WaitAll = "wait_all",
        Bulk = "bulk", CompleteTx = "mbarrier::complete_tx::bytes", SharedCluster = "shared::cluster", SharedCta = "shared::cta",
        Init = "init", Arrive = "arrive", ExpectTx = "expect_tx", TryWait = "try_wait", Parity = "parity",
        Proxy = "proxy", MbarrierInit = "mbarrier_init", Cluster = "cluster",
        M8n8 = "m8n8", X1 = "x1", X2 = "x2", X4 = "x4", Trans = "trans",
    }
}

/// A set of modifiers. Their order in text is the row's business, so a set is all an instruction needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mods(u128);

impl Mods {
    /// No modifiers.
    pub const NONE: Mods = Mods(0);

    /// The set of the modifiers listed.
    pub const fn of(list: &[Mod]) -> Mods {
        let mut bits = 0u128;
        let mut i = 0;
        while i < list.len() {
            bits |= 1 << (list[i] as u32);
            i += 1;
        }
        Mods(bits)
    }

    /// Whether `m` is in the set.
    pub const fn has(self, m: Mod) -> bool {
        self.0 >> (m as u32) & 1 == 1
    }

    /// This set with `m` added.
    #[must_use]
    pub const fn with(self, m: Mod) -> Mods {
        Mods(self.0 | 1 << (m as u32))
    }

    /// This set with `m` taken out.
    #[must_use]
    pub const fn without(self, m: Mod) -> Mods {
        Mods(self.0 & !(1 << (m as u32)))
    }

    /// The modifiers in declaration order.
    pub fn iter(self) -> impl Iterator<Item = Mod> {
        Mod::ALL.iter().copied().filter(move |m| self.has(*m))
    }

    /// How many modifiers are in the set.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Mods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The types written after an opcode, in textual order (`cvt.rn.f32.s32` has `[F32, S32]`); at most four (`mma`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Types([Option<Ty>; 4]);

impl Types {
    /// No types (`ret`, `bar.sync`).
    pub const NONE: Types = Types([None; 4]);

    /// One type.
    pub const fn one(a: Ty) -> Types {
        Types([Some(a), None, None, None])
    }

    /// Two types, destination first.
    pub const fn two(a: Ty, b: Ty) -> Types {
        Types([Some(a), Some(b), None, None])
    }

    /// Four types: d, a, b, c of `mma`.
    pub const fn four(d: Ty, a: Ty, b: Ty, c: Ty) -> Types {
        Types([Some(d), Some(a), Some(b), Some(c)])
    }

    /// Builds from a list of at most four; `None` when longer.
    pub fn from_list(list: &[Ty]) -> Option<Types> {
        let mut types = [None; 4];
        for (i, ty) in list.iter().enumerate() {
            *types.get_mut(i)? = Some(*ty);
        }
        Some(Types(types))
    }

    /// The type at a position, if there is one.
    pub const fn get(self, i: usize) -> Option<Ty> {
        if i < 4 { self.0[i] } else { None }
    }

    /// The types in order.
    pub fn iter(self) -> impl Iterator<Item = Ty> {
        self.0.into_iter().flatten()
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0[0].is_none()
    }
}
