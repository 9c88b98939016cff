//! Model specs: what a model's kernels are specialised to.
//!
//! A spec comes from a TOML file in `models/` ([`ModelSpec::from_toml`]) or from the header of a GGUF file
//! ([`header`]). Both go through [`ModelSpec::check`], so a spec in hand is one that kernels can be made for.

mod architecture;
mod device;
pub mod header;
mod steps;
mod toml_form;
mod types;

pub use device::Device;
pub use steps::StepRows;
pub use types::{LayerTypes, TensorTypes};

use crate::layout::SUB_BLOCK;
use ::plan::{Dims, KvType, QType, Role};
use std::fmt::Write as _;

/// A model as codegen sees it: hyperparameters and the type of every tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Name of the spec: `qwen2.5-1.5b`.
    pub name: String,
    /// Hyperparameters.
    pub dims: Dims,
    /// Element types by role and layer.
    pub types: TensorTypes,
    /// How many rows the steps have: a choice, not a property of the model.
    pub steps: StepRows,
}

/// Why a spec is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The TOML does not parse or lacks a field.
    #[error("spec {name}: {reason}")]
    Toml {
        /// Which spec.
        name: String,
        /// What the TOML reader says, on one line.
        reason: String,
    },
    /// A field is out of range.
    #[error("spec {name}: {field} = {found}, but {needed}")]
    Field {
        /// Which spec.
        name: String,
        /// Which field.
        field: String,
        /// Its value.
        found: String,
        /// What would be accepted.
        needed: String,
    },
    /// A header key is absent or has no usable value.
    #[error("{file}: key {key} is missing; architecture {architecture} needs it")]
    MissingKey {
        /// Which file.
        file: String,
        /// GGUF key.
        key: String,
        /// GGUF architecture.
        architecture: String,
    },
    /// A tensor is absent.
    #[error("{file}: tensor {tensor} is missing; architecture {architecture} needs it")]
    MissingTensor {
        /// Which file.
        file: String,
        /// Tensor name.
        tensor: String,
        /// GGUF architecture.
        architecture: String,
    },
    /// A tensor has a type that no kernel serves in its role.
    #[error("{file}: tensor {tensor} has type {found}; kernels for this role exist for {served}")]
    TensorType {
        /// Which file or spec.
        file: String,
        /// Tensor name.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that would do.
        served: String,
    },
    /// Rows of a matrix are not whole blocks of its type.
    #[error(
        "spec {name}: tensor {tensor} of type {qtype} has rows of {cols}, but a block has {block} elements"
    )]
    RowLength {
        /// Which spec.
        name: String,
        /// Tensor name.
        tensor: String,
        /// Its type.
        qtype: String,
        /// Elements of a row.
        cols: u32,
        /// Elements of a block.
        block: u32,
    },
    /// An architecture without a description here.
    #[error("{file}: architecture {found} is not supported; supported: {supported}")]
    Architecture {
        /// Which file or spec.
        file: String,
        /// GGUF architecture.
        found: String,
        /// The list.
        supported: String,
    },
}

/// Types that matrices may have, in every role.
pub const MATRIX_TYPES: &[QType] = &QType::ALL;

pub(crate) fn list_names(types: &[QType]) -> String {
    types.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")
}

impl ModelSpec {
    /// Reads a spec from the text of `models/NAME.toml`.
    ///
    /// # Errors
    /// [`SpecError`] when the text does not parse or describes a model that kernels cannot be made for.
    pub fn from_toml(text: &str) -> Result<ModelSpec, SpecError> {
        let spec = toml_form::parse(text)?;
        spec.check()?;
        Ok(spec)
    }

    /// The spec as TOML; [`ModelSpec::from_toml`] reads it back to an equal spec.
    pub fn to_toml(&self) -> String {
        toml_form::print(self)
    }

