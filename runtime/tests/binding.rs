//! Whether a file is the model of a table: each single difference is found and named, and nothing else is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::borrow::Cow;
use std::sync::Arc;

use monomorph_runtime::gguf::write::{KvValue, Writer};
use monomorph_runtime::gguf::{GgmlType, Gguf, Value};
use monomorph_runtime::queue::Queue;
use monomorph_runtime::synth::{SynthError, write_gguf};
use monomorph_runtime::tokenizer::{ControlTokens, Special, Tokenizer};
use monomorph_runtime::{BindError, Error, LoadOptions, Model, WeightSource, select_table};
use plan::{QType, Sliding, Slot, Table};
use support::{DIM, HostQueue, toy_table};

/// The toy model with a vocabulary that has room for all bytes.
fn table() -> Table {
    let mut table = toy_table();
    table.dims.vocab_size = 300;
    let weights = table.weights.to_mut();
    weights[0].rows = 300;
    weights[0].packed_bytes = weights[0].raw_bytes();
    let logits =
        table.steps.to_mut()[0].buffers.to_mut().iter_mut().find(|b| b.slot == Slot::Logits).unwrap();
    logits.bytes = 300 * 4;
    table.steps.to_mut()[0].arena_bytes = 256 + 300 * 4;
    table
}

/// What a change does to one metadata entry: keeps, replaces or drops it.
type KvEdit<'a> = &'a dyn Fn(&str) -> Option<Option<KvValue>>;
/// What a change does to one tensor.
type TensorEdit<'a> = &'a dyn Fn(&str, &mut Vec<u64>, &mut GgmlType) -> bool;

fn keep_kv(_: &str) -> Option<Option<KvValue>> {
    None
}

fn keep_tensor(_: &str, _: &mut Vec<u64>, _: &mut GgmlType) -> bool {
    true
}

/// The scalar metadata and the tensors of the toy file, edited.
fn edited(kv: KvEdit<'_>, tensor: TensorEdit<'_>, extra: Option<(&str, &[u64], &[f32])>) -> Gguf {
    let original = Gguf::from_bytes(write_gguf(&table(), 1).unwrap()).unwrap();
    let mut writer = Writer::new();
    for (key, value) in original.entries() {
        let value = match value {
            Value::U32(v) => KvValue::U32(v),
            Value::F32(v) => KvValue::F32(v),
            Value::Str(v) => KvValue::Str(v.to_owned()),
            _ => continue,
        };
        match kv(key) {
            None => writer = writer.kv(key, value),
            Some(Some(other)) => writer = writer.kv(key, other),
            Some(None) => {}
        }
    }
    for t in original.tensors() {
        let (mut dims, mut ty) = (t.dims().to_vec(), t.ggml_type());
        if tensor(t.name(), &mut dims, &mut ty) {
            let bytes = dims.iter().product::<u64>() / ty.block_elems() * ty.block_bytes();
            writer = writer.tensor(t.name(), &dims, ty, vec![0u8; bytes as usize]);
        }
    }
    if let Some((name, dims, values)) = extra {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer = writer.tensor(name, dims, GgmlType::F32, bytes);
    }
    Gguf::from_bytes(writer.finish().unwrap()).unwrap()
}

fn refusal(gguf: &Gguf) -> BindError {
    match gguf.bind(&table()) {
        Ok(_) => panic!("accepted"),
        Err(error) => error,
    }
}

#[test]
fn the_synthetic_file_fits_and_loads() {
    let gguf = Gguf::from_bytes(write_gguf(&table(), 1).unwrap()).unwrap();
    let tables = [table()];
    assert_eq!(select_table(&gguf, &tables, Some(90)).unwrap().spec, "toy");
    let queue: Arc<dyn Queue> = Arc::new(HostQueue::new());
    let mut table = table();
    // The toy's repack kernel knows one shape only.
    table.weights.to_mut()[0].repack = None;
    let model = Model::load(&queue, &table, &gguf, &LoadOptions::default()).unwrap();
    let mut norm = vec![0; DIM * 4];
    model.weights()[1].download(0, &mut norm).unwrap();
    let mut wanted = vec![0; DIM * 4];
    gguf.read_tensor(gguf.find_tensor("output_norm.weight").unwrap().idx(), 0, &mut wanted).unwrap();
    assert!(norm == wanted && norm.iter().any(|b| *b != 0));
}

