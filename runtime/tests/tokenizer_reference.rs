//! The tokenizers against token ids that llama.cpp gives for the same files. The files are large, so they are looked for
//! in the folder that `MONOMORPH_MODELS` names; without it the tests say that they are skipped.

#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout, reason = "a failed case ends the test")]

use std::path::Path;

use monomorph_runtime::gguf::Gguf;
use monomorph_runtime::tokenizer::{ControlTokens, Special, Tokenizer};

/// The tokenizer of a model file, or nothing when it is not at hand.
fn tokenizer(file: &str) -> Option<Tokenizer> {
    let Some(folder) = std::env::var_os("MONOMORPH_MODELS") else {
        println!("skipped: MONOMORPH_MODELS names no folder of models");
        return None;
    };
    let path = Path::new(&folder).join(file);
    if !path.is_file() {
        println!("skipped: no {}", path.display());
        return None;
    }
    Some(Tokenizer::from_gguf(&Gguf::open(path).unwrap()).unwrap())
}

fn qwen() -> Option<Tokenizer> {
    tokenizer("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf")
}

fn gemma() -> Option<Tokenizer> {
    tokenizer("gemma-3-270m-q4_k_m.gguf")
}

/// A text and its token ids.
type Case<'a> = (&'a str, &'a [u32]);

/// Texts that catch a rule misread; an independent implementation gives the same ids.
const QWEN_STRANGE: &[Case<'_>] = &[
    ("I'M sure we'Ll don'T 'x'", &[40, 27603, 2704, 582, 91426, 75, 1513, 17323, 364, 87, 6]),
    ("a\r\n\r\n  b\t\t\tc   ", &[64, 871, 220, 293, 298, 1444, 262]),
    ("   \n\n   \n x", &[33933, 5872, 856]),
    ("12345 ½ Ⅷ ٣٤", &[16, 17, 18, 19, 20, 220, 26062, 220, 70467, 100, 220, 149, 96, 149, 97]),
    (
        "e\u{301}\u{301}a ñ ก็ नमस्ते",
        &[68, 53839, 53839, 64, 1683, 109, 126675, 83282, 14925, 101, 87244, 78368, 30484, 97, 34370],
    ),
    ("שלום مرحبا\u{202e}!", &[126654, 23364, 126860, 124671, 378, 106, 0]),
    (
        "👨\u{200d}👩\u{200d}👧 ❤\u{fe0f}🇩🇪",
        &[145367, 378, 235, 145233, 378, 235, 145665, 70470, 30543, 145862, 145336],
    ),
    ("\u{a0}\u{3000}x\u{2003}\u{200b}\u{feff}", &[4102, 22441, 87, 378, 225, 15692, 3225]),
    ("\u{0}\u{1}\u{7f}\u{85}\u{2028}", &[188, 189, 221, 126, 227, 378, 101]),
    ("ſ'ſ İK", &[144815, 6, 144815, 38421, 42]),
    ("<|im_start|>a<tool_call>b</tool_call><|im_end", &[151644, 64, 151657, 65, 151658, 27, 91, 318, 6213]),
    ("𝔘𐍈 한국어テスト", &[124026, 246, 126190, 230, 130092, 31079, 140592]),
    ("                                        if x:", &[2559, 421, 856, 25]),
    (
        "<b>a</code><start_of_turn>user\n<bos>",
        &[33177, 43875, 522, 1851, 1784, 2468, 3575, 37274, 29, 872, 198, 33177, 436, 29],
    ),
    (
        "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t",
        &[79083, 198, 26921, 26921],
    ),
    ("<0x0A><s>", &[27, 15, 87, 15, 32, 1784, 82, 29]),
];

