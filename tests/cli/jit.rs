//! Kernels made at load are kept, and what is kept is not trusted.

use std::fs;
use std::path::Path;

use monomorph::runtime::gguf::write::KvValue;

use crate::fixture::{changed_gguf, folder};
use crate::{Ran, command};

/// Two tokens of a model that is not compiled in, with kernels kept in `cache`.
fn generate(file: &str, cache: &str) -> Ran {
    let args = ["generate", "--device", "emulator", "--jit", "-p", "a", "-n", "2", "--json", "-m", file];
    Ran::of(&command(&args).env("MONOMORPH_CACHE", cache).output().unwrap())
}

#[test]
fn kernels_are_made_once_and_again_when_they_are_damaged() {
    let file = changed_gguf("jit-cache", &[("llama.rope.freq_base", KvValue::from(20000.0f32))]);
    let cache = folder("jit-cache-kept");
    let cache = cache.to_str().unwrap();
    let without = generate(&file, "off");
    assert!(without.stderr.contains("specialised now\n"), "{without:?}");
    let tokens = without.json()["tokens"].clone();
    let ran = |said: &str| {
        let ran = generate(&file, cache);
        assert!(ran.stderr.contains(said), "{said}: {ran:?}");
        assert_eq!(ran.json()["tokens"], tokens, "{said}");
    };
    ran("specialised now, kept as");
    ran("taken from");
    let entry = fs::read_dir(cache).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&entry).unwrap();
    fs::write(&entry, &text[..text.len() / 2]).unwrap();
    ran("specialised now, in place of");
    assert_eq!(fs::read_to_string(&entry).unwrap(), text, "the same kernels, byte for byte");
    ran("taken from");
    let doctor = command(&["doctor", "--json"]).env("MONOMORPH_CACHE", cache).output().unwrap();
    let json = Ran::of(&doctor).json();
    assert_eq!((&json["cache"]["folder"], &json["cache"]["entries"]), (&cache.into(), &1.into()));
    assert_eq!(json["cache"]["bytes"], text.len(), "{json}");
    let off = Ran::of(&command(&["doctor"]).output().unwrap());
    assert!(off.stdout.contains("--jit makes kernels at every start"), "{off:?}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told_and_no_error() {
    let file = changed_gguf("jit-no-folder", &[("llama.rope.freq_base", KvValue::from(30000.0f32))]);
    let in_a_file = Path::new(&file).join("cache");
    let ran = generate(&file, in_a_file.to_str().unwrap());
    assert!(ran.code == 0 && ran.stderr.contains("and not kept as"), "{ran:?}");
}
