//! `monomorph generate`: continues a text. The text streams as whole characters; `--json` gives one object at the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use monomorph::parity;
use monomorph::runtime::sampling::SamplingConfig;
use monomorph::runtime::tokenizer::{ControlTokens, Special, StreamDecoder, Tokenizer};
use monomorph::runtime::{
    DraftCount, Error, FinishReason, GenerateOptions, LoadTimings, Model, Session, Timings,
};
use serde::Serialize;

use super::device::DeviceArgs;
use super::model::{ModelArgs, Prepared};
use super::output::{Output, note};
use super::progress::PromptBar;

/// What holds where the user says nothing.
#[derive(Clone, Copy)]
pub struct Defaults {
    n_tokens: u32,
    temperature: f32,
    repetition_penalty: f32,
}

/// Equal runs give equal text, and the text is what the model finds most likely.
pub const GREEDY: Defaults = Defaults { n_tokens: 64, temperature: 0.0, repetition_penalty: 1.0 };
/// A model as small as the built-in one repeats itself when it always takes what is likeliest; it is drawn from with a
/// seed, so that equal runs give equal text here too.
pub const BUILT_IN: Defaults = Defaults { n_tokens: 160, temperature: 0.6, repetition_penalty: 1.15 };

/// Continues a text with a model; streams what comes.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue, as it is: no chat template is applied
    #[arg(short = 'p', long, default_value = "Once upon a time", value_name = "TEXT")]
    prompt: String,
    /// The most tokens to generate [default: 64, of the built-in model 160]
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    n_tokens: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Guess up to this many tokens from what was said before and verify them in one step; the tokens stay the same
    #[arg(long, value_name = "N")]
    speculate: Option<u32>,
    /// First hold this many tokens of the prompt, repeated as needed, against the emulator: all logits, bit for bit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parity: Option<u32>,
    /// Special tokens written out in the prompt stay text
    #[arg(long)]
    no_special: bool,
    /// Show control tokens in the output
    #[arg(long)]
    show_control: bool,
    /// One JSON object at the end instead of a stream of text
    #[arg(long)]
    json: bool,
}

/// How a token is chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// 0 takes the greatest logit; 1 leaves the distribution as it is [default: 0, of the built-in model 0.6]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Keep this many of the greatest logits; 0 keeps all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: u32,
    /// Keep the fewest most probable tokens whose probabilities reach this sum
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// Keep tokens at least this probable relative to the most probable
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    min_p: f32,
    /// Divide positive and multiply negative logits of the last 64 tokens by this [default: 1, of the built-in model 1.15]
    #[arg(long, visible_alias = "repeat-penalty", value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Equal seeds give equal draws
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
}

impl SamplingArgs {
    /// The parameters, with `defaults` where nothing was said.
    pub fn config(&self, defaults: Defaults) -> SamplingConfig {
        let temperature = self.temperature.unwrap_or(defaults.temperature);
        let repetition_penalty = self.repetition_penalty.unwrap_or(defaults.repetition_penalty);
        let SamplingArgs { top_k, top_p, min_p, seed, .. } = *self;
        SamplingConfig { temperature, top_k, top_p, min_p, repetition_penalty, seed }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    model: &'a str,
    spec: &'a str,
    prompt_tokens: &'a [u32],
    tokens: &'a [u32],
    text: &'a str,
    load_s: f64,
    prefill_tok_s: f64,
    decode_tok_s: f64,
}

impl Generate {
    /// Runs the verb.
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let origin = self.model.open()?;
        let defaults = if origin.is_built_in() { BUILT_IN } else { GREEDY };
        let opened = self.device.open()?;
        let prepared = self.model.prepare(origin, opened.queue.as_ref())?;
        let special = if self.no_special { Special::AsText } else { Special::Parse };
        let prompt = prepared.tokenizer.encode(&self.prompt, special)?;
        prepared.check_prompt(prompt.len())?;
        let model = prepared.load(&opened.queue)?;
        let load = start.elapsed();
        note(&load_summary(load, &model));
        if let Some(n_tokens) = self.parity {
            self.check_parity(&model, &prepared, (&prompt, n_tokens))?;
        }
        let mut session = model.session()?;

        let mut out = Output::new();
        let options = self.options(&prepared.tokenizer, defaults);
        let asked = options.max_tokens;
        let produced = self.produce(&mut session, (&prompt, options), (&prepared.tokenizer, &mut out));
        if !self.json {
            // Also after an error: what came before it stays on a line of its own.
            out.stream("\n")?;
        }
        let produced = produced?;
        if self.json {
            out.json(&Report {
                device: opened.queue.name(),
                model: &prepared.name,
                spec: &prepared.table.spec,
                prompt_tokens: &prompt,
                tokens: &produced.tokens,
                text: &produced.text,
                load_s: load.as_secs_f64(),
                prefill_tok_s: produced.timings.prefill_tok_s(),
                decode_tok_s: produced.timings.decode_tok_s(),
            })?;
        }
        out.finish()?;
        note(&produced.summary(asked));
        Ok(())
    }

