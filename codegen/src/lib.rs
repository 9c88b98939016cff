//! From a model spec to verified PTX: the kernel DSL, its IR, the passes and the lowering.
//!
//! ```text
//! #[kernel] fn ── dsl ──► ir::Function ── pass ──► ir::Function ── lower ──► ptx::Module
//! ```
#![forbid(unsafe_code)]

// The macros write `::monomorph_codegen::dsl`, in this crate as in its tests and dependents.
extern crate self as monomorph_codegen;

pub mod dsl;
pub mod ir;
pub mod lower;
pub mod pass;
