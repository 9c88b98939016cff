//! The vocabulary of a model file: which metadata keys it is read from, and what holds where a key is absent.
//! Only this file of the tokenizer knows GGUF.

use thiserror::Error;

use super::Tokenizer;
use super::error::TokenizerError;
use super::split::Pre;
use super::texts::Texts;
use super::vocab::{SpecialIds, Vocab, VocabModel};
use crate::gguf::{Gguf, GgufError, optional};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Why a model file gives no tokenizer.
#[derive(Debug, Error)]
pub enum VocabLoadError {
    /// A key is missing or of another type.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// What the keys say is no vocabulary.
    #[error("{key} at offset {offset}: {error}")]
    Vocab {
        /// The key whose value is wrong.
        key: &'static str,
        /// Where that value lies in the file, in bytes.
        offset: u64,
        /// What is wrong with it.
        error: TokenizerError,
    },
}

impl Tokenizer {
    /// The tokenizer of a model file. Errors name the key, where it lies and what is wrong with it.
    pub fn from_gguf(file: &Gguf) -> Result<Self, VocabLoadError> {
        let vocab = Vocab::from_gguf(file)?;
        Self::new(&vocab).map_err(|error| located(file, error))
    }
}

impl Vocab {
    /// The vocabulary as it stands in a model file. The types of the keys are checked here; the rest is checked by
    /// [`Tokenizer::new`].
    ///
    /// Absent keys: `pre` is `default`; a `llama` vocabulary has the begin, end and unknown tokens 1, 2 and 0, starts a
    /// text with the begin token and puts a space before it; a `gpt2` vocabulary has no such tokens, and starts with the
    /// begin token only for the `llama-bpe` family.
    pub fn from_gguf(file: &Gguf) -> Result<Self, VocabLoadError> {
        let model = VocabModel::from_name(file.get_str(MODEL)?).map_err(|error| located(file, error))?;
        let pre = optional(file.get_str(PRE))?.unwrap_or("default");
        let tokens = texts(file, ("tokens", TOKENS))?;
        let is_llama = model == VocabModel::Llama;
        let flag =
            |key: &str, default: bool| optional(file.get_bool(key)).map(|value| value.unwrap_or(default));
        let starts_with_bos = is_llama || Pre::from_name(pre).is_some_and(Pre::adds_bos_by_default);
        Ok(Self {
            model,
            pre: pre.to_owned(),
            token_types: optional(file.get_arr_i32(TOKEN_TYPE))?.map(|types| types.iter().collect()),
            scores: optional(file.get_arr_f32(SCORES))?.map(|scores| scores.iter().collect()),
            merges: optional(file.get_arr_str(MERGES))?
                .map(|_| texts(file, ("merges", MERGES)))
                .transpose()?,
            ids: special_ids(file, model)?,
            add_bos: flag(ADD_BOS, starts_with_bos)?,
            add_eos: flag(ADD_EOS, false)?,
            add_space_prefix: flag(ADD_SPACE_PREFIX, is_llama)?,
            tokens,
        })
    }
}

fn texts(file: &Gguf, (array, key): (&'static str, &'static str)) -> Result<Texts, VocabLoadError> {
    let strings = file.get_arr_str(key)?;
    Texts::collect(array, strings.iter()).map_err(|error| located(file, error))
}

fn special_ids(file: &Gguf, model: VocabModel) -> Result<SpecialIds, GgufError> {
    let defaults = match model {
        VocabModel::Llama => SpecialIds { bos: Some(1), eos: Some(2), unk: Some(0), ..SpecialIds::default() },
        VocabModel::Gpt2 => SpecialIds::default(),
    };
    let id = |name: &str, default: Option<u32>| {
        optional(file.get_u32(&format!("tokenizer.ggml.{name}"))).map(|id| id.or(default))
    };
    Ok(SpecialIds {
        bos: id("bos_token_id", defaults.bos)?,
        eos: id("eos_token_id", defaults.eos)?,
        eot: id("eot_token_id", None)?,
        eom: id("eom_token_id", None)?,
        unk: id("unknown_token_id", defaults.unk)?,
        pad: id("padding_token_id", None)?,
    })
}

