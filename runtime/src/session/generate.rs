//! From a prompt to a stream of tokens: prefill, then one token at each call of the iterator.
//!
//! The device chooses the tokens and feeds them back itself, so that several steps can be enqueued before the host looks
//! at what came of them. What a step leaves in the caches beyond the token that the caller got last (after a stop token, or when a
//! stream is dropped) is at positions that the session has not reached: the next tokens overwrite it.

use std::borrow::BorrowMut;
use std::time::{Duration, Instant};

use super::prompt_watch::{PromptProgress, PromptWatch};
use super::{Session, checked_choice};
use crate::cancel::CancelToken;
use crate::engine::{Head, MAX_AHEAD};
use crate::error::Error;
use crate::sampling::SamplingConfig;

/// Steps of a prompt that are enqueued before the next look at the device: bounds what a wait has to wait for.
const PREFILL_BURST: usize = 32;

/// The most steps that are enqueued before a look at the device unless the caller says so: more make little faster.
const FEW_AHEAD: u32 = 8;

/// How long a caller may wait for a token that is there already: less than a reader notices.
const NOTICED: Duration = Duration::from_millis(20);

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced this stop token, which is not part of the output.
    Stop(u32),
    /// The wanted number of tokens was produced, or the context is full.
    Length,
    /// The caller cancelled.
    Cancelled,
    /// An error, which the iterator gave as its last item.
    Failed,
}

/// How to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// The most tokens; `None`: until a stop token or the end of the context.
    pub max_tokens: Option<u32>,
    /// How a token is chosen from the logits; the default takes the greatest.
    pub sampling: SamplingConfig,
    /// Tokens that end the generation.
    pub stop: Vec<u32>,
    /// Looked at before each token.
    pub cancel: CancelToken,
    /// Steps that are enqueued before the host looks at what came of them; `None`: up to 8, as long as they take less
    /// time than is noticed. The first token of a prompt never waits for others. The tokens do not depend on it.
    pub steps_ahead: Option<u32>,
    /// Told how far the prompt is.
    pub watch: PromptWatch,
}

/// How long a generation took, by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prefill_tokens: u32,
    /// From the first token of the prompt until the logits after its last one are there.
    pub prefill: Duration,
    /// Steps after the prompt.
    pub decode_tokens: u32,
    /// Time in those steps, choosing included, what the caller does between them not.
    pub decode: Duration,
}

impl Timings {
    /// Tokens of the prompt a second; 0 before there are any.
    #[must_use]
    pub fn prefill_tok_s(&self) -> f64 {
        rate(self.prefill_tokens, self.prefill)
    }

    /// Decoded tokens a second; 0 before there are any.
    #[must_use]
    pub fn decode_tok_s(&self) -> f64 {
        rate(self.decode_tokens, self.decode)
    }
}

fn rate(tokens: u32, time: Duration) -> f64 {
    match time.as_secs_f64() {
        seconds if seconds > 0.0 => f64::from(tokens) / seconds,
        _ => 0.0,
    }
}

/// A stream of tokens, over a session that it borrows ([`Session::generate`]) or owns ([`Session::into_generation`]).
/// Dropping it at any point leaves a borrowed session usable.
///
/// The token that was given last is not in the caches yet: to continue a conversation, put it before the next prompt.
pub struct Generation<S: BorrowMut<Session>> {
    session: S,
    options: GenerateOptions,
    head: Head,
    ahead: Ahead,
    last: Option<u32>,
    produced: u32,
    finish: Option<FinishReason>,
    timings: Timings,
}

/// What the device has chosen and the caller has not got.
struct Ahead {
    tokens: [u32; MAX_AHEAD as usize],
    next: usize,
    end: usize,
}

impl Ahead {
    const NONE: Self = Self { tokens: [0; MAX_AHEAD as usize], next: 0, end: 0 };

    fn is_empty(&self) -> bool {
        self.next >= self.end
    }

    /// Room for `n` tokens, which count as chosen.
    fn refill(&mut self, n: u32) -> &mut [u32] {
        (self.next, self.end) = (0, n as usize);
        self.tokens.get_mut(..n as usize).unwrap_or_default()
    }

    fn take(&mut self) -> u32 {
        let token = self.tokens.get(self.next).copied().unwrap_or_default();
        self.next += 1;
        token
    }
}

