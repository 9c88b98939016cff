//! Which model to run: a GGUF file, the built-in model, or a spec with seeded random weights. Every verb that runs one gets it from here:
//! the table of its kernels, its weights, its tokenizer.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use codegen::ModelSpec;
use monomorph::plan::{ActType, Table};
use monomorph::runtime::gguf::{Gguf, GgufError};
use monomorph::runtime::jit::{self, CacheUse, EntryError, KernelCache, Specialised};
use monomorph::runtime::queue::Queue;
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::tokenizer::Tokenizer;
use monomorph::runtime::{DEFAULT_CONTEXT, LoadOptions, Model, WeightSource, select_table};
use monomorph::{compiled_table, compiled_tables, specs, vocabulary};

use super::output::note;
use super::progress::{Clock, LoadBar};

/// The target whose table the emulator runs; any would do.
const EMULATED_SM: u32 = 90;
/// The model that runs where none is named.
const BUILT_IN: &str = "tiny";
/// Random weights are the same everywhere.
const WEIGHTS_SEED: u64 = 1;

/// Which model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A GGUF model file
    #[arg(short = 'm', long = "file", value_name = "FILE", conflicts_with_all = ["model", "spec"])]
    pub file: Option<PathBuf>,
    /// A built-in model: tiny, which tells stories [the default without -m]; any other name is that of a spec
    #[arg(long, value_name = "NAME", conflicts_with = "spec")]
    pub model: Option<String>,
    /// A spec, with seeded random weights: the shapes of its model without the file
    #[arg(long, value_name = "NAME")]
    pub spec: Option<String>,
    /// Specialise kernels when loading if none for this model are compiled in; they are kept for the next time (`doctor`
    /// shows where; MONOMORPH_CACHE names another folder, or is `off`)
    #[arg(long)]
    pub jit: bool,
    /// What matrices are multiplied by: int8 blocks or f32, which is exact and slower; with a file it needs --jit, unless
    /// its kernels are compiled in so [default: int8, or as the spec says]
    #[arg(long, value_name = "TYPE", value_parser = act_type)]
    pub activations: Option<ActType>,
    /// Positions of the context [default: the model's own, at most 4096]
    #[arg(long, value_name = "N")]
    pub context: Option<u32>,
}

/// A model before its weights are on a device.
pub struct Prepared {
    /// What it is called: the path as given, or the spec's name.
    pub name: String,
    /// Its kernels.
    pub table: Table,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    weights: Box<dyn WeightSource>,
    context: Option<u32>,
}

/// Where a model comes from, opened as far as that needs no device.
pub enum Origin {
    /// A file whose metadata passed every check of its format.
    File(PathBuf, Gguf),
    /// A model that is part of the program.
    BuiltIn(&'static str, Gguf),
    /// A spec by name.
    Spec(String),
}

impl Origin {
    /// Whether the model is part of the program.
    pub fn is_built_in(&self) -> bool {
        matches!(self, Origin::BuiltIn(..))
    }

    /// The chat template that the file brings: a program that is not to be trusted.
    pub fn chat_template(&self) -> Option<&str> {
        match self {
            Origin::File(_, gguf) | Origin::BuiltIn(_, gguf) => gguf.get_str("tokenizer.chat_template").ok(),
            Origin::Spec(_) => None,
        }
    }
}

impl ModelArgs {
    /// Opens what is named; before a device is, so that a missing file is told at once.
    pub fn open(&self) -> Result<Origin> {
        if let Some(path) = &self.file {
            return Ok(Origin::File(path.clone(), open_gguf(path)?));
        }
        if let Some(spec) = &self.spec {
            return Ok(Origin::Spec(spec.clone()));
        }
        let name = self.model.as_deref().unwrap_or(BUILT_IN);
        match monomorph::built_in(name) {
            Some(model) => {
                Ok(Origin::BuiltIn(model.name, Gguf::from_static(model.gguf).context(model.name)?))
            }
            None => Ok(Origin::Spec(name.to_owned())),
        }
    }

