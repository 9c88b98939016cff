//! What a model's layers do beyond those of llama: data, so that an architecture is a set of values and not a branch.

use std::fmt;

/// The function between the matrices of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// GELU with the tanh formula: `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
    /// GELU by its definition: `x/2 · (1 + erf(x / √2))`.
    GeluErf,
    /// The logistic approximation of GELU: `x / (1 + exp(-1.702 x))`.
    GeluQuick,
}

/// The shape of a feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ffn {
    /// `down(f(gate x) · (up x))`.
    Gated(Activation),
    /// `down(f(up x))`.
    Plain(Activation),
}

impl Ffn {
    /// Every kind.
    pub const ALL: [Ffn; 8] = [
        Ffn::Gated(Activation::Silu),
        Ffn::Gated(Activation::GeluTanh),
        Ffn::Gated(Activation::GeluErf),
        Ffn::Gated(Activation::GeluQuick),
        Ffn::Plain(Activation::Silu),
        Ffn::Plain(Activation::GeluTanh),
        Ffn::Plain(Activation::GeluErf),
        Ffn::Plain(Activation::GeluQuick),
    ];

    /// The name in specs.
    pub const fn name(self) -> &'static str {
        match self {
            Ffn::Gated(Activation::Silu) => "swiglu",
            Ffn::Gated(Activation::GeluTanh) => "geglu_tanh",
            Ffn::Gated(Activation::GeluErf) => "geglu_erf",
            Ffn::Gated(Activation::GeluQuick) => "geglu_quick",
            Ffn::Plain(Activation::Silu) => "silu",
            Ffn::Plain(Activation::GeluTanh) => "gelu_tanh",
            Ffn::Plain(Activation::GeluErf) => "gelu_erf",
            Ffn::Plain(Activation::GeluQuick) => "gelu_quick",
        }
    }

    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Ffn> {
        Ffn::ALL.into_iter().find(|ffn| ffn.name() == name)
    }

    /// The function.
    pub const fn activation(self) -> Activation {
        match self {
            Ffn::Gated(activation) | Ffn::Plain(activation) => activation,
        }
    }

    /// Whether there is a gate matrix.
    pub const fn is_gated(self) -> bool {
        matches!(self, Ffn::Gated(_))
    }
}

impl fmt::Display for Ffn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Layers that attend to the last positions only, among others that see all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sliding {
    /// Positions that such a layer sees, the newest included.
    pub window: u32,
    /// Every so many-th layer sees all positions: 6 makes layers 5, 11, 17 … global. 0: none does.
    pub global_every: u32,
    /// Base of the RoPE frequencies of the layers with a window; the others have [`crate::Dims::rope_base`].
    pub rope_base: f32,
}

impl Sliding {
    /// Whether a layer has the window.
    pub const fn is_local(&self, layer: u32) -> bool {
        self.global_every == 0 || !(layer + 1).is_multiple_of(self.global_every)
    }
}

/// How the layers of a model differ from llama's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// The feed-forward.
    pub ffn: Ffn,
    /// Whether each head of Q and K goes through a norm of its own before RoPE.
    pub qk_norm: bool,
    /// Whether the outputs of attention and feed-forward go through a norm before they are added to the stream.
    pub post_norms: bool,
    /// Whether the output matrix of attention has a bias.
    pub attn_output_bias: bool,
    /// Whether the up and down matrices have biases; plain feed-forwards only.
    pub ffn_bias: bool,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// The embedding is multiplied by this.
    pub embed_scale: f32,
    /// Scores are divided by the square root of this; 0 stands for the head's size.
    pub score_dim: u32,
    /// RoPE frequencies of layers without a window are divided by this.
    pub rope_scale: f32,
    /// Layers with a window.
    pub sliding: Option<Sliding>,
}

impl Variant {
    /// None of it: SwiGLU, no biases, no further norms.
    pub const LLAMA: Variant = Variant {
        ffn: Ffn::Gated(Activation::Silu),
        qk_norm: false,
        post_norms: false,
        attn_output_bias: false,
        ffn_bias: false,
        head_bias: false,
        embed_scale: 1.0,
        score_dim: 0,
        rope_scale: 1.0,
        sliding: None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_differ() {
        for ffn in Ffn::ALL {
            assert_eq!(Ffn::from_name(ffn.name()), Some(ffn));
        }
        assert_eq!(Ffn::from_name("relu"), None);
        assert_eq!(Ffn::ALL.iter().filter(|ffn| ffn.is_gated()).count(), 4);
    }

    #[test]
    fn every_sixth_layer_is_global() {
        let sliding = Sliding { window: 512, global_every: 6, rope_base: 1e4 };
        let global: Vec<u32> = (0..18).filter(|layer| !sliding.is_local(*layer)).collect();
        assert_eq!(global, [5, 11, 17]);
        assert!((0..9).all(|layer| Sliding { global_every: 0, ..sliding }.is_local(layer)));
    }
}
