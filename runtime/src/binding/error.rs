//! The ways in which a file is not the model that a table was made for.

use std::fmt;

use plan::Role;

use crate::gguf::{GgufError, Name};

/// The first difference between a file and a spec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A value of the file is missing or of a wrong type.
    #[error(transparent)]
    File(Box<GgufError>),
    /// A hyperparameter differs.
    #[error("key {key}: the file has {found}, spec {spec} has {wanted}")]
    Hyperparameter {
        /// Metadata key.
        key: Name,
        /// What the file says, made safe to print.
        found: String,
        /// What the kernels were made for.
        wanted: String,
        /// Name of the spec.
        spec: String,
    },
    /// A tensor is missing.
    #[error(
        "tensor {name} ({role}{}) is missing, spec {spec} of architecture {architecture} needs it as {wanted}",
        Layer(*layer)
    )]
    Missing {
        /// What it is for.
        role: Role,
        /// Which layer.
        layer: Option<u32>,
        /// Name in the file.
        name: String,
        /// Shape and type.
        wanted: String,
        /// Name of the spec.
        spec: String,
        /// GGUF architecture of the spec.
        architecture: String,
    },
    /// A tensor has another shape or type.
    #[error(
        "tensor {name} ({role}{}) at offset {offset}: the file has {found}, spec {spec} has {wanted}",
        Layer(*layer)
    )]
    Tensor {
        /// What it is for.
        role: Role,
        /// Which layer.
        layer: Option<u32>,
        /// Name in the file.
        name: String,
        /// Where its data starts in the file, bytes.
        offset: u64,
        /// Shape and type in the file.
        found: Box<str>,
        /// Shape and type of the spec.
        wanted: Box<str>,
        /// Name of the spec.
        spec: Box<str>,
    },
    /// A tensor that no kernel uses.
    #[error(
        "tensor {name} at offset {offset} has no use in spec {spec}: {found} tensors in the file, {wanted} used"
    )]
    Extra {
        /// Name in the file.
        name: Name,
        /// Where its data starts in the file, bytes.
        offset: u64,
        /// Name of the spec.
        spec: String,
        /// Tensors in the file.
        found: usize,
        /// Tensors of the spec.
        wanted: usize,
    },
    /// A divisor of a RoPE frequency that is zero, negative or not finite.
    #[error("tensor {name}: factor {index} is {found}, not a positive number")]
    RopeFactor {
        /// Name in the file.
        name: &'static str,
        /// Which pair.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// No spec was compiled in at all.
    #[error(
        "no model spec is compiled in; add the model's spec to models/ and build with --features model-…"
    )]
    NoSpecs,
    /// None of the compiled specs is this model.
    #[error("no compiled spec fits this file (compiled: {compiled}); nearest is {nearest}: {difference}")]
    NoMatch {
        /// Names of the specs that are compiled in.
        compiled: String,
        /// The spec that agrees longest.
        nearest: String,
        /// Where it first differs.
        difference: Box<BindError>,
    },
    /// The spec is compiled in, but not for this device.
    #[error("spec {spec} is compiled for {compiled}, the device is sm_{device_sm}")]
    NoTarget {
        /// Name of the spec.
        spec: String,
        /// Targets that are compiled in.
        compiled: String,
        /// Target of the device.
        device_sm: u32,
    },
}

impl From<GgufError> for BindError {
    fn from(error: GgufError) -> Self {
        Self::File(Box::new(error))
    }
}

/// `, layer 3`, or nothing.
struct Layer(Option<u32>);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(layer) => write!(f, ", layer {layer}"),
            None => Ok(()),
        }
    }
}
