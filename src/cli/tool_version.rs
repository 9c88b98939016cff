//! The version that a tool of NVIDIA tells about itself.

use std::path::Path;
use std::process::Command;

/// `13.0.88` out of `… release 13.0, V13.0.88`; `None` when the program does not run or says something else.
pub fn version_of(tool: &Path) -> Option<String> {
    let output = Command::new(tool).arg("--version").output().ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(words: &str) -> Option<String> {
    let (_, version) = words.split_once(", V")?;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let version = version[..end].trim_end_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_version_is_found() {
        let words = "Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler";
        assert_eq!(parse(words).as_deref(), Some("13.0.88"));
        assert_eq!(parse("no version here"), None);
        assert_eq!(parse("x, Very new"), None);
    }
}
