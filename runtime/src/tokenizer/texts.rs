//! A packed list of strings and an index from text to position. A vocabulary has a quarter of a million short strings;
//! one buffer with end offsets costs a twentieth of a `Vec<String>` plus a map that owns its keys.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::error::{TokenizerError, excerpt};

/// A list of strings in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    bytes: String,
    /// End of each text in `bytes`; its start is the end of the one before.
    ends: Vec<u32>,
}

impl Texts {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// The list of `items`; `array` names it in the error when it is too large.
    pub fn collect<'a>(
        array: &'static str,
        items: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TokenizerError> {
        let mut texts = Self::new();
        for item in items {
            texts.push(array, item)?;
        }
        Ok(texts)
    }

    /// Appends one text. Errors when all texts together would exceed 4 GiB.
    pub fn push(&mut self, array: &'static str, text: &str) -> Result<(), TokenizerError> {
        let total = self.bytes.len() as u64 + text.len() as u64;
        let Ok(end) = u32::try_from(total) else {
            return Err(TokenizerError::TextsTooLarge { array, found: total, limit: u64::from(u32::MAX) });
        };
        self.bytes.push_str(text);
        self.ends.push(end);
        Ok(())
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the list holds no text.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Text `index`, or nothing past the end.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { *self.ends.get(index - 1)? as usize };
        self.bytes.get(start..end)
    }

    /// The texts in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// Marks a free slot of the index.
const FREE: u32 = u32::MAX;

/// Finds the position of a text in a `Texts`: open addressing over positions, so no text is stored twice.
/// The hash is keyed at random, so a hostile vocabulary cannot make it quadratic; nothing depends on its order.
#[derive(Debug, Clone)]
pub(super) struct TextIndex {
    slots: Vec<u32>,
    hasher: RandomState,
}

impl TextIndex {
    /// Indexes every non-empty text. Errors on a text that occurs twice.
    pub(super) fn build(texts: &Texts) -> Result<Self, TokenizerError> {
        // Twice as many slots as texts keep the probes short.
        let n_slots = (texts.len().max(1) * 2).next_power_of_two();
        let mut index = Self { slots: vec![FREE; n_slots], hasher: RandomState::new() };
        for (id, text) in texts.iter().enumerate() {
            if text.is_empty() {
                continue;
            }
            let id = u32::try_from(id).unwrap_or(FREE);
            match index.probe(texts, text) {
                (_, Some(first)) => {
                    return Err(TokenizerError::DuplicateToken { first, second: id, text: excerpt(text) });
                }
                (slot, None) => index.slots[slot] = id,
            }
        }
        Ok(index)
    }

    /// The position of `text`, which must be looked up in the list the index was built from.
    pub(super) fn find(&self, texts: &Texts, text: &str) -> Option<u32> {
        self.probe(texts, text).1
    }

    /// The slot where `text` is or would be, and its position when it is there.
    fn probe(&self, texts: &Texts, text: &str) -> (usize, Option<u32>) {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(text) as usize & mask;
        loop {
            let id = self.slots[slot];
            if id == FREE {
                return (slot, None);
            }
            if texts.get(id as usize) == Some(text) {
                return (slot, Some(id));
            }
            slot = (slot + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_in_order() {
        let texts = Texts::collect("tokens", ["a", "", "ßx", "c"]).unwrap();
        assert_eq!(texts.iter().collect::<Vec<_>>(), ["a", "", "ßx", "c"]);
        assert_eq!((texts.get(2), texts.get(4)), (Some("ßx"), None));
    }

    #[test]
    fn the_index_finds_every_text_and_no_other() {
        let words: Vec<String> = (0..5000).map(|n| format!("w{n}")).collect();
        let texts = Texts::collect("tokens", words.iter().map(String::as_str)).unwrap();
        let index = TextIndex::build(&texts).unwrap();
        for (id, word) in words.iter().enumerate() {
            assert_eq!(index.find(&texts, word), Some(id as u32));
        }
        assert_eq!(index.find(&texts, "w5000"), None);
        assert_eq!(index.find(&texts, ""), None);
    }

    #[test]
    fn a_repeated_text_is_refused_with_both_positions() {
        let texts = Texts::collect("tokens", ["", "a", "b", "", "a"]).unwrap();
        let error = TextIndex::build(&texts).unwrap_err();
        assert_eq!(error, TokenizerError::DuplicateToken { first: 1, second: 4, text: "a".into() });
    }
}
