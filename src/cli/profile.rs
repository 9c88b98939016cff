//! `monomorph profile`: where the time of a step goes.
//!
//! One step of any number of rows, launch by launch, each timed on the device. Launches are added up at three levels: `macro` by part of the
//! model, `midi` by kernel, `micro` not at all. Beside each time stands its floor: the bytes that the launch must move,
//! at the bandwidth that reads reach.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use monomorph::plan::{KernelDesc, Launch, Step, StepKind, Table};
use monomorph::runtime::Session;
use serde::{Deserialize, Serialize};

use super::device::DeviceArgs;
use super::kernels::{BANDWIDTH, floor_us};
use super::model::ModelArgs;
use super::output::Output;
use super::roofline;
use super::table_text;

/// From this share of the bandwidth on a kernel is marked.
const NEAR: f64 = 0.75;

/// Shows where the time of a token goes.
#[derive(Debug, Args)]
pub struct Profile {
    #[command(flatten)]
    model: ModelArgs,
    /// How finely launches are told apart
    #[arg(long, value_enum, default_value_t = Level::Midi)]
    level: Level,
    /// Tokens in the cache before the step that is timed
    #[arg(long, default_value_t = 64, value_name = "N")]
    depth: u32,
    /// Rows of the step: tokens of one sequence, one behind the other
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// A step of prefill instead of one that decodes
    #[arg(long)]
    prefill: bool,
    /// How often the step is timed; the median of each launch counts
    #[arg(short = 'r', long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Also draw the roofline of the kernels: operations a byte and a second, under the ceilings of an H200
    #[arg(long, value_name = "OUT.svg")]
    roofline: Option<PathBuf>,
    /// Draw profiles that were printed with --json instead of timing a step
    #[arg(long, requires = "roofline", value_delimiter = ',', value_name = "FILE,FILE")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How finely launches are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// By part of the model
    Macro,
    /// By kernel
    Midi,
    /// Each launch
    Micro,
}

/// What `--json` prints.
#[derive(Deserialize, Serialize)]
pub struct Report {
    pub device: String,
    model: String,
    pub spec: String,
    level: String,
    depth: u32,
    pub rows: u32,
    pub prefill: bool,
    repetitions: u32,
    step_us: f64,
    floor_us: f64,
    pub operations: Vec<Row>,
}

/// Launches that are added up.
#[derive(Deserialize, Serialize)]
pub struct Row {
    pub name: String,
    launches: usize,
    pub us: f64,
    /// Of the step.
    pub share: f64,
    bytes: u64,
    pub flops: u64,
    pub gb_s: f64,
    pub gflop_s: f64,
    /// Operations a byte.
    pub intensity: f64,
    floor_us: f64,
}

impl Profile {
    /// Runs the verb.
    pub fn run(mut self) -> Result<()> {
        if let (Some(path), false) = (&self.roofline, self.from.is_empty()) {
            let reports = self.from.iter().map(|from| read(from)).collect::<Result<Vec<Report>>>()?;
            return draw(path, &reports);
        }
        let origin = self.model.open()?;
        let opened = self.device.open()?;
        self.model.context.get_or_insert(self.depth + self.rows);
        let prepared = self.model.prepare(origin, opened.queue.as_ref())?;
        let table = &prepared.table;
        let index = find_step(table, self.rows, self.kind())?;
        let step = &table.steps[index];
        let model = prepared.load(&opened.queue)?;
        let mut session = model.session()?;
        let tokens: Vec<u32> =
            (0..self.depth).map(|i| i.wrapping_mul(2_654_435_761) % table.dims.vocab_size).collect();
        session.take(&tokens)?;
        let times = self.times(&mut session, (index, table.dims.vocab_size))?;
        let rows = rows(table, step, (&times, self.depth), self.level);
        let report = Report {
            device: opened.queue.name().to_owned(),
            model: prepared.name.clone(),
            spec: table.spec.to_string(),
            level: format!("{:?}", self.level).to_lowercase(),
            depth: self.depth,
            rows: self.rows,
            prefill: self.prefill,
            repetitions: self.repetitions,
            step_us: rows.iter().map(|row| row.us).sum(),
            floor_us: rows.iter().map(|row| row.floor_us).sum(),
            operations: rows,
        };
        let mut out = Output::new();
        if self.json {
            out.json(&report)?;
        } else {
            for line in report.lines() {
                out.line(&line)?;
            }
        }
        if let Some(path) = &self.roofline {
            draw(path, &[report])?;
        }
        out.finish()
    }

    fn kind(&self) -> StepKind {
        if self.prefill { StepKind::Prefill } else { StepKind::Decode }
    }

