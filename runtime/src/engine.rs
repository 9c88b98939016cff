//! One step of a table made runnable: its buffers with addresses and its launches recorded.
//!
//! Sessions, batches and prefill differ only in which step they run and whose caches they seat: this is the one way
//! that tokens take through a model. All addresses are resolved when an engine is made; a run is an upload of a few
//! words and the replay of recorded launches: no name, no map, no allocation.

use plan::sampling::SamplingParams;
use plan::{
    Arg, BufferDesc, CONTROL_HEADER, CONTROL_ROW, HISTORY, Launch, Phase, Place, Slot, Step, StepKind, Table,
    WAITING_CTAS,
};

use crate::error::Error;
use crate::memory::buffer_bytes;
use crate::model::Model;
use crate::queue::{Buf, Call, DeviceAddr, Queue, QueueError, Replay};

/// One token of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub token: u32,
    pub position: u32,
    /// Where the sequence is seated.
    pub seat: u32,
}

/// The K and V caches of one sequence.
pub(crate) struct Caches {
    bufs: Vec<(Slot, Buf)>,
    /// The addresses as little-endian bytes, as kernels find them in [`Slot::Kv`].
    table: Box<[u8]>,
}

impl Caches {
    pub(crate) fn new(model: &Model) -> Result<Self, Error> {
        let alloc = |desc: &BufferDesc| -> Result<(Slot, Buf), Error> {
            Ok((desc.slot, Buf::new(model.queue(), buffer_bytes(desc, model.context()))?))
        };
        let bufs = model.table().caches.iter().map(alloc).collect::<Result<Vec<_>, Error>>()?;
        let table = bufs.iter().flat_map(|(_, buf)| buf.addr().0.to_le_bytes()).collect();
        Ok(Self { bufs, table })
    }

    /// Fills what each cache has of `position` with zeros. Enqueued.
    pub(crate) fn clear_row(&self, model: &Model, position: u32) -> Result<(), Error> {
        for (desc, (_, buf)) in model.table().caches.iter().zip(&self.bufs) {
            let offset = desc.bytes + desc.bytes_per_pos * u64::from(position);
            model.queue().zero(buf.range(offset, desc.bytes_per_pos)?, desc.bytes_per_pos)?;
        }
        Ok(())
    }

    /// Fills what each cache has of the first `positions`. Waits for what runs on them.
    pub(crate) fn fill(
        &self,
        model: &Model,
        positions: u32,
        fill: &mut dyn FnMut(Slot, &mut [u8]),
    ) -> Result<(), Error> {
        model.queue().synchronize()?;
        let mut bytes = Vec::new();
        for (desc, (slot, buf)) in model.table().caches.iter().zip(&self.bufs) {
            bytes.resize((desc.bytes + desc.bytes_per_pos * u64::from(positions)) as usize, 0);
            fill(*slot, &mut bytes);
            buf.upload(0, &bytes)?;
        }
        Ok(())
    }

    fn find(&self, slot: Slot) -> Option<&Buf> {
        self.bufs.iter().find(|(of, _)| *of == slot).map(|(_, buf)| buf)
    }
}

/// How the tokens after a run are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The greatest logit.
    Greedy,
    /// By the row's [`SamplingParams`].
    Sample,
}

/// The most runs that the device may be ahead of what the host has read of [`Slot::History`].
pub(crate) const MAX_AHEAD: u32 = HISTORY / 2;

/// A step that can run.
pub(crate) struct Engine {
    // Declared before the buffers, so that recorded launches go before the memory they point to.
    body: Box<dyn Replay>,
    /// With head; `None` for prefill.
    full: Option<Box<dyn Replay>>,
    /// With head and sampling; recorded when it is first needed.
    sampled: Option<Box<dyn Replay>>,
    buffers: Buffers,
    rows: u32,
    control: DeviceAddr,
    kv: Option<DeviceAddr>,
    /// What goes into [`Slot::Control`]; made once.
    words: Vec<u32>,
}

/// The memory of an engine, with the address and size of each buffer of its step.
pub(crate) struct Buffers {
    /// Owners; never looked at, freed together.
    _owned: Vec<Buf>,
    places: Vec<(Slot, DeviceAddr, u64)>,
}

impl Buffers {
    pub(crate) fn new(model: &Model, step: &Step) -> Result<Self, Error> {
        let arena = Buf::new(model.queue(), step.arena_bytes)?;
        let mut places = Vec::with_capacity(step.buffers.len());
        let mut owned = Vec::new();
        for desc in step.buffers.iter() {
            let bytes = buffer_bytes(desc, model.context());
            let addr = match (desc.place, model.constant(desc.slot)) {
                (Place::Arena { offset }, _) => arena.range(offset, desc.bytes)?,
                (Place::Own, Some(shared)) => shared.addr(),
                (Place::Own, None) => {
                    let buf = Buf::new(model.queue(), bytes)?;
                    let addr = buf.addr();
                    if desc.slot == Slot::AttnHandover {
                        model.queue().zero(addr, bytes)?;
                    }
                    owned.push(buf);
                    addr
                }
            };
            places.push((desc.slot, addr, bytes));
        }
        owned.push(arena);
        Ok(Self { _owned: owned, places })
    }

