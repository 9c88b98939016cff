//! What building a kernel gives: its launch shape, its parameters and its body; and what can go wrong.

use crate::ir;
use thiserror::Error;

/// How a kernel uses the memory behind a pointer parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `Fixed<T>` and `In<T>`: only read, and not written by anyone from the wait for earlier launches to the kernel's end.
    Read,
    /// `Settled<T>`: as `Fixed<T>`, and not written by an earlier launch of the step.
    Settled,
    /// `Out<T>`: only written.
    Write,
    /// `InOut<T>`: read and written.
    ReadWrite,
}

/// A pointer parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// The Rust parameter's name.
    pub name: String,
    /// Element type in memory.
    pub elem: ptx::Ty,
    /// How it is used.
    pub access: Access,
}

/// A built kernel, before passes and lowering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The function's name.
    pub name: String,
    /// Its `///` lines.
    pub doc: Vec<String>,
    /// Pointer parameters in order; each is one 64-bit kernel parameter.
    pub params: Vec<ParamInfo>,
    /// CTAs in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a CTA in x, y, z.
    pub block: [u32; 3],
    /// `.minnctapersm`, if asked for.
    pub min_ctas: Option<u32>,
    /// Shared memory, in bytes: static up to 48 KiB, beyond that all of it dynamic.
    pub shared_bytes: u32,
    /// Whether the CTAs wait for one another: a launch must have all of them resident at once.
    pub cooperative: bool,
    /// The body.
    pub ir: ir::Function,
}

impl Kernel {
    /// Shared memory that each launch has to give, bytes.
    #[must_use]
    pub const fn dynamic_shared_bytes(&self) -> u32 {
        ::plan::dynamic_shared_bytes(self.shared_bytes)
    }
}

/// Why a kernel could not be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("kernel `{kernel}`: {what}")]
pub struct BuildError {
    /// The kernel's name.
    pub kernel: String,
    /// What is wrong.
    pub what: BuildFault,
}

/// What is wrong with a kernel under construction.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BuildFault {
    /// Kernels are built one at a time on a thread.
    #[error("built while kernel `{other}` is being built on this thread")]
    Nested {
        /// The other kernel.
        other: String,
    },
    /// The launch shape is empty or too large.
    #[error(
        "{what} is {found:?}; every dimension must be at least 1, and a block has at most {limit} threads"
    )]
    Launch {
        /// `grid` or `block`.
        what: &'static str,
        /// As given.
        found: [u32; 3],
        /// Threads of a block.
        limit: u32,
    },
    /// Too much shared memory.
    #[error("shared memory is {found} bytes, the limit is {limit}")]
    Shared {
        /// Bytes asked for.
        found: u64,
        /// Bytes there are.
        limit: u64,
    },
    /// A Rust jump left a recorded branch or loop.
    #[error("`{construct}` over device values was left by break, continue, return or a panic at build time")]
    Left {
        /// `if`, `for` or `while`.
        construct: &'static str,
    },
    /// The recorded body breaks a rule of the IR.
    #[error(transparent)]
    Ir(#[from] ir::Defect),
    /// The kernel itself refuses its parameters.
    #[error("{0}")]
    Refused(String),
}
