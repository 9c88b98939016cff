//! `monomorph bench --tune`: a search over the layouts of a spec's products of several rows.
//!
//! Each product of the plan is specialised in every layout that fits, and the layouts are timed on the device: many launches as
//! one unit, on copies of the weights that together exceed its cache. No layout changes a bit of a result, so nothing is
//! compared. The fastest go to a file that `codegen` keeps beside its cost model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use codegen::Device;
use codegen::kernels::Choices;
use codegen::plan::{Plan, build_with, kernel};
use codegen::tuned::{Tuned, Winner};
use monomorph::plan::{Arg, KernelDesc, Launch, Slot, Step};
use monomorph::ptxas::Ptxas;
use monomorph::runtime::queue::{Buf, Call, Kernels, Queue, QueueError};
use monomorph::specs;
use serde::Serialize;

use super::output::{Output, note};
use super::progress::Rounds;
use super::table_text;

/// The target whose layouts the emulator lists.
const EMULATED_SM: u32 = 90;
/// Bytes of all copies of a product's weights: four times the L2 cache of an H200.
const BYTES_OF_COPIES: u64 = 240_000_000;
/// Launches of a measurement, and how often it is repeated; the fastest counts.
const LAUNCHES: usize = 48;
const ROUNDS: usize = 3;
/// What a layout must save to be written down instead of the cost model's choice.
const WORTH_IT: f64 = 0.99;
/// Bytes that a thread may spill, as `tools/check-goldens.sh` allows.
const MOST_SPILLED: u32 = 256;
/// Bits that bytes of weights and activations may have: every f16 and f32 made of them is finite, positive and moderate.
const MODERATE: u8 = 0x3b;

/// What to search.
pub struct Search<'a> {
    /// The spec's name.
    pub spec: &'a str,
    /// Rows of the steps whose products are tried; none: of all.
    pub rows: &'a [u32],
    /// The file of winners.
    pub winners: Option<PathBuf>,
    /// One JSON object instead of a table.
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    device: String,
    spec: String,
    products: Vec<Product>,
}

/// A product and what became of its search.
#[derive(Serialize)]
struct Product {
    product: String,
    rows: u32,
    /// Layouts that fit.
    layouts: usize,
    /// Microseconds of a launch with the cost model's choice, with the fastest, and its layout; `null` where nothing was timed.
    model_us: Option<f64>,
    us: Option<f64>,
    tile: Option<String>,
    /// Every layout that was timed, the fastest first.
    timed: Vec<(String, f64)>,
}

/// Searches, prints, and writes winners.
pub fn run(search: &Search, queue: &Arc<dyn Queue>) -> Result<()> {
    let sm = queue.sm().unwrap_or(EMULATED_SM);
    let device = Device::from_sm(sm).with_context(|| format!("no layouts are known for sm_{sm}"))?;
    let spec = specs::find(search.spec)?;
    // Without winners: what is compared is the cost model.
    let plan = build_with(&spec, device, &Tuned::default())?;
    let found = products(&plan, search.rows);
    if found.is_empty() {
        bail!("{}: no product of {:?} rows has a choice", search.spec, search.rows);
    }
    let bench = Bench { queue, device, plan: &plan, ptxas: Ptxas::find() };
    let progress = Rounds::new("tune", found.len() as u64);
    let mut rows = Vec::new();
    for (index, launch, step) in found {
        let Some(choices) = plan.operations.get(index).and_then(|operation| operation.choices()) else {
            continue;
        };
        let timed = if queue.sm().is_some() {
            bench.times((index, &choices), (launch, step))?
        } else {
            Timed::default()
        };
        // Written at once: a search that is stopped keeps what it found.
        if let (Some(path), Some(winner)) = (&search.winners, timed.winner(&choices)) {
            write(path, sm, Tuned { winners: vec![winner] })?;
        }
        let product = timed.product(&choices);
        let us = |us: Option<f64>| us.map_or_else(|| "not timed".to_owned(), |us| format!("{us:.2} µs"));
        note(&format!("{}: {}, was {}", choices.key, us(product.us), us(product.model_us)));
        progress.done(&choices.key.to_string());
        rows.push(product);
    }
    let report = Report { device: queue.name().to_owned(), spec: search.spec.to_owned(), products: rows };
    let mut out = Output::new();
    if search.json {
        out.json(&report)?;
    } else {
        for line in report.lines() {
            out.line(&line)?;
        }
    }
    out.finish()
}

/// The kernels that have a choice, each with a launch of it.
fn products<'a>(plan: &'a Plan, rows: &[u32]) -> Vec<(usize, &'a Launch, &'a Step)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for step in plan.table.steps.iter().filter(|step| rows.is_empty() || rows.contains(&step.rows)) {
        for launch in step.launches.iter() {
            let index = launch.kernel as usize;
            let choices = plan.operations.get(index).and_then(|operation| operation.choices());
            // A product with a residual is laid out as one without.
            let Some(choices) = choices else { continue };
            if seen.insert(choices.key) {
                found.push((index, launch, step));
            }
        }
    }
    found
}