#[test]
fn the_synthetic_vocabulary_takes_any_text_there_and_back() {
    let gguf = Gguf::from_bytes(write_gguf(&table(), 1).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(tokenizer.vocab_size(), 300);
    assert!(tokenizer.is_end(256) && !tokenizer.is_end(255));
    let text = "Größe 7\n\u{7f} — \u{1f980}!";
    let tokens = tokenizer.encode(text, Special::AsText).unwrap();
    assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(tokenizer.decode(&tokens, ControlTokens::Hide).unwrap(), text);
    let error = write_gguf(&toy_table(), 1).unwrap_err();
    assert!(matches!(error, SynthError::Vocabulary { found: 16, wanted: 257, .. }), "{error}");
}

#[test]
fn each_hyperparameter_is_compared() {
    let changes: [(&str, KvValue); 9] = [
        ("toy.embedding_length", KvValue::U32(33)),
        ("toy.block_count", KvValue::U32(2)),
        ("toy.feed_forward_length", KvValue::U32(65)),
        ("toy.attention.head_count", KvValue::U32(2)),
        ("toy.attention.head_count_kv", KvValue::U32(2)),
        ("toy.attention.key_length", KvValue::U32(16)),
        ("toy.attention.value_length", KvValue::U32(16)),
        ("toy.attention.layer_norm_rms_epsilon", KvValue::F32(1e-6)),
        ("toy.rope.freq_base", KvValue::F32(500_000.0)),
    ];
    for (wanted, value) in changes {
        let edit = |key: &str| (key == wanted).then(|| Some(value.clone()));
        let error = refusal(&edited(&edit, &keep_tensor, None));
        let text = error.to_string();
        assert!(matches!(&error, BindError::Hyperparameter { key, .. } if key.as_str() == wanted), "{text}");
        assert!(text.contains("spec toy has") && text.len() <= 300, "{text}");
    }
    let edit = |key: &str| (key == "general.architecture").then(|| Some(KvValue::Str("llama".into())));
    assert!(refusal(&edited(&edit, &keep_tensor, None)).to_string().contains("llama"));
}

#[test]
fn absent_hyperparameters_mean_their_defaults_or_are_missing() {
    // Base 10000, as many KV heads as heads, head_dim = dim / heads: all as in the toy.
    for optional in
        ["rope.freq_base", "attention.head_count_kv", "attention.key_length", "attention.value_length"]
    {
        let name = format!("toy.{optional}");
        let drop = |key: &str| (key == name).then_some(None);
        assert!(edited(&drop, &keep_tensor, None).bind(&table()).is_ok(), "{name}");
    }
    for needed in ["block_count", "attention.head_count", "attention.layer_norm_rms_epsilon"] {
        let name = format!("toy.{needed}");
        let drop = |key: &str| (key == name).then_some(None);
        let error = refusal(&edited(&drop, &keep_tensor, None));
        assert!(matches!(error, BindError::File(_)) && error.to_string().contains(&name), "{error}");
    }
}

#[test]
fn frequencies_that_no_kernel_scales_are_refused() {
    let swap = |key: &str| (key == "general.name").then(|| Some(KvValue::Str("x".into())));
    assert!(edited(&swap, &keep_tensor, None).bind(&table()).is_ok());
    for (kind, accepted) in [("none", true), ("linear", false), ("yarn", false)] {
        let original = edited(&keep_kv, &keep_tensor, None);
        let mut writer = Writer::new().kv("toy.rope.scaling.type", KvValue::Str(kind.into()));
        for (key, value) in original.entries() {
            writer = match value {
                Value::U32(v) => writer.kv(key, KvValue::U32(v)),
                Value::F32(v) => writer.kv(key, KvValue::F32(v)),
                Value::Str(v) => writer.kv(key, KvValue::Str(v.to_owned())),
                _ => writer,
            };
        }
        for t in original.tensors() {
            writer = writer.tensor(t.name(), t.dims(), t.ggml_type(), vec![0u8; t.bytes() as usize]);
        }
        let gguf = Gguf::from_bytes(writer.finish().unwrap()).unwrap();
        assert_eq!(gguf.bind(&table()).is_ok(), accepted, "{kind}");
    }
}

#[test]
fn missing_wrong_and_extra_tensors_are_named() {
    let name = "blk.0.attn_norm.weight";
    let gone = |n: &str, _: &mut Vec<u64>, _: &mut GgmlType| n != name;
    let error = refusal(&edited(&keep_kv, &gone, None));
    assert!(matches!(&error, BindError::Missing { layer: Some(0), .. }), "{error}");
    assert!(
        error.to_string().contains("attn_norm, layer 0") && error.to_string().contains("[32] f32"),
        "{error}"
    );
    assert!(error.to_string().contains("architecture toy"), "{error}");

    let longer = |n: &str, dims: &mut Vec<u64>, _: &mut GgmlType| {
        if n == name {
            dims[0] = 33;
        }
        true
    };
    let text = refusal(&edited(&keep_kv, &longer, None)).to_string();
    assert!(text.contains("[33] f32") && text.contains("[32] f32") && text.contains(name), "{text}");

    let other = |n: &str, _: &mut Vec<u64>, ty: &mut GgmlType| {
        if n == name {
            *ty = GgmlType::F16;
        }
        true
    };
    let text = refusal(&edited(&keep_kv, &other, None)).to_string();
    assert!(text.contains("[32] f16") && text.contains("[32] f32"), "{text}");

    let bias = refusal(&edited(&keep_kv, &keep_tensor, Some(("blk.0.attn_q.bias", &[2], &[0.0, 0.0]))));
    assert!(matches!(&bias, BindError::Extra { found: 4, wanted: 3, .. }), "{bias}");
    assert!(bias.to_string().contains("blk.0.attn_q.bias"), "{bias}");
}

#[test]
fn factors_of_the_frequencies_go_into_the_rope_table() {
    let factors: Vec<f32> = (0..16).map(|i| 1.0 + i as f32).collect();
    let load = |factors: &[f32]| {
        let gguf = edited(&keep_kv, &keep_tensor, Some(("rope_freqs.weight", &[16], factors)));
        let mut table = table();
        table.weights.to_mut()[0].repack = None;
        let queue: Arc<dyn Queue> = Arc::new(HostQueue::new());
        let model = Model::load(&queue, &table, &gguf, &LoadOptions::default())?;
        let mut row = vec![0; 2 * 16 * 8];
        model.session()?.read_slot(Slot::RopeTable, &mut row)?;
        Ok::<_, Error>(row)
    };
    let row = load(&factors).unwrap();
    let at = |pair: usize| f32::from_le_bytes(*row[128 + pair * 8 + 4..].first_chunk().unwrap());
    assert_eq!(at(0), 1f64.sin() as f32);
    assert_eq!(at(3), (10_000f64.powf(-6.0 / 32.0) / 4.0).sin() as f32);
    let mut bad = factors;
    bad[5] = 0.0;
    let error = load(&bad).unwrap_err();
    assert!(error.to_string().contains("factor 5 is 0"), "{error}");
}

#[test]
fn a_scale_that_is_not_finite_stops_the_load_and_names_its_block() {
    let mut table = table();
    for weight in table.weights.to_mut() {
        weight.repack = None;
    }
    let mut bytes = write_gguf(&table, 1).unwrap();
    let at = {
        let gguf = Gguf::from_bytes(bytes.clone()).unwrap();
        gguf.find_tensor("output_norm.weight").unwrap().file_offset() as usize
    };
    bytes[at + 4 * 9..at + 4 * 10].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let host = Arc::new(HostQueue::new());
    let queue: Arc<dyn Queue> = host.clone();
    let gguf = Gguf::from_bytes(bytes).unwrap();
    let error = Model::load(&queue, &table, &gguf, &LoadOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("output_norm.weight") && text.contains("block 9") && text.contains("inf"),
        "{text}"
    );
    assert_eq!(host.allocations().1, 0);
}

#[test]
fn a_file_without_a_table_is_told_what_is_nearest() {
    let gguf = Gguf::from_bytes(write_gguf(&table(), 1).unwrap()).unwrap();
    let named = |spec: &'static str, change: fn(&mut Table)| {
        let mut table = table();
        table.spec = Cow::Borrowed(spec);
        change(&mut table);
        table
    };
    let far = named("far", |t| t.dims.architecture = Cow::Borrowed("llama"));
    let near = named("near", |t| t.weights.to_mut()[2].qtype = QType::F16);
    let text = select_table(&gguf, &[far.clone(), near], None).unwrap_err().to_string();
    assert!(text.contains("compiled: far, near") && text.contains("nearest is near"), "{text}");
    // What to do about it is the program's to say: an embedder has no folder of specs.
    assert!(text.contains("blk.0.attn_norm.weight") && text.contains("[32] f16"), "{text}");
    assert!(matches!(select_table(&gguf, &[], None), Err(BindError::NoSpecs)));
    let sm_100 = named("toy", |t| t.sm = 100);
    let both = [far, table(), sm_100.clone()];
    assert_eq!(select_table(&gguf, &both, Some(90)).unwrap().sm, 90);
    assert_eq!(select_table(&gguf, &both, Some(120)).unwrap().sm, 100);
    let error = select_table(&gguf, &[sm_100], Some(90)).unwrap_err();
    assert!(matches!(&error, BindError::NoTarget { device_sm: 90, .. }), "{error}");
}

