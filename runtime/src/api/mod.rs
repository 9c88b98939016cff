//! The other ways into the one forward path: a layer, a matrix or a named weight at a time.
//!
//! A [`Session`](crate::Session) takes whole tokens through a model. What is here takes one layer (or its feed-forward,
//! or one matrix) of the same step, with the same kernels and the same bits: for programs that keep weights and caches
//! themselves, and for tests. There is no second path: a [`LayerRunner`] runs launches of the table's one-row step,
//! over addresses that it was given.
//!
//! ```text
//! Model::layer(n), Model::weight(name) ─► addresses of loaded weights
//! LayerRunner::transformer_layer_indexed  raw addresses in, checked field by field, launches enqueued
//! LayerRunner::{layer,ffn,gemv,…}_host    the same over host slices: upload, run, download
//! ```

mod error;
mod host;
mod layer;
mod product;
mod raw;
mod runner;

pub use error::{ApiError, LayerField};
pub use host::HostCaches;
pub use layer::{Layer, LayerWeights, WeightRef};
pub use raw::{LayerIo, RAW_ALIGN, RawLayer, RawMemory, RawTensor};
pub use runner::LayerRunner;

pub(crate) use layer::WeightIndex;
