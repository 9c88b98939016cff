//! One instruction: a [`Form`] (opcode, modifiers, types) with operands and an optional guard.

use crate::module::{Label, Reg};
use crate::table::{Op, Row};
use crate::types::{Mod, Mods, Ty, Types};

/// An opcode with its modifiers and types chosen: `fma.rn.f32`, `ld.global.nc.v4.u32`. Everything but the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    /// The opcode.
    pub op: Op,
    /// Its modifiers.
    pub mods: Mods,
    /// Its types, in textual order.
    pub types: Types,
}

impl Form {
    /// A form with modifiers and types.
    pub const fn new(op: Op, mods: &[Mod], types: Types) -> Form {
        Form { op, mods: Mods::of(mods), types }
    }

    /// The table row this form belongs to.
    pub fn row(self) -> &'static Row {
        self.op.row()
    }

    /// The first type, which most rows call *the* type.
    pub fn ty(self) -> Option<Ty> {
        self.types.get(0)
    }

    /// Number of elements of a vector access: 1, 2 or 4.
    pub fn vector(self) -> u32 {
        if self.mods.has(Mod::V4) {
            4
        } else if self.mods.has(Mod::V2) {
            2
        } else {
            1
        }
    }
}

/// `@p` or `@!p` before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The predicate register.
    pub reg: Reg,
    /// Whether the instruction runs where the predicate is false.
    pub negated: bool,
}

/// An immediate: raw bits of the operand's type, zero-extended (a `-1` of type s32 is `0xFFFF_FFFF`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Imm(pub u64);

impl Imm {
    /// An unsigned 32-bit value.
    pub const fn u32(v: u32) -> Imm {
        Imm(v as u64)
    }

    /// A signed 32-bit value.
    pub const fn s32(v: i32) -> Imm {
        Imm(v as u32 as u64)
    }

    /// A float, by its bits.
    pub const fn f32(v: f32) -> Imm {
        Imm(v.to_bits() as u64)
    }
}

/// A special register.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Special {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    LaneId,
    LanemaskLt,
    Clock,
}

impl Special {
    /// Every special register with its spelling.
    pub const ALL: &'static [(Special, &'static str)] = &[
        (Special::TidX, "%tid.x"),
        (Special::TidY, "%tid.y"),
        (Special::TidZ, "%tid.z"),
        (Special::NtidX, "%ntid.x"),
        (Special::NtidY, "%ntid.y"),
        (Special::NtidZ, "%ntid.z"),
        (Special::CtaidX, "%ctaid.x"),
        (Special::CtaidY, "%ctaid.y"),
        (Special::CtaidZ, "%ctaid.z"),
        (Special::NctaidX, "%nctaid.x"),
        (Special::NctaidY, "%nctaid.y"),
        (Special::NctaidZ, "%nctaid.z"),
        (Special::LaneId, "%laneid"),
        (Special::LanemaskLt, "%lanemask_lt"),
        (Special::Clock, "%clock"),
    ];

    /// The spelling in PTX.
    pub fn text(self) -> &'static str {
        Special::ALL.iter().find(|(s, _)| *s == self).map_or("", |(_, text)| text)
    }
}

/// What an address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddrBase {
    /// A 64-bit register (global, generic) or a 32-bit one (shared).
    Reg(Reg),
    /// A kernel parameter, by its index in the entry.
    Param(u32),
    /// A shared variable, by its index in the entry.
    Shared(u32),
}

/// `[base + offset]`, offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addr {
    /// What the offset is added to.
    pub base: AddrBase,
    /// Bytes.
    pub offset: i32,
}

/// An operand, in textual order: destinations first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A brace list `{a, b, c, d}`: vector accesses, packing `mov`, `mma` fragments.
    List(Vec<Reg>),
    /// An immediate.
    Imm(Imm),
    /// A special register (only `mov`).
    Special(Special),
    /// The address of a shared variable as a value (only `mov`), by index in the entry.
    SharedAddr(u32),
    /// A memory operand.
    Addr(Addr),
    /// A branch target.
    Label(Label),
    /// `d|p` of `shfl.sync`: a register and a predicate.
    Pair(Reg, Reg),
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inst {
    /// `@p` or `@!p`.
    pub guard: Option<Guard>,
    /// Opcode, modifiers and types.
    pub form: Form,
    /// Operands in textual order.
    pub operands: Vec<Operand>,
}

impl Inst {
    /// An unguarded instruction.
    pub fn new(form: Form, operands: Vec<Operand>) -> Inst {
        Inst { guard: None, form, operands }
    }
}
