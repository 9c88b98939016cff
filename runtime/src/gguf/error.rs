//! Every way a model file can be refused. One line each, at most 300 characters: what is wrong, which key or
//! tensor, the file offset, what was found and what the limit is, so that a user can act on the line alone.

use std::fmt;
use std::io;

/// How many characters of a name from the file an error shows.
const SHOWN_CHARS: usize = 64;

/// Text from the file made safe to print: escaped, and cut at 64 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Box<str>);

impl Name {
    /// Escapes control, quote and unprintable characters of `raw` and cuts the result at 64 characters.
    #[must_use]
    pub fn new(raw: &[u8]) -> Self {
        // A character escapes to at least one, so that four bytes for each shown character are enough to look at.
        let head = &raw[..raw.len().min(SHOWN_CHARS * 4 + 4)];
        let text = String::from_utf8_lossy(head);
        let mut shown: String = text.escape_debug().take(SHOWN_CHARS).collect();
        if text.escape_debug().nth(SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        Self(shown.into_boxed_str())
    }

    /// The escaped text, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(raw: &str) -> Self {
        Self::new(raw.as_bytes())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The part of the file an error speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Magic, version and the two counts.
    Header,
    /// A metadata entry whose key is not read yet, by its number from 0.
    Entry(u64),
    /// The metadata entry of this key.
    Key(Name),
    /// A tensor description whose name is not read yet, by its number from 0.
    TensorEntry(u64),
    /// The description or the data of this tensor.
    Tensor(Name),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "header"),
            Self::Entry(idx) => write!(f, "metadata entry {idx}"),
            Self::Key(name) => write!(f, "key {name}"),
            Self::TensorEntry(idx) => write!(f, "tensor entry {idx}"),
            Self::Tensor(name) => write!(f, "tensor {name}"),
        }
    }
}

