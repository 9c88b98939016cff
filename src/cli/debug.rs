//! `monomorph debug`: a token through a model launch by launch, with what each launch leaves in memory, alone or
//! beside the emulator.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use monomorph::plan::{Phase, Table};
use monomorph::runtime::Walk;
use monomorph::runtime::queue::Queue;
use monomorph::stepwise::{self, BufferReport, LaunchReport};
use monomorph::values::Difference;
use serde::Serialize;

use super::device::DeviceArgs;
use super::model::ModelArgs;
use super::output::Output;

/// Takes a token through a model launch by launch and shows what each leaves in memory.
#[derive(Debug, Args)]
pub struct Debug {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids with commas between: all but the last are taken in as usual, the last launch by launch
    #[arg(long, value_delimiter = ',', required = true, value_name = "IDS")]
    tokens: Vec<u32>,
    /// The last launch: its index, or the name of its kernel, with a layer if not the first: 12, attend_step:3
    #[arg(long, value_name = "LAUNCH")]
    stop_after: Option<Stop>,
    /// Run the same beside it and stop at the first launch that leaves other bits
    #[arg(long, value_enum, value_name = "DEVICE")]
    against: Option<Reference>,
    /// Numbers shown of each buffer
    #[arg(long, default_value_t = 4, value_name = "N")]
    values: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Reference {
    /// The CPU emulator, with every kernel from the same PTX
    Emulator,
}

/// A launch as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stop {
    Index(usize),
    Kernel { name: String, layer: Option<u32> },
}

impl FromStr for Stop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(index) = text.parse() {
            return Ok(Stop::Index(index));
        }
        let (name, layer) = match text.split_once(':') {
            None => (text, None),
            Some((name, layer)) => (name, Some(layer.parse().map_err(|_| format!("{layer:?} is no layer"))?)),
        };
        if name.is_empty() {
            return Err("no kernel is named".to_owned());
        }
        Ok(Stop::Kernel { name: name.to_owned(), layer })
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Index(index) => write!(f, "{index}"),
            Stop::Kernel { name, layer: None } => f.write_str(name),
            Stop::Kernel { name, layer: Some(layer) } => write!(f, "{name}:{layer}"),
        }
    }
}

