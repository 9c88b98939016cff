//! `monomorph bench`: speed of prefill and of decoding, alone and in batches, at some depth of the cache; the mean and
//! the standard deviation over repetitions.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use monomorph::plan::{Role, Table};
use monomorph::runtime::{Batch, BatchRow, CancelToken, Model, Session};
use serde::Serialize;

use super::device::DeviceArgs;
use super::kernels::BANDWIDTH;
use super::model::ModelArgs;
use super::output::{Output, note};
use super::progress::Rounds;
use super::table_text;
use super::tune::{self, Search};

/// Tokens of the prompt and generated ones, where the user does not say: a device, and the far slower emulator.
const ON_DEVICE: (u32, u32) = (512, 128);
const ON_EMULATOR: (u32, u32) = (16, 8);

/// Measures prefill and decode, alone and in batches.
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
    /// Sequences that are decoded together
    #[arg(short = 'b', long = "batch", value_delimiter = ',', default_value = "1", value_name = "N,N")]
    batches: Vec<u32>,
    /// Tokens in each cache before what is measured
    #[arg(long = "depth", value_delimiter = ',', default_value = "0", value_name = "N,N")]
    depths: Vec<u32>,
    /// How often each is measured, after one round that is not
    #[arg(short = 'r', long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Search the layouts of a spec's products of several rows instead, and time each; needs --spec
    #[arg(long, requires = "spec")]
    tune: bool,
    /// Rows of the products to search [default: of every step]
    #[arg(long, requires = "tune", value_delimiter = ',', value_name = "N,N")]
    tune_rows: Vec<u32>,
    /// File of winners to update, such as codegen/src/tuned/sm_90.toml
    #[arg(long, requires = "tune", value_name = "FILE")]
    winners: Option<PathBuf>,
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
    /// Weights that a step reads.
    weights_bytes: u64,
    /// The first prefill measured.
    prefill: Speed,
    /// The first decode measured.
    decode: Speed,
    /// Weights read a second while decoding so, GB.
    decode_gb_s: f64,
    tests: Vec<Test>,
}

#[derive(Clone, Serialize)]
struct Speed {
    tokens: u32,
    tok_s: f64,
    tok_s_sd: f64,
}

/// One line of the table.
#[derive(Serialize)]
struct Test {
    /// `pp512`, `tg128`, `tg128 ×8`, with `@ d4096` behind at a depth.
    test: String,
    batch: u32,
    depth: u32,
    /// Of all sequences together.
    #[serde(flatten)]
    speed: Speed,
    /// Weights read a second, GB; `null` for prefill, which reads them once a chunk.
    gb_s: Option<f64>,
}

