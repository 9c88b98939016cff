//! `kernels.lock`: one line a kernel with what must not change unseen. Registers and spills come from ptxas and are
//! carried over for kernels whose text did not change; `-` says that no ptxas has seen this text yet.

use super::Heading;
use plan::Table;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// A line of the lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockLine {
    /// Kernel symbol.
    pub entry: String,
    /// Registers a thread, if ptxas has seen this text.
    pub registers: Option<u32>,
    /// Bytes of spill stores and loads, likewise.
    pub spill_bytes: Option<u32>,
    /// Static shared memory of a CTA, bytes.
    pub shared_bytes: u32,
    /// SHA-256 of the PTX text, hexadecimal.
    pub sha256: String,
}

impl LockLine {
    fn print(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "-".into(), |n| n.to_string());
        let LockLine { entry, shared_bytes, sha256, .. } = self;
        format!("{entry} {} {} {shared_bytes} {sha256}", number(self.registers), number(self.spill_bytes))
    }
}

/// SHA-256 of a text, hexadecimal.
pub fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The lines of a lock file; lines that do not parse are left out.
pub fn parse_lock(text: &str) -> Vec<LockLine> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [entry, registers, spills, shared, sha256] = words.as_slice() else { return None };
        Some(LockLine {
            entry: (*entry).into(),
            registers: registers.parse().ok(),
            spill_bytes: spills.parse().ok(),
            shared_bytes: shared.parse().ok()?,
            sha256: (*sha256).into(),
        })
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(line).collect()
}

/// The lock file's text from its lines.
pub fn print_lock(heading: &Heading, lines: &[LockLine]) -> String {
    let mut text = heading.lines().iter().map(|l| format!("# {l}\n")).collect::<String>();
    text.push_str("# entry registers spill_bytes shared_bytes sha256\n");
    for line in lines {
        text.push_str(&line.print());
        text.push('\n');
    }
    text
}

/// The lock lines of a table, with registers and spills unknown.
pub fn lock_lines(table: &Table) -> Vec<LockLine> {
    let mut lines: Vec<LockLine> = table
        .kernels
        .iter()
        .map(|k| LockLine {
            entry: k.entry.to_string(),
            registers: None,
            spill_bytes: None,
            shared_bytes: k.shared_bytes,
            sha256: sha256_hex(&k.ptx),
        })
        .collect();
    lines.sort_by(|a, b| a.entry.cmp(&b.entry));
    lines
}

/// Registers and spills of `old` for the kernels of `lines` whose text is the same.
pub fn carry_over(lines: &mut [LockLine], old: &[LockLine]) {
    for line in lines {
        if let Some(same) = old.iter().find(|o| o.entry == line.entry && o.sha256 == line.sha256) {
            line.registers = same.registers;
            line.spill_bytes = same.spill_bytes;
        }
    }
}

pub(super) fn print(table: &Table, heading: &Heading) -> String {
    print_lock(heading, &lock_lines(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(registers: Option<u32>, sha256: &str) -> LockLine {
        LockLine {
            entry: "k_1".into(),
            registers,
            spill_bytes: registers,
            shared_bytes: 16,
            sha256: sha256.into(),
        }
    }

    #[test]
    fn lines_read_back() {
        let lines = [line(Some(40), "ab"), line(None, "cd")];
        let heading = Heading { spec: "tiny".into(), sm: 90, hash: "0".into() };
        assert_eq!(parse_lock(&print_lock(&heading, &lines)), lines);
    }

    #[test]
    fn registers_survive_only_equal_text() {
        let mut lines = [line(None, "ab")];
        carry_over(&mut lines, &[line(Some(40), "cd")]);
        assert_eq!(lines[0].registers, None);
        carry_over(&mut lines, &[line(Some(40), "ab")]);
        assert_eq!(lines[0].registers, Some(40));
    }

    #[test]
    fn sha256_of_a_known_text() {
        assert_eq!(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