    /// Finds the kernels and the tokenizer for a device.
    pub fn prepare(&self, origin: Origin, queue: &dyn Queue) -> Result<Prepared> {
        let sm = queue.sm().unwrap_or(EMULATED_SM);
        match origin {
            Origin::File(path, gguf) => self.prepare_file(&path, gguf, sm),
            Origin::BuiltIn(name, gguf) => self.prepare_built_in(name, gguf, sm),
            Origin::Spec(name) => self.prepare_spec(name, sm),
        }
    }

    /// Whether a table has the activations that are asked for.
    fn fits(&self, table: &Table) -> bool {
        self.activations.is_none_or(|wanted| table.dims.activations == wanted)
    }

    /// The compiled tables with those activations.
    fn compiled(&self) -> Vec<Table> {
        compiled_tables().into_iter().filter(|table| self.fits(table)).collect()
    }

    /// A spec on those activations.
    fn on(&self, mut spec: ModelSpec) -> ModelSpec {
        spec.dims.activations = self.activations.unwrap_or(spec.dims.activations);
        spec
    }

    fn prepare_file(&self, path: &Path, gguf: Gguf, sm: u32) -> Result<Prepared> {
        let name = path.display().to_string();
        let table = match select_table(&gguf, &self.compiled(), Some(sm)) {
            Ok(table) => table.clone(),
            Err(_) if self.jit => specialise(&self.on(spec_of(&gguf, path)?), sm)?,
            Err(error) => bail!("{name}: {error}; {}", way_out(&gguf, path)),
        };
        let tokenizer = file_tokenizer(&gguf, &table).with_context(|| name.clone())?;
        Ok(Prepared { name, table, tokenizer, weights: Box::new(gguf), context: self.context })
    }

    /// The kernels of a built-in model are compiled in for `sm_90`; a device of another kind gets its own.
    fn prepare_built_in(&self, name: &str, gguf: Gguf, sm: u32) -> Result<Prepared> {
        let table = match select_table(&gguf, &self.compiled(), Some(sm)) {
            Ok(table) => table.clone(),
            Err(_) => specialise(&self.on(spec_of(&gguf, Path::new(name))?), sm)?,
        };
        note(&format!(
            "weights: the built-in model {name}, trained on public-domain stories; -m runs a file"
        ));
        let tokenizer = file_tokenizer(&gguf, &table).with_context(|| name.to_owned())?;
        Ok(Prepared {
            name: name.to_owned(),
            table,
            tokenizer,
            weights: Box::new(gguf),
            context: self.context,
        })
    }

    fn prepare_spec(&self, name: String, sm: u32) -> Result<Prepared> {
        let table = match compiled_table(&name, sm).filter(|table| self.fits(table)) {
            Some(table) => table.clone(),
            None => specialise(&self.on(specs::find(&name)?), sm)?,
        };
        let spec = &table.spec;
        note(&format!(
            "weights: random (seed {WEIGHTS_SEED}) in the shapes of spec {spec}; the text is noise"
        ));
        let tokenizer = vocabulary::tokenizer(table.dims.vocab_size)?;
        let weights = Box::new(SynthSource::new(WEIGHTS_SEED));
        Ok(Prepared { name, table, tokenizer, weights, context: self.context })
    }
}

impl Prepared {
    /// The same with sessions of `context` positions.
    pub fn with_context(mut self, context: u32) -> Self {
        self.context = Some(context);
        self
    }

    /// Positions that a session will have.
    pub fn context_limit(&self) -> u32 {
        self.context.unwrap_or(self.table.dims.context.min(DEFAULT_CONTEXT))
    }

    /// Refuses a prompt that no session of this context can hold, before gigabytes are loaded.
    pub fn check_prompt(&self, n_tokens: usize) -> Result<()> {
        let limit = self.context_limit();
        if n_tokens as u64 <= u64::from(limit) {
            return Ok(());
        }
        let most = self.table.dims.context;
        bail!(
            "the prompt has {n_tokens} tokens, the context {limit} positions (--context allows up to {most})"
        )
    }

