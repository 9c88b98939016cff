//! What codegen hands to the runtime: the plan as data.
//!
//! Codegen turns a model spec into a [`Table`]: the kernels, the weights with their packed sizes, the buffers with
//! their places in one arena, and the ordered launches over them, for each number of rows that a step may have. The generated `table.rs` is such a value as a
//! constant; a specialiser at load makes the same value in memory. The runtime resolves every [`Arg`] to an address
//! once, at load; a step is then a walk over [`Step::launches`].
//!
//! This crate holds data, facts about block layouts, and the algorithms that both sides must agree on ([`sampling`],
//! [`quantize_row`]): no IO, no dependency, so that the runtime does not need codegen and codegen does not know the
//! runtime.
#![forbid(unsafe_code)]

mod act_type;
mod activations;
mod kv;
mod qtype;
mod role;
pub mod sampling;
mod variant;

pub use act_type::ActType;
pub use activations::{ACT_BLOCK, ActBlocks, quantize_block, quantize_row};
pub use kv::KvType;
pub use qtype::QType;
pub use role::Role;
pub use variant::{Activation, Ffn, Sliding, Variant};

use std::borrow::Cow;

/// A list that is a constant in a generated table and owned in one made at load.
pub type List<T> = Cow<'static, [T]>;

/// A text, likewise.
pub type Text = Cow<'static, str>;

/// How positions rotate the pairs of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// Pairs are `(2i, 2i + 1)`: llama.
    Norm,
    /// Pairs are `(i, i + head_dim / 2)`: qwen2 and most others.
    Neox,
}

/// The hyperparameters a file must have to be run by a table; all of them are baked into the kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Dims {
    /// GGUF `general.architecture`.
    pub architecture: Text,
    /// Entries of the vocabulary, V.
    pub vocab_size: u32,
    /// Width of the residual stream, H.
    pub dim: u32,
    /// Width of the FFN, I.
    pub hidden_dim: u32,
    /// Transformer layers.
    pub n_layers: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// The longest context that the model was trained for, in tokens.
    pub context: u32,
    /// Epsilon of RMSNorm.
    pub norm_eps: f32,
    /// Which pairs RoPE rotates.
    pub rope_kind: RopeKind,
    /// Base of the RoPE frequencies.
    pub rope_base: f32,
    /// Whether Q, K and V have biases.
    pub qkv_bias: bool,
    /// Whether the head is the embedding matrix (no `output.weight` in the file).
    pub tied_head: bool,
    /// Element type of the K and V caches: a choice, not a property of the model.
    pub kv_type: KvType,
    /// Element type of the activations: a choice, not a property of the model.
    pub activations: ActType,
    /// What the layers do beyond llama's.
    pub variant: Variant,
}

impl Dims {
    /// Rows of the Q matrix: `n_heads * head_dim`.
    pub const fn q_dim(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    /// Rows of the K and V matrices: `n_kv_heads * head_dim`.
    pub const fn kv_dim(&self) -> u32 {
        self.n_kv_heads * self.head_dim
    }

    /// Query heads that share one key and value head.
    pub const fn group(&self) -> u32 {
        self.n_heads / self.n_kv_heads
    }

    /// How many positions a layer sees, the newest included; `None`: all.
    pub fn window(&self, layer: u32) -> Option<u32> {
        self.variant.sliding.filter(|sliding| sliding.is_local(layer)).map(|sliding| sliding.window)
    }

    /// The buffer with the rotations of a layer.
    pub fn rope_slot(&self, layer: u32) -> Slot {
        if self.window(layer).is_some() { Slot::RopeTableLocal } else { Slot::RopeTable }
    }

    /// What queries are multiplied by: one over the square root of the head's size, or of what the model says instead.
    pub fn score_scale(&self) -> f32 {
        let dim = if self.variant.score_dim == 0 { self.head_dim } else { self.variant.score_dim };
        (1.0 / f64::from(dim).sqrt()) as f32
    }
}

/// How a kernel uses a pointer parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read; nothing writes it while the kernel runs.
    Read,
    /// Only read, perhaps while launches before it in the step still run: none of them writes it.
    Settled,
    /// Only written.
    Write,
    /// Read and written.
    ReadWrite,
}

