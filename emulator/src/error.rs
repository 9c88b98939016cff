//! Errors of the caller or of the emulator itself. A kernel that misbehaves is a [`crate::Trap`], not an error.

/// What can go wrong outside a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The host has no memory left for an allocation.
    #[error("cannot allocate {bytes} bytes; {allocated} bytes are allocated")]
    OutOfMemory {
        /// Bytes wanted.
        bytes: u64,
        /// Bytes that live allocations hold.
        allocated: u64,
    },
    /// A host access to memory that is not allocated, or that leaves its allocation.
    #[error(
        "host access to {bytes} bytes at {addr:#x}, which is no live range (allocation of {limit} bytes)"
    )]
    BadRange {
        /// Device address.
        addr: u64,
        /// Bytes.
        bytes: u64,
        /// Size of the allocation that the address names; 0 if there is none.
        limit: u64,
    },
    /// `free` of an address that `alloc` did not return, or twice.
    #[error("free of {addr:#x}, which is not the start of a live allocation")]
    BadFree {
        /// Device address.
        addr: u64,
    },
    /// The program has no such entry.
    #[error("no entry `{entry}` in the program ({entries} entries)")]
    UnknownEntry {
        /// Name or index asked for.
        entry: String,
        /// How many the program has.
        entries: usize,
    },
    /// Wrong number of arguments.
    #[error("entry `{entry}` takes {expected} arguments, got {got}")]
    ArgumentCount {
        /// Kernel.
        entry: String,
        /// Parameters of the entry.
        expected: usize,
        /// Arguments given.
        got: usize,
    },
    /// The block differs from the entry's `.reqntid`.
    #[error("entry `{entry}` requires blocks of {expected:?}, launched with {got:?}")]
    BlockShape {
        /// Kernel.
        entry: String,
        /// `.reqntid`.
        expected: [u32; 3],
        /// Block of the launch.
        got: [u32; 3],
    },
    /// A grid or block with an extent of zero, or one beyond the limits of the hardware.
    #[error("entry `{entry}`: grid {grid:?} of blocks {block:?} cannot be launched")]
    LaunchShape {
        /// Kernel.
        entry: String,
        /// Grid of the launch.
        grid: [u32; 3],
        /// Block of the launch.
        block: [u32; 3],
    },
    /// A cooperative launch of more CTAs than can be resident at once.
    #[error("entry `{entry}`: a cooperative launch of {ctas} CTAs, of which {limit} can be resident at once")]
    CooperativeGrid {
        /// Kernel.
        entry: String,
        /// CTAs of the grid.
        ctas: u64,
        /// The limit.
        limit: u64,
    },
    /// More shared memory than a CTA can have.
    #[error("entry `{entry}`: {bytes} bytes of shared memory, limit {limit}")]
    SharedSize {
        /// Kernel.
        entry: String,
        /// Static and dynamic bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A verified statement that the decoder cannot represent: a gap of the emulator.
    #[error("entry `{entry}`, statement {statement}: `{text}`: {why}")]
    Unsupported {
        /// Kernel.
        entry: String,
        /// Index of the statement in the body.
        statement: usize,
        /// The statement.
        text: String,
        /// What is missing.
        why: &'static str,
    },
    /// A worker died: a bug of the emulator.
    #[error("entry `{entry}`: {lost} of {total} CTAs were lost to a failed worker")]
    WorkerLost {
        /// Kernel.
        entry: String,
        /// CTAs not accounted for.
        lost: u64,
        /// CTAs of the launch.
        total: u64,
    },
}
