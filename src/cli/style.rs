//! Colours for people. None when the stream is no terminal, when `NO_COLOR` is set (<https://no-color.org>), or when the
//! terminal is `dumb`; `CLICOLOR_FORCE` asks for them in a pipe, which `NO_COLOR` overrules.

use std::env;
use std::io::{self, IsTerminal};

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A heading.
    Bold,
    /// What may be skipped.
    Dim,
    /// What is there, and what works.
    Good,
    /// What is missing, without harm.
    Weak,
    /// What failed.
    Bad,
    /// A name to type, or a command.
    Name,
}

impl Style {
    /// The parameters of its escape sequence (ECMA-48, SGR).
    fn code(self) -> &'static str {
        match self {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Weak => "33",
            Style::Bad => "1;31",
            Style::Name => "36",
        }
    }
}

/// Whether a stream gets colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    colours: bool,
}

impl Palette {
    /// For results.
    pub fn stdout() -> Palette {
        Palette::of(&io::stdout())
    }

    /// For notes and errors.
    pub fn stderr() -> Palette {
        Palette::of(&io::stderr())
    }

    fn of(stream: &impl IsTerminal) -> Palette {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let forced = set("CLICOLOR_FORCE") && env::var_os("CLICOLOR_FORCE").is_some_and(|v| v != "0");
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Palette { colours: !set("NO_COLOR") && (forced || stream.is_terminal() && !dumb) }
    }

    /// `text` in `style`; as it is where there are no colours.
    pub fn paint(self, style: Style, text: &str) -> String {
        match self.colours && !text.is_empty() {
            true => format!("\x1b[{}m{text}\x1b[0m", style.code()),
            false => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paint_wraps_text_or_leaves_it() {
        let (plain, painted) = (Palette { colours: false }, Palette { colours: true });
        assert_eq!(plain.paint(Style::Bad, "no"), "no");
        assert_eq!(painted.paint(Style::Good, "yes"), "\x1b[32myes\x1b[0m");
        assert_eq!(painted.paint(Style::Dim, ""), "");
    }
}
