//! The private copy of the metadata and the position in it while it is parsed. Each byte is read from the file once;
//! what is checked here is what is used later, whatever happens to the file.

use super::error::{GgufError, Name, Place};
use super::source::ReadAt;

/// The most metadata we hold. The largest vocabularies need about 40 MiB.
pub(super) const MAX_METADATA_BYTES: u64 = 512 << 20;

/// What is read ahead, so that small items do not cost a system call each.
const READ_AHEAD_BYTES: u64 = 256 << 10;

/// What is being parsed, cheap to set; becomes a [`Place`] only when an error needs one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    Header,
    Entry(u64),
    Key(Span),
    TensorEntry(u64),
    Tensor(Span),
}

/// A piece of the private copy, which starts at file offset 0: copy offsets are file offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub at: u32,
    pub len: u32,
}

impl Span {
    /// The bytes of this span; empty when `copy` is not the copy it was made for.
    pub fn of(self, copy: &[u8]) -> &[u8] {
        let at = self.at as usize;
        copy.get(at..at + self.len as usize).unwrap_or_default()
    }
}

/// Reads forward through the metadata, growing the copy as it goes.
pub(super) struct Cursor<'s> {
    source: &'s dyn ReadAt,
    file_len: u64,
    copy: Vec<u8>,
    pos: usize,
    pub spot: Spot,
}

impl<'s> Cursor<'s> {
    pub fn new(source: &'s dyn ReadAt) -> Self {
        Self { source, file_len: source.len_bytes(), copy: Vec::new(), pos: 0, spot: Spot::Header }
    }

    /// The file offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.pos as u64
    }

    /// Bytes of the file behind the position.
    pub fn left(&self) -> u64 {
        self.file_len - self.offset()
    }

    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    pub fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.copy)
    }

    /// The copy, cut to what was parsed.
    pub fn finish(mut self) -> Vec<u8> {
        self.copy.truncate(self.pos);
        self.copy.shrink_to_fit();
        self.copy
    }

    pub fn place(&self) -> Place {
        let name = |span| Name::new(self.bytes(span));
        match self.spot {
            Spot::Header => Place::Header,
            Spot::Entry(idx) => Place::Entry(idx),
            Spot::Key(span) => Place::Key(name(span)),
            Spot::TensorEntry(idx) => Place::TensorEntry(idx),
            Spot::Tensor(span) => Place::Tensor(name(span)),
        }
    }

    /// Steps over `n` bytes and gives where they are; the copy holds them afterwards.
    pub fn take(&mut self, n: u64) -> Result<Span, GgufError> {
        let end = self.offset().saturating_add(n);
        if end > self.copy.len() as u64 {
            self.grow(n, end)?;
        }
        // The metadata cap keeps both below 2^32.
        let span = Span { at: self.pos as u32, len: n as u32 };
        self.pos = end as usize;
        Ok(span)
    }

    #[cold]
    fn grow(&mut self, n: u64, end: u64) -> Result<(), GgufError> {
        if n > self.left() {
            return Err(GgufError::Truncated {
                place: self.place(),
                offset: self.offset(),
                wanted: u128::from(n),
                left: self.left(),
            });
        }
        if end > MAX_METADATA_BYTES {
            return Err(GgufError::MetadataSize {
                place: self.place(),
                offset: self.offset(),
                found: end,
                limit: MAX_METADATA_BYTES,
            });
        }
        let have = self.copy.len();
        let want = end.max(have as u64 + READ_AHEAD_BYTES).min(self.file_len) as usize;
        self.reserve(want)?;
        self.copy.resize(want, 0);
        let (offset, wanted) = (have as u64, (want - have) as u64);
        let Err(source) = self.source.read_exact_at(&mut self.copy[have..], offset) else { return Ok(()) };
        self.copy.truncate(have);
        let place = self.place();
        Err(match source.kind() {
            std::io::ErrorKind::UnexpectedEof => GgufError::Changed { place, offset, wanted },
            _ => GgufError::Read { place, offset, wanted, source },
        })
    }

    /// Room for `want` bytes. Grows by a quarter and not by doubling: the promise is 1.5 times the metadata.
    fn reserve(&mut self, want: usize) -> Result<(), GgufError> {
        if want <= self.copy.capacity() {
            return Ok(());
        }
        let quarter_more = self.copy.capacity() + self.copy.capacity() / 4;
        let room = want.max(quarter_more) - self.copy.len();
        self.copy
            .try_reserve_exact(room)
            .map_err(|_| GgufError::Memory { offset: self.offset(), wanted: room as u64 })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let span = self.take(N as u64)?;
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(span));
        Ok(out)
    }

    pub fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length-prefixed string of at most `limit` bytes, checked to be UTF-8.
    pub fn string(&mut self, what: &'static str, limit: u64) -> Result<Span, GgufError> {
        let offset = self.offset();
        let len = self.u64()?;
        if len > limit {
            return Err(GgufError::Length { place: self.place(), what, offset, found: len, limit });
        }
        let span = self.take(len)?;
        match str::from_utf8(self.bytes(span)) {
            Ok(_) => Ok(span),
            Err(error) => Err(GgufError::NotUtf8 {
                place: self.place(),
                what,
                offset: u64::from(span.at),
                found: error.valid_up_to() as u64,
            }),
        }
    }
}