    /// Address and size of the buffer that holds `slot`.
    pub(crate) fn find(&self, slot: Slot) -> Option<(DeviceAddr, u64)> {
        self.places.iter().find(|(of, ..)| *of == slot).map(|(_, addr, bytes)| (*addr, *bytes))
    }

    /// The address that an argument stands for.
    pub(crate) fn resolve(&self, model: &Model, arg: Arg) -> Option<u64> {
        match arg {
            Arg::Weight(idx) => model.weights().get(idx as usize).map(|buf| buf.addr().0),
            Arg::Buffer { index, offset } => {
                self.places.get(index as usize).map(|(_, addr, _)| addr.offset(offset).0)
            }
        }
    }

    /// A launch with addresses.
    pub(crate) fn call(&self, model: &Model, launch: &Launch) -> Result<Call, Error> {
        let args: Option<Box<[u64]>> = launch.args.iter().map(|arg| self.resolve(model, *arg)).collect();
        // The table was checked at load, so that an argument without address is a mistake there.
        let args =
            args.ok_or(QueueError::Arguments { kernel: launch.kernel, found: 0, wanted: launch.args.len() })?;
        Ok(Call { kernel: launch.kernel, args })
    }

    /// The launches of some phases, in the step's order.
    fn record(&self, model: &Model, step: &Step, phases: &[Phase]) -> Result<Box<dyn Replay>, Error> {
        let wanted = step.launches.iter().filter(|launch| phases.contains(&launch.phase));
        let calls = wanted.map(|launch| self.call(model, launch)).collect::<Result<Vec<_>, _>>()?;
        Ok(model.kernels().clone().record(calls)?)
    }
}

pub(crate) fn no_single_step(table: &Table) -> Error {
    Error::Table { spec: table.spec.to_string(), problem: "no step of one row".to_owned() }
}

pub(crate) fn no_buffer(table: &Table, slot: Slot) -> Error {
    Error::Table { spec: table.spec.to_string(), problem: format!("no buffer for {slot:?}") }
}

impl Engine {
    /// Makes `step` of `model`'s table runnable.
    pub(crate) fn new(model: &Model, step: &Step) -> Result<Self, Error> {
        let buffers = Buffers::new(model, step)?;
        let body = buffers.record(model, step, &[Phase::Body])?;
        let full = match step.kind {
            StepKind::Decode => {
                Some(buffers.record(model, step, &[Phase::Body, Phase::Head, Phase::Greedy])?)
            }
            StepKind::Prefill => None,
        };
        let control = buffers.find(Slot::Control).ok_or_else(|| no_buffer(model.table(), Slot::Control))?.0;
        let kv = buffers.find(Slot::Kv).map(|(addr, _)| addr);
        let words = Vec::with_capacity((CONTROL_HEADER + CONTROL_ROW * step.rows) as usize);
        Ok(Self { body, full, sampled: None, buffers, rows: step.rows, control, kv, words })
    }

    /// The most rows of a run.
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// Lets rows of `seat` work on `caches`. Enqueued: runs so far keep what was seated.
    pub(crate) fn seat(&self, queue: &dyn Queue, seat: u32, caches: &Caches) -> Result<(), Error> {
        let Some(kv) = self.kv else { return Ok(()) };
        let offset = u64::from(seat) * caches.table.len() as u64;
        Ok(queue.upload(kv.offset(offset), &caches.table)?)
    }

    /// Says which tokens the next run takes; at most [`Engine::rows`].
    pub(crate) fn set(&mut self, queue: &dyn Queue, rows: impl Iterator<Item = Row>) -> Result<(), Error> {
        self.words.clear();
        self.words.extend([0; CONTROL_HEADER as usize]);
        self.words[WAITING_CTAS as usize] = queue.waiting_ctas();
        for row in rows.take(self.rows as usize) {
            self.words.extend([row.token, row.position, row.seat, 0]);
            self.words[0] += 1;
        }
        Ok(queue.upload(self.control, bytemuck::cast_slice(&self.words))?)
    }

    /// Enqueues the rows without head.
    pub(crate) fn run(&self) -> Result<(), Error> {
        Ok(self.body.run()?)
    }

    /// Enqueues the rows with head; without [`Engine::set`], the tokens that the run before chose.
    pub(crate) fn run_with(&self, head: Head) -> Result<(), Error> {
        let replay = match head {
            Head::Greedy => self.full.as_ref(),
            Head::Sample => self.sampled.as_ref(),
        };
        // Invariant: generation and batches prepare sampling before they sample, and no prefill step has a head.
        Ok(replay.unwrap_or(&self.body).run()?)
    }

    /// Whether a run leaves its tokens where the next run finds them.
    pub(crate) fn feeds_back(&self) -> bool {
        self.buffers.find(Slot::History).is_some()
    }

