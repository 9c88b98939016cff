//! Kernels kept on disk: found again, never mistaken for others, never trusted, and dispensable.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use std::fs;
use std::path::{Path, PathBuf};

use codegen::ModelSpec;
use codegen::emit::sha256_hex;
use monomorph_runtime::jit::{CacheUse, EntryError, JitError, KernelCache, Specialised, specialise};
use plan::Table;

/// A few small layers, whose kernels are made in no time.
const SPEC: &str = r#"
name = "kept"
architecture = "llama"
vocab_size = 64
dim = 128
hidden_dim = 128
n_layers = 2
n_heads = 2
n_kv_heads = 1
head_dim = 64
context = 64
norm_eps = 1e-5
rope_kind = "norm"
rope_base = 10000.0
qkv_bias = false
tied_head = true
steps = { decode = [1, 2], prefill = [32] }

[types]
token_embd = "q8_0"
attn_q = "q8_0"
attn_k = "q8_0"
attn_v = "q8_0"
attn_output = "q8_0"
ffn_gate = "q8_0"
ffn_up = "q8_0"
ffn_down = "q8_0"
"#;

fn spec() -> ModelSpec {
    ModelSpec::from_toml(SPEC).unwrap()
}

fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("jit-{name}"));
    fs::remove_dir_all(&path).ok();
    path
}

fn made(spec: &ModelSpec, sm: u32) -> Table {
    specialise(spec, sm, None).unwrap().table
}

fn hit(found: Specialised, table: &Table) -> PathBuf {
    assert!(found.table == *table);
    match found.cache {
        CacheUse::Hit { file } => file,
        other => panic!("{other:?}"),
    }
}

