//! Specs: the shipped files, both directions of the TOML form, and refusals.

use super::header::{Header, TensorHeader};
use super::*;
use ::plan::{Activation, Ffn, Sliding, Slot, Variant};

fn shipped(name: &str) -> ModelSpec {
    let path = format!("{}/../models/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    ModelSpec::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn shipped_specs_survive_printing() {
    for name in ["tiny", "qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b", "qwen3-0.6b", "gemma-3-270m"] {
        let spec = shipped(name);
        assert_eq!(spec.name, name);
        assert_eq!(ModelSpec::from_toml(&spec.to_toml()).unwrap(), spec);
    }
}

#[test]
fn the_hash_moves_with_every_field_and_the_device() {
    let base = shipped("tiny");
    let device = Device::from_sm(90).unwrap();
    let mut other = base.clone();
    other.dims.norm_eps *= 2.0;
    assert_ne!(base.hash(device), other.hash(device));
    assert_ne!(base.hash(device), base.hash(Device::from_sm(80).unwrap()));
    assert_eq!(base.hash(device), base.clone().hash(device));
}

#[test]
fn refusals_name_the_field_and_both_numbers() {
    let mut spec = shipped("tiny");
    spec.dims.dim = 1000;
    let text = spec.check().unwrap_err().to_string();
    assert!(text.contains("dim = 1000") && text.contains("128"), "{text}");
    let mut spec = shipped("tiny");
    spec.dims.architecture = "mamba".into();
    assert!(spec.check().unwrap_err().to_string().contains("mamba"));
    let mut spec = shipped("tiny");
    spec.dims.hidden_dim = 1040;
    let text = spec.check().unwrap_err().to_string();
    assert!(text.contains("hidden_dim = 1040") && text.contains("32"), "{text}");
    let mut spec = shipped("tiny");
    spec.types.0.remove(&Role::FfnDown);
    let text = spec.check().unwrap_err().to_string();
    assert!(text.contains("types.ffn_down") && text.contains("q8_0"), "{text}");
}

#[test]
fn heads_are_multiples_of_16_that_fill_blocks() {
    let with = |n_heads, n_kv_heads, head_dim, kv_type| {
        let mut spec = shipped("tiny");
        (spec.dims.n_heads, spec.dims.n_kv_heads, spec.dims.head_dim) = (n_heads, n_kv_heads, head_dim);
        spec.dims.kv_type = kv_type;
        for role in [Role::AttnOutput, Role::AttnQ] {
            spec.types.0.insert(role, LayerTypes::uniform(QType::Q8_0));
        }
        spec.check()
    };
    for head_dim in [16, 80, 96, 112, 256] {
        with(4, 2, head_dim, KvType::Q8_0).unwrap();
    }
    let refused = |heads: (u32, u32, u32), kv, parts: [&str; 2]| {
        let text = with(heads.0, heads.1, heads.2, kv).unwrap_err().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    refused((4, 2, 72), KvType::F16, ["head_dim = 72", "16"]);
    refused((4, 2, 272), KvType::F16, ["head_dim = 272", "256"]);
    refused((3, 1, 80), KvType::F16, ["n_heads = 3", "240"]);
    refused((4, 1, 80), KvType::Q8_0, ["n_kv_heads = 1", "80"]);
    with(4, 1, 80, KvType::F32).unwrap();
}

#[test]
fn the_type_of_the_cache_is_said_where_it_is_not_f16() {
    let spec = shipped("tiny");
    assert_eq!((spec.dims.kv_type, spec.to_toml().contains("kv_type")), (KvType::F16, false));
    let text = spec.to_toml().replace("tied_head", "kv_type = \"q8_0\"\ntied_head");
    let q8 = ModelSpec::from_toml(&text).unwrap();
    assert_eq!(q8.dims.kv_type, KvType::Q8_0);
    assert_eq!(ModelSpec::from_toml(&q8.to_toml()).unwrap(), q8);
    let wrong =
        ModelSpec::from_toml(&text.replace("\"q8_0\"\ntied", "\"q9\"\ntied")).unwrap_err().to_string();
    assert!(wrong.contains("kv_type = q9") && wrong.contains("q8_0"), "{wrong}");
}

#[test]
fn rows_must_be_whole_blocks_of_their_type() {
    let mut spec = shipped("tiny");
    spec.dims.hidden_dim = 1120;
    spec.types.0.insert(Role::FfnDown, LayerTypes::uniform(QType::Q5K));
    let text = spec.check().unwrap_err().to_string();
    for part in ["blk.0.ffn_down.weight", "q5_k", "1120", "256"] {
        assert!(text.contains(part), "{text}");
    }
    for qtype in QType::ALL.into_iter().filter(|t| t.block_elems() <= 32) {
        spec.types.0.insert(Role::FfnDown, LayerTypes::uniform(qtype));
        spec.check().unwrap();
    }
}

#[test]
fn a_mixed_role_gives_each_layer_its_type() {
    use QType::{Q4K, Q6K};
    let types = LayerTypes::from_layers(&[Q6K, Q4K, Q4K, Q6K, Q4K]).unwrap();
    assert_eq!((types.default, types.others[&Q6K].as_slice()), (Q4K, [0, 3].as_slice()));
    assert_eq!((0..5).map(|l| types.get(l)).collect::<Vec<_>>(), [Q6K, Q4K, Q4K, Q6K, Q4K]);
}

#[test]
fn what_a_variant_leaves_out_is_llama() {
    let text = shipped("tiny").to_toml();
    for word in ["ffn =", "qk_norm", "post_norms", "bias_", "scale", "sliding"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    let mut spec = shipped("tiny");
    spec.dims.variant = Variant {
        ffn: Ffn::Gated(Activation::GeluErf),
        qk_norm: true,
        post_norms: true,
        attn_output_bias: true,
        head_bias: true,
        embed_scale: 16.0,
        score_dim: 168,
        rope_scale: 8.0,
        sliding: Some(Sliding { window: 512, global_every: 6, rope_base: 1e4 }),
        ffn_bias: false,
    };
    assert_eq!(ModelSpec::from_toml(&spec.to_toml()).unwrap(), spec);
    let text = spec.to_toml().replace("geglu_erf", "relu");
    let error = ModelSpec::from_toml(&text).unwrap_err().to_string();
    assert!(error.contains("ffn = relu") && error.contains("gelu_quick"), "{error}");
}

#[test]
fn variants_that_make_no_sense_are_refused() {
    type Change = fn(&mut Variant);
    let changes: [(&str, Change); 4] = [
        ("ffn_bias = true", |v| v.ffn_bias = true),
        ("embed_scale = 0", |v| v.embed_scale = 0.0),
        ("sliding.window = 0", |v| v.sliding = Some(Sliding { window: 0, global_every: 6, rope_base: 1e4 })),
        ("sliding.rope_base = 1,", |v| {
            v.sliding = Some(Sliding { window: 9, global_every: 6, rope_base: 1.0 });
        }),
    ];
    let mut biased = shipped("tiny");
    (biased.dims.qkv_bias, biased.dims.variant.qk_norm) = (true, true);
    assert!(biased.check().unwrap_err().to_string().contains("qkv_bias = true"));
    for (wanted, change) in changes {
        let mut spec = shipped("tiny");
        change(&mut spec.dims.variant);
        let text = spec.check().unwrap_err().to_string();
        assert!(text.contains(wanted), "{text}");
    }
}

/// The header of a model of one layer whose matrices are all Q8_0.
fn header(architecture: &str, numbers: &[(&str, f64)], extra: &[&str]) -> Header {
    let common = [
        ("embedding_length", 640.0),
        ("feed_forward_length", 2048.0),
        ("block_count", 1.0),
        ("attention.head_count", 4.0),
        ("attention.head_count_kv", 1.0),
        ("attention.key_length", 256.0),
        ("context_length", 32768.0),
        ("attention.layer_norm_rms_epsilon", 1e-6),
    ];
    let numbers = common.iter().chain(numbers).map(|(key, value)| (format!("{architecture}.{key}"), *value));
    let words = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let names = words.iter().map(|word| format!("blk.0.{word}.weight"));
    let names = names.chain(["token_embd.weight".to_owned()]).chain(extra.iter().map(|n| (*n).to_owned()));
    let tensor =
        |name| (name, TensorHeader { type_id: 8, type_name: "q8_0".into(), dims: vec![640, 262_144] });
    Header {
        file: "f.gguf".into(),
        architecture: architecture.into(),
        numbers: numbers.collect(),
        tensors: names.map(tensor).collect(),
    }
}

#[test]
fn a_header_of_gemma3_gives_its_variant() {
    let numbers = [("attention.sliding_window", 512.0), ("rope.freq_base", 1e6)];
    let dims = ModelSpec::from_header("g", &header("gemma3", &numbers, &[])).unwrap().dims;
    let v = &dims.variant;
    assert_eq!(v.ffn, Ffn::Gated(Activation::GeluTanh));
    assert!(v.qk_norm && v.post_norms && !v.attn_output_bias && !dims.qkv_bias && dims.tied_head);
    assert_eq!(v.embed_scale, 640f32.sqrt());
    assert_eq!(v.sliding, Some(Sliding { window: 512, global_every: 6, rope_base: 1e4 }));
    assert_eq!((dims.window(0), dims.window(5)), (Some(512), None));
    assert_eq!((dims.rope_slot(4), dims.rope_slot(5)), (Slot::RopeTableLocal, Slot::RopeTable));
    assert_eq!(dims.score_scale(), 1.0 / 16.0);

    // The one model of the family that scales scores by the width of its stream.
    let mut large = header("gemma3", &[("rope.scaling.factor", 8.0)], &[]);
    large.numbers.insert("gemma3.block_count".into(), 62.0);
    for layer in 1..62 {
        for word in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
            let one = large.tensors["blk.0.attn_q.weight"].clone();
            large.tensors.insert(format!("blk.{layer}.{word}.weight"), one);
        }
    }
    let dims = ModelSpec::from_header("g", &large).unwrap().dims;
    assert_eq!((dims.variant.score_dim, dims.variant.rope_scale, dims.variant.sliding), (160, 8.0, None));
}

#[test]
fn biases_are_found_in_the_tensors_and_qwen3_has_head_norms() {
    let dims = |arch, extra: &[&str]| ModelSpec::from_header("m", &header(arch, &[], extra)).unwrap().dims;
    let qwen3 = dims("qwen3", &[]);
    assert!(qwen3.variant.qk_norm && !qwen3.qkv_bias && !qwen3.variant.post_norms);
    assert_eq!(dims("llama", &[]).variant, Variant::LLAMA);
    let biased =
        dims("llama", &["blk.0.attn_q.bias", "blk.0.attn_output.bias", "output.weight", "output.bias"]);
    assert!(biased.qkv_bias && biased.variant.attn_output_bias && biased.variant.head_bias);
    assert!(dims("qwen2", &[]).qkv_bias, "whether the file has them or not");
    let spec = ModelSpec::from_header("m", &header("qwen3", &[], &[])).unwrap();
    let added: Vec<Role> = spec.roles().into_iter().filter(|role| !shipped("tiny").has(*role)).collect();
    assert_eq!(added, [Role::AttnQNorm, Role::AttnKNorm]);
    assert_eq!(spec.shape(Role::AttnKNorm), (1, 256));
}

#[test]
fn rows_of_steps_are_a_choice_that_is_said_where_it_is_another() {
    let spec = shipped("tiny");
    assert!(!spec.to_toml().contains("steps"));
    let with = |steps: &str| ModelSpec::from_toml(&format!("{}\n[steps]\n{steps}\n", spec.to_toml()));
    let other = with("decode = [1, 3, 64]").unwrap();
    assert_eq!(other.steps, StepRows { decode: vec![1, 3, 64], prefill: StepRows::default().prefill });
    assert_eq!(ModelSpec::from_toml(&other.to_toml()).unwrap(), other);
    let device = Device::from_sm(90).unwrap();
    assert_ne!(other.hash(device), spec.hash(device));
    assert_eq!(with("prefill = []").unwrap().steps.prefill, []);
    for (steps, parts) in [
        ("decode = []", ["steps.decode = []", "1 row"]),
        ("decode = [2, 4]", ["steps.decode = [2, 4]", "1 row"]),
        ("decode = [1, 8, 8]", ["steps.decode = [1, 8, 8]", "ascend"]),
        ("decode = [1, 65]", ["steps.decode = 65", "1 to 64"]),
        ("prefill = [1]", ["steps.prefill = 1", "2 to 1024"]),
        ("prefill = [64, 32]", ["steps.prefill = [64, 32]", "ascend"]),
        ("prefill = [2048]", ["steps.prefill = 2048", "2 to 1024"]),
        ("rows = [1]", ["rows", "decode"]),
    ] {
        let text = with(steps).unwrap_err().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{steps}: {text}");
    }
    let many: Vec<String> = (1..=17).map(|n| n.to_string()).collect();
    let text = with(&format!("decode = [{}]", many.join(", "))).unwrap_err().to_string();
    assert!(text.contains("steps.decode = 17") && text.contains("16"), "{text}");
}
