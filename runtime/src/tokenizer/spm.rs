//! SentencePiece byte-pair encoding (`llama`): a text starts as its characters, with U+2581 for each space, and the
//! adjacent pair whose joined text is the token with the highest score, leftmost on ties, is joined until no pair makes
//! a token. What is no token at the end is written as byte tokens. Pairs wait in a heap and token lengths are bounded,
//! so a text of n characters costs n log n.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::error::{TokenizerError, excerpt};
use super::vocab::{Lexicon, MAX_TOKEN_BYTES, Vocab};

/// The character that stands for a space.
pub(super) const SPACE_MARK: char = '\u{2581}';
/// Marks the end of the list of symbols.
const END: u32 = u32::MAX;

/// The encoder of one vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Spm {
    /// Score of each token; finite, and no negative zero, so that equal scores compare equal.
    scores: Vec<f32>,
    space_prefix: bool,
    /// Longest token in bytes: a longer pair needs no look-up.
    longest: usize,
}

/// A symbol of the text in work: `len` bytes from `start`. A length of zero marks one joined to its left neighbour.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

/// A pair that may be joined. The greatest is joined first: highest score, then leftmost.
#[derive(Debug, Clone, Copy)]
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    /// Length of both together when the pair was noted; another length means that one of them has changed.
    len: u32,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = |pair: &Self| (pair.left, pair.right, pair.len);
        self.score.total_cmp(&other.score).then_with(|| rest(other).cmp(&rest(self)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl Spm {
    /// Takes the scores of `vocab`, which `Lexicon::new` has checked. Errors when there are none.
    pub(super) fn new(vocab: &Vocab, lexicon: &Lexicon) -> Result<Self, TokenizerError> {
        let Some(scores) = &vocab.scores else {
            return Err(TokenizerError::MissingArray { array: "scores", model: "llama" });
        };
        // Adding zero turns a negative zero into a positive one.
        let scores = scores.iter().map(|score| score + 0.0).collect();
        let longest = lexicon.texts.iter().map(str::len).max().unwrap_or(0).min(MAX_TOKEN_BYTES);
        Ok(Self { scores, space_prefix: vocab.add_space_prefix, longest })
    }

    /// Whether a space goes before a text that follows nothing or a special token.
    pub(super) fn has_space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the tokens of `text`, which has no special tokens in it. `lead` comes before it: a space or nothing.
    pub(super) fn encode(
        &self,
        lexicon: &Lexicon,
        (lead, text): (&str, &str),
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let escaped: String =
            lead.chars().chain(text.chars()).map(|c| if c == ' ' { SPACE_MARK } else { c }).collect();
        let mut symbols = split_chars(&escaped);
        let mut pairs: BinaryHeap<Pair> = (1..symbols.len() as u32)
            .filter_map(|right| {
                self.pair(
                    lexicon,
                    &escaped,
                    (symbols[right as usize - 1], symbols[right as usize]),
                    right - 1,
                )
            })
            .collect();
        while let Some(pair) = pairs.pop() {
            if !join(&mut symbols, &pair) {
                continue;
            }
            let joined = symbols[pair.left as usize];
            for (left, right) in [(joined.prev, pair.left), (pair.left, joined.next)] {
                if let (Some(first), Some(second)) = (symbols.get(left as usize), symbols.get(right as usize))
                {
                    let noted = self.pair(lexicon, &escaped, (*first, *second), left);
                    pairs.extend(noted);
                }
            }
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            write_symbol(lexicon, symbol.text(&escaped), out)?;
            at = symbol.next;
        }
        Ok(())
    }

    /// The pair of two neighbours, the first at index `left`, if their joined text is a token.
    fn pair(
        &self,
        lexicon: &Lexicon,
        text: &str,
        (first, second): (Symbol, Symbol),
        left: u32,
    ) -> Option<Pair> {
        let len = first.len + second.len;
        if len as usize > self.longest {
            return None;
        }
        let joined = text.get(first.start as usize..(first.start + len) as usize)?;
        let id = lexicon.find_from_text(joined)?;
        let score = *self.scores.get(id as usize)?;
        Some(Pair { score, left, right: first.next, len })
    }
}

impl Symbol {
    fn text(self, whole: &str) -> &str {
        whole.get(self.start as usize..(self.start + self.len) as usize).unwrap_or("")
    }
}

/// One symbol a character.
fn split_chars(text: &str) -> Vec<Symbol> {
    let n_chars = text.chars().count() as u32;
    let at = |index: u32| if index < n_chars { index } else { END };
    (0u32..)
        .zip(text.char_indices())
        .map(|(index, (start, c))| Symbol {
            start: start as u32,
            len: c.len_utf8() as u32,
            prev: index.checked_sub(1).unwrap_or(END),
            next: at(index + 1),
        })
        .collect()
}

/// Joins a pair unless one of its symbols has changed since it was noted.
fn join(symbols: &mut [Symbol], pair: &Pair) -> bool {
    let (left, right) = (symbols[pair.left as usize], symbols[pair.right as usize]);
    if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
        return false;
    }
    symbols[pair.left as usize].len = pair.len;
    symbols[pair.left as usize].next = right.next;
    symbols[pair.right as usize].len = 0;
    if let Some(after) = symbols.get_mut(right.next as usize) {
        after.prev = pair.left;
    }
    true
}

/// The token of a symbol, else its bytes as byte tokens, else the unknown token.
fn write_symbol(lexicon: &Lexicon, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
    if let Some(id) = lexicon.find_from_text(text) {
        out.push(id);
    } else if let Some(byte_tokens) = &lexicon.byte_tokens {
        out.extend(text.bytes().map(|byte| byte_tokens[usize::from(byte)]));
    } else {
        out.push(lexicon.unk.ok_or_else(|| TokenizerError::NoTokenForText { text: excerpt(text) })?);
    }
    Ok(())
}