    /// Makes [`Head::Sample`] possible.
    ///
    /// # Errors
    /// [`Error::Table`] when the step has no launches for it.
    pub(crate) fn prepare_sampling(&mut self, model: &Model) -> Result<(), Error> {
        if self.sampled.is_some() {
            return Ok(());
        }
        let of_engine = |step: &&Step| step.kind == StepKind::Decode && step.rows == self.rows;
        let can_sample = |step: &&Step| step.launches.iter().any(|launch| launch.phase == Phase::Sample);
        let step = model.table().steps.iter().find(of_engine).filter(can_sample);
        let step = step.ok_or_else(|| no_buffer(model.table(), Slot::Sampling))?;
        self.sampled = Some(self.buffers.record(model, step, &[Phase::Body, Phase::Head, Phase::Sample])?);
        Ok(())
    }

    /// Says how a row samples, from the next run on.
    pub(crate) fn set_sampling(&self, model: &Model, row: u32, params: &SamplingParams) -> Result<(), Error> {
        self.write(model, (Slot::Sampling, row), &params.words())
    }

    /// Tells a row the tokens that the penalty looks back on: `tokens` from position `first` on.
    pub(crate) fn set_history(
        &self,
        model: &Model,
        row: u32,
        (first, tokens): (u32, impl Iterator<Item = u32>),
    ) -> Result<(), Error> {
        let mut ring = [0; HISTORY as usize];
        for (position, token) in (first..).zip(tokens) {
            ring[(position % HISTORY) as usize] = token;
        }
        self.write(model, (Slot::History, row), &ring)
    }

    /// Waits for the device and reads the tokens of a row from position `first` on; at most [`MAX_AHEAD`] and the
    /// last ones.
    pub(crate) fn read_history(
        &self,
        model: &Model,
        row: u32,
        first: u32,
        tokens: &mut [u32],
    ) -> Result<(), Error> {
        let (addr, _) = self.place(model, Slot::History)?;
        let place = |position: u32| addr.offset(u64::from(row * HISTORY + position % HISTORY) * 4);
        let until_end = (HISTORY - first % HISTORY) as usize;
        let (before, wrapped) = tokens.split_at_mut(until_end.min(tokens.len()));
        model.queue().download(place(first), bytemuck::cast_slice_mut(before))?;
        if !wrapped.is_empty() {
            model.queue().download(place(0), bytemuck::cast_slice_mut(wrapped))?;
        }
        Ok(())
    }

    fn place(&self, model: &Model, slot: Slot) -> Result<(DeviceAddr, u64), Error> {
        self.buffers.find(slot).ok_or_else(|| no_buffer(model.table(), slot))
    }

    /// Uploads a row's part of a buffer: `words`, of which each row has as many.
    fn write(&self, model: &Model, (slot, row): (Slot, u32), words: &[u32]) -> Result<(), Error> {
        let (addr, _) = self.place(model, slot)?;
        let bytes = bytemuck::cast_slice(words);
        Ok(model.queue().upload(addr.offset(u64::from(row) * bytes.len() as u64), bytes)?)
    }

    /// The launches with head.
    pub(crate) fn calls(&self) -> &[Call] {
        self.full.as_ref().unwrap_or(&self.body).calls()
    }

    /// Copies the element `index` of `out.len()` bytes of the buffer that holds `slot`. Waits for the device.
    pub(crate) fn read(
        &self,
        model: &Model,
        (slot, index): (Slot, u32),
        out: &mut [u8],
    ) -> Result<(), Error> {
        let (addr, bytes) = self.place(model, slot)?;
        let offset = u64::from(index) * out.len() as u64;
        if offset + out.len() as u64 > bytes {
            return Err(Error::Room { what: "a buffer", found: out.len(), wanted: bytes as usize });
        }
        Ok(model.queue().download(addr.offset(offset), out)?)
    }

    /// Bytes from an offset of the buffer that holds `slot`, which may be one of the caches. Waits for the device.
    pub(crate) fn read_bytes(
        &self,
        (model, caches): (&Model, &Caches),
        (slot, offset): (Slot, u64),
        out: &mut [u8],
    ) -> Result<(), Error> {
        if let Some(buf) = caches.find(slot) {
            return Ok(buf.download(offset, out)?);
        }
        let (addr, bytes) = self.buffers.find(slot).ok_or_else(|| no_buffer(model.table(), slot))?;
        match offset.checked_add(out.len() as u64) {
            Some(end) if end <= bytes => Ok(model.queue().download(addr.offset(offset), out)?),
            _ => Err(Error::Room { what: "a buffer", found: out.len(), wanted: bytes as usize }),
        }
    }

    /// Fills the buffer that holds `slot` with zeros. Enqueued.
    pub(crate) fn zero(&self, model: &Model, slot: Slot) -> Result<(), Error> {
        let (addr, bytes) = self.buffers.find(slot).ok_or_else(|| no_buffer(model.table(), slot))?;
        Ok(model.queue().zero(addr, bytes)?)
    }
}
