//! `monomorph inspect`: what a model file holds. Every check of loading is made but the scan of the weights' scales, so
//! that a file which passes can be loaded as far as its header tells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use monomorph::plan::Table;
use monomorph::runtime::gguf::{Gguf, Value};
use monomorph::runtime::{DEFAULT_CONTEXT, MemoryPlan, WeightSource, select_table};
use monomorph::{compiled_tables, specs};
use serde::Serialize;

use super::model::{file_tokenizer, open_gguf_or_built_in, spec_of};
use super::output::Output;
use super::table_text;

/// The target whose table describes memory; the sizes hardly differ between targets.
const SM: u32 = 90;
/// What the plan does not have, as measured with the 8B on an H200 (`bench/results/h200-rows.md`).
const ON_A_GPU: &str = "              on a GPU CUDA's context, machine code and graphs take some 0.7 GB more";
/// Characters of a metadata value that are shown.
const SHOWN_CHARS: usize = 72;
/// Elements of an array that are shown.
const SHOWN_ELEMS: usize = 4;

/// Shows what a model file holds and whether kernels for it are compiled in.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A GGUF model file [default: the built-in model]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Positions of the context in the memory plan [default: the model's own, at most 4096]
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    file: String,
    gguf_version: u32,
    file_bytes: u64,
    architecture: String,
    /// The spec that fits.
    spec: String,
    /// Whether its kernels are compiled in.
    compiled: bool,
    /// Compiled targets.
    targets: Vec<u32>,
    /// Element type of the activations that its kernels multiply.
    activations: &'static str,
    n_tokens: u32,
    types: BTreeMap<String, usize>,
    memory: Memory,
    metadata: serde_json::Map<String, serde_json::Value>,
    tensors: Vec<TensorReport>,
}

#[derive(Serialize)]
struct Memory {
    context: u32,
    weights_bytes: u64,
    kv_bytes: u64,
    arena_bytes: u64,
    other_bytes: u64,
    peak_bytes: u64,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    r#type: String,
    dims: Vec<u64>,
    offset: u64,
    bytes: u64,
}

impl Inspect {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let (file, gguf) = open_gguf_or_built_in(self.file.as_deref())?;
        let report = self.report(&file, &gguf)?;
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

