//! `monomorph completions SHELL`: the script that makes a shell complete verbs and options.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::output::Output;

/// Prints what makes a shell complete the verbs and options.
#[derive(Debug, Args)]
#[command(
    after_help = "bash: monomorph completions bash > ~/.local/share/bash-completion/completions/monomorph\n\
                        zsh:  monomorph completions zsh > ~/.zfunc/_monomorph   (with fpath+=~/.zfunc before compinit)\n\
                        fish: monomorph completions fish > ~/.config/fish/completions/monomorph.fish"
)]
pub struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "monomorph", &mut script);
        let mut out = Output::new();
        out.stream(&String::from_utf8(script)?)?;
        out.finish()
    }
}
