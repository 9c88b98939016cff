//! Tokenizers: text to token ids and back, from the vocabulary that a model file carries.
//!
//! ```text
//! text ─► special tokens apart ─► words (gpt2) ─► merges by rank ──► ids        ids ─► bytes ─► whole characters
//!                              └► characters (llama) ─► by score ─┘
//! ```
//!
//! Two families cover the models that this crate runs: byte-level BPE with merges (`gpt2`: Qwen, Llama 3) and
//! SentencePiece BPE with scores (`llama`: Llama 2, Gemma). Ids agree with llama.cpp, with one intended difference:
//! ordinary text never becomes a control, unknown or byte token, whatever the vocabulary's merges or scores allow.
//!
//! A vocabulary is untrusted: `Tokenizer::new` checks all of it once, and encoding takes n log n time for any text.

mod bpe;
mod bytes;
mod error;
mod from_gguf;
mod special;
mod split;
mod spm;
mod stream;
mod texts;
mod vocab;

#[cfg(test)]
mod tests;

pub use error::TokenizerError;
pub use from_gguf::VocabLoadError;
pub use split::{Pre, word_ranges};
pub use stream::{ControlTokens, StreamDecoder};
pub use texts::Texts;
pub use vocab::{SpecialIds, TokenKind, Vocab, VocabModel};

use bpe::Bpe;
use special::{Part, SpecialMatcher};
use spm::{SPACE_MARK, Spm};
use stream::Utf8Stream;
use vocab::Lexicon;

/// Longest text that is tokenized in one call, in bytes; positions are 32 bits wide and an escaped space takes three.
pub const MAX_TEXT_BYTES: usize = 1 << 30;

/// Texts of tokens that end a generation besides the ids the vocabulary gives. Model files often name one end token
/// where the model was trained with two; the list is that of the chat formats in use.
const END_TEXTS: [&str; 12] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "<eos>",
    "</s>",
];

/// How special tokens that are written out in a text are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// They become their tokens: for prompts that a template has rendered.
    Parse,
    /// They stay text: for what a user typed. Only user-defined tokens, which are text, are still taken whole.
    AsText,
}

/// A checked tokenizer. Immutable, so it can be shared between threads.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    lexicon: Lexicon,
    model: Model,
    every_special: SpecialMatcher,
    user_defined: SpecialMatcher,
    ids: SpecialIds,
    add_bos: bool,
    add_eos: bool,
    pieces: Pieces,
    /// Ids that end a generation, ascending.
    end_ids: Vec<u32>,
}

#[derive(Debug, Clone)]
enum Model {
    Bpe(Box<Bpe>),
    Spm(Spm),
}

