//! Typed access to an opened file. A value that is absent, of another type, or out of range is an error that says
//! which key, where, what was found and what is allowed, so that callers write one line a hyperparameter.

use std::ops::RangeInclusive;

use super::Gguf;
use super::cursor::Span;
use super::entries::Entry;
use super::error::{GgufError, Name};
use super::tensors::TensorInfo;
use super::types::{GgmlType, ValueType};
use super::values::{self, Array, BoolArray, F32Array, I32Array, StrArray, Value};

/// One tensor of the file: name, shape, type and where its data lies. The data is read with [`Gguf::read_tensor`].
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    copy: &'a [u8],
    info: &'a TensorInfo,
    idx: usize,
}

impl<'a> Tensor<'a> {
    /// The number of this tensor, for [`Gguf::read_tensor`].
    #[must_use]
    pub fn idx(&self) -> usize {
        self.idx
    }

    /// The name: 1 to 64 bytes without control characters.
    #[must_use]
    pub fn name(&self) -> &'a str {
        text(self.info.name, self.copy)
    }

    /// The dimensions, row length first, 1 to 4 of them, each at least 1.
    #[must_use]
    pub fn dims(&self) -> &'a [u64] {
        self.info.dims()
    }

    /// The element type.
    #[must_use]
    pub fn ggml_type(&self) -> GgmlType {
        self.info.ty
    }

    /// The number of elements.
    #[must_use]
    pub fn elems(&self) -> u64 {
        self.info.bytes / self.info.ty.block_bytes() * self.info.ty.block_elems()
    }

    /// The size of the data in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.info.bytes
    }

    /// Where the data starts, in bytes from the start of the file.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.info.data_at
    }

    /// Checks shape and type against what the model needs, row length first.
    ///
    /// # Errors
    /// Names the tensor, what was found and what was wanted.
    pub fn expect(self, dims: &[u64], types: &[GgmlType]) -> Result<Self, GgufError> {
        let offset = u64::from(self.info.name.at);
        let tensor = || Name::from(self.name());
        if self.dims() != dims {
            let (found, wanted) = (shape_text(self.dims()), shape_text(dims));
            return Err(GgufError::WrongShape { tensor: tensor(), offset, found, wanted });
        }
        if !types.contains(&self.info.ty) {
            let (found, wanted) = (self.info.ty.name(), types_text(types));
            return Err(GgufError::WrongTensorType { tensor: tensor(), offset, found, wanted });
        }
        Ok(self)
    }
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.name(), self.info.ty, shape_text(self.dims()))
    }
}

fn shape_text(dims: &[u64]) -> String {
    let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// At most eight names: the line has a length to keep.
fn types_text(types: &[GgmlType]) -> String {
    let names: Vec<&str> = types.iter().take(8).map(|ty| ty.name()).collect();
    let more = if types.len() > 8 { " or another" } else { "" };
    format!("{}{more}", names.join(" or "))
}

/// Keys and names were checked to be UTF-8 when the file was opened.
fn text(span: Span, copy: &[u8]) -> &str {
    str::from_utf8(span.of(copy)).unwrap_or_default()
}

/// Tensors.
impl Gguf {
    /// The number of tensors.
    #[must_use]
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Tensor number `idx`, in the order of the file.
    #[must_use]
    pub fn tensor(&self, idx: usize) -> Option<Tensor<'_>> {
        self.tensors.get(idx).map(|info| Tensor { copy: &self.copy, info, idx })
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors.iter().enumerate().map(|(idx, info)| Tensor { copy: &self.copy, info, idx })
    }

    /// The tensor of this name.
    #[must_use]
    pub fn find_tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let span = |idx: u32| self.tensors.get(idx as usize).map_or(&[][..], |t| t.name.of(&self.copy));
        let at = self.by_name.binary_search_by(|&idx| span(idx).cmp(name.as_bytes())).ok()?;
        self.tensor(*self.by_name.get(at)? as usize)
    }

    /// The tensor of this name, with this shape (row length first) and one of these types.
    ///
    /// # Errors
    /// When it is missing ([`GgufError::is_missing`]) or differs.
    pub fn expect_tensor(
        &self,
        name: &str,
        dims: &[u64],
        types: &[GgmlType],
    ) -> Result<Tensor<'_>, GgufError> {
        let Some(tensor) = self.find_tensor(name) else {
            let wanted = format!("{} {}", shape_text(dims), types_text(types));
            return Err(GgufError::MissingTensor { tensor: Name::from(name), wanted });
        };
        tensor.expect(dims, types)
    }
}

/// Metadata of any type.
impl Gguf {
    /// The number of metadata entries.
    #[must_use]
    pub fn n_entries(&self) -> usize {
        self.entries.len()
    }