impl Access {
    /// Whether the kernel writes there.
    pub const fn writes(self) -> bool {
        matches!(self, Access::Write | Access::ReadWrite)
    }
}

/// A parameter of a kernel: always a device pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamDesc {
    /// Name in the PTX.
    pub name: Text,
    /// Element type as in PTX: `u32`, `f32`, `s8`, `f16` …
    pub elem: Text,
    /// How it is used.
    pub access: Access,
}

/// Shared memory that PTX may declare for a CTA, bytes.
pub const MAX_STATIC_SHARED_BYTES: u32 = 48 * 1024;

/// Shared memory that a launch has to give each CTA of a kernel that has `shared_bytes`: none where its PTX declares it, all
/// where that may not.
#[must_use]
pub const fn dynamic_shared_bytes(shared_bytes: u32) -> u32 {
    if shared_bytes > MAX_STATIC_SHARED_BYTES { shared_bytes } else { 0 }
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelDesc {
    /// Symbol in the PTX: name, then the hash of every baked constant.
    pub entry: Text,
    /// Name of the DSL function.
    pub name: Text,
    /// The baked constants, readable.
    pub constants: Text,
    /// The PTX module text; it has this one entry.
    pub ptx: Text,
    /// CTAs in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Shared memory of a CTA, bytes: what the PTX declares, or, beyond [`MAX_STATIC_SHARED_BYTES`], all of it given by the
    /// launch.
    pub shared_bytes: u32,
    /// Whether all its CTAs wait for one another, so that a launch must have all of them resident at once. CTAs that wait for some
    /// others are told how many may ([`WAITING_CTAS`]).
    pub cooperative: bool,
    /// Pointer parameters in order.
    pub params: List<ParamDesc>,
    /// Least bytes of global memory a launch must move (each input read once, each output written once).
    pub bytes: u64,
    /// Multiply-adds of a launch.
    pub macs: u64,
}

impl KernelDesc {
    /// Shared memory that each launch has to give, bytes.
    #[must_use]
    pub const fn dynamic_shared_bytes(&self) -> u32 {
        dynamic_shared_bytes(self.shared_bytes)
    }
}

/// A tensor of the file and its form on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDesc {
    /// What the tensor is for.
    pub role: Role,
    /// Which layer, for roles that have one.
    pub layer: Option<u32>,
    /// Element type in the file.
    pub qtype: QType,
    /// Output features (1 for vectors).
    pub rows: u32,
    /// Input features: contiguous elements of a row in the file.
    pub cols: u32,
    /// Size on the device, bytes.
    pub packed_bytes: u64,
    /// Kernel that turns the file's bytes into the packed form, `(raw, packed)`; `None`: the bytes as they are.
    pub repack: Option<u32>,
}

impl WeightDesc {
    /// Size in the file, bytes.
    pub const fn raw_bytes(&self) -> u64 {
        self.rows as u64 * self.qtype.row_bytes(self.cols)
    }

    /// Name in the file.
    pub fn name(&self) -> String {
        self.role.tensor_name(self.layer)
    }
}