    fn report(&self, path: &Path, gguf: &Gguf) -> Result<Report> {
        let fit = Fit::find(gguf, path)?;
        let file = path.display().to_string();
        let tokenizer = file_tokenizer(gguf, &fit.table).with_context(|| file.clone())?;
        let context = self.context.unwrap_or(fit.table.dims.context.min(DEFAULT_CONTEXT));
        let memory = MemoryPlan::new(&fit.table, context, 1);
        let tensors: Vec<TensorReport> = gguf
            .tensors()
            .map(|tensor| TensorReport {
                name: tensor.name().to_owned(),
                r#type: tensor.ggml_type().name().to_lowercase(),
                dims: tensor.dims().to_vec(),
                offset: tensor.file_offset(),
                bytes: tensor.bytes(),
            })
            .collect();
        let mut types = BTreeMap::new();
        for tensor in &tensors {
            *types.entry(tensor.r#type.clone()).or_default() += 1;
        }
        Ok(Report {
            file,
            gguf_version: gguf.version(),
            file_bytes: gguf.file_bytes(),
            architecture: fit.table.dims.architecture.to_string(),
            activations: fit.table.dims.activations.name(),
            spec: fit.name,
            compiled: !fit.targets.is_empty(),
            targets: fit.targets,
            n_tokens: tokenizer.vocab_size(),
            types,
            memory: Memory {
                context,
                weights_bytes: memory.weights_bytes,
                kv_bytes: memory.kv_bytes,
                arena_bytes: memory.arena_bytes,
                other_bytes: memory.own_bytes + memory.tables_bytes,
                peak_bytes: memory.peak_bytes(),
            },
            metadata: gguf.entries().map(|(key, value)| (key.to_owned(), json_value(&value))).collect(),
            tensors,
        })
    }
}

/// The spec of a file.
struct Fit {
    name: String,
    table: Table,
    /// Targets that are compiled in; none when the spec is not.
    targets: Vec<u32>,
}

impl Fit {
    /// A compiled spec, else a shipped one of the same model, else one made from the header.
    fn find(gguf: &Gguf, path: &Path) -> Result<Fit> {
        let tables = compiled_tables();
        // Without one that is compiled in, the code below finds out whether kernels for it could be.
        if let Ok(table) = select_table(gguf, &tables, None) {
            let targets = tables.iter().filter(|t| t.spec == table.spec).map(|t| t.sm).collect();
            return Ok(Fit { name: table.spec.to_string(), table: table.clone(), targets });
        }
        let mut spec = spec_of(gguf, path)?;
        for shipped in specs::names() {
            let candidate = specs::find(shipped)?;
            if candidate.dims == spec.dims && candidate.types == spec.types {
                spec = candidate;
            }
        }
        let device = monomorph::golden::device(SM)?;
        let table = codegen::plan::build(&spec, device)?.table;
        // The same complete comparison that a load makes: exact tensors, shapes, types, nothing left over.
        gguf.bind(&table).map(drop).with_context(|| path.display().to_string())?;
        Ok(Fit { name: spec.name, table, targets: Vec::new() })
    }
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let targets: Vec<String> = self.targets.iter().map(|sm| format!("sm_{sm}")).collect();
        let compiled = match self.compiled {
            true => format!("compiled in for {}", targets.join(", ")),
            false => "not compiled in; --jit specialises when loading".to_owned(),
        };
        let types: Vec<String> = self.types.iter().map(|(ty, n)| format!("{n} {ty}")).collect();
        let m = &self.memory;
        let bytes = table_text::bytes;
        let mut lines = vec![
            format!(
                "file          {} (GGUF version {}, {})",
                self.file,
                self.gguf_version,
                bytes(self.file_bytes)
            ),
            format!("architecture  {}", self.architecture),
            format!("spec          {} ({compiled})", self.spec),
            format!("activations   {}", self.activations),
            format!("vocabulary    {} tokens", self.n_tokens),
            format!("tensors       {} ({})", self.tensors.len(), types.join(", ")),
            format!(
                "memory        {} with {} positions: weights {}, KV {}, arena {}, other {}",
                bytes(m.peak_bytes),
                m.context,
                bytes(m.weights_bytes),
                bytes(m.kv_bytes),
                bytes(m.arena_bytes),
                bytes(m.other_bytes)
            ),
            ON_A_GPU.to_owned(),
            String::new(),
        ];
        let metadata: Vec<Vec<String>> =
            self.metadata.iter().map(|(key, value)| vec![key.clone(), shown(value)]).collect();
        let width = metadata.iter().map(|row| row[0].len()).max().unwrap_or(0);
        lines.extend(metadata.iter().map(|row| format!("{:<width$}  {}", row[0], row[1])));
        lines.push(String::new());
        let tensors: Vec<Vec<String>> = self
            .tensors
            .iter()
            .map(|t| {
                let dims: Vec<String> = t.dims.iter().map(u64::to_string).collect();
                vec![t.name.clone(), t.r#type.clone(), dims.join(" × "), t.offset.to_string(), bytes(t.bytes)]
            })
            .collect();
        lines.extend(table_text::columns(&["tensor", "type", "shape", "offset", "size"], &tensors));
        lines
    }
}

/// A metadata value for JSON. Arrays are given by type, length and first elements: a vocabulary is megabytes.
fn json_value(value: &Value<'_>) -> serde_json::Value {
    use serde_json::json;
    match value {
        Value::Bool(v) => json!(v),
        Value::Str(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(array) => {
            let first: Vec<serde_json::Value> =
                array.iter().take(SHOWN_ELEMS).map(|elem| json_value(&elem)).collect();
            json!({ "array_of": array.elem_type().name(), "len": array.len(), "first": first })
        }
        other => match other.as_integer() {
            Some(v) => i64::try_from(v).map_or_else(|_| json!(v.to_string()), |v| json!(v)),
            None => serde_json::Value::Null,
        },
    }
}

/// A value on one short line, with control characters escaped.
fn shown(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::Object(array) => {
            let of = |key: &str| array.get(key).map(ToString::to_string).unwrap_or_default();
            let ty = array.get("array_of").and_then(|v| v.as_str()).unwrap_or_default();
            format!("{} × {ty} {}…", of("len"), of("first").trim_end_matches(']'))
        }
        other => other.to_string(),
    };
    if text.chars().count() <= SHOWN_CHARS {
        return text;
    }
    text.chars().take(SHOWN_CHARS).chain(['…']).collect()
}
