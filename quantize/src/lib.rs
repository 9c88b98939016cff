//! Quantizing a model file: F32, F16 and BF16 matrices become the types that a [`FileType`] names, everything else is
//! copied. One tensor is read, quantized and written at a time, in slabs, so that memory does not grow with the model.
//!
//! ```text
//! GGUF ─► recipe: a type for each tensor ─► slabs of rows ─► threads: search scales, round, pack ─► GGUF
//! ```
#![forbid(unsafe_code)]

mod blocks;
mod k_quants;
pub mod recipe;
mod search;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::num::NonZero;
use std::thread;

use plan::QType;
use ptx::sem::f16_to_f32;
use runtime::gguf::write::{DataWriter, KvValue, WriteError, Writer};
use runtime::gguf::{Array, GgmlType, Gguf, GgufError, Tensor, Value};

pub use blocks::quantize_row;
pub use recipe::{FILE_TYPES, FileType};

/// Elements that are in memory at a time.
const SLAB_ELEMS: u64 = 4 << 20;
/// The greatest magnitude that all types can scale: f16's.
const MOST: f32 = 65504.0;
/// `general.quantization_version` of the block layouts in use.
const LAYOUT_VERSION: u32 = 2;
/// What is written anew, and the numbers of tensors that a file of several parts has in all.
const REPLACED: [&str; 3] = ["general.file_type", "general.quantization_version", "general.alignment"];

/// Why a file could not be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The input is damaged or cannot be read.
    #[error(transparent)]
    Read(#[from] GgufError),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A matrix is quantized already: quantizing it again would add one error to another.
    #[error("tensor {tensor:?} is {found}; to make it {wanted}, start from a file in F32, F16 or BF16")]
    Source {
        /// Which.
        tensor: String,
        /// Its type.
        found: &'static str,
        /// The type it was to get.
        wanted: &'static str,
    },
    /// No type can hold this weight.
    #[error("tensor {tensor:?}: element {elem} is {found}; {wanted} holds finite weights up to {limit}")]
    Weight {
        /// Which.
        tensor: String,
        /// Position among the elements of the tensor.
        elem: u64,
        /// The value.
        found: f32,
        /// The type it was to get.
        wanted: &'static str,
        /// The greatest magnitude that can be stored.
        limit: f32,
    },
    /// One part of several.
    #[error("the file is part of a model of {found} files; join them first")]
    Split {
        /// `split.count`.
        found: u32,
    },
    /// Nothing to do.
    #[error("the file has no matrix")]
    NoMatrix,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Row length first.
    pub dims: Vec<u64>,
    /// Its type before.
    pub from: GgmlType,
    /// Its type now.
    pub to: GgmlType,
}

/// Writes `input` to `out` with the types of `file_type`; `done` is called after each tensor. Gives what became of each.
///
/// # Errors
/// When the input cannot be read, holds a weight that cannot be stored or a matrix that is quantized already, is one
/// part of several, or has no matrix; and when `out` fails.
pub fn quantize(
    input: &Gguf,
    file_type: FileType,
    out: impl Write,
    mut done: impl FnMut(&Change),
) -> Result<Vec<Change>, QuantizeError> {
    let changes = plan_changes(input, file_type)?;
    let mut writer = metadata(input, file_type);
    for change in &changes {
        writer = writer.declare(&change.name, &change.dims, change.to);
    }
    let mut writer = writer.begin(out)?;
    for (tensor, change) in input.tensors().zip(&changes) {
        match QType::from_ggml_id(change.to.id()) {
            Some(to) if change.from != change.to => convert(input, tensor, to, &mut writer)?,
            _ => copy(input, tensor, &mut writer)?,
        }
        done(change);
    }
    writer.finish()?;
    Ok(changes)
}

