//! A sequence being decoded: its caches and an engine of one row.

mod batch;
mod generate;
mod prompt_watch;
mod speculate;
mod walk;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plan::Slot;
use plan::sampling::NOT_FINITE;

use crate::engine::{Caches, Engine, Head, Row, no_single_step};
use crate::error::Error;
use crate::model::Model;

pub use batch::{Batch, BatchRow, RowSampling};
pub use generate::{FinishReason, GenerateOptions, Generation, Timings};
pub use prompt_watch::{PromptProgress, PromptWatch};
pub use speculate::{DraftCount, Speculation};
pub use walk::{Region, Walk};

/// Distinguishes sessions where their caches are seated.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One sequence of tokens on a model.
pub struct Session {
    // Declared before the caches, so that recorded launches go before the memory they point to.
    engine: Engine,
    caches: Caches,
    id: u64,
    position: u32,
    /// Whether the last step computed logits.
    has_logits: bool,
    model: Model,
}

const _: () = {
    const fn movable_to_a_thread<T: Send>() {}
    movable_to_a_thread::<Session>();
};

impl Session {
    pub(crate) fn new(model: &Model) -> Result<Self, Error> {
        let single = model.table().single().ok_or_else(|| no_single_step(model.table()))?;
        let engine = Engine::new(model, single)?;
        let caches = Caches::new(model)?;
        engine.seat(model.queue().as_ref(), 0, &caches)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { engine, caches, id, position: 0, has_logits: false, model: model.clone() })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens that the caches hold: the position of the next step.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Positions that are left.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.model.context() - self.position
    }

    /// Forgets all tokens; what the caches hold is overwritten by the next ones.
    pub fn reset(&mut self) {
        self.position = 0;
        self.has_logits = false;
    }

    /// Takes `token` into the caches without computing logits. Does not wait for the device.
    ///
    /// # Errors
    /// [`Error::ContextFull`] and [`Error::Token`], both before any launch; or when the device fails.
    pub fn step(&mut self, token: u32) -> Result<(), Error> {
        self.prepare_step(token)?;
        self.engine.run()?;
        self.position += 1;
        Ok(())
    }

    /// Takes `token` into the caches and computes the logits of the token after it. Does not wait for the device.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn step_with_head(&mut self, token: u32) -> Result<(), Error> {
        self.step_with(token, Head::Greedy)
    }

    fn step_with(&mut self, token: u32, head: Head) -> Result<(), Error> {
        self.prepare_step(token)?;
        self.engine.run_with(head)?;
        self.position += 1;
        self.has_logits = true;
        Ok(())
    }

    /// Forgets the tokens from `position` on: the next step goes there.
    ///
    /// # Errors
    /// [`Error::Rewind`] when the session has fewer tokens.
    pub fn rewind(&mut self, position: u32) -> Result<(), Error> {
        if position > self.position {
            return Err(Error::Rewind { position, found: self.position });
        }
        self.position = position;
        self.has_logits = false;
        Ok(())
    }

    /// Continues a sequence whose keys and values are known, such as one that was kept: forgets all tokens and takes over
    /// `position` of them. `fill` gives what each cache has of them, which [`Session::read_slot`] of the same slot gives:
    /// rows of the cache's type, position by position. Waits for the device.
    ///
    /// # Errors
    /// [`Error::ContextFull`], before anything is changed; or when the device fails.
    pub fn restore(&mut self, position: u32, mut fill: impl FnMut(Slot, &mut [u8])) -> Result<(), Error> {
        let (wanted, limit) = (u64::from(position), self.model.context());
        if position > limit {
            return Err(Error::ContextFull { wanted, limit });
        }
        self.reset();
        self.caches.fill(&self.model, position, &mut fill)?;
        self.position = position;
        Ok(())
    }

    /// Whether `n` tokens fit and this one is in the vocabulary.
    fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        let (limit, vocab_size) = (self.model.context(), self.model.table().dims.vocab_size);
        let wanted = u64::from(self.position) + tokens.len() as u64;
        if wanted > u64::from(limit) {
            return Err(Error::ContextFull { wanted, limit });
        }
        match tokens.iter().find(|token| **token >= vocab_size) {
            Some(&token) => Err(Error::Token { token, vocab_size }),
            None => Ok(()),
        }
    }

    fn prepare_step(&mut self, token: u32) -> Result<(), Error> {
        self.check_tokens(&[token])?;
        self.has_logits = false;
        let row = Row { token, position: self.position, seat: 0 };
        self.engine.set(self.model.queue().as_ref(), std::iter::once(row))
    }

    /// Waits for the last step and gives the token with the greatest logit, the lowest index on ties.
    ///
    /// # Errors
    /// [`Error::NoLogits`] unless the last step was one with head; [`Error::NotFinite`]; or when the device fails.
    pub fn chosen(&self) -> Result<u32, Error> {
        self.need_logits()?;
        checked_choice(&self.model, self.read_choice()?, self.position.saturating_sub(1))
    }

    /// Waits for the last step and gives what it chose, whatever that is.
    fn read_choice(&self) -> Result<u32, Error> {
        let mut token = [0; 4];
        self.engine.read(&self.model, (Slot::Chosen, 0), &mut token)?;
        Ok(u32::from_le_bytes(token))
    }

    /// Waits for the last step and copies its logits, one for each entry of the vocabulary.
    ///
    /// # Errors
    /// [`Error::NoLogits`] unless the last step was one with head; [`Error::Room`]; or when the device fails.
    pub fn logits(&self, out: &mut [f32]) -> Result<(), Error> {
        self.need_logits()?;
        let wanted = self.model.table().dims.vocab_size as usize;
        if out.len() != wanted {
            return Err(Error::Room { what: "logits", found: out.len(), wanted });
        }
        self.engine.read(&self.model, (Slot::Logits, 0), bytemuck::cast_slice_mut(out))
    }

    fn need_logits(&self) -> Result<(), Error> {
        if self.has_logits { Ok(()) } else { Err(Error::NoLogits) }
    }

    /// Runs one step with head for `token`, launch by launch, and gives the time of each launch of the table.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn profile_step(&mut self, token: u32) -> Result<Vec<Duration>, Error> {
        self.prepare_step(token)?;
        let times = self.model.kernels().profile(self.engine.calls())?;
        self.position += 1;
        self.has_logits = true;
        Ok(times)
    }

    /// Runs the step `step` of the table for `tokens` at the session's next positions, launch by launch, with head where it
    /// has one, and gives the time of each launch. The session stays where it is; what it has there is overwritten.
    ///
    /// # Errors
    /// [`Error::BatchRows`] when there is no such step or it has fewer rows than there are tokens, or there are none;
    /// as [`Session::step`]; or when the device fails.
    pub fn profile_rows(&mut self, step: usize, tokens: &[u32]) -> Result<Vec<Duration>, Error> {
        let table = self.model.table();
        let found = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let limit = table.steps.get(step).map_or(0, |step| step.rows);
        let of_step = table.steps.get(step).filter(|_| found > 0 && found <= limit);
        let too_many = || Error::BatchRows { spec: table.spec.to_string(), found, limit };
        let step = of_step.ok_or_else(too_many)?;
        self.check_tokens(tokens)?;
        let mut engine = Engine::new(&self.model, step)?;
        let queue = self.model.queue().as_ref();
        engine.seat(queue, 0, &self.caches)?;
        let places = tokens.iter().zip(self.position..);
        engine.set(queue, places.map(|(token, position)| Row { token: *token, position, seat: 0 }))?;
        Ok(self.model.kernels().profile(engine.calls())?)
    }

    /// Waits for the last step and copies the bytes of the buffer that holds `slot`, for debugging and comparison.
    ///
    /// # Errors
    /// When the table has no such buffer, `out` is longer than it, or the device fails.
    pub fn read_slot(&self, slot: Slot, out: &mut [u8]) -> Result<(), Error> {
        self.engine.read_bytes((&self.model, &self.caches), (slot, 0), out)
    }
}

/// The token that the device chose after `position`, or why there is none.
fn checked_choice(model: &Model, token: u32, position: u32) -> Result<u32, Error> {
    let vocab_size = model.table().dims.vocab_size;
    match token {
        NOT_FINITE => Err(Error::NotFinite { position }),
        token if token >= vocab_size => Err(Error::Token { token, vocab_size }),
        token => Ok(token),
    }
}