/// Reads what the file holds, puts the new winners before its own, and writes it.
fn write(path: &Path, sm: u32, new: Tuned) -> Result<()> {
    let name = || path.display().to_string();
    let old = match std::fs::read_to_string(path) {
        Ok(text) => Tuned::parse(sm, &text).with_context(name)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Tuned::default(),
        Err(error) => return Err(error).with_context(name),
    };
    std::fs::write(path, new.or(old).text()).with_context(name)
}

/// Microseconds of a launch in each layout, and with the cost model's choice.
#[derive(Default)]
struct Timed {
    model_us: Option<f64>,
    /// The layout's index and its time, the fastest first.
    layouts: Vec<(usize, f64)>,
}

impl Timed {
    fn winner(&self, choices: &Choices) -> Option<Winner> {
        let (model_us, (index, us)) = (self.model_us?, *self.layouts.first()?);
        let (tile, _) = choices.tiles.get(index)?;
        let is_better = us < model_us * WORTH_IT && choices.now != Some(*tile);
        is_better.then(|| Winner { key: choices.key.clone(), us, model_us, tile: *tile })
    }

    fn product(&self, choices: &Choices) -> Product {
        let name = |(index, us): &(usize, f64)| Some((short(choices.tiles.get(*index)?.0), *us));
        let timed: Vec<(String, f64)> = self.layouts.iter().filter_map(name).collect();
        Product {
            product: choices.key.to_string(),
            rows: choices.key.rows,
            layouts: choices.tiles.len(),
            model_us: self.model_us,
            us: timed.first().map(|(_, us)| *us),
            tile: timed.first().map(|(tile, _)| tile.clone()),
            timed,
        }
    }
}

/// A tile in a few letters.
fn short(t: codegen::kernels::gemm::Tile) -> String {
    format!(
        "m{} n{} a{} p{} s{} d{} b{} {} r{}",
        t.m, t.n, t.across, t.parts, t.slots, t.depth, t.buffers, t.fill, t.resident
    )
}

/// A device and the plan whose products it runs.
struct Bench<'a> {
    queue: &'a Arc<dyn Queue>,
    device: Device,
    plan: &'a Plan,
    ptxas: Option<Ptxas>,
}

impl Bench<'_> {
    fn times(&self, (index, choices): (usize, &Choices), (launch, step): (&Launch, &Step)) -> Result<Timed> {
        let Some(model) = self.plan.table.kernels.get(index) else { bail!("no kernel {index}") };
        let args = Arguments::new(self.queue, self.plan, (launch, step))?;
        let loaded = self.load(choices)?;
        let model_us = self.time(&self.queue.load(std::slice::from_ref(model))?, &args)?;
        let mut layouts = Vec::new();
        for (i, kernels) in loaded.into_iter().enumerate() {
            if let Some(kernels) = kernels {
                layouts.push((i, self.time(&kernels, &args)?));
            }
        }
        layouts.sort_by(|a, b| a.1.total_cmp(&b.1));
        Ok(Timed { model_us: Some(model_us), layouts })
    }

    /// Specialises and compiles every layout on all cores; `None` for one that the device refuses. By an assembler where there is
    /// one: the driver compiles one kernel at a time.
    fn load(&self, choices: &Choices) -> Result<Vec<Option<Arc<dyn Kernels>>>> {
        let next = AtomicUsize::new(0);
        let n_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let work = || {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some((_, operation)) = choices.tiles.get(i) else { return Ok(done) };
                let desc: KernelDesc = kernel(operation.as_ref(), self.device)?;
                match self.compile(&desc)? {
                    Ok(kernels) => done.extend(kernels.map(|kernels| (i, kernels))),
                    Err(error) => note(&format!("{}: {error}", choices.key)),
                }
            }
        };
        let mut loaded: Vec<Option<Arc<dyn Kernels>>> = choices.tiles.iter().map(|_| None).collect();
        std::thread::scope(|scope| -> Result<()> {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                let done: Result<Vec<_>> = match thread.join() {
                    Ok(done) => done,
                    Err(_) => bail!("a thread that compiled layouts panicked"),
                };
                for (i, kernels) in done? {
                    if let Some(place) = loaded.get_mut(i) {
                        *place = Some(kernels);
                    }
                }
            }
            Ok(())
        })?;
        Ok(loaded)
    }

    /// A kernel, or none where it spills too much, as far as an assembler tells.
    fn compile(&self, desc: &KernelDesc) -> Result<Result<Option<Arc<dyn Kernels>>, QueueError>> {
        let Some(ptxas) = &self.ptxas else {
            let loaded = self.queue.load(std::slice::from_ref(desc));
            return Ok(loaded.and_then(|kernels| kernels.prepare(&[0]).map(|()| Some(kernels))));
        };
        let load = |file: &Path| self.queue.load_assembled(desc, file);
        let (resources, loaded) = ptxas.assemble_and((&desc.ptx, self.device.sm), load)?;
        Ok(loaded.map(|kernels| (resources.spill_bytes <= MOST_SPILLED).then_some(kernels)))
    }

    /// Microseconds of a launch: of many as one unit, one behind the other on the next copy of the weights.
    fn time(&self, kernels: &Arc<dyn Kernels>, args: &Arguments) -> Result<f64> {
        let replay = Arc::clone(kernels).record((0..LAUNCHES).map(|i| args.call(i)).collect())?;
        let mut best = f64::INFINITY;
        // The first round warms caches and clocks.
        for round in 0..=ROUNDS {
            self.queue.synchronize()?;
            let start = Instant::now();
            replay.run()?;
            self.queue.synchronize()?;
            if round > 0 {
                best = best.min(start.elapsed().as_secs_f64() * 1e6 / LAUNCHES as f64);
            }
        }
        Ok(best)
    }
}