/// The file of a table that had to be made, and why what was there did not do.
fn miss(found: Specialised, table: &Table) -> (PathBuf, EntryError) {
    assert!(found.table == *table);
    match found.cache {
        CacheUse::Made { file, refused: Some(why), not_kept: None } => (file, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_second_load_takes_what_the_first_one_made() {
    let cache = KernelCache::new(folder("second"));
    let table = made(&spec(), 90);
    let load = || specialise(&spec(), 90, Some(&cache)).unwrap();
    let (file, why) = miss(load(), &table);
    assert!(matches!(why, EntryError::Absent), "{why}");
    assert_eq!(hit(load(), &table), file);
    assert_eq!(fs::read_dir(cache.folder()).unwrap().count(), 1, "nothing unfinished is left");
    assert_eq!(cache.size(), (1, fs::metadata(&file).unwrap().len()));
}

#[test]
fn another_spec_and_another_target_are_found_apart() {
    let cache = KernelCache::new(folder("another"));
    let mut other = spec();
    other.dims.rope_base = 20_000.0;
    let mut fewer = spec();
    fewer.steps.decode = vec![1];
    let wanted = [(spec(), 90), (other, 90), (fewer, 90), (spec(), 80)];
    let mut files = Vec::new();
    for (spec, sm) in &wanted {
        let (file, why) = miss(specialise(spec, *sm, Some(&cache)).unwrap(), &made(spec, *sm));
        assert!(matches!(why, EntryError::Absent), "{why}");
        files.push(file);
    }
    for ((spec, sm), file) in wanted.iter().zip(&files) {
        assert_eq!(hit(specialise(spec, *sm, Some(&cache)).unwrap(), &made(spec, *sm)), *file);
    }
    // An entry under the name of another: it says what it is.
    fs::copy(&files[1], &files[0]).unwrap();
    let (_, why) = miss(specialise(&spec(), 90, Some(&cache)).unwrap(), &made(&spec(), 90));
    assert!(matches!(why, EntryError::Foreign { .. }), "{why}");
    assert!(matches!(specialise(&spec(), 70, None), Err(JitError::Target { found: 70, oldest: 80 })));
}

/// The entry with another body and the checksum of that.
fn with_body(text: &str, change: impl Fn(&str) -> String) -> String {
    let (head, body) = text.split_once('\n').unwrap();
    let changed = change(body.trim_end());
    assert_ne!(changed, body.trim_end(), "the change must change something");
    format!("{}\n{changed}\n", head.replace(&sha256_hex(body.trim_end()), &sha256_hex(&changed)))
}

#[test]
fn a_damaged_or_forged_entry_is_made_again() {
    let cache = KernelCache::new(folder("damaged"));
    let table = made(&spec(), 90);
    let load = || specialise(&spec(), 90, Some(&cache)).unwrap();
    let (file, _) = miss(load(), &table);
    let text = fs::read_to_string(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        bytes
    };
    let forged = |from: &str, to: &str| with_body(&text, |body| body.replacen(from, to, 1)).into_bytes();
    type Expected = fn(&EntryError) -> bool;
    let form: Expected = |why| matches!(why, EntryError::Form(_));
    let checksum: Expected = |why| matches!(why, EntryError::Checksum { .. });
    let kernel: Expected = |why| matches!(why, EntryError::Kernel { .. });
    let foreign: Expected = |why| matches!(why, EntryError::Foreign { .. });
    let cases: [(&str, Vec<u8>, Expected); 11] = [
        ("empty", vec![], form),
        ("no text", vec![0xff; 100], form),
        ("another form", b"{}\n[]\n".to_vec(), form),
        ("the next format", text.replacen("kernels\":1", "kernels\":2", 1).into_bytes(), foreign),
        ("half of it", text.as_bytes()[..text.len() / 2].to_vec(), checksum),
        ("a bit", flipped(text.len() / 2), checksum),
        ("no PTX", forged(".reqntid", ".reqnti"), kernel),
        ("an instruction that is none", forged("ret;", "rot;"), kernel),
        ("another block", forged("\"block\":[", "\"block\":[1"), kernel),
        ("another parameter", forged("\"params\":[[\"", "\"params\":[[\"a"), kernel),
        ("another symbol", forged("\"entry\":\"", "\"entry\":\"a"), kernel),
    ];
    for (name, bytes, expected) in cases {
        fs::write(&file, bytes).unwrap();
        let (_, why) = miss(load(), &table);
        assert!(expected(&why), "{name}: {why}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "{name}");
        hit(load(), &table);
    }
    // Kernels of this spec, but not all: those that are missing are made.
    let first_only =
        |body: &str| format!("[{}}}]", body.split("},{").next().unwrap().trim_start_matches('['));
    fs::write(&file, with_body(&text, first_only)).unwrap();
    let found = load();
    assert!(found.table == table);
    assert!(matches!(found.cache, CacheUse::Made { refused: None, not_kept: None, .. }), "{:?}", found.cache);
    hit(load(), &table);
}

#[test]
fn a_folder_that_cannot_be_written_is_no_error() {
    let folder = folder("read-only");
    fs::create_dir_all(&folder).unwrap();
    let cache = KernelCache::new(folder.join("below-a-file"));
    let table = made(&spec(), 90);
    // A file where the folder is to be: nobody can write there, whatever their rights.
    fs::write(cache.folder(), "").unwrap();
    let found = specialise(&spec(), 90, Some(&cache)).unwrap();
    assert!(found.table == table);
    assert!(matches!(found.cache, CacheUse::Made { not_kept: Some(_), .. }), "{:?}", found.cache);
    fs::remove_file(cache.folder()).unwrap();
    // A folder that became read-only is read.
    miss(specialise(&spec(), 90, Some(&cache)).unwrap(), &table);
    let writable = fs::metadata(cache.folder()).unwrap().permissions();
    let mut fixed = writable.clone();
    fixed.set_readonly(true);
    fs::set_permissions(cache.folder(), fixed).unwrap();
    let found = specialise(&spec(), 90, Some(&cache)).unwrap();
    fs::set_permissions(cache.folder(), writable).unwrap();
    hit(found, &table);
}
