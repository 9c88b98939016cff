//! `monomorph doctor`: what of a machine and of this build can be used, and for each missing piece what it would give and
//! the command that brings it. Nothing that is missing is an error: the emulator runs everything.

mod cuda;

use std::path::Path;
use std::thread;

use anyhow::Result;
use clap::Args;
use codegen::ModelSpec;
use monomorph::nvdisasm::Nvdisasm;
use monomorph::ptxas::Ptxas;
use monomorph::runtime::gguf::Gguf;
use monomorph::runtime::jit::{KernelCache, MAX_CACHE_BYTES};
use monomorph::{COMPILED, built_in, specs};
use serde::Serialize;

use super::model::kernel_cache;
use super::output::Output;
use super::style::{Palette, Style};
use super::table_text::bytes;
use super::tool_version::version_of;

/// Shows what this machine and this build have, and how to get what is missing.
#[derive(Debug, Args)]
pub struct Doctor {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    /// `x86_64 linux`.
    host: String,
    cores: usize,
    driver: cuda::Driver,
    devices: Vec<cuda::GpuReport>,
    tools: Vec<Tool>,
    built_in: Vec<BuiltInModel>,
    specs: Vec<Spec>,
    /// Kernels that `--jit` made and kept; `null` when it is off.
    cache: Option<Cache>,
    /// Everything that is not there, for people and scripts to go through.
    missing: Vec<Missing>,
}

/// A piece that is not there.
#[derive(Clone, Serialize)]
struct Missing {
    what: String,
    gives: String,
    command: String,
}

#[derive(Serialize)]
struct Tool {
    name: &'static str,
    path: Option<String>,
    /// What it says of itself; `null` when it is not there or does not run.
    version: Option<String>,
    #[serde(skip)]
    missing: Missing,
}

#[derive(Serialize)]
struct BuiltInModel {
    name: &'static str,
    file_bytes: u64,
    parameters: u64,
}

/// The folder of kernels made by `--jit`.
#[derive(Serialize)]
struct Cache {
    folder: String,
    entries: usize,
    bytes: u64,
    /// Beyond these, what was used longest ago is removed.
    limit_bytes: u64,
}

#[derive(Serialize)]
struct Spec {
    name: String,
    /// Targets whose kernels are compiled in.
    targets: Vec<u32>,
    /// The cargo feature that compiles it in.
    feature: Option<&'static str>,
}

impl Doctor {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let report = Report::make()?;
        let mut out = Output::new();
        if self.json {
            out.json(&report)?;
        } else {
            for line in report.lines(Palette::stdout()) {
                out.line(&line)?;
            }
        }
        out.finish()
    }
}

impl Report {
    fn make() -> Result<Report> {
        let specs = compiled_specs()?;
        let (driver, devices) = cuda::look(&specs);
        let tools = vec![ptxas(), nvdisasm()];
        let built_in = built_in_models()?;
        let mut missing = driver.missing.clone().into_iter().collect::<Vec<_>>();
        missing.extend(devices.iter().filter_map(|device| device.missing.clone()));
        missing.extend(tools.iter().filter(|tool| tool.version.is_none()).map(|tool| tool.missing.clone()));
        if built_in.is_empty() {
            missing.push(Missing {
                what: "built-in model".to_owned(),
                gives: "a story from `monomorph generate` without a file".to_owned(),
                command: "cargo build --release --features model-tiny".to_owned(),
            });
        }
        missing.extend(specs.iter().filter_map(Spec::missing));
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            host: format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
            cores: thread::available_parallelism().map_or(1, usize::from),
            driver,
            devices,
            tools,
            built_in,
            specs,
            cache: kernel_cache().map(|cache| Cache::of(&cache)),
            missing,
        })
    }

    fn lines(&self, palette: Palette) -> Vec<String> {
        let mut page = Page { palette, lines: Vec::new() };
        let cores = if self.cores == 1 { "1 core".to_owned() } else { format!("{} cores", self.cores) };
        page.found("processor", &format!("{cores}, {}: the emulator runs every kernel on them", self.host));
        self.driver.show(&mut page);
        for device in &self.devices {
            device.show(&mut page);
        }
        for tool in &self.tools {
            match (&tool.path, &tool.version) {
                (Some(path), Some(version)) => page.found(tool.name, &format!("{version} ({path})")),
                (Some(path), None) => page.missing(tool.name, &format!("{path} does not run"), &tool.missing),
                (None, _) => page.missing(tool.name, "not found", &tool.missing),
            }
        }
        for model in &self.built_in {
            let (size, millions) = (bytes(model.file_bytes), model.parameters as f64 / 1e6);
            page.found(
                "model",
                &format!("{}, built in: {millions:.1} million parameters, {size}", model.name),
            );
        }
        for spec in &self.specs {
            spec.show(&mut page);
        }
        match &self.cache {
            Some(cache) => cache.show(&mut page),
            None => page.entry(("absent", Style::Dim), "cache", "off: --jit makes kernels at every start"),
        }
        page.lines.push(String::new());
        page.lines.push(self.verdict(palette));
        page.lines
    }

    /// What to type next.
    fn verdict(&self, palette: Palette) -> String {
        let usable = self.devices.iter().find(|device| device.missing.is_none());
        let place = usable.map_or_else(|| "the emulator".to_owned(), |device| device.name.clone());
        let command = match self.built_in.is_empty() {
            false => "monomorph generate",
            true => "monomorph generate -m FILE.gguf",
        };
        format!("models run on {place}; next: {}", palette.paint(Style::Name, command))
    }
}

