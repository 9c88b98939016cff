//! `monomorph kernels`: every kernel of a spec with what it takes and the least time it can take.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use codegen::emit::folder;
use monomorph::golden::{self, Golden};
use monomorph::plan::{Step, Table};
use monomorph::ptxas::Ptxas;
use monomorph::specs;
use serde::Serialize;

use super::output::{Output, note};
use super::table_text;

/// Memory bandwidth that the floor is computed with, bytes a second: what an H200's HBM3e sustains (4.8e12 nominal).
pub const BANDWIDTH: f64 = 4.5e12;

/// Lists the kernels of a spec with their resources and their least time.
#[derive(Debug, Args)]
pub struct Kernels {
    /// A shipped spec, or the path of a .toml
    #[arg(long, value_name = "NAME")]
    spec: String,
    /// The target: ten times the compute capability
    #[arg(long, default_value_t = 90, value_name = "N")]
    sm: u32,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    spec: String,
    sm: u32,
    hash: String,
    kernels: Vec<Row>,
    /// Of all launches of a step, in microseconds.
    step_floor_us: f64,
}

#[derive(Serialize)]
struct Row {
    entry: String,
    constants: String,
    grid: [u32; 3],
    block: [u32; 3],
    registers: Option<u32>,
    shared_bytes: u32,
    spill_bytes: Option<u32>,
    bytes: u64,
    macs: u64,
    /// Launches in a step.
    launches: usize,
    /// Rows of the smallest step that has it; `null` when it only loads weights.
    rows: Option<u32>,
    /// Time to move `bytes` at full bandwidth.
    floor_us: f64,
    /// Multiply-adds a byte.
    intensity: f64,
}

impl Kernels {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let spec = specs::find(&self.spec)?;
        let mut golden = Golden::make(&spec, golden::device(self.sm)?)?;
        golden.carry_over(&golden::read_lock(&Path::new("generated").join(folder(&spec.name, self.sm)))?);
        if golden.lock.iter().any(|line| line.registers.is_none()) {
            match Ptxas::find() {
                Some(ptxas) => golden.measure(&ptxas)?,
                None => note("skipped: no ptxas, registers and spills are unknown (-)"),
            }
        }
        let report = report(&golden);
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
}

fn report(golden: &Golden) -> Report {
    let table: &Table = &golden.plan.table;
    let rows = table.kernels.iter().enumerate().map(|(index, kernel)| {
        let lock = golden.lock.iter().find(|line| line.entry == kernel.entry);
        let uses =
            |step: &Step| step.launches.iter().filter(|launch| launch.kernel as usize == index).count();
        let using = table.steps.iter().map(|step| (step.rows, uses(step))).filter(|(_, n)| *n > 0);
        let using: Vec<(u32, usize)> = using.collect();
        Row {
            entry: kernel.entry.to_string(),
            constants: kernel.constants.to_string(),
            grid: kernel.grid,
            block: kernel.block,
            registers: lock.and_then(|line| line.registers),
            shared_bytes: kernel.shared_bytes,
            spill_bytes: lock.and_then(|line| line.spill_bytes),
            bytes: kernel.bytes,
            macs: kernel.macs,
            rows: using.first().map(|(rows, _)| *rows),
            launches: using.first().map_or(0, |(_, launches)| *launches),
            floor_us: floor_us(kernel.bytes),
            intensity: kernel.macs as f64 / kernel.bytes.max(1) as f64,
        }
    });
    let rows: Vec<Row> = rows.collect();
    Report {
        spec: table.spec.to_string(),
        sm: table.sm,
        hash: table.hash.to_string(),
        step_floor_us: of_single(&rows),
        kernels: rows,
    }
}

/// The floor of a step of one row.
fn of_single(rows: &[Row]) -> f64 {
    let used = rows.iter().filter(|row| row.rows == Some(1));
    used.map(|row| row.floor_us * row.launches as f64).sum()
}

/// The least time for `bytes`, microseconds.
pub fn floor_us(bytes: u64) -> f64 {
    bytes as f64 / BANDWIDTH * 1e6
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let header = [
            "entry",
            "grid",
            "block",
            "regs",
            "shared",
            "spills",
            "bytes",
            "macs",
            "macs/byte",
            "rows",
            "a step",
            "floor µs",
        ];
        let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let rows: Vec<Vec<String>> = self
            .kernels
            .iter()
            .map(|row| {
                vec![
                    row.entry.clone(),
                    extent(row.grid),
                    extent(row.block),
                    number(row.registers),
                    row.shared_bytes.to_string(),
                    number(row.spill_bytes),
                    row.bytes.to_string(),
                    row.macs.to_string(),
                    format!("{:.2}", row.intensity),
                    number(row.rows),
                    row.launches.to_string(),
                    format!("{:.2}", row.floor_us),
                ]
            })
            .collect();
        let mut lines = vec![format!("spec {} on sm_{}, hash {}", self.spec, self.sm, self.hash)];
        lines.extend(table_text::columns(&header, &rows));
        lines.push(format!(
            "a step of one row cannot take less than {:.1} µs at {:.1} TB/s",
            self.step_floor_us,
            BANDWIDTH / 1e12
        ));
        lines
    }
}

/// `132`, `8×4`: trailing extents of one are left out.
pub fn extent(of: [u32; 3]) -> String {
    let used = of.iter().rposition(|n| *n != 1).unwrap_or(0);
    of[..=used].iter().map(u32::to_string).collect::<Vec<_>>().join("×")
}
