//! The architectures that kernels exist for, as data: what each takes from a file's header and what it implies.

use ::plan::{Activation, Ffn, RopeKind, Variant};

/// What the name of an architecture stands for.
pub(super) struct Architecture {
    /// GGUF `general.architecture`.
    pub name: &'static str,
    /// Which pairs RoPE rotates.
    pub rope_kind: RopeKind,
    /// Whether Q, K and V always have biases; where not, the file's tensors decide.
    pub qkv_bias: bool,
    /// What its layers do beyond llama's, whatever the file says.
    pub variant: Variant,
    /// Whether the embedding is multiplied by the square root of the stream's width.
    pub embed_by_sqrt_dim: bool,
    /// Layers with a window, in architectures that have them.
    pub sliding: Option<SlidingDefaults>,
    /// A number of layers whose models divide scores by `√(dim / n_heads)` instead of the root of the head's size.
    pub score_by_width: Option<u32>,
}

/// What holds where a header says nothing of windows but their length.
pub(super) struct SlidingDefaults {
    /// Every so many-th layer sees all positions.
    pub global_every: u32,
    /// Base of the RoPE frequencies of the others.
    pub rope_base: f32,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    rope_kind: RopeKind::Norm,
    qkv_bias: false,
    variant: Variant::LLAMA,
    embed_by_sqrt_dim: false,
    sliding: None,
    score_by_width: None,
};

const QWEN2: Architecture =
    Architecture { name: "qwen2", rope_kind: RopeKind::Neox, qkv_bias: true, ..LLAMA };

const QWEN3: Architecture = Architecture {
    name: "qwen3",
    rope_kind: RopeKind::Neox,
    variant: Variant { qk_norm: true, ..Variant::LLAMA },
    ..LLAMA
};

/// Source: the Gemma 3 report (Google DeepMind 2025, section 2) and the layout of its GGUF files. The 27B model, alone
/// with 62 layers, scales its scores by the width of the stream.
const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    rope_kind: RopeKind::Neox,
    variant: Variant {
        ffn: Ffn::Gated(Activation::GeluTanh),
        qk_norm: true,
        post_norms: true,
        ..Variant::LLAMA
    },
    embed_by_sqrt_dim: true,
    sliding: Some(SlidingDefaults { global_every: 6, rope_base: 10_000.0 }),
    score_by_width: Some(62),
    ..LLAMA
};

/// Every architecture.
pub(super) const ARCHITECTURES: &[Architecture] = &[LLAMA, QWEN2, QWEN3, GEMMA3];

/// The architecture of a name.
pub(super) fn find(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}

/// All names, for messages.
pub(super) fn names() -> String {
    ARCHITECTURES.iter().map(|architecture| architecture.name).collect::<Vec<_>>().join(", ")
}