/// Decides every type before a byte is written, so that most refusals leave no file behind.
fn plan_changes(input: &Gguf, file_type: FileType) -> Result<Vec<Change>, QuantizeError> {
    if let Some(count) = input.get("split.count").and_then(|value| value.as_integer())
        && count > 1
    {
        return Err(QuantizeError::Split { found: u32::try_from(count).unwrap_or(u32::MAX) });
    }
    let head = ["output.weight", "token_embd.weight"];
    let head = head.into_iter().find(|name| input.find_tensor(name).is_some()).unwrap_or_default();
    let layers =
        input.tensors().filter_map(|t| t.name().strip_prefix("blk.")?.split('.').next()?.parse().ok());
    let n_layers = layers.max().map_or(0, |last: u64| last.saturating_add(1));
    let mut changes = Vec::with_capacity(input.n_tensors());
    for tensor in input.tensors() {
        let (name, dims, from) = (tensor.name(), tensor.dims(), tensor.ggml_type());
        let wanted = file_type.tensor_type(recipe::Place { name, dims, n_layers, head });
        let to = wanted.and_then(|qtype| GgmlType::from_id(qtype.ggml_id())).unwrap_or(from);
        let is_plain = matches!(from, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        if to != from && !is_plain {
            let (found, wanted) = (from.name(), to.name());
            return Err(QuantizeError::Source { tensor: name.to_owned(), found, wanted });
        }
        changes.push(Change { name: name.to_owned(), dims: dims.to_vec(), from, to });
    }
    if !changes.iter().any(|change| change.dims.len() > 1) {
        return Err(QuantizeError::NoMatrix);
    }
    Ok(changes)
}

/// All metadata of the input, with what describes the types told anew.
fn metadata<'a>(input: &Gguf, file_type: FileType) -> Writer<'a> {
    let kept = input.entries().filter(|(key, _)| !REPLACED.contains(key));
    let mut writer = kept.fold(Writer::new(), |writer, (key, value)| writer.kv(key, owned(&value)));
    if input.get("general.alignment").is_some() {
        writer = writer.alignment(input.alignment());
    }
    writer.kv("general.file_type", file_type.id).kv("general.quantization_version", LAYOUT_VERSION)
}

/// A metadata value as the writer takes it.
fn owned(value: &Value<'_>) -> KvValue {
    let array = |array: &Array<'_>| {
        KvValue::Array(array.elem_type(), array.iter().map(|item| owned(&item)).collect())
    };
    match value {
        Value::U8(v) => KvValue::U8(*v),
        Value::I8(v) => KvValue::I8(*v),
        Value::U16(v) => KvValue::U16(*v),
        Value::I16(v) => KvValue::I16(*v),
        Value::U32(v) => KvValue::U32(*v),
        Value::I32(v) => KvValue::I32(*v),
        Value::F32(v) => KvValue::F32(*v),
        Value::Bool(v) => KvValue::Bool(*v),
        Value::Str(v) => KvValue::Str((*v).to_owned()),
        Value::Array(v) => array(v),
        Value::U64(v) => KvValue::U64(*v),
        Value::I64(v) => KvValue::I64(*v),
        Value::F64(v) => KvValue::F64(*v),
    }
}

/// Byte for byte.
fn copy<W: Write>(input: &Gguf, tensor: Tensor<'_>, out: &mut DataWriter<W>) -> Result<(), QuantizeError> {
    let (mut at, mut buffer) = (0, Vec::new());
    while at < tensor.bytes() {
        buffer.resize((tensor.bytes() - at).min(SLAB_ELEMS) as usize, 0);
        input.read_tensor(tensor.idx(), at, &mut buffer)?;
        out.piece(&buffer)?;
        at += buffer.len() as u64;
    }
    Ok(())
}

/// Slab by slab: read, widen to f32, check, quantize on all cores, write.
fn convert<W: Write>(
    input: &Gguf,
    tensor: Tensor<'_>,
    to: QType,
    out: &mut DataWriter<W>,
) -> Result<(), QuantizeError> {
    let (row, from) = (tensor.dims()[0], tensor.ggml_type());
    let rows = tensor.elems() / row;
    let rows_per_slab = (SLAB_ELEMS / row).max(1);
    let mut raw = Vec::new();
    for first in (0..rows).step_by(rows_per_slab as usize) {
        let n = rows_per_slab.min(rows - first);
        raw.resize((n * row * from.block_bytes()) as usize, 0);
        input.read_tensor(tensor.idx(), first * row * from.block_bytes(), &mut raw)?;
        let weights = widen(from, &raw);
        check(&weights, tensor, (first * row, to))?;
        for piece in quantize_rows(to, &weights, row as usize) {
            out.piece(&piece)?;
        }
    }
    Ok(())
}

/// The values of little-endian elements of a plain type; exact.
fn widen(from: GgmlType, raw: &[u8]) -> Vec<f32> {
    let (pairs, _) = raw.as_chunks::<2>();
    match from {
        GgmlType::F16 => pairs.iter().map(|b| f16_to_f32(u16::from_le_bytes(*b))).collect(),
        // The bits of a bf16 are the high half of an f32.
        GgmlType::BF16 => pairs.iter().map(|[low, high]| f32::from_le_bytes([0, 0, *low, *high])).collect(),
        _ => raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

fn check(weights: &[f32], tensor: Tensor<'_>, (first, to): (u64, QType)) -> Result<(), QuantizeError> {
    let limit = if matches!(to, QType::F32 | QType::Bf16) { f32::MAX } else { MOST };
    let bad = weights.iter().position(|x| !x.is_finite() || x.abs() > limit);
    bad.map_or(Ok(()), |at| {
        let tensor = tensor.name().to_owned();
        Err(QuantizeError::Weight {
            tensor,
            elem: first + at as u64,
            found: weights[at],
            wanted: to.name(),
            limit,
        })
    })
}

/// Rows in a type, in order, in as many pieces as there are threads. Every row is quantized alone, so that the bytes
/// are the same whatever their number.
fn quantize_rows(to: QType, weights: &[f32], row: usize) -> Vec<Vec<u8>> {
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get);
    let rows_per_thread = (weights.len() / row).div_ceil(n_threads).max(1);
    let quantize = |part: &[f32]| {
        let mut out = Vec::new();
        part.chunks_exact(row).for_each(|row| quantize_row(to, row, &mut out));
        out
    };
    thread::scope(|scope| {
        let parts: Vec<&[f32]> = weights.chunks(rows_per_thread * row).collect();
        let started: Vec<_> = parts.iter().map(|part| (scope.spawn(|| quantize(part)), *part)).collect();
        // A thread that was lost is made up for here.
        started.into_iter().map(|(thread, part)| thread.join().unwrap_or_else(|_| quantize(part))).collect()
    })
}
