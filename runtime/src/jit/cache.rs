//! The folder of made kernels: one file a spec, target and generator.
//!
//! Files appear by renaming a finished one, so that no reader meets half of one, and two programs that make the same
//! kernels write the same bytes. A folder of this size is pruned by the time of last use.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use codegen::{Device, ModelSpec};
use plan::KernelDesc;

use super::entry::{self, EntryError};

/// Bytes of files in the folder; beyond them, those whose use lies longest back are removed. An entry has 3 to 6 MB.
pub const MAX_CACHE_BYTES: u64 = 256 << 20;

/// A file beyond this is no entry.
const MAX_ENTRY_BYTES: u64 = 64 << 20;

/// Ends the names of entries.
const SUFFIX: &str = ".kernels.json";

/// Distinguishes files that are being written.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Where made kernels are kept. An entry is found by the hash of spec and target and by the generator's fingerprint, and
/// used only if it says so itself, has the SHA-256 that it was written with, and every text of it passes the parser and
/// the verifier as the kernel that it is said to be. Anything else is made again and replaced.
///
/// That guards against damage and mix-ups, not against somebody who may write your files: the folder is to be yours.
#[derive(Clone, Debug)]
pub struct KernelCache {
    folder: PathBuf,
}

/// What the cache did.
#[derive(Debug)]
pub enum CacheUse {
    /// There is none.
    Off,
    /// All kernels came from this file.
    Hit {
        /// The entry.
        file: PathBuf,
    },
    /// Kernels were made.
    Made {
        /// Where they are kept.
        file: PathBuf,
        /// Why those that were there did not do; `None` when they were too few, which a change of the generator's
        /// dependencies may do.
        refused: Option<EntryError>,
        /// Why they could not be kept.
        not_kept: Option<io::Error>,
    },
}

/// Where the entry of a spec is, and what it must say.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub file: PathBuf,
    key: String,
    sm: u32,
}

impl KernelCache {
    /// A cache in `folder`, which is made when something is to be kept.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where programs of this user keep kernels, by the variables that `variable` looks up: `MONOMORPH_CACHE` (a folder, or
    /// `off`), else `monomorph` in `XDG_CACHE_HOME`, else `.cache/monomorph` in `HOME`, else `monomorph\cache` in
    /// `LOCALAPPDATA`. `None`: it is off, or there is no such folder. Relative folders count only in the first.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(chosen) = set("MONOMORPH_CACHE") {
            return (chosen != "off").then(|| Self::new(chosen));
        }
        let below = |name: &str, rest: &str| {
            set(name).map(PathBuf::from).filter(|path| path.is_absolute()).map(|path| path.join(rest))
        };
        let folder = below("XDG_CACHE_HOME", "monomorph")
            .or_else(|| below("HOME", ".cache/monomorph"))
            .or_else(|| below("LOCALAPPDATA", "monomorph/cache"))?;
        Some(Self::new(folder))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many entries there are, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        let entries = self.entries();
        (entries.len(), entries.iter().map(|entry| entry.bytes).sum())
    }

    pub(super) fn place(&self, spec: &ModelSpec, device: Device) -> Place {
        let key = format!("{}-{}", spec.hash(device), codegen::FINGERPRINT);
        // For people only: the key is what identifies it.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = spec.name.chars().take(64).map(plain).collect();
        let file = self.folder.join(format!("{name}-sm_{}-{key}{SUFFIX}", device.sm));
        Place { file, key, sm: device.sm }
    }

    pub(super) fn read(&self, place: &Place) -> Result<Vec<KernelDesc>, EntryError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => EntryError::Absent,
            _ => EntryError::Read(error),
        };
        let found = fs::metadata(&place.file).map_err(failed)?.len();
        if found > MAX_ENTRY_BYTES {
            return Err(EntryError::Size { found, limit: MAX_ENTRY_BYTES });
        }
        let bytes = fs::read(&place.file).map_err(failed)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| EntryError::Form(error.to_string()))?;
        entry::parse(text, &place.key, place.sm)
    }

    pub(super) fn write(&self, place: &Place, kernels: &[KernelDesc]) -> io::Result<()> {
        let text = entry::print(&place.key, kernels).map_err(io::Error::other)?;
        fs::create_dir_all(&self.folder)?;
        let part = format!("{}-{}.part", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let part = self.folder.join(part);
        let written = File::create_new(&part)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&part, &place.file));
        if written.is_err() {
            fs::remove_file(&part).ok();
        }
        written?;
        self.prune(MAX_CACHE_BYTES, &place.file);
        Ok(())
    }

    /// Says that an entry was used. One that cannot be told so is only removed earlier.
    pub(super) fn touch(&self, place: &Place) {
        let file = File::options().append(true).open(&place.file);
        file.and_then(|file| file.set_modified(SystemTime::now())).ok();
    }

    fn entries(&self) -> Vec<Found> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let found = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let metadata = entry.metadata().ok()?;
            let is_entry = name.to_string_lossy().ends_with(SUFFIX) && metadata.is_file();
            let used = metadata.modified().ok()?;
            is_entry.then(|| Found { file: entry.path(), bytes: metadata.len(), used })
        });
        found.collect()
    }

    /// Removes the entries whose use lies longest back until `limit` holds; never `keep`.
    fn prune(&self, limit: u64, keep: &Path) {
        let mut entries = self.entries();
        entries.sort_by_key(|entry| entry.used);
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries.iter().filter(|entry| entry.file != keep) {
            if bytes <= limit {
                return;
            }
            if fs::remove_file(&entry.file).is_ok() {
                bytes -= entry.bytes;
            }
        }
    }
}

