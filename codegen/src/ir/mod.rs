//! The form of a kernel between the DSL and PTX: typed single-assignment values in structured regions.
//!
//! There is no second instruction list: an instruction is a [`ptx::Form`] of the one table, its operands and results
//! follow from the row's signature. Control flow is a tree: a [`Block`] holds instructions, [`If`]s and [`Loop`]s, so
//! dominance is scoping and passes are walks. Values that change in a branch or around a loop are phis there.
//!
//! Invariant: every value is defined once, before its uses, in the block of the use or one around it ([`check`]).

mod check;
mod dump;
pub mod waits;

pub use check::{Defect, check};
pub use dump::dump;

use ptx::{Form, Imm, SharedDecl, Special, Ty};

/// A value: index into [`Function::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// What is known of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// The type of the register that holds it ([`Ty::register`]).
    pub ty: Ty,
    /// The variable it is named after.
    pub name: Option<String>,
    /// An upper bound as an unsigned integer; `u64::MAX` when nothing is known. Address folding goes by it.
    pub max: u64,
}

/// A value or a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// A value.
    Value(ValueId),
    /// A constant, by its bits.
    Imm(Imm),
}

/// What an address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemBase {
    /// A 64-bit value (global) or a 32-bit one (shared).
    Value(ValueId),
    /// A kernel parameter.
    Param(u32),
    /// A shared variable.
    Shared(u32),
}

/// A source operand of an instruction, in textual order of the row's non-destinations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arg {
    /// A value or constant.
    One(Operand),
    /// A brace list.
    List(Vec<Operand>),
    /// `[base + offset]`, offset in bytes.
    Mem(MemBase, i32),
    /// A special register.
    Special(Special),
    /// The address of a shared variable.
    SharedAddr(u32),
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inst {
    /// Opcode, modifiers and types.
    pub form: Form,
    /// Values defined, in textual order.
    pub results: Vec<ValueId>,
    /// Source operands in textual order.
    pub args: Vec<Arg>,
}

/// A value that depends on which arm ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The value after the branch.
    pub result: ValueId,
    /// Its value where the condition holds.
    pub then: Operand,
    /// Its value where it does not.
    pub otherwise: Operand,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct If {
    /// A predicate.
    pub cond: Operand,
    /// Runs where the condition holds.
    pub then: Block,
    /// Runs where it does not.
    pub otherwise: Block,
    /// Values that flow out.
    pub merges: Vec<Merge>,
}

/// A value that changes around a loop. It is visible in the loop and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The value in an iteration, and after the loop its last value.
    pub param: ValueId,
    /// Its value in the first iteration.
    pub init: Operand,
    /// Its value in the next iteration.
    pub next: Operand,
}

/// `loop { head; if !cond { break } body; carried = next }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Values that change around the loop.
    pub carried: Vec<Carried>,
    /// Computes the condition, in every iteration and once more at the end.
    pub head: Block,
    /// Whether the body runs (again).
    pub cond: Operand,
    /// The body.
    pub body: Block,
    /// Whether the condition is known to hold at first.
    pub enters: Entering,
}

/// What is known of a loop's first test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entering {
    /// The body runs at least once.
    Always,
    /// Only the run tells.
    Unknown,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stmt {
    /// An instruction.
    Inst(Inst),
    /// A branch.
    If(If),
    /// A loop.
    Loop(Loop),
    /// A comment that goes into the PTX text.
    Note(String),
}

/// Statements in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The statements.
    pub stmts: Vec<Stmt>,
}

/// The body of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Function {
    /// Names of the pointer parameters, in order.
    pub params: Vec<String>,
    /// Shared variables.
    pub shared: Vec<SharedDecl>,
    /// All values.
    pub values: Vec<ValueInfo>,
    /// The statements.
    pub body: Block,
}

impl Function {
    /// Adds a value.
    pub fn value(&mut self, ty: Ty, name: Option<String>, max: u64) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(ValueInfo { ty: ty.register(), name, max });
        id
    }

    /// Shared memory of all variables, one behind the other.
    pub fn shared_bytes(&self) -> u64 {
        let end = |end: u64, s: &SharedDecl| end.next_multiple_of(u64::from(s.align)) + u64::from(s.bytes);
        self.shared.iter().fold(0, end)
    }

    /// What is known of a value.
    pub fn info(&self, id: ValueId) -> &ValueInfo {
        // Invariant: ids are made only by `value`.
        &self.values[id.0 as usize]
    }

    /// An upper bound of an operand as an unsigned integer.
    pub fn max_of(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Imm(imm) => imm.0,
            Operand::Value(id) => self.info(id).max,
        }
    }
}

impl Operand {
    /// The value, unless a constant.
    pub fn value(self) -> Option<ValueId> {
        match self {
            Operand::Value(id) => Some(id),
            Operand::Imm(_) => None,
        }
    }

    /// The constant's bits, unless a value.
    pub fn imm(self) -> Option<u64> {
        match self {
            Operand::Imm(imm) => Some(imm.0),
            Operand::Value(_) => None,
        }
    }
}

impl Arg {
    /// The operand, if the argument is a single one.
    pub fn one(&self) -> Option<Operand> {
        match self {
            Arg::One(operand) => Some(*operand),
            _ => None,
        }
    }
}

impl From<Operand> for Arg {
    fn from(operand: Operand) -> Arg {
        Arg::One(operand)
    }
}

impl Inst {
    /// Calls `f` with every value read.
    pub fn each_use(&self, f: &mut dyn FnMut(ValueId)) {
        for arg in &self.args {
            match arg {
                Arg::One(Operand::Value(id)) | Arg::Mem(MemBase::Value(id), _) => f(*id),
                Arg::List(list) => list.iter().filter_map(|o| o.value()).for_each(&mut *f),
                _ => {}
            }
        }
    }

    /// The constant or value arguments when all arguments are single operands.
    pub fn operands(&self) -> Option<Vec<Operand>> {
        self.args.iter().map(Arg::one).collect()
    }

    /// The only result, if there is exactly one.
    pub fn result(&self) -> Option<ValueId> {
        match self.results.as_slice() {
            [id] => Some(*id),
            _ => None,
        }
    }

    /// Whether equal operands give equal results and nothing else happens: may be shared, moved and dropped.
    pub fn is_pure(&self) -> bool {
        let clock = self.args.contains(&Arg::Special(Special::Clock));
        self.form.row().effect == ptx::Effect::Pure && !clock
    }

    /// Whether it may be dropped when its results are not used: pure, or a load that orders nothing.
    pub fn is_droppable(&self) -> bool {
        use ptx::Mod::{Acquire, Relaxed, Volatile};
        let ordered = [Acquire, Relaxed, Volatile].iter().any(|m| self.form.mods.has(*m));
        let load = self.form.op == ptx::Op::Ld && !ordered;
        load || self.form.row().effect == ptx::Effect::Pure
    }
}
