//! `emit`, its check, and `diff`: a check that passes on what was just written and fails on any change to it.

use std::fs;
use std::path::{Path, PathBuf};

use monomorph::ptxas::Ptxas;

use crate::fixture::{folder, tiny_gguf};
use crate::{Ran, run};

fn emitted(name: &str) -> PathBuf {
    let folder = folder(name);
    let ran = emit(&folder, &[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    folder
}

fn emit(folder: &Path, extra: &[&str]) -> Ran {
    let mut args = vec!["emit", "--spec", "tiny", "--sm", "90", "-o", folder.to_str().unwrap()];
    args.extend_from_slice(extra);
    run(&args)
}

fn first_ptx(folder: &Path) -> PathBuf {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|ext| ext == "ptx")).min().unwrap()
}

#[test]
fn a_changed_byte_fails_the_check_and_bless_mends_it() {
    let folder = emitted("emit-byte");
    assert_eq!(emit(&folder, &["--check"]).code, 0);
    let path = first_ptx(&folder);
    let text = fs::read_to_string(&path).unwrap();
    let changed = text.replacen("ret;", "bar.sync 0;\n    ret;", 1);
    assert_ne!(changed, text);
    fs::write(&path, &changed).unwrap();
    let ran = emit(&folder, &["--check"]);
    assert!(ran.error().contains("--bless"), "{ran:?}");
    let removed = |line: &str| line.starts_with('-') && line.contains("bar.sync 0;");
    assert!(ran.stdout.lines().any(removed) && ran.stdout.contains("@@"), "{ran:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), changed, "a check wrote");
    assert_eq!(emit(&folder, &["--bless"]).code, 0);
    assert_eq!(emit(&folder, &["--check"]).code, 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn missing_and_left_over_files_fail_the_check() {
    let folder = emitted("emit-files");
    let path = first_ptx(&folder);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(folder.join("old_kernel.ptx"), &text).unwrap();
    let ran = emit(&folder, &["--check"]);
    assert!(ran.code == 1 && ran.stdout.contains("old_kernel.ptx"), "{ran:?}");
    fs::remove_file(folder.join("old_kernel.ptx")).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(emit(&folder, &["--check"]).code, 1);
    assert_eq!(emit(&folder, &[]).code, 0);
    assert_eq!(emit(&folder, &["--check"]).code, 0);
}

#[test]
fn a_kernel_that_got_worse_fails_the_check() {
    if Ptxas::find().is_none() {
        eprintln!("skipped: no ptxas");
        return;
    }
    let folder = emitted("emit-worse");
    let lock = folder.join("kernels.lock");
    let text = fs::read_to_string(&lock).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let line = lines.iter_mut().find(|line| !line.starts_with('#')).unwrap();
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    // One register fewer than it takes: the generated kernel is now worse than the lock.
    let registers: u32 = words[1].parse().unwrap();
    words[1] = (registers - 1).to_string();
    *line = words.join(" ");
    fs::write(&lock, lines.join("\n") + "\n").unwrap();
    for extra in [&["--check"] as &[&str], &[]] {
        let ran = emit(&folder, extra);
        assert!(ran.error().contains(&format!("registers {} → {registers}", registers - 1)), "{ran:?}");
    }
    assert_eq!(emit(&folder, &["--bless"]).code, 0);
    assert_eq!(emit(&folder, &["--check"]).code, 0);
    assert_eq!(fs::read_to_string(&lock).unwrap(), text);
}

#[test]
fn two_emissions_are_equal_byte_for_byte() {
    let (a, b) = (emitted("emit-a"), emitted("emit-b"));
    let mut n_files = 0;
    for entry in fs::read_dir(&a).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(fs::read(a.join(&name)).unwrap(), fs::read(b.join(&name)).unwrap(), "{name:?}");
        n_files += 1;
    }
    assert!(n_files > 10 && fs::read_dir(&b).unwrap().count() == n_files);
}

#[test]
fn diff_shows_what_changed_and_nothing_else() {
    let folder = emitted("diff");
    let path = first_ptx(&folder);
    let copy = folder.join("copy.txt");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&copy, &text).unwrap();
    let (old, new) = (path.to_str().unwrap(), copy.to_str().unwrap());
    let same = run(&["diff", old, new]);
    assert_eq!((same.code, same.stdout.as_str()), (0, "1 kernels are equal\n"), "{same:?}");
    fs::write(&copy, text.replacen("ret;", "bar.sync 0;\n    ret;", 1)).unwrap();
    let ran = run(&["diff", old, new]);
    assert!(ran.code == 0 && ran.stdout.contains("+") && ran.stdout.contains("bar.sync"), "{ran:?}");
    assert!(ran.stdout.contains("instructions") && ran.stdout.contains("0 kernels are equal"), "{ran:?}");
    let spec = run(&["diff", "--spec", "tiny", "-o", folder.to_str().unwrap()]);
    assert!(spec.code == 0 && spec.stdout.lines().count() == 1, "{spec:?}");
}

#[test]
fn a_spec_from_a_file_is_the_spec_that_it_was_made_from() {
    let folder = folder("spec-from");
    let path = folder.join("copy.toml");
    let toml = run(&["emit", "--spec-from", tiny_gguf()]);
    assert_eq!(toml.code, 0, "{toml:?}");
    fs::write(&path, &toml.stdout).unwrap();
    let spec = monomorph::specs::find(path.to_str().unwrap()).unwrap();
    let shipped = monomorph::specs::find("tiny").unwrap();
    assert_eq!((&spec.dims, &spec.types), (&shipped.dims, &shipped.types));
}
