//! `monomorph verify`: every kernel of a spec through ptxas, through trials on the emulator with all of its checks, and,
//! with a CUDA device, bit for bit against the emulator there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use codegen::kernels::Operation;
use monomorph::plan::KernelDesc;
use monomorph::ptxas::Ptxas;
use monomorph::runtime::{DeviceChoice, DeviceOptions, open_device};
use monomorph::trial::{self, Device};
use monomorph::{golden, matrix, specs};
use serde::Serialize;

use super::output::{Output, note};

/// Kernels that move more than this run one at a time with all threads: the reference needs many times as much memory.
const LARGE_BYTES: u64 = 16 << 20;

/// Checks every kernel of a spec: ptxas, the emulator against the reference, and a CUDA device bit for bit.
#[derive(Debug, Args)]
pub struct Verify {
    /// A shipped spec, or the path of a .toml
    #[arg(long, value_name = "NAME", required_unless_present = "matrix")]
    spec: Option<String>,
    /// Instead of a spec: products of every weight type at many shapes and numbers of rows
    #[arg(long, conflicts_with = "spec")]
    matrix: bool,
    /// Of the matrix, only every N-th case
    #[arg(long, default_value_t = 1, value_name = "N", requires = "matrix", value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// The target: ten times the compute capability
    #[arg(long, default_value_t = 90, value_name = "N")]
    sm: u32,
    /// Where to run beside the emulator: auto (the first CUDA device if there is one), emulator (only it), or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// Trials of each kernel, each with its own random inputs [default: 2, of the matrix 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Only kernels whose name contains this
    #[arg(long, value_name = "TEXT")]
    kernel: Option<String>,
    /// Host threads of the emulator; 0 takes all cores
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = super::device::thread_count())]
    threads: usize,
    /// One JSON object, behind the last kernel
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    subject: &'a str,
    sm: u32,
    /// Trials of each kernel.
    trials: u64,
    failed: usize,
    seconds: f64,
    kernels: Vec<Checked>,
}

/// One kernel of the report.
#[derive(Serialize)]
struct Checked {
    entry: String,
    seconds: f64,
    /// Why it failed; nothing when it passed.
    error: Option<String>,
    #[serde(flatten)]
    done: Done,
}

/// What a check found; absent where it was not made.
#[derive(Default, Serialize)]
struct Done {
    registers: Option<u32>,
    spill_bytes: Option<u32>,
    /// Whether a device left the emulator's bits.
    device_equal: Option<bool>,
}

/// The kernels of a run and what knows how to try them.
struct Subject {
    name: String,
    kernels: Vec<KernelDesc>,
    operations: Vec<Box<dyn Operation + Send + Sync>>,
}

/// What every check of a run needs.
struct Run<'a> {
    subject: &'a Subject,
    sm: u32,
    seeds: u64,
    ptxas: Option<Ptxas>,
    device: Option<Device<'a>>,
    /// Where lines go at once, unless a report is asked for.
    out: Option<Mutex<Output>>,
    checked: Mutex<Vec<Checked>>,
}

