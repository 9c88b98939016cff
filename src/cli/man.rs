//! `monomorph man DIR`: a manual page of the program and one of each verb.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};

use super::Cli;
use super::output::note;

/// Writes man pages.
#[derive(Debug, Args)]
#[command(after_help = "monomorph man ~/.local/share/man/man1 && man monomorph-generate")]
pub struct Man {
    /// The folder; made when it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Man {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let shown = self.folder.display();
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot create {shown}"))?;
        clap_mangen::generate_to(Cli::command(), &self.folder)
            .with_context(|| format!("cannot write man pages to {shown}"))?;
        let pages = 1 + Cli::command().get_subcommands().count();
        note(&format!("{pages} pages in {shown}; man -l {shown}/monomorph.1 shows the first"));
        Ok(())
    }
}
