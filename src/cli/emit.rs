//! `monomorph emit`: writes the PTX, the table and the lock file of a spec, or checks those on disk against what is
//! generated now.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use codegen::emit::folder;
use monomorph::golden::{self, Golden};
use monomorph::ptxas::Ptxas;
use monomorph::specs;
use serde::Serialize;

use super::model::{open_gguf, spec_of};
use super::output::{Output, note};

/// Writes the PTX and the table of a spec, or checks those on disk.
#[derive(Debug, Args)]
pub struct Emit {
    /// A shipped spec, or the path of a .toml
    #[arg(long, value_name = "NAME", required_unless_present = "spec_from")]
    spec: Option<String>,
    /// Write the spec of this GGUF file as TOML (to stdout or -o) instead
    #[arg(long, value_name = "FILE.gguf", conflicts_with_all = ["spec", "check", "bless"])]
    spec_from: Option<PathBuf>,
    /// The target: ten times the compute capability
    #[arg(long, default_value_t = 90, value_name = "N")]
    sm: u32,
    /// The folder [default: generated/SPEC-sm_N]
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write nothing; print how the folder differs and fail if it does
    #[arg(long, conflicts_with = "bless")]
    check: bool,
    /// Write even if a kernel takes more registers, spills or shared memory than before
    #[arg(long)]
    bless: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of a spec's files.
#[derive(Serialize)]
struct Report<'a> {
    spec: &'a str,
    sm: u32,
    folder: String,
    files: usize,
    /// Files that were written because they had another text; with `--check` none were, and none have.
    changed: usize,
}

/// What `--json` prints of a spec that was made from a file.
#[derive(Serialize)]
struct FromFile<'a> {
    file: String,
    /// Where the text was written, unless that is only here.
    output: Option<String>,
    toml: &'a str,
}

impl Emit {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        match (&self.spec_from, &self.spec) {
            (Some(file), _) => self.write_spec(file),
            (None, Some(name)) => self.emit(name),
            // clap asks for one of the two.
            (None, None) => bail!("--spec or --spec-from is needed"),
        }
    }

    fn write_spec(&self, file: &Path) -> Result<()> {
        let toml = spec_of(&open_gguf(file)?, file)?.to_toml();
        if let Some(path) = &self.output {
            fs::write(path, &toml).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut out = Output::new();
        if self.json {
            let output = self.output.as_ref().map(|path| path.display().to_string());
            out.json(&FromFile { file: file.display().to_string(), output, toml: &toml })?;
        } else if self.output.is_none() {
            out.stream(&toml)?;
        }
        out.finish()
    }

    fn emit(&self, name: &str) -> Result<()> {
        let spec = specs::find(name)?;
        let mut golden = Golden::make(&spec, golden::device(self.sm)?)?;
        let target = match &self.output {
            Some(path) => path.clone(),
            None => Path::new("generated").join(folder(&spec.name, self.sm)),
        };
        let locked = golden::read_lock(&target)?;
        golden.carry_over(&locked);
        if self.check {
            return self.check(golden, &target, name);
        }
        match Ptxas::find() {
            Some(ptxas) => golden.measure(&ptxas)?,
            None => note(
                "skipped: no ptxas, registers and spills are carried over (tools/fetch-ptxas.sh gets one)",
            ),
        }
        let worse = golden::regressions(&locked, &golden.lock);
        if !worse.is_empty() && !self.bless {
            bail!("{}; nothing was written; to accept: {}", worse.join("; "), self.bless_command(name));
        }
        let changed = golden.write(&target)?;
        let files = golden.files().len();
        if self.json {
            return self.report(name, &target, (files, changed));
        }
        note(&format!("{}: {files} files, {changed} changed", target.display()));
        Ok(())
    }

    /// The JSON of a folder: how many files it has and how many changed.
    fn report(&self, spec: &str, target: &Path, (files, changed): (usize, usize)) -> Result<()> {
        let mut out = Output::new();
        out.json(&Report { spec, sm: self.sm, folder: target.display().to_string(), files, changed })?;
        out.finish()
    }

    fn check(&self, mut golden: Golden, target: &Path, name: &str) -> Result<()> {
        let diff = golden.diff(target)?;
        if !diff.is_empty() {
            let mut out = Output::new();
            out.stream(&diff)?;
            out.finish()?;
            bail!(
                "{} differs from what is generated; to accept: {}",
                target.display(),
                self.bless_command(name)
            );
        }
        let locked = golden.lock.clone();
        match Ptxas::find() {
            Some(ptxas) => golden.measure(&ptxas)?,
            None => note("skipped: no ptxas, registers and spills are not compared"),
        }
        let worse = golden::regressions(&locked, &golden.lock);
        if !worse.is_empty() {
            bail!("{}; to accept: {}", worse.join("; "), self.bless_command(name));
        }
        if self.json {
            return self.report(name, target, (golden.files().len(), 0));
        }
        note(&format!("{}: {} files as generated", target.display(), golden.files().len()));
        Ok(())
    }

    /// The one command that makes the folder what is generated.
    fn bless_command(&self, name: &str) -> String {
        let mut command = format!("monomorph emit --spec {name} --sm {}", self.sm);
        if let Some(path) = &self.output {
            command.push_str(&format!(" -o {}", path.display()));
        }
        command + " --bless"
    }
}
