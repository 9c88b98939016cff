//! Kernels made at load, for a model that was not compiled in: from a file's header to a [`plan::Table`], which loads as a
//! compiled one does. Feature `jit`; without it the runtime knows nothing of codegen.
//!
//! Making kernels takes a good part of a second; a [`KernelCache`] keeps them on disk. What it gives back is checked in
//! three ways (see [`KernelCache`]), and everything else of a table is laid out anew each time.

mod cache;
mod entry;

use std::collections::BTreeMap;

use codegen::spec::header::{Header, TensorHeader};
use codegen::{Device, ModelSpec};
use plan::Table;

use crate::gguf::{Gguf, GgufError, Value};

pub use cache::{CacheUse, KernelCache, MAX_CACHE_BYTES};
pub use entry::EntryError;

/// Why no kernels can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JitError {
    /// The file does not say what it is.
    #[error("{file}: {source}")]
    Metadata {
        /// Which file.
        file: String,
        /// What is wrong with the key.
        source: GgufError,
    },
    /// The device is older than every target.
    #[error("no kernels are emitted for sm_{found}; the oldest target is sm_{oldest}")]
    Target {
        /// The device's.
        found: u32,
        /// The oldest that there is.
        oldest: u32,
    },
    /// The model is refused, or a kernel does not build.
    #[error(transparent)]
    Codegen(#[from] codegen::CodegenError),
    /// The model is refused.
    #[error(transparent)]
    Spec(#[from] codegen::SpecError),
}

/// A table that was made now.
#[derive(Debug)]
pub struct Specialised {
    /// The table.
    pub table: Table,
    /// What the cache did.
    pub cache: CacheUse,
}

/// The spec that a file's kernels must be specialised to, named `name`; `file` is what messages call it.
///
/// # Errors
/// [`JitError::Metadata`] without an architecture; [`JitError::Spec`] when no kernels can be made for the file.
pub fn spec_of(gguf: &Gguf, name: &str, file: &str) -> Result<ModelSpec, JitError> {
    let architecture = gguf.get_str("general.architecture");
    let architecture =
        architecture.map_err(|source| JitError::Metadata { file: file.to_owned(), source })?.to_owned();
    let numbers = gguf.entries().filter_map(|(key, value)| Some((key.to_owned(), number(&value)?)));
    let tensors = gguf.tensors().map(|tensor| {
        let ty = tensor.ggml_type();
        let header = TensorHeader {
            type_id: ty.id(),
            type_name: ty.name().to_lowercase(),
            dims: tensor.dims().to_vec(),
        };
        (tensor.name().to_owned(), header)
    });
    let header = Header {
        numbers: numbers.collect::<BTreeMap<_, _>>(),
        tensors: tensors.collect::<BTreeMap<_, _>>(),
        file: file.to_owned(),
        architecture,
    };
    Ok(ModelSpec::from_header(name, &header)?)
}

fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::F32(v) => Some(f64::from(*v)),
        Value::F64(v) => Some(*v),
        other => other.as_integer().map(|v| v as f64),
    }
}

/// The target whose kernels run on a device of `sm`: the newest that is not newer than the device.
///
/// # Errors
/// [`JitError::Target`] when there is none.
pub fn target_for(sm: u32) -> Result<Device, JitError> {
    let fitting = Device::ALL.into_iter().filter(|device| device.sm <= sm);
    let oldest = || Device::ALL.iter().map(|device| device.sm).min().unwrap_or(0);
    fitting.max_by_key(|device| device.sm).ok_or_else(|| JitError::Target { found: sm, oldest: oldest() })
}

/// Makes the table of a spec for a device of `sm`, with the kernels that `cache` has of it; what had to be made is kept
/// there. A cache that cannot be read or written is no error: [`Specialised::cache`] tells.
///
/// # Errors
/// [`JitError::Target`], or when the spec is refused.
pub fn specialise(spec: &ModelSpec, sm: u32, cache: Option<&KernelCache>) -> Result<Specialised, JitError> {
    let device = target_for(sm)?;
    let Some(cache) = cache else {
        let table = codegen::plan::build(spec, device)?.table;
        return Ok(Specialised { table, cache: CacheUse::Off });
    };
    let place = cache.place(spec, device);
    let (known, refused) = match cache.read(&place) {
        Ok(known) => (known, None),
        Err(error) => (vec![], Some(error)),
    };
    let n_known = known.len();
    let plan = codegen::plan::build_knowing(spec, device, known)?;
    let table = plan.table;
    if plan.n_built == 0 && n_known == table.kernels.len() {
        cache.touch(&place);
        return Ok(Specialised { table, cache: CacheUse::Hit { file: place.file } });
    }
    let kept = cache.write(&place, &table.kernels).err();
    Ok(Specialised { table, cache: CacheUse::Made { file: place.file, refused, not_kept: kept } })
}
