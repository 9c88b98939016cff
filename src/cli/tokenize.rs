//! `monomorph tokenize`: the token ids of a text. Needs the file's vocabulary only, no kernels and no device.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use monomorph::runtime::tokenizer::{Special, Tokenizer};
use serde::Serialize;

use super::model::open_gguf_or_built_in;
use super::output::Output;

/// Prints the token ids of a text.
#[derive(Debug, Args)]
pub struct Tokenize {
    /// A GGUF model file [default: the built-in model]
    #[arg(short = 'm', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The text
    #[arg(short = 'p', long, value_name = "TEXT")]
    prompt: String,
    /// Special tokens written out in the text stay text
    #[arg(long)]
    no_special: bool,
    /// A JSON object instead of numbers with spaces between
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    tokens: Vec<u32>,
}

impl Tokenize {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let (file, gguf) = open_gguf_or_built_in(self.file.as_deref())?;
        let tokenizer = Tokenizer::from_gguf(&gguf).with_context(|| file.display().to_string())?;
        let special = if self.no_special { Special::AsText } else { Special::Parse };
        let tokens = tokenizer.encode(&self.prompt, special)?;
        let mut out = Output::new();
        if self.json {
            out.json(&Report { tokens })?;
        } else {
            out.line(&tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))?;
        }
        out.finish()
    }
}