/// What a buffer holds, for readers, debuggers and the code that feeds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// u32 words: `[active rows, CTAs that may wait at once, 0, 0]`, then `[token, position, sequence, 0]` for each row. The host sets it before
    /// a step; the launch that chooses tokens moves its rows on, so that further steps need no host.
    Control,
    /// u64 `[sequence][layer][2]`: the addresses of a sequence's K and V caches.
    Kv,
    /// u32 `[row][HISTORY]`: the tokens of the last positions, at `position % HISTORY`. The launch that chooses a row's
    /// next token writes it here.
    History,
    /// `(cos, sin)` f32 pairs, `head_dim / 2` a position.
    RopeTable,
    /// The same for layers with a window, in models that have both kinds.
    RopeTableLocal,
    /// Residual stream, f32 `[row][dim]`.
    Hidden,
    /// Quantized activations of the next matrices, i8 `[row][element]`.
    ActQuants,
    /// A `(f32 scale, s16 sum of the first 16, s16 sum of the last 16)` for each 32 activations, `[row][block]`.
    ActMeta,
    /// Quantized FFN activations, i8 `[row][hidden_dim]`.
    FfnQuants,
    /// Their scales and sums.
    FfnMeta,
    /// Activations of the next matrices as computed, f32 `[row][element]`, where they are not quantized.
    Act,
    /// FFN activations as computed, f32 `[row][hidden_dim]`.
    FfnAct,
    /// Q, K and V before and after RoPE, f32 `[row][q_dim + 2 kv_dim]`.
    Qkv,
    /// Keys of a layer of one sequence, `[position][n_kv_heads][head_dim]` in rows of [`Dims::kv_type`].
    KCache(u32),
    /// Values of a layer, likewise.
    VCache(u32),
    /// Partial attention outputs, f32 `[row][n_kv_heads][split][group][head_dim]`.
    AttnPartial,
    /// Their running maximum and sum, f32 pairs.
    AttnStats,
    /// Words that CTAs of one launch of attention hand to others: partial outputs and their pairs as u32 whose bits are turned; 0
    /// between launches.
    AttnHandover,
    /// What a layer's attention or feed-forward adds to the stream, f32 `[row][dim]`, where a norm comes first.
    Branch,
    /// The up matrix of a feed-forward without a gate, before its activation, f32 `[row][hidden_dim]`.
    FfnUp,
    /// f32 `[row][vocab_size]`.
    Logits,
    /// Best (value, index) of each part of the vocabulary, packed u64, `[row][part]`.
    ArgmaxPartial,
    /// How each row samples: `[row]` of [`sampling::SamplingParams`], `sampling::SAMPLING_WORDS` u32 each.
    Sampling,
    /// Orders of the logits after the penalty, u32 `[row][vocab_size, rounded up to 4]`.
    SampleKeys,
    /// The greatest (order, index) of each part of the vocabulary, packed u64, `[row][part]`.
    SampleBest,
    /// Counts, then weights, by distance from the greatest logit, u64 `[row][2][1024]`.
    SampleBins,
    /// The last (order, index) that top-k and top-p keep, packed u64 `[row]`; 0 for all.
    SampleCut,
    /// Weights of the kept tokens of each part, u64 `[row][part]`.
    SampleSums,
    /// u32 `[row]`: the token chosen, by sampling or as that with the greatest logit, the lowest index on ties;
    /// `u32::MAX` when a logit is not finite.
    Chosen,
}

/// Tokens that [`Slot::History`] keeps of a row: those that a penalty looks back on, and as many again that the device
/// may be ahead of the host. What the latter overwrite is too old to count once they are taken back.
pub const HISTORY: u32 = 2 * sampling::PENALTY_WINDOW;

/// Words of [`Slot::Control`] before the first row.
pub const CONTROL_HEADER: u32 = 4;

/// The word of [`Slot::Control`] that says how many CTAs of a launch may wait at once for CTAs that begin after them: no more than
/// are sure to have a place on the device besides whatever else may wait there. With 0, none does.
pub const WAITING_CTAS: u32 = 1;

/// Words of a row in [`Slot::Control`].
pub const CONTROL_ROW: u32 = 4;

/// Bytes of [`Slot::Control`] for a step of `rows` rows.
pub const fn control_bytes(rows: u32) -> u64 {
    4 * (CONTROL_HEADER as u64 + CONTROL_ROW as u64 * rows as u64)
}

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this offset of the arena, which is shared by buffers whose lifetimes do not meet.
    Arena {
        /// Bytes from the start of the arena; a multiple of 256.
        offset: u64,
    },
    /// An allocation of its own, kept for the life of a session (caches, tables, control).
    Own,
}

