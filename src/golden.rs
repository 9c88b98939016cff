//! Generated files against those on disk: what `monomorph emit` writes and what its check compares.
//!
//! Registers and spills of `kernels.lock` are known to ptxas only. They are carried over for kernels whose text did not
//! change, measured where there is a ptxas, and may only improve: [`regressions`] lists what got worse.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use codegen::emit::{self, File, Heading, LockLine};
use codegen::plan::{self, Plan};
use codegen::{CodegenError, Device, ModelSpec};
use similar::TextDiff;

use crate::ptxas::{Ptxas, PtxasError};

/// Name of the lock file in a folder of goldens.
pub const LOCK: &str = "kernels.lock";
/// Lines around a change in a diff.
const CONTEXT_LINES: usize = 3;

/// Why goldens could not be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// No kernels are emitted for this target.
    #[error("no target sm_{found}; targets: {known}")]
    Target {
        /// What was asked for.
        found: u32,
        /// What would do.
        known: String,
    },
    /// Codegen refused.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// The disk failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// `read`, `write` …
        what: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// ptxas refused a kernel or could not be run.
    #[error("kernel {entry}")]
    Ptxas {
        /// Symbol.
        entry: String,
        /// What it said.
        source: PtxasError,
    },
}

/// The generated files of one spec and target.
#[derive(Debug)]
pub struct Golden {
    /// The plan that they were made from.
    pub plan: Plan,
    /// The lines of the lock file; registers unknown until [`Golden::carry_over`] or [`Golden::measure`].
    pub lock: Vec<LockLine>,
    heading: Heading,
    files: Vec<File>,
}

/// The device of `--sm N`.
///
/// # Errors
/// [`GoldenError::Target`].
pub fn device(sm: u32) -> Result<Device, GoldenError> {
    Device::from_sm(sm).ok_or_else(|| {
        let known: Vec<String> = Device::ALL.iter().map(|d| d.sm.to_string()).collect();
        GoldenError::Target { found: sm, known: known.join(", ") }
    })
}

impl Golden {
    /// Generates everything in memory.
    ///
    /// # Errors
    /// [`GoldenError::Codegen`].
    pub fn make(spec: &ModelSpec, device: Device) -> Result<Golden, GoldenError> {
        let plan = plan::build(spec, device)?;
        let heading = Heading::new(spec, device);
        let files = emit::files(&plan, &heading)?;
        let files = files.into_iter().filter(|file| file.name != LOCK).collect();
        let lock = emit::lock_lines(&plan.table);
        Ok(Golden { plan, lock, heading, files })
    }

    /// Takes registers and spills of kernels with the same text from `old`.
    pub fn carry_over(&mut self, old: &[LockLine]) {
        emit::carry_over(&mut self.lock, old);
    }

    /// Asks ptxas for registers and spills of every kernel.
    ///
    /// # Errors
    /// [`GoldenError::Ptxas`] for the first kernel that it refuses.
    pub fn measure(&mut self, ptxas: &Ptxas) -> Result<(), GoldenError> {
        let table = &self.plan.table;
        for line in &mut self.lock {
            let Some(kernel) = table.kernels.iter().find(|k| k.entry == line.entry) else { continue };
            let found = ptxas
                .assemble(&kernel.ptx, table.sm)
                .map_err(|source| GoldenError::Ptxas { entry: line.entry.clone(), source })?;
            line.registers = Some(found.registers);
            line.spill_bytes = Some(found.spill_bytes);
            line.shared_bytes = found.shared_bytes.max(line.shared_bytes);
        }
        Ok(())
    }

    /// Every file with its text, the lock last.
    #[must_use]
    pub fn files(&self) -> Vec<File> {
        let lock = File { name: LOCK.to_owned(), text: emit::print_lock(&self.heading, &self.lock) };
        self.files.iter().cloned().chain([lock]).collect()
    }

    /// Differences to the files in `folder`, as one unified diff; empty when there is none. Files that would no longer
    /// be written are differences too.
    ///
    /// # Errors
    /// [`GoldenError::Io`] when a file that exists cannot be read.
    pub fn diff(&self, folder: &Path) -> Result<String, GoldenError> {
        let files = self.files();
        let mut diff = String::new();
        for file in &files {
            let found = read_text(&folder.join(&file.name))?;
            push_diff(&mut diff, &file.name, found.as_deref(), Some(&file.text));
        }
        for stale in stale_files(folder, &files)? {
            let found = read_text(&folder.join(&stale))?;
            push_diff(&mut diff, &stale, found.as_deref(), None);
        }
        Ok(diff)
    }

