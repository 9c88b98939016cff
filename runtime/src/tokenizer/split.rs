//! Pre-tokenizers: how a text is cut into words before byte-pair merging. Each is the hand-written equal of the regular
//! expression that its family of models was trained with, in one forward pass; a regex engine would need look-ahead.
//!
//! | family | expression |
//! |---|---|
//! | `qwen2` | `(?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d)\|[^\r\n\p{L}\p{N}]?\p{L}+\|\p{N}\| ?[^\s\p{L}\p{N}]+[\r\n]*\|\s*[\r\n]+\|\s+(?!\S)\|\s+` |
//! | `llama3` | the same with `\p{N}{1,3}` |
//! | `gpt2` | `'s\|'t\|'re\|'ve\|'m\|'ll\|'d\| ?\p{L}+\| ?\p{N}+\| ?[^\s\p{L}\p{N}]+\|\s+(?!\S)\|\s+` |
//! | `digits` | every `\p{N}` alone, then `gpt2` |
//! | `default` | `[\p{P}$+<=>^~\|]+` apart, then `gpt2`, then digits in threes |
//!
//! The names that select a family are those of `tokenizer.ggml.pre` in GGUF files.

use std::ops::Range;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// A family of pre-tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pre {
    /// One digit a word; contractions in any case; trailing newlines stay with punctuation.
    Qwen2,
    /// As `Qwen2` with digits in groups of up to three, and whole words of the vocabulary taken without merging.
    Llama3,
    /// As `Llama3`, but every word is merged.
    Smaug,
    /// The original GPT-2 expression.
    Gpt2,
    /// GPT-2 with every digit alone.
    Digits,
    /// What a file without a known pre-tokenizer gets.
    Default,
}

/// The families, for error messages.
pub(super) const SUPPORTED: &str = "qwen2, llama-bpe, smaug-bpe, gpt-2, starcoder, default and their aliases";

impl Pre {
    /// The family that a `tokenizer.ggml.pre` value selects, or nothing for an unknown one.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
            | "solar-open" | "grok-2" => Self::Qwen2,
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "jina-v5-nano" => Self::Llama3,
            "smaug-bpe" | "smaug" | "dbrx" | "chatglm-bpe" | "glm4" => Self::Smaug,
            "gpt-2" | "gpt2" | "phi-2" | "gigachat" | "mpt" | "olmo" | "jais" | "trillion" | "exaone4"
            | "mellum" | "a.x-4.0" | "granite-docling" => Self::Gpt2,
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" | "minerva-7b"
            | "mellum2" => Self::Digits,
            "default" | "" => Self::Default,
            _ => return None,
        })
    }

    /// Whether a word that is a token as a whole is taken at once, without looking at merges.
    pub(super) fn takes_whole_words(self) -> bool {
        self == Self::Llama3
    }

    /// Whether a text starts with the begin token when the vocabulary does not say.
    pub fn adds_bos_by_default(self) -> bool {
        self == Self::Llama3
    }

    /// Calls `word` with each word of `text`, in order; together they are the text. Errors of `word` end the walk.
    pub(super) fn split<E>(self, text: &str, mut word: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        match self {
            Self::Qwen2 => cut(text, |rest| modern_word(rest, 1), &mut word),
            Self::Llama3 | Self::Smaug => cut(text, |rest| modern_word(rest, 3), &mut word),
            Self::Gpt2 => cut(text, gpt2_word, &mut word),
            Self::Digits => cut(text, single_number, &mut |part| cut(part, gpt2_word, &mut word)),
            Self::Default => cut(text, symbol_run, &mut |part| {
                cut(part, gpt2_word, &mut |part| {
                    cut(part, number_run, &mut |part| cut(part, digit_triple, &mut word))
                })
            }),
        }
    }
}

/// Cuts `text` into the pieces whose byte lengths `piece` gives; a piece has at least one character.
fn cut<E>(
    text: &str,
    piece: impl Fn(&str) -> usize,
    word: &mut impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = piece(rest).max(first.len_utf8());
        // Pieces end between characters; the whole rest is the safe reading should one not.
        let (head, tail) = rest.split_at_checked(len).unwrap_or((rest, ""));
        word(head)?;
        rest = tail;
    }
    Ok(())
}

