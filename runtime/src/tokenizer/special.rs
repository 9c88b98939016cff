//! Finds special tokens in a text before it is tokenized. The longest token of the whole text is placed first, then the
//! next longest, and so on; among equally long ones the lower id, then the leftmost place. That is the order in which
//! llama.cpp partitions a text, and it differs from scanning left to right when tokens overlap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Longest special token that is accepted, in bytes. It bounds the work for each place of the text; the longest known
/// special tokens have some 60 bytes.
pub(super) const MAX_SPECIAL_BYTES: usize = 256;

/// One part of a partitioned text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Ordinary text: a range of bytes.
    Text(Range<usize>),
    /// A special token.
    Token(u32),
}

/// The special tokens of a vocabulary, sorted by text so that all with a common prefix stand together.
#[derive(Debug, Clone, Default)]
pub(super) struct SpecialMatcher {
    sorted: Vec<(Box<str>, u32)>,
    /// For each first byte the range of `sorted` that starts with it.
    by_first: Vec<Range<usize>>,
}

/// A place where a token matches. Ordered so that the greatest is placed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Match {
    len: usize,
    id: Reverse<u32>,
    start: Reverse<usize>,
}

impl SpecialMatcher {
    /// A matcher for the given tokens; empty texts match nothing.
    pub(super) fn new<'a>(tokens: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut sorted: Vec<(Box<str>, u32)> =
            tokens.filter(|(text, _)| !text.is_empty()).map(|(text, id)| (Box::from(text), id)).collect();
        sorted.sort();
        let starts_below = |byte: usize| {
            sorted.partition_point(|(text, _)| {
                text.bytes().next().is_some_and(|first| usize::from(first) < byte)
            })
        };
        let by_first = (0..256).map(|byte| starts_below(byte)..starts_below(byte + 1)).collect();
        Self { sorted, by_first }
    }

    /// Cuts `text` into special tokens and the ordinary text between them.
    pub(super) fn partition(&self, text: &str) -> Vec<Part> {
        let mut found = self.place(text.as_bytes());
        found.sort_by_key(|place| place.start.0);
        let mut parts = Vec::with_capacity(2 * found.len() + 1);
        let mut done = 0;
        for place in found {
            let start = place.start.0;
            if start > done {
                parts.push(Part::Text(done..start));
            }
            parts.push(Part::Token(place.id.0));
            done = start + place.len;
        }
        if done < text.len() {
            parts.push(Part::Text(done..text.len()));
        }
        parts
    }

    /// The matches that are placed, none overlapping another.
    fn place(&self, text: &[u8]) -> Vec<Match> {
        // Each place of the text waits with its longest match; when that is blocked, with its next shorter one.
        let mut waiting: BinaryHeap<Match> =
            (0..text.len()).filter_map(|start| self.longest_at(text, start, MAX_SPECIAL_BYTES)).collect();
        let mut placed = Vec::new();
        if waiting.is_empty() {
            return placed;
        }
        let mut covered = vec![false; text.len()];
        while let Some(next) = waiting.pop() {
            let start = next.start.0;
            let Some(wanted) = covered.get_mut(start..start + next.len) else { continue };
            match wanted.iter().position(|taken| *taken) {
                None => {
                    wanted.fill(true);
                    placed.push(next);
                }
                Some(free) => waiting.extend(self.longest_at(text, start, free)),
            }
        }
        placed
    }

    /// The longest token of at most `limit` bytes that matches at `start`.
    fn longest_at(&self, text: &[u8], start: usize, limit: usize) -> Option<Match> {
        let rest = text.get(start..)?;
        // The tokens that begin with the first `depth` bytes of `rest`.
        let mut candidates = self.sorted.get(self.by_first.get(usize::from(*rest.first()?))?.clone())?;
        let mut longest = None;
        for depth in 1..=limit {
            // The one that has no more than those bytes stands first.
            if let Some(((text, id), longer)) = candidates.split_first()
                && text.len() == depth
            {
                longest = Some(Match { len: depth, id: Reverse(*id), start: Reverse(start) });
                candidates = longer;
            }
            let Some(byte) = rest.get(depth) else { break };
            candidates = narrowed(candidates, depth, *byte);
            if candidates.is_empty() {
                break;
            }
        }
        longest
    }
}