    /// The median time of each launch.
    fn times(&self, session: &mut Session, (step, vocab_size): (usize, u32)) -> Result<Vec<Duration>> {
        let tokens: Vec<u32> = (0..self.rows).map(|i| i.wrapping_mul(40_503) % vocab_size).collect();
        let mut samples: Vec<Vec<Duration>> = Vec::new();
        // The first round warms caches and clocks; it is not counted.
        for round in 0..=self.repetitions {
            session.rewind(self.depth)?;
            let times = session.profile_rows(step, &tokens)?;
            if round > 0 {
                samples.resize_with(times.len(), Vec::new);
                samples.iter_mut().zip(times).for_each(|(of, time)| of.push(time));
            }
        }
        samples.iter_mut().for_each(|of| of.sort_unstable());
        Ok(samples.iter().map(|of| of.get(of.len() / 2).copied().unwrap_or_default()).collect())
    }
}

/// A profile as `--json` printed it.
fn read(path: &Path) -> Result<Report> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(name)?;
    serde_json::from_str(&text).with_context(name)
}

fn draw(path: &Path, reports: &[Report]) -> Result<()> {
    if let Some(other) =
        reports.iter().find(|report| Some(&report.device) != reports.first().map(|r| &r.device))
    {
        bail!("a roofline is of one device; found {} beside {}", other.device, reports[0].device);
    }
    std::fs::write(path, roofline::svg(reports)).with_context(|| path.display().to_string())
}

/// The step that takes so many rows, and none more.
fn find_step(table: &Table, rows: u32, kind: StepKind) -> Result<usize> {
    let of_kind = |step: &&Step| step.kind == kind;
    let found = table.steps.iter().position(|step| of_kind(&step) && step.rows == rows);
    let sizes: Vec<String> = table.steps.iter().filter(of_kind).map(|step| step.rows.to_string()).collect();
    found.with_context(|| format!("no such step of {rows} rows; there are those of {}", sizes.join(", ")))
}

/// Bytes and multiply-adds of a launch of `rows` at `depth`: the table gives those of attention for one position. In a prompt
/// rows see half of each other on average, and what they read of the caches is little beside their own queries and outputs.
fn cost(kernel: &KernelDesc, (depth, rows): (u32, u32)) -> (u64, u64) {
    let is = |names: &[&str]| names.iter().any(|name| kernel.name.starts_with(name));
    let (depth, rows) = (u64::from(depth), u64::from(rows));
    if is(&["attend_prefill"]) {
        (kernel.bytes, kernel.macs * (2 * depth + rows + 1) / 2)
    } else if is(&["attend_split", "attend_step"]) {
        (kernel.bytes * (depth + 1), kernel.macs * (depth + 1))
    } else {
        (kernel.bytes, kernel.macs)
    }
}

/// What a launch is added up under.
fn group(launch: &Launch, kernel: &KernelDesc, (index, level): (usize, Level)) -> String {
    let layer = launch.layer.map_or_else(String::new, |layer| format!("layer {layer} "));
    match level {
        Level::Micro => format!("{index:>3} {layer}{}", kernel.entry),
        Level::Midi => kernel.name.to_string(),
        Level::Macro => part_of(&kernel.name, launch).to_owned(),
    }
}

/// The part of the model that a kernel belongs to.
fn part_of(kernel: &str, launch: &Launch) -> &'static str {
    let is = |words: &[&str]| words.iter().any(|word| kernel.contains(word));
    match launch.layer {
        None if is(&["embed"]) => "embedding",
        None => "head",
        Some(_) if is(&["norm"]) => "norms",
        Some(_) if is(&["attend", "rope"]) => "attention",
        Some(_) if is(&["qkv"]) => "qkv",
        Some(_) if is(&["gate", "gelu"]) => "ffn up",
        Some(_) => "output and ffn down",
    }
}

