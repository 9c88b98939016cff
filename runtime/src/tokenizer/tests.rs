//! Tests of whole tokenizers on vocabularies small enough to follow by hand, one rule at a time, and on hostile ones.

use std::time::{Duration, Instant};

use super::bytes::ByteAlphabet;
use super::*;

/// A `gpt2` vocabulary: the 256 bytes in order, then `words` (in the byte alphabet), then `extra` with their types.
fn gpt2(pre: &str, words: &[&str], extra: &[(&str, i32)], merges: &[&str]) -> Vocab {
    let alphabet = ByteAlphabet::new();
    let bytes: Vec<String> = (0..=255).map(|byte| alphabet.char(byte).to_string()).collect();
    let texts =
        bytes.iter().map(String::as_str).chain(words.iter().copied()).chain(extra.iter().map(|e| e.0));
    let mut types = vec![1; 256 + words.len()];
    types.extend(extra.iter().map(|e| e.1));
    Vocab {
        model: VocabModel::Gpt2,
        pre: pre.into(),
        tokens: Texts::collect("tokens", texts).unwrap(),
        token_types: Some(types),
        scores: None,
        merges: Some(Texts::collect("merges", merges.iter().copied()).unwrap()),
        ids: SpecialIds::default(),
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
    }
}

/// A `llama` vocabulary: `<unk>`, `<s>`, `</s>`, the 256 byte tokens (3..259), then `words` with scores from 259 on.
fn llama(words: &[(&str, f32)]) -> Vocab {
    let bytes: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let head = ["<unk>", "<s>", "</s>"];
    let texts = head.iter().copied().chain(bytes.iter().map(String::as_str)).chain(words.iter().map(|w| w.0));
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.extend(vec![1; words.len()]);
    let mut scores = vec![0.0; 259];
    scores.extend(words.iter().map(|w| w.1));
    Vocab {
        model: VocabModel::Llama,
        pre: "default".into(),
        tokens: Texts::collect("tokens", texts).unwrap(),
        token_types: Some(types),
        scores: Some(scores),
        merges: None,
        ids: SpecialIds { bos: Some(1), eos: Some(2), unk: Some(0), ..SpecialIds::default() },
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
    }
}

fn tokens(vocab: &Vocab, text: &str) -> Vec<u32> {
    Tokenizer::new(vocab).unwrap().encode(text, Special::Parse).unwrap()
}

#[test]
fn bpe_joins_the_lowest_rank_first_and_the_leftmost_of_equals() {
    // Ids: ab 256, bc 257, abc 258, aa 259.
    let words = ["ab", "bc", "abc", "aa"];
    let low_bc = gpt2("qwen2", &words, &[], &["b c", "a b", "ab c", "a a"]);
    assert_eq!(tokens(&low_bc, "abc"), [97, 257]);
    let low_ab = gpt2("qwen2", &words, &[], &["a b", "b c", "ab c", "a a"]);
    assert_eq!(tokens(&low_ab, "abc"), [258]);
    assert_eq!(tokens(&low_ab, "aaaaa"), [259, 259, 97]);
    assert_eq!(tokens(&low_ab, "abab"), [256, 256]);
}

#[test]
fn joined_symbols_find_their_neighbours_on_both_sides() {
    // The second join stands right of the first and must meet its result.
    let vocab = gpt2("qwen2", &["ab", "cd", "abcd"], &[], &["a b", "c d", "ab cd"]);
    assert_eq!(tokens(&vocab, "abcd"), [258]);
    let words =
        [("a", -9.0), ("b", -9.0), ("c", -9.0), ("d", -9.0), ("ab", -1.0), ("cd", -2.0), ("abcd", -3.0)];
    assert_eq!(tokens(&llama(&words), "abcd"), [265]);
}

#[test]
fn unused_tokens_give_no_text() {
    let tokenizer = Tokenizer::new(&gpt2("qwen2", &[], &[("[PAD1]", 5)], &[])).unwrap();
    assert_eq!(tokenizer.decode(&[97, 256, 98], ControlTokens::Show).unwrap(), "ab");
}

#[test]
fn a_merge_listed_twice_keeps_its_first_rank() {
    let vocab = gpt2("qwen2", &["ab", "bc"], &[], &["a b", "b c", "a b"]);
    assert_eq!(tokens(&vocab, "abc"), [256, 99]);
}

#[test]
fn bpe_does_not_join_across_words() {
    let vocab = gpt2("qwen2", &["a1", "Ġa"], &[], &["a 1", "Ġ a"]);
    assert_eq!(tokens(&vocab, "a1 a"), [97, 49, 257]);
}

