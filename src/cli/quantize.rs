//! `monomorph quantize`: a model file in smaller types.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use monomorph::quantize::{Change, FILE_TYPES, FileType, quantize};
use monomorph::runtime::gguf::Gguf;
use serde::Serialize;

use super::model::open_gguf;
use super::output::{Output, note};

/// Writes a model file with its matrices in smaller types.
#[derive(Debug, Args)]
pub struct Quantize {
    /// The model in F32, F16 or BF16
    #[arg(value_name = "IN.gguf")]
    input: PathBuf,
    /// Where to write; the file appears whole or not at all
    #[arg(value_name = "OUT.gguf")]
    output: PathBuf,
    /// q4_k_m, q4_k_s, q5_k_m, q5_k_s, q6_k, q8_0, q4_0, q4_1, q5_0, q5_1, f16, bf16 or f32
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type)]
    file_type: FileType,
    /// One JSON object at the end
    #[arg(long)]
    json: bool,
}

fn file_type(name: &str) -> Result<FileType, String> {
    let names = FILE_TYPES.map(|file_type| file_type.name).join(", ");
    FileType::from_name(name).ok_or_else(|| format!("no such type; there are {names}"))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    input: String,
    output: String,
    #[serde(rename = "type")]
    file_type: &'a str,
    input_bytes: u64,
    output_bytes: u64,
    seconds: f64,
    tensors: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    dims: &'a [u64],
    from: &'static str,
    to: &'static str,
}

impl Quantize {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let input = open_gguf(&self.input)?;
        if same_file(&self.input, &self.output) {
            bail!("{} would be written over itself", self.input.display());
        }
        let changes = self.write(&input)?;
        let seconds = start.elapsed().as_secs_f64();
        let output_bytes =
            fs::metadata(&self.output).with_context(|| self.output.display().to_string())?.len();
        let report = Report {
            input: self.input.display().to_string(),
            output: self.output.display().to_string(),
            file_type: self.file_type.name,
            input_bytes: input.file_bytes(),
            output_bytes,
            seconds,
            tensors: changes.iter().map(row).collect(),
        };
        let mut out = Output::new();
        if self.json {
            out.json(&report)?;
        } else {
            for line in report.lines() {
                out.line(&line)?;
            }
        }
        out.finish()
    }

    /// Writes beside the output and renames, so that no reader sees half a file.
    fn write(&self, input: &Gguf) -> Result<Vec<Change>> {
        let name = self.output.file_name();
        let mut partial =
            name.with_context(|| format!("{} names no file", self.output.display()))?.to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = self.output.with_file_name(partial);
        let cannot = || format!("cannot write {}", self.output.display());
        let file = File::create(&partial).with_context(cannot)?;
        let total = input.n_tensors();
        let mut n_done = 0;
        let written = quantize(input, self.file_type, BufWriter::new(file), |change| {
            n_done += 1;
            note(&format!("{n_done}/{total} {} {} -> {}", change.name, change.from, change.to));
        });
        let result = written
            .with_context(|| self.input.display().to_string())
            .and_then(|changes| fs::rename(&partial, &self.output).with_context(cannot).map(|()| changes));
        if result.is_err() {
            // The first failure is the one to tell.
            fs::remove_file(&partial).ok();
        }
        result
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

fn row(change: &Change) -> Row<'_> {
    Row { name: &change.name, dims: &change.dims, from: change.from.name(), to: change.to.name() }
}

impl Report<'_> {
    fn lines(&self) -> Vec<String> {
        let mut types: Vec<(&str, usize)> = Vec::new();
        for tensor in &self.tensors {
            match types.iter_mut().find(|(name, _)| *name == tensor.to) {
                Some((_, n)) => *n += 1,
                None => types.push((tensor.to, 1)),
            }
        }
        let types: Vec<String> = types.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let Report { output, file_type, input_bytes, output_bytes, seconds, .. } = self;
        vec![
            format!("{output}: {file_type}, {} tensors ({})", self.tensors.len(), types.join(", ")),
            format!("{input_bytes} -> {output_bytes} bytes in {seconds:.1} s"),
        ]
    }
}