/// Adds the key and the place in the file to what is wrong.
fn located(file: &Gguf, error: TokenizerError) -> VocabLoadError {
    use TokenizerError as E;
    let key = match &error {
        E::UnsupportedModel { .. } => MODEL,
        E::UnsupportedPre { .. } => PRE,
        E::UnknownTokenType { .. } => TOKEN_TYPE,
        E::ScoreNotFinite { .. } => SCORES,
        E::BadMerge { .. } | E::MergeOutsideVocab { .. } | E::MergeMakesControl { .. } => MERGES,
        E::LengthMismatch { array, .. } | E::MissingArray { array, .. } | E::TextsTooLarge { array, .. } => {
            [TOKEN_TYPE, SCORES, MERGES].into_iter().find(|key| key.ends_with(array)).unwrap_or(TOKENS)
        }
        E::IdOutOfRange { what, .. } => ID_KEYS.into_iter().find(|key| key.ends_with(what)).unwrap_or(TOKENS),
        E::MissingId { flag, .. } => {
            [ADD_BOS, ADD_EOS].into_iter().find(|key| key.ends_with(flag)).unwrap_or(TOKENS)
        }
        _ => TOKENS,
    };
    // An absent key has no place of its own; the tokens that it should describe have.
    let offset = file.value_offset(key).or_else(|| file.value_offset(TOKENS)).unwrap_or(0);
    VocabLoadError::Vocab { key, offset, error }
}