#[test]
fn only_llama3_takes_whole_words_without_merges() {
    let words = ["hello", "he"];
    assert_eq!(tokens(&gpt2("llama-bpe", &words, &[], &["h e"]), "hello"), [256]);
    assert_eq!(tokens(&gpt2("smaug-bpe", &words, &[], &["h e"]), "hello"), [257, 108, 108, 111]);
    assert_eq!(tokens(&gpt2("qwen2", &words, &[], &["h e"]), "hello"), [257, 108, 108, 111]);
}

#[test]
fn any_bytes_come_back_from_bpe() {
    let tokenizer = Tokenizer::new(&gpt2("qwen2", &["Ġa"], &[], &["Ġ a"])).unwrap();
    for text in ["", " a\0\n\r\t", "héllo 世界 🙂", "e\u{301}\u{200d}\u{feff}", "\u{10ffff}"] {
        let ids = tokenizer.encode(text, Special::AsText).unwrap();
        assert_eq!(tokenizer.decode(&ids, ControlTokens::Hide).unwrap(), text);
    }
}

#[test]
fn special_tokens_are_parsed_only_when_asked_for_and_user_defined_always() {
    let vocab = gpt2("qwen2", &[], &[("<|im_start|>", 3), ("<tool>", 4)], &[]);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    let parsed = tokenizer.encode("<|im_start|>x<tool>", Special::Parse).unwrap();
    assert_eq!(parsed, [256, 120, 257]);
    let as_text = tokenizer.encode("<|im_start|>x<tool>", Special::AsText).unwrap();
    assert_eq!(as_text.len(), 12 + 1 + 1);
    assert!(!as_text.contains(&256) && as_text.ends_with(&[120, 257]));
    assert_eq!(tokenizer.decode(&parsed, ControlTokens::Hide).unwrap(), "x<tool>");
    assert_eq!(tokenizer.decode(&parsed, ControlTokens::Show).unwrap(), "<|im_start|>x<tool>");
    assert_eq!(tokenizer.decode(&as_text, ControlTokens::Hide).unwrap(), "<|im_start|>x<tool>");
}

#[test]
fn begin_and_end_tokens_follow_the_flags() {
    let mut vocab = gpt2("llama-bpe", &[], &[("<b>", 3), ("<e>", 3)], &[]);
    vocab.ids = SpecialIds { bos: Some(256), eos: Some(257), ..SpecialIds::default() };
    (vocab.add_bos, vocab.add_eos) = (true, true);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert_eq!(tokenizer.encode("a", Special::Parse).unwrap(), [256, 97, 257]);
    assert_eq!(tokenizer.encode("", Special::Parse).unwrap(), [256, 257]);
    assert_eq!(tokenizer.encode_part("a", Special::Parse).unwrap(), [97]);
}

#[test]
fn spm_joins_the_highest_score_first_and_the_leftmost_of_equals() {
    // Ids: a 259, b 260, c 261, ab 262, bc 263.
    let mut words = [("a", -9.0), ("b", -9.0), ("c", -9.0), ("ab", -2.0), ("bc", -1.0)];
    assert_eq!(tokens(&llama(&words), "abc"), [259, 263]);
    words[3].1 = -1.0;
    assert_eq!(tokens(&llama(&words), "abc"), [262, 261]);
    // A negative zero is no lower than zero: the leftmost pair still goes first.
    (words[3].1, words[4].1) = (-0.0, 0.0);
    assert_eq!(tokens(&llama(&words), "abc"), [262, 261]);
}

#[test]
fn spm_writes_spaces_as_marks_and_prefixes_one_when_asked() {
    let mut vocab = llama(&[("\u{2581}", -5.0), ("a", -5.0), ("\u{2581}a", -1.0)]);
    assert_eq!(tokens(&vocab, "a a  "), [260, 261, 259, 259]);
    vocab.add_space_prefix = true;
    assert_eq!(tokens(&vocab, "a"), [261]);
    // The prefix is given again after a special token, and not in an empty text.
    assert_eq!(tokens(&vocab, "a<s>a"), [261, 1, 261]);
    assert!(tokens(&vocab, "").is_empty());
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert_eq!(tokenizer.decode(&[261, 261], ControlTokens::Hide).unwrap(), "a a");
    assert_eq!(tokenizer.decode(&[1, 259, 261], ControlTokens::Hide).unwrap(), " a");
    let mut stream = tokenizer.decode_stream(ControlTokens::Hide);
    assert_eq!(stream.push(261).unwrap(), " a");
}

