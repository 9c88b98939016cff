//! The built program as its users meet it: names, JSON keys, exit codes, messages, and tokens end to end on the tiny
//! spec with seeded random weights. Everything here runs on the emulator.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed case ends the test")]

mod bad_input;
mod chat;
mod contract;
mod debug;
mod doctor;
mod emit;
mod end_to_end;
mod explain;
mod fixture;
mod jit;
mod json;
mod manual;
mod measure;
mod perplexity;
mod progress;
mod quantize;
mod synthetic_file;

use std::process::{Command, Output, Stdio};

/// What a run of the program gave.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// The parsed stdout of a run that must have succeeded.
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The message of a run that must have failed with exit 1 and one line.
    fn error(&self) -> &str {
        assert_eq!(self.code, 1, "{self:?}");
        let line = self.stderr.lines().last().unwrap();
        let message = line.strip_prefix("error: ").unwrap_or_else(|| panic!("{self:?}"));
        assert_eq!(self.stderr.matches("error: ").count(), 1, "{self:?}");
        assert!(self.stderr.ends_with('\n'), "{self:?}");
        message
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_monomorph"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    // A test leaves nothing behind where its user keeps kernels.
    command.env("MONOMORPH_CACHE", "off");
    command
}

fn run(args: &[&str]) -> Ran {
    Ran::of(&command(args).output().unwrap())
}