/// Why a GGUF file was refused. All offsets are bytes from the start of the file unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each field is explained by the message it is printed in")]
pub enum GgufError {
    // ---- the file itself
    /// The operating system did not open the file.
    #[error("cannot open {path}")]
    Open { path: Name, source: io::Error },
    /// A directory, pipe or device: positioned reads need a regular file.
    #[error("{path} is not a regular file")]
    NotAFile { path: Name },
    /// A read failed for another reason than the end of the file.
    #[error("cannot read {wanted} bytes of {place} at offset {offset}")]
    Read { place: Place, offset: u64, wanted: u64, source: io::Error },
    /// Bytes that were there when the file was opened are gone.
    #[error(
        "file truncated or changed after opening: {place}: {wanted} bytes at offset {offset} are no longer there"
    )]
    Changed { place: Place, offset: u64, wanted: u64 },
    /// The file ends inside this item.
    #[error("file ends too early: {place}: {wanted} bytes needed at offset {offset}, {left} left")]
    Truncated { place: Place, offset: u64, wanted: u128, left: u64 },
    /// The metadata is larger than we are willing to hold.
    #[error("metadata too large: {place} at offset {offset} reaches byte {found}, the limit is {limit}")]
    MetadataSize { place: Place, offset: u64, found: u64, limit: u64 },
    /// No memory for the private copy of the metadata.
    #[error("out of memory: {wanted} bytes for the metadata at offset {offset}")]
    Memory { offset: u64, wanted: u64 },

    // ---- header
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: magic at offset 0 is {found}, not \"GGUF\"")]
    Magic { found: Name },
    /// A file written for big-endian machines.
    #[error("big-endian GGUF is not supported: version bytes at offset 4 read {found:#010x}")]
    BigEndian { found: u32 },
    /// The first format version, with 32-bit counts.
    #[error("GGUF version 1 is not supported (offset 4): convert the file to version 3")]
    VersionOne,
    /// A version that does not exist yet.
    #[error("GGUF version {found} at offset 4 is not supported: versions 2 and 3 are")]
    Version { found: u32 },
    /// More entries than we accept or than the rest of the file can hold.
    #[error(
        "header: {what} count at offset {offset} is {found}, the limit is {limit} with {left} bytes left for them"
    )]
    Count { what: &'static str, offset: u64, found: u64, limit: u64, left: u64 },

    // ---- metadata
    /// A string longer than its cap.
    #[error("{place}: {what} at offset {offset} is {found} bytes long, the limit is {limit}")]
    Length { place: Place, what: &'static str, offset: u64, found: u64, limit: u64 },
    /// A string that is not UTF-8.
    #[error("{place}: {what} at offset {offset} is not UTF-8 from its byte {found} on")]
    NotUtf8 { place: Place, what: &'static str, offset: u64, found: u64 },
    /// A key or tensor name that is empty or holds a character that names may not hold.
    #[error("{place}: name {found} at offset {offset} {problem}")]
    BadName { place: Place, offset: u64, found: Name, problem: &'static str },
    /// A key that occurs twice.
    #[error("duplicate key {key} at offset {offset}, first at offset {first}")]
    DuplicateKey { key: Name, offset: u64, first: u64 },
    /// A value type number that GGUF does not define.
    #[error("{place}: unknown value type {found} at offset {offset}, the last one is {limit}")]
    ValueType { place: Place, offset: u64, found: u32, limit: u32 },
    /// Arrays inside arrays, too deep.
    #[error("{place}: arrays nested {found} deep at offset {offset}, the limit is {limit}")]
    Nesting { place: Place, offset: u64, found: u32, limit: u32 },
    /// An array whose elements cannot fit in the rest of the file.
    #[error(
        "{place}: array at offset {offset} of {found} elements needs {wanted} bytes or more, {left} left"
    )]
    ArrayLength { place: Place, offset: u64, found: u64, wanted: u128, left: u64 },
    /// A boolean that is neither 0 nor 1.
    #[error("{place}: boolean at offset {offset} is {found}, not 0 or 1")]
    Bool { place: Place, offset: u64, found: u8 },
    /// `general.alignment` is not a power of two in range.
    #[error(
        "key \"general.alignment\": {found} at offset {offset} is not a power of two from {low} to {high}"
    )]
    Alignment { offset: u64, found: u32, low: u32, high: u32 },
    /// A key that the reader of the value needs is not there.
    #[error("missing key {key}: wanted {wanted}")]
    Missing { key: Name, wanted: &'static str },
    /// A key holds another type of value than is needed.
    #[error("key {key} at offset {offset}: found {found}, wanted {wanted}")]
    WrongType { key: Name, offset: u64, found: String, wanted: &'static str },
    /// A number outside the range it may have.
    #[error("key {key} at offset {offset}: found {found}, allowed is {low} to {high}")]
    OutOfRange { key: Name, offset: u64, found: String, low: String, high: String },
    /// An array of another length than is needed.
    #[error("key {key} at offset {offset}: array of {found} elements, wanted {wanted}")]
    WrongLength { key: Name, offset: u64, found: u64, wanted: u64 },

    // ---- tensor descriptions
    /// A tensor name that occurs twice.
    #[error("duplicate tensor {tensor} at offset {offset}, first at offset {first}")]
    DuplicateTensor { tensor: Name, offset: u64, first: u64 },
    /// A tensor of no dimension or of more than four.
    #[error("tensor {tensor} at offset {offset}: {found} dimensions, allowed is 1 to {limit}")]
    DimCount { tensor: Name, offset: u64, found: u32, limit: u32 },
    /// A dimension of zero, or of 2^31 and more.
    #[error("tensor {tensor} at offset {offset}: dimension {axis} is {found}, allowed is 1 to {limit}")]
    Dim { tensor: Name, offset: u64, axis: u32, found: u64, limit: u64 },
    /// A tensor type that was removed from the format or never was in it.
    #[error("tensor {tensor} at offset {offset}: {problem} tensor type {found}")]
    TensorType { tensor: Name, offset: u64, found: u32, problem: &'static str },
    /// A row that ends inside a quantization block.
    #[error("tensor {tensor} at offset {offset}: rows of {found} elements, {ty} needs a multiple of {limit}")]
    Row { tensor: Name, offset: u64, ty: &'static str, found: u64, limit: u64 },
    /// A size larger than the whole file.
    #[error("tensor {tensor} at offset {offset}: {found} bytes of data, the file has {limit}")]
    TensorSize { tensor: Name, offset: u64, found: u128, limit: u64 },
    /// Data that does not start on a multiple of the alignment.
    #[error(
        "tensor {tensor} at offset {offset}: data offset {found} is not a multiple of the alignment {limit}"
    )]
    Unaligned { tensor: Name, offset: u64, found: u64, limit: u64 },
    /// Data that ends behind the end of the file.
    #[error("tensor {tensor} at offset {offset}: data ends at byte {found}, the file has {limit}")]
    Outside { tensor: Name, offset: u64, found: u128, limit: u64 },
    /// Two tensors that share bytes.
    #[error(
        "tensor {tensor} at offset {offset}: data starts at byte {found}, but tensor {other} ends at {limit}"
    )]
    Overlap { tensor: Name, other: Name, offset: u64, found: u64, limit: u64 },

    // ---- use of an opened file
    /// The model needs a tensor which the file lacks.
    #[error("missing tensor {tensor}: wanted {wanted}")]
    MissingTensor { tensor: Name, wanted: String },
    /// A tensor has another shape than the model needs.
    #[error("tensor {tensor} at offset {offset}: found shape {found}, wanted {wanted}")]
    WrongShape { tensor: Name, offset: u64, found: String, wanted: String },
    /// A tensor has a type that is not accepted for its role.
    #[error("tensor {tensor} at offset {offset}: found type {found}, wanted {wanted}")]
    WrongTensorType { tensor: Name, offset: u64, found: &'static str, wanted: String },
    /// A tensor number past the last one: a mistake of the caller.
    #[error("tensor number {found} asked for, the file has {limit}")]
    TensorIndex { found: usize, limit: usize },
    /// A read past the end of a tensor: a mistake of the caller.
    #[error("tensor {tensor}: read to byte {found} of its data asked for, it has {limit}")]
    ReadOutside { tensor: Name, found: u128, limit: u64 },

    // ---- weights
    /// A scale or a value that is NaN or infinite. The offset counts from the start of the tensor's data.
    #[error(
        "tensor {tensor}: block {block} ({ty}) has {field} {found} at byte {offset} of its data: not finite"
    )]
    NonFinite { tensor: Name, ty: &'static str, block: u64, field: &'static str, found: f64, offset: u64 },
    /// A piece of data that ends inside a block: a mistake of the caller.
    #[error(
        "tensor {tensor}: {found} bytes from block {block} on are no multiple of the {limit}-byte {ty} block"
    )]
    PartialBlock { tensor: Name, ty: &'static str, block: u64, found: u64, limit: u64 },
    /// A type whose scales we cannot check, so that its data is not accepted.
    #[error("tensor {tensor}: scales of type {ty} cannot be checked")]
    UncheckedType { tensor: Name, ty: &'static str },
}

impl GgufError {
    /// Whether a key or tensor is absent, as opposed to present and wrong.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::MissingTensor { .. })
    }
}

