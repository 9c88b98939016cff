//! The PTX subset that Monomorph emits, as data.
//!
//! One table ([`table`]) lists every instruction: its modifiers, types, operands, meaning and the section of the
//! PTX ISA that defines it. Everything else follows from the rows: the printer writes them, the parser reads them,
//! the verifier holds modules against them, [`sem`] gives pure rows their scalar meaning, and the emulator must
//! handle every [`table::Op`] because the enum is generated from the same rows.
//!
//! ```text
//! Module (data) ── verify ──► Verified<Module> ──► print   (PTX text for the driver, for goldens)
//!    ▲                                        └──► emulator (predecode, run)
//!  parse
//! ```
//!
//! Invariant: nothing here does IO, knows models or devices, or iterates a hash map: equal modules print equal bytes.
#![forbid(unsafe_code)]

pub mod builder;
pub mod cfg;
pub mod form;
pub mod inst;
pub mod module;
pub mod parse;
pub mod print;
pub mod sem;
pub mod table;
pub mod types;
pub mod verify;

pub use builder::EntryBuilder;
pub use form::FormError;
pub use inst::{Addr, AddrBase, Form, Guard, Imm, Inst, Operand, Special};
pub use module::{Entry, Label, Module, Param, Reg, RegBank, SharedDecl, Stmt, Storage, Target};
pub use parse::{ParseError, parse};
pub use print::{print, print_inst};
pub use table::{Effect, Op, Row};
pub use types::{Mod, Mods, Ty, Types};
pub use verify::{Verified, VerifyError, verify};
