//! A sequence being decoded: its caches, its scratch, and one step of the model.
//!
//! All addresses are resolved when the session starts. A step is an upload of eight bytes and the replay of recorded
//! launches: no name, no map, no allocation.

mod generate;

use std::time::Duration;

use plan::{Arg, Launch, Phase, Place, Slot, Table};

use crate::error::Error;
use crate::memory::buffer_bytes;
use crate::model::Model;
use crate::queue::{Buf, Call, DeviceAddr, QueueError, Replay};

pub use generate::{FinishReason, GenerateOptions, Generation, Timings};

/// What the argmax kernel writes when a logit is not finite.
const NOT_FINITE: u32 = u32::MAX;

/// One sequence of tokens on a model.
pub struct Session {
    // Declared before the buffers, so that recorded launches go before the memory they point to.
    body: Box<dyn Replay>,
    full: Box<dyn Replay>,
    buffers: Buffers,
    control: DeviceAddr,
    logits: DeviceAddr,
    chosen: DeviceAddr,
    position: u32,
    /// Whether the last step computed logits.
    has_logits: bool,
    model: Model,
}

const _: () = {
    const fn movable_to_a_thread<T: Send>() {}
    movable_to_a_thread::<Session>();
};

/// The memory of a session, with the address of each buffer of the table.
struct Buffers {
    /// Owners; never looked at, freed together.
    _owned: Vec<Buf>,
    addrs: Vec<DeviceAddr>,
}

impl Buffers {
    fn new(model: &Model) -> Result<Self, Error> {
        let table = model.table();
        let arena = Buf::new(model.queue(), table.arena_bytes)?;
        let mut addrs = Vec::with_capacity(table.buffers.len());
        let mut owned = Vec::new();
        for desc in table.buffers.iter() {
            let addr = match (desc.place, desc.slot, model.rope()) {
                (Place::Arena { offset }, _, _) => arena.range(offset, desc.bytes)?,
                (Place::Own, Slot::RopeTable, Some(rope)) => rope.addr(),
                (Place::Own, _, _) => {
                    let buf = Buf::new(model.queue(), buffer_bytes(desc, model.context()))?;
                    let addr = buf.addr();
                    owned.push(buf);
                    addr
                }
            };
            addrs.push(addr);
        }
        owned.push(arena);
        Ok(Self { _owned: owned, addrs })
    }

    fn of(&self, table: &Table, slot: Slot) -> Result<DeviceAddr, Error> {
        let idx = table.buffer(slot);
        idx.and_then(|idx| self.addrs.get(idx).copied()).ok_or_else(|| Error::Table {
            spec: table.spec.to_string(),
            problem: format!("no buffer for {slot:?}"),
        })
    }

    fn resolve(&self, model: &Model, arg: Arg) -> Option<u64> {
        match arg {
            Arg::Weight(idx) => model.weights().get(idx as usize).map(|buf| buf.addr().0),
            Arg::Buffer { index, offset } => self.addrs.get(index as usize).map(|addr| addr.offset(offset).0),
        }
    }

    fn call(&self, model: &Model, launch: &Launch) -> Result<Call, Error> {
        let args: Option<Box<[u64]>> = launch.args.iter().map(|arg| self.resolve(model, *arg)).collect();
        // The table was checked at load, so that an argument without address is a mistake there.
        let args =
            args.ok_or(QueueError::Arguments { kernel: launch.kernel, found: 0, wanted: launch.args.len() })?;
        Ok(Call { kernel: launch.kernel, args })
    }
}

impl Session {
    pub(crate) fn new(model: &Model) -> Result<Self, Error> {
        let table = model.table();
        let buffers = Buffers::new(model)?;
        let calls = |phases: &[Phase]| -> Result<Vec<Call>, Error> {
            let wanted = table.launches.iter().filter(|launch| phases.contains(&launch.phase));
            wanted.map(|launch| buffers.call(model, launch)).collect()
        };
        let body = model.kernels().clone().record(calls(&[Phase::Body])?)?;
        let full = model.kernels().clone().record(calls(&[Phase::Body, Phase::Head])?)?;
        let (control, logits) = (buffers.of(table, Slot::Control)?, buffers.of(table, Slot::Logits)?);
        let chosen = buffers.of(table, Slot::Chosen)?;
        let model = model.clone();
        Ok(Self { body, full, buffers, control, logits, chosen, position: 0, has_logits: false, model })
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
        self.body.run()?;
        self.position += 1;
        Ok(())
    }

    /// Takes `token` into the caches and computes the logits of the token after it. Does not wait for the device.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn step_with_head(&mut self, token: u32) -> Result<(), Error> {
        self.prepare_step(token)?;
        self.full.run()?;
        self.position += 1;
        self.has_logits = true;
        Ok(())
    }

    fn prepare_step(&mut self, token: u32) -> Result<(), Error> {
        let (limit, vocab_size) = (self.model.context(), self.model.table().dims.vocab_size);
        if self.position >= limit {
            return Err(Error::ContextFull { wanted: u64::from(self.position) + 1, limit });
        }
        if token >= vocab_size {
            return Err(Error::Token { token, vocab_size });
        }
        self.has_logits = false;
        let control = [token, self.position];
        self.model.queue().upload(self.control, bytemuck::bytes_of(&control))?;
        Ok(())
    }

    /// Waits for the last step and gives the token with the greatest logit, the lowest index on ties.
    ///
    /// # Errors
    /// [`Error::NoLogits`] unless the last step was one with head; [`Error::NotFinite`]; or when the device fails.
    pub fn chosen(&self) -> Result<u32, Error> {
        let mut token = [0; 4];
        self.need_logits()?;
        self.model.queue().download(self.chosen, &mut token)?;
        let (token, vocab_size) = (u32::from_le_bytes(token), self.model.table().dims.vocab_size);
        match token {
            NOT_FINITE => Err(Error::NotFinite { position: self.position.saturating_sub(1) }),
            token if token >= vocab_size => Err(Error::Token { token, vocab_size }),
            token => Ok(token),
        }
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
        self.model.queue().download(self.logits, bytemuck::cast_slice_mut(out))?;
        Ok(())
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
        let times = self.model.kernels().profile(self.full.calls())?;
        self.position += 1;
        self.has_logits = true;
        Ok(times)
    }

    /// Waits for the last step and copies the bytes of the buffer that holds `slot`, for debugging and comparison.
    ///
    /// # Errors
    /// When the table has no such buffer, `out` is longer than it, or the device fails.
    pub fn read_slot(&self, slot: Slot, out: &mut [u8]) -> Result<(), Error> {
        let table = self.model.table();
        let addr = self.buffers.of(table, slot)?;
        let bytes = table
            .buffers
            .iter()
            .find(|b| b.slot == slot)
            .map_or(0, |b| buffer_bytes(b, self.model.context()));
        if out.len() as u64 > bytes {
            return Err(Error::Room { what: "a buffer", found: out.len(), wanted: bytes as usize });
        }
        self.model.queue().download(addr, out)?;
        Ok(())
    }
}
