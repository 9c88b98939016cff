//! A vocabulary for models that come without one: those with random weights.
//!
//! It is a SentencePiece vocabulary of any size: three control tokens, one token a byte, the space, and numbered words
//! that no text encodes to. Every text has tokens, every token has a text, and the round trip is exact.

use runtime::tokenizer::{SpecialIds, Texts, Tokenizer, TokenizerError, Vocab, VocabModel};

/// Control tokens before the bytes.
const CONTROL: [&str; 3] = ["<unk>", "<s>", "</s>"];
/// Control tokens, bytes and the space: the least that this vocabulary can be.
pub const LEAST_TOKENS: u32 = 3 + 256 + 1;
/// How SentencePiece writes a space.
const SPACE: &str = "\u{2581}";

/// GGUF's numbers of token types.
const UNKNOWN: i32 = 2;
const CONTROL_TYPE: i32 = 3;
const NORMAL: i32 = 1;
const BYTE: i32 = 6;

/// The vocabulary of `n_tokens` tokens; it has [`LEAST_TOKENS`] where that is more.
///
/// # Errors
/// When the texts of all tokens exceed 4 GiB.
pub fn placeholder(n_tokens: u32) -> Result<Vocab, TokenizerError> {
    let mut tokens = Texts::new();
    let mut types = Vec::new();
    for (id, text) in CONTROL.into_iter().enumerate() {
        tokens.push("tokens", text)?;
        types.push(if id == 0 { UNKNOWN } else { CONTROL_TYPE });
    }
    for byte in 0..=u8::MAX {
        tokens.push("tokens", &format!("<0x{byte:02X}>"))?;
        types.push(BYTE);
    }
    tokens.push("tokens", SPACE)?;
    types.push(NORMAL);
    for id in LEAST_TOKENS..n_tokens {
        tokens.push("tokens", &format!("{SPACE}w{id}"))?;
        types.push(NORMAL);
    }
    let scores = (0..types.len()).map(|id| -(id as f32)).collect();
    Ok(Vocab {
        model: VocabModel::Llama,
        pre: "default".to_owned(),
        tokens,
        token_types: Some(types),
        scores: Some(scores),
        merges: None,
        ids: SpecialIds { bos: Some(1), eos: Some(2), unk: Some(0), ..SpecialIds::default() },
        add_bos: true,
        add_eos: false,
        add_space_prefix: false,
    })
}

/// The tokenizer of [`placeholder`].
///
/// # Errors
/// As [`placeholder`].
pub fn tokenizer(n_tokens: u32) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::new(&placeholder(n_tokens)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::tokenizer::{ControlTokens, Special};

    #[test]
    fn any_text_has_tokens_and_leads_back() {
        let tokenizer = tokenizer(4096).unwrap();
        assert_eq!(tokenizer.vocab_size(), 4096);
        for text in ["", "a b", "naïve 🙂 w300", "\u{2581}w300", "\0\n"] {
            let ids = tokenizer.encode(text, Special::AsText).unwrap();
            assert_eq!(ids[0], 1, "{text:?}");
            let back = tokenizer.decode(&ids, ControlTokens::Hide).unwrap();
            assert_eq!(back, text.replace('\u{2581}', " "), "{ids:?}");
        }
    }

    #[test]
    fn every_token_has_a_text() {
        let tokenizer = tokenizer(300).unwrap();
        for id in 3..300 {
            assert!(!tokenizer.token_bytes(id, ControlTokens::Hide).unwrap().is_empty(), "{id}");
        }
        assert!(tokenizer.is_end(2) && !tokenizer.is_end(3));
    }
}