    /// Writes every file that differs, each by a rename, and removes PTX files that are no longer generated. Gives the
    /// number of files changed.
    ///
    /// # Errors
    /// [`GoldenError::Io`].
    pub fn write(&self, folder: &Path) -> Result<usize, GoldenError> {
        fs::create_dir_all(folder).map_err(|e| io_error("create", folder, e))?;
        let files = self.files();
        let mut changed = 0;
        for file in &files {
            let path = folder.join(&file.name);
            if read_text(&path)?.is_some_and(|found| found == file.text) {
                continue;
            }
            let partial = folder.join(format!(".{}.partial", file.name));
            fs::write(&partial, &file.text).map_err(|e| io_error("write", &partial, e))?;
            fs::rename(&partial, &path).map_err(|e| io_error("write", &path, e))?;
            changed += 1;
        }
        for stale in stale_files(folder, &files)? {
            let path = folder.join(stale);
            fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
            changed += 1;
        }
        Ok(changed)
    }
}

/// The lines of the lock file in `folder`; none when there is no such file.
///
/// # Errors
/// [`GoldenError::Io`].
pub fn read_lock(folder: &Path) -> Result<Vec<LockLine>, GoldenError> {
    Ok(read_text(&folder.join(LOCK))?.map(|text| emit::parse_lock(&text)).unwrap_or_default())
}

/// Kernels that take more registers, spills or shared memory in `new` than in `old`, one text each.
#[must_use]
pub fn regressions(old: &[LockLine], new: &[LockLine]) -> Vec<String> {
    let mut worse = Vec::new();
    for line in new {
        let Some(before) = old.iter().find(|o| o.entry == line.entry) else { continue };
        let pairs = [
            ("registers", before.registers, line.registers),
            ("spill bytes", before.spill_bytes, line.spill_bytes),
            ("shared bytes", Some(before.shared_bytes), Some(line.shared_bytes)),
        ];
        for (what, before, now) in pairs {
            if let (Some(before), Some(now)) = (before, now)
                && now > before
            {
                worse.push(format!("{}: {what} {before} → {now}", line.entry));
            }
        }
    }
    worse
}

/// PTX files and Rust files of `folder` that are not among `files`.
fn stale_files(folder: &Path, files: &[File]) -> Result<Vec<String>, GoldenError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", folder, error)),
    };
    let mut stale = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| io_error("read", folder, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = [".ptx", ".rs"].iter().any(|ext| name.ends_with(ext));
        if ours && files.iter().all(|file| file.name != name) {
            stale.push(name);
        }
    }
    stale.sort();
    Ok(stale)
}

fn read_text(path: &Path) -> Result<Option<String>, GoldenError> {
    match fs::read(path) {
        // A golden with a damaged byte is a difference to show, not an error.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> GoldenError {
    GoldenError::Io { what, path: path.to_owned(), source }
}

fn push_diff(diff: &mut String, name: &str, on_disk: Option<&str>, generated: Option<&str>) {
    if on_disk == generated {
        return;
    }
    let (old, new) = (on_disk.unwrap_or_default(), generated.unwrap_or_default());
    let old_name = on_disk.map_or_else(|| "/dev/null".to_owned(), |_| format!("on disk/{name}"));
    let new_name = generated.map_or_else(|| "/dev/null".to_owned(), |_| format!("generated/{name}"));
    diff.push_str(&unified(old, new, (&old_name, &new_name)));
}

/// A unified diff of two texts under two names.
#[must_use]
pub fn unified(old: &str, new: &str, (old_name, new_name): (&str, &str)) -> String {
    let diff = TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT_LINES).header(old_name, new_name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(entry: &str, registers: Option<u32>, shared_bytes: u32) -> LockLine {
        LockLine { entry: entry.into(), registers, spill_bytes: Some(0), shared_bytes, sha256: String::new() }
    }

    #[test]
    fn only_what_got_worse_is_a_regression() {
        let old = [line("a", Some(40), 16), line("b", Some(40), 16), line("c", None, 16)];
        let new = [
            line("a", Some(39), 16),
            line("b", Some(41), 32),
            line("c", Some(90), 16),
            line("d", Some(99), 0),
        ];
        assert_eq!(regressions(&old, &new), ["b: registers 40 → 41", "b: shared bytes 16 → 32"]);
    }

    #[test]
    fn a_diff_shows_both_sides() {
        let mut diff = String::new();
        push_diff(&mut diff, "k.ptx", Some("a\nb\n"), Some("a\nc\n"));
        push_diff(&mut diff, "same", Some("x"), Some("x"));
        push_diff(&mut diff, "gone", Some("y\n"), None);
        assert!(
            diff.contains("-b\n+c\n") && diff.contains("+++ /dev/null") && !diff.contains("same"),
            "{diff}"
        );
    }
}