#[test]
fn spm_falls_back_to_bytes_then_to_the_unknown_token() {
    let vocab = llama(&[("a", -1.0)]);
    assert_eq!(tokens(&vocab, "a世"), [259, 3 + 0xE4, 3 + 0xB8, 3 + 0x96]);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    let mut stream = tokenizer.decode_stream(ControlTokens::Hide);
    let pieces: Vec<String> =
        [3 + 0xE4, 3 + 0xB8, 3 + 0x96].iter().map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!(pieces, ["", "", "世"]);

    let mut no_bytes = llama(&[]);
    no_bytes.tokens = Texts::collect("tokens", ["<unk>", "a"]).unwrap();
    no_bytes.token_types = Some(vec![2, 1]);
    no_bytes.scores = Some(vec![0.0, 0.0]);
    no_bytes.ids = SpecialIds { unk: Some(0), ..SpecialIds::default() };
    assert_eq!(tokens(&no_bytes, "a世"), [1, 0]);
    no_bytes.ids.unk = None;
    let error = Tokenizer::new(&no_bytes).unwrap().encode("世", Special::Parse).unwrap_err();
    assert_eq!(error, TokenizerError::NoTokenForText { text: "世".into() });
}

#[test]
fn text_never_becomes_a_control_or_byte_token_by_merging() {
    let words = [("<", -5.0), ("s", -5.0), (">", -5.0), ("<s", -1.0)];
    let tokenizer = Tokenizer::new(&llama(&words)).unwrap();
    assert_eq!(tokenizer.encode("<s>", Special::AsText).unwrap(), [262, 261]);
    assert_eq!(tokenizer.encode("<s>", Special::Parse).unwrap(), [1]);
    let alone = Tokenizer::new(&gpt2("llama-bpe", &[], &[("stop", 3)], &[])).unwrap();
    assert_eq!(alone.encode("stop", Special::AsText).unwrap().len(), 4);
}

#[test]
fn end_tokens_are_those_with_a_role_and_those_known_by_name() {
    let mut vocab = gpt2("qwen2", &["</s>"], &[("<|im_end|>", 3), ("<|endoftext|>", 3), ("<x>", 3)], &[]);
    vocab.ids.eos = Some(259);
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    let ends: Vec<u32> = (0..260).filter(|id| tokenizer.is_end(*id)).collect();
    // 256 is ordinary text that looks like an end token.
    assert_eq!(ends, [257, 258, 259]);
}

#[test]
fn a_bad_vocabulary_is_refused_by_name() {
    let base = || gpt2("qwen2", &["ab"], &[("<e>", 3)], &["a b"]);
    let refused = |change: &dyn Fn(&mut Vocab)| {
        let mut vocab = base();
        change(&mut vocab);
        Tokenizer::new(&vocab).unwrap_err()
    };
    let merges = |text: &str| Some(Texts::collect("merges", [text]).unwrap());
    use TokenizerError as E;

    assert!(Tokenizer::new(&base()).is_ok());
    assert_eq!(refused(&|v| v.tokens = Texts::new()), E::EmptyVocab);
    assert_eq!(
        refused(&|v| v.token_types = Some(vec![1; 257])),
        E::LengthMismatch { array: "token_type", found: 257, expected: 258 }
    );
    assert_eq!(
        refused(&|v| v.token_types.as_mut().unwrap()[7] = 9),
        E::UnknownTokenType { index: 7, found: 9 }
    );
    assert_eq!(
        refused(&|v| v.ids.eos = Some(258)),
        E::IdOutOfRange { what: "eos_token_id", id: 258, n_tokens: 258 }
    );
    assert_eq!(
        refused(&|v| v.ids.pad = Some(u32::MAX)),
        E::IdOutOfRange { what: "padding_token_id", id: u32::MAX, n_tokens: 258 }
    );
    assert_eq!(
        refused(&|v| v.add_bos = true),
        E::MissingId { flag: "add_bos_token", id_key: "bos_token_id" }
    );
    assert_eq!(
        refused(&|v| v.add_eos = true),
        E::MissingId { flag: "add_eos_token", id_key: "eos_token_id" }
    );
    assert_eq!(refused(&|v| v.merges = None), E::MissingArray { array: "merges", model: "gpt2" });
    for bad in ["ab", "a", " b", "a ", "a b c", "a  b", ""] {
        assert_eq!(refused(&|v| v.merges = merges(bad)), E::BadMerge { index: 0, text: bad.into() });
    }
    assert_eq!(refused(&|v| v.merges = merges("a c")), E::MergeOutsideVocab { index: 0, text: "ac".into() });
    assert!(matches!(refused(&|v| v.pre = "viking".into()), E::UnsupportedPre { .. }));
    assert_eq!(
        refused(&|v| v.token_types.as_mut().unwrap()[256] = 3),
        E::MergeMakesControl { index: 0, id: 256 }
    );
    assert_eq!(
        refused(&|v| v.token_types.as_mut().unwrap()[256] = 6),
        E::BadByteToken { index: 256, text: "ab".into() }
    );
    let long = "x".repeat(2049);
    let error = Tokenizer::new(&gpt2("qwen2", &[&long], &[], &[])).unwrap_err();
    assert_eq!(error, E::TokenTooLong { index: 256, kind: "ordinary", found: 2049, limit: 2048 });
    let error = Tokenizer::new(&gpt2("qwen2", &[], &[(&long[..257], 3)], &[])).unwrap_err();
    assert_eq!(error, E::TokenTooLong { index: 256, kind: "special", found: 257, limit: 256 });
}

