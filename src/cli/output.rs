//! Where text goes: results to stdout, notes to stderr. A reader that closed the pipe ends the program quietly.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;

use super::next_step;
use super::style::{Palette, Style};

/// Standard output, for results only.
pub struct Output {
    stdout: io::BufWriter<io::Stdout>,
}

impl Output {
    /// Standard output, buffered here.
    pub fn new() -> Self {
        Self { stdout: io::BufWriter::new(io::stdout()) }
    }

    /// Writes `text` and a line end.
    pub fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.stdout, "{text}")?;
        Ok(())
    }

    /// Writes `text` as it is and shows it at once.
    pub fn stream(&mut self, text: &str) -> Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.flush()?;
        Ok(())
    }

    /// Writes one JSON value on one line.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(&text)
    }

    /// Hands everything to the system, which is where a closed pipe shows.
    pub fn finish(mut self) -> Result<()> {
        self.stdout.flush()?;
        Ok(())
    }
}

/// Tells the user something on stderr. A closed stderr is no reason to stop.
pub fn note(text: &str) {
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// Tells why the program ends, and what to do about it where that is known, in one line.
pub fn error(error: &anyhow::Error) {
    let step = next_step::of(error).map(|step| format!("; {step}")).unwrap_or_default();
    note(&format!("{} {}{step}", Palette::stderr().paint(Style::Bad, "error:"), one_line(error)));
}

/// Whether `error` only says that nobody reads our output any more.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// An error with its causes on one line. A cause that the text before it already tells is left out.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn causes_stand_behind_each_other_once() {
        let error = anyhow!("no such\nfile").context("cannot read x").context("outer");
        assert_eq!(one_line(&error), "outer: cannot read x: no such file");
        let repeated = anyhow!("inner").context("outer: inner");
        assert_eq!(one_line(&repeated), "outer: inner");
    }

    #[test]
    fn only_a_closed_pipe_is_quiet() {
        let of = |kind: io::ErrorKind| anyhow::Error::from(io::Error::from(kind)).context("writing");
        assert!(is_broken_pipe(&of(io::ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&of(io::ErrorKind::NotFound)));
    }
}
