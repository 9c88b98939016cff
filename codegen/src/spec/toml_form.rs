//! The TOML form of a spec: `models/*.toml`.

use super::{LayerTypes, ModelSpec, SpecError, StepRows, TensorTypes};
use ::plan::{ActType, Dims, Ffn, KvType, QType, Role, RopeKind, Sliding, Variant};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecToml {
    name: String,
    architecture: String,
    vocab_size: u32,
    dim: u32,
    hidden_dim: u32,
    n_layers: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    context: u32,
    norm_eps: f64,
    rope_kind: RopeToml,
    rope_base: f64,
    qkv_bias: bool,
    tied_head: bool,
    /// f16 when it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_type: Option<String>,
    /// int8 when it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<String>,
    // What follows is left out where it is as in llama.
    #[serde(skip_serializing_if = "Option::is_none")]
    ffn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qk_norm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    post_norms: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attn_output_bias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ffn_bias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_bias: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embed_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score_dim: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sliding: Option<SlidingToml>,
    /// Each list as it is by default when it is not there.
    #[serde(default, skip_serializing_if = "StepsToml::is_empty")]
    steps: StepsToml,
    types: BTreeMap<String, TypeToml>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlidingToml {
    window: u32,
    global_every: u32,
    rope_base: f64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepsToml {
    #[serde(skip_serializing_if = "Option::is_none")]
    decode: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill: Option<Vec<u32>>,
}

impl StepsToml {
    fn is_empty(&self) -> bool {
        self.decode.is_none() && self.prefill.is_none()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RopeToml {
    Norm,
    Neox,
}

/// `attn_q = "q4_k"` or `ffn_down = { default = "q4_k", q6_k = [0, 1, 6] }`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TypeToml {
    Uniform(String),
    Mixed {
        default: String,
        #[serde(flatten)]
        others: BTreeMap<String, Vec<u32>>,
    },
}

/// The shortest decimal that reads back as this f32, so that files say 1e-6 and not 9.99999997e-7.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

pub(super) fn parse(text: &str) -> Result<ModelSpec, SpecError> {
    let form: SpecToml = toml::from_str(text).map_err(|e| SpecError::Toml {
        name: "toml".into(),
        reason: e.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    })?;
    let mut types = BTreeMap::new();
    for (word, value) in &form.types {
        let fail = |found: &str, needed: &str| SpecError::Field {
            name: form.name.clone(),
            field: format!("types.{word}"),
            found: found.into(),
            needed: needed.into(),
        };
        let role = Role::ALL
            .into_iter()
            .find(|r| r.to_string() == *word)
            .ok_or_else(|| fail(word, "it must be a GGUF tensor word such as attn_q"))?;
        let qtype =
            |name: &str| QType::from_name(name).ok_or_else(|| fail(name, "it must be a type such as q4_k"));
        let layer_types = match value {
            TypeToml::Uniform(name) => LayerTypes::uniform(qtype(name)?),
            TypeToml::Mixed { default, others } => {
                let mut by_type = BTreeMap::new();
                for (name, layers) in others {
                    if let Some(layer) = layers.iter().find(|l| **l >= form.n_layers) {
                        return Err(fail(&layer.to_string(), &format!("n_layers is {}", form.n_layers)));
                    }
                    by_type.insert(qtype(name)?, layers.clone());
                }
                LayerTypes { default: qtype(default)?, others: by_type }
            }
        };
        types.insert(role, layer_types);
    }
    let kv_name = form.kv_type.as_deref().unwrap_or(KvType::default().name());
    let kv_type = KvType::from_name(kv_name).ok_or_else(|| SpecError::Field {
        name: form.name.clone(),
        field: "kv_type".into(),
        found: kv_name.into(),
        needed: "it must be f16, f32 or q8_0".into(),
    })?;
    let act_name = form.activations.as_deref().unwrap_or(ActType::default().name());
    let activations = ActType::from_name(act_name).ok_or_else(|| SpecError::Field {
        name: form.name.clone(),
        field: "activations".into(),
        found: act_name.into(),
        needed: "it must be int8 or f32".into(),
    })?;
    let variant = variant_of(&form)?;
    let default = StepRows::default();
    let steps = StepRows {
        decode: form.steps.decode.unwrap_or(default.decode),
        prefill: form.steps.prefill.unwrap_or(default.prefill),
    };
    let dims = Dims {
        architecture: form.architecture.into(),
        vocab_size: form.vocab_size,
        dim: form.dim,
        hidden_dim: form.hidden_dim,
        n_layers: form.n_layers,
        n_heads: form.n_heads,
        n_kv_heads: form.n_kv_heads,
        head_dim: form.head_dim,
        context: form.context,
        norm_eps: form.norm_eps as f32,
        rope_kind: match form.rope_kind {
            RopeToml::Norm => RopeKind::Norm,
            RopeToml::Neox => RopeKind::Neox,
        },
        rope_base: form.rope_base as f32,
        qkv_bias: form.qkv_bias,
        tied_head: form.tied_head,
        kv_type,
        activations,
        variant,
    };
    Ok(ModelSpec { name: form.name, dims, types: TensorTypes(types), steps })
}

fn variant_of(form: &SpecToml) -> Result<Variant, SpecError> {
    let llama = Variant::LLAMA;
    let ffn = match &form.ffn {
        None => llama.ffn,
        Some(name) => Ffn::from_name(name).ok_or_else(|| SpecError::Field {
            name: form.name.clone(),
            field: "ffn".into(),
            found: name.clone(),
            needed: format!("it must be one of {}", Ffn::ALL.map(Ffn::name).join(", ")),
        })?,
    };
    let sliding = form.sliding.as_ref().map(|sliding| Sliding {
        window: sliding.window,
        global_every: sliding.global_every,
        rope_base: sliding.rope_base as f32,
    });
    Ok(Variant {
        ffn,
        qk_norm: form.qk_norm.unwrap_or(llama.qk_norm),
        post_norms: form.post_norms.unwrap_or(llama.post_norms),
        attn_output_bias: form.attn_output_bias.unwrap_or(llama.attn_output_bias),
        ffn_bias: form.ffn_bias.unwrap_or(llama.ffn_bias),
        head_bias: form.head_bias.unwrap_or(llama.head_bias),
        embed_scale: form.embed_scale.map_or(llama.embed_scale, |scale| scale as f32),
        score_dim: form.score_dim.unwrap_or(llama.score_dim),
        rope_scale: form.rope_scale.map_or(llama.rope_scale, |scale| scale as f32),
        sliding,
    })
}

/// A value, unless it is llama's.
fn unless<T: PartialEq>(value: T, llama: T) -> Option<T> {
    (value != llama).then_some(value)
}

pub(super) fn print(spec: &ModelSpec) -> String {
    let (d, v, llama) = (&spec.dims, &spec.dims.variant, Variant::LLAMA);
    let default = StepRows::default();
    let steps = StepsToml {
        decode: unless(spec.steps.decode.clone(), default.decode),
        prefill: unless(spec.steps.prefill.clone(), default.prefill),
    };
    let types = spec.types.0.iter().map(|(role, types)| {
        let value = if types.others.is_empty() {
            TypeToml::Uniform(types.default.name().into())
        } else {
            let others =
                types.others.iter().map(|(t, layers)| (t.name().to_owned(), layers.clone())).collect();
            TypeToml::Mixed { default: types.default.name().into(), others }
        };
        (role.to_string(), value)
    });
    let form = SpecToml {
        name: spec.name.clone(),
        architecture: d.architecture.to_string(),
        vocab_size: d.vocab_size,
        dim: d.dim,
        hidden_dim: d.hidden_dim,
        n_layers: d.n_layers,
        n_heads: d.n_heads,
        n_kv_heads: d.n_kv_heads,
        head_dim: d.head_dim,
        context: d.context,
        norm_eps: shortest(d.norm_eps),
        rope_kind: match d.rope_kind {
            RopeKind::Norm => RopeToml::Norm,
            RopeKind::Neox => RopeToml::Neox,
        },
        rope_base: shortest(d.rope_base),
        qkv_bias: d.qkv_bias,
        tied_head: d.tied_head,
        kv_type: (d.kv_type != KvType::default()).then(|| d.kv_type.name().into()),
        activations: unless(d.activations, ActType::default()).map(|t| t.name().into()),
        ffn: unless(v.ffn, llama.ffn).map(|ffn| ffn.name().to_owned()),
        qk_norm: unless(v.qk_norm, llama.qk_norm),
        post_norms: unless(v.post_norms, llama.post_norms),
        attn_output_bias: unless(v.attn_output_bias, llama.attn_output_bias),
        ffn_bias: unless(v.ffn_bias, llama.ffn_bias),
        head_bias: unless(v.head_bias, llama.head_bias),
        embed_scale: unless(v.embed_scale, llama.embed_scale).map(shortest),
        score_dim: unless(v.score_dim, llama.score_dim),
        rope_scale: unless(v.rope_scale, llama.rope_scale).map(shortest),
        sliding: v.sliding.map(|sliding| SlidingToml {
            window: sliding.window,
            global_every: sliding.global_every,
            rope_base: shortest(sliding.rope_base),
        }),
        steps,
        types: types.collect(),
    };
    toml::to_string(&form).unwrap_or_default()
}
