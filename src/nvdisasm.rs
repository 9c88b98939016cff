//! NVIDIA's disassembler: the machine code (SASS) behind a kernel, for people who read it. Nothing else needs it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ptxas::{self, Ptxas, PtxasError};

/// Names the disassembler to use, before `PATH` and [`TOOLS_PATH`] are looked at.
pub const ENV: &str = "MONOMORPH_NVDISASM";
/// Where `tools/fetch-ptxas.sh .tools nvdisasm` puts it, relative to the working directory.
pub const TOOLS_PATH: &str = ".tools/nvdisasm";

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvdisasmError {
    /// The assembler did not make a binary.
    #[error(transparent)]
    Ptxas(#[from] PtxasError),
    /// The disassembler could not be run.
    #[error("cannot run {}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It refused the binary.
    #[error("nvdisasm: {words}")]
    Rejected {
        /// What it said.
        words: String,
    },
}

/// A disassembler.
#[derive(Clone, Debug)]
pub struct Nvdisasm {
    path: PathBuf,
}

impl Nvdisasm {
    /// The disassembler that [`ENV`] names, or the first on `PATH`, or the one at [`TOOLS_PATH`].
    #[must_use]
    pub fn find() -> Option<Nvdisasm> {
        ptxas::find_tool("nvdisasm", (ENV, TOOLS_PATH)).map(|path| Nvdisasm { path })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The machine code of `ptx`, which has one entry, assembled for `sm`.
    ///
    /// # Errors
    /// When the text is not accepted or a tool cannot be run.
    pub fn code(&self, ptxas: &Ptxas, (ptx, sm): (&str, u32)) -> Result<Vec<Sass>, NvdisasmError> {
        let listing = ptxas.assemble_then((ptx, sm), |cubin| {
            let mut command = Command::new(&self.path);
            command.args(["--print-code", "--print-line-info-ptx"]).arg(cubin);
            let output =
                command.output().map_err(|source| NvdisasmError::Run { path: self.path.clone(), source })?;
            if !output.status.success() {
                let words = String::from_utf8_lossy(&output.stderr);
                let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
                return Err(NvdisasmError::Rejected { words });
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })??;
        Ok(read_listing(&listing))
    }
}

/// A line of machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sass {
    /// Bytes from the start of the kernel.
    pub address: u32,
    /// The instruction, with the label that stands before it, if any.
    pub text: String,
    /// The line of the PTX text that it was made from, counted from 1.
    pub ptx_line: Option<usize>,
}

/// The instructions of a listing, without what fills the last line of the instruction cache.
fn read_listing(listing: &str) -> Vec<Sass> {
    let mut code: Vec<Sass> = Vec::new();
    let (mut ptx_line, mut label) = (None, String::new());
    for line in listing.lines().map(str::trim) {
        if let Some(place) = line.strip_prefix("//## File") {
            ptx_line = place.rsplit_once("line ").and_then(|(_, number)| number.trim().parse().ok());
        } else if let Some(name) = line.strip_suffix(':').filter(|name| name.starts_with(".L")) {
            label = format!("{name}: ");
        } else if let Some((address, text)) = instruction(line) {
            code.push(Sass { address, text: format!("{label}{text}"), ptx_line });
            label.clear();
        }
    }
    while code.last().is_some_and(|line| line.text == "NOP") {
        code.pop();
    }
    code
}

/// `/*0010*/   MOV R1, c[0x0][0x28] ;   /* encoding */`
fn instruction(line: &str) -> Option<(u32, String)> {
    let (address, text) = line.strip_prefix("/*")?.split_once("*/")?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let text = text.split("/*").next()?.trim().trim_end_matches(';').trim_end();
    (!text.is_empty()).then(|| (address, text.split_whitespace().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_gives_its_instructions_with_their_lines_of_ptx() {
        let listing = "\t.section\t.text.k,\"ax\",@progbits\n\t//## File \".nv_debug_ptx_txt\", line 22\n\
                       \x20       /*0000*/                   S2R R0, SR_TID.X ;\n.L_x_1:\n\
                       \t//## File \".nv_debug_ptx_txt\", line 30\n\
                       \x20       /*0010*/              @!P0 BRA `(.L_x_1) ;   /* 0x000fe2 */\n\
                       \x20                                              /* 0x000fe200078e00ff */\n\
                       \x20       /*0020*/                   NOP;\n";
        let line = |address, text: &str, line| Sass { address, text: text.to_owned(), ptx_line: Some(line) };
        let expected = [line(0, "S2R R0, SR_TID.X", 22), line(16, ".L_x_1: @!P0 BRA `(.L_x_1)", 30)];
        assert_eq!(read_listing(listing), expected);
    }
}
