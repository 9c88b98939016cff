//! What every operation offers: its kernel, its cost, and trials that show whether it computes what it says.

use super::gemm::Tile;
use super::rows::Rows;
use crate::dsl::{BuildError, Kernel};
use crate::tuned::Key;
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
    /// These bytes first; the rest as before the launch.
    First(Vec<u8>),
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
    /// Blocks of q8_0; all other bytes unchanged.
    Q8(Vec<Q8Block>),
}

/// A block of 32 i8 quants with an f16 scale: the scale within the bound of the largest value, the quants as in
/// [`Expect::Quants`].
#[derive(Clone, Debug)]
pub struct Q8Block {
    /// Where the quants begin, bytes.
    pub quants: usize,
    /// Where the scale lies, bytes.
    pub scale: usize,
    /// Values with their bounds.
    pub values: Vec<(f64, f64)>,
}

/// One argument of a trial.
#[derive(Clone, Debug)]
pub struct TrialArg {
    /// Contents before the launch; outputs start as a pattern that no result has.
    pub before: Vec<u8>,
    /// What must hold afterwards.
    pub expect: Expect,
    /// Addresses of other arguments that it holds.
    pub links: Vec<Link>,
}

/// An address that lies in an argument: eight bytes at `at`, zero in [`TrialArg::before`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it lies, bytes.
    pub at: usize,
    /// Which argument begins there.
    pub arg: usize,
}

impl TrialArg {
    /// What to write before the launch, when argument `i` lies at `addresses[i]`.
    pub fn linked(&self, addresses: &[u64]) -> Vec<u8> {
        self.with_links(&self.before, |link| addresses.get(link.arg).copied().unwrap_or(0))
    }

    /// What the argument holds, without the addresses, which differ from device to device.
    pub fn unlinked(&self, after: &[u8]) -> Vec<u8> {
        self.with_links(after, |_| 0)
    }

    fn with_links(&self, bytes: &[u8], address: impl Fn(&Link) -> u64) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for link in &self.links {
            if let Some(place) = out.get_mut(link.at..link.at + 8) {
                place.copy_from_slice(&address(link).to_le_bytes());
            }
        }
        out
    }
}

/// Arguments and expectations for one launch, in the order of the kernel's parameters.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The arguments, then buffers that are reached only through links.
    pub args: Vec<TrialArg>,
    /// How many of `args` are no parameters.
    pub n_linked: usize,
    /// The seed that replays it.
    pub seed: u64,
}

impl Trial {
    /// No arguments yet.
    pub fn new(seed: u64) -> Trial {
        Trial { args: Vec::new(), n_linked: 0, seed }
    }

    /// Adds an input.
    #[must_use]
    pub fn input(mut self, before: Vec<u8>) -> Trial {
        self.args.push(TrialArg { before, expect: Expect::Unchanged, links: vec![] });
        self
    }

    /// Adds an output that starts as a poison pattern.
    #[must_use]
    pub fn output(mut self, bytes: u64, expect: Expect) -> Trial {
        self.args.push(TrialArg { before: vec![0xcd; bytes as usize], expect, links: vec![] });
        self
    }

    /// Adds an argument that is read and written.
    #[must_use]
    pub fn in_out(mut self, before: Vec<u8>, expect: Expect) -> Trial {
        self.args.push(TrialArg { before, expect, links: vec![] });
        self
    }

    /// Adds the parameter `kv`: the addresses of K and V of `n` sequences, which are the arguments that follow after
    /// `between` more parameters. They stand where the model's first layer has them.
    #[must_use]
    pub fn caches(self, rows: Rows, n: usize, between: usize) -> Trial {
        let first = self.args.len() + 1 + between;
        let stride = (rows.seq_stride as usize).max(2);
        let links = (0..2 * n).map(|i| Link { at: 8 * (i / 2 * stride + i % 2), arg: first + i }).collect();
        let mut trial = self;
        let before = vec![0; 8 * stride * n];
        trial.args.push(TrialArg { before, expect: Expect::Unchanged, links });
        trial
    }

    /// Adds a buffer that is no parameter.
    #[must_use]
    pub fn linked(mut self, before: Vec<u8>, expect: Expect) -> Trial {
        self.args.push(TrialArg { before, expect, links: vec![] });
        self.n_linked += 1;
        self
    }

    /// Parameters of the kernel.
    pub fn n_params(&self) -> usize {
        self.args.len() - self.n_linked
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

    /// The layouts that a search on a device may try, if there is a choice.
    fn choices(&self) -> Option<Choices> {
        None
    }
}

/// One operation in all layouts that give the same bits.
#[derive(Debug)]
pub struct Choices {
    /// What a layout is chosen for.
    pub key: Key,
    /// The layout that it has now; `None` for the lanes' walk.
    pub now: Option<Tile>,
    /// Others, or the same again.
    pub tiles: Vec<(Tile, Box<dyn Operation + Send + Sync>)>,
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
