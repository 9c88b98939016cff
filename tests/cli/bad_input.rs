//! What is refused, and that the refusal is one line which names the place.

use std::fs;

use monomorph::runtime::gguf::write::KvValue;

use crate::fixture::{changed_gguf, folder, tiny_gguf};
use crate::run;

/// Verbs that read a model file.
fn verbs(file: &str) -> [Vec<&str>; 4] {
    [
        vec!["generate", "--device", "emulator", "-n", "1", "-m", file],
        vec!["logits", "--device", "emulator", "--tokens", "1", "-o", "/nonexistent/x.f32", "-m", file],
        vec!["inspect", file],
        vec!["bench", "--device", "emulator", "-p", "1", "-n", "1", "-m", file],
    ]
}

#[test]
fn a_missing_file_is_one_line() {
    for args in verbs("/nonexistent/model.gguf") {
        let ran = run(&args);
        assert_eq!(ran.error().matches("/nonexistent/model.gguf").count(), 1, "{ran:?}");
        assert!(ran.error().contains("fetch-models.sh"), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
}

#[test]
fn what_is_no_model_file_says_what_would_be() {
    let folder = folder("no_model");
    let text = folder.join("notes.txt");
    fs::write(&text, "These are notes.").unwrap();
    for (path, wanted) in [(&folder, "the path of a .gguf file"), (&text, "converted to GGUF")] {
        let path = path.to_str().unwrap();
        let ran = run(&["generate", "--device", "emulator", "-n", "1", "-m", path]);
        assert!(ran.error().contains(path) && ran.error().contains(wanted), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
}

#[test]
fn a_truncated_file_is_refused_at_any_length() {
    let whole = fs::read(tiny_gguf()).unwrap();
    let path = folder("truncated").join("cut.gguf");
    let path = path.to_str().unwrap();
    for kept in [0, 3, 20, 5_000, whole.len() / 2, whole.len() - 1] {
        fs::write(path, &whole[..kept]).unwrap();
        let ran = run(&["inspect", path]);
        assert!(
            ran.error().contains("cut.gguf") && ran.error().contains("fetch it again"),
            "{kept}: {ran:?}"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{kept}: {ran:?}");
    }
    let ran = run(&["generate", "--device", "emulator", "-m", path]);
    assert!(ran.error().contains("cut.gguf"), "{ran:?}");
}

#[test]
fn another_architecture_is_named_with_those_that_are_served() {
    let file = changed_gguf("architecture", &[("general.architecture", KvValue::Str("mamba".into()))]);
    for args in verbs(&file) {
        let ran = run(&args);
        assert!(ran.error().contains("mamba") && ran.error().contains("llama"), "{ran:?}");
    }
}

#[test]
fn another_hyperparameter_is_named_with_both_values() {
    let file = changed_gguf("hyperparameter", &[("llama.rope.freq_base", KvValue::F32(20_000.0))]);
    let ran = run(&["generate", "--device", "emulator", "-n", "1", "-m", &file]);
    let error = ran.error();
    for part in ["llama.rope.freq_base", "20000", "10000", "--jit"] {
        assert!(error.contains(part), "{error}");
    }
    let ran = run(&["inspect", &file, "--json"]);
    assert_eq!(ran.json()["compiled"], false, "{ran:?}");
    let ran =
        run(&["generate", "--device", "emulator", "--jit", "-p", "a", "-n", "1", "-m", &file, "--json"]);
    assert_eq!(ran.json()["tokens"].as_array().unwrap().len(), 1, "{ran:?}");
}

#[test]
fn a_vocabulary_of_another_size_is_refused() {
    let tokens: Vec<String> = (0..300).map(|id| format!("t{id}")).collect();
    let changes = [
        ("tokenizer.ggml.tokens", KvValue::strings(tokens)),
        ("tokenizer.ggml.token_type", KvValue::i32s(&[1; 300])),
        ("tokenizer.ggml.scores", KvValue::f32s(&[0.0; 300])),
    ];
    let file = changed_gguf("vocabulary", &changes);
    let ran = run(&["inspect", &file]);
    assert!(ran.error().contains("300") && ran.error().contains("4096"), "{ran:?}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let ran = run(&["generate", "--device", "cuda:99", "-n", "1"]);
    assert!(ran.error().contains("cuda:99") && ran.error().contains("--device emulator"), "{ran:?}");
    assert_eq!((ran.stderr.lines().count(), ran.stdout.as_str()), (1, ""), "{ran:?}");
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_both_numbers() {
    let args = ["generate", "--spec", "tiny", "--device", "emulator", "-p", "abcdef", "--context"];
    let ran = run(&[&args[..], &["4"]].concat());
    assert!(ran.error().contains("7 tokens") && ran.error().contains("4 positions"), "{ran:?}");
    // One that fits goes on until the context is full, and says so.
    let ran = run(&["generate", "--device", "emulator", "--context", "12", "-n", "50"]);
    assert!(ran.code == 0 && ran.stderr.contains("generated 8, "), "{ran:?}");
    assert!(ran.stderr.contains("the context is full"), "{ran:?}");
    let ran = run(&["generate", "--device", "emulator", "--context", "1025", "-p", "a", "-n", "1"]);
    assert!(ran.error().contains("1025") && ran.error().contains("1024"), "{ran:?}");
}

#[test]
fn tokens_and_sampling_out_of_range_are_refused() {
    let out = folder("tokens").join("x.f32");
    let out = out.to_str().unwrap();
    let ran = run(&["logits", "--device", "emulator", "--tokens", "4096", "-o", out]);
    assert!(ran.error().contains("4096"), "{ran:?}");
    assert!(!fs::exists(out).unwrap());
    let ran = run(&["generate", "--device", "emulator", "-n", "1", "--top-p", "1.5"]);
    assert!(ran.error().contains("top_p"), "{ran:?}");
}

#[test]
fn unknown_specs_and_targets_list_the_known_ones() {
    let ran = run(&["kernels", "--spec", "huge"]);
    assert!(ran.error().contains("huge") && ran.error().contains("tiny"), "{ran:?}");
    let ran = run(&["kernels", "--spec", "tiny", "--sm", "35"]);
    assert!(ran.error().contains("sm_35") && ran.error().contains("90"), "{ran:?}");
    let ran = run(&["generate", "--model", "huge"]);
    assert!(ran.error().contains("huge"), "{ran:?}");
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing() {
    let folder = folder("unwritable");
    let out = folder.join("missing").join("x.f32");
    let ran = run(&["logits", "--device", "emulator", "--tokens", "1", "-o", out.to_str().unwrap()]);
    assert!(ran.error().contains("x.f32"), "{ran:?}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn quantize_refuses_in_one_line_and_leaves_nothing() {
    let folder = folder("quantize");
    let out = folder.join("out.gguf");
    let out = out.to_str().unwrap();
    for (input, wanted) in [("/nonexistent/a.gguf", "/nonexistent/a.gguf"), (tiny_gguf(), "start from")] {
        let ran = run(&["quantize", input, out, "--type", "q8_0"]);
        assert!(ran.error().contains(wanted), "{ran:?}");
    }
    let ran = run(&["quantize", tiny_gguf(), tiny_gguf(), "--type", "q4_k_m"]);
    assert!(ran.error().contains("over itself"), "{ran:?}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    // It is still whole.
    assert_eq!(run(&["inspect", tiny_gguf()]).code, 0);
}
