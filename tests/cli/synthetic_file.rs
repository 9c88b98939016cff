//! The files that `tools/synthetic-gguf.py` writes: real shapes without a real model, which load as one.

#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::folder;
use crate::{Ran, run};

/// Writes a file; `None` where there is no python3 that knows TOML.
fn write(out: &Path, more: &[&str]) -> Option<Ran> {
    let root = env!("CARGO_MANIFEST_DIR");
    let knows_toml = Command::new("python3").args(["-c", "import tomllib"]).output();
    if !knows_toml.is_ok_and(|ran| ran.status.success()) {
        println!("skipped: no python3 of 3.11 or later");
        return None;
    }
    let script = format!("{root}/tools/synthetic-gguf.py");
    let mut command = Command::new("python3");
    command.args([&script, &format!("{root}/models/tiny.toml")]).arg(out).args(more);
    Some(Ran::of(&command.output().unwrap()))
}

#[test]
fn a_synthetic_file_loads_and_its_tokenizer_merges() {
    let out = folder("synthetic").join("tiny.gguf");
    let Some(ran) = write(&out, &["--rope-factors"]) else { return };
    assert_eq!(ran.code, 0, "{ran:?}");
    let file = out.to_str().unwrap();
    let inspected = run(&["inspect", file, "--json"]).json();
    assert_eq!(inspected["spec"], "tiny", "{inspected}");

    // Words of up to three syllables are one token each; the first token begins a text, letters apart stay bytes.
    let tokens = |text: &str| run(&["tokenize", "-m", file, "-p", text, "--json"]).json()["tokens"].clone();
    let n_tokens = |text: &str| tokens(text).as_array().unwrap().len();
    assert_eq!(["b", "ba", "bade", "badebu", "babababu"].map(n_tokens), [2; 5]);
    assert_eq!(n_tokens("bxq"), 4);
    assert_eq!(tokens("b")[0], 4096 - 256);

    let args = ["generate", "-m", file, "-n", "4", "-p", "bade", "--device", "emulator", "--json"];
    let said = run(&args).json();
    assert_eq!(said["tokens"].as_array().unwrap().len(), 4, "{said}");
}

#[test]
fn equal_seeds_write_equal_files() {
    let folder = folder("synthetic-seeds");
    let file = |name: &str, seed: &str| {
        let out = folder.join(name);
        let ran = write(&out, &["--seed", seed])?;
        assert_eq!(ran.code, 0, "{ran:?}");
        Some(fs::read(out).unwrap())
    };
    let Some(first) = file("a", "1") else { return };
    assert!(file("b", "1").unwrap() == first);
    assert!(file("c", "2").unwrap() != first);
}