    /// The roles this model has, in the order in which a forward pass meets them.
    pub fn roles(&self) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| self.has(*role)).collect()
    }

    /// Whether this model has tensors of that role.
    pub fn has(&self, role: Role) -> bool {
        let v = &self.dims.variant;
        match role {
            Role::AttnQBias | Role::AttnKBias | Role::AttnVBias => self.dims.qkv_bias,
            Role::Output => !self.dims.tied_head,
            Role::AttnQNorm | Role::AttnKNorm => v.qk_norm,
            Role::AttnPostNorm | Role::FfnPostNorm => v.post_norms,
            Role::FfnGate => v.ffn.is_gated(),
            Role::AttnOutputBias => v.attn_output_bias,
            Role::FfnUpBias | Role::FfnDownBias => v.ffn_bias,
            Role::OutputBias => v.head_bias,
            Role::TokenEmbd
            | Role::OutputNorm
            | Role::AttnNorm
            | Role::AttnQ
            | Role::AttnK
            | Role::AttnV
            | Role::AttnOutput
            | Role::FfnNorm
            | Role::FfnUp
            | Role::FfnDown => true,
        }
    }

    /// Rows (output features) and columns (input features) of a role's tensor; vectors have one row.
    pub fn shape(&self, role: Role) -> (u32, u32) {
        let d = &self.dims;
        match role {
            Role::TokenEmbd | Role::Output => (d.vocab_size, d.dim),
            Role::OutputNorm
            | Role::AttnNorm
            | Role::FfnNorm
            | Role::AttnPostNorm
            | Role::FfnPostNorm
            | Role::AttnOutputBias
            | Role::FfnDownBias => (1, d.dim),
            Role::AttnQNorm | Role::AttnKNorm => (1, d.head_dim),
            Role::FfnUpBias => (1, d.hidden_dim),
            Role::OutputBias => (1, d.vocab_size),
            Role::AttnQ => (d.q_dim(), d.dim),
            Role::AttnK | Role::AttnV => (d.kv_dim(), d.dim),
            Role::AttnQBias => (1, d.q_dim()),
            Role::AttnKBias | Role::AttnVBias => (1, d.kv_dim()),
            Role::AttnOutput => (d.dim, d.q_dim()),
            Role::FfnGate | Role::FfnUp => (d.hidden_dim, d.dim),
            Role::FfnDown => (d.dim, d.hidden_dim),
        }
    }

    /// The element type of a role's tensor in a layer (`layer` is ignored for roles without one).
    pub fn qtype(&self, role: Role, layer: u32) -> QType {
        if role.is_matrix() { self.types.get(role, layer) } else { QType::F32 }
    }

    /// 16 hexadecimal digits over everything that shapes the output: equal hashes, equal tables.
    pub fn hash(&self, device: Device) -> String {
        let mut text = self.to_toml();
        let _ = write!(text, "\n{device:?}\nmonomorph {}", env!("CARGO_PKG_VERSION"));
        format!("{:016x}", crate::hash::fnv1a64(text.as_bytes()))
    }

    /// Checks that kernels can be made for this spec.
    ///
    /// # Errors
    /// [`SpecError::Field`], [`SpecError::RowLength`] or [`SpecError::Architecture`], naming the first misfit.
    pub fn check(&self) -> Result<(), SpecError> {
        self.check_architecture()?;
        self.check_dims()?;
        self.check_variant()?;
        self.check_steps()?;
        self.check_types()
    }

    fn check_architecture(&self) -> Result<(), SpecError> {
        if architecture::find(&self.dims.architecture).is_some() {
            return Ok(());
        }
        Err(SpecError::Architecture {
            file: format!("spec {}", self.name),
            found: self.dims.architecture.to_string(),
            supported: architecture::names(),
        })
    }

    fn check_dims(&self) -> Result<(), SpecError> {
        let d = &self.dims;
        let fail = |field: &str, found: u32, needed: String| Err(self.misfit(field, found, needed));
        let ranges = [
            ("vocab_size", d.vocab_size, 1, 1 << 24),
            ("dim", d.dim, 128, 1 << 16),
            ("hidden_dim", d.hidden_dim, 128, 1 << 17),
            ("n_layers", d.n_layers, 1, 1024),
            ("n_heads", d.n_heads, 1, 1024),
            ("n_kv_heads", d.n_kv_heads, 1, d.n_heads),
            ("context", d.context, 1, 1 << 24),
        ];
        for (field, found, least, most) in ranges {
            if !(least..=most).contains(&found) {
                return fail(field, found, format!("it must be {least} to {most}"));
            }
        }
        if !(d.head_dim.is_multiple_of(16) && (16..=256).contains(&d.head_dim)) {
            return fail("head_dim", d.head_dim, "attention takes multiples of 16 from 16 to 256".into());
        }
        if !d.q_dim().is_multiple_of(SUB_BLOCK) {
            let needed = format!(
                "n_heads x head_dim = {} must be a multiple of 32, a block of activations",
                d.q_dim()
            );
            return fail("n_heads", d.n_heads, needed);
        }
        if d.kv_type == KvType::Q8_0 && !d.kv_dim().is_multiple_of(32) {
            let needed = format!(
                "a cache of q8_0 needs n_kv_heads x head_dim = {} to be a multiple of 32",
                d.kv_dim()
            );
            return fail("n_kv_heads", d.n_kv_heads, needed);
        }
        if !d.n_heads.is_multiple_of(d.n_kv_heads) {
            return fail("n_kv_heads", d.n_kv_heads, format!("it must divide n_heads = {}", d.n_heads));
        }
        if d.group() > 8 {
            return fail(
                "n_kv_heads",
                d.n_kv_heads,
                format!("n_heads = {} gives more than 8 query heads a key head", d.n_heads),
            );
        }
        if !d.dim.is_multiple_of(128) {
            return fail("dim", d.dim, "it must be a multiple of 128, which the norm's warps share".into());
        }
        if !d.hidden_dim.is_multiple_of(SUB_BLOCK) {
            return fail(
                "hidden_dim",
                d.hidden_dim,
                "it must be a multiple of 32, a block of activations".into(),
            );
        }
        if !(d.norm_eps.is_finite() && d.norm_eps > 0.0 && d.rope_base.is_finite() && d.rope_base > 1.0) {
            return fail(
                "norm_eps, rope_base",
                0,
                "both must be finite, norm_eps > 0 and rope_base > 1".into(),
            );
        }
        Ok(())
    }

    fn misfit(&self, field: &str, found: impl ToString, needed: impl Into<String>) -> SpecError {
        let (name, needed) = (self.name.clone(), needed.into());
        SpecError::Field { name, field: field.into(), found: found.to_string(), needed }
    }

    fn check_variant(&self) -> Result<(), SpecError> {
        let v = &self.dims.variant;
        if v.ffn_bias && v.ffn.is_gated() {
            return Err(self.misfit("ffn_bias", true, format!("a {} feed-forward has no biases", v.ffn)));
        }
        // Biases of Q and K are added with RoPE, behind the norms of their heads.
        if v.qk_norm && self.dims.qkv_bias {
            return Err(self.misfit(
                "qkv_bias",
                true,
                "heads that are normed have no biases before their norm",
            ));
        }
        let positive = [("embed_scale", v.embed_scale), ("rope_scale", v.rope_scale)];
        for (field, found) in positive {
            if !(found.is_finite() && found > 0.0) {
                return Err(self.misfit(field, found, "it must be finite and positive"));
            }
        }
        let Some(sliding) = v.sliding else { return Ok(()) };
        if sliding.window == 0 {
            return Err(self.misfit("sliding.window", 0, "a layer sees at least the newest position"));
        }
        if !(sliding.rope_base.is_finite() && sliding.rope_base > 1.0) {
            return Err(self.misfit("sliding.rope_base", sliding.rope_base, "it must be finite and above 1"));
        }
        Ok(())
    }

    fn check_types(&self) -> Result<(), SpecError> {
        for role in self.roles() {
            if !role.is_matrix() {
                continue;
            }
            if !self.types.0.contains_key(&role) {
                return Err(SpecError::Field {
                    name: self.name.clone(),
                    field: format!("types.{role}"),
                    found: "nothing".into(),
                    needed: format!("it must be one of {}", list_names(MATRIX_TYPES)),
                });
            }
            let layers = if role.is_layered() { self.dims.n_layers } else { 1 };
            for layer in 0..layers {
                let (found, (_, cols)) = (self.qtype(role, layer), self.shape(role));
                if !cols.is_multiple_of(found.block_elems()) {
                    return Err(SpecError::RowLength {
                        name: self.name.clone(),
                        tensor: role.tensor_name(role.is_layered().then_some(layer)),
                        qtype: found.to_string(),
                        cols,
                        block: found.block_elems(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