impl Verify {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let subject = self.subject()?;
        let seeds = self.seeds.unwrap_or(if self.matrix { matrix::SEEDS.end } else { trial::SEEDS });
        let ptxas = Ptxas::find();
        if ptxas.is_none() {
            note(
                "skipped: no ptxas (MONOMORPH_PTXAS, PATH and .tools/ptxas were looked at; tools/fetch-ptxas.sh gets one)",
            );
        }
        let device = self.open_device(&subject)?;
        let run = Run {
            subject: &subject,
            sm: self.sm,
            seeds,
            ptxas,
            device,
            out: (!self.json).then(|| Mutex::new(Output::new())),
            checked: Mutex::new(Vec::new()),
        };
        let start = Instant::now();
        let wanted =
            |kernel: &KernelDesc| self.kernel.as_ref().is_none_or(|text| kernel.entry.contains(text));
        let chosen: Vec<usize> =
            subject.kernels.iter().enumerate().filter(|(_, k)| wanted(k)).map(|(i, _)| i).collect();
        if chosen.is_empty() {
            bail!("{} has no kernel whose name contains {:?}", subject.name, self.kernel.unwrap_or_default());
        }
        let (large, small): (Vec<usize>, Vec<usize>) =
            chosen.iter().partition(|i| subject.kernels[**i].bytes > LARGE_BYTES);
        run.in_parallel(&small, threads(self.threads))?;
        for index in large {
            run.one(index, self.threads)?;
        }
        let kernels = run.checked.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        let failed = kernels.iter().filter(|kernel| kernel.error.is_some()).count();
        let (total, seconds) = (kernels.len(), start.elapsed().as_secs_f64());
        let mut out = Output::new();
        if self.json {
            let (subject, sm) = (subject.name.as_str(), self.sm);
            out.json(&Report { subject, sm, trials: seeds, failed, seconds, kernels })?;
        } else {
            out.line(&format!(
                "{total} kernels of {} on sm_{}: {failed} failed; {seeds} trials each, {seconds:.1} s",
                subject.name, self.sm
            ))?;
        }
        out.finish()?;
        if failed > 0 {
            bail!("{failed} of {total} kernels failed");
        }
        Ok(())
    }

    fn subject(&self) -> Result<Subject> {
        let device = golden::device(self.sm)?;
        let Some(name) = &self.spec else {
            let cases = matrix::cases().into_iter().step_by(self.every as usize);
            let operations: Vec<Box<dyn Operation + Send + Sync>> = cases.collect();
            let kernels = operations.iter().map(|case| codegen::plan::kernel(case.as_ref(), device));
            let kernels = kernels.collect::<Result<Vec<_>, _>>()?;
            return Ok(Subject { name: "the matrix".to_owned(), kernels, operations });
        };
        let spec = specs::find(name)?;
        let plan = codegen::plan::build(&spec, device)?;
        let kernels = plan.table.kernels.into_owned();
        Ok(Subject { name: format!("spec {}", spec.name), kernels, operations: plan.operations })
    }

    /// The device beside the emulator, with the kernels loaded there.
    fn open_device<'a>(&self, subject: &'a Subject) -> Result<Option<Device<'a>>> {
        if self.device == DeviceChoice::Emulator {
            return Ok(None);
        }
        let opened = open_device(self.device, &DeviceOptions::default())
            .with_context(|| format!("--device {}", self.device))?;
        // Only CUDA devices have a target.
        let Some(found) = opened.queue.sm() else {
            note(&format!("skipped: {}; nothing is compared with a device", opened.why));
            return Ok(None);
        };
        if found < self.sm {
            bail!("kernels for sm_{} do not run on {}, which is sm_{found}", self.sm, opened.queue.name());
        }
        note(&format!("device: {} ({})", opened.queue.name(), opened.why));
        Ok(Some(Device::new(&opened.queue, &subject.kernels)?))
    }
}

fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

impl Run<'_> {
    /// Kernels at the same time, each on one thread.
    fn in_parallel(&self, indices: &[usize], n_threads: usize) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(index) = indices.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.one(*index, 1)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..n_threads.min(indices.len())).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => bail!("a worker panicked"),
            })
        })
    }

    /// Checks one kernel, prints its line and keeps what was found.
    fn one(&self, index: usize, n_threads: usize) -> Result<()> {
        let start = Instant::now();
        let kernel = &self.subject.kernels[index];
        let mut done = Done::default();
        let error = self.checks(index, n_threads, &mut done).err();
        let error = error.map(|error| super::output::one_line(&error));
        let (entry, seconds) = (kernel.entry.to_string(), start.elapsed().as_secs_f64());
        let line = match &error {
            None => format!("ok    {entry}  {}  {seconds:.2} s", done.words()),
            Some(error) => format!("FAIL  {entry}  {error}  [{}]", kernel.constants),
        };
        let mut checked = self.checked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        checked.push(Checked { entry, seconds, error, done });
        let Some(out) = &self.out else { return Ok(()) };
        let mut out = out.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        out.stream(&format!("{line}\n"))
    }

    /// Notes what was done, up to the first thing that is wrong.
    fn checks(&self, index: usize, n_threads: usize, done: &mut Done) -> Result<()> {
        let kernel = &self.subject.kernels[index];
        let operation = &self.subject.operations[index];
        if let Some(ptxas) = &self.ptxas {
            let found = ptxas.assemble(&kernel.ptx, self.sm)?;
            (done.registers, done.spill_bytes) = (Some(found.registers), Some(found.spill_bytes));
        }
        for seed in 0..self.seeds {
            let (trial, after) = trial::check(kernel, operation.as_ref(), seed, n_threads)?;
            if let Some(device) = &self.device {
                let compared = device.compare(index, &trial, &after);
                done.device_equal = Some(compared.is_ok());
                compared?;
            }
        }
        Ok(())
    }
}

impl Done {
    /// What was done to a kernel that passed.
    fn words(&self) -> String {
        let assembled = match (self.registers, self.spill_bytes) {
            (Some(registers), Some(spilled)) => format!("ptxas {registers} registers, {spilled} spill bytes"),
            _ => "ptxas skipped".to_owned(),
        };
        let compared = if self.device_equal == Some(true) { "device equal" } else { "device skipped" };
        format!("{assembled}; reference within bounds; {compared}")
    }
}
