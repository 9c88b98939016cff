//! `monomorph diff`: what changed between two PTX texts, kernel by kernel. Both are parsed and printed in one form, so
//! that only differences of meaning show.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use monomorph::golden::{self, Golden};
use monomorph::specs;
use ptx::{Entry, Module, Stmt};
use serde::Serialize;

use super::output::Output;

/// Compares two PTX files, or a spec's PTX on disk with what is generated now.
#[derive(Debug, Args)]
pub struct Diff {
    /// Two PTX files, the older first
    #[arg(value_name = "A.ptx B.ptx", num_args = 2, required_unless_present = "spec")]
    files: Vec<PathBuf>,
    /// Compare the folder of this spec with what is generated now
    #[arg(long, value_name = "NAME", conflicts_with = "files")]
    spec: Option<String>,
    /// The target of --spec
    #[arg(long, default_value_t = 90, value_name = "N")]
    sm: u32,
    /// The folder of --spec [default: generated/SPEC-sm_N]
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    output: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How two sides differ; what `--json` prints.
#[derive(Serialize)]
struct Comparison {
    old: String,
    new: String,
    changed: Vec<Changed>,
    only_old: Vec<String>,
    only_new: Vec<String>,
    /// Kernels without a difference.
    equal: usize,
}

/// A kernel that both sides have, in two texts.
#[derive(Serialize)]
struct Changed {
    entry: String,
    /// Instructions, registers and shared memory, before and after.
    counts: String,
    /// The unified diff.
    diff: String,
}

impl Comparison {
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for kernel in &self.changed {
            lines.push(format!("{}: {}", kernel.entry, kernel.counts));
            lines.extend(kernel.diff.lines().map(str::to_owned));
        }
        lines.extend(self.only_old.iter().map(|entry| format!("{entry}: only in {}", self.old)));
        lines.extend(self.only_new.iter().map(|entry| format!("{entry}: only in {}", self.new)));
        lines.push(format!("{} kernels are equal", self.equal));
        lines
    }
}

impl Diff {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let (old, new) = match &self.spec {
            Some(name) => self.of_spec(name)?,
            None => {
                let [old, new] = self.files.as_slice() else { bail!("two PTX files are needed") };
                (Side::from_file(old)?, Side::from_file(new)?)
            }
        };
        let comparison = compare(&old, &new)?;
        let mut out = Output::new();
        if self.json {
            out.json(&comparison)?;
        } else {
            for line in comparison.lines() {
                out.line(&line)?;
            }
        }
        out.finish()
    }

    fn of_spec(&self, name: &str) -> Result<(Side, Side)> {
        let spec = specs::find(name)?;
        let golden = Golden::make(&spec, golden::device(self.sm)?)?;
        let folder = match &self.output {
            Some(path) => path.clone(),
            None => Path::new("generated").join(codegen::emit::folder(&spec.name, self.sm)),
        };
        let mut old = Side { name: folder.display().to_string(), modules: Vec::new() };
        let listing = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let paths = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let mut paths: Vec<PathBuf> =
            paths.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "ptx")).collect();
        paths.sort();
        for path in paths {
            old.modules.extend(Side::from_file(&path)?.modules);
        }
        let mut new = Side { name: "generated now".to_owned(), modules: Vec::new() };
        for kernel in golden.plan.table.kernels.iter() {
            new.modules.push(ptx::parse(&kernel.ptx).with_context(|| kernel.entry.to_string())?);
        }
        Ok((old, new))
    }
}

/// One side of a comparison.
struct Side {
    name: String,
    modules: Vec<Module>,
}

impl Side {
    fn from_file(path: &Path) -> Result<Side> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let module = ptx::parse(&text).with_context(|| name.clone())?;
        Ok(Side { name, modules: vec![module] })
    }

    /// Every entry with the module that it stands in, by name.
    fn entries(&self) -> Vec<(&Module, &Entry)> {
        let mut entries: Vec<(&Module, &Entry)> =
            self.modules.iter().flat_map(|m| m.entries.iter().map(move |e| (m, e))).collect();
        entries.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        entries
    }
}

/// A kernel's name without the hash of its constants, so that a change of constants is a change and not two kernels.
fn family(entry: &str) -> &str {
    entry.rsplit_once('_').map_or(entry, |(family, _)| family)
}

fn compare(old: &Side, new: &Side) -> Result<Comparison> {
    let mut left = old.entries();
    let mut pairs = Vec::new();
    let mut added = Vec::new();
    for found in new.entries() {
        match left.iter().position(|(_, e)| e.name == found.1.name) {
            Some(at) => pairs.push((left.remove(at), found)),
            None => added.push(found),
        }
    }
    let mut only_new = Vec::new();
    for found in added {
        match left.iter().position(|(_, e)| family(&e.name) == family(&found.1.name)) {
            Some(at) => pairs.push((left.remove(at), found)),
            None => only_new.push(found),
        }
    }
    pairs.sort_by(|a, b| a.1.1.name.cmp(&b.1.1.name));
    let mut changed = Vec::new();
    let mut equal = 0;
    for ((old_module, a), (new_module, b)) in pairs {
        let (before, after) = (text(old_module, a)?, text(new_module, b)?);
        if before == after {
            equal += 1;
            continue;
        }
        let names = (format!("{}/{}", old.name, a.name), format!("{}/{}", new.name, b.name));
        changed.push(Changed {
            entry: b.name.clone(),
            counts: counts(a, b),
            diff: golden::unified(&before, &after, (&names.0, &names.1)),
        });
    }
    let names = |side: &[(&Module, &Entry)]| side.iter().map(|(_, entry)| entry.name.clone()).collect();
    Ok(Comparison {
        old: old.name.clone(),
        new: new.name.clone(),
        changed,
        only_old: names(&left),
        only_new: names(&only_new),
        equal,
    })
}

/// One entry as the printer writes it, without the heading of its file.
fn text(module: &Module, entry: &Entry) -> Result<String> {
    let alone = Module { header: Vec::new(), entries: vec![entry.clone()], ..module.clone() };
    let verified = ptx::verify(alone).with_context(|| entry.name.clone())?;
    Ok(ptx::print(&verified))
}

/// `instructions 120 → 118, registers 40 → 38, shared bytes 0 → 0`; registers as PTX declares them.
fn counts(a: &Entry, b: &Entry) -> String {
    let instructions = |e: &Entry| e.body.iter().filter(|s| matches!(s, Stmt::Inst(_))).count();
    let registers = |e: &Entry| e.banks.iter().map(|bank| bank.count).sum::<u32>();
    let shared = |e: &Entry| e.shared.iter().map(|s| s.bytes).sum::<u32>();
    format!(
        "instructions {} → {}, declared registers {} → {}, shared bytes {} → {}",
        instructions(a),
        instructions(b),
        registers(a),
        registers(b),
        shared(a),
        shared(b)
    )
}
