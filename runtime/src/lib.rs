//! The runtime of Monomorph: a thin engine that loads a GGUF model and runs it through generated kernels, on CUDA or
//! on the emulator, with the same bits.
//!
//! ```text
//! Gguf ─► select_table ─► Model::load ─► Session ─► Generation (tokens)
//!         (plan::Table)   (Queue: cuda | emulator)
//! ```
//!
//! [`TextModel`] is the short way, from a file to a stream of text.
//!
//! The runtime executes a [`plan::Table`] and knows nothing of how it was made: it resolves every argument to an
//! address once and then walks over launches. With feature `jit`, `jit::specialise` makes such a table at load. No public call panics, prints, exits or reads the environment. Errors
//! have three classes, see [`Error::class`].
#![deny(unsafe_code)]

mod api;
mod binding;
mod cancel;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "the driver is a C library; the only unsafe code of the workspace")]
pub mod cuda;
mod device;
mod engine;
mod error;
pub mod gguf;
#[cfg(feature = "jit")]
pub mod jit;
mod memory;
mod model;
pub mod queue;
mod rope;
pub mod sampling;
mod session;
mod source;
pub mod synth;
mod table_check;
mod text;
pub mod tokenizer;

pub use api::{
    ApiError, HostCaches, Layer, LayerField, LayerIo, LayerRunner, LayerWeights, RAW_ALIGN, RawLayer,
    RawMemory, RawTensor, WeightRef,
};
pub use binding::{BindError, select_table};
pub use cancel::CancelToken;
pub use device::{DeviceChoice, DeviceOptions, Opened, open_device};
pub use error::Error;
pub use memory::MemoryPlan;
pub use model::{DEFAULT_CONTEXT, LoadOptions, LoadProgress, LoadTimings, Model};
pub use queue::ErrorClass;
pub use rope::RopeTable;
pub use session::{
    Batch, BatchRow, DraftCount, FinishReason, GenerateOptions, Generation, PromptProgress, PromptWatch,
    Region, RowSampling, Session, Speculation, Timings, Walk,
};
pub use source::{BoundWeights, WeightSource};
pub use text::{TextModel, TextStream};