struct Found {
    file: PathBuf,
    bytes: u64,
    used: SystemTime,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may")]

    use super::*;
    use std::time::Duration;

    fn folder_of(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let find = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        KernelCache::from_variables(find).map(|cache| cache.folder)
    }

    #[test]
    fn variables_choose_the_folder() {
        let home = [("HOME", "/home/a")];
        assert_eq!(folder_of(&home).unwrap(), Path::new("/home/a/.cache/monomorph"));
        let xdg = [home[0], ("XDG_CACHE_HOME", "/x")];
        assert_eq!(folder_of(&xdg).unwrap(), Path::new("/x/monomorph"));
        assert_eq!(folder_of(&[home[0], ("XDG_CACHE_HOME", "x")]), folder_of(&home));
        let chosen = |value| [xdg[0], xdg[1], ("MONOMORPH_CACHE", value)];
        assert_eq!(folder_of(&chosen("here")).unwrap(), Path::new("here"));
        assert_eq!(folder_of(&chosen("off")), None);
        assert_eq!(folder_of(&chosen("")), folder_of(&xdg));
        assert_eq!(folder_of(&[]), None);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let folder = std::env::temp_dir().join(format!("monomorph-prune-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let cache = KernelCache::new(&folder);
        for (age, name) in [(30, "a"), (10, "b"), (20, "c"), (40, "keep")] {
            let file = folder.join(format!("{name}{SUFFIX}"));
            fs::write(&file, [0; 100]).unwrap();
            let used = SystemTime::now() - Duration::from_secs(age);
            File::options().append(true).open(&file).unwrap().set_modified(used).unwrap();
        }
        fs::write(folder.join("other.txt"), [0; 1000]).unwrap();
        assert_eq!(cache.size(), (4, 400));
        cache.prune(250, &folder.join(format!("keep{SUFFIX}")));
        let mut left: Vec<_> = cache.entries().into_iter().map(|entry| entry.file).collect();
        left.sort();
        assert_eq!(left, ["b", "keep"].map(|name| folder.join(format!("{name}{SUFFIX}"))));
        assert!(folder.join("other.txt").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
