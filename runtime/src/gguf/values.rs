//! Metadata values as borrowed views of the private copy. Arrays are an offset and a length: a vocabulary of 250,000
//! strings costs nothing until it is iterated, and then nothing but the walk.

use super::types::ValueType;

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The type of this value.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
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
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// An integer of any width, exactly; `None` for every other type.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::U64(v) => Some(v.into()),
            Self::I64(v) => Some(v.into()),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::Str(_) | Self::Array(_) => None,
        }
    }

    /// What an error calls it: `u32`, `array of str`.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self {
            Self::Array(array) => format!("array of {}", array.elem_type()),
            other => other.value_type().name().to_owned(),
        }
    }

    /// The value of type `ty` at `at` of `copy`, and where the next one begins. `None` only outside the copy, which
    /// the load has ruled out.
    pub(super) fn decode(copy: &'a [u8], at: usize, ty: ValueType) -> Option<(Self, usize)> {
        let value = match ty {
            ValueType::U8 => Self::U8(u8::from_le_bytes(fixed(copy, at)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(fixed(copy, at)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(fixed(copy, at)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(fixed(copy, at)?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(fixed(copy, at)?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(fixed(copy, at)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(fixed(copy, at)?)),
            ValueType::U64 => Self::U64(u64::from_le_bytes(fixed(copy, at)?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(fixed(copy, at)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(fixed(copy, at)?)),
            ValueType::Bool => Self::Bool(*copy.get(at)? != 0),
            ValueType::Str => {
                let raw = string_bytes(copy, at)?;
                return Some((Self::Str(str::from_utf8(raw).ok()?), at + 8 + raw.len()));
            }
            ValueType::Array => {
                let array = Array::decode(copy, at)?;
                return Some((Self::Array(array), array.end()?));
            }
        };
        Some((value, at + ty.min_bytes() as usize))
    }
}

fn fixed<const N: usize>(copy: &[u8], at: usize) -> Option<[u8; N]> {
    copy.get(at..at.checked_add(N)?)?.first_chunk().copied()
}

fn string_bytes(copy: &[u8], at: usize) -> Option<&[u8]> {
    let len = usize::try_from(u64::from_le_bytes(fixed(copy, at)?)).ok()?;
    copy.get(at + 8..(at + 8).checked_add(len)?)
}

/// An array of one element type, as it lies in the metadata.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    copy: &'a [u8],
    first: usize,
    elem: ValueType,
    len: usize,
}

impl<'a> Array<'a> {
    fn decode(copy: &'a [u8], at: usize) -> Option<Self> {
        let elem = ValueType::from_id(u32::from_le_bytes(fixed(copy, at)?))?;
        let len = usize::try_from(u64::from_le_bytes(fixed(copy, at + 4)?)).ok()?;
        Some(Self { copy, first: at + 12, elem, len })
    }

    /// The type of all elements.
    #[must_use]
    pub fn elem_type(&self) -> ValueType {
        self.elem
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    #[must_use]
    pub fn iter(&self) -> ArrayIter<'a> {
        ArrayIter { array: *self, at: self.first, left: self.len }
    }

    /// Element `idx` of an array of numbers or booleans, without a walk.
    fn number(&self, idx: usize) -> Option<Value<'a>> {
        if idx >= self.len {
            return None;
        }
        let at = self.first + idx * self.elem.min_bytes() as usize;
        Value::decode(self.copy, at, self.elem).map(|(value, _)| value)
    }

    /// The bytes of an array of one-byte elements.
    fn raw(&self) -> &'a [u8] {
        self.copy.get(self.first..self.first + self.len).unwrap_or_default()
    }

    fn end(&self) -> Option<usize> {
        match self.elem {
            ValueType::Str => {
                (0..self.len).try_fold(self.first, |at, _| Some(at + 8 + string_bytes(self.copy, at)?.len()))
            }
            ValueType::Array => {
                (0..self.len).try_fold(self.first, |at, _| Self::decode(self.copy, at)?.end())
            }
            number => Some(self.first + self.len * number.min_bytes() as usize),
        }
    }
}

impl PartialEq for Array<'_> {
    /// Equal element types and equal elements, wherever they lie.
    fn eq(&self, other: &Self) -> bool {
        self.elem == other.elem && self.len == other.len && self.iter().eq(other.iter())
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.elem, self.len)
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Value<'a>;
    type IntoIter = ArrayIter<'a>;

    fn into_iter(self) -> ArrayIter<'a> {
        self.iter()
    }
}

/// Walks over the elements of an [`Array`].
#[derive(Clone, Debug)]
pub struct ArrayIter<'a> {
    array: Array<'a>,
    at: usize,
    left: usize,
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (value, next) = Value::decode(self.array.copy, self.at, self.array.elem)?;
        self.at = next;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ArrayIter<'_> {}

/// Makes a view of an array whose element type is known, so that callers see `&str`, `f32`, `i32` and not [`Value`].
macro_rules! typed_array {
    ($(#[$doc:meta])* $name:ident, $item:ty, $convert:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name<'a>(Array<'a>);

        impl<'a> $name<'a> {
            pub(super) fn new(array: Array<'a>) -> Self {
                Self(array)
            }

            /// The number of elements.
            #[must_use]
            pub fn len(&self) -> usize {
                self.0.len()
            }

            /// Whether there is no element.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }

            /// The elements in order.
            pub fn iter(&self) -> impl ExactSizeIterator<Item = $item> + Clone + use<'a> {
                self.0.iter().map($convert)
            }
        }
    };
}

typed_array! {
    /// An array of strings. Only a walk finds an element, so collect once when they are needed by number.
    StrArray, &'a str, |value| match value {
        Value::Str(text) => text,
        _ => "",
    }
}

typed_array! {
    /// An array of f32; finiteness is not checked.
    F32Array, f32, |value| match value {
        Value::F32(v) => v,
        _ => f32::NAN,
    }
}

typed_array! {
    /// An array of integers of any width, all of which fit an i32.
    I32Array, i32, |value: Value<'_>| value.as_integer().map_or(0, |v| v as i32)
}

typed_array! {
    /// An array of booleans.
    BoolArray, bool, |value| matches!(value, Value::Bool(true))
}

impl F32Array<'_> {
    /// Element `idx`.
    #[must_use]
    pub fn get(&self, idx: usize) -> Option<f32> {
        match self.0.number(idx) {
            Some(Value::F32(v)) => Some(v),
            _ => None,
        }
    }
}

impl I32Array<'_> {
    /// Element `idx`.
    #[must_use]
    pub fn get(&self, idx: usize) -> Option<i32> {
        self.0.number(idx)?.as_integer().map(|v| v as i32)
    }
}

impl BoolArray<'_> {
    /// Element `idx`.
    #[must_use]
    pub fn get(&self, idx: usize) -> Option<bool> {
        self.0.number(idx).map(|v| v == Value::Bool(true))
    }
}

/// The bytes of an array of u8 or i8, such as a tokenizer's precompiled character map.
pub(super) fn byte_array(array: Array<'_>) -> Option<&[u8]> {
    matches!(array.elem, ValueType::U8 | ValueType::I8).then(|| array.raw())
}