/// Keys of the ids, for the place of an id that is out of range.
const ID_KEYS: [&str; 6] = [
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::write::{KvValue, Writer};
    use crate::tokenizer::Special;

    /// A file with these keys; an entry of `changes` replaces the one of the same key or, with no value, removes it.
    fn file(base: Vec<(&str, KvValue)>, changes: &[(&str, Option<KvValue>)]) -> Gguf {
        let kept = base.into_iter().filter(|(key, _)| changes.iter().all(|(changed, _)| changed != key));
        let changed = changes.iter().filter_map(|(key, value)| Some((*key, value.clone()?)));
        let writer = kept.chain(changed).fold(Writer::new(), |writer, (key, value)| writer.kv(key, value));
        Gguf::from_bytes(writer.finish().unwrap()).unwrap()
    }

    /// A `llama` vocabulary without byte tokens: `<unk>`, `<s>`, `</s>`, `▁`, `a`, `▁a`.
    fn llama(changes: &[(&str, Option<KvValue>)]) -> Gguf {
        let base = vec![
            (MODEL, "llama".into()),
            (TOKENS, KvValue::strings(["<unk>", "<s>", "</s>", "\u{2581}", "a", "\u{2581}a"])),
            (TOKEN_TYPE, KvValue::i32s(&[2, 3, 3, 1, 1, 1])),
            (SCORES, KvValue::f32s(&[0.0, 0.0, 0.0, -3.0, -2.0, -1.0])),
        ];
        file(base, changes)
    }

    /// A `gpt2` vocabulary: `a`, `b`, `ab` and a begin token that is not named as such.
    fn gpt2(changes: &[(&str, Option<KvValue>)]) -> Gguf {
        let base = vec![
            (MODEL, "gpt2".into()),
            (PRE, "qwen2".into()),
            (TOKENS, KvValue::strings(["a", "b", "ab", "<|begin|>"])),
            (TOKEN_TYPE, KvValue::i32s(&[1, 1, 1, 3])),
            (MERGES, KvValue::strings(["a b"])),
        ];
        file(base, changes)
    }

    fn encode(file: &Gguf, text: &str) -> Vec<u32> {
        Tokenizer::from_gguf(file).unwrap().encode(text, Special::Parse).unwrap()
    }

    /// The message of a refusal, which is one short line.
    fn refusal(file: &Gguf) -> String {
        let message = Tokenizer::from_gguf(file).unwrap_err().to_string();
        assert!(message.chars().count() <= 300 && !message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn absent_keys_have_the_defaults_of_their_model() {
        assert_eq!(encode(&llama(&[]), "a"), [1, 5]);
        assert_eq!(encode(&gpt2(&[]), "ab"), [2]);
        assert_eq!(Tokenizer::from_gguf(&gpt2(&[])).unwrap().special_ids(), SpecialIds::default());
        let named = ("tokenizer.ggml.bos_token_id", Some(3_u32.into()));
        assert_eq!(encode(&gpt2(std::slice::from_ref(&named)), "ab"), [2]);
        assert_eq!(encode(&gpt2(&[named, (PRE, Some("llama-bpe".into()))]), "ab"), [3, 2]);
    }

    #[test]
    fn keys_that_are_there_win_over_defaults() {
        let off = |key| (key, Some(false.into()));
        assert_eq!(encode(&llama(&[off(ADD_BOS)]), "a"), [5]);
        assert_eq!(encode(&llama(&[off(ADD_BOS), off(ADD_SPACE_PREFIX)]), "a"), [4]);
        let swapped = [
            ("tokenizer.ggml.bos_token_id", Some(2_u32.into())),
            ("tokenizer.ggml.eos_token_id", Some(1_u32.into())),
            (ADD_EOS, Some(true.into())),
        ];
        assert_eq!(encode(&llama(&swapped), "a"), [2, 5, 1]);
    }

    #[test]
    fn a_default_id_past_the_vocabulary_is_refused() {
        let small = llama(&[
            (TOKENS, Some(KvValue::strings(["a", "b"]))),
            (TOKEN_TYPE, Some(KvValue::i32s(&[1, 1]))),
            (SCORES, Some(KvValue::f32s(&[0.0, 0.0]))),
        ]);
        assert!(refusal(&small).contains("eos_token_id = 2 is not below the vocabulary size 2"));
    }

    #[test]
    fn a_refusal_names_the_key_and_its_place() {
        type Change = (&'static str, Option<KvValue>);
        let cases: [(Change, &str); 8] = [
            (("tokenizer.ggml.eos_token_id", Some(6_u32.into())), "tokenizer.ggml.eos_token_id at offset"),
            ((TOKEN_TYPE, Some(KvValue::i32s(&[2, 3, 3, 1, 1]))), "token_type has 5 entries but there are 6"),
            ((TOKEN_TYPE, Some(KvValue::i32s(&[2, 3, 3, 1, 1, 7]))), "tokenizer.ggml.token_type at offset"),
            ((TOKEN_TYPE, None), "token_type is missing"),
            ((SCORES, Some(KvValue::i32s(&[0; 6]))), SCORES),
            ((SCORES, Some(KvValue::f32s(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN]))), "scores[5] = NaN"),
            ((SCORES, Some(KvValue::f32s(&[0.0; 7]))), "scores has 7 entries but there are 6"),
            ((MODEL, Some("bert".into())), "tokenizer.ggml.model at offset"),
        ];
        for (change, expected) in cases {
            let message = refusal(&llama(&[change]));
            assert!(message.contains(expected), "{message}");
        }
        for (key, change, expected) in [
            (MERGES, Some(KvValue::strings(["ab"])), "merges[0] 'ab' is not two parts"),
            (MERGES, None, "merges is missing"),
            (PRE, Some("viking".into()), "tokenizer.ggml.pre at offset"),
            (ADD_BOS, Some(true.into()), "add_bos_token is set but bos_token_id is absent"),
            (TOKENS, None, TOKENS),
        ] {
            let message = refusal(&gpt2(&[(key, change)]));
            assert!(message.contains(expected), "{message}");
        }
    }
}