/// A device buffer that is not a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDesc {
    /// What it holds.
    pub slot: Slot,
    /// Size that does not depend on the context, bytes.
    pub bytes: u64,
    /// Bytes for each position of the context.
    pub bytes_per_pos: u64,
    /// Where it lives.
    pub place: Place,
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Index into [`Table::weights`].
    Weight(u32),
    /// Index into [`Step::buffers`] and an offset in bytes.
    Buffer {
        /// Index into [`Step::buffers`].
        index: u32,
        /// Bytes from the buffer's start.
        offset: u64,
    },
}

/// When a launch is part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In every step.
    Body,
    /// Only where the next token or logits are wanted: final norm, head.
    Head,
    /// After the head: the greatest logit is chosen and fed back.
    Greedy,
    /// After the head instead: a token is drawn and fed back.
    Sample,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Index into [`Table::kernels`].
    pub kernel: u32,
    /// Which layer it belongs to.
    pub layer: Option<u32>,
    /// When it runs.
    pub phase: Phase,
    /// Arguments, as many as the kernel has parameters.
    pub args: List<Arg>,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Rows of any sequences, each with its own position; the next tokens can be computed. Row for row the same bits,
    /// whatever the number of rows.
    Decode,
    /// Many tokens of one sequence at consecutive positions; no head.
    Prefill,
}

/// The launches that take up to `rows` tokens through the model, and the buffers that they work in.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What it is for.
    pub kind: StepKind,
    /// The most rows: one token of one sequence each.
    pub rows: u32,
    /// Buffers.
    pub buffers: List<BufferDesc>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// The launches, in order.
    pub launches: List<Launch>,
}

impl Step {
    /// Index of the buffer that holds `slot`.
    pub fn buffer(&self, slot: Slot) -> Option<usize> {
        self.buffers.iter().position(|b| b.slot == slot)
    }
}

/// Everything the runtime needs to run one model on one kind of device.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Name of the spec.
    pub spec: Text,
    /// Hash of the spec and the target: equal hashes, equal tables.
    pub hash: Text,
    /// Target: ten times the compute capability.
    pub sm: u32,
    /// Hyperparameters.
    pub dims: Dims,
    /// Kernels, without repetition.
    pub kernels: List<KernelDesc>,
    /// Tensors in the order in which they are loaded.
    pub weights: List<WeightDesc>,
    /// Caches of one sequence: K and V of each layer, layer by layer.
    pub caches: List<BufferDesc>,
    /// The steps, by kind and rows; the first is [`StepKind::Decode`] with one row.
    pub steps: List<Step>,
}

impl Table {
    /// The step of one row, which every table has first.
    pub fn single(&self) -> Option<&Step> {
        self.steps.first()
    }

    /// The first buffer of any step that holds `slot`: constants are the same in all of them.
    pub fn find_buffer(&self, slot: Slot) -> Option<&BufferDesc> {
        self.steps.iter().flat_map(|step| step.buffers.iter()).find(|b| b.slot == slot)
    }
}

/// An f16 in device memory, for [`DevicePtr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F16(pub u16);

/// A bf16 in device memory, for [`DevicePtr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16(pub u16);

/// An address in device memory with the type of what lies there. It owns nothing and checks nothing; the runtime's
/// buffers hand these out.
#[derive(Debug, PartialEq, Eq)]
pub struct DevicePtr<T> {
    address: u64,
    elem: std::marker::PhantomData<T>,
}

impl<T> Clone for DevicePtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DevicePtr<T> {}

impl<T> DevicePtr<T> {
    /// A pointer to `address`.
    pub const fn new(address: u64) -> DevicePtr<T> {
        DevicePtr { address, elem: std::marker::PhantomData }
    }

    /// The address.
    pub const fn address(self) -> u64 {
        self.address
    }
}
