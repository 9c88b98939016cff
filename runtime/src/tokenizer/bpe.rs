//! Byte-level byte-pair encoding (`gpt2`): a word starts as its bytes, and the adjacent pair with the lowest merge rank,
//! leftmost first, is joined until no pair has a rank. Pairs wait in a heap and symbols form a linked list, so a word of
//! n bytes costs n log n however long it is.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::bytes::ByteAlphabet;
use super::error::{TokenizerError, excerpt};
use super::split::{Pre, SUPPORTED};
use super::vocab::{Lexicon, Vocab};

/// Marks a byte without a token, and a symbol that was joined to its left neighbour. No merge has it as a part.
const NO_TOKEN: u32 = u32::MAX;
/// Marks the end of the list of symbols.
const END: u32 = u32::MAX;

/// A merge: its place in the list of merges and the token that it makes.
#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    made: u32,
}

/// The byte-pair encoder of one vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Bpe {
    pre: Pre,
    alphabet: ByteAlphabet,
    byte_ids: Box<[u32; 256]>,
    merges: HashMap<(u32, u32), Merge>,
}

/// A symbol of the word in work.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
    /// The byte that it began as, for the report when it has no token.
    byte: u8,
}

/// A pair that may be joined: the lowest rank first, then the leftmost. The ids tell whether it is still what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: u32,
    right: u32,
    left_id: u32,
    right_id: u32,
    made: u32,
}

/// Buffers that are used again for each word of a text.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Reverse<Pair>>,
}

impl Bpe {
    /// Resolves the merges of `vocab` to token ids. Errors on an unknown pre-tokenizer and on a merge that does not
    /// parse, or whose parts or result are not tokens, or that would make a control token.
    pub(super) fn new(vocab: &Vocab, lexicon: &Lexicon) -> Result<Self, TokenizerError> {
        let pre = Pre::from_name(&vocab.pre).ok_or_else(|| TokenizerError::UnsupportedPre {
            found: excerpt(&vocab.pre),
            supported: SUPPORTED,
        })?;
        let Some(list) = &vocab.merges else {
            return Err(TokenizerError::MissingArray { array: "merges", model: "gpt2" });
        };
        let mut merges = HashMap::with_capacity(list.len());
        for (index, text) in list.iter().enumerate() {
            let (pair, made) = resolve_merge(lexicon, index, text)?;
            let rank = u32::try_from(index).unwrap_or(u32::MAX);
            // A pair that is listed twice keeps its first rank.
            merges.entry(pair).or_insert(Merge { rank, made });
        }
        let alphabet = ByteAlphabet::new();
        let byte_ids = Box::new(std::array::from_fn(|byte| {
            let c = alphabet.char(byte as u8);
            lexicon.find_from_text(c.encode_utf8(&mut [0; 4])).unwrap_or(NO_TOKEN)
        }));
        Ok(Self { pre, alphabet, byte_ids, merges })
    }

    /// Appends the tokens of `text`, which has no special tokens in it.
    pub(super) fn encode(
        &self,
        lexicon: &Lexicon,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let mut scratch = Scratch::default();
        self.pre.split(text, |word| {
            if self.pre.takes_whole_words()
                && let Some(id) = lexicon.find_from_text(&self.alphabet.write(word.as_bytes()))
            {
                out.push(id);
                return Ok(());
            }
            self.encode_word(lexicon, word.as_bytes(), &mut scratch, out)
        })
    }

    /// The alphabet that the token texts are written in.
    pub(super) fn alphabet(&self) -> &ByteAlphabet {
        &self.alphabet
    }

    fn encode_word(
        &self,
        lexicon: &Lexicon,
        word: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let Scratch { symbols, pairs } = scratch;
        symbols.clear();
        // `Tokenizer::encode` bounds a text well below u32.
        symbols.extend((0u32..).zip(word).map(|(at, byte)| Symbol {
            id: self.byte_ids[usize::from(*byte)],
            prev: if at == 0 { END } else { at - 1 },
            next: if at as usize + 1 == word.len() { END } else { at + 1 },
            byte: *byte,
        }));
        pairs.clear();
        pairs.extend(
            (1..symbols.len() as u32).filter_map(|right| self.pair(symbols, right - 1, right)).map(Reverse),
        );
        while let Some(Reverse(pair)) = pairs.pop() {
            if !join(symbols, &pair) {
                continue;
            }
            let joined = symbols[pair.left as usize];
            pairs.extend(self.pair(symbols, joined.prev, pair.left).map(Reverse));
            pairs.extend(self.pair(symbols, pair.left, joined.next).map(Reverse));
        }
        let mut at = 0;
        while let Some(symbol) = symbols.get(at as usize) {
            let known = if symbol.id == NO_TOKEN { lexicon.unk } else { Some(symbol.id) };
            out.push(known.ok_or(TokenizerError::NoTokenForByte { byte: symbol.byte })?);
            at = symbol.next;
        }
        Ok(())
    }

    /// The pair of the symbols at `left` and `right` if a merge joins them.
    fn pair(&self, symbols: &[Symbol], left: u32, right: u32) -> Option<Pair> {
        let left_id = symbols.get(left as usize)?.id;
        let right_id = symbols.get(right as usize)?.id;
        let merge = self.merges.get(&(left_id, right_id))?;
        Some(Pair { rank: merge.rank, left, right, left_id, right_id, made: merge.made })
    }
}

/// Joins a pair unless one of its symbols has changed since it was noted. A join gives its left symbol another id and
/// its right one none, so unchanged ids mean that the two still are neighbours.
fn join(symbols: &mut [Symbol], pair: &Pair) -> bool {
    let (left, right) = (symbols[pair.left as usize], symbols[pair.right as usize]);
    if left.id != pair.left_id || right.id != pair.right_id {
        return false;
    }
    symbols[pair.left as usize].id = pair.made;
    symbols[pair.left as usize].next = right.next;
    symbols[pair.right as usize].id = NO_TOKEN;
    if let Some(after) = symbols.get_mut(right.next as usize) {
        after.prev = pair.left;
    }
    true
}

/// The token ids of the two parts and the result of one merge.
fn resolve_merge(lexicon: &Lexicon, index: usize, text: &str) -> Result<((u32, u32), u32), TokenizerError> {
    let parts = text
        .split_once(' ')
        .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
    let Some((left, right)) = parts else {
        return Err(TokenizerError::BadMerge { index, text: excerpt(text) });
    };
    let id = |part: &str| {
        lexicon.find(part).ok_or_else(|| TokenizerError::MergeOutsideVocab { index, text: excerpt(part) })
    };
    let made = id(&[left, right].concat())?;
    if !lexicon.kind(made).is_some_and(|kind| kind.comes_from_text()) {
        return Err(TokenizerError::MergeMakesControl { index, id: made });
    }
    Ok(((id(left)?, id(right)?), made))
}
