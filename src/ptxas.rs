//! NVIDIA's assembler as a check of PTX: finding it, running it, reading what it says. Nothing that runs a model needs
//! it; where there is none, callers say so.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names the assembler to use, before `PATH` and [`TOOLS_PATH`] are looked at.
pub const ENV: &str = "MONOMORPH_PTXAS";
/// Where `tools/fetch-ptxas.sh` puts it, relative to the working directory.
pub const TOOLS_PATH: &str = ".tools/ptxas";

/// What a kernel takes of a multiprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of spill stores and loads together.
    pub spill_bytes: u32,
    /// Static shared memory of a CTA, bytes.
    pub shared_bytes: u32,
}

/// Why an assembly gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PtxasError {
    /// A temporary file or the program itself failed.
    #[error("cannot run {}", path.display())]
    Run {
        /// The program or the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The text was not accepted.
    #[error("ptxas for sm_{sm}: {words}")]
    Rejected {
        /// The target.
        sm: u32,
        /// The first line of its words that tells an error.
        words: String,
    },
    /// It succeeded without telling registers.
    #[error("ptxas for sm_{sm} tells no registers: {words}")]
    Silent {
        /// The target.
        sm: u32,
        /// What it said.
        words: String,
    },
}

/// An assembler.
#[derive(Clone, Debug)]
pub struct Ptxas {
    path: PathBuf,
}

/// Files of one process must not meet.
static COUNTER: AtomicU64 = AtomicU64::new(0);

impl Ptxas {
    /// The assembler that [`ENV`] names, or the first on `PATH`, or the one at [`TOOLS_PATH`].
    #[must_use]
    pub fn find() -> Option<Ptxas> {
        find_tool("ptxas", (ENV, TOOLS_PATH)).map(|path| Ptxas { path })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Assembles `ptx`, which has one entry, for `sm`.
    ///
    /// # Errors
    /// When the text is not accepted, or the assembler cannot be run.
    pub fn assemble(&self, ptx: &str, sm: u32) -> Result<Resources, PtxasError> {
        Ok(self.assemble_and((ptx, sm), |_| ())?.0)
    }

    /// Assembles `ptx` for `sm` with the line of PTX beside each instruction and gives what `read` makes of the binary,
    /// whose file goes afterwards.
    ///
    /// # Errors
    /// As [`Ptxas::assemble`].
    pub fn assemble_then<T>(
        &self,
        (ptx, sm): (&str, u32),
        read: impl FnOnce(&Path) -> T,
    ) -> Result<T, PtxasError> {
        // Line numbers do not change the code.
        Ok(self.run((ptx, sm), &["--generate-line-info"], read)?.1)
    }

    /// Assembles `ptx`, which has one entry, for `sm`; gives what it takes and what `read` makes of the binary, whose file goes
    /// afterwards.
    ///
    /// # Errors
    /// As [`Ptxas::assemble`].
    pub fn assemble_and<T>(
        &self,
        (ptx, sm): (&str, u32),
        read: impl FnOnce(&Path) -> T,
    ) -> Result<(Resources, T), PtxasError> {
        let (words, read) = self.run((ptx, sm), &[], read)?;
        let resources = parse(&words).ok_or_else(|| PtxasError::Silent { sm, words: one_line(&words) })?;
        Ok((resources, read))
    }

    /// What the assembler says, and what `read` makes of the binary.
    fn run<T>(
        &self,
        (ptx, sm): (&str, u32),
        options: &[&str],
        read: impl FnOnce(&Path) -> T,
    ) -> Result<(String, T), PtxasError> {
        let stem = format!("monomorph-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let source = Temporary(env::temp_dir().join(format!("{stem}.ptx")));
        let target = Temporary(env::temp_dir().join(format!("{stem}.cubin")));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PtxasError::Run { path, source }
        };
        fs::write(&source.0, ptx).map_err(failed(&source.0))?;
        let mut command = Command::new(&self.path);
        command.arg("-v").args(options).arg(format!("-arch=sm_{sm}")).arg("-o").arg(&target.0).arg(&source.0);
        let output = command.output().map_err(failed(&self.path))?;
        let words =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(PtxasError::Rejected { sm, words: first_error(&words) });
        }
        Ok((words, read(&target.0)))
    }
}

/// Removed when it goes out of scope.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Best effort: a file that was never made cannot be removed.
        fs::remove_file(&self.0).ok();
    }
}

/// The program that the environment variable names, or the first of its name on `PATH`, or the one that the fetch script
/// left at `fetched`.
pub(crate) fn find_tool(name: &str, (variable, fetched): (&str, &str)) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Some(path.into());
    }
    let on_path = env::var_os("PATH").and_then(|paths| first_file(&paths, name));
    on_path.or_else(|| Some(PathBuf::from(fetched)).filter(|path| path.is_file()))
}

fn first_file(paths: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn first_error(words: &str) -> String {
    let line = words.lines().find(|line| line.contains("error") || line.contains("fatal"));
    one_line(line.unwrap_or(words))
}

/// `Used 40 registers`, `8 bytes spill stores, 12 bytes spill loads`, `1024 bytes smem`.
fn parse(words: &str) -> Option<Resources> {
    let number_before = |unit: &str| -> Option<u32> {
        let (before, _) = words.split_once(unit)?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    let spills = [" bytes spill stores", " bytes spill loads"].map(|unit| number_before(unit).unwrap_or(0));
    Some(Resources {
        registers: number_before(" registers")?,
        spill_bytes: spills.iter().sum(),
        shared_bytes: number_before(" bytes smem").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ptxas_says_is_read() {
        let words = "ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function 'k' for 'sm_90'\n\
                     ptxas info    : Function properties for k\n    0 bytes stack frame, 8 bytes spill stores, 12 \
                     bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem\n";
        assert_eq!(parse(words), Some(Resources { registers: 40, spill_bytes: 20, shared_bytes: 1024 }));
        let plain = "ptxas info    : Used 8 registers";
        assert_eq!(parse(plain), Some(Resources { registers: 8, spill_bytes: 0, shared_bytes: 0 }));
        assert_eq!(parse("ptxas fatal : nothing"), None);
    }

    #[test]
    fn the_first_error_is_one_line() {
        let words =
            "info\nptxas k.ptx, line 3; error   : Unknown symbol\nptxas fatal : Ptx assembly aborted\n";
        assert_eq!(first_error(words), "ptxas k.ptx, line 3; error : Unknown symbol");
    }
}