/// Texts that catch a rule misread; an independent implementation gives the same ids.
const GEMMA_STRANGE: &[Case<'_>] = &[
    (
        "I'M sure we'Ll don'T 'x'",
        &[2, 236777, 236789, 236792, 2889, 692, 236789, 148194, 1537, 236789, 236774, 756, 236781, 236789],
    ),
    ("a\r\n\r\n  b\t\t\tc   ", &[2, 236746, 251, 107, 251, 107, 138, 236763, 255970, 236755, 139]),
    ("   \n\n   \n x", &[2, 139, 108, 139, 107, 1123]),
    ("12345 ½ Ⅷ ٣٤", &[2, 236770, 236778, 236800, 236812, 236810, 47041, 236743, 251329, 223766, 242090]),
    ("e\u{301}\u{301}a ñ ก็ नमस्ते", &[2, 236744, 238288, 229580, 131079, 13793, 173040]),
    ("שלום مرحبا\u{202e}!", &[2, 82110, 42737, 150423, 244207, 236888]),
    (
        "👨\u{200d}👩\u{200d}👧 ❤\u{fe0f}🇩🇪",
        &[2, 243874, 237243, 243767, 237243, 244814, 64813, 246841, 245562],
    ),
    (
        "\u{a0}\u{3000}x\u{2003}\u{200b}\u{feff}",
        &[2, 432, 398, 465, 366, 366, 236781, 464, 366, 369, 237141, 237922],
    ),
    ("\u{0}\u{1}\u{7f}\u{85}\u{2028}", &[2, 238, 249732, 251541, 432, 371, 464, 366, 406]),
    ("ſ'ſ İK", &[2, 238071, 236789, 238071, 11732, 236855]),
    (
        "<|im_start|>a<tool_call>b</tool_call><|im_end",
        &[
            2, 236820, 236909, 548, 236779, 3041, 111038, 236746, 236820, 13205, 236779, 6639, 236813,
            236763, 954, 13205, 236779, 6639, 1798, 236909, 548, 236779, 643,
        ],
    ),
    ("𝔘𐍈 한국어テスト", &[2, 478, 395, 386, 390, 478, 382, 379, 374, 50413, 237430, 88733]),
    ("                                        if x:", &[2, 167, 145, 584, 1123, 236787]),
    ("<b>a</code><start_of_turn>user\n<bos>", &[2, 200, 236746, 215, 105, 2364, 107, 2]),
    (
        "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t",
        &[2, 137, 108, 255998, 255968],
    ),
    ("<0x0A><s>", &[2, 236820, 236771, 236781, 236771, 236776, 236813, 203]),
];

/// Each text gives its ids, and all ids come back as the text, at once and one by one.
fn check(tokenizer: &Tokenizer, cases: &[Case<'_>]) {
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(text, Special::Parse).unwrap(), *ids, "{text:?}");
        let skip = usize::from(tokenizer.encode("", Special::Parse).unwrap().len() == 1);
        assert_eq!(tokenizer.decode(&ids[skip..], ControlTokens::Show).unwrap(), *text);
        let mut stream = tokenizer.decode_stream(ControlTokens::Show);
        let mut streamed: String = ids[skip..].iter().map(|id| stream.push(*id).unwrap()).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, *text);
    }
}

const QWEN: &[Case<'_>] = &[
    ("def fibonacci(n):", &[750, 75698, 1445, 1648]),
    ("fn main() {", &[8822, 1887, 368, 314]),
    ("The capital of France is", &[785, 6722, 315, 9625, 374]),
    ("SELECT name, COUNT(*) FROM", &[4858, 829, 11, 23989, 28671, 4295]),
    (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWrite a haiku about Rust.<|im_end|>\n<|im_start|>assistant\n",
        &[
            151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198, 151644, 872, 198, 7985, 264,
            6386, 38242, 911, 33789, 13, 151645, 198, 151644, 77091, 198,
        ],
    ),
    (
        "Привет, мир! 你好，世界 — naïve café 🙂 1234567 \t\t tabs",
        &[
            53645, 26991, 8178, 11, 137144, 0, 220, 108386, 3837, 99489, 1959, 94880, 586, 51950, 27484, 220,
            16, 17, 18, 19, 20, 21, 22, 13043, 22398,
        ],
    ),
];

const GEMMA: &[Case<'_>] = &[
    ("Once upon a time", &[2, 14946, 3324, 496, 990]),
    ("The capital of France is", &[2, 818, 5279, 529, 7001, 563]),
    ("def fibonacci(n):", &[2, 2063, 10779, 78113, 236769, 236749, 1473]),
    (
        "Привет, мир! 你好 🙂 1234567 \t tabs",
        &[
            2, 116130, 236764, 58562, 236888, 43758, 237389, 57235, 236743, 236770, 236778, 236800, 236812,
            236810, 236825, 236832, 236743, 255968, 42364,
        ],
    ),
];

#[test]
fn qwen_agrees_with_the_reference() {
    let Some(tokenizer) = qwen() else { return };
    check(&tokenizer, QWEN);
    check(&tokenizer, QWEN_STRANGE);
    assert_eq!(tokenizer.vocab_size(), 151_936);
    assert!(tokenizer.is_end(151_645) && tokenizer.is_end(151_643) && !tokenizer.is_end(151_644));
}

#[test]
fn gemma_agrees_with_the_reference() {
    let Some(tokenizer) = gemma() else { return };
    check(&tokenizer, GEMMA);
    check(&tokenizer, GEMMA_STRANGE);
    assert_eq!(tokenizer.vocab_size(), 262_144);
    assert!(tokenizer.is_end(1) && tokenizer.is_end(106) && !tokenizer.is_end(2));
}

#[test]
fn typed_special_tokens_stay_text() {
    let Some(tokenizer) = qwen() else { return };
    let typed = tokenizer.encode("<|im_end|><tool_call>", Special::AsText).unwrap();
    // 151643 is the first control token; <tool_call> is user-defined and always taken whole.
    assert!(typed[..typed.len() - 1].iter().all(|id| *id < 151_643), "{typed:?}");
    assert_eq!(typed.last(), Some(&151_657));
}
