//! Perplexity against the logits of the same model step by step, in batches of any size.

use std::fs;

use codegen::ModelSpec;
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{DeviceChoice, DeviceOptions, LoadOptions, Model, open_device};

use crate::contract::keys;
use crate::fixture::{folder, tiny_gguf, tiny_table};
use crate::run;

/// Positions of a window: its second half is scored.
const WINDOW: usize = 16;
const TEXT: &str =
    "It was a bright cold day in April, and the clocks were striking thirteen in the old town.";

/// The mean negative logarithm of the probabilities of the second half of each window, computed token by token.
fn expected(tokens: &[u32]) -> f64 {
    let opened = open_device(DeviceChoice::Emulator, &DeviceOptions::default()).unwrap();
    let options = LoadOptions { context: Some(WINDOW as u32), ..LoadOptions::default() };
    let model = Model::load(&opened.queue, tiny_table(), &SynthSource::new(1), &options).unwrap();
    let mut logits = vec![0.0f32; tiny_table().dims.vocab_size as usize];
    let mut session = model.session().unwrap();
    let mut surprises = Vec::new();
    for window in tokens.chunks_exact(WINDOW) {
        session.reset();
        for (i, token) in window[..WINDOW - 1].iter().enumerate() {
            session.step_with_head(*token).unwrap();
            if i + 1 >= WINDOW / 2 {
                session.logits(&mut logits).unwrap();
                let total: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
                surprises.push(total.ln() - f64::from(logits[window[i + 1] as usize]));
            }
        }
    }
    surprises.iter().sum::<f64>() / surprises.len() as f64
}

#[test]
fn it_is_what_the_logits_say_whatever_the_rows_of_a_step() {
    let folder = folder("perplexity");
    let (text, few) = (folder.join("text.txt"), folder.join("few.toml"));
    fs::write(&text, TEXT).unwrap();
    let mut spec: ModelSpec = monomorph::specs::find("tiny").unwrap();
    spec.steps.decode = vec![1, 3];
    fs::write(&few, spec.to_toml()).unwrap();
    let measure = |spec: &str, more: &[&str]| {
        let mut args =
            vec!["perplexity", "--device", "emulator", "--context", "16", "--json", "--spec", spec];
        args.extend(["--text", text.to_str().unwrap()]);
        args.extend(more);
        run(&args).json()
    };
    let json = measure("tiny", &["-n", "37"]);
    let mut names = ["device", "model", "spec", "tokens", "scored", "window", "nll", "perplexity", "tok_s"];
    names.sort_unstable();
    assert_eq!(keys(&json), names);
    // Two whole windows; a window's last token has nothing after it.
    assert_eq!((&json["tokens"], &json["scored"], &json["window"]), (&32.into(), &16.into(), &16.into()));
    let nll = json["nll"].as_f64().unwrap();
    let tokens = run(&["tokenize", "-m", tiny_gguf(), "--no-special", "-p", TEXT, "--json"]).json();
    let tokens: Vec<u32> =
        tokens["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let wanted = expected(&tokens[..32]);
    assert!((nll - wanted).abs() < 2e-3, "{nll} for {wanted}");
    assert!((json["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-9 * nll.exp());
    let by_threes = measure(few.to_str().unwrap(), &["-n", "37"]);
    assert_eq!(by_threes["nll"], json["nll"], "steps of three rows");
    let short = ["perplexity", "--device", "emulator", "--spec", "tiny", "--text", text.to_str().unwrap()];
    let error = run(&short).error().to_owned();
    assert!(error.contains("tokens") && error.contains("--context"), "{error}");
}
