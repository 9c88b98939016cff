//! Writes GGUF version 3 files: equal calls give equal bytes. Tests, the maker of synthetic models and quantizers use
//! it. It refuses what the reader would refuse about names, shapes and sizes, so that a file it wrote opens.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, Write};

use super::types::{GgmlType, ValueType};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, entries, tensors};

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum KvValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    /// Element type and elements, all of that type.
    Array(ValueType, Vec<KvValue>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl KvValue {
    /// An array of strings.
    pub fn strings<S: Into<String>>(items: impl IntoIterator<Item = S>) -> Self {
        Self::Array(ValueType::Str, items.into_iter().map(|s| Self::Str(s.into())).collect())
    }

    /// An array of f32.
    #[must_use]
    pub fn f32s(items: &[f32]) -> Self {
        Self::Array(ValueType::F32, items.iter().map(|&v| Self::F32(v)).collect())
    }

    /// An array of i32.
    #[must_use]
    pub fn i32s(items: &[i32]) -> Self {
        Self::Array(ValueType::I32, items.iter().map(|&v| Self::I32(v)).collect())
    }

    /// An array of booleans.
    #[must_use]
    pub fn bools(items: &[bool]) -> Self {
        Self::Array(ValueType::Bool, items.iter().map(|&v| Self::Bool(v)).collect())
    }

    /// An array of bytes.
    #[must_use]
    pub fn bytes(items: &[u8]) -> Self {
        Self::Array(ValueType::U8, items.iter().map(|&v| Self::U8(v)).collect())
    }

    fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(..) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), WriteError> {
        match self {
            Self::U8(v) => out.push(*v),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::Str(v) => put_str(out, v),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::Array(elem, items) => {
                out.extend(elem.id().to_le_bytes());
                out.extend((items.len() as u64).to_le_bytes());
                for (idx, item) in items.iter().enumerate() {
                    let found = item.value_type();
                    if found != *elem {
                        return Err(WriteError::Element { idx, found: found.name(), wanted: elem.name() });
                    }
                    item.put(out)?;
                }
            }
        }
        Ok(())
    }
}

macro_rules! from_rust {
    ($($ty:ty => $variant:ident),*) => {
        $(impl From<$ty> for KvValue {
            fn from(value: $ty) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

from_rust!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    &str => Str, String => Str, u64 => U64, i64 => I64, f64 => F64);

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each field is explained by the message it is printed in")]
pub enum WriteError {
    /// A key or tensor name the reader would refuse.
    #[error("name {name:?} {problem}")]
    Name { name: String, problem: &'static str },
    /// An array element of another type than the array's.
    #[error("array element {idx} is {found}, the array holds {wanted}")]
    Element { idx: usize, found: &'static str, wanted: &'static str },
    /// An alignment the reader would refuse.
    #[error("alignment {found} is not a power of two from 8 to 65536")]
    Alignment { found: u32 },
    /// Dimensions that make no tensor of this type.
    #[error("tensor {tensor:?}: dimensions {dims:?} make no {ty} tensor")]
    Dims { tensor: String, dims: Vec<u64>, ty: &'static str },
    /// Data of another length than dimensions and type say.
    #[error("tensor {tensor:?}: {found} bytes of data, dimensions and type make {wanted}")]
    DataLength { tensor: String, found: u64, wanted: u64 },
    /// Tensor data given out of order, or for a tensor that does not exist.
    #[error("data of tensor number {found} given, {wanted} tensors are declared")]
    Extra { found: usize, wanted: usize },
    /// Fewer tensors than declared were given data.
    #[error("data of {found} tensors given, {wanted} are declared")]
    Unfinished { found: usize, wanted: usize },
    /// The output failed.
    #[error("cannot write the model file")]
    Io(#[from] io::Error),
}

struct Declared<'a> {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    data: Option<Cow<'a, [u8]>>,
}

/// Collects metadata and tensors in the order they are to have in the file.
#[derive(Default)]
pub struct Writer<'a> {
    kvs: Vec<(String, KvValue)>,
    tensors: Vec<Declared<'a>>,
    alignment: Option<u32>,
}

impl<'a> Writer<'a> {
    /// A writer of an empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata entry.
    #[must_use]
    pub fn kv(mut self, key: impl Into<String>, value: impl Into<KvValue>) -> Self {
        self.kvs.push((key.into(), value.into()));
        self
    }

    /// Aligns tensor data to `bytes` and records that as `general.alignment`; 32 otherwise.
    #[must_use]
    pub fn alignment(mut self, bytes: u32) -> Self {
        self.alignment = Some(bytes);
        self.kv(ALIGNMENT_KEY, bytes)
    }

    /// Adds a tensor with its data. `dims` has the row length first.
    #[must_use]
    pub fn tensor(
        mut self,
        name: impl Into<String>,
        dims: &[u64],
        ty: GgmlType,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        self.tensors.push(Declared { name: name.into(), dims: dims.to_vec(), ty, data: Some(data.into()) });
        self
    }

    /// Adds a tensor whose data is given later, to the [`DataWriter`] that [`begin`](Self::begin) makes.
    #[must_use]
    pub fn declare(mut self, name: impl Into<String>, dims: &[u64], ty: GgmlType) -> Self {
        self.tensors.push(Declared { name: name.into(), dims: dims.to_vec(), ty, data: None });
        self
    }

    /// The whole file in memory.
    ///
    /// # Errors
    /// When a name, shape, length or element type is wrong, or a tensor has no data.
    pub fn finish(self) -> Result<Vec<u8>, WriteError> {
        let mut out = Vec::new();
        self.write_to(&mut out)?;
        Ok(out)
    }

    /// Writes the whole file to `out`.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), and when `out` fails.
    pub fn write_to(mut self, out: impl Write) -> Result<(), WriteError> {
        let data: Vec<_> = self.tensors.iter_mut().map(|t| t.data.take()).collect();
        let mut writer = self.begin(out)?;
        for piece in data.into_iter().flatten() {
            writer.tensor(&piece)?;
        }
        writer.finish()?;
        Ok(())
    }

    /// Writes everything but tensor data, which the caller then streams in the order of declaration; data given with
    /// [`tensor`](Self::tensor) is not used.
    ///
    /// # Errors
    /// When a name, shape or element type is wrong, or `out` fails.
    pub fn begin<W: Write>(self, mut out: W) -> Result<DataWriter<W>, WriteError> {
        let alignment = self.alignment.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !super::ALIGNMENT_RANGE.contains(&alignment) {
            return Err(WriteError::Alignment { found: alignment });
        }
        check_names(self.kvs.iter().map(|(key, _)| key), entries::MAX_KEY_BYTES)?;
        check_names(self.tensors.iter().map(|t| &t.name), tensors::MAX_NAME_BYTES)?;
        if let Some((key, _)) = self.kvs.iter().find(|(key, _)| !key.is_ascii()) {
            return Err(WriteError::Name { name: key.clone(), problem: "is not ASCII" });
        }
        let mut head = b"GGUF".to_vec();
        head.extend(3_u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.kvs.len() as u64).to_le_bytes());
        for (key, value) in &self.kvs {
            put_str(&mut head, key);
            head.extend(value.value_type().id().to_le_bytes());
            value.put(&mut head)?;
        }
        let mut sizes = Vec::with_capacity(self.tensors.len());
        let mut offset = 0_u64;
        for tensor in self.tensors {
            let bytes = declared_bytes(&tensor)?;
            put_str(&mut head, &tensor.name);
            head.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| head.extend(dim.to_le_bytes()));
            head.extend(tensor.ty.id().to_le_bytes());
            head.extend(offset.to_le_bytes());
            let end =
                offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(alignment.into()));
            offset = end.ok_or_else(|| bad_dims(&tensor))?;
            sizes.push((tensor.name, bytes));
        }
        head.resize(head.len().next_multiple_of(alignment as usize), 0);
        out.write_all(&head)?;
        Ok(DataWriter { out, alignment, sizes, next: 0, written: 0 })
    }
}

fn check_names<'n>(names: impl Iterator<Item = &'n String>, limit: u64) -> Result<(), WriteError> {
    let mut seen = BTreeSet::new();
    for name in names {
        let problem = match name {
            _ if name.is_empty() => "is empty",
            _ if name.len() as u64 > limit => "is too long",
            _ if name.chars().any(char::is_control) => "holds a control character",
            _ if !seen.insert(name) => "occurs twice",
            _ => continue,
        };
        return Err(WriteError::Name { name: name.clone(), problem });
    }
    Ok(())
}