/// Turns "missing" into `None` and leaves every other error: `optional(g.get_u32(key))?.unwrap_or(default)`.
///
/// # Errors
/// Those of `result`, except a missing key or tensor.
pub fn optional<T>(result: Result<T, GgufError>) -> Result<Option<T>, GgufError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_escaped_and_cut() {
        assert_eq!(Name::new(b"a\0\n\"\x1b").to_string(), "\"a\\0\\n\\\"\\u{1b}\"");
        let long = Name::new(&[b'k'; 70_000]);
        assert_eq!(long.as_str().chars().count(), 65);
        assert!(long.as_str().ends_with("k…"));
        assert_eq!(Name::new(&[b'k'; 64]).as_str().len(), 64);
        assert!(!Name::new(&[0xff, 0xfe]).as_str().is_empty());
    }

    #[test]
    fn the_longest_line_stays_under_300_characters() {
        let name = || Name::new("\u{202e}".repeat(90).as_bytes());
        let lines = [
            GgufError::Overlap {
                tensor: name(),
                other: name(),
                offset: u64::MAX,
                found: u64::MAX,
                limit: u64::MAX,
            },
            GgufError::Outside { tensor: name(), offset: u64::MAX, found: u128::MAX, limit: u64::MAX },
            GgufError::ArrayLength {
                place: Place::Key(name()),
                offset: u64::MAX,
                found: u64::MAX,
                wanted: u128::MAX,
                left: u64::MAX,
            },
        ];
        for line in lines.map(|e| e.to_string()) {
            assert!(line.chars().count() <= 300 && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn optional_forgives_only_absence() {
        let missing = GgufError::Missing { key: Name::from("k"), wanted: "u32" };
        assert!(matches!(optional::<u32>(Err(missing)), Ok(None)));
        assert!(optional::<u32>(Err(GgufError::VersionOne)).is_err());
        assert!(matches!(optional(Ok(3)), Ok(Some(3))));
    }
}
