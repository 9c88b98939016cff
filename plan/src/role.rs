//! What a tensor is for, and its name in a GGUF file.

use std::fmt;

/// The part a tensor plays.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    TokenEmbd,
    OutputNorm,
    Output,
    OutputBias,
    AttnNorm,
    AttnQ,
    AttnK,
    AttnV,
    AttnQBias,
    AttnKBias,
    AttnVBias,
    AttnQNorm,
    AttnKNorm,
    AttnOutput,
    AttnOutputBias,
    AttnPostNorm,
    FfnNorm,
    FfnGate,
    FfnUp,
    FfnUpBias,
    FfnDown,
    FfnDownBias,
    FfnPostNorm,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 23] = [
        Role::TokenEmbd,
        Role::OutputNorm,
        Role::Output,
        Role::OutputBias,
        Role::AttnNorm,
        Role::AttnQ,
        Role::AttnK,
        Role::AttnV,
        Role::AttnQBias,
        Role::AttnKBias,
        Role::AttnVBias,
        Role::AttnQNorm,
        Role::AttnKNorm,
        Role::AttnOutput,
        Role::AttnOutputBias,
        Role::AttnPostNorm,
        Role::FfnNorm,
        Role::FfnGate,
        Role::FfnUp,
        Role::FfnUpBias,
        Role::FfnDown,
        Role::FfnDownBias,
        Role::FfnPostNorm,
    ];

    /// GGUF's word for it, with its suffix: `attn_q.weight`.
    pub const fn gguf(self) -> &'static str {
        match self {
            Role::TokenEmbd => "token_embd.weight",
            Role::OutputNorm => "output_norm.weight",
            Role::Output => "output.weight",
            Role::OutputBias => "output.bias",
            Role::AttnNorm => "attn_norm.weight",
            Role::AttnQ => "attn_q.weight",
            Role::AttnK => "attn_k.weight",
            Role::AttnV => "attn_v.weight",
            Role::AttnQBias => "attn_q.bias",
            Role::AttnKBias => "attn_k.bias",
            Role::AttnVBias => "attn_v.bias",
            Role::AttnQNorm => "attn_q_norm.weight",
            Role::AttnKNorm => "attn_k_norm.weight",
            Role::AttnOutput => "attn_output.weight",
            Role::AttnOutputBias => "attn_output.bias",
            Role::AttnPostNorm => "post_attention_norm.weight",
            Role::FfnNorm => "ffn_norm.weight",
            Role::FfnGate => "ffn_gate.weight",
            Role::FfnUp => "ffn_up.weight",
            Role::FfnUpBias => "ffn_up.bias",
            Role::FfnDown => "ffn_down.weight",
            Role::FfnDownBias => "ffn_down.bias",
            Role::FfnPostNorm => "post_ffw_norm.weight",
        }
    }

    /// Whether there is one of these in each layer.
    pub const fn is_layered(self) -> bool {
        !matches!(self, Role::TokenEmbd | Role::OutputNorm | Role::Output | Role::OutputBias)
    }

    /// Whether it is a matrix; the others are vectors of f32.
    pub const fn is_matrix(self) -> bool {
        matches!(
            self,
            Role::TokenEmbd
                | Role::Output
                | Role::AttnQ
                | Role::AttnK
                | Role::AttnV
                | Role::AttnOutput
                | Role::FfnGate
                | Role::FfnUp
                | Role::FfnDown
        )
    }

    /// The tensor's name: `blk.3.attn_q.weight`, or without the prefix when `layer` is `None`.
    pub fn tensor_name(self, layer: Option<u32>) -> String {
        match layer {
            Some(n) => format!("blk.{n}.{}", self.gguf()),
            None => self.gguf().to_owned(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.gguf();
        f.write_str(word.strip_suffix(".weight").unwrap_or(word))
    }
}