fn bad_dims(tensor: &Declared<'_>) -> WriteError {
    WriteError::Dims { tensor: tensor.name.clone(), dims: tensor.dims.clone(), ty: tensor.ty.name() }
}

fn declared_bytes(tensor: &Declared<'_>) -> Result<u64, WriteError> {
    let bytes = match tensor.dims.len() as u32 {
        1..=tensors::MAX_DIMS if tensor.dims.iter().all(|&dim| dim <= tensors::MAX_DIM) => {
            tensor.ty.tensor_bytes(&tensor.dims)
        }
        _ => None,
    };
    bytes.and_then(|b| u64::try_from(b).ok()).ok_or_else(|| bad_dims(tensor))
}

/// Takes tensor data in the order of declaration, in pieces of any size, and pads between tensors.
pub struct DataWriter<W> {
    out: W,
    alignment: u32,
    sizes: Vec<(String, u64)>,
    /// The tensor being written, and how much of it is.
    next: usize,
    written: u64,
}

impl<W: Write> DataWriter<W> {
    /// Writes all data of the next tensor.
    ///
    /// # Errors
    /// When the length is not the declared one, all tensors are written, or the output fails.
    pub fn tensor(&mut self, data: &[u8]) -> Result<(), WriteError> {
        let (name, wanted) = self.current()?;
        let found = data.len() as u64 + self.written;
        if found != wanted {
            return Err(WriteError::DataLength { tensor: name.to_owned(), found, wanted });
        }
        self.piece(data)
    }

    /// Writes the next piece of the current tensor; the last piece ends it.
    ///
    /// # Errors
    /// When the tensor would be longer than declared, all tensors are written, or the output fails.
    pub fn piece(&mut self, data: &[u8]) -> Result<(), WriteError> {
        let (name, wanted) = self.current()?;
        let found = data.len() as u64 + self.written;
        if found > wanted {
            return Err(WriteError::DataLength { tensor: name.to_owned(), found, wanted });
        }
        self.out.write_all(data)?;
        self.written = found;
        if found == wanted {
            let alignment = u64::from(self.alignment);
            let padding = found.next_multiple_of(alignment) - found;
            self.out.write_all(&vec![0; padding as usize])?;
            (self.next, self.written) = (self.next + 1, 0);
        }
        Ok(())
    }

    fn current(&self) -> Result<(&str, u64), WriteError> {
        let extra = WriteError::Extra { found: self.next, wanted: self.sizes.len() };
        self.sizes.get(self.next).map(|(name, size)| (name.as_str(), *size)).ok_or(extra)
    }

    /// Ends the file and gives the output back.
    ///
    /// # Errors
    /// When a tensor lacks data, or the output fails.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if self.next != self.sizes.len() {
            return Err(WriteError::Unfinished { found: self.next, wanted: self.sizes.len() });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
