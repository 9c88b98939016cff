//! Greedy decoding with drafts: a guess of the next tokens is verified in one step of several rows.
//!
//! The guess is looked up in what was said before: after the last few tokens, which came earlier, the same tokens may
//! follow again (prompt lookup, Saxena 2023). A row of a step has the bits of the row alone, so what comes out is
//! exactly what decoding one by one gives, whatever was guessed.

use super::{Batch, BatchRow, FinishReason, GenerateOptions, Session};
use crate::engine::Head;
use crate::error::Error;

/// The longest run of last tokens that is looked up, and the shortest.
const LOOKED_UP: std::ops::RangeInclusive<usize> = 1..=3;

/// How drafts fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCount {
    /// Steps of the model.
    pub steps: u32,
    /// Tokens guessed.
    pub drafted: u32,
    /// Guesses that were right.
    pub accepted: u32,
}

/// A stream of tokens; made by [`Session::speculate`].
pub struct Speculation<'s> {
    session: &'s mut Session,
    batch: Batch,
    options: GenerateOptions,
    /// The prompt and what followed.
    history: Vec<u32>,
    /// Tokens of `history` that were given out or belong to the prompt.
    given: usize,
    /// Where the generated tokens begin, and the session's position there.
    start: usize,
    start_position: u32,
    counts: DraftCount,
    finish: Option<FinishReason>,
}

impl Session {
    /// Runs `prompt` and gives the stream of tokens that follow it, as [`Session::generate`] does greedily, but with up
    /// to `draft` guessed tokens verified in each step.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`Error::NotGreedy`] when `options` ask for anything but the greatest logit;
    /// [`Error::BatchRows`] when no step has room for the last token and the guesses.
    pub fn speculate(
        &mut self,
        prompt: &[u32],
        draft: u32,
        options: GenerateOptions,
    ) -> Result<Speculation<'_>, Error> {
        if !options.sampling.is_greedy() {
            return Err(Error::NotGreedy);
        }
        let batch = self.model.batch(draft.saturating_add(1))?;
        self.prefill_with(prompt, Head::Greedy, (&options.cancel, &options.watch))?;
        let mut history = prompt.to_vec();
        history.push(self.chosen()?);
        let start = prompt.len();
        let start_position = self.position;
        let counts = DraftCount::default();
        let (given, finish) = (start, None);
        Ok(Speculation {
            session: self,
            batch,
            options,
            history,
            given,
            start,
            start_position,
            counts,
            finish,
        })
    }
}

/// Up to `most` tokens that followed the latest earlier occurrence of the last tokens of `history`.
fn look_up(history: &[u32], most: usize) -> &[u32] {
    for n in LOOKED_UP.rev() {
        let Some(first) = history.len().checked_sub(n) else { continue };
        let last = &history[first..];
        let earlier = (0..first).rev().find(|at| history[*at..].starts_with(last));
        if let Some(at) = earlier {
            let follow = &history[at + n..];
            return &follow[..follow.len().min(most)];
        }
    }
    &[]
}

impl Speculation<'_> {
    /// How drafts fared so far.
    #[must_use]
    pub fn counts(&self) -> DraftCount {
        self.counts
    }

    /// Why the stream ended; `None` while it goes on.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    fn end(&self) -> Option<FinishReason> {
        let produced = (self.given - self.start) as u64;
        let enough = self.options.max_tokens.is_some_and(|most| produced >= u64::from(most));
        let full = self.given == self.history.len() && self.session.remaining() == 0;
        if self.options.cancel.is_cancelled() {
            Some(FinishReason::Cancelled)
        } else if enough || full {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Ends the stream: the token that was given last is not in the caches, as after [`Session::generate`].
    fn finish(&mut self, reason: FinishReason) -> Result<(), Error> {
        self.finish = Some(reason);
        let produced = (self.given - self.start) as u32;
        let position = self.start_position + produced.saturating_sub(1);
        if position < self.session.position() { self.session.rewind(position) } else { Ok(()) }
    }

    /// One step: the last token, which is not in the caches yet, and a guess of what follows it.
    fn verify(&mut self) -> Result<(), Error> {
        let room = (self.session.remaining() as usize).min(self.batch.rows() as usize);
        let draft = look_up(&self.history, room.saturating_sub(1));
        let last = self.history.last().copied().ok_or(Error::EmptyPrompt)?;
        let tokens: Vec<u32> = std::iter::once(last).chain(draft.iter().copied()).collect();
        let before = self.session.position();
        self.batch.step(&mut [BatchRow { session: self.session, tokens: &tokens }])?;
        let mut right = 0;
        loop {
            let chosen = self.batch.chosen(right)?;
            self.history.push(chosen);
            if tokens.get(right + 1) != Some(&chosen) {
                break;
            }
            right += 1;
        }
        self.counts.steps += 1;
        self.counts.drafted += tokens.len() as u32 - 1;
        self.counts.accepted += right as u32;
        // The caches keep the last token and the right guesses; the token chosen after them is the next to run.
        self.session.rewind(before + 1 + right as u32)
    }
}

impl Iterator for Speculation<'_> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() {
            return None;
        }
        match self.advance() {
            Ok(Ok(token)) => Some(Ok(token)),
            Ok(Err(reason)) => self.finish(reason).err().map(Err),
            Err(error) => {
                self.finish = Some(FinishReason::Failed);
                Some(Err(error))
            }
        }
    }
}

impl Speculation<'_> {
    /// The next token, or why there is none.
    fn advance(&mut self) -> Result<Result<u32, FinishReason>, Error> {
        if let Some(reason) = self.end() {
            return Ok(Err(reason));
        }
        if self.given == self.history.len() {
            self.verify()?;
        }
        let token = self.history.get(self.given).copied().ok_or(Error::NoLogits)?;
        if self.options.stop.contains(&token) {
            return Ok(Err(FinishReason::Stop(token)));
        }
        self.given += 1;
        Ok(Ok(token))
    }
}

#[cfg(test)]
mod tests {
    use super::look_up;

    #[test]
    fn the_latest_longest_match_is_followed() {
        assert_eq!(look_up(&[1, 2, 3, 4, 1, 2, 3], 2), [4, 1]);
        assert_eq!(look_up(&[1, 2, 9, 2, 5, 2], 8), [5, 2]);
        assert_eq!(look_up(&[7, 7, 7, 7], 1), [7]);
        assert_eq!(look_up(&[1, 2, 3], 4), [0u32; 0]);
        assert_eq!(look_up(&[], 4), [0u32; 0]);
    }
}
