//! What can be wrong with a vocabulary or with a request to the tokenizer. Each variant names the array and the index
//! it speaks of, what was found and what would have been right, so that a bad model file can be located from the message.

use thiserror::Error;

/// Longest excerpt of a token or key that a message repeats, in characters; the rest is cut.
const EXCERPT_CHARS: usize = 64;

/// Why a vocabulary was refused, or why a text or a token id could not be converted.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum TokenizerError {
    /// The vocabulary holds no token.
    #[error("tokenizer: the vocabulary is empty, at least 1 token is needed")]
    EmptyVocab,
    /// The texts of one array together are longer than the packed form can address.
    #[error("tokenizer: {array}: the texts take {found} bytes together, at most {limit} are supported")]
    TextsTooLarge {
        /// The array: `tokens` or `merges`.
        array: &'static str,
        /// Bytes asked for.
        found: u64,
        /// Most bytes supported.
        limit: u64,
    },
    /// Two parallel arrays differ in length.
    #[error("tokenizer: {array} has {found} entries but there are {expected} tokens")]
    LengthMismatch {
        /// The array that does not fit.
        array: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        expected: usize,
    },
    /// An array that this model of tokenizer needs is absent.
    #[error("tokenizer: {array} is missing, a vocabulary of model '{model}' needs it")]
    MissingArray {
        /// The absent array.
        array: &'static str,
        /// The tokenizer model.
        model: &'static str,
    },
    /// A token id names no token.
    #[error("tokenizer: {what} = {id} is not below the vocabulary size {n_tokens}")]
    IdOutOfRange {
        /// Which id: a key of the vocabulary, or `token` for an id handed in by a caller.
        what: &'static str,
        /// The id.
        id: u32,
        /// Number of tokens.
        n_tokens: u32,
    },
    /// A token is to be added to every text, but the vocabulary does not say which.
    #[error("tokenizer: {flag} is set but {id_key} is absent")]
    MissingId {
        /// The flag that asks for the token.
        flag: &'static str,
        /// The id that is absent.
        id_key: &'static str,
    },
    /// A token type outside 1..=6.
    #[error("tokenizer: token_type[{index}] = {found} is not one of 1..=6")]
    UnknownTokenType {
        /// Token index.
        index: usize,
        /// The type found.
        found: i32,
    },
    /// A score that is NaN or infinite.
    #[error("tokenizer: scores[{index}] = {found} is not finite")]
    ScoreNotFinite {
        /// Token index.
        index: usize,
        /// The score found.
        found: f32,
    },
    /// Two tokens have one text.
    #[error("tokenizer: tokens[{second}] repeats tokens[{first}] '{text}'")]
    DuplicateToken {
        /// Lower index.
        first: u32,
        /// Higher index.
        second: u32,
        /// The text, escaped and cut.
        text: String,
    },
    /// A token's text is longer than the limit that keeps tokenizing linear.
    #[error(
        "tokenizer: tokens[{index}] is {found} bytes long, at most {limit} are supported for {kind} tokens"
    )]
    TokenTooLong {
        /// Token index.
        index: usize,
        /// What kind of token has this limit.
        kind: &'static str,
        /// Bytes found.
        found: usize,
        /// Most bytes supported.
        limit: usize,
    },
    /// A token of type byte (6) that is not written `<0xHH>`.
    #[error("tokenizer: tokens[{index}] '{text}' has type 6 (byte) but is not written <0x00>..<0xFF>")]
    BadByteToken {
        /// Token index.
        index: usize,
        /// The text, escaped and cut.
        text: String,
    },
    /// Some, but not all, of the 256 byte tokens are there.
    #[error(
        "tokenizer: {found} byte tokens, 0 or 256 are needed; <0x{missing:02X}> is the first one missing"
    )]
    IncompleteByteTokens {
        /// Byte tokens found.
        found: usize,
        /// First byte without a token.
        missing: u8,
    },
    /// A merge that is not two non-empty parts with one space between.
    #[error("tokenizer: merges[{index}] '{text}' is not two parts with one space between")]
    BadMerge {
        /// Merge index.
        index: usize,
        /// The merge, escaped and cut.
        text: String,
    },
    /// A part or the result of a merge is no token.
    #[error("tokenizer: merges[{index}]: '{text}' is not a token of the vocabulary")]
    MergeOutsideVocab {
        /// Merge index.
        index: usize,
        /// The absent token, escaped and cut.
        text: String,
    },
    /// A merge would make plain text into a control token.
    #[error("tokenizer: merges[{index}] makes token {id}, which is a control, unknown or byte token")]
    MergeMakesControl {
        /// Merge index.
        index: usize,
        /// The token it makes.
        id: u32,
    },
    /// A tokenizer model that is not supported.
    #[error("tokenizer: model '{found}' is not supported; supported are gpt2 and llama")]
    UnsupportedModel {
        /// The name, escaped and cut.
        found: String,
    },
    /// A pre-tokenizer that is not supported.
    #[error("tokenizer: pre '{found}' is not supported; supported are {supported}")]
    UnsupportedPre {
        /// The name, escaped and cut.
        found: String,
        /// The names of the supported families.
        supported: &'static str,
    },
    /// A text longer than the tokenizer's positions can address.
    #[error("tokenizer: the text is {found} bytes long, at most {limit} are supported")]
    TextTooLong {
        /// Bytes found.
        found: usize,
        /// Most bytes supported.
        limit: usize,
    },
    /// A byte of the text has no token, and there is no unknown token to stand for it.
    #[error("tokenizer: byte 0x{byte:02x} of the text has no token and the vocabulary has no unknown token")]
    NoTokenForByte {
        /// The byte.
        byte: u8,
    },
    /// A character of the text has no token, and there is neither byte fallback nor an unknown token.
    #[error(
        "tokenizer: '{text}' has no token and the vocabulary has neither byte tokens nor an unknown token"
    )]
    NoTokenForText {
        /// The text, escaped and cut.
        text: String,
    },
}

/// `text` with control characters escaped and cut at 64 characters, fit for a one-line message.
pub(super) fn excerpt(text: &str) -> String {
    let mut escaped = text.chars().take(EXCERPT_CHARS + 1).flat_map(char::escape_debug);
    let mut cut: String = escaped.by_ref().take(EXCERPT_CHARS).collect();
    if escaped.next().is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("a\nb"), "a\\nb");
        let long = excerpt(&"\u{1}".repeat(500));
        assert_eq!(long.chars().count(), EXCERPT_CHARS + 1);
        assert!(long.ends_with('…') && !long.contains('\u{1}'));
        assert_eq!(excerpt(&"x".repeat(EXCERPT_CHARS)), "x".repeat(EXCERPT_CHARS));
    }

    #[test]
    fn the_longest_message_stays_below_300_characters() {
        let error = TokenizerError::DuplicateToken {
            first: u32::MAX,
            second: u32::MAX,
            text: excerpt(&"\"".repeat(900)),
        };
        assert!(error.to_string().chars().count() <= 300);
    }
}