#[test]
fn a_bad_score_or_byte_table_is_refused_by_name() {
    use TokenizerError as E;
    let refused = |change: &dyn Fn(&mut Vocab)| {
        let mut vocab = llama(&[("a", -1.0)]);
        change(&mut vocab);
        Tokenizer::new(&vocab).unwrap_err()
    };
    assert!(Tokenizer::new(&llama(&[("a", -1.0)])).is_ok());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = refused(&|v| v.scores.as_mut().unwrap()[5] = bad);
        assert!(matches!(error, E::ScoreNotFinite { index: 5, .. }), "{error}");
    }
    assert_eq!(
        refused(&|v| v.scores.as_mut().unwrap().truncate(3)),
        E::LengthMismatch { array: "scores", found: 3, expected: 260 }
    );
    assert_eq!(refused(&|v| v.scores = None), E::MissingArray { array: "scores", model: "llama" });
    assert_eq!(refused(&|v| v.token_types = None), E::MissingArray { array: "token_type", model: "llama" });
    assert_eq!(
        refused(&|v| v.token_types.as_mut().unwrap()[3 + 0x41] = 1),
        E::IncompleteByteTokens { found: 255, missing: 0x41 }
    );
    assert!(matches!(
        VocabModel::from_name("bert").unwrap_err(),
        E::UnsupportedModel { found } if found == "bert"
    ));
}

#[test]
fn an_id_past_the_vocabulary_is_an_error_and_not_a_panic() {
    let tokenizer = Tokenizer::new(&gpt2("qwen2", &[], &[], &[])).unwrap();
    let expected = TokenizerError::IdOutOfRange { what: "token", id: 256, n_tokens: 256 };
    assert_eq!(tokenizer.decode(&[256], ControlTokens::Hide).unwrap_err(), expected);
    assert_eq!(tokenizer.decode_stream(ControlTokens::Show).push(256).unwrap_err(), expected);
    assert!(!tokenizer.is_end(u32::MAX));
}

#[test]
fn a_vocabulary_without_byte_tokens_says_which_byte_is_missing() {
    let mut vocab = gpt2("qwen2", &[], &[], &[]);
    vocab.tokens = Texts::collect("tokens", ["a"]).unwrap();
    vocab.token_types = None;
    let error = Tokenizer::new(&vocab).unwrap().encode("ab", Special::Parse).unwrap_err();
    assert_eq!(error, TokenizerError::NoTokenForByte { byte: b'b' });
    vocab.ids.unk = Some(0);
    assert_eq!(tokens(&vocab, "ab"), [0, 0]);
}

/// One megabyte of the texts that make careless tokenizers quadratic.
fn long_texts() -> Vec<String> {
    ["a", " ", "\n", "🙂", "1", "!", "\u{2581}", "<", " \n", "\u{301}"]
        .iter()
        .map(|unit| unit.repeat((1 << 20) / unit.len()))
        .collect()
}

