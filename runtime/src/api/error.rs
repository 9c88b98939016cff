//! What can be wrong with a call on a part of a model. Every variant names the field or tensor, and both numbers.

use std::fmt;

use plan::{QType, Role};

use super::layer::field_name;

/// A field of what a layer is run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerField {
    /// One of [`crate::Layer`].
    Weight(Role),
    /// [`crate::LayerIo::hidden`]
    Hidden,
    /// [`crate::LayerIo::k_cache`]
    KCache,
    /// [`crate::LayerIo::v_cache`]
    VCache,
}

impl fmt::Display for LayerField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight(role) => field_name(*role),
            Self::Hidden => "hidden",
            Self::KCache => "k_cache",
            Self::VCache => "v_cache",
        })
    }
}

/// Why a call on a part of a model was refused, before anything was enqueued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// There is no such layer.
    #[error("layer {layer} asked for, spec {spec} has {limit}")]
    Layer {
        /// Asked for.
        layer: u32,
        /// Spec of the table.
        spec: String,
        /// Layers of the model.
        limit: u32,
    },
    /// An address of zero.
    #[error("layer {layer}, {field}: the address is null, {wanted} bytes wanted")]
    Null {
        /// Layer.
        layer: u32,
        /// What was null.
        field: LayerField,
        /// Bytes that it must have.
        wanted: u64,
    },
    /// An address that kernels cannot load from in whole vectors.
    #[error("layer {layer}, {field}: address {addr:#x} is no multiple of {wanted}")]
    Misaligned {
        /// Layer.
        layer: u32,
        /// Whose address.
        field: LayerField,
        /// The address.
        addr: u64,
        /// What it must be a multiple of.
        wanted: u64,
    },
    /// Another number of bytes than the kernels read; for caches, too few.
    #[error("layer {layer}, {field}: {found} bytes, {wanted} wanted")]
    Length {
        /// Layer.
        layer: u32,
        /// Whose length.
        field: LayerField,
        /// Bytes given.
        found: u64,
        /// Bytes of the packed form, of the stream, or of the cache up to the position.
        wanted: u64,
    },
    /// Memory that ends behind the last address.
    #[error("layer {layer}, {field}: {bytes} bytes from {addr:#x} go beyond the last address")]
    Wraps {
        /// Layer.
        layer: u32,
        /// Whose memory.
        field: LayerField,
        /// The address.
        addr: u64,
        /// Bytes given.
        bytes: u64,
    },
    /// The kernels were made for another element type.
    #[error("layer {layer}, {field}: type {found}, {wanted} wanted")]
    Type {
        /// Layer.
        layer: u32,
        /// Whose type.
        field: LayerField,
        /// Type given.
        found: QType,
        /// Type of the table.
        wanted: QType,
    },
    /// A weight that this architecture needs.
    #[error("layer {layer}, {field}: missing; architecture {architecture} (spec {spec}) has it")]
    Missing {
        /// Layer.
        layer: u32,
        /// What is missing.
        field: LayerField,
        /// Architecture of the table.
        architecture: String,
        /// Spec of the table.
        spec: String,
    },
    /// A weight that this architecture does not have, so that no kernel would read it.
    #[error("layer {layer}, {field}: given, but architecture {architecture} (spec {spec}) has none")]
    Unexpected {
        /// Layer.
        layer: u32,
        /// What is too much.
        field: LayerField,
        /// Architecture of the table.
        architecture: String,
        /// Spec of the table.
        spec: String,
    },
    /// Memory that is written and is also something else.
    #[error("layer {layer}: {field} at {addr:#x} shares memory with {other} at {other_addr:#x}")]
    Overlap {
        /// Layer.
        layer: u32,
        /// What is written.
        field: LayerField,
        /// Where it begins.
        addr: u64,
        /// What lies there too.
        other: LayerField,
        /// Where that begins.
        other_addr: u64,
    },
    /// A host slice of another length than what it stands for.
    #[error("{what}: {found} elements given, {wanted} wanted")]
    Slice {
        /// Which slice.
        what: &'static str,
        /// Elements given.
        found: u64,
        /// Elements needed; for caches, at least.
        wanted: u64,
    },
    /// The table has no tensor of this name.
    #[error("spec {spec} has no weight {name}, among {n_weights}")]
    NoWeight {
        /// Asked for.
        name: String,
        /// Spec of the table.
        spec: String,
        /// Weights of the table.
        n_weights: usize,
    },
    /// A vector cannot be multiplied by this.
    #[error("{name} of {rows} × {cols} elements is not a matrix that a step multiplies by")]
    NotMatrix {
        /// The weight.
        name: String,
        /// Its rows.
        rows: u32,
        /// Its columns.
        cols: u32,
    },
    /// The kernel that multiplies by this matrix keeps the product to itself.
    #[error("{name}: kernel {kernel} multiplies by it and does not store the product")]
    OnlyFused {
        /// The weight.
        name: String,
        /// The kernel.
        kernel: String,
    },
}