    /// All keys and values in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries.iter().filter_map(|e| Some((text(e.key, &self.copy), self.value(e)?)))
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.value(self.find_entry(key)?)
    }

    /// The file offset of the value of `key`, for errors made elsewhere.
    #[must_use]
    pub fn value_offset(&self, key: &str) -> Option<u64> {
        self.find_entry(key).map(|e| u64::from(e.at))
    }

    fn find_entry(&self, key: &str) -> Option<&Entry> {
        let span = |idx: u32| self.entries.get(idx as usize).map_or(&[][..], |e| e.key.of(&self.copy));
        let at = self.by_key.binary_search_by(|&idx| span(idx).cmp(key.as_bytes())).ok()?;
        self.entries.get(*self.by_key.get(at)? as usize)
    }

    fn value(&self, entry: &Entry) -> Option<Value<'_>> {
        Value::decode(&self.copy, entry.at as usize, entry.ty).map(|(value, _)| value)
    }

    /// The value and its offset, or the error that it is missing.
    fn need(&self, key: &str, wanted: &'static str) -> Result<(Value<'_>, u64), GgufError> {
        let missing = || GgufError::Missing { key: Name::from(key), wanted };
        let entry = self.find_entry(key).ok_or_else(missing)?;
        Ok((self.value(entry).ok_or_else(missing)?, u64::from(entry.at)))
    }

    fn need_array(&self, key: &str, wanted: &'static str) -> Result<(Array<'_>, u64), GgufError> {
        match self.need(key, wanted)? {
            (Value::Array(array), offset) => Ok((array, offset)),
            (other, offset) => Err(wrong_type(key, offset, &other, wanted)),
        }
    }

    fn array_of(&self, key: &str, elem: ValueType, wanted: &'static str) -> Result<Array<'_>, GgufError> {
        let (array, offset) = self.need_array(key, wanted)?;
        if array.elem_type() != elem {
            return Err(wrong_type(key, offset, &Value::Array(array), wanted));
        }
        Ok(array)
    }
}

fn wrong_type(key: &str, offset: u64, found: &Value<'_>, wanted: &'static str) -> GgufError {
    GgufError::WrongType { key: Name::from(key), offset, found: found.type_name(), wanted }
}

fn out_of_range(key: &str, offset: u64, found: impl ToString, (low, high): (String, String)) -> GgufError {
    GgufError::OutOfRange { key: Name::from(key), offset, found: found.to_string(), low, high }
}

/// Metadata of one type. Integers of every width are accepted where their value is in range. All of these fail with
/// `Missing` (see [`optional`](super::optional)), `WrongType` or `OutOfRange`.
impl Gguf {
    /// A string.
    ///
    /// # Errors
    /// Missing or of another type.
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        match self.need(key, "str")? {
            (Value::Str(text), _) => Ok(text),
            (other, offset) => Err(wrong_type(key, offset, &other, "str")),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// Missing or of another type.
    pub fn get_bool(&self, key: &str) -> Result<bool, GgufError> {
        match self.need(key, "bool")? {
            (Value::Bool(value), _) => Ok(value),
            (other, offset) => Err(wrong_type(key, offset, &other, "bool")),
        }
    }

    /// An integer from 0 to 2^32 − 1.
    ///
    /// # Errors
    /// Missing, of another type, or out of range.
    pub fn get_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.get_u32_in(key, 0..=u32::MAX)
    }

    /// An integer in `range`.
    ///
    /// # Errors
    /// Missing, of another type, or out of range.
    pub fn get_u32_in(&self, key: &str, range: RangeInclusive<u32>) -> Result<u32, GgufError> {
        let value = self.get_integer(key, i128::from(*range.start())..=i128::from(*range.end()))?;
        Ok(value as u32)
    }

    /// An integer from 0 to 2^64 − 1.
    ///
    /// # Errors
    /// Missing, of another type, or out of range.
    pub fn get_u64(&self, key: &str) -> Result<u64, GgufError> {
        Ok(self.get_integer(key, 0..=i128::from(u64::MAX))? as u64)
    }

    /// An integer from −2^31 to 2^31 − 1.
    ///
    /// # Errors
    /// Missing, of another type, or out of range.
    pub fn get_i32(&self, key: &str) -> Result<i32, GgufError> {
        Ok(self.get_integer(key, i128::from(i32::MIN)..=i128::from(i32::MAX))? as i32)
    }

    fn get_integer(&self, key: &str, range: RangeInclusive<i128>) -> Result<i128, GgufError> {
        let (value, offset) = self.need(key, "integer")?;
        let found = value.as_integer().ok_or_else(|| wrong_type(key, offset, &value, "integer"))?;
        if !range.contains(&found) {
            let limits = (range.start().to_string(), range.end().to_string());
            return Err(out_of_range(key, offset, found, limits));
        }
        Ok(found)
    }

