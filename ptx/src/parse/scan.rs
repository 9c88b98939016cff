//! Words and marks of PTX text, with their places for messages.

use super::ParseError;
use crate::types::Ty;

/// A reader of text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    /// Byte offset of what is read next.
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Where the next word starts, for [`Scanner::error_at`].
    pub(super) fn place(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.rest().is_empty()
    }

    /// The comment that starts here, without `//` and one space.
    pub(super) fn comment(&mut self) -> Option<String> {
        self.skip_space();
        let line = self.rest().lines().next()?;
        let text = line.strip_prefix("//")?;
        self.at += line.len();
        Some(text.trim().to_owned())
    }

    pub(super) fn comments(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.comment()).collect()
    }

    /// The next word: letters, digits, `_ . $ %` and the `::` of `L1::evict_last`. Empty before anything else.
    pub(super) fn word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let mut end = 0;
        while let Some(c) = rest[end..].chars().next() {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '%') {
                end += 1;
            } else if rest[end..].starts_with("::") {
                end += 2;
            } else {
                break;
            }
        }
        self.at += end;
        &rest[..end]
    }

    /// Whether the next word or mark is `wanted`; reads it if so.
    pub(super) fn accept(&mut self, wanted: &str) -> bool {
        self.skip_space();
        let before = self.at;
        if self.word() == wanted {
            return true;
        }
        self.at = before;
        let mark = wanted.chars().all(|c| c.is_ascii_punctuation()) && self.rest().starts_with(wanted);
        if mark {
            self.at += wanted.len();
        }
        mark
    }

    pub(super) fn expect(&mut self, wanted: &str) -> Result<(), ParseError> {
        let start = self.place();
        if self.accept(wanted) { Ok(()) } else { Err(self.error_at(start, &format!("`{wanted}`"))) }
    }

    /// A decimal number.
    pub(super) fn number(&mut self, what: &str) -> Result<u32, ParseError> {
        let start = self.place();
        self.word().parse().map_err(|_| self.error_at(start, what))
    }

    /// A name without marks.
    pub(super) fn identifier(&mut self) -> Result<String, ParseError> {
        let start = self.place();
        let word = self.word();
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if plain { Ok(word.to_owned()) } else { Err(self.error_at(start, "a name")) }
    }

    /// A type with its dot.
    pub(super) fn ty(&mut self) -> Result<Ty, ParseError> {
        let start = self.place();
        let found = self.word().strip_prefix('.').and_then(ty_named);
        found.ok_or_else(|| self.error_at(start, "a type such as .u32"))
    }

    /// An error at a place: the line there, and the word or mark that stands there.
    pub(super) fn error_at(&self, place: usize, expected: &str) -> ParseError {
        let before = &self.text[..place];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let text = self.text[line_start..].lines().next().unwrap_or("").trim().to_owned();
        let mut there = Scanner { text: self.text, at: place };
        let word = there.word();
        let found = match self.text[place..].chars().next() {
            None => "the end of the text".to_owned(),
            Some(c) if word.is_empty() => c.to_string(),
            Some(_) => word.to_owned(),
        };
        ParseError {
            line: before.matches('\n').count() + 1,
            column: self.text[line_start..place].chars().count() + 1,
            text,
            expected: expected.to_owned(),
            found,
        }
    }
}

/// The type of that spelling, without the dot.
pub(super) fn ty_named(name: &str) -> Option<Ty> {
    Ty::ALL.iter().copied().find(|ty| ty.text() == name)
}