fn rows(table: &Table, step: &Step, (times, depth): (&[Duration], u32), level: Level) -> Vec<Row> {
    let total: f64 = times.iter().map(Duration::as_secs_f64).sum();
    let mut order = Vec::new();
    let mut sums: BTreeMap<String, (usize, f64, u64, u64)> = BTreeMap::new();
    for (index, (launch, time)) in step.launches.iter().zip(times).enumerate() {
        let Some(kernel) = table.kernels.get(launch.kernel as usize) else { continue };
        let name = group(launch, kernel, (index, level));
        let (bytes, macs) = cost(kernel, (depth, step.rows));
        let sum = sums.entry(name.clone()).or_insert_with(|| {
            order.push(name);
            (0, 0.0, 0, 0)
        });
        *sum = (sum.0 + 1, sum.1 + time.as_secs_f64(), sum.2 + bytes, sum.3 + macs);
    }
    let row = |name: String| {
        let (launches, seconds, bytes, macs) = sums.get(&name).copied().unwrap_or_default();
        let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds / 1e9 } else { 0.0 };
        Row {
            name,
            launches,
            us: seconds * 1e6,
            share: if total > 0.0 { seconds / total } else { 0.0 },
            bytes,
            flops: 2 * macs,
            gb_s: rate(bytes),
            gflop_s: rate(2 * macs),
            intensity: 2.0 * macs as f64 / bytes.max(1) as f64,
            floor_us: floor_us(bytes),
        }
    };
    let mut rows: Vec<Row> = order.into_iter().map(row).collect();
    if level != Level::Micro {
        rows.sort_by(|a, b| b.us.total_cmp(&a.us));
    }
    rows
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let header = [
            "operation",
            "launches",
            "µs",
            "share",
            "floor µs",
            "of floor",
            "GB/s",
            "of 4.5 TB/s",
            "GFLOP/s",
            "FLOP/byte",
        ];
        let cells = |row: &Row| {
            vec![
                row.name.clone(),
                row.launches.to_string(),
                format!("{:.2}", row.us),
                format!("{:.1} %", row.share * 100.0),
                format!("{:.2}", row.floor_us),
                format!("{:.1}×", row.us / row.floor_us.max(1e-9)),
                format!("{:.1}", row.gb_s),
                of_bandwidth(row.gb_s),
                format!("{:.1}", row.gflop_s),
                format!("{:.2}", row.intensity),
            ]
        };
        let kind = if self.prefill { " of prefill" } else { "" };
        let mut lines = vec![format!(
            "{} (spec {}) on {}: a step{kind} of {} rows after {} tokens",
            self.model, self.spec, self.device, self.rows, self.depth
        )];
        lines.extend(table_text::columns(&header, &self.operations.iter().map(cells).collect::<Vec<_>>()));
        lines.push(format!(
            "* at least 75 % of 4.5 TB/s; the launches one by one take {:.1} µs; their bytes at {:.1} TB/s {:.1} µs. A replayed step overlaps launches and is shorter",
            self.step_us,
            BANDWIDTH / 1e12,
            self.floor_us
        ));
        lines
    }
}

/// The share of the bandwidth that reads reach; marked where memory is as good as all that decides.
fn of_bandwidth(gb_s: f64) -> String {
    let share = gb_s * 1e9 / BANDWIDTH;
    format!("{}{:.0} %", if share >= NEAR { "* " } else { "" }, share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use monomorph::{golden, specs};

    fn tiny() -> Table {
        codegen::plan::build(&specs::find("tiny").unwrap(), golden::device(90).unwrap()).unwrap().table
    }

    #[test]
    fn every_level_adds_up_to_the_same_step() {
        let table = tiny();
        let step = table.single().unwrap();
        let times: Vec<Duration> = (1..=step.launches.len() as u64).map(Duration::from_micros).collect();
        let total: f64 = (1..=step.launches.len()).sum::<usize>() as f64;
        let mut sizes = Vec::new();
        for level in [Level::Macro, Level::Midi, Level::Micro] {
            let rows = rows(&table, step, (&times, 9), level);
            assert!((rows.iter().map(|row| row.us).sum::<f64>() - total).abs() < 1e-6);
            assert_eq!(rows.iter().map(|row| row.launches).sum::<usize>(), step.launches.len());
            assert!((rows.iter().map(|row| row.share).sum::<f64>() - 1.0).abs() < 1e-9);
            sizes.push(rows.len());
        }
        assert!(sizes[0] < sizes[1] && sizes[1] < sizes[2], "{sizes:?}");
    }

    #[test]
    fn kernels_near_the_bandwidth_are_marked() {
        assert_eq!([3374.0, 3376.0, 45.0].map(of_bandwidth), ["75 %", "* 75 %", "1 %"]);
    }

    #[test]
    fn steps_are_found_by_rows_and_kind() {
        let table = tiny();
        let of =
            |rows, kind| find_step(&table, rows, kind).map(|i| (table.steps[i].rows, table.steps[i].kind));
        for step in table.steps.iter() {
            assert_eq!(of(step.rows, step.kind).unwrap(), (step.rows, step.kind));
        }
        let words = of(3, StepKind::Prefill).unwrap_err().to_string();
        let there = table.steps.iter().filter(|step| step.kind == StepKind::Prefill);
        let there = there.map(|step| step.rows.to_string()).collect::<Vec<_>>().join(", ");
        assert!(words.contains(&format!("of 3 rows; there are those of {there}")), "{words}");
    }

    #[test]
    fn attention_costs_what_its_positions_cost() {
        let table = tiny();
        let kernel = table.kernels.iter().find(|k| k.name == "attend_step").unwrap();
        assert_eq!(cost(kernel, (9, 1)).0, 10 * cost(kernel, (0, 1)).0);
        // Rows of a prompt see 1, 2 and 3 positions: 2 on average.
        let prompt = table.kernels.iter().find(|k| k.name == "attend_prefill").unwrap();
        assert_eq!(cost(prompt, (0, 3)), (prompt.bytes, 2 * prompt.macs));
    }
}