    /// Loads the weights, with a bar on stderr.
    pub fn load(&self, queue: &Arc<dyn Queue>) -> Result<Model> {
        let bar = LoadBar::new("loading");
        let show = |progress| bar.show(progress);
        let options = LoadOptions { context: self.context, progress: Some(&show), ..LoadOptions::default() };
        Model::load(queue, &self.table, self.weights.as_ref(), &options).with_context(|| self.name.clone())
    }
}

fn act_type(name: &str) -> Result<ActType, String> {
    let names = ActType::ALL.map(ActType::name).join(", ");
    ActType::from_name(name).ok_or_else(|| format!("it must be one of {names}"))
}

/// What would make a file run that no compiled spec fits.
fn way_out(gguf: &Gguf, path: &Path) -> String {
    let spec = match spec_of(gguf, path) {
        Ok(spec) => spec,
        Err(error) => return format!("and no kernels can be made for it: {error}"),
    };
    let build = match specs::fitting(&spec).and_then(|shipped| shipped.feature) {
        Some(feature) => format!("cargo build --release --features {feature}"),
        None => format!("monomorph emit --spec-from {} -o models/{}.toml", path.display(), spec.name),
    };
    format!("what would: {build}, or --jit to specialise when loading")
}

/// Opens a model file.
pub fn open_gguf(path: &Path) -> Result<Gguf> {
    Gguf::open(path).map_err(|error| match error {
        // These name it themselves.
        GgufError::Open { .. } | GgufError::NotAFile { .. } => error.into(),
        error => anyhow::Error::from(error).context(path.display().to_string()),
    })
}

/// Opens a model file or, without one, the built-in model; with the name that messages call it.
pub fn open_gguf_or_built_in(path: Option<&Path>) -> Result<(PathBuf, Gguf)> {
    match (path, monomorph::built_in(BUILT_IN)) {
        (Some(path), _) => Ok((path.to_owned(), open_gguf(path)?)),
        (None, Some(model)) => Ok((PathBuf::from(model.name), Gguf::from_static(model.gguf)?)),
        (None, None) => bail!("this build has no built-in model; a GGUF file must be named"),
    }
}

/// The tokenizer of a file, which must have a token for each row of the embedding.
pub fn file_tokenizer(gguf: &Gguf, table: &Table) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    let (found, wanted) = (tokenizer.vocab_size(), table.dims.vocab_size);
    if found != wanted {
        bail!("tokenizer.ggml.tokens has {found} tokens, the embedding has {wanted} rows");
    }
    Ok(tokenizer)
}

/// The spec that a file's kernels must be specialised to, named after the file.
pub fn spec_of(gguf: &Gguf, path: &Path) -> Result<ModelSpec> {
    let name =
        path.file_stem().map_or_else(|| "model".to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok(jit::spec_of(gguf, &name, &path.display().to_string())?)
}

/// Where this user's made kernels are kept, unless that is turned off.
pub fn kernel_cache() -> Option<KernelCache> {
    KernelCache::from_variables(|name| env::var_os(name))
}

/// The table of a spec that is not compiled in, for the newest target that a device of `sm` runs: of kernels that were
/// kept from last time, or made now.
pub fn specialise(spec: &ModelSpec, sm: u32) -> Result<Table> {
    let clock = Clock::start(&format!("specialising {}", spec.name));
    let Specialised { table, cache } = jit::specialise(spec, sm, kernel_cache().as_ref())?;
    drop(clock);
    let kernels = format!("kernels: spec {} is not compiled in for sm_{sm}", spec.name);
    note(&match cache {
        CacheUse::Off => format!("{kernels}; specialised now"),
        CacheUse::Hit { file } => format!("{kernels}; taken from {}", file.display()),
        CacheUse::Made { file, not_kept: Some(error), .. } => {
            format!("{kernels}; specialised now, and not kept as {}: {error}", file.display())
        }
        CacheUse::Made { file, refused: None | Some(EntryError::Absent), .. } => {
            format!("{kernels}; specialised now, kept as {}", file.display())
        }
        CacheUse::Made { file, refused: Some(why), .. } => {
            format!("{kernels}; specialised now, in place of {}: {why}", file.display())
        }
    });
    Ok(table)
}
