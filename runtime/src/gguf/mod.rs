//! The strict reader of GGUF model files, and a deterministic writer of them.
//!
//! A model file is hostile input: it comes from the network and is often opened by a program that must not stop. So
//! every length, count, offset and name is checked, in arithmetic that cannot overflow, before anything of that size
//! is allocated; the metadata is read once into a private copy; weights are read with positioned reads, which report
//! a file that was truncated meanwhile and do not crash. Every refusal names its place in one line.
//!
//! What the numbers mean for a model (hyperparameters, shapes, vocabulary) is checked by those who use them, through
//! the located getters here.

mod cursor;
mod entries;
mod error;
mod get;
mod scales;
mod source;
mod tensors;
mod types;
mod values;
pub mod write;

use std::path::Path;

use cursor::Cursor;
use entries::Entry;
use tensors::TensorInfo;

pub use error::{GgufError, Name, Place, optional};
pub use get::Tensor;
pub use scales::check_block_scales;
pub use source::{FileSource, ReadAt};
pub use types::{GgmlType, ValueType};
pub use values::{Array, ArrayIter, BoolArray, F32Array, I32Array, StrArray, Value};

/// Multiple of which every tensor's offset is, where the file does not say.
pub const DEFAULT_ALIGNMENT: u32 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
/// The range in which `general.alignment` may lie.
const ALIGNMENT_RANGE: std::ops::RangeInclusive<u32> = 8..=65_536;

/// An opened model file whose metadata and tensor descriptions passed every check.
pub struct Gguf {
    source: Box<dyn ReadAt>,
    /// The metadata, byte for byte as in the file, from offset 0 to the end of the tensor descriptions.
    copy: Vec<u8>,
    entries: Vec<Entry>,
    /// Entry numbers in the order of their keys.
    by_key: Vec<u32>,
    tensors: Vec<TensorInfo>,
    /// Tensor numbers in the order of their names.
    by_name: Vec<u32>,
    version: u32,
    alignment: u32,
    data_start: u64,
}

impl Gguf {
    /// Opens the file at `path` and checks its metadata. The file stays open for reading tensors.
    ///
    /// # Errors
    /// When it cannot be opened, is not a regular file, or breaks a rule of the format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        Self::parse(FileSource::open(path.as_ref())?)
    }

    /// Checks a model held in memory.
    ///
    /// # Errors
    /// When it breaks a rule of the format.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::parse(bytes)
    }

    /// Checks a model that is part of the program; its weights are not copied.
    ///
    /// # Errors
    /// When it breaks a rule of the format.
    pub fn from_static(bytes: &'static [u8]) -> Result<Self, GgufError> {
        Self::parse(bytes)
    }

    /// Checks a model from any source of bytes.
    ///
    /// # Errors
    /// When the source fails or the bytes break a rule of the format.
    pub fn parse(source: impl ReadAt + 'static) -> Result<Self, GgufError> {
        let mut cur = Cursor::new(&source);
        let header = parse_header(&mut cur)?;
        let entries = entries::parse(&mut cur, header.n_entries)?;
        let alignment = find_alignment(&cur, &entries)?;
        let mut tensors = tensors::parse(&mut cur, header.n_tensors, alignment)?;
        let file_len = cur.file_len();
        let copy = cur.finish();
        let by_key = index_keys(&copy, &entries)?;
        let by_name = index_tensors(&copy, &tensors)?;
        let data_start = (copy.len() as u64).next_multiple_of(u64::from(alignment));
        tensors::place(&mut tensors, &copy, (data_start, file_len))?;
        let version = header.version;
        Ok(Self {
            source: Box::new(source),
            copy,
            entries,
            by_key,
            tensors,
            by_name,
            version,
            alignment,
            data_start,
        })
    }

    /// The format version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of which every tensor's offset is a multiple.
    #[must_use]
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// The file offset at which tensor data starts.
    #[must_use]
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The length of the file in bytes when it was opened.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.source.len_bytes()
    }

    /// Bytes of memory held for metadata, without the source itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.copy.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.tensors.capacity() * size_of::<TensorInfo>()
            + (self.by_key.capacity() + self.by_name.capacity()) * size_of::<u32>()
    }

    /// Reads `out.len()` bytes of tensor number `idx` from byte `offset` of its data on.
    ///
    /// # Errors
    /// When the tensor or the range does not exist, the file was truncated after opening, or the system fails.
    pub fn read_tensor(&self, idx: usize, offset: u64, out: &mut [u8]) -> Result<(), GgufError> {
        let tensor =
            self.tensor(idx).ok_or(GgufError::TensorIndex { found: idx, limit: self.tensors.len() })?;
        let end = u128::from(offset) + out.len() as u128;
        if end > u128::from(tensor.bytes()) {
            let limit = tensor.bytes();
            return Err(GgufError::ReadOutside { tensor: Name::from(tensor.name()), found: end, limit });
        }
        let at = tensor.file_offset() + offset;
        self.source.read_exact_at(out, at).map_err(|source| {
            let (place, wanted) = (Place::Tensor(Name::from(tensor.name())), out.len() as u64);
            match source.kind() {
                std::io::ErrorKind::UnexpectedEof => GgufError::Changed { place, offset: at, wanted },
                _ => GgufError::Read { place, offset: at, wanted, source },
            }
        })
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("version", &self.version)
            .field("entries", &self.entries.len())
            .field("tensors", &self.tensors.len())
            .field("data_start", &self.data_start)
            .finish_non_exhaustive()
    }
}