/// What the parameters of a launch point to.
struct Arguments {
    /// Of each parameter one buffer, or copies.
    buffers: Vec<Vec<Buf>>,
}

impl Arguments {
    fn new(queue: &Arc<dyn Queue>, plan: &Plan, (launch, step): (&Launch, &Step)) -> Result<Arguments> {
        let weights = |arg: &Arg| match arg {
            Arg::Weight(index) => plan.table.weights.get(*index as usize).map(|w| w.packed_bytes),
            Arg::Buffer { .. } => None,
        };
        let of_all: u64 = launch.args.iter().filter_map(weights).sum();
        let copies = BYTES_OF_COPIES.div_ceil(of_all.max(1)).clamp(2, LAUNCHES as u64);
        let mut buffers = Vec::new();
        for arg in launch.args.iter() {
            buffers.push(match (weights(arg), arg) {
                (Some(bytes), _) => (0..copies).map(|_| filled(queue, bytes)).collect::<Result<Vec<_>>>()?,
                (None, Arg::Buffer { index, .. }) => {
                    let Some(desc) = step.buffers.get(*index as usize) else { bail!("no buffer {index}") };
                    let buffer = filled(queue, desc.bytes)?;
                    if desc.slot == Slot::Control {
                        // All rows are active.
                        buffer.upload(0, &step.rows.to_le_bytes())?;
                    }
                    vec![buffer]
                }
                (None, Arg::Weight(index)) => bail!("no weight {index}"),
            });
        }
        Ok(Arguments { buffers })
    }

    fn call(&self, i: usize) -> Call {
        let address = |of: &Vec<Buf>| of.get(i % of.len().max(1)).map_or(0, |buffer| buffer.addr().0);
        Call { kernel: 0, args: self.buffers.iter().map(address).collect() }
    }
}

/// A buffer of moderate random bytes.
fn filled(queue: &Arc<dyn Queue>, bytes: u64) -> Result<Buf> {
    const BLOCK: u64 = 1 << 22;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0u8; bytes.min(BLOCK) as usize];
    for byte in &mut block {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8 & MODERATE;
    }
    let buffer = Buf::new(queue, bytes)?;
    let mut at = 0;
    while at < bytes {
        let n = (bytes - at).min(block.len() as u64);
        buffer.upload(at, block.get(..n as usize).unwrap_or(&block))?;
        at += n;
    }
    Ok(buffer)
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let us = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}"));
        let cells = |p: &Product| {
            let ratio = p.model_us.zip(p.us).map(|(model, us)| format!("{:.2}×", model / us));
            vec![
                p.product.clone(),
                p.layouts.to_string(),
                us(p.model_us),
                us(p.us),
                ratio.unwrap_or_else(|| "-".to_owned()),
                p.tile.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        };
        let rows: Vec<Vec<String>> = self.products.iter().map(cells).collect();
        let header = ["product", "layouts", "model µs", "best µs", "gain", "tile"];
        let mut lines = vec![format!("{} on {}", self.spec, self.device)];
        lines.extend(table_text::columns(&header, &rows));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use codegen::kernels::Operation;
    use codegen::kernels::gemm::Gemm;
    use codegen::kernels::gemv::{Epilogue, Split};
    use codegen::layout::Matrix;
    use monomorph::plan::QType;

    fn choices() -> Choices {
        let matrix = Matrix { qtype: QType::Q4K, rows: 128, cols: 1024 };
        let split = Split { k_split: 2, tiles_per_cta: 2, unroll: 4 };
        Gemm::new(matrix, Epilogue::Store, split, 32).choices().unwrap()
    }

    #[test]
    fn only_what_is_faster_is_a_winner() {
        let choices = choices();
        let other = choices.tiles.iter().position(|(tile, _)| Some(*tile) != choices.now).unwrap();
        let of = |us| Timed { model_us: Some(10.0), layouts: vec![(other, us), (0, 30.0)] }.winner(&choices);
        assert_eq!(of(8.0).map(|w| (w.us, w.tile)), Some((8.0, choices.tiles[other].0)));
        assert_eq!(of(9.95), None);
        assert_eq!(Timed::default().winner(&choices), None);
    }

    #[test]
    fn layouts_differ_and_hold_the_model_s() {
        let choices = choices();
        let mut names: Vec<String> = choices.tiles.iter().map(|(tile, _)| short(*tile)).collect();
        assert!(names.contains(&short(choices.now.unwrap())), "{names:?}");
        let n = names.len();
        names.sort();
        names.dedup();
        assert!(n > 10 && names.len() == n, "{n}");
    }
}
