//! `monomorph bench`: prefill and decode speed, the mean and the standard deviation over repetitions.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use monomorph::plan::{Role, Table};
use monomorph::runtime::{CancelToken, Session};
use serde::Serialize;

use super::device::DeviceArgs;
use super::model::ModelArgs;
use super::output::{Output, note};

/// Tokens of the prompt and generated ones, where the user does not say: a device, and the far slower emulator.
const ON_DEVICE: (u32, u32) = (512, 128);
const ON_EMULATOR: (u32, u32) = (16, 8);

/// Measures prefill and decode.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt [default: 512, on the emulator 16]
    #[arg(short = 'p', long = "prompt-tokens", value_name = "N")]
    prompt: Option<u32>,
    /// Tokens to decode after it [default: 128, on the emulator 8]
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    decode: Option<u32>,
    /// How often each is measured, after one round that is not
    #[arg(short = 'r', long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    #[command(flatten)]
    device: DeviceArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    device: String,
    model: String,
    spec: String,
    repetitions: u32,
    /// Weights that a token reads.
    weights_bytes: u64,
    prefill: Speed,
    decode: Speed,
    /// Weights read a second while decoding, GB.
    decode_gb_s: f64,
}

#[derive(Serialize)]
struct Speed {
    tokens: u32,
    tok_s: f64,
    tok_s_sd: f64,
}

impl Bench {
    /// Runs the verb.
    pub fn run(mut self) -> Result<()> {
        let origin = self.model.open()?;
        let opened = self.device.open()?;
        let default = if opened.queue.sm().is_some() { ON_DEVICE } else { ON_EMULATOR };
        let (n_prompt, n_decode) = (self.prompt.unwrap_or(default.0), self.decode.unwrap_or(default.1));
        if n_prompt == 0 || n_decode == 0 {
            bail!("-p and -n must be at least 1, found {n_prompt} and {n_decode}");
        }
        self.model.context.get_or_insert(n_prompt.saturating_add(n_decode));
        let prepared = self.model.prepare(origin, opened.queue.as_ref())?;
        let model = prepared.load(&opened.queue)?;
        let mut session = model.session()?;
        let vocab_size = prepared.table.dims.vocab_size;
        // Spread over the vocabulary, so that no row of the embedding is read again and again.
        let prompt: Vec<u32> = (0..n_prompt).map(|i| i.wrapping_mul(2_654_435_761) % vocab_size).collect();

        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for round in 0..=self.repetitions {
            let (p, d) = measure(&mut session, &prompt, n_decode)?;
            // The first round warms caches and clocks.
            if round > 0 {
                prefill.push(p);
                decode.push(d);
            }
            note(&format!("round {round}: prefill {p:.2} tok/s, decode {d:.2} tok/s"));
        }
        let weights_bytes = weights_bytes(&prepared.table);
        let decode = speed(n_decode, &decode);
        let report = Report {
            device: opened.queue.name().to_owned(),
            model: prepared.name.clone(),
            spec: prepared.table.spec.to_string(),
            repetitions: self.repetitions,
            weights_bytes,
            prefill: speed(n_prompt, &prefill),
            decode_gb_s: weights_bytes as f64 * decode.tok_s / 1e9,
            decode,
        };
        let mut out = Output::new();
        if self.json {
            out.json(&report)?;
        } else {
            for line in report.lines() {
                out.line(&line)?;
            }
        }
        out.finish()
    }
}

/// Tokens a second of the prompt and of the tokens after it.
fn measure(session: &mut Session, prompt: &[u32], n_decode: u32) -> Result<(f64, f64)> {
    session.reset();
    let start = Instant::now();
    session.prefill(prompt, &CancelToken::new())?;
    let prefill = start.elapsed().as_secs_f64();
    let mut token = session.chosen()?;
    let start = Instant::now();
    for _ in 0..n_decode {
        session.step_with_head(token)?;
        token = session.chosen()?;
    }
    let decode = start.elapsed().as_secs_f64();
    Ok((prompt.len() as f64 / prefill, f64::from(n_decode) / decode))
}

fn speed(tokens: u32, samples: &[f64]) -> Speed {
    let n = samples.len().max(1) as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|s| (s - mean).powi(2)).sum();
    // The sample's standard deviation; a single sample has none.
    let tok_s_sd = if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
    Speed { tokens, tok_s: mean, tok_s_sd }
}

/// Bytes of weights that one token reads: all of them, but only a row of an embedding that is not the head too.
fn weights_bytes(table: &Table) -> u64 {
    let rows_read = |role: Role| role != Role::TokenEmbd || table.dims.tied_head;
    let whole: u64 = table.weights.iter().filter(|w| rows_read(w.role)).map(|w| w.packed_bytes).sum();
    let row: u64 =
        table.weights.iter().filter(|w| !rows_read(w.role)).map(|w| w.qtype.row_bytes(w.cols)).sum();
    whole + row
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let Report { device, model, spec, repetitions, prefill, decode, .. } = self;
        vec![
            format!("{model} (spec {spec}) on {device}, {repetitions} repetitions"),
            format!(
                "prefill {:>5} tokens  {:.2} ± {:.2} tok/s",
                prefill.tokens, prefill.tok_s, prefill.tok_s_sd
            ),
            format!(
                "decode  {:>5} tokens  {:.2} ± {:.2} tok/s  {:.2} GB/s of weights ({} bytes a token)",
                decode.tokens, decode.tok_s, decode.tok_s_sd, self.decode_gb_s, self.weights_bytes
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_have_mean_and_deviation() {
        let found = speed(8, &[1.0, 2.0, 3.0]);
        assert_eq!((found.tok_s, found.tok_s_sd), (2.0, 1.0));
        assert_eq!(speed(8, &[5.0]).tok_s_sd, 0.0);
    }
}
