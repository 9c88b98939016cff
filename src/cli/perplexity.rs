//! `monomorph perplexity`: how well a model predicts a text.
//!
//! The text is cut into windows of the context, each run from an empty cache through the batch path. The tokens of a
//! window's second half are scored, so that each has at least half a window before it.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use monomorph::runtime::sampling::surprise;
use monomorph::runtime::tokenizer::Special;
use monomorph::runtime::{Batch, BatchRow, Session};
use serde::Serialize;

use super::device::DeviceArgs;
use super::model::ModelArgs;
use super::output::{Output, note};

/// Positions of a window where the user does not say.
const WINDOW: u32 = 512;
/// Rows of a step, where the model has steps of so many.
const ROWS: u32 = 32;

/// Measures how well a model predicts a text.
#[derive(Debug, Args)]
pub struct Perplexity {
    #[command(flatten)]
    model: ModelArgs,
    /// The text, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Only this many tokens of the text
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    limit: Option<usize>,
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
    /// Tokens of the text that were run.
    tokens: usize,
    /// Tokens that were scored.
    scored: usize,
    window: u32,
    /// Mean negative logarithm of the probability of a scored token.
    nll: f64,
    perplexity: f64,
    tok_s: f64,
}

/// What was scored so far.
#[derive(Default)]
struct Score {
    n: usize,
    /// Negative logarithms of probabilities.
    sum: f64,
}

impl Perplexity {
    /// Runs the verb.
    pub fn run(mut self) -> Result<()> {
        let text = fs::read_to_string(&self.text)
            .with_context(|| format!("cannot read --text {}", self.text.display()))?;
        let origin = self.model.open()?;
        let opened = self.device.open()?;
        let trained = self.model.prepare(origin, opened.queue.as_ref())?;
        let window = self.model.context.unwrap_or(WINDOW.min(trained.table.dims.context));
        self.model.context.get_or_insert(window);
        let prepared = trained.with_context(window);
        let mut tokens = prepared.tokenizer.encode(&text, Special::AsText)?;
        tokens.truncate(self.limit.unwrap_or(usize::MAX));
        // The last token of a text has nothing to predict.
        if window < 4 || tokens.len() < window as usize {
            bail!(
                "{}: {} tokens, and a window has {window}; a longer text or a smaller --context is needed",
                self.text.display(),
                tokens.len()
            );
        }
        let model = prepared.load(&opened.queue)?;
        let mut session = model.session()?;
        let mut batch = model.batch(ROWS.min(model.batch_rows()))?;
        let mut score = Score::default();
        let start = Instant::now();
        let windows = tokens.chunks_exact(window as usize);
        let n_windows = windows.len();
        for (i, window) in windows.enumerate() {
            session.reset();
            score.window(&mut batch, &mut session, window)?;
            note(&format!("window {} of {n_windows}: perplexity {:.4}", i + 1, score.perplexity()));
        }
        let run = n_windows * window as usize;
        let report = Report {
            device: opened.queue.name().to_owned(),
            model: prepared.name.clone(),
            spec: prepared.table.spec.to_string(),
            tokens: run,
            scored: score.n,
            window,
            nll: score.nll(),
            perplexity: score.perplexity(),
            tok_s: run as f64 / start.elapsed().as_secs_f64(),
        };
        let mut out = Output::new();
        match self.json {
            true => out.json(&report)?,
            false => out.line(&report.line())?,
        }
        out.finish()
    }
}

impl Report {
    fn line(&self) -> String {
        format!(
            "perplexity {:.4} over {} of {} tokens in windows of {}, {:.2} tok/s",
            self.perplexity, self.scored, self.tokens, self.window, self.tok_s
        )
    }
}

impl Score {
    fn nll(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }

    fn perplexity(&self) -> f64 {
        self.nll().exp()
    }

    /// Scores the second half of a window from an empty cache.
    fn window(&mut self, batch: &mut Batch, session: &mut Session, window: &[u32]) -> Result<()> {
        let half = window.len() / 2;
        let mut logits = vec![0.0; session.model().table().dims.vocab_size as usize];
        // All but the last token of the first half only fill the cache.
        let (filling, scoring) = window.split_at(half - 1);
        session.take(filling)?;
        // A row predicts the token after its own.
        let rows = scoring.len() - 1;
        let most = batch.rows() as usize;
        for first in (0..rows).step_by(most) {
            let n = most.min(rows - first);
            batch.step(&mut [BatchRow { session, tokens: &scoring[first..first + n] }])?;
            for row in 0..n {
                batch.logits(row, &mut logits)?;
                self.n += 1;
                let token = scoring[first + row + 1];
                self.sum += surprise(&logits, token)
                    .with_context(|| format!("no finite logits for token {token}"))?;
            }
        }
        Ok(())
    }
}
