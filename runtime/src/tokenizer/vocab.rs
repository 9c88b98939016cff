//! The vocabulary of a tokenizer as plain values, and its validation. A vocabulary comes out of a model file and is
//! hostile until checked; everything after `Lexicon::new` relies on what is established here.
//!
//! Invariant: in a `Lexicon` every array has one entry a token, every id is below the vocabulary size, scores are
//! finite, no text occurs twice, and byte tokens are all there or all absent.

use super::bytes::parse_byte_token;
use super::error::{TokenizerError, excerpt};
use super::special::MAX_SPECIAL_BYTES;
use super::texts::{TextIndex, Texts};

/// Longest text of an ordinary token in bytes: it bounds the work of every vocabulary look-up. The longest known tokens
/// (runs of white space or of one character) have 512.
pub(super) const MAX_TOKEN_BYTES: usize = 2048;

/// The algorithm of a tokenizer, named as `tokenizer.ggml.model` in GGUF files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VocabModel {
    /// `gpt2`: byte-level byte-pair encoding by merge rank.
    Gpt2,
    /// `llama`: SentencePiece byte-pair encoding by token score.
    Llama,
}

impl VocabModel {
    /// The algorithm that a `tokenizer.ggml.model` value names.
    pub fn from_name(name: &str) -> Result<Self, TokenizerError> {
        match name {
            "gpt2" => Ok(Self::Gpt2),
            "llama" => Ok(Self::Llama),
            other => Err(TokenizerError::UnsupportedModel { found: excerpt(other) }),
        }
    }

    /// The name in GGUF files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
        }
    }
}

/// The ids of the tokens that have a role. Each that is present must be below the vocabulary size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Ends a message that calls a tool.
    pub eom: Option<u32>,
    /// Stands for what has no token.
    pub unk: Option<u32>,
    /// Fills a batch.
    pub pad: Option<u32>,
}

/// A vocabulary as it stands in a model file, not yet checked.
#[derive(Debug, Clone)]
pub struct Vocab {
    /// The algorithm.
    pub model: VocabModel,
    /// The pre-tokenizer's name; only `gpt2` uses it.
    pub pre: String,
    /// Text of each token: in GPT-2's byte alphabet for `gpt2`, with U+2581 for spaces for `llama`.
    pub tokens: Texts,
    /// Type of each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Absent: all normal
    /// (`gpt2` only).
    pub token_types: Option<Vec<i32>>,
    /// Score of each token; needed by `llama`.
    pub scores: Option<Vec<f32>>,
    /// Merges from the first rank on, each two token texts with a space between; needed by `gpt2`.
    pub merges: Option<Texts>,
    /// Tokens with a role.
    pub ids: SpecialIds,
    /// Whether a text starts with `ids.bos`.
    pub add_bos: bool,
    /// Whether a text ends with `ids.eos`.
    pub add_eos: bool,
    /// Whether `llama` puts a space before a text, so that its first word is written as any other.
    pub add_space_prefix: bool,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Ordinary text.
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// Structure, not text: never made from text unless asked for.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// A place in the table without a meaning.
    Unused,
    /// One byte, `<0xHH>`.
    Byte,
}

impl TokenKind {
    fn from_type(index: usize, found: i32) -> Result<Self, TokenizerError> {
        Ok(match found {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return Err(TokenizerError::UnknownTokenType { index, found }),
        })
    }

    /// Whether tokenizing ordinary text may give this token. Structure and byte tokens are excluded, so that a user
    /// who types `<s>` or `<0x0A>` gets that text and no more.
    pub(super) fn comes_from_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Unused)
    }
}

/// Texts, kinds and look-up of a checked vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Lexicon {
    pub(super) texts: Texts,
    pub(super) kinds: Vec<TokenKind>,
    index: TextIndex,
    /// Token of each byte; absent as a whole when there are no byte tokens.
    pub(super) byte_tokens: Option<Box<[u32; 256]>>,
    pub(super) unk: Option<u32>,
}

impl Lexicon {
    /// Checks all of a vocabulary but its merges, which belong to one algorithm.
    pub(super) fn new(vocab: &Vocab) -> Result<Self, TokenizerError> {
        let n_tokens = vocab.tokens.len();
        if n_tokens == 0 {
            return Err(TokenizerError::EmptyVocab);
        }
        let kinds = check_kinds(vocab)?;
        check_lengths(&vocab.tokens, &kinds)?;
        check_scores(vocab)?;
        check_ids(vocab)?;
        let byte_tokens = check_byte_tokens(&vocab.tokens, &kinds)?;
        let index = TextIndex::build(&vocab.tokens)?;
        Ok(Self { texts: vocab.tokens.clone(), kinds, index, byte_tokens, unk: vocab.ids.unk })
    }

