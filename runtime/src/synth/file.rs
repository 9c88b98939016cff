//! A complete small model file: random weights, and a vocabulary of single bytes, so that text goes in and comes out.

use plan::{Dims, Table, WeightDesc};

use super::SynthSource;
use crate::gguf::write::{KvValue, WriteError, Writer};
use crate::gguf::{GgmlType, ValueType};

/// Tokens for single bytes come first; the end token follows them.
const N_BYTES: u32 = 256;
/// The text of the end token.
const END_TEXT: &str = "<|endoftext|>";

/// GGUF's numbers for kinds of tokens.
const KIND_NORMAL: i32 = 1;
const KIND_CONTROL: i32 = 3;
const KIND_UNUSED: i32 = 5;

/// Why no model file could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// The vocabulary has no room for all bytes and an end token.
    #[error("spec {spec} has {found} tokens, at least {wanted} are needed for every byte and an end token")]
    Vocabulary {
        /// Name of the spec.
        spec: String,
        /// Its vocabulary.
        found: u32,
        /// The least.
        wanted: u32,
    },
    /// The writer refused.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A GGUF file of `table`'s model with the random weights of `seed` and a byte-level `gpt2` vocabulary: tokens
/// 0 to 255 are the bytes, 256 ends a text, further ones are unused. Meant for small models: it is made in memory.
///
/// # Errors
/// When the vocabulary is too small or the writer refuses a name or shape.
pub fn write_gguf(table: &Table, seed: u64) -> Result<Vec<u8>, SynthError> {
    let (found, wanted) = (table.dims.vocab_size, N_BYTES + 1);
    if found < wanted {
        return Err(SynthError::Vocabulary { spec: table.spec.to_string(), found, wanted });
    }
    let source = SynthSource::new(seed);
    let mut writer = vocabulary(hyperparameters(Writer::new(), table), found);
    for weight in table.weights.iter() {
        let mut data = vec![0; weight.raw_bytes() as usize];
        source.fill(table, weight, 0, &mut data);
        writer = writer.tensor(weight.name(), &shape(weight), ggml_type(weight)?, data);
    }
    Ok(writer.finish()?)
}

fn shape(weight: &WeightDesc) -> Vec<u64> {
    match weight.rows {
        1 => vec![u64::from(weight.cols)],
        rows => vec![u64::from(weight.cols), u64::from(rows)],
    }
}

fn ggml_type(weight: &WeightDesc) -> Result<GgmlType, WriteError> {
    let unknown = || WriteError::Name { name: weight.name(), problem: "has a type that GGUF does not know" };
    GgmlType::from_id(weight.qtype.ggml_id()).ok_or_else(unknown)
}

fn hyperparameters<'a>(writer: Writer<'a>, table: &Table) -> Writer<'a> {
    let dims: &Dims = &table.dims;
    let key = |name: &str| format!("{}.{name}", dims.architecture);
    let variant = &dims.variant;
    let writer = match variant.sliding {
        Some(sliding) => writer
            .kv(key("attention.sliding_window"), sliding.window)
            .kv(key("attention.sliding_window_pattern"), sliding.global_every)
            .kv(key("rope.freq_base_swa"), KvValue::F32(sliding.rope_base)),
        None => writer,
    };
    let writer = match variant.rope_scale {
        1.0 => writer,
        scale => writer
            .kv(key("rope.scaling.type"), text("linear"))
            .kv(key("rope.scaling.factor"), KvValue::F32(scale)),
    };
    writer
        .kv("general.architecture", text(&dims.architecture))
        .kv("general.name", text(&format!("random weights of {}", table.spec)))
        .kv(key("context_length"), dims.context)
        .kv(key("embedding_length"), dims.dim)
        .kv(key("block_count"), dims.n_layers)
        .kv(key("feed_forward_length"), dims.hidden_dim)
        .kv(key("attention.head_count"), dims.n_heads)
        .kv(key("attention.head_count_kv"), dims.n_kv_heads)
        .kv(key("attention.key_length"), dims.head_dim)
        .kv(key("attention.value_length"), dims.head_dim)
        .kv(key("attention.layer_norm_rms_epsilon"), KvValue::F32(dims.norm_eps))
        .kv(key("rope.freq_base"), KvValue::F32(dims.rope_base))
}

fn text(text: &str) -> KvValue {
    KvValue::Str(text.to_owned())
}

fn vocabulary(writer: Writer<'_>, vocab_size: u32) -> Writer<'_> {
    let bytes = (0..=u8::MAX).map(|byte| byte_char(byte).to_string());
    let unused = (N_BYTES + 1..vocab_size).map(|id| format!("<|unused_{id}|>"));
    let tokens = bytes.chain([END_TEXT.to_owned()]).chain(unused);
    let kinds: Vec<i32> = (0..vocab_size)
        .map(|id| match id {
            0..N_BYTES => KIND_NORMAL,
            N_BYTES => KIND_CONTROL,
            _ => KIND_UNUSED,
        })
        .collect();
    writer
        .kv("tokenizer.ggml.model", text("gpt2"))
        .kv("tokenizer.ggml.pre", text("qwen2"))
        .kv("tokenizer.ggml.tokens", KvValue::strings(tokens))
        .kv("tokenizer.ggml.token_type", KvValue::i32s(&kinds))
        .kv("tokenizer.ggml.merges", KvValue::Array(ValueType::Str, Vec::new()))
        .kv("tokenizer.ggml.eos_token_id", N_BYTES)
        .kv("tokenizer.ggml.add_bos_token", KvValue::Bool(false))
}

/// The character that stands for a byte in byte-level vocabularies: itself where it is visible in Latin-1, else the
/// next of those from U+0100 on. Source: GPT-2's `bytes_to_unicode`.
fn byte_char(byte: u8) -> char {
    let is_visible = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if is_visible(byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|byte| !is_visible(*byte)).count() as u32;
    char::from_u32(0x100 + hidden_before).unwrap_or(char::REPLACEMENT_CHARACTER)
}
