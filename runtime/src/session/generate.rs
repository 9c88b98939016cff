//! From a prompt to a stream of tokens: prefill, then one token at each call of the iterator.

use std::borrow::BorrowMut;
use std::time::{Duration, Instant};

use super::Session;
use crate::cancel::CancelToken;
use crate::error::Error;
use crate::sampling::{Sampler, SamplingConfig};

/// Steps of a prompt that are enqueued before the next look at the device: bounds what a wait has to wait for.
const PREFILL_BURST: usize = 32;

/// The repetition penalty looks at this many tokens before, as llama.cpp does.
const PENALTY_WINDOW: usize = 64;

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
    chooser: Chooser,
    last: Option<u32>,
    produced: u32,
    finish: Option<FinishReason>,
    timings: Timings,
}

/// Who chooses the next token.
enum Chooser {
    /// The argmax kernel: four bytes leave the device.
    Device,
    /// A sampler on the host: the logits leave the device.
    Host(Box<HostChooser>),
}

struct HostChooser {
    sampler: Sampler,
    logits: Vec<f32>,
    /// The prompt and what followed; has room for the whole context.
    history: Vec<u32>,
}

impl Chooser {
    fn new(session: &Session, prompt: &[u32], options: &GenerateOptions) -> Result<Self, Error> {
        let sampler = Sampler::new(options.sampling)?;
        if options.sampling.temperature == 0.0 && options.sampling.repetition_penalty == 1.0 {
            return Ok(Self::Device);
        }
        let logits = vec![0.0; session.model.table().dims.vocab_size as usize];
        let mut history = Vec::with_capacity(session.model.context() as usize + 1);
        history.extend_from_slice(prompt);
        Ok(Self::Host(Box::new(HostChooser { sampler, logits, history })))
    }

    fn choose(&mut self, session: &Session) -> Result<u32, Error> {
        // In both cases: it is the device that says whether every logit is finite.
        let greatest = session.chosen()?;
        let Self::Host(host) = self else { return Ok(greatest) };
        session.logits(&mut host.logits)?;
        let window = host.history.len().saturating_sub(PENALTY_WINDOW);
        let token = host.sampler.sample(&host.logits, host.history.get(window..).unwrap_or_default())?;
        host.history.push(token);
        Ok(token)
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
        self.check_prompt(prompt)?;
        let Some((last, before)) = prompt.split_last() else { return Err(Error::EmptyPrompt) };
        let chunk = self.model.prefill_rows().unwrap_or(PREFILL_BURST);
        for chunk in before.chunks(chunk) {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { what: "the prompt" });
            }
            self.take(chunk)?;
            self.model.queue().synchronize()?;
        }
        self.step_with_head(*last)?;
        self.model.queue().synchronize()?;
        Ok(())
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
        let chooser = Chooser::new(session, prompt, &options)?;
        let start = Instant::now();
        session.prefill(prompt, &options.cancel)?;
        let prefill_tokens = prompt.len() as u32;
        let timings = Timings { prefill_tokens, prefill: start.elapsed(), ..Timings::default() };
        Ok(Self { session: owner, options, chooser, last: None, produced: 0, finish: None, timings })
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

    /// Runs the token before, if it has not been run, and chooses the next one.
    fn advance(&mut self) -> Result<u32, Error> {
        let start = Instant::now();
        if let Some(last) = self.last {
            self.session.borrow_mut().step_with_head(last)?;
            self.timings.decode_tokens += 1;
        }
        let token = self.chooser.choose(self.session.borrow())?;
        if self.last.is_some() {
            self.timings.decode += start.elapsed();
        }
        Ok(token)
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
