//! Specialises the models that the build's features name: codegen's PTX and tables go to `OUT_DIR`, and lists beside them
//! (`compiled.rs`, `shipped.rs`, `kernel_sources.rs`) bring them, the specs and the source of the kernels into the
//! library. The source tree is only read.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use codegen::emit::{self, Heading};
use codegen::{Device, ModelSpec, plan};

/// Feature, whether it is on, and the spec that it compiles in.
const MODELS: [(&str, bool, &str); 6] = [
    ("model-tiny", cfg!(feature = "model-tiny"), "tiny"),
    ("model-1.5b", cfg!(feature = "model-1.5b"), "qwen2.5-1.5b"),
    ("model-7b", cfg!(feature = "model-7b"), "qwen2.5-7b"),
    ("model-8b", cfg!(feature = "model-8b"), "llama-3.1-8b"),
    ("model-qwen3-0.6b", cfg!(feature = "model-qwen3-0.6b"), "qwen3-0.6b"),
    ("model-gemma-3-270m", cfg!(feature = "model-gemma-3-270m"), "gemma-3-270m"),
];

/// Where the kernels are.
const KERNEL_SOURCES: &str = "codegen/src/kernels";

/// Targets and whether tables for them are wanted; sm_90 always is.
const TARGETS: [(u32, bool); 6] = [
    (80, cfg!(feature = "sm-80")),
    (86, cfg!(feature = "sm-86")),
    (89, cfg!(feature = "sm-89")),
    (90, true),
    (100, cfg!(feature = "sm-100")),
    (120, cfg!(feature = "sm-120")),
];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=models");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    write_shipped(&root.join("models"), &out)?;
    write_kernel_sources(&root, &out)?;

    let mut modules = String::new();
    let mut tables = Vec::new();
    for (feature, _, spec) in MODELS.iter().filter(|(_, on, _)| *on) {
        let path = root.join("models").join(format!("{spec}.toml"));
        let text = read(&path).with_context(|| format!("feature {feature}"))?;
        let spec = ModelSpec::from_toml(&text).with_context(|| path.display().to_string())?;
        for (sm, _) in TARGETS.iter().filter(|(_, on)| *on) {
            let table = write_table(&spec, *sm, &out)
                .with_context(|| format!("feature {feature}: spec {} for sm_{sm}", spec.name))?;
            let module = module_name(&emit::folder(&spec.name, *sm));
            writeln!(modules, "#[path = {table:?}]\npub mod {module};")?;
            tables.push(format!("&{module}::TABLE"));
        }
    }
    let list = tables.join(", ");
    write!(modules, "\n/// Every table of this build.\npub static COMPILED: &[&plan::Table] = &[{list}];\n")?;
    write(&out.join("compiled.rs"), &modules)
}

/// The files of one spec and target; gives the path of `table.rs`.
fn write_table(spec: &ModelSpec, sm: u32, out: &Path) -> Result<String> {
    let device = Device::from_sm(sm).with_context(|| format!("codegen knows no target sm_{sm}"))?;
    let plan = plan::build(spec, device)?;
    let folder = out.join(emit::folder(&spec.name, sm));
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for file in emit::files(&plan, &Heading::new(spec, device))? {
        write(&folder.join(&file.name), &file.text)?;
    }
    path_text(&folder.join("table.rs"))
}

/// Every spec of `models/` as text, so that the program needs no source tree.
fn write_shipped(models: &Path, out: &Path) -> Result<()> {
    let entries = fs::read_dir(models).with_context(|| models.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut specs: Vec<PathBuf> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "toml")).collect();
    specs.sort();
    let mut list = String::new();
    for path in specs {
        println!("cargo:rerun-if-changed={}", path.display());
        let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
            bail!("{}: the name is not UTF-8", path.display());
        };
        let path = path_text(&path)?;
        let feature = MODELS.iter().find(|(_, _, spec)| *spec == name).map(|(feature, _, _)| *feature);
        writeln!(
            list,
            "    ShippedSpec {{ name: {name:?}, toml: include_str!({path:?}), feature: {feature:?} }},"
        )?;
    }
    let text =
        format!("/// Every spec of `models/`, by name.\npub const SHIPPED: &[ShippedSpec] = &[\n{list}];\n");
    write(&out.join("shipped.rs"), &text)
}

/// The source of every kernel, so that the program can show it.
fn write_kernel_sources(root: &Path, out: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={KERNEL_SOURCES}");
    let mut folders = vec![root.join(KERNEL_SOURCES)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut list = String::new();
    for file in files {
        let name = path_text(file.strip_prefix(root).unwrap_or(&file))?.replace('\\', "/");
        let path = path_text(&file)?;
        writeln!(list, "    SourceFile {{ path: {name:?}, text: include_str!({path:?}) }},")?;
    }
    let text = format!(
        "/// Every file of `{KERNEL_SOURCES}`, by path.\npub const SOURCES: &[SourceFile] = &[\n{list}];\n"
    );
    write(&out.join("kernel_sources.rs"), &text)
}

/// A name as a Rust identifier: `qwen2.5-1.5b-sm_90` becomes `qwen2_5_1_5b_sm_90`.
fn module_name(folder: &str) -> String {
    folder.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn path_text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{}: the path is not UTF-8", path.display()))?;
    Ok(text.to_owned())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
