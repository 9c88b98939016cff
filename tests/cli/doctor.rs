//! What a newcomer is told about the machine and the build, and colours.

use std::fs;

use crate::{Ran, command, run};

fn with_env(args: &[&str], variables: &[(&str, &str)]) -> Ran {
    Ran::of(&command(args).envs(variables.iter().copied()).output().unwrap())
}

fn texts<'a>(json: &'a serde_json::Value, key: &str) -> Vec<&'a str> {
    json["missing"].as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap()).collect()
}

#[test]
fn it_tells_what_is_there_and_how_to_get_the_rest() {
    let nowhere = [("MONOMORPH_PTXAS", "/nowhere/ptxas"), ("MONOMORPH_NVDISASM", "/nowhere/nvdisasm")];
    let json = with_env(&["doctor", "--json"], &nowhere).json();
    assert!(json["cores"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(json["built_in"][0]["name"], "tiny");
    assert_eq!(json["specs"][0]["name"], "tiny");
    assert!(json["specs"][0]["targets"].as_array().unwrap().contains(&90.into()), "{json}");
    let what = texts(&json, "what");
    assert!(what.contains(&"ptxas") && what.contains(&"nvdisasm"), "{json}");
    // A driver is there with its devices, or there is a reason; never neither.
    let driver = &json["driver"];
    assert_ne!(driver["found"].as_bool().unwrap(), driver["reason"].is_string(), "{json}");
    assert_eq!(driver["reason"].is_string(), what.contains(&"CUDA driver"), "{json}");
    let page = with_env(&["doctor"], &nowhere);
    assert!(page.code == 0 && page.stdout.contains("/nowhere/ptxas does not run"), "{page:?}");
    assert!(page.stdout.lines().all(|line| line.chars().count() <= 100), "{page:?}");
}

#[test]
fn every_command_it_names_exists() {
    let root = env!("CARGO_MANIFEST_DIR");
    let features = fs::read_to_string(format!("{root}/Cargo.toml")).unwrap();
    let nowhere = [("MONOMORPH_PTXAS", "/nowhere/ptxas"), ("MONOMORPH_NVDISASM", "/nowhere/nvdisasm")];
    let json = with_env(&["doctor", "--json"], &nowhere).json();
    let commands = texts(&json, "command");
    let mut checked = 0;
    for command in &commands {
        if let Some((_, feature)) = command.split_once("--features ") {
            let line = [format!("\n{feature} = ["), format!("\n\"{feature}\" = [")];
            assert!(line.iter().any(|line| features.contains(line)), "{command}");
            checked += 1;
        } else if command.starts_with("tools/") {
            let script = command.split_whitespace().next().unwrap();
            assert!(fs::metadata(format!("{root}/{script}")).is_ok(), "{command}");
            checked += 1;
        }
    }
    assert!(checked >= 4, "{commands:?}");
}

#[test]
fn colours_are_for_terminals_and_for_who_asks() {
    let forced = [("CLICOLOR_FORCE", "1")];
    assert!(!run(&["doctor"]).stdout.contains('\x1b'));
    assert!(with_env(&["doctor"], &forced).stdout.contains("\x1b[32m"));
    assert!(!with_env(&["doctor"], &[forced[0], ("NO_COLOR", "1")]).stdout.contains('\x1b'));
    let failed = with_env(&["inspect", "/nowhere"], &forced);
    assert!(failed.code == 1 && failed.stderr.starts_with("\x1b[1;31merror:\x1b[0m "), "{failed:?}");
}
