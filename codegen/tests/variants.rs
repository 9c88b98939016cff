//! The kernels of architectures beyond llama: activations, norms of heads and behind matrices, biases; and every kernel of
//! models that have them, on the emulator against the references.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

mod kernel_trial;

use kernel_trial::check;
use monomorph_codegen::kernels::activate::Activate;
use monomorph_codegen::kernels::bias::AddBias;
use monomorph_codegen::kernels::embed::Embed;
use monomorph_codegen::kernels::ffn::{Crew, GateUp};
use monomorph_codegen::kernels::norm::Norm;
use monomorph_codegen::kernels::post_norm::PostNorm;
use monomorph_codegen::kernels::qk_norm::QkNorm;
use monomorph_codegen::layout::Matrix;
use monomorph_codegen::{Device, ModelSpec};
use plan::{Activation, QType};

/// A small model whose rows are multiples of 32 and 128 and of nothing more.
const MODEL: &str = r#"
name = "variant"
architecture = "qwen2"
vocab_size = 301
dim = 384
hidden_dim = 672
n_layers = 2
n_heads = 3
n_kv_heads = 1
head_dim = 64
context = 128
norm_eps = 1e-5
rope_kind = "neox"
rope_base = 10000.0
tied_head = false
VARIANT
[types]
token_embd = "q5_0"
output = "f16"
attn_q = "q8_0"
attn_k = "q4_1"
attn_v = "q5_0"
attn_output = "q4_0"
FFN_GATE
ffn_up = "q8_0"
ffn_down = "q5_1"
"#;

const ACTIVATIONS: [Activation; 4] =
    [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::GeluQuick];

#[test]
fn every_activation_gated_and_alone() {
    let m = |qtype| Matrix { qtype, rows: 64, cols: 640 };
    for activation in ACTIVATIONS {
        check(
            &GateUp {
                gate: m(QType::Q5_0),
                up: m(QType::Q8_0),
                activation,
                unroll: 2,
                norm: None,
                crew: Crew::BLOCK,
            },
            0..2,
        );
        for (dim, bias, rows) in [(32, false, 1), (96, true, 1), (672, false, 3), (1056, true, 2)] {
            check(&Activate { dim, activation, bias, rows }, 0..4);
        }
    }
}

#[test]
fn norms_of_heads_and_behind_matrices() {
    for (n_heads, n_kv_heads, head_dim) in [(4, 1, 256), (16, 8, 128), (3, 1, 64), (2, 2, 80), (5, 1, 96)] {
        for rows in [1, 3] {
            check(&QkNorm { n_heads, n_kv_heads, head_dim, eps: 1e-6, rows }, 0..3);
        }
    }
    for (dim, rows) in [(128, 1), (640, 1), (640, 3), (5376, 2)] {
        check(&PostNorm(Norm { dim, eps: 1e-6, rows }), 0..3);
    }
}

#[test]
fn biases_are_added_to_the_rows_that_there_are() {
    for (dim, rows) in [(1, 1), (255, 1), (256, 4), (301, 3)] {
        check(&AddBias { dim, rows }, 0..3);
    }
}

/// A model with a plain feed-forward and biases behind every matrix, and one with all norms and windows.
const VARIANTS: [&str; 2] = [
    r#"
attn_output_bias = true
ffn = "gelu_erf"
ffn_bias = true
head_bias = true
qkv_bias = true
"#,
    r#"
ffn = "geglu_quick"
qk_norm = true
post_norms = true
embed_scale = 19.5
score_dim = 100
attn_output_bias = true
qkv_bias = false
sliding = { window = 16, global_every = 2, rope_base = 10000.0 }
"#,
];

#[test]
fn every_kernel_of_the_variants_computes_its_equation() {
    for variant in VARIANTS {
        let gate = if variant.contains("geglu") { "ffn_gate = \"q4_0\"" } else { "" };
        let text = MODEL.replace("VARIANT", variant).replace("FFN_GATE", gate);
        let spec = ModelSpec::from_toml(&text).unwrap();
        let plan = monomorph_codegen::plan::build(&spec, Device::from_sm(90).unwrap()).unwrap();
        for operation in &plan.operations {
            check(operation.as_ref(), 0..2);
        }
    }
}

#[test]
fn the_embedding_is_scaled_after_all_else() {
    for qtype in QType::ALL {
        check(&Embed { matrix: Matrix { qtype, rows: 9, cols: 512 }, scale: 25.298_222, rows: 2 }, 0..3);
    }
}