impl Bench {
    /// Runs the verb.
    pub fn run(mut self) -> Result<()> {
        if let (true, Some(spec)) = (self.tune, &self.model.spec) {
            let search = Search { spec, rows: &self.tune_rows, winners: self.winners, json: self.json };
            return tune::run(&search, &self.device.open()?.queue);
        }
        let origin = self.model.open()?;
        let opened = self.device.open()?;
        let default = if opened.queue.sm().is_some() { ON_DEVICE } else { ON_EMULATOR };
        let (n_prompt, n_decode) = (self.prompt.unwrap_or(default.0), self.decode.unwrap_or(default.1));
        if n_prompt == 0 || n_decode == 0 || self.batches.contains(&0) {
            bail!("-p, -n and -b must be at least 1, found {n_prompt}, {n_decode} and {:?}", self.batches);
        }
        let deepest = self.depths.iter().copied().max().unwrap_or(0);
        let context = n_prompt.max(n_decode).saturating_add(deepest).saturating_add(1);
        self.model.context.get_or_insert(context);
        let prepared = self.model.prepare(origin, opened.queue.as_ref())?;
        let model = prepared.load(&opened.queue)?;
        let weights_bytes = weights_bytes(&prepared.table);
        let mut tests = Vec::new();
        for depth in &self.depths {
            tests.push(self.prefill(&model, (n_prompt, *depth))?);
            for batch in &self.batches {
                let mut test = self.decode(&model, (n_decode, *depth), *batch)?;
                test.gb_s = Some(weights_bytes as f64 * test.speed.tok_s / f64::from(*batch) / 1e9);
                tests.push(test);
            }
        }
        let first = |decode: bool| tests.iter().find(|test| test.gb_s.is_some() == decode);
        let (Some(prefill), Some(decode)) = (first(false), first(true)) else {
            bail!("nothing was measured")
        };
        let report = Report {
            device: opened.queue.name().to_owned(),
            model: prepared.name.clone(),
            spec: prepared.table.spec.to_string(),
            repetitions: self.repetitions,
            weights_bytes,
            prefill: prefill.speed.clone(),
            decode_gb_s: decode.gb_s.unwrap_or(0.0),
            decode: decode.speed.clone(),
            tests,
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

    /// Tokens a second of `measure`, which gives the seconds of each of its rounds; the first warms caches and clocks.
    fn repeated(
        &self,
        (test, tokens): (&str, u32),
        mut measure: impl FnMut() -> Result<f64>,
    ) -> Result<Speed> {
        let rounds = Rounds::new(test, u64::from(self.repetitions) + 1);
        let mut samples = Vec::new();
        for round in 0..=self.repetitions {
            let tok_s = f64::from(tokens) / measure()?;
            if round > 0 {
                samples.push(tok_s);
            }
            rounds.done(&format!("{test} {tok_s:.2} tok/s"));
        }
        Ok(speed(tokens, &samples))
    }

    fn prefill(&self, model: &Model, (n, depth): (u32, u32)) -> Result<Test> {
        let vocab_size = model.table().dims.vocab_size;
        let mut session = model.session()?;
        session.take(&spread(depth, 0, vocab_size))?;
        let prompt = spread(n, 1, vocab_size);
        let test = format!("pp{n}{}", at_depth(depth));
        let speed = self.repeated((&test, n), || {
            session.rewind(depth)?;
            model.queue().synchronize()?;
            let start = Instant::now();
            session.prefill(&prompt, &CancelToken::new())?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        note(&format!("{test}: {:.2} tok/s", speed.tok_s));
        Ok(Test { test, batch: 1, depth, speed, gb_s: None })
    }

    fn decode(&self, model: &Model, (n, depth): (u32, u32), batch: u32) -> Result<Test> {
        let vocab_size = model.table().dims.vocab_size;
        let mut sessions = Vec::new();
        for i in 0..batch {
            let mut session = model.session()?;
            session.take(&spread(depth, i, vocab_size))?;
            sessions.push(session);
        }
        let mut together = if batch > 1 { Some(model.batch(batch)?) } else { None };
        let many = if batch > 1 { format!(" ×{batch}") } else { String::new() };
        let test = format!("tg{n}{many}{}", at_depth(depth));
        let speed = self.repeated((&test, n * batch), || {
            for session in &mut sessions {
                session.rewind(depth)?;
            }
            model.queue().synchronize()?;
            let start = Instant::now();
            match (&mut together, &mut sessions[..]) {
                (Some(together), sessions) => decode_together(together, sessions, n)?,
                (None, [session, ..]) => decode_alone(session, n)?,
                (None, []) => {}
            }
            Ok(start.elapsed().as_secs_f64())
        })?;
        note(&format!("{test}: {:.2} tok/s", speed.tok_s));
        Ok(Test { test, batch, depth, speed, gb_s: None })
    }
}

fn at_depth(depth: u32) -> String {
    if depth > 0 { format!(" @ d{depth}") } else { String::new() }
}

/// Tokens spread over the vocabulary, so that no row of the embedding is read again and again.
fn spread(n: u32, from: u32, vocab_size: u32) -> Vec<u32> {
    (0..n).map(|i| (i + 7 * from).wrapping_mul(2_654_435_761) % vocab_size).collect()
}

fn decode_alone(session: &mut Session, n: u32) -> Result<()> {
    let mut token = 1;
    for _ in 0..n {
        session.step_with_head(token)?;
        token = session.chosen()?;
    }
    Ok(())
}

fn decode_together(batch: &mut Batch, sessions: &mut [Session], n: u32) -> Result<()> {
    let mut tokens: Vec<u32> = (1..=sessions.len() as u32).collect();
    for _ in 0..n {
        let mut rows: Vec<BatchRow<'_>> = sessions
            .iter_mut()
            .zip(tokens.chunks(1))
            .map(|(session, tokens)| BatchRow { session, tokens })
            .collect();
        batch.step(&mut rows)?;
        batch.choices(&mut tokens)?;
    }
    Ok(())
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
        let Report { device, model, spec, repetitions, weights_bytes, .. } = self;
        let gb_s = |test: &Test| test.gb_s.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
        let of_bandwidth = |test: &Test| {
            test.gb_s.map_or_else(|| "-".to_owned(), |v| format!("{:.1} %", v * 1e9 / BANDWIDTH * 100.0))
        };
        let cells = |test: &Test| {
            let Speed { tok_s, tok_s_sd, .. } = test.speed;
            vec![test.test.clone(), format!("{tok_s:.2} ± {tok_s_sd:.2}"), gb_s(test), of_bandwidth(test)]
        };
        let rows: Vec<Vec<String>> = self.tests.iter().map(cells).collect();
        let mut lines = vec![format!("{model} (spec {spec}) on {device}, {repetitions} repetitions")];
        lines.extend(table_text::columns(&["test", "tok/s", "GB/s", "of 4.5 TB/s"], &rows));
        lines.push(format!("GB/s: weights that steps read, {weights_bytes} bytes each"));
        lines
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
