//! `--json` of every verb that tells something: one object, the same facts as the text.

use std::fs;

use crate::contract::keys;
use crate::fixture::folder;
use crate::run;

#[test]
fn every_verb_that_tells_something_has_it() {
    let help = run(&["--help"]).stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs: Vec<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.len() > 15 && verbs.contains(&"verify"), "{help}");
    // These print a script, pages and this help.
    for verb in verbs.into_iter().filter(|verb| !["completions", "man", "help"].contains(verb)) {
        let ran = run(&[verb, "--help"]);
        assert!(ran.code == 0 && ran.stdout.contains("--json"), "{verb}: {ran:?}");
    }
}

#[test]
fn emit_and_diff_count_what_changed() {
    let folder = folder("json-emit");
    let out = folder.to_str().unwrap();
    let emit =
        |extra: &[&str]| run(&[&["emit", "--spec", "tiny", "-o", out, "--json"], extra].concat()).json();
    let (first, again) = (emit(&[]), emit(&["--check"]));
    assert_eq!(keys(&first), ["changed", "files", "folder", "sm", "spec"]);
    assert!(first["files"].as_u64() > Some(20) && first["changed"] == first["files"], "{first}");
    assert_eq!((&again["files"], &again["changed"]), (&first["files"], &0.into()));

    let paths = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let path = paths.filter(|path| path.extension().is_some_and(|ext| ext == "ptx")).min().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("ret;", "bar.sync 0;\n    ret;", 1)).unwrap();
    let diff = run(&["diff", "--spec", "tiny", "-o", out, "--json"]).json();
    let changed = diff["changed"].as_array().unwrap();
    assert_eq!((changed.len(), keys(&changed[0])), (1, vec!["counts", "diff", "entry"]), "{diff}");
    assert!(changed[0]["diff"].as_str().unwrap().contains("-\tbar.sync 0x0;"), "{diff}");
    let text = run(&["diff", "--spec", "tiny", "-o", out]).stdout;
    assert!(text.ends_with(&format!("{} kernels are equal\n", diff["equal"])), "{text}");
}

#[test]
fn verify_reports_each_kernel() {
    let args = ["verify", "--spec", "tiny", "--device", "emulator", "--seeds", "1", "--kernel", "argmax"];
    let report = run(&[&args[..], &["--json"]].concat()).json();
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.len() >= 2 && report["failed"] == 0, "{report}");
    let promised = ["device_equal", "entry", "error", "registers", "seconds", "spill_bytes"];
    assert!(kernels.iter().all(|kernel| keys(kernel) == promised && kernel["error"].is_null()), "{report}");
    let lines = run(&args).stdout;
    assert_eq!(lines.lines().filter(|line| line.starts_with("ok ")).count(), kernels.len(), "{lines}");
}

#[test]
fn logits_name_the_greatest() {
    let out = folder("json-logits").join("l.f32");
    let args = ["logits", "--spec", "tiny", "--device", "emulator", "--tokens", "1,2", "-o"];
    let report = run(&[&args[..], &[out.to_str().unwrap(), "--json"]].concat()).json();
    let bytes = fs::read(&out).unwrap();
    let logits: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let greatest = report["greatest"].as_u64().unwrap() as usize;
    assert_eq!(report["logits"].as_u64(), Some(logits.len() as u64));
    assert!(logits.iter().all(|logit| *logit <= logits[greatest]), "{report}");
}