/// Lines as they come together.
struct Page {
    palette: Palette,
    lines: Vec<String>,
}

impl Page {
    /// A line: a mark, a name, what was found.
    fn entry(&mut self, (mark, style): (&str, Style), name: &str, text: &str) {
        let mark = self.palette.paint(style, &format!("{mark:<8}"));
        self.lines.push(format!("{mark} {name:<13} {text}"));
    }

    fn found(&mut self, name: &str, text: &str) {
        self.entry(("found", Style::Good), name, text);
    }

    fn missing(&mut self, name: &str, text: &str, missing: &Missing) {
        self.entry(("missing", Style::Weak), name, text);
        let indent = " ".repeat(23);
        self.lines.push(format!("{indent}gives   {}", missing.gives));
        self.lines.push(format!("{indent}get it  {}", self.palette.paint(Style::Name, &missing.command)));
    }
}

impl Cache {
    fn of(cache: &KernelCache) -> Cache {
        let ((entries, bytes), folder) = (cache.size(), cache.folder().display().to_string());
        Cache { folder, entries, bytes, limit_bytes: MAX_CACHE_BYTES }
    }

    fn show(&self, page: &mut Page) {
        let (used, limit) = (bytes(self.bytes), bytes(self.limit_bytes));
        let specs = if self.entries == 1 { "spec" } else { "specs" };
        page.found("cache", &format!("kernels of {} {specs}, {used} of {limit}, by --jit", self.entries));
        let indent = " ".repeat(23);
        page.lines.push(format!("{indent}folder  {}", self.folder));
        page.lines.push(format!("{indent}clear   by removing it; MONOMORPH_CACHE=off turns it off"));
    }
}

impl Spec {
    /// What would compile it in.
    fn missing(&self) -> Option<Missing> {
        let feature = self.feature.filter(|_| self.targets.is_empty())?;
        Some(Missing {
            what: format!("spec {}", self.name),
            gives: format!(
                "models of {} start without making their kernels first (--jit does that)",
                self.name
            ),
            command: format!("cargo build --release --features {feature}"),
        })
    }

    fn show(&self, page: &mut Page) {
        let targets: Vec<String> = self.targets.iter().map(|sm| format!("sm_{sm}")).collect();
        if !targets.is_empty() {
            page.found("spec", &format!("{}: kernels for {}", self.name, targets.join(", ")));
        } else if let Some(missing) = self.missing() {
            let command = page.palette.paint(Style::Name, &missing.command);
            page.entry(("absent", Style::Dim), "spec", &format!("{:<14} {command}", self.name));
        } else {
            page.entry(("absent", Style::Dim), "spec", &format!("{:<14} --jit makes its kernels", self.name));
        }
    }
}

/// Shipped specs, then others that this build has.
fn compiled_specs() -> Result<Vec<Spec>> {
    let targets = |name: &str| COMPILED.iter().filter(|t| t.spec == name).map(|t| t.sm).collect::<Vec<_>>();
    let mut found = Vec::new();
    for shipped in specs::SHIPPED {
        // Named by the spec itself, as the tables are.
        let name = ModelSpec::from_toml(shipped.toml)?.name;
        found.push(Spec { targets: targets(&name), name, feature: shipped.feature });
    }
    // Those that can be used first.
    found.sort_by_key(|spec| spec.targets.is_empty());
    Ok(found)
}

fn built_in_models() -> Result<Vec<BuiltInModel>> {
    let models = specs::names().into_iter().filter_map(built_in);
    let reports = models.map(|model| {
        let gguf = Gguf::from_static(model.gguf)?;
        let parameters = gguf.tensors().map(|tensor| tensor.dims().iter().product::<u64>()).sum();
        Ok(BuiltInModel { name: model.name, file_bytes: gguf.file_bytes(), parameters })
    });
    reports.collect()
}

fn ptxas() -> Tool {
    tool(
        ("ptxas", Ptxas::find().as_ref().map(Ptxas::path)),
        "registers and spills of kernels, a check of PTX; no GPU needed",
    )
}

fn nvdisasm() -> Tool {
    tool(
        ("nvdisasm", Nvdisasm::find().as_ref().map(Nvdisasm::path)),
        "the machine code (SASS) of a kernel in `explain`; no GPU needed",
    )
}

fn tool((name, path): (&'static str, Option<&Path>), gives: &str) -> Tool {
    let missing = Missing {
        what: name.to_owned(),
        gives: gives.to_owned(),
        command: format!("tools/fetch-ptxas.sh .tools {name}"),
    };
    let version = path.and_then(version_of);
    Tool { name, path: path.map(|path| path.display().to_string()), version, missing }
}
