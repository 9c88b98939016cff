//! From a model spec to verified PTX and a module table.
//!
//! ```text
//! ModelSpec ─► plan::build ─► kernels (DSL) ─► ir ─► pass ─► lower ─► Verified<ptx::Module> ─► emit: PTX, table, lock
//! ```
//!
//! Everything is a pure function of the spec, the device and this crate's sources: equal inputs give equal bytes.
//! Nothing here reads or writes files, knows devices at run time, or depends on the environment.
#![forbid(unsafe_code)]

// The macros write `::monomorph_codegen::dsl`, in this crate as in its tests and dependents.
extern crate self as monomorph_codegen;

pub mod dsl;
pub mod emit;
mod hash;
pub mod ir;
pub mod kernels;
pub mod layout;
pub mod lower;
pub mod pass;
pub mod plan;
pub mod rng;
pub mod spec;
pub mod tuned;

pub use hash::fnv1a64;
pub use spec::{Device, ModelSpec, SpecError};

/// 16 hexadecimal digits over the sources of this crate and of those that it makes kernels with: two builds of equal
/// fingerprints make equal kernels of equal specs.
pub const FINGERPRINT: &str = env!("MONOMORPH_GENERATOR");

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodegenError {
    /// The spec is refused.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A kernel does not build.
    #[error(transparent)]
    Build(#[from] dsl::BuildError),
    /// A kernel does not lower: a defect of codegen.
    #[error(transparent)]
    Lower(#[from] lower::LowerError),
    /// A lowered kernel does not verify: a defect of codegen.
    #[error("kernel {kernel} does not verify: {reason}")]
    Verify {
        /// Symbol.
        kernel: String,
        /// What the verifier says.
        reason: String,
    },
    /// A launch does not fit its kernel: a defect of the plan.
    #[error("plan: launch of {kernel}: {reason}")]
    Plan {
        /// DSL name.
        kernel: String,
        /// What does not fit.
        reason: String,
    },
    /// A file of winners is broken.
    #[error(transparent)]
    Tuned(#[from] tuned::TunedError),
    /// A winner cannot be had: the file is of another version, or was edited.
    #[error("winner for {key}: {tile} does not fit the product")]
    Winner {
        /// What it is for.
        key: String,
        /// The tile.
        tile: String,
    },
    /// A template does not render.
    #[error("template {template}: {reason}")]
    Template {
        /// File name.
        template: String,
        /// What tera says.
        reason: String,
    },
}
