//! Model files made here: the tiny spec with the program's own random weights and placeholder vocabulary, whole or with
//! one thing wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use codegen::layout::Matrix;
use codegen::rng::Rng;
use monomorph::plan::{QType, Table};
use monomorph::runtime::gguf::GgmlType;
use monomorph::runtime::gguf::write::{KvValue, Writer};
use monomorph::runtime::synth::SynthSource;
use monomorph::{compiled_table, vocabulary};

/// The seed of the program's random weights.
const WEIGHTS_SEED: u64 = 1;

pub fn tiny_table() -> &'static Table {
    compiled_table("tiny", 90).unwrap()
}

/// A folder of this test program.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
    fs::remove_dir_all(&path).ok();
    fs::create_dir_all(&path).unwrap();
    path
}

/// The tiny model as a file that loads.
pub fn tiny_gguf() -> &'static str {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let path = FILE.get_or_init(|| {
        let path = folder("tiny").join("tiny.gguf");
        fs::write(&path, bytes(metadata())).unwrap();
        path
    });
    path.to_str().unwrap()
}

/// The tiny model with other metadata, or more.
pub fn changed_gguf(name: &str, changes: &[(&str, KvValue)]) -> String {
    let mut metadata = metadata();
    for (key, value) in changes {
        match metadata.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value.clone(),
            None => metadata.push(((*key).into(), value.clone())),
        }
    }
    let path = folder(name).join("changed.gguf");
    fs::write(&path, bytes(metadata)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The tiny model with matrices of a plain type, before it is quantized.
pub fn plain_gguf(qtype: QType) -> Vec<u8> {
    let mut writer = Writer::new();
    for (key, value) in metadata() {
        writer = writer.kv(key, value);
    }
    let mut rng = Rng::new(WEIGHTS_SEED);
    for weight in tiny_table().weights.iter() {
        let is_vector = weight.rows == 1;
        let matrix = Matrix {
            qtype: if is_vector { QType::F32 } else { qtype },
            rows: weight.rows,
            cols: weight.cols,
        };
        let dims = [u64::from(weight.cols), u64::from(weight.rows)];
        let dims = if is_vector { &dims[..1] } else { &dims[..] };
        let ty = GgmlType::from_id(matrix.qtype.ggml_id()).unwrap();
        writer = writer.tensor(weight.name(), dims, ty, matrix.random(&mut rng));
    }
    writer.finish().unwrap()
}

fn bytes(metadata: Vec<(String, KvValue)>) -> Vec<u8> {
    let table = tiny_table();
    let source = SynthSource::new(WEIGHTS_SEED);
    let mut writer = Writer::new();
    for (key, value) in metadata {
        writer = writer.kv(key, value);
    }
    for weight in table.weights.iter() {
        let mut data = vec![0; weight.raw_bytes() as usize];
        source.fill(table, weight, 0, &mut data);
        let dims = match weight.rows {
            1 => vec![u64::from(weight.cols)],
            rows => vec![u64::from(weight.cols), u64::from(rows)],
        };
        let ty = GgmlType::from_id(weight.qtype.ggml_id()).unwrap();
        writer = writer.tensor(weight.name(), &dims, ty, data);
    }
    writer.finish().unwrap()
}

fn metadata() -> Vec<(String, KvValue)> {
    let d = &tiny_table().dims;
    let vocab = vocabulary::placeholder(d.vocab_size).unwrap();
    let tokens = KvValue::strings(vocab.tokens.iter());
    vec![
        ("general.architecture".into(), "llama".into()),
        ("llama.embedding_length".into(), d.dim.into()),
        ("llama.block_count".into(), d.n_layers.into()),
        ("llama.feed_forward_length".into(), d.hidden_dim.into()),
        ("llama.context_length".into(), d.context.into()),
        ("llama.attention.head_count".into(), d.n_heads.into()),
        ("llama.attention.head_count_kv".into(), d.n_kv_heads.into()),
        ("llama.attention.layer_norm_rms_epsilon".into(), d.norm_eps.into()),
        ("llama.rope.freq_base".into(), d.rope_base.into()),
        ("tokenizer.ggml.model".into(), "llama".into()),
        ("tokenizer.ggml.tokens".into(), tokens),
        ("tokenizer.ggml.token_type".into(), KvValue::i32s(&vocab.token_types.unwrap())),
        ("tokenizer.ggml.scores".into(), KvValue::f32s(&vocab.scores.unwrap())),
        ("tokenizer.ggml.add_space_prefix".into(), false.into()),
    ]
}
