//! `monomorph explain`: one kernel from its equation to its machine code: the header, the constants that are baked in, what a
//! launch costs, the source in the kernel language, and the PTX beside the machine code that ptxas makes of it.

mod page;

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use codegen::emit::folder;
use codegen::plan::Plan;
use monomorph::kernel_source::{self, Snippet};
use monomorph::nvdisasm::{Nvdisasm, Sass};
use monomorph::plan::{KernelDesc, StepKind};
use monomorph::ptxas::Ptxas;
use monomorph::{golden, specs};
use serde::Serialize;

use super::kernels::floor_us;
use super::output::Output;
use super::style::Palette;

/// Names that an error offers.
const NEAR_NAMES: usize = 6;

/// Shows one kernel: header, constants, cost, source, PTX, machine code.
#[derive(Debug, Args)]
pub struct Explain {
    /// The kernel's symbol or the beginning of it; `monomorph kernels` lists them
    #[arg(value_name = "KERNEL")]
    kernel: String,
    /// A shipped spec, or the path of a .toml
    #[arg(long, value_name = "NAME", default_value = "tiny")]
    spec: String,
    /// The target: ten times the compute capability
    #[arg(long, default_value_t = 90, value_name = "N")]
    sm: u32,
    /// What to show; all of it unless said
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    parts: Vec<Part>,
    /// Also the source of the device functions that it calls
    #[arg(long)]
    helpers: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// A part of what there is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Equation, shapes, layout, launch, constants and cost
    Header,
    /// The kernel language
    Source,
    /// PTX, beside the machine code where there is any
    Ptx,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Explanation {
    entry: String,
    /// Of the operation.
    name: String,
    spec: String,
    sm: u32,
    /// The five lines of its header.
    header: Vec<String>,
    constants: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    registers: Option<u32>,
    spill_bytes: Option<u32>,
    bytes: u64,
    macs: u64,
    intensity: f64,
    floor_us: f64,
    runs: Vec<Run>,
    source: Option<Source>,
    /// Device functions that it calls.
    helpers: Vec<Source>,
    ptx: String,
    /// `null` where a tool is missing.
    sass: Option<Vec<Line>>,
    /// What is not there because a tool is not, and how to get it.
    missing: Option<String>,
}

/// Launches of the kernel in one kind of step.
#[derive(Serialize)]
struct Run {
    /// `decode` or `prefill`.
    step: String,
    rows: u32,
    launches: usize,
}

#[derive(Serialize)]
struct Source {
    name: String,
    path: &'static str,
    line: usize,
    text: String,
}

#[derive(Serialize)]
struct Line {
    address: u32,
    text: String,
    /// The line of `ptx` that it was made from, from 1.
    ptx_line: Option<usize>,
}

/// What NVIDIA's tools say of a kernel.
#[derive(Default)]
struct Machine {
    registers: Option<u32>,
    spill_bytes: Option<u32>,
    sass: Option<Vec<Line>>,
    missing: Option<String>,
}

impl Explain {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let spec = specs::find(&self.spec)?;
        let device = golden::device(self.sm)?;
        let plan = codegen::plan::build(&spec, device)?;
        let index = find(&plan.table.kernels, &self.kernel)
            .with_context(|| format!("spec {} for sm_{}", spec.name, self.sm))?;
        let explanation = self.explanation(&plan, index)?;
        let mut out = Output::new();
        if self.json {
            out.json(&explanation)?;
        } else {
            for line in self.page(&explanation) {
                out.line(&line)?;
            }
        }
        out.finish()
    }

    fn explanation(&self, plan: &Plan, index: usize) -> Result<Explanation> {
        let table = &plan.table;
        let (Some(kernel), Some(operation)) = (table.kernels.get(index), plan.operations.get(index)) else {
            bail!("kernel {index} of {} has no operation", table.kernels.len());
        };
        let built = operation.build()?;
        let source = kernel_source::find_kernel(&built.name, &built.doc);
        let helpers = source
            .as_ref()
            .map(|source| kernel_source::helpers(source, &kernel.constants))
            .unwrap_or_default();
        let machine = Machine::of(kernel, (&table.spec, table.sm))?;
        Ok(Explanation {
            entry: kernel.entry.to_string(),
            name: kernel.name.to_string(),
            spec: table.spec.to_string(),
            sm: table.sm,
            header: built.doc,
            constants: kernel.constants.to_string(),
            grid: kernel.grid,
            block: kernel.block,
            shared_bytes: kernel.shared_bytes,
            registers: machine.registers,
            spill_bytes: machine.spill_bytes,
            bytes: kernel.bytes,
            macs: kernel.macs,
            intensity: kernel.macs as f64 / kernel.bytes.max(1) as f64,
            floor_us: floor_us(kernel.bytes),
            runs: runs(plan, index),
            source: source.map(Source::from),
            helpers: helpers.into_iter().map(Source::from).collect(),
            ptx: kernel.ptx.to_string(),
            sass: machine.sass,
            missing: machine.missing,
        })
    }

