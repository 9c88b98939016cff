//! What a bad kernel looks like from outside: a [`Trap`] that names the place, the thread and both numbers.

use std::fmt;

/// A state space, as traps name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceName {
    /// Device memory.
    Global,
    /// Shared memory of the CTA.
    Shared,
}

impl fmt::Display for SpaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpaceName::Global => "global",
            SpaceName::Shared => "shared",
        })
    }
}

/// A place where CTAs wait for others: a load that finds the same value again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Index of the load in the entry's body.
    pub pc: u32,
    /// Its text.
    pub statement: String,
    /// CTAs that wait there, for this address.
    pub ctas: u64,
    /// The first of them.
    pub first: [u32; 3],
    /// The warp of the first that waits.
    pub warp: u32,
    /// The address it reads.
    pub addr: u64,
    /// The value it finds.
    pub value: u64,
}

impl Waiting {
    /// One line for all places, for the trap.
    fn list(places: &[Waiting]) -> String {
        places.iter().map(|place| format!(" {place};")).collect()
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { pc, statement, ctas, first, warp, addr, value } = self;
        write!(
            f,
            "{ctas} at statement {pc} `{statement}`, the first cta {first:?} warp {warp}, finding {value} at {addr:#x}"
        )
    }
}

/// Why a launch was stopped. Addresses and sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrapKind {
    /// An access that leaves its allocation (or shared variable).
    #[error("out of bounds: {bytes} bytes at {space} address {addr:#x}, offset {offset} of {limit} bytes")]
    OutOfBounds {
        /// Space of the access.
        space: SpaceName,
        /// Address.
        addr: u64,
        /// Size of the access.
        bytes: u32,
        /// Offset from the start of the allocation.
        offset: u64,
        /// Size of the allocation.
        limit: u64,
    },
    /// An address that belongs to no live allocation: null, freed or made up.
    #[error("no allocation: {bytes} bytes at global address {addr:#x}")]
    NoAllocation {
        /// Address.
        addr: u64,
        /// Size of the access.
        bytes: u32,
    },
    /// An address that is not a multiple of the size of the access.
    #[error("misaligned: {space} address {addr:#x} is no multiple of {align}")]
    Misaligned {
        /// Space of the access.
        space: SpaceName,
        /// Address.
        addr: u64,
        /// Size of the whole access, vectors included.
        align: u32,
    },
    /// A read of bytes that nobody wrote.
    #[error("uninitialised: read of {bytes} bytes at {space} address {addr:#x}")]
    Uninitialised {
        /// Space of the access.
        space: SpaceName,
        /// Address.
        addr: u64,
        /// Size of the access.
        bytes: u32,
    },
    /// Two threads touched a byte with no barrier between, and at least one wrote.
    #[error(
        "race: {access} of {space} address {addr:#x} conflicts with the {other_access} by thread {other}"
    )]
    Race {
        /// Space of the access.
        space: SpaceName,
        /// Address.
        addr: u64,
        /// `"read"`, `"write"`, `"atomic"` or `"asynchronous copy"`.
        access: &'static str,
        /// The earlier access.
        other_access: &'static str,
        /// Linear index in its CTA of the thread of the earlier access.
        other: u32,
    },
    /// `bar.sync` executed by some lanes of a warp while others, still alive, are elsewhere.
    #[error(
        "barrier divergence: bar.sync {barrier} reached by lanes {arrived:#010x} of live lanes {live:#010x}"
    )]
    BarrierDivergence {
        /// Barrier number.
        barrier: u32,
        /// Lanes that execute the barrier.
        arrived: u32,
        /// Lanes that have not exited.
        live: u32,
    },
    /// Every warp waits, but not all at the same barrier.
    #[error(
        "barrier deadlock: warp {warp} waits at barrier {barrier}, warp {other_warp} at barrier {other_barrier}"
    )]
    BarrierDeadlock {
        /// A warp.
        warp: u32,
        /// Its barrier.
        barrier: u32,
        /// Another warp.
        other_warp: u32,
        /// The barrier that one waits at.
        other_barrier: u32,
    },
    /// A warp-wide instruction whose member mask names live lanes that do not execute it.
    #[error("member mask {mask:#010x} names live lanes that are not executing; executing: {active:#010x}")]
    MissingMembers {
        /// The mask operand.
        mask: u32,
        /// Lanes that execute the instruction.
        active: u32,
    },
    /// A lane that executes a warp-wide instruction without being in its own member mask.
    #[error("lane {lane} is not in its own member mask {mask:#010x}")]
    NotAMember {
        /// The lane.
        lane: u32,
        /// Its mask operand.
        mask: u32,
    },
    /// `shfl.sync` from a lane that does not execute it.
    #[error("shuffle reads lane {source_lane}, which is not executing; executing: {active:#010x}")]
    InactiveSource {
        /// The lane read.
        source_lane: u32,
        /// Lanes that execute the instruction.
        active: u32,
    },
    /// An `.aligned` or `.uni` instruction on which the lanes of a warp do not agree.
    #[error("divergence: all {expected:#010x} lanes must agree here, {found:#010x} do")]
    NotUniform {
        /// Lanes that had to take part.
        expected: u32,
        /// Lanes that did.
        found: u32,
    },
    /// No mbarrier was initialised there.
    #[error("no mbarrier was initialised at shared address {addr:#x}")]
    NoMbarrier {
        /// Address.
        addr: u32,
    },
    /// A second `mbarrier.init` of one address.
    #[error("the mbarrier at shared address {addr:#x} was initialised before")]
    MbarrierTwice {
        /// Address.
        addr: u32,
    },
    /// A number of arrivals or of bytes that an mbarrier cannot hold.
    #[error(
        "mbarrier at shared address {addr:#x}: {found} arrivals or bytes in a phase, limit {limit}, at least 1 arrival"
    )]
    MbarrierCount {
        /// Address.
        addr: u32,
        /// Arrivals, or bytes outstanding.
        found: i64,
        /// The limit.
        limit: u32,
    },
    /// An arrival too many: the phase waits only for bytes.
    #[error(
        "mbarrier at shared address {addr:#x}: the phase has had its {count} arrivals and waits for {bytes} bytes"
    )]
    MbarrierOverrun {
        /// Address.
        addr: u32,
        /// Arrivals of a phase.
        count: u32,
        /// Bytes outstanding.
        bytes: i64,
    },
    /// An asynchronous copy may not see the initialisation of its mbarrier.
    #[error(
        "no fence.proxy.async or fence.mbarrier_init between the initialisation of the mbarrier at shared address \
         {addr:#x} and this copy"
    )]
    MbarrierUnfenced {
        /// Address.
        addr: u32,
    },
    /// Every warp waits for a phase of an mbarrier, or at `bar.sync`, and nothing that happens can end that.
    #[error(
        "mbarrier deadlock: warp {warp} waits at shared address {addr:#x} for a phase that nobody completes \
         ({phase} phases are over)"
    )]
    MbarrierDeadlock {
        /// A warp that waits.
        warp: u32,
        /// Address.
        addr: u32,
        /// Phases of the mbarrier that are over.
        phase: u32,
    },
    /// A bulk copy of a size that is no multiple of 16.
    #[error("bulk copy of {bytes} bytes, which is no multiple of 16")]
    CopySize {
        /// Size.
        bytes: u32,
    },
    /// CTAs wait for each other, and nothing that happens can end that.
    #[error(
        "grid deadlock: of {ctas} CTAs {begun} began and {ended} ended, the others wait for what none of them does:{}",
        Waiting::list(.waiting)
    )]
    GridDeadlock {
        /// CTAs of the grid.
        ctas: u64,
        /// CTAs that began.
        begun: u64,
        /// CTAs that ended.
        ended: u64,
        /// Where the others wait.
        waiting: Vec<Waiting>,
    },
    /// The `trap` instruction.
    #[error("the kernel executed trap")]
    Explicit,
    /// The CTA ran longer than any kernel should.
    #[error("step limit: the CTA executed {steps} warp-instructions, limit {limit}")]
    StepLimit {
        /// Steps of the CTA.
        steps: u64,
        /// The limit.
        limit: u64,
    },
}

/// A launch that was stopped. Its effects on memory up to that point remain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Kernel.
    pub entry: String,
    /// Index of the statement in the entry's body.
    pub pc: u32,
    /// Text of the statement.
    pub statement: String,
    /// Block index.
    pub cta: [u32; 3],
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// What happened.
    pub kind: TrapKind,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trap { entry, pc, statement, cta, thread, kind } = self;
        write!(f, "{entry} statement {pc} `{statement}`: cta {cta:?} thread {thread:?}: {kind}")
    }
}

impl std::error::Error for Trap {}

/// A trap before it knows its place: the lane that caused it, and why.
#[derive(Debug)]
pub(crate) struct Fault {
    pub lane: u32,
    pub kind: TrapKind,
}

impl Fault {
    /// Boxed, so that the path without faults carries one word.
    pub fn new(lane: u32, kind: TrapKind) -> Box<Fault> {
        Box::new(Fault { lane, kind })
    }
}
