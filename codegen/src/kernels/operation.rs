//! What every operation offers: its kernel, its cost, and trials that show whether it computes what it says.

use crate::dsl::{BuildError, Kernel};
use std::fmt::Debug;

/// Bytes and multiply-adds of a launch, the least that any implementation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cost {
    /// Each input read once, each output written once.
    pub bytes: u64,
    /// Multiply-adds (or comparable steps for operations that have none).
    pub macs: u64,
}

/// What an argument must hold after a trial.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Inputs: unchanged, byte for byte.
    Unchanged,
    /// These bytes exactly.
    Exact(Vec<u8>),
    /// f32 values within a bound of each reference value.
    Near(Vec<(f64, f64)>),
    /// f16 values (place, value, bound) within a bound and one rounding to f16; all other bytes unchanged.
    NearF16(Vec<(usize, f64, f64)>),
    /// f32 values (place, value, bound) within a bound; all other bytes unchanged.
    NearF32(Vec<(usize, f64, f64)>),
    /// Quants of activation blocks: for each element the value and its bound. A quant may differ by one from the nearest
    /// step where the bound reaches across the edge between two steps. Elements beyond those given stay unchanged.
    Quants(Vec<(f64, f64)>),
    /// Scales and sums of activation blocks of the same values: a scale within the bound of the block's largest value;
    /// sums must be those of the quants, which are the argument before this one. Blocks beyond stay unchanged.
    Meta(Vec<(f64, f64)>),
}

/// One argument of a trial.
#[derive(Clone, Debug)]
pub struct TrialArg {
    /// Contents before the launch; outputs start as a pattern that no result has.
    pub before: Vec<u8>,
    /// What must hold afterwards.
    pub expect: Expect,
}

/// Arguments and expectations for one launch, in the order of the kernel's parameters.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The arguments.
    pub args: Vec<TrialArg>,
    /// The seed that replays it.
    pub seed: u64,
}

impl Trial {
    /// No arguments yet.
    pub fn new(seed: u64) -> Trial {
        Trial { args: Vec::new(), seed }
    }

    /// Adds an input.
    #[must_use]
    pub fn input(mut self, before: Vec<u8>) -> Trial {
        self.args.push(TrialArg { before, expect: Expect::Unchanged });
        self
    }

    /// Adds an output that starts as a poison pattern.
    #[must_use]
    pub fn output(mut self, bytes: u64, expect: Expect) -> Trial {
        self.args.push(TrialArg { before: vec![0xcd; bytes as usize], expect });
        self
    }

    /// Adds an argument that is read and written.
    #[must_use]
    pub fn in_out(mut self, before: Vec<u8>, expect: Expect) -> Trial {
        self.args.push(TrialArg { before, expect });
        self
    }
}

/// One kernel of a plan: a DSL function with its build-time constants chosen.
pub trait Operation: Debug {
    /// Name of the DSL function.
    fn name(&self) -> &'static str;

    /// Every baked constant, readable; with the name it identifies the kernel.
    fn constants(&self) -> String;

    /// The kernel.
    ///
    /// # Errors
    /// [`BuildError`] when the constants do not fit the kernel.
    fn build(&self) -> Result<Kernel, BuildError>;

    /// What a launch costs at least.
    fn cost(&self) -> Cost;

    /// Random inputs and what must come out, by a plain-Rust reference in f64.
    fn trial(&self, seed: u64) -> Trial;
}

/// A kernel's name with its weight type: `gemv_q4k`, `gemv_q8_0_residual`.
macro_rules! name_by_type {
    ($operation:literal, $qtype:expr) => {
        name_by_type!($operation, $qtype, "")
    };
    ($operation:literal, $qtype:expr, $variant:literal) => {
        match $qtype {
            ::plan::QType::F32 => concat!($operation, "f32", $variant),
            ::plan::QType::F16 => concat!($operation, "f16", $variant),
            ::plan::QType::Bf16 => concat!($operation, "bf16", $variant),
            ::plan::QType::Q4_0 => concat!($operation, "q4_0", $variant),
            ::plan::QType::Q4_1 => concat!($operation, "q4_1", $variant),
            ::plan::QType::Q5_0 => concat!($operation, "q5_0", $variant),
            ::plan::QType::Q5_1 => concat!($operation, "q5_1", $variant),
            ::plan::QType::Q8_0 => concat!($operation, "q8_0", $variant),
            ::plan::QType::Q4K => concat!($operation, "q4k", $variant),
            ::plan::QType::Q5K => concat!($operation, "q5k", $variant),
            ::plan::QType::Q6K => concat!($operation, "q6k", $variant),
        }
    };
}
pub(super) use name_by_type;
