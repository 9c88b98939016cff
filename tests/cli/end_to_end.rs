//! Tokens end to end: the same every time, the same from a file as from memory, and those that the logits say.

use std::fs;

use monomorph::plan::QType;
use monomorph::runtime::gguf::Gguf;

use crate::fixture::{folder, tiny_gguf, tiny_table};
use crate::{Ran, run};

const PROMPT: &str = "Once upon";

fn generate(extra: &[&str]) -> Ran {
    let mut args = vec!["generate", "--device", "emulator", "-p", PROMPT, "-n", "4"];
    // Random weights, unless a model is named.
    if !extra.iter().any(|arg| ["-m", "--model"].contains(arg)) {
        args.extend(["--spec", "tiny"]);
    }
    args.extend_from_slice(extra);
    run(&args)
}

fn ids(json: &serde_json::Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn logits(tokens: &[u32], name: &str) -> Vec<f32> {
    let path = folder(name).join("logits.f32");
    let list: Vec<String> = tokens.iter().map(u32::to_string).collect();
    let out = path.to_str().unwrap();
    let ran =
        run(&["logits", "--spec", "tiny", "--device", "emulator", "--tokens", &list.join(","), "-o", out]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes.len(), 4 * 4096);
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn argmax(logits: &[f32]) -> u32 {
    let greatest = logits.iter().copied().fold(f32::MIN, f32::max);
    logits.iter().position(|l| *l == greatest).unwrap() as u32
}

#[test]
fn equal_runs_give_equal_tokens_whatever_the_threads() {
    let first = generate(&["--json", "--threads", "1"]).json();
    let second = generate(&["--json", "--threads", "3", "--checks", "full"]).json();
    assert_eq!(first["tokens"], second["tokens"]);
    assert_eq!(first["text"], second["text"]);
    assert_eq!(ids(&first["tokens"]).len(), 4);
}

#[test]
fn a_file_of_the_same_weights_gives_the_same_tokens() {
    let memory = generate(&["--json"]).json();
    let file = generate(&["--json", "-m", tiny_gguf()]).json();
    assert_eq!(memory["tokens"], file["tokens"]);
    assert_eq!(file["model"], tiny_gguf());
}

#[test]
fn the_stream_is_the_text_of_the_json() {
    let json = generate(&["--json"]).json();
    let stream = generate(&[]);
    assert_eq!(stream.stdout, format!("{}\n", json["text"].as_str().unwrap()));
}

#[test]
fn generated_tokens_are_the_greatest_logits_step_by_step() {
    let json = generate(&["--json"]).json();
    let mut tokens = ids(&json["prompt_tokens"]);
    for (step, token) in ids(&json["tokens"]).into_iter().take(2).enumerate() {
        let logits = logits(&tokens, &format!("step-{step}"));
        assert!(logits.iter().all(|l| l.is_finite()));
        // A model that sees nothing would give one logit everywhere.
        assert!(logits.iter().any(|l| *l != logits[0]));
        assert_eq!(argmax(&logits), token, "step {step}");
        tokens.push(token);
    }
}

#[test]
fn logits_depend_on_every_token_of_the_prompt() {
    let base = logits(&[1, 40, 41], "base");
    for (name, changed) in [("first", [2, 40, 41]), ("middle", [1, 50, 41]), ("last", [1, 40, 51])] {
        assert_ne!(logits(&changed, name), base, "{name}");
    }
}

#[test]
fn seeds_repeat_and_differ() {
    let draw = |seed: &str| {
        let args = ["--json", "--temperature", "5", "--top-k", "100", "--seed", seed];
        generate(&args).json()["tokens"].clone()
    };
    let first = draw("7");
    assert_eq!(first, draw("7"));
    // A hundred tokens at each of four steps: equal draws by chance are one in 10^8.
    assert_ne!(first, draw("8"));
}

#[test]
fn the_fixture_has_the_types_of_the_spec() {
    let gguf = Gguf::open(tiny_gguf()).unwrap();
    assert_eq!(gguf.n_tensors(), tiny_table().weights.len());
    let norm = gguf.find_tensor("blk.0.attn_norm.weight").unwrap();
    assert_eq!(norm.ggml_type().id(), QType::F32.ggml_id());
}

#[test]
fn the_built_in_model_tells_the_same_story_every_time() {
    let story = |extra: &[&str]| {
        let mut args = vec!["generate", "--device", "emulator", "-n", "12", "--json"];
        args.extend_from_slice(extra);
        run(&args).json()
    };
    let default = story(&[]);
    assert_eq!((default["model"].as_str(), default["spec"].as_str()), (Some("tiny"), Some("tiny")));
    assert_eq!(default["tokens"], story(&["--model", "tiny", "-p", "Once upon a time"])["tokens"]);
    assert_ne!(default["tokens"], story(&["--seed", "9"])["tokens"]);
    // It has learnt how stories begin: the likeliest word after the prompt is the one that everybody would say.
    let likeliest = story(&["--temperature", "0"]);
    let text = likeliest["text"].as_str().unwrap();
    assert!(text.starts_with(" there lived") || text.starts_with(" there was"), "{text:?}");
}

#[test]
fn the_built_in_file_is_what_its_spec_says() {
    let file = Gguf::from_static(monomorph::built_in("tiny").unwrap().gguf).unwrap();
    assert!(file.file_bytes() <= 6_000_000, "{}", file.file_bytes());
    for weight in tiny_table().weights.iter() {
        let tensor = file.find_tensor(&weight.name()).unwrap();
        assert_eq!(tensor.ggml_type().id(), weight.qtype.ggml_id(), "{}", tensor.name());
    }
}

#[test]
fn the_first_story_is_the_one_that_the_readme_and_the_card_tell() {
    let ran = run(&["generate", "--device", "emulator", "-n", "40"]);
    let story = ran.stdout.trim_end();
    assert!(ran.code == 0 && story.len() > 80, "{ran:?}");
    for file in ["README.md", "models/tiny.md"] {
        let text = fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(
            text.contains(story),
            "{file} tells another story than this, which its samples must follow: {story}"
        );
    }
}