/// What the expressions distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            // `\s` has the vertical tab, unlike `char::is_ascii_whitespace`.
            '\t'..='\r' | ' ' => Class::Space,
            _ => Class::Other,
        };
    }
    if c.is_whitespace() {
        return Class::Space;
    }
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ => Class::Other,
    }
}

/// Bytes of the longest prefix of `text` whose characters satisfy `holds`.
fn run(text: &str, holds: impl Fn(char) -> bool) -> usize {
    text.find(|c| !holds(c)).unwrap_or(text.len())
}

fn class_run(text: &str, wanted: Class) -> usize {
    run(text, |c| class(c) == wanted)
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// `text` without its first `skip` bytes.
fn after(text: &str, skip: usize) -> &str {
    text.get(skip..).unwrap_or("")
}

/// Length of a contraction at the start of `text` after `fold` is applied to each byte, zero when there is none.
fn contraction(text: &str, fold: impl Fn(u8) -> u8) -> usize {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'\'') {
        return 0;
    }
    match (bytes.get(1).copied().map(&fold), bytes.get(2).copied().map(&fold)) {
        (Some(b's' | b't' | b'm' | b'd'), _) => 2,
        (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => 3,
        _ => 0,
    }
}

/// Length of the first word under the `qwen2` (`max_digits` 1) and `llama3` (3) expressions.
fn modern_word(text: &str, max_digits: usize) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let first_len = first.len_utf8();
    let rest = after(text, first_len);
    let contracted = contraction(text, |byte| byte.to_ascii_lowercase());
    if contracted > 0 {
        return contracted;
    }
    match class(first) {
        Class::Letter => class_run(text, Class::Letter),
        Class::Number => {
            text.chars().take(max_digits).take_while(|c| class(*c) == Class::Number).map(char::len_utf8).sum()
        }
        kind => {
            let letters = class_run(rest, Class::Letter);
            if letters > 0 && !is_newline(first) {
                return first_len + letters;
            }
            let lead = if first == ' ' { first_len } else { 0 };
            let others = class_run(after(text, lead), Class::Other);
            if others > 0 {
                return lead + others + run(after(text, lead + others), is_newline);
            }
            debug_assert!(kind == Class::Space);
            space_word(text, Newlines::EndTheWord)
        }
    }
}

/// Length of the first word under the GPT-2 expression.
fn gpt2_word(text: &str) -> usize {
    let contracted = contraction(text, |byte| byte);
    if contracted > 0 {
        return contracted;
    }
    let lead = usize::from(text.starts_with(' '));
    if let Some(first) = after(text, lead).chars().next() {
        let kind = class(first);
        if kind != Class::Space {
            return lead + class_run(after(text, lead), kind);
        }
    }
    space_word(text, Newlines::AreSpaces)
}

/// Whether newlines within white space end a word (`\s*[\r\n]+`) or are like any other white space.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newlines {
    EndTheWord,
    AreSpaces,
}

/// Length of the first word of a text that starts with white space: up to its last newline if that counts, else all of
/// it at the end of the text, else all but the last character, which goes with the word that follows.
fn space_word(text: &str, newlines: Newlines) -> usize {
    let len = class_run(text, Class::Space);
    let spaces = text.get(..len).unwrap_or("");
    if newlines == Newlines::EndTheWord
        && let Some(last) = spaces.rfind(is_newline)
    {
        return last + 1;
    }
    let last_len = spaces.chars().next_back().map_or(0, char::len_utf8);
    if len == text.len() || len == last_len { len } else { len - last_len }
}

/// One number character, or the run of others: `\p{N}`.
fn single_number(text: &str) -> usize {
    match text.chars().next() {
        Some(first) if class(first) == Class::Number => first.len_utf8(),
        _ => run(text, |c| class(c) != Class::Number),
    }
}

/// A run of numbers, or the run of others: `\p{N}+`.
fn number_run(text: &str) -> usize {
    alternate(text, |c| class(c) == Class::Number)
}

/// A run of punctuation, or the run of others: `[\p{P}$+<=>^~|]+`.
fn symbol_run(text: &str) -> usize {
    alternate(text, |c| {
        matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
            || c.general_category_group() == GeneralCategoryGroup::Punctuation
    })
}

fn alternate(text: &str, holds: impl Fn(char) -> bool) -> usize {
    let starts = text.chars().next().is_some_and(&holds);
    run(text, |c| holds(c) == starts)
}