    /// Compares the model with itself on the emulator, whose copy is freed before the first token is generated.
    fn check_parity(
        &self,
        model: &Model,
        prepared: &Prepared,
        (prompt, n_tokens): (&[u32], u32),
    ) -> Result<()> {
        let reference = prepared.load(&self.device.emulator())?;
        let tokens: Vec<u32> = prompt.iter().copied().cycle().take(n_tokens as usize).collect();
        parity::check(model, &reference, &tokens)?;
        note(&format!(
            "parity: the logits of {} tokens are those of the emulator, bit for bit",
            tokens.len()
        ));
        Ok(())
    }

    fn options(&self, tokenizer: &Tokenizer, defaults: Defaults) -> GenerateOptions {
        GenerateOptions {
            max_tokens: Some(self.n_tokens.unwrap_or(defaults.n_tokens)),
            sampling: self.sampling.config(defaults),
            stop: (0..tokenizer.vocab_size()).filter(|id| tokenizer.is_end(*id)).collect(),
            ..GenerateOptions::default()
        }
    }

    fn produce(
        &self,
        session: &mut Session,
        (prompt, options): (&[u32], GenerateOptions),
        (tokenizer, out): (&Tokenizer, &mut Output),
    ) -> Result<Produced> {
        let control = if self.show_control { ControlTokens::Show } else { ControlTokens::Hide };
        let decoder = tokenizer.decode_stream(control);
        let text = Text { decoder, out, json: self.json, tokens: Vec::new(), text: String::new() };
        let bar = PromptBar::start(prompt.len());
        let options = GenerateOptions { watch: bar.watch(), ..options };
        let Some(draft) = self.speculate else {
            let mut generation = session.generate(prompt, options)?;
            drop(bar);
            let (tokens, text) = text.follow(&mut generation)?;
            let (timings, finish) = (generation.timings(), generation.finish_reason());
            return Ok(Produced { tokens, text, timings, finish });
        };
        let start = Instant::now();
        let mut speculation = session.speculate(prompt, draft, options)?;
        drop(bar);
        let prefill = start.elapsed();
        let (tokens, text) = text.follow(&mut speculation)?;
        let DraftCount { steps, drafted, accepted } = speculation.counts();
        note(&format!("drafts: {accepted} of {drafted} guessed tokens were right; {steps} steps"));
        let timings = Timings {
            prefill_tokens: prompt.len() as u32,
            prefill,
            decode_tokens: (tokens.len() as u32).saturating_sub(1),
            decode: start.elapsed() - prefill,
        };
        Ok(Produced { tokens, text, timings, finish: speculation.finish_reason() })
    }
}

/// What is told of a load, which took `load` from the opening of the file on.
fn load_summary(load: Duration, model: &Model) -> String {
    let LoadTimings { kernels, weights } = model.load_timings();
    let [load, kernels, weights] = [load, kernels, weights].map(|time| time.as_secs_f64());
    format!("loaded in {load:.2} s, kernels {kernels:.2} s beside weights {weights:.2} s")
}

/// The text of a stream of tokens, shown as it comes.
struct Text<'a> {
    decoder: StreamDecoder<'a>,
    out: &'a mut Output,
    json: bool,
    tokens: Vec<u32>,
    text: String,
}

impl Text<'_> {
    fn show(&mut self, piece: &str) -> Result<()> {
        self.text.push_str(piece);
        if self.json { Ok(()) } else { self.out.stream(piece) }
    }

    /// The tokens and the text of the whole stream.
    fn follow(mut self, stream: &mut dyn Iterator<Item = Result<u32, Error>>) -> Result<(Vec<u32>, String)> {
        for token in stream {
            let token = token?;
            self.tokens.push(token);
            let piece = self.decoder.push(token)?;
            self.show(&piece)?;
        }
        let rest = self.decoder.finish();
        self.show(&rest)?;
        Ok((self.tokens, self.text))
    }
}

/// What a generation gave.
struct Produced {
    tokens: Vec<u32>,
    text: String,
    timings: Timings,
    finish: Option<FinishReason>,
}

impl Produced {
    /// What is told of a generation of which `asked` tokens were wanted.
    fn summary(&self, asked: Option<u32>) -> String {
        let end = match self.finish {
            Some(FinishReason::Stop(token)) => format!("stopped at token {token}"),
            Some(FinishReason::Length) if asked.is_none_or(|asked| self.tokens.len() < asked as usize) => {
                "the context is full".to_owned()
            }
            Some(FinishReason::Length) => "length reached".to_owned(),
            Some(FinishReason::Cancelled) => "cancelled".to_owned(),
            Some(FinishReason::Failed) | None => "not ended".to_owned(),
        };
        let Timings { prefill_tokens, .. } = self.timings;
        format!(
            "prompt {prefill_tokens} tokens, {:.2} tok/s; generated {}, {:.2} tok/s; {end}",
            self.timings.prefill_tok_s(),
            self.tokens.len(),
            self.timings.decode_tok_s(),
        )
    }
}
