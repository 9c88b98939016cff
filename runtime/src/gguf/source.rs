//! Where the bytes come from: a file or memory, behind positioned reads. No memory map: a mapped file that another
//! process truncates ends this process, and a model file is not ours to trust.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::{GgufError, Name};

/// Bytes that can be read at any position by several threads at once.
pub trait ReadAt: Send + Sync {
    /// Fills `out` from the bytes at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when fewer bytes are there; whatever the system reports otherwise.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// The length in bytes, as it was when the source was opened.
    fn len_bytes(&self) -> u64;
}

fn copy_from(bytes: &[u8], out: &mut [u8], offset: u64) -> io::Result<()> {
    let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
    out.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}

impl ReadAt for &'static [u8] {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        copy_from(self, out, offset)
    }

    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }
}

impl ReadAt for Arc<[u8]> {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        copy_from(self, out, offset)
    }

    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        copy_from(self, out, offset)
    }

    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// An opened regular file.
#[derive(Debug)]
pub struct FileSource {
    #[cfg(any(unix, windows))]
    file: File,
    #[cfg(not(any(unix, windows)))]
    file: std::sync::Mutex<File>,
    len_bytes: u64,
}

impl FileSource {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// When it cannot be opened or is not a regular file. A named pipe is refused before it is opened, because
    /// opening one waits for a writer that may never come.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let name = || Name::new(path.as_os_str().as_encoded_bytes());
        let failed = |source| GgufError::Open { path: name(), source };
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(GgufError::NotAFile { path: name() });
        }
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(GgufError::NotAFile { path: name() });
        }
        #[cfg(not(any(unix, windows)))]
        let file = std::sync::Mutex::new(file);
        Ok(Self { file, len_bytes: meta.len() })
    }
}

impl ReadAt for FileSource {
    #[cfg(unix)]
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, out, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    out = &mut out[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[cfg(not(any(unix, windows)))]
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.file.lock().map_err(|_| io::Error::other("a reader of this file panicked"))?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_end_where_the_bytes_end() {
        let bytes: Arc<[u8]> = Arc::from(vec![1, 2, 3, 4]);
        let mut out = [0; 2];
        bytes.read_exact_at(&mut out, 2).unwrap();
        assert_eq!(out, [3, 4]);
        for offset in [3, 4, 5, u64::MAX] {
            assert_eq!(
                bytes.read_exact_at(&mut out, offset).unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof
            );
        }
    }

    #[test]
    fn a_directory_is_refused() {
        let refused = FileSource::open(&std::env::temp_dir());
        assert!(matches!(refused, Err(GgufError::NotAFile { .. })), "{refused:?}");
        let missing = FileSource::open(Path::new("no/such/file.gguf"));
        assert!(matches!(missing, Err(GgufError::Open { .. })), "{missing:?}");
    }
}