    /// A finite number, from f32 or f64.
    ///
    /// # Errors
    /// Missing, of another type, or not finite as f32.
    pub fn get_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.get_f32_in(key, f32::MIN..=f32::MAX)
    }

    /// A number in `range`, from f32 or f64.
    ///
    /// # Errors
    /// Missing, of another type, or out of range, as NaN always is.
    pub fn get_f32_in(&self, key: &str, range: RangeInclusive<f32>) -> Result<f32, GgufError> {
        let (found, offset) = match self.need(key, "f32")? {
            (Value::F32(value), offset) => (value, offset),
            (Value::F64(value), offset) => (value as f32, offset),
            (other, offset) => return Err(wrong_type(key, offset, &other, "f32")),
        };
        if !range.contains(&found) {
            let limits = (format!("{:e}", range.start()), format!("{:e}", range.end()));
            return Err(out_of_range(key, offset, format!("{found:e}"), limits));
        }
        Ok(found)
    }

    /// An array of any type.
    ///
    /// # Errors
    /// Missing or of another type.
    pub fn get_arr(&self, key: &str) -> Result<Array<'_>, GgufError> {
        Ok(self.need_array(key, "array")?.0)
    }

    /// An array of strings.
    ///
    /// # Errors
    /// Missing or of another type.
    pub fn get_arr_str(&self, key: &str) -> Result<StrArray<'_>, GgufError> {
        Ok(StrArray::new(self.array_of(key, ValueType::Str, "array of str")?))
    }

    /// An array of f32.
    ///
    /// # Errors
    /// Missing or of another type.
    pub fn get_arr_f32(&self, key: &str) -> Result<F32Array<'_>, GgufError> {
        Ok(F32Array::new(self.array_of(key, ValueType::F32, "array of f32")?))
    }

    /// An array of booleans.
    ///
    /// # Errors
    /// Missing or of another type.
    pub fn get_arr_bool(&self, key: &str) -> Result<BoolArray<'_>, GgufError> {
        Ok(BoolArray::new(self.array_of(key, ValueType::Bool, "array of bool")?))
    }

    /// The bytes of an array of u8 or i8.
    ///
    /// # Errors
    /// Missing or of another type.
    pub fn get_arr_u8(&self, key: &str) -> Result<&[u8], GgufError> {
        let (array, offset) = self.need_array(key, "array of u8")?;
        values::byte_array(array).ok_or_else(|| wrong_type(key, offset, &Value::Array(array), "array of u8"))
    }

    /// An array of integers of any width, all of which fit an i32.
    ///
    /// # Errors
    /// Missing, of another type, or with an element out of range.
    pub fn get_arr_i32(&self, key: &str) -> Result<I32Array<'_>, GgufError> {
        self.get_arr_i32_in(key, i32::MIN..=i32::MAX)
    }

    /// An array of integers of any width, all of them in `range`.
    ///
    /// # Errors
    /// Missing, of another type, or with an element out of range, whose offset is told.
    pub fn get_arr_i32_in(&self, key: &str, range: RangeInclusive<i32>) -> Result<I32Array<'_>, GgufError> {
        let (array, offset) = self.need_array(key, "array of integers")?;
        let wide = i128::from(*range.start())..=i128::from(*range.end());
        if matches!(
            array.elem_type(),
            ValueType::F32 | ValueType::F64 | ValueType::Bool | ValueType::Str | ValueType::Array
        ) {
            return Err(wrong_type(key, offset, &Value::Array(array), "array of integers"));
        }
        let bad = array.iter().enumerate().find_map(|(idx, value)| {
            let found = value.as_integer().filter(|v| !wide.contains(v))?;
            Some((idx as u64, found))
        });
        let Some((idx, found)) = bad else { return Ok(I32Array::new(array)) };
        // The elements follow the element type (4 bytes) and the length (8 bytes).
        let offset = offset + 12 + idx * array.elem_type().min_bytes();
        Err(out_of_range(key, offset, found, (range.start().to_string(), range.end().to_string())))
    }

    /// Checks that the array under `key` has `wanted` elements.
    ///
    /// # Errors
    /// Missing, not an array, or of another length.
    pub fn expect_len(&self, key: &str, wanted: usize) -> Result<(), GgufError> {
        let (array, offset) = self.need_array(key, "array")?;
        let (found, wanted) = (array.len() as u64, wanted as u64);
        if found == wanted {
            Ok(())
        } else {
            Err(GgufError::WrongLength { key: Name::from(key), offset, found, wanted })
        }
    }
}
