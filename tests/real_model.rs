//! Real models against what llama.cpp computed with them: token ids, greedy tokens and logits.
//!
//! Runs when `MONOMORPH_MODELS` names a folder with the model files (`tools/fetch-models.sh` gets it); skipped out loud
//! otherwise. On the emulator only the first tokens of each case are decoded, on a CUDA device all of them;
//! `MONOMORPH_REAL_TOKENS=N` sets the number for both.
//!
//! The reference is in `tests/data`: ids and margins as JSON, the logits after the first prompt as f16. Weights are the
//! same file; activations are quantized differently, so that tokens are compared only until the first step at which the
//! reference's lead over its second choice is below [`LEAST_MARGIN`].

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed case ends the test; skips are told"
)]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use monomorph::plan::Table;
use monomorph::runtime::gguf::Gguf;
use monomorph::runtime::tokenizer::{Special, Tokenizer};
use monomorph::runtime::{
    CancelToken, DeviceChoice, DeviceOptions, LoadOptions, Model, Session, open_device,
};
use monomorph::{golden, specs};

/// A model with its reference.
struct Subject {
    file: &'static str,
    spec: &'static str,
    /// Cases as JSON, in `tests/data`.
    cases: &'static str,
    /// Logits after the first prompt.
    logits: &'static str,
    n_cases: usize,
    vocab_size: usize,
    /// Some case has at least this many tokens that the reference is sure of.
    sure_tokens: usize,
}

const QWEN: Subject = Subject {
    file: "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    spec: "qwen2.5-1.5b",
    cases: "qwen2.5-coder-1.5b.json",
    logits: "qwen2.5-coder-1.5b.case0-logits.f16",
    n_cases: 6,
    vocab_size: 151_936,
    sure_tokens: 8,
};

const GEMMA: Subject = Subject {
    file: "gemma-3-270m-q4_k_m.gguf",
    spec: "gemma-3-270m",
    cases: "gemma-3-270m.json",
    logits: "gemma-3-270m.case0-logits.f16",
    n_cases: 4,
    vocab_size: 262_144,
    sure_tokens: 4,
};

/// A step is decided when the reference's greatest logit leads by this much.
const LEAST_MARGIN: f64 = 0.5;
const LEAST_COSINE: f64 = 0.998;
/// Decoded tokens of each case on the emulator, which takes seconds for each.
const EMULATED_TOKENS: usize = 1;
/// Cases that are decoded on the emulator.
const EMULATED_CASES: usize = 1;

struct Case {
    prompt: String,
    prompt_tokens: Vec<u32>,
    greedy_tokens: Vec<u32>,
    greedy_margins: Vec<f64>,
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn cases(subject: &Subject) -> Vec<Case> {
    let text = fs::read_to_string(data(subject.cases)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let case = |case: &serde_json::Value| Case {
        prompt: case["prompt"].as_str().unwrap().to_owned(),
        prompt_tokens: ids(&case["prompt_tokens"]),
        greedy_tokens: ids(&case["greedy_tokens"]),
        greedy_margins: case["greedy_margins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m.as_f64().unwrap())
            .collect(),
    };
    json["cases"].as_array().unwrap().iter().map(case).collect()
}

fn reference_logits(subject: &Subject) -> Vec<f32> {
    let bytes = fs::read(data(subject.logits)).unwrap();
    bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
}

fn model_file(subject: &Subject) -> Option<PathBuf> {
    let folder = env::var_os("MONOMORPH_MODELS");
    let path = folder.map(|folder| Path::new(&folder).join(subject.file)).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("skipped: MONOMORPH_MODELS names no folder with {}", subject.file);
    }
    path
}

fn greatest(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The tokens that the reference is sure of: those before the first small margin.
fn sure_tokens(case: &Case) -> &[u32] {
    let unsure = case.greedy_margins.iter().position(|margin| *margin < LEAST_MARGIN);
    &case.greedy_tokens[..unsure.unwrap_or(case.greedy_tokens.len())]
}

fn decode(session: &mut Session, case: &Case, limit: usize) {
    for (step, wanted) in sure_tokens(case).iter().take(limit).enumerate() {
        let found = session.chosen().unwrap();
        assert_eq!(found, *wanted, "{:?}, step {step}", case.prompt);
        session.step_with_head(found).unwrap();
    }
}

fn check_logits(session: &Session, subject: &Subject) {
    let reference = reference_logits(subject);
    let mut logits = vec![0.0; subject.vocab_size];
    session.logits(&mut logits).unwrap();
    assert_eq!(logits.len(), reference.len());
    let found = cosine(&logits, &reference);
    assert!(found >= LEAST_COSINE, "cosine {found}, at least {LEAST_COSINE}");
    assert_eq!(greatest(&logits), greatest(&reference));
    eprintln!("logits: cosine {found:.6}");
}

fn table(subject: &Subject, sm: u32) -> Table {
    let spec = specs::find(subject.spec).unwrap();
    codegen::plan::build(&spec, golden::device(sm).unwrap()).unwrap().table
}

#[test]
fn the_references_are_whole() {
    for subject in [QWEN, GEMMA] {
        let (cases, logits) = (cases(&subject), reference_logits(&subject));
        assert_eq!((cases.len(), logits.len()), (subject.n_cases, subject.vocab_size));
        assert_eq!(greatest(&logits) as u32, cases[0].greedy_tokens[0]);
        // A reference that is never sure would compare nothing.
        assert!(cases.iter().any(|case| sure_tokens(case).len() >= subject.sure_tokens), "{}", subject.cases);
    }
}

#[test]
fn prompt_tokens_agree() {
    for subject in [QWEN, GEMMA] {
        let Some(path) = model_file(&subject) else { continue };
        let tokenizer = Tokenizer::from_gguf(&Gguf::open(path).unwrap()).unwrap();
        for case in cases(&subject) {
            let found = tokenizer.encode(&case.prompt, Special::Parse).unwrap();
            assert_eq!(found, case.prompt_tokens, "{:?}", case.prompt);
        }
    }
}

fn compare(subject: &Subject) {
    let Some(path) = model_file(subject) else { return };
    let opened = open_device(DeviceChoice::Auto, &DeviceOptions::default()).unwrap();
    let on_device = opened.queue.sm().is_some();
    eprintln!("device: {} ({})", opened.queue.name(), opened.why);
    let asked = env::var("MONOMORPH_REAL_TOKENS").ok().map(|text| text.parse::<usize>().unwrap());
    let n_tokens = asked.unwrap_or(if on_device { usize::MAX } else { EMULATED_TOKENS });
    let n_cases = if on_device || asked.is_some() { usize::MAX } else { EMULATED_CASES };

    let gguf = Gguf::open(path).unwrap();
    let options = LoadOptions { context: Some(512), ..LoadOptions::default() };
    let model = Model::load(&opened.queue, &table(subject, 90), &gguf, &options).unwrap();
    let mut session = model.session().unwrap();
    for (i, case) in cases(subject).iter().take(n_cases).enumerate() {
        session.reset();
        session.prefill(&case.prompt_tokens, &CancelToken::new()).unwrap();
        if i == 0 {
            check_logits(&session, subject);
        }
        decode(&mut session, case, n_tokens);
        eprintln!("{}, case {i}: {} tokens agree", subject.spec, sure_tokens(case).len().min(n_tokens));
    }
}

#[test]
fn logits_and_greedy_tokens_of_qwen_agree() {
    compare(&QWEN);
}

#[test]
fn logits_and_greedy_tokens_of_gemma_agree() {
    compare(&GEMMA);
}
