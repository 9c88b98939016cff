//! `monomorph logits`: the logits of the last position as raw little-endian f32, for comparison with other engines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use monomorph::runtime::CancelToken;
use serde::Serialize;

use super::device::DeviceArgs;
use super::model::ModelArgs;
use super::output::{Output, note};

/// Writes the logits after some tokens to a file.
#[derive(Debug, Args)]
pub struct Logits {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids with commas between; nothing is added to them
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    tokens: Vec<u32>,
    /// Where to write; the file appears whole or not at all
    #[arg(short = 'o', long = "output", value_name = "OUT.f32")]
    output: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    device: String,
    model: &'a str,
    spec: &'a str,
    tokens: &'a [u32],
    /// The file of logits, and how many it has.
    output: String,
    logits: usize,
    /// The first token with the greatest of them.
    greatest: usize,
}

impl Logits {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let origin = self.model.open()?;
        let opened = self.device.open()?;
        let prepared = self.model.prepare(origin, opened.queue.as_ref())?;
        prepared.check_prompt(self.tokens.len())?;
        let model = prepared.load(&opened.queue)?;
        let mut session = model.session()?;
        session.prefill(&self.tokens, &CancelToken::new())?;
        let mut logits = vec![0.0f32; prepared.table.dims.vocab_size as usize];
        session.logits(&mut logits)?;
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        write_whole(&self.output, &bytes)?;
        let output = self.output.display().to_string();
        if !self.json {
            note(&format!("{} logits written to {output}", logits.len()));
            return Ok(());
        }
        let greatest = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        let mut out = Output::new();
        out.json(&Report {
            device: opened.queue.name().to_owned(),
            model: &prepared.name,
            spec: &prepared.table.spec,
            tokens: &self.tokens,
            output,
            logits: logits.len(),
            greatest,
        })?;
        out.finish()
    }
}

/// Writes beside `path` and renames, so that no reader sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
    let mut partial = name.to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(partial);
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The first failure is the one to tell; there may be nothing to remove.
        fs::remove_file(&partial).ok();
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}