impl Session {
    /// Runs `prompt` from the current position on and gives the stream of tokens that follow it.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`]; [`Error::ContextFull`] and [`Error::Token`] before any launch; invalid sampling
    /// parameters; [`Error::Cancelled`]; or when the device fails.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<Generation<&mut Self>, Error> {
        Generation::start(self, prompt, options)
    }

    /// As [`Session::generate`], for a stream that is handed on together with its session.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn into_generation(
        self,
        prompt: &[u32],
        options: GenerateOptions,
    ) -> Result<Generation<Self>, Error> {
        Generation::start(self, prompt, options)
    }

    /// Whether `prompt` can be run here, before any of it is.
    fn check_prompt(&self, prompt: &[u32]) -> Result<(), Error> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.check_tokens(prompt)
    }

    /// Runs `prompt`, the last token with head, and waits for the logits. Where the table has a prefill step, all but
    /// the last token go through it in chunks.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn prefill(&mut self, prompt: &[u32], cancel: &CancelToken) -> Result<(), Error> {
        self.prefill_with(prompt, Head::Greedy, (cancel, &PromptWatch::default()))
    }

    pub(super) fn prefill_with(
        &mut self,
        prompt: &[u32],
        head: Head,
        (cancel, watch): (&CancelToken, &PromptWatch),
    ) -> Result<(), Error> {
        self.check_prompt(prompt)?;
        let (first, total_tokens) = (self.position, prompt.len() as u32);
        let Some((last, before)) = prompt.split_last() else { return Err(Error::EmptyPrompt) };
        let chunk = self.model.prefill_rows().unwrap_or(PREFILL_BURST);
        for chunk in before.chunks(chunk) {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { what: "the prompt" });
            }
            self.take(chunk)?;
            self.model.queue().synchronize()?;
            watch.tell(PromptProgress { done_tokens: self.position - first, total_tokens });
        }
        self.step_with(*last, head)?;
        self.model.queue().synchronize()?;
        watch.tell(PromptProgress { done_tokens: total_tokens, total_tokens });
        Ok(())
    }

    /// Gives the device what it needs to sample after `prompt`, which begins at the current position.
    fn prepare_sampling(&mut self, prompt: &[u32], sampling: &SamplingConfig) -> Result<Head, Error> {
        sampling.check()?;
        if sampling.is_greedy() {
            return Ok(Head::Greedy);
        }
        self.engine.prepare_sampling(&self.model)?;
        self.engine.set_sampling(&self.model, 0, &sampling.params(self.position))?;
        self.engine.set_history(&self.model, 0, (self.position, prompt.iter().copied()))?;
        Ok(Head::Sample)
    }

    /// Takes `tokens` into the caches without computing logits, by the prefill steps where there are any: also a single
    /// one, so that a prompt has the same bits however it is cut. Does not wait for the device.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::Token`], both before any launch; or when the device fails.
    pub fn take(&mut self, tokens: &[u32]) -> Result<(), Error> {
        self.check_tokens(tokens)?;
        if self.model.prefill(&self.caches, self.position, tokens)? {
            self.position += tokens.len() as u32;
            self.has_logits = false;
            return Ok(());
        }
        tokens.iter().try_for_each(|token| self.step(*token))
    }
}

impl<S: BorrowMut<Session>> Generation<S> {
    fn start(mut owner: S, prompt: &[u32], options: GenerateOptions) -> Result<Self, Error> {
        let session = owner.borrow_mut();
        session.check_prompt(prompt)?;
        let head = session.prepare_sampling(prompt, &options.sampling)?;
        let start = Instant::now();
        session.prefill_with(prompt, head, (&options.cancel, &options.watch))?;
        let prefill_tokens = prompt.len() as u32;
        let timings = Timings { prefill_tokens, prefill: start.elapsed(), ..Timings::default() };
        let (ahead, last) = (Ahead::NONE, None);
        Ok(Self { session: owner, options, head, ahead, last, produced: 0, finish: None, timings })
    }

    /// Why the stream ended; `None` while it goes on.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// The time spent so far.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.session.borrow()
    }

    /// Why no further token can be made, found without the device.
    fn end(&self) -> Option<FinishReason> {
        let enough = self.options.max_tokens.is_some_and(|most| self.produced >= most);
        let full = self.last.is_some() && self.session().remaining() == 0;
        if self.options.cancel.is_cancelled() {
            Some(FinishReason::Cancelled)
        } else if enough || full {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Steps to enqueue now that `last` is to be run.
    fn steps_ahead(&self) -> u32 {
        let session = self.session.borrow();
        if !session.engine.feeds_back() {
            return 1;
        }
        let unnoticed = || match self.timings.decode.checked_div(self.timings.decode_tokens) {
            Some(step) if !step.is_zero() => {
                (NOTICED.as_nanos() / step.as_nanos()).min(FEW_AHEAD.into()) as u32
            }
            _ => 1,
        };
        let wanted = self.options.steps_ahead.unwrap_or_else(unnoticed);
        let left = self.options.max_tokens.map_or(u32::MAX, |most| most.saturating_sub(self.produced));
        wanted.min(left).min(session.remaining()).clamp(1, MAX_AHEAD)
    }

    /// Enqueues the steps after the token that was given last and waits for what they choose; before the first token,
    /// what the prompt chose.
    fn look(&mut self) -> Result<(), Error> {
        let n = self.steps_ahead();
        let session = self.session.borrow_mut();
        let Some(last) = self.last else {
            let token = session.read_choice()?;
            self.ahead.refill(1).fill(token);
            return Ok(());
        };
        let start = Instant::now();
        if session.engine.feeds_back() {
            for _ in 0..n {
                session.engine.run_with(self.head)?;
            }
            let first = session.position + 1;
            session.engine.read_history(&session.model, 0, first, self.ahead.refill(n))?;
        } else {
            session.prepare_step(last)?;
            session.engine.run_with(self.head)?;
            let token = session.read_choice()?;
            self.ahead.refill(1).fill(token);
        }
        self.timings.decode_tokens += n;
        self.timings.decode += start.elapsed();
        Ok(())
    }

    /// The next token that the device chose; the session's position follows what was given.
    fn advance(&mut self) -> Result<u32, Error> {
        if self.ahead.is_empty() {
            self.look()?;
        }
        let token = self.ahead.take();
        let session = self.session.borrow_mut();
        session.position += u32::from(self.last.is_some());
        session.has_logits = self.ahead.is_empty();
        checked_choice(&session.model, token, session.position.saturating_sub(1))
    }
}

impl<S: BorrowMut<Session>> Iterator for Generation<S> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_none() {
            self.finish = self.end();
        }
        if self.finish.is_some() {
            return None;
        }
        match self.advance() {
            Err(error) => {
                self.finish = Some(FinishReason::Failed);
                Some(Err(error))
            }
            Ok(token) if self.options.stop.contains(&token) => {
                self.finish = Some(FinishReason::Stop(token));
                None
            }
            Ok(token) => {
                self.last = Some(token);
                self.produced += 1;
                Some(Ok(token))
            }
        }
    }
}