#[test]
fn a_megabyte_of_one_character_takes_linear_time() {
    let runs: Vec<String> = (2..=64).map(|n| "a".repeat(n)).collect();
    let words: Vec<&str> = runs.iter().map(String::as_str).collect();
    let merges: Vec<String> = (1..64).map(|n| format!("{} a", "a".repeat(n))).collect();
    let merges: Vec<&str> = merges.iter().map(String::as_str).collect();
    let special: Vec<String> = (1..=200).map(|n| "\n".repeat(n)).collect();
    let special: Vec<(&str, i32)> = special.iter().map(|text| (text.as_str(), 4)).collect();
    let scored: Vec<(&str, f32)> = words.iter().map(|word| (*word, word.len() as f32)).collect();
    let tokenizers = [
        Tokenizer::new(&gpt2("qwen2", &words, &special, &merges)).unwrap(),
        Tokenizer::new(&gpt2("default", &words, &[], &merges)).unwrap(),
        Tokenizer::new(&llama(&scored)).unwrap(),
    ];
    for tokenizer in &tokenizers {
        for text in long_texts() {
            let start = Instant::now();
            let ids = tokenizer.encode(&text, Special::Parse).unwrap();
            let decoded = tokenizer.decode(&ids, ControlTokens::Show).unwrap();
            // `llama` cannot tell its space mark from a space; and a megabyte is too long to print.
            let same = decoded.replace('\u{2581}', " ") == text.replace('\u{2581}', " ");
            assert!(same, "{:?}… came back changed", text.chars().next());
            // Quadratic time would be hours; ten seconds leaves room for a slow, shared machine.
            let took = start.elapsed();
            println!("{:?}… took {took:?}", text.chars().next());
            assert!(took < Duration::from_secs(10), "{:?}… took {took:?}", text.chars().next());
        }
    }
}

/// Numbers for made-up vocabularies; the seed is in the message of a failure.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn text(&mut self, most: usize) -> String {
        const CHARS: [char; 12] =
            ['a', 'b', '<', '>', ' ', '\n', '1', '\'', 'Ġ', '\u{2581}', '🙂', '\u{301}'];
        (0..self.below(most + 1)).map(|_| CHARS[self.below(CHARS.len())]).collect()
    }
}

#[test]
fn made_up_vocabularies_are_refused_or_work_but_never_panic() {
    let mut n_accepted = 0;
    for seed in 0..4000 {
        let mut numbers = Numbers(seed);
        let model = [VocabModel::Gpt2, VocabModel::Llama][numbers.below(2)];
        let mut words: Vec<String> = (0..numbers.below(24)).map(|_| numbers.text(4)).collect();
        words.sort();
        words.dedup();
        let types = words.iter().map(|_| 1 + numbers.below(5) as i32).collect();
        let mut merges: Vec<String> = Vec::new();
        for word in &words {
            let cut = word.char_indices().nth(1).map_or(0, |(at, _)| at);
            if numbers.below(3) == 0 && cut > 0 {
                merges.push(format!("{} {}", &word[..cut], &word[cut..]));
            }
        }
        let id = |numbers: &mut Numbers| Some(numbers.below(25) as u32).filter(|id| *id < 20);
        let vocab = Vocab {
            model,
            pre: ["qwen2", "llama-bpe", "gpt-2", "default", "smollm", "?"][numbers.below(6)].into(),
            tokens: Texts::collect("tokens", words.iter().map(String::as_str)).unwrap(),
            token_types: Some(types).filter(|_| numbers.below(8) > 0),
            scores: Some(words.iter().map(|_| numbers.below(9) as f32 - 4.0).collect()),
            merges: Some(Texts::collect("merges", merges.iter().map(String::as_str)).unwrap()),
            ids: SpecialIds { bos: id(&mut numbers), unk: id(&mut numbers), ..SpecialIds::default() },
            add_bos: numbers.below(2) == 0,
            add_eos: false,
            add_space_prefix: numbers.below(2) == 0,
        };
        let Ok(tokenizer) = Tokenizer::new(&vocab) else { continue };
        n_accepted += 1;
        for special in [Special::Parse, Special::AsText] {
            let text = numbers.text(20);
            let Ok(ids) = tokenizer.encode(&text, special) else { continue };
            assert!(ids.iter().all(|id| *id < tokenizer.vocab_size()), "seed {seed}");
            assert!(tokenizer.decode(&ids, ControlTokens::Show).is_ok(), "seed {seed}");
        }
    }
    assert!(n_accepted > 400, "only {n_accepted} of 4000 were accepted, so little was tested");
}

#[test]
fn the_longest_tokens_that_are_accepted_keep_a_megabyte_linear() {
    // Every length up to the limit is a token, so each step of the merging looks one up.
    let runs: Vec<String> = (1..=2048).map(|n| "a".repeat(n)).collect();
    let words: Vec<(&str, f32)> = runs.iter().map(|word| (word.as_str(), word.len() as f32)).collect();
    let tokenizer = Tokenizer::new(&llama(&words)).unwrap();
    let start = Instant::now();
    let ids = tokenizer.encode(&"a".repeat(1 << 20), Special::Parse).unwrap();
    assert_eq!(ids, vec![258 + 2048; 512]);
    let took = start.elapsed();
    println!("2048 lengths took {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
}