/// The counts carry their file offset, for the error that refuses them.
struct Header {
    version: u32,
    n_tensors: (u64, u64),
    n_entries: (u64, u64),
}

fn parse_header(cur: &mut Cursor<'_>) -> Result<Header, GgufError> {
    let magic = cur.take(4)?;
    if cur.bytes(magic) != b"GGUF" {
        return Err(GgufError::Magic { found: Name::new(cur.bytes(magic)) });
    }
    let version = match cur.u32()? {
        1 => return Err(GgufError::VersionOne),
        version @ (2 | 3) => version,
        found if (1..=3).contains(&found.swap_bytes()) => return Err(GgufError::BigEndian { found }),
        found => return Err(GgufError::Version { found }),
    };
    let n_tensors = (cur.offset(), cur.u64()?);
    let n_entries = (cur.offset(), cur.u64()?);
    Ok(Header { version, n_tensors, n_entries })
}

/// The first `general.alignment` wins here; a second one is refused when keys are indexed.
fn find_alignment(cur: &Cursor<'_>, entries: &[Entry]) -> Result<u32, GgufError> {
    let Some(entry) = entries.iter().find(|e| cur.bytes(e.key) == ALIGNMENT_KEY.as_bytes()) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let offset = u64::from(entry.at);
    if entry.ty != ValueType::U32 {
        let (key, found) = (Name::from(ALIGNMENT_KEY), entry.ty.name().to_owned());
        return Err(GgufError::WrongType { key, offset, found, wanted: "u32" });
    }
    let raw = cur.bytes(cursor::Span { at: entry.at, len: 4 });
    let found = raw.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if !found.is_power_of_two() || !ALIGNMENT_RANGE.contains(&found) {
        let (low, high) = (*ALIGNMENT_RANGE.start(), *ALIGNMENT_RANGE.end());
        return Err(GgufError::Alignment { offset, found, low, high });
    }
    Ok(found)
}

fn index_keys(copy: &[u8], entries: &[Entry]) -> Result<Vec<u32>, GgufError> {
    entries::sort_names(copy, |idx| entries[idx as usize].key, entries.len()).map_err(|(first, again)| {
        let (first, again) = (entries[first as usize].key, entries[again as usize].key);
        GgufError::DuplicateKey {
            key: Name::new(first.of(copy)),
            offset: again.at.into(),
            first: first.at.into(),
        }
    })
}

fn index_tensors(copy: &[u8], tensors: &[TensorInfo]) -> Result<Vec<u32>, GgufError> {
    entries::sort_names(copy, |idx| tensors[idx as usize].name, tensors.len()).map_err(|(first, again)| {
        let (first, again) = (tensors[first as usize].name, tensors[again as usize].name);
        let tensor = Name::new(first.of(copy));
        GgufError::DuplicateTensor { tensor, offset: again.at.into(), first: first.at.into() }
    })
}