/// Of sorted tokens that agree up to `depth`, those whose byte there is `byte`.
fn narrowed(sorted: &[(Box<str>, u32)], depth: usize, byte: u8) -> &[(Box<str>, u32)] {
    let byte_of = |(text, _): &(Box<str>, u32)| text.as_bytes().get(depth).copied();
    // Looking at both ends first makes runs of one character, where all agree, cost no search.
    if sorted.first().and_then(byte_of) == Some(byte) && sorted.last().and_then(byte_of) == Some(byte) {
        return sorted;
    }
    let low = sorted.partition_point(|entry| byte_of(entry) < Some(byte));
    let high = sorted.partition_point(|entry| byte_of(entry) <= Some(byte));
    sorted.get(low..high).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(tokens: &[&str], text: &str) -> Vec<String> {
        let matcher = SpecialMatcher::new(tokens.iter().enumerate().map(|(id, token)| (*token, id as u32)));
        matcher
            .partition(text)
            .into_iter()
            .map(|part| match part {
                Part::Text(range) => text[range].to_owned(),
                Part::Token(id) => format!("#{id}"),
            })
            .collect()
    }

    #[test]
    fn the_longest_token_of_the_text_is_placed_first() {
        assert_eq!(parts(&["abc", "bcde"], "abcde"), ["a", "#1"]);
        assert_eq!(parts(&["<s>", "<s>x"], "<s>x<s>y"), ["#1", "#0", "y"]);
    }

    #[test]
    fn a_blocked_place_falls_back_to_a_shorter_token() {
        assert_eq!(parts(&["ab", "abcd", "cdefg"], "abcdefg"), ["#0", "#2"]);
    }

    #[test]
    fn equal_lengths_go_by_id_then_from_the_left() {
        assert_eq!(parts(&["ba", "ab"], "abab"), ["a", "#0", "b"]);
        assert_eq!(parts(&["aa"], "aaaaa"), ["#0", "#0", "a"]);
    }

    #[test]
    fn multi_byte_neighbours_and_empty_tokens_are_left_alone() {
        assert_eq!(parts(&["", "<é>", "é"], "世<é>é<"), ["世", "#1", "#2", "<"]);
        assert_eq!(parts(&[], "abc"), ["abc"]);
        assert!(parts(&["a"], "").is_empty());
    }

    #[test]
    fn agrees_with_the_plain_definition_on_random_texts() {
        let tokens = ["a", "aa", "ab", "aba", "bab", "bb", "abba", "c"];
        let mut state = 7u64;
        for _ in 0..3000 {
            let text: String = (0..14)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    ['a', 'b', 'x', 'c'][(state >> 33) as usize % 4]
                })
                .collect();
            assert_eq!(parts(&tokens, &text), plain(&tokens, &text), "{text}");
        }
    }

    /// For each token from the longest on, replace its occurrences in what is still text.
    fn plain(tokens: &[&str], text: &str) -> Vec<String> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|id| (Reverse(tokens[*id].len()), *id));
        let mut parts = vec![Ok(text.to_owned())];
        for id in order {
            let mut next = Vec::new();
            for part in parts {
                let Ok(piece) = part else {
                    next.push(part);
                    continue;
                };
                for (index, piece) in piece.split(tokens[id]).enumerate() {
                    if index > 0 {
                        next.push(Err(id));
                    }
                    if !piece.is_empty() {
                        next.push(Ok(piece.to_owned()));
                    }
                }
            }
            parts = next;
        }
        parts.into_iter().map(|part| part.unwrap_or_else(|id| format!("#{id}"))).collect()
    }
}
