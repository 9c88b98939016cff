//! Names, JSON keys, exit codes and streams.

use std::process::Stdio;

use crate::fixture::tiny_gguf;
use crate::{command, run};

pub fn keys(value: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn generate_prints_exactly_the_promised_keys() {
    let args = ["generate", "--spec", "tiny", "--device", "emulator", "-p", "Hi", "-n", "2", "--json"];
    let json = run(&args).json();
    let figures = ["load_s", "prefill_tok_s", "decode_tok_s"];
    let mut promised = ["device", "model", "spec", "prompt_tokens", "tokens", "text"].to_vec();
    promised.extend(figures);
    promised.sort_unstable();
    assert_eq!(keys(&json), promised);
    assert_eq!(json["spec"], "tiny");
    assert_eq!(json["prompt_tokens"], serde_json::json!([1, 3 + 72, 3 + 105]));
    assert!(json["device"].as_str().unwrap().starts_with("emulator"), "{json}");
    for figure in figures {
        assert!(json[figure].as_f64().unwrap() > 0.0, "{figure}: {json}");
    }
}

#[test]
fn generate_needs_no_arguments_and_says_what_it_runs() {
    let ran = run(&["generate", "--device", "emulator", "-n", "1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("built-in model tiny"), "{ran:?}");
    assert!(ran.stdout.ends_with('\n') && ran.stdout.len() > 1, "{ran:?}");
    assert!(ran.stderr.contains("loaded in ") && ran.stderr.contains(" beside weights "), "{ran:?}");
    let ran = run(&["generate", "--spec", "tiny", "--device", "emulator", "-n", "1"]);
    assert!(ran.stderr.contains("random") && ran.stderr.contains("spec tiny"), "{ran:?}");
}

#[test]
fn the_device_is_told_with_the_reason() {
    let ran = run(&["generate", "-n", "1", "-p", "x"]);
    let line = ran.stderr.lines().find(|line| line.starts_with("device: ")).unwrap();
    assert!(line.contains("no CUDA device") || line.contains("cuda:0"), "{line}");
}

#[test]
fn tokenize_gives_ids_with_and_without_special_tokens() {
    let args = ["tokenize", "-m", tiny_gguf(), "-p", "a</s>", "--json"];
    let json = run(&args).json();
    assert_eq!(json, serde_json::json!({ "tokens": [1, 3 + 97, 2] }));
    let plain = run(&["tokenize", "-m", tiny_gguf(), "-p", "a<", "--no-special"]);
    assert_eq!((plain.code, plain.stdout.as_str()), (0, "1 100 63\n"), "{plain:?}");
    // Without a file, the built-in model, which begins every text with its token 0.
    let built_in = run(&["tokenize", "-p", "Once upon a time", "--json"]).json();
    assert_eq!(built_in["tokens"], run(&["generate", "-n", "0", "--json"]).json()["prompt_tokens"]);
}

#[test]
fn inspect_tells_spec_memory_and_tensors() {
    let json = run(&["inspect", tiny_gguf(), "--json"]).json();
    assert_eq!((json["spec"].as_str(), json["compiled"].as_bool()), (Some("tiny"), Some(true)));
    assert_eq!(json["metadata"]["llama.block_count"], 8);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"]["len"], 4096);
    let memory = &json["memory"];
    assert_eq!(memory["context"], 1024);
    // 8 layers of keys and values, 1024 positions of 128 f16.
    assert_eq!(memory["kv_bytes"], 8 * 2 * 1024 * 128 * 2);
    assert!(memory["peak_bytes"].as_u64() > memory["weights_bytes"].as_u64());
    let built_in = run(&["inspect", "--json"]).json();
    assert_eq!((&built_in["file"], &built_in["file_bytes"]), (&"tiny".into(), &5_739_296.into()));
    let text = run(&["inspect", tiny_gguf()]);
    assert!(text.code == 0 && text.stdout.contains("blk.7.ffn_down.weight"), "{text:?}");
}

#[test]
fn kernels_lists_every_kernel_with_its_floor() {
    let json = run(&["kernels", "--spec", "tiny", "--json"]).json();
    let kernels = json["kernels"].as_array().unwrap();
    assert!(kernels.len() > 8, "{json}");
    let expected = [
        "entry",
        "constants",
        "grid",
        "block",
        "registers",
        "shared_bytes",
        "spill_bytes",
        "bytes",
        "macs",
        "launches",
        "floor_us",
        "intensity",
    ];
    for kernel in kernels {
        assert!(expected.iter().all(|key| kernel.get(key).is_some()), "{kernel}");
        let (bytes, floor) = (kernel["bytes"].as_f64().unwrap(), kernel["floor_us"].as_f64().unwrap());
        assert!((floor - bytes / 4.5e6).abs() < 1e-9 * bytes, "{kernel}");
    }
    let text = run(&["kernels", "--spec", "tiny"]);
    assert!(text.code == 0 && text.stdout.contains("4.5 TB/s"), "{text:?}");
}

#[test]
fn bench_measures_what_it_was_asked_to() {
    let args = ["bench", "--spec", "tiny", "--device", "emulator", "-p", "3", "-n", "2", "-r", "2", "--json"];
    let json = run(&args).json();
    assert_eq!((json["prefill"]["tokens"].as_u64(), json["decode"]["tokens"].as_u64()), (Some(3), Some(2)));
    assert_eq!(json["repetitions"], 2);
    let tok_s = json["decode"]["tok_s"].as_f64().unwrap();
    let gb_s = json["weights_bytes"].as_f64().unwrap() * tok_s / 1e9;
    assert!(tok_s > 0.0 && (json["decode_gb_s"].as_f64().unwrap() - gb_s).abs() < 1e-9 * gb_s, "{json}");
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &[] as &[&str],
        &["nonsense"],
        &["generate", "--temperature", "warm"],
        &["generate", "-m", "a.gguf", "--model", "tiny"],
        &["generate", "--spec", "tiny", "--model", "tiny"],
        &["quantize", "a.gguf", "b.gguf"],
        &["quantize", "a.gguf", "b.gguf", "--type", "q3_k_m"],
        &["generate", "--device", "gpu"],
        &["tokenize", "-m", "x.gguf"],
        &["generate", "--threads", "99999"],
        &["verify", "--spec", "tiny", "--threads", "1025"],
        &["logits", "--tokens", "1,x", "-o", "out"],
        &["emit"],
        &["emit", "--spec", "tiny", "--check", "--bless"],
        &["diff", "one.ptx"],
        &["bench", "-r", "0"],
        &["debug", "--spec", "tiny"],
        &["debug", "--tokens", "1", "--stop-after", "embed:x"],
        &["debug", "--tokens", "1", "--against", "cuda:0"],
        &["generate", "--parity", "0"],
    ] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_results() {
    for args in [&["--help"], &["--version"]] {
        let ran = run(args);
        assert!(ran.code == 0 && ran.stdout.contains("monomorph") && ran.stderr.is_empty(), "{ran:?}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = command(&["kernels", "--spec", "tiny"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("error"), "{stderr}");
}