    fn page(&self, explanation: &Explanation) -> Vec<String> {
        let palette = Palette::stdout();
        let shows = |part| self.parts.is_empty() || self.parts.contains(&part);
        let mut lines = Vec::new();
        if shows(Part::Header) {
            lines.extend(explanation.header_lines(palette));
        }
        if shows(Part::Source) {
            lines.extend(explanation.source_lines(palette));
            if self.helpers {
                lines.extend(explanation.helper_lines(palette));
            }
        }
        if shows(Part::Ptx) {
            lines.extend(explanation.code_lines(palette));
        }
        lines
    }
}

impl From<Snippet> for Source {
    fn from(Snippet { name, path, line, text }: Snippet) -> Source {
        Source { name, path, line, text }
    }
}

impl Machine {
    /// Registers are in the lock file of a folder of goldens too, for who has no ptxas.
    fn of(kernel: &KernelDesc, (spec, sm): (&str, u32)) -> Result<Machine> {
        let Some(ptxas) = Ptxas::find() else {
            let lock = golden::read_lock(&Path::new("generated").join(folder(spec, sm)))?;
            let line = lock.into_iter().find(|line| line.entry == *kernel.entry);
            let missing = "ptxas makes the machine code and tells registers: tools/fetch-ptxas.sh .tools ptxas nvdisasm";
            return Ok(Machine {
                registers: line.as_ref().and_then(|line| line.registers),
                spill_bytes: line.as_ref().and_then(|line| line.spill_bytes),
                sass: None,
                missing: Some(missing.to_owned()),
            });
        };
        let found = ptxas.assemble(&kernel.ptx, sm)?;
        let (registers, spill_bytes) = (Some(found.registers), Some(found.spill_bytes));
        let Some(nvdisasm) = Nvdisasm::find() else {
            let missing = "nvdisasm shows the machine code: tools/fetch-ptxas.sh .tools nvdisasm".to_owned();
            return Ok(Machine { registers, spill_bytes, sass: None, missing: Some(missing) });
        };
        let code = nvdisasm.code(&ptxas, (&kernel.ptx, sm))?;
        let line = |Sass { address, text, ptx_line }| Line { address, text, ptx_line };
        let sass = Some(code.into_iter().map(line).collect());
        Ok(Machine { registers, spill_bytes, sass, missing: None })
    }
}

/// The kernel of that symbol, or the only one whose symbol begins so.
fn find(kernels: &[KernelDesc], wanted: &str) -> Result<usize> {
    if let Some(index) = kernels.iter().position(|kernel| kernel.entry == wanted) {
        return Ok(index);
    }
    let begins = |kernel: &KernelDesc| !wanted.is_empty() && kernel.entry.starts_with(wanted);
    let found: Vec<usize> = (0..kernels.len()).filter(|index| begins(&kernels[*index])).collect();
    match found[..] {
        [index] => Ok(index),
        [] => bail!("no kernel {wanted:?}; near it: {}", near(kernels, wanted).join(", ")),
        _ => {
            let listed: Vec<String> = found
                .iter()
                .take(NEAR_NAMES)
                .map(|index| format!("{} ({})", kernels[*index].entry, kernels[*index].constants))
                .collect();
            let more = found.len().saturating_sub(NEAR_NAMES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            bail!("{} kernels begin with {wanted:?}: {}{more}", found.len(), listed.join(", "))
        }
    }
}

/// Symbols that a wrong one may have meant, one of each operation: those that contain it, then those that begin nearly so.
fn near<'a>(kernels: &'a [KernelDesc], wanted: &str) -> Vec<&'a str> {
    let wanted = wanted.to_lowercase();
    let mut names: Vec<(f32, &KernelDesc)> = Vec::new();
    for kernel in kernels {
        if names.iter().any(|(_, known)| known.name == kernel.name) {
            continue;
        }
        let beginning: String = kernel.entry.chars().take(wanted.chars().count() + 1).collect();
        let likeness = similar::TextDiff::from_chars(wanted.as_str(), beginning.as_str()).ratio();
        let inside = if !wanted.is_empty() && kernel.entry.contains(&wanted) { 1.0 } else { 0.0 };
        names.push((likeness + inside, kernel));
    }
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    names.into_iter().take(NEAR_NAMES).map(|(_, kernel)| &*kernel.entry).collect()
}

fn runs(plan: &Plan, index: usize) -> Vec<Run> {
    let steps = plan.table.steps.iter().filter_map(|step| {
        let launches = step.launches.iter().filter(|launch| launch.kernel as usize == index).count();
        let kind = match step.kind {
            StepKind::Decode => "decode",
            StepKind::Prefill => "prefill",
        };
        (launches > 0).then(|| Run { step: kind.to_owned(), rows: step.rows, launches })
    });
    steps.collect()
}