/// The toy with windows and scaled frequencies.
fn varied() -> Table {
    let mut table = table();
    table.dims.variant.sliding = Some(Sliding { window: 16, global_every: 6, rope_base: 5e3 });
    table.dims.variant.rope_scale = 8.0;
    table
}

#[test]
fn windows_and_scaled_frequencies_are_compared() {
    let whole = Gguf::from_bytes(write_gguf(&varied(), 1).unwrap()).unwrap();
    assert!(whole.bind(&varied()).is_ok());
    let changed = |wanted: &str, value: Option<KvValue>| {
        let mut writer = Writer::new();
        for (key, old) in whole.entries() {
            let kept = match old {
                Value::U32(v) => KvValue::U32(v),
                Value::F32(v) => KvValue::F32(v),
                Value::Str(v) => KvValue::Str(v.to_owned()),
                _ => continue,
            };
            match (key == wanted, &value) {
                (true, None) => {}
                (true, Some(value)) => writer = writer.kv(key, value.clone()),
                (false, _) => writer = writer.kv(key, kept),
            }
        }
        for t in whole.tensors() {
            writer = writer.tensor(t.name(), t.dims(), t.ggml_type(), vec![0u8; t.bytes() as usize]);
        }
        Gguf::from_bytes(writer.finish().unwrap()).unwrap()
    };
    let cases = [
        ("toy.attention.sliding_window", Some(KvValue::U32(17)), false),
        ("toy.attention.sliding_window", None, false),
        ("toy.attention.sliding_window_pattern", Some(KvValue::U32(5)), false),
        ("toy.attention.sliding_window_pattern", None, true),
        ("toy.rope.freq_base_swa", Some(KvValue::F32(1e4)), false),
        ("toy.rope.freq_base_swa", None, true),
        ("toy.rope.scaling.factor", Some(KvValue::F32(4.0)), false),
        ("toy.rope.scaling.factor", None, false),
        ("toy.rope.scaling.type", Some(KvValue::Str("yarn".into())), false),
    ];
    for (key, value, accepted) in cases {
        let gguf = changed(key, value.clone());
        match gguf.bind(&varied()) {
            Ok(_) => assert!(accepted, "{key} {value:?}"),
            Err(error) => assert!(!accepted && error.to_string().contains(key), "{key} {value:?}: {error}"),
        }
    }
    // Without windows and scaling in the spec, a file that asks for them is another model.
    for key in ["toy.attention.sliding_window", "toy.rope.scaling.factor"] {
        let mut table = varied();
        match key.contains("window") {
            true => table.dims.variant.sliding = None,
            false => table.dims.variant.rope_scale = 1.0,
        }
        let Err(error) = whole.bind(&table) else { panic!("{key} accepted") };
        assert!(error.to_string().contains(key), "{error}");
    }
}