    /// The token with exactly this text, of any kind.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.index.find(&self.texts, text)
    }

    /// The token with this text if ordinary text may become it.
    pub(super) fn find_from_text(&self, text: &str) -> Option<u32> {
        self.find(text).filter(|id| self.kind(*id).is_some_and(TokenKind::comes_from_text))
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Number of tokens.
    pub(super) fn n_tokens(&self) -> u32 {
        // Texts holds at most 2^32 - 1 bytes but may hold more empty texts; ids past u32 cannot be asked for anyway.
        u32::try_from(self.kinds.len()).unwrap_or(u32::MAX)
    }

    /// The tokens of one of `kinds`, with their texts.
    pub(super) fn of_kinds(&self, kinds: &[TokenKind]) -> impl Iterator<Item = (&str, u32)> {
        (0u32..)
            .zip(self.texts.iter().zip(&self.kinds))
            .filter(|(_, (_, kind))| kinds.contains(kind))
            .map(|(id, (text, _))| (text, id))
    }
}

fn check_kinds(vocab: &Vocab) -> Result<Vec<TokenKind>, TokenizerError> {
    let n_tokens = vocab.tokens.len();
    let Some(types) = &vocab.token_types else {
        return match vocab.model {
            VocabModel::Gpt2 => Ok(vec![TokenKind::Normal; n_tokens]),
            VocabModel::Llama => Err(TokenizerError::MissingArray { array: "token_type", model: "llama" }),
        };
    };
    check_parallel("token_type", types.len(), n_tokens)?;
    types.iter().enumerate().map(|(index, found)| TokenKind::from_type(index, *found)).collect()
}

/// That a parallel array has one entry a token.
fn check_parallel(array: &'static str, found: usize, expected: usize) -> Result<(), TokenizerError> {
    if found == expected { Ok(()) } else { Err(TokenizerError::LengthMismatch { array, found, expected }) }
}

fn check_lengths(texts: &Texts, kinds: &[TokenKind]) -> Result<(), TokenizerError> {
    for (index, (text, kind)) in texts.iter().zip(kinds).enumerate() {
        let (kind, limit) = match kind {
            TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown => {
                ("special", MAX_SPECIAL_BYTES)
            }
            _ => ("ordinary", MAX_TOKEN_BYTES),
        };
        if text.len() > limit {
            return Err(TokenizerError::TokenTooLong { index, kind, found: text.len(), limit });
        }
    }
    Ok(())
}

fn check_scores(vocab: &Vocab) -> Result<(), TokenizerError> {
    let Some(scores) = &vocab.scores else { return Ok(()) };
    check_parallel("scores", scores.len(), vocab.tokens.len())?;
    match scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
        Some((index, found)) => Err(TokenizerError::ScoreNotFinite { index, found: *found }),
        None => Ok(()),
    }
}

fn check_ids(vocab: &Vocab) -> Result<(), TokenizerError> {
    let n_tokens = u32::try_from(vocab.tokens.len()).unwrap_or(u32::MAX);
    let ids = &vocab.ids;
    let named = [
        ("bos_token_id", ids.bos),
        ("eos_token_id", ids.eos),
        ("eot_token_id", ids.eot),
        ("eom_token_id", ids.eom),
        ("unknown_token_id", ids.unk),
        ("padding_token_id", ids.pad),
    ];
    for (what, id) in named {
        if let Some(id) = id.filter(|id| *id >= n_tokens) {
            return Err(TokenizerError::IdOutOfRange { what, id, n_tokens });
        }
    }
    if vocab.add_bos && ids.bos.is_none() {
        return Err(TokenizerError::MissingId { flag: "add_bos_token", id_key: "bos_token_id" });
    }
    if vocab.add_eos && ids.eos.is_none() {
        return Err(TokenizerError::MissingId { flag: "add_eos_token", id_key: "eos_token_id" });
    }
    Ok(())
}

fn check_byte_tokens(texts: &Texts, kinds: &[TokenKind]) -> Result<Option<Box<[u32; 256]>>, TokenizerError> {
    let mut ids: [Option<u32>; 256] = [None; 256];
    let byte_texts = texts.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| **kind == TokenKind::Byte);
    for (index, (text, _)) in byte_texts {
        let Some(byte) = parse_byte_token(text) else {
            return Err(TokenizerError::BadByteToken { index, text: excerpt(text) });
        };
        // A second token for this byte has the same text, which the index refuses.
        ids[usize::from(byte)] = u32::try_from(index).ok();
    }
    let found = ids.iter().flatten().count();
    if found == 0 {
        return Ok(None);
    }
    let mut complete = Box::new([0; 256]);
    for (byte, (slot, id)) in (0u8..=255).zip(complete.iter_mut().zip(ids)) {
        *slot = id.ok_or(TokenizerError::IncompleteByteTokens { found, missing: byte })?;
    }
    Ok(Some(complete))
}
