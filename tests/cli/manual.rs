//! Completions and man pages.

use std::fs;

use crate::fixture::folder;
use crate::run;

#[test]
fn every_shell_gets_a_script_with_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&["completions", shell]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for verb in ["generate", "chat", "explain", "doctor", "completions"] {
            assert!(ran.stdout.contains(verb), "{shell}: {verb}");
        }
    }
    assert_eq!(run(&["completions", "tcsh"]).code, 2);
}

#[test]
fn a_bash_script_is_one() {
    let path = folder("completions").join("monomorph.bash");
    fs::write(&path, run(&["completions", "bash"]).stdout).unwrap();
    match std::process::Command::new("bash").arg("-n").arg(&path).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => println!("skipped: no bash ({error})"),
    }
}

#[test]
fn there_is_a_page_of_every_verb() {
    let path = folder("man");
    let ran = run(&["man", path.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    let help = run(&["--help"]).stdout;
    let commands = help.split_once("Commands:").unwrap().1.split_once("Options:").unwrap().0;
    let verbs: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() >= 17, "{verbs:?}");
    for verb in verbs {
        let page = fs::read_to_string(path.join(format!("monomorph-{verb}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains("OPTIONS"), "{verb}");
    }
    let first = fs::read_to_string(path.join("monomorph.1")).unwrap();
    assert!(first.contains("specialised") || first.contains("monomorphised"), "{first}");
    let file = path.join("monomorph.1");
    let blocked = run(&["man", file.to_str().unwrap()]);
    assert!(blocked.error().contains("cannot create"), "{blocked:?}");
}