/// The bytes that each token stands for, in one buffer.
#[derive(Debug, Clone, Default)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Tokenizer {
    /// Checks a vocabulary and prepares it. Errors name the array and the index that is wrong.
    pub fn new(vocab: &Vocab) -> Result<Self, TokenizerError> {
        let lexicon = Lexicon::new(vocab)?;
        let model = match vocab.model {
            VocabModel::Gpt2 => Model::Bpe(Box::new(Bpe::new(vocab, &lexicon)?)),
            VocabModel::Llama => Model::Spm(Spm::new(vocab, &lexicon)?),
        };
        let every = [TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown];
        Ok(Self {
            every_special: SpecialMatcher::new(lexicon.of_kinds(&every)),
            user_defined: SpecialMatcher::new(lexicon.of_kinds(&[TokenKind::UserDefined])),
            pieces: Pieces::new(&lexicon, &model),
            end_ids: end_ids(&lexicon, &vocab.ids),
            ids: vocab.ids,
            add_bos: vocab.add_bos,
            add_eos: vocab.add_eos,
            lexicon,
            model,
        })
    }

    /// The ids of a whole text, with the begin and end tokens that the vocabulary asks for. Errors when the text is
    /// longer than [`MAX_TEXT_BYTES`] or holds what the vocabulary cannot write.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        ids.extend(self.ids.bos.filter(|_| self.add_bos));
        self.encode_into(text, special, &mut ids)?;
        ids.extend(self.ids.eos.filter(|_| self.add_eos));
        Ok(ids)
    }

    /// The ids of a part of a text: as [`encode`](Self::encode), without begin and end tokens.
    pub fn encode_part(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        self.encode_into(text, special, &mut ids)?;
        Ok(ids)
    }

    fn encode_into(&self, text: &str, special: Special, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { found: text.len(), limit: MAX_TEXT_BYTES });
        }
        let matcher = match special {
            Special::Parse => &self.every_special,
            Special::AsText => &self.user_defined,
        };
        // Each part that is text starts the whole or follows a special token, and so gets the space prefix.
        let lead = self.space_prefix();
        for part in matcher.partition(text) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(range) => {
                    let part = text.get(range).unwrap_or("");
                    match &self.model {
                        Model::Bpe(bpe) => bpe.encode(&self.lexicon, part, ids)?,
                        Model::Spm(spm) => spm.encode(&self.lexicon, (lead, part), ids)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn space_prefix(&self) -> &'static str {
        match &self.model {
            Model::Spm(spm) if spm.has_space_prefix() => " ",
            _ => "",
        }
    }

    /// The bytes that one token stands for; they need not be whole characters. Errors on an id past the vocabulary.
    pub fn token_bytes(&self, id: u32, control: ControlTokens) -> Result<&[u8], TokenizerError> {
        let kind = self.kind(id)?;
        let hidden = match kind {
            TokenKind::Control | TokenKind::Unknown => control == ControlTokens::Hide,
            TokenKind::Unused => true,
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte => false,
        };
        Ok(if hidden { &[] } else { self.pieces.get(id) })
    }

    /// The text of a whole sequence. Invalid bytes become U+FFFD, and the space prefix of the vocabulary, if it has one,
    /// is taken off again. Errors on an id past the vocabulary.
    pub fn decode(&self, ids: &[u32], control: ControlTokens) -> Result<String, TokenizerError> {
        let mut utf8 = Utf8Stream::default();
        let mut text = String::new();
        let mut prefix = self.space_prefix().as_bytes();
        for id in ids {
            let mut bytes = self.token_bytes(*id, control)?;
            if matches!(self.kind(*id)?, TokenKind::Normal | TokenKind::Byte) && !bytes.is_empty() {
                bytes = bytes.strip_prefix(prefix).unwrap_or(bytes);
                prefix = &[];
            }
            text.push_str(&utf8.push(bytes));
        }
        text.push_str(&utf8.finish());
        Ok(text)
    }

    /// A decoder for tokens that come one by one. It continues a text, so it takes no space prefix off.
    pub fn decode_stream(&self, control: ControlTokens) -> StreamDecoder<'_> {
        StreamDecoder::new(self, control)
    }

    /// Number of tokens: the rows of the embedding must be as many.
    pub fn vocab_size(&self) -> u32 {
        self.lexicon.n_tokens()
    }

    /// The tokens with a role.
    pub fn special_ids(&self) -> SpecialIds {
        self.ids
    }

    /// Whether token `id` ends a generation: the end of text, turn or message, or a control token known to be one.
    pub fn is_end(&self, id: u32) -> bool {
        self.end_ids.binary_search(&id).is_ok()
    }

    /// What token `id` is. Errors on an id past the vocabulary.
    pub fn kind(&self, id: u32) -> Result<TokenKind, TokenizerError> {
        let n_tokens = self.vocab_size();
        self.lexicon.kind(id).ok_or(TokenizerError::IdOutOfRange { what: "token", id, n_tokens })
    }

    /// The token with this text as the vocabulary writes it, of any kind.
    pub fn token_with_text(&self, text: &str) -> Option<u32> {
        self.lexicon.find(text)
    }
}

impl Pieces {
    fn new(lexicon: &Lexicon, model: &Model) -> Self {
        let mut pieces = Self::default();
        for (text, kind) in lexicon.texts.iter().zip(&lexicon.kinds) {
            match (kind, model) {
                (TokenKind::Byte, _) => pieces.bytes.extend(bytes::parse_byte_token(text)),
                (TokenKind::Normal, Model::Bpe(bpe)) => bpe.alphabet().read(text, &mut pieces.bytes),
                (TokenKind::Normal, Model::Spm(_)) => {
                    pieces.bytes.extend_from_slice(text.replace(SPACE_MARK, " ").as_bytes());
                }
                _ => pieces.bytes.extend_from_slice(text.as_bytes()),
            }
            pieces.ends.push(pieces.bytes.len());
        }
        pieces
    }

    fn get(&self, id: u32) -> &[u8] {
        let index = id as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(start);
        self.bytes.get(start..end).unwrap_or(&[])
    }
}

fn end_ids(lexicon: &Lexicon, ids: &SpecialIds) -> Vec<u32> {
    let named = END_TEXTS
        .iter()
        .filter_map(|text| lexicon.find(text))
        .filter(|id| lexicon.kind(*id) == Some(TokenKind::Control));
    let mut all: Vec<u32> = [ids.eos, ids.eot, ids.eom].into_iter().flatten().chain(named).collect();
    all.sort_unstable();
    all.dedup();
    all
}
