//! What can be wrong with a module. Each fault names both things that disagree.

use thiserror::Error;

use crate::form::FormError;
use crate::types::Ty;

/// A rule broken, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// In the module's own lines.
    #[error("module: {fault}")]
    Module {
        /// The rule.
        fault: Box<Fault>,
    },
    /// In an entry's declarations.
    #[error("entry `{entry}`: {fault}")]
    Entry {
        /// Symbol of the entry.
        entry: String,
        /// The rule.
        fault: Box<Fault>,
    },
    /// In a statement.
    #[error("entry `{entry}`: `{statement}`: {fault}")]
    Statement {
        /// Symbol of the entry.
        entry: String,
        /// Text of the statement.
        statement: String,
        /// The rule.
        fault: Box<Fault>,
    },
}

/// A rule broken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the fields are what the messages print
pub enum Fault {
    #[error(transparent)]
    Form(#[from] FormError),
    #[error("needs sm_{needed}, the module's target is {target}")]
    Target { needed: u32, target: String },
    #[error("there is no target {target}")]
    UnknownTarget { target: String },
    #[error("`.version {found}` is not that of modules for {target}, {expected}")]
    Version { found: String, expected: String, target: String },
    #[error("takes {expected} operands, found {found}")]
    OperandCount { expected: usize, found: usize },
    #[error("operand {position} must be {expected}, found {found}")]
    OperandKind { position: usize, expected: String, found: String },
    #[error("operand {position}: {reg} is a .{found} register, the instruction needs {expected}")]
    RegisterType { position: usize, reg: String, found: Ty, expected: String },
    #[error("register {reg} is outside its bank of {count}")]
    RegisterRange { reg: String, count: u32 },
    #[error("bank {bank} does not exist, the entry has {count}")]
    BankRange { bank: u32, count: usize },
    #[error("guard {reg} is a .{found} register, not .pred")]
    Guard { reg: String, found: Ty },
    #[error("immediate {bits:#x} does not fit .{ty}")]
    ImmediateRange { bits: u64, ty: Ty },
    #[error("barrier {found} is not below 16")]
    Barrier { found: u64 },
    #[error("a bulk copy of {found} bytes; its size is a multiple of 16")]
    CopySize { found: u64 },
    #[error("truth table {found:#x} does not fit 8 bits")]
    TruthTable { found: u64 },
    #[error("operand {position} has {found} registers, the instruction needs {expected}")]
    ListLength { position: usize, expected: usize, found: usize },
    #[error("register {reg} is written twice")]
    WrittenTwice { reg: String },
    #[error("the list has {found} bits, .{ty} has {expected}")]
    PackedWidth { ty: Ty, expected: u32, found: u32 },
    #[error("offset {offset} is not a multiple of the access size {bytes}")]
    Misaligned { offset: i64, bytes: u32 },
    #[error("`{name}` is aligned to {align} bytes, the access needs {bytes}")]
    UnderAligned { name: String, align: u32, bytes: u32 },
    #[error("bytes {start}..{end} are outside `{name}` of {size} bytes")]
    OutOfVariable { name: String, start: i64, end: i64, size: u32 },
    #[error("`{name}` is of state space {found}, the access is to {expected}")]
    Space { name: String, found: &'static str, expected: &'static str },
    #[error("{kind} {index} does not exist, the entry has {count}")]
    Dangling { kind: &'static str, index: u32, count: usize },
    #[error("{kind} name `{name}` is not {rule}")]
    Name { kind: &'static str, name: String, rule: &'static str },
    #[error("{kind} name `{name}` stands for {first} and {second}")]
    Duplicate { kind: &'static str, name: String, first: String, second: String },
    #[error("comment `{text}` has a line break, trailing or leading space, which the text form cannot keep")]
    Comment { text: String },
    #[error("registers cannot be declared as .{found}; bank `{name}`")]
    BankType { name: String, found: Ty },
    #[error("{kind} `{name}` has size 0, at least 1 is needed")]
    Empty { kind: &'static str, name: String },
    #[error("parameter `{name}`: .{found} is not a parameter type")]
    ParamType { name: String, found: Ty },
    #[error(".reqntid {x}, {y}, {z} has {threads} threads, a CTA has 1 to 1024")]
    Threads { x: u32, y: u32, z: u32, threads: u64 },
    #[error(".minnctapersm {found} is outside 1 to 32")]
    MinCtas { found: u32 },
    #[error("shared variable `{name}`: alignment {align} is not a power of two up to 128")]
    Alignment { name: String, align: u32 },
    #[error("static shared memory is {found} bytes, the limit is {limit}")]
    SharedSize { found: u64, limit: u64 },
    #[error(
        "dynamic shared variable `{name}`: there is one, the last, and its size is 0 here, found {bytes}"
    )]
    Dynamic { name: String, bytes: u32 },
    #[error("label `{name}` is defined {found} times, branch targets are defined once")]
    LabelDefinitions { name: String, found: usize },
    #[error("control runs past this to the end of the body; a path must end in ret, trap or bra")]
    OpenEnd,
    #[error("the body is empty, a path must end in ret, trap or bra")]
    EmptyBody,
    #[error("register {reg} is read here, but the path through {path} leaves it unwritten")]
    Unassigned { reg: String, path: String },
}
