//! Bars and clocks: in a terminal unless nobody wants them, and never in a pipe.

use std::process::{Command, Stdio};

use crate::run;

/// What the program writes to a terminal; `None` where `script` is not there to make one.
#[allow(clippy::print_stdout, reason = "a test that needs what is not there says so")]
fn in_terminal(args: &str, variables: &[(&str, &str)]) -> Option<String> {
    let program = format!("{} {args}", env!("CARGO_BIN_EXE_monomorph"));
    let mut command = Command::new("script");
    command.args(["-qec", &program, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    match command.envs(variables.iter().copied()).stdin(Stdio::null()).output() {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) => {
            println!("skipped: no terminal to try ({error})");
            None
        }
    }
}

#[test]
fn bars_are_for_terminals_and_for_who_wants_them() {
    const STORY: &str = "generate --device emulator -n 1";
    if let Some(shown) = in_terminal(STORY, &[]) {
        assert!(shown.contains("loading") && shown.contains("reading 5 tokens"), "{shown:?}");
        for quiet in
            [in_terminal(&format!("{STORY} --no-progress"), &[]), in_terminal(STORY, &[("TERM", "dumb")])]
        {
            let quiet = quiet.unwrap();
            assert!(!quiet.contains("loading") && !quiet.contains("\x1b["), "{quiet:?}");
        }
    }
    let piped = run(&["generate", "--device", "emulator", "-n", "1"]);
    assert!(!piped.stderr.contains("loading") && !piped.stderr.contains('\r'), "{piped:?}");
}

#[test]
fn a_bench_counts_its_rounds() {
    let Some(shown) = in_terminal("bench --spec tiny --device emulator -p 2 -n 1 -r 1", &[]) else { return };
    assert!(shown.contains("round 1 of 2") && shown.contains("left"), "{shown:?}");
}
