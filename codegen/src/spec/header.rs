//! A spec from the header of a GGUF file.
//!
//! Codegen does not read files: the caller hands over the metadata numbers and the tensor list.

use super::architecture::{self, Architecture};
use super::{LayerTypes, ModelSpec, SpecError, StepRows, TensorTypes, list_names};
use ::plan::{Dims, QType, Role, Sliding, Variant};
use std::collections::BTreeMap;

/// What a spec needs of a GGUF file.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// The file's name, for messages.
    pub file: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Every scalar number of the metadata by key.
    pub numbers: BTreeMap<String, f64>,
    /// Tensor name → (GGML type number, type name, dimensions with the contiguous one first).
    pub tensors: BTreeMap<String, TensorHeader>,
}

/// A tensor of a [`Header`].
#[derive(Clone, Debug)]
pub struct TensorHeader {
    /// GGML type number.
    pub type_id: u32,
    /// GGML type name.
    pub type_name: String,
    /// Dimensions, contiguous first.
    pub dims: Vec<u64>,
}

impl Header {
    fn number(&self, word: &str) -> Result<f64, SpecError> {
        let key = format!("{}.{word}", self.architecture);
        self.numbers.get(&key).copied().ok_or_else(|| SpecError::MissingKey {
            file: self.file.clone(),
            key,
            architecture: self.architecture.clone(),
        })
    }

    fn count(&self, word: &str) -> Result<u32, SpecError> {
        let value = self.number(word)?;
        if value.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&value) {
            return Ok(value as u32);
        }
        Err(SpecError::Field {
            name: self.file.clone(),
            field: format!("{}.{word}", self.architecture),
            found: value.to_string(),
            needed: "it must be a count of at least 1".into(),
        })
    }

    fn tensor(&self, name: &str) -> Result<&TensorHeader, SpecError> {
        self.tensors.get(name).ok_or_else(|| SpecError::MissingTensor {
            file: self.file.clone(),
            tensor: name.into(),
            architecture: self.architecture.clone(),
        })
    }

    /// Whether there is a tensor of a role, in the first layer if it has one in each.
    fn has(&self, role: Role) -> bool {
        self.tensors.contains_key(&role.tensor_name(role.is_layered().then_some(0)))
    }

    /// What the architecture implies, with what the file says of it.
    fn variant(&self, arch: &Architecture) -> Result<Variant, SpecError> {
        let (dim, n_heads) = (self.count("embedding_length")?, self.count("attention.head_count")?);
        let by_width = arch.score_by_width.is_some() && self.count("block_count").ok() == arch.score_by_width;
        Ok(Variant {
            attn_output_bias: self.has(Role::AttnOutputBias),
            ffn_bias: self.has(Role::FfnUpBias),
            head_bias: self.has(Role::OutputBias),
            embed_scale: if arch.embed_by_sqrt_dim { (dim as f32).sqrt() } else { 1.0 },
            score_dim: if by_width { dim / n_heads } else { 0 },
            rope_scale: self.number("rope.scaling.factor").unwrap_or(1.0) as f32,
            sliding: self.sliding(arch)?,
            ..arch.variant
        })
    }

    fn sliding(&self, arch: &Architecture) -> Result<Option<Sliding>, SpecError> {
        let Some(defaults) = &arch.sliding else { return Ok(None) };
        if self.number("attention.sliding_window").is_err() {
            return Ok(None);
        }
        let global_every = self.number("attention.sliding_window_pattern").map(|every| every as u32);
        let rope_base = self.number("rope.freq_base_swa").map(|base| base as f32);
        Ok(Some(Sliding {
            window: self.count("attention.sliding_window")?,
            global_every: global_every.unwrap_or(defaults.global_every),
            rope_base: rope_base.unwrap_or(defaults.rope_base),
        }))
    }

    fn qtype(&self, name: &str) -> Result<QType, SpecError> {
        let tensor = self.tensor(name)?;
        QType::from_ggml_id(tensor.type_id).ok_or_else(|| SpecError::TensorType {
            file: self.file.clone(),
            tensor: name.into(),
            found: tensor.type_name.clone(),
            served: list_names(super::MATRIX_TYPES),
        })
    }
}

impl ModelSpec {
    /// The spec that a file's kernels must be specialised to.
    ///
    /// # Errors
    /// [`SpecError`] when the architecture, a hyperparameter or a tensor type is not served.
    pub fn from_header(name: &str, header: &Header) -> Result<ModelSpec, SpecError> {
        let arch = architecture::find(&header.architecture).ok_or_else(|| SpecError::Architecture {
            file: header.file.clone(),
            found: header.architecture.clone(),
            supported: architecture::names(),
        })?;
        let (dim, n_heads) = (header.count("embedding_length")?, header.count("attention.head_count")?);
        let vocab = header.tensor(&Role::TokenEmbd.tensor_name(None))?.dims.get(1).copied().unwrap_or(0);
        let dims = Dims {
            architecture: arch.name.into(),
            vocab_size: u32::try_from(vocab).unwrap_or(0),
            dim,
            hidden_dim: header.count("feed_forward_length")?,
            n_layers: header.count("block_count")?,
            n_heads,
            n_kv_heads: header.count("attention.head_count_kv").unwrap_or(n_heads),
            head_dim: header.count("attention.key_length").unwrap_or(dim / n_heads),
            context: header.count("context_length")?,
            norm_eps: header.number("attention.layer_norm_rms_epsilon")? as f32,
            rope_kind: arch.rope_kind,
            rope_base: header.number("rope.freq_base").unwrap_or(10_000.0) as f32,
            qkv_bias: arch.qkv_bias || header.has(Role::AttnQBias),
            tied_head: !header.has(Role::Output),
            variant: header.variant(arch)?,
            kv_type: plan::KvType::default(),
            activations: plan::ActType::default(),
        };
        let mut spec =
            ModelSpec { name: name.into(), dims, types: TensorTypes::default(), steps: StepRows::default() };
        spec.check_dims()?;
        for role in spec.roles() {
            if !role.is_matrix() {
                continue;
            }
            let layers: Vec<Option<u32>> =
                if role.is_layered() { (0..spec.dims.n_layers).map(Some).collect() } else { vec![None] };
            let types = layers
                .into_iter()
                .map(|layer| header.qtype(&role.tensor_name(layer)))
                .collect::<Result<Vec<_>, _>>()?;
            if let Some(types) = LayerTypes::from_layers(&types) {
                spec.types.0.insert(role, types);
            }
        }
        spec.check()?;
        Ok(spec)
    }
}