/// Three ASCII digits, or the run before the first place where three stand: `[0-9][0-9][0-9]`.
fn digit_triple(text: &str) -> usize {
    let bytes = text.as_bytes();
    let at = bytes.windows(3).position(|three| three.iter().all(u8::is_ascii_digit));
    match at {
        Some(0) => 3,
        Some(start) => start,
        None => bytes.len(),
    }
}

/// The words of `text` as ranges of bytes, for callers that show how a text is cut.
pub fn word_ranges(pre: Pre, text: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let walked = pre.split(text, |word| {
        let start = ranges.last().map_or(0, |range| range.end);
        ranges.push(start..start + word.len());
        Ok::<(), std::convert::Infallible>(())
    });
    match walked {
        Ok(()) => ranges,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pre: Pre, text: &str) -> Vec<&str> {
        word_ranges(pre, text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn qwen2_follows_each_alternative_of_its_expression() {
        let cases: &[(&str, &[&str])] = &[
            ("Hello world", &["Hello", " world"]),
            ("I'LL we'Re don'T 'x", &["I", "'LL", " we", "'Re", " don", "'T", " '", "x"]),
            ("x'é", &["x", "'é"]),
            ("a12 34", &["a", "1", "2", " ", "3", "4"]),
            ("a  b", &["a", " ", " b"]),
            ("a   ", &["a", "   "]),
            ("a \n\n  b", &["a", " \n\n", " ", " b"]),
            ("a\tb\t\tc", &["a", "\tb", "\t", "\tc"]),
            ("x!!\n\ny", &["x", "!!\n\n", "y"]),
            (" ?!  ", &[" ?!", "  "]),
            ("\r\nx", &["\r\n", "x"]),
            ("\nx\rx", &["\n", "x", "\r", "x"]),
            ("\t!! !", &["\t", "!!", " !"]),
            ("\u{b}!", &["\u{b}", "!"]),
            ("we'LLx'Sx", &["we", "'LL", "x", "'S", "x"]),
            ("\u{a0}\u{3000}世界", &["\u{a0}", "\u{3000}世界"]),
            ("e\u{301}a", &["e", "\u{301}a"]),
            ("🙂🙂 ½", &["🙂🙂", " ", "½"]),
            ("\u{b} a", &["\u{b}", " a"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(&words(Pre::Qwen2, text), expected, "{text:?}");
        }
    }

    #[test]
    fn llama3_groups_up_to_three_digits() {
        assert_eq!(words(Pre::Llama3, "1234567 89"), ["123", "456", "7", " ", "89"]);
        assert_eq!(words(Pre::Smaug, "x1234"), ["x", "123", "4"]);
    }

    #[test]
    fn gpt2_keeps_numbers_whole_and_newlines_as_spaces() {
        assert_eq!(words(Pre::Gpt2, "a 1234 'S's"), ["a", " 1234", " '", "S", "'s"]);
        assert_eq!(words(Pre::Gpt2, "x!\n\n y"), ["x", "!", "\n\n", " y"]);
        assert_eq!(words(Pre::Gpt2, "\tb \n"), ["\t", "b", " \n"]);
    }

    #[test]
    fn the_other_families_cut_digits_and_symbols_further() {
        assert_eq!(words(Pre::Digits, "ab 123 c"), ["ab", " ", "1", "2", "3", " c"]);
        assert_eq!(words(Pre::Default, "a 12345==b"), ["a", " ", "123", "45", "==", "b"]);
    }

    #[test]
    fn words_make_up_the_text_for_any_characters() {
        let alphabet: Vec<char> = "a'sSLl \t\n\r1٣½é\u{301}世🙂!|<\u{a0}\u{2003}\u{200d}ſ".chars().collect();
        let mut state = 1u64;
        for _ in 0..2000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            for pre in [Pre::Qwen2, Pre::Llama3, Pre::Gpt2, Pre::Digits, Pre::Default] {
                assert_eq!(words(pre, &text).concat(), text, "{pre:?}");
            }
        }
    }

    #[test]
    fn unknown_names_select_nothing() {
        assert_eq!(Pre::from_name("qwen2"), Some(Pre::Qwen2));
        assert_eq!(Pre::from_name("tekken"), None);
    }
}