impl Stop {
    /// The launch of the step of one row.
    fn find(&self, table: &Table) -> Result<usize> {
        let step = table.single().context("the table has no step")?;
        let walked = || step.launches.iter().filter(|launch| launch.phase != Phase::Sample);
        let found = match self {
            Stop::Index(index) => Some(*index).filter(|index| *index < walked().count()),
            Stop::Kernel { name, layer } => walked().position(|launch| {
                let kernel = table.kernels.get(launch.kernel as usize);
                kernel.is_some_and(|kernel| kernel.name == *name || kernel.entry == *name)
                    && (layer.is_none() || launch.layer == *layer)
            }),
        };
        if let Some(index) = found {
            return Ok(index);
        }
        let mut names: Vec<&str> = Vec::new();
        for launch in walked() {
            let name = table.kernels.get(launch.kernel as usize).map_or("", |kernel| &*kernel.name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        bail!(
            "--stop-after {self}: the step has {} launches in {} layers, of {}",
            walked().count(),
            table.dims.n_layers,
            names.join(", ")
        )
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    against: Option<&'a str>,
    model: &'a str,
    spec: &'a str,
    tokens: &'a [u32],
    position: u32,
    launches: Vec<LaunchReport>,
    /// Whether every buffer of every launch has the same bits on both; none without a reference.
    equal: Option<bool>,
}

impl Debug {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let Some((last, before)) = self.tokens.split_last() else { bail!("no tokens") };
        let origin = self.model.open()?;
        let opened = self.device.open()?;
        let prepared = self.model.prepare(origin, opened.queue.as_ref())?;
        prepared.check_prompt(self.tokens.len())?;
        let stop = self.stop_after.as_ref().map(|stop| stop.find(&prepared.table)).transpose()?;
        let beside: Option<Arc<dyn Queue>> = self.against.map(|Reference::Emulator| self.device.emulator());
        let session = |queue: &Arc<dyn Queue>| -> Result<_> {
            let mut session = prepared.load(queue)?.session()?;
            session.take(before)?;
            Ok(session)
        };
        let mut on_device = session(&opened.queue)?;
        let mut on_reference = beside.as_ref().map(session).transpose()?;
        let mut device = on_device.walk(*last)?;
        let mut reference = on_reference.as_mut().map(|session| session.walk(*last)).transpose()?;
        let position = device.position();
        let mut out = Output::new();
        let walked = self.follow((&mut device, reference.as_mut()), stop, &mut out)?;
        let different = walked.last().and_then(|launch| Some((launch, launch.first_difference()?)));
        let problem = different.map(|(launch, (buffer, found))| problem(launch, buffer, found));
        if self.json {
            out.json(&Report {
                device: opened.queue.name(),
                against: beside.as_ref().map(|queue| queue.name()),
                model: &prepared.name,
                spec: &prepared.table.spec,
                tokens: &self.tokens,
                position,
                equal: beside.as_ref().map(|_| problem.is_none()),
                launches: walked,
            })?;
        }
        out.finish()?;
        match problem {
            Some(problem) => bail!(problem),
            None => Ok(()),
        }
    }

    /// Goes on until the launch to stop after, a difference or the end, and shows every launch as it comes.
    fn follow(
        &self,
        (device, mut reference): (&mut Walk<'_>, Option<&mut Walk<'_>>),
        stop: Option<usize>,
        out: &mut Output,
    ) -> Result<Vec<LaunchReport>> {
        let mut walked = Vec::new();
        while let Some(report) = stepwise::advance(device, reference.as_deref_mut(), self.values)? {
            if !self.json {
                for line in lines(&report) {
                    out.line(&line)?;
                }
            }
            let ends = stop == Some(report.index) || report.first_difference().is_some();
            walked.push(report);
            if ends {
                break;
            }
        }
        Ok(walked)
    }
}

/// The sentence for the first element that differs.
fn problem(launch: &LaunchReport, buffer: &BufferReport, found: &Difference) -> String {
    let Difference { element, n_differing, device, reference, device_bits, reference_bits } = found;
    format!(
        "launch {} {}: {}[{element}] is {device} ({device_bits}), on the emulator {reference} ({reference_bits}); \
         {n_differing} of {} elements differ",
        launch.index, launch.kernel, buffer.slot, buffer.summary.elements
    )
}

fn lines(report: &LaunchReport) -> Vec<String> {
    let layer = report.layer.map_or_else(String::new, |layer| format!("layer {layer} "));
    let mut lines = vec![format!("{:>3} {layer}{}", report.index, report.kernel)];
    for BufferReport { slot, summary, .. } in &report.buffers {
        let first: Vec<String> = summary.first.iter().map(|number| short(*number)).collect();
        let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), short);
        lines.push(format!(
            "      {slot} {} × {}: [{} …] min {} max {} mean {} NaN {} inf {} hash {}",
            summary.elements,
            summary.kind,
            first.join(", "),
            number(summary.min),
            number(summary.max),
            number(summary.mean),
            summary.nan,
            summary.inf,
            summary.hash
        ));
    }
    lines
}

/// A number in few characters: whole ones as they are.
fn short(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 { format!("{number}") } else { format!("{number:.6e}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use monomorph::compiled_table;

    #[test]
    fn launches_are_named_by_index_and_by_kernel() {
        let table = compiled_table("tiny", 90).unwrap();
        let launches = &table.single().unwrap().launches;
        let find = |text: &str| text.parse::<Stop>().unwrap().find(table);
        assert_eq!(find("7").unwrap(), 7);
        let third = find("attend_step:3").unwrap();
        assert_eq!(launches[third].layer, Some(3));
        assert!(find("attend_step").unwrap() < third);
        let entry = &table.kernels[launches[third].kernel as usize].entry;
        assert_eq!(find(&format!("{entry}:3")).unwrap(), third);
        for wrong in ["100000", "attend_step:99", "nothing"] {
            let text = find(wrong).unwrap_err().to_string();
            assert!(text.contains(wrong) && text.contains("attend_step"), "{text}");
        }
        assert!("x:y".parse::<Stop>().is_err() && ":1".parse::<Stop>().is_err());
    }
}
