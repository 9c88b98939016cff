//! The launches of the one-row step, layer by layer, with places for addresses that come with a call.

use plan::{Arg, BufferDesc, CONTROL_HEADER, CONTROL_ROW, Launch, Phase, Role, Slot, Step, WAITING_CTAS};

use super::error::ApiError;
use super::raw::{LayerIo, RawLayer, check};
use crate::engine::{Buffers, no_buffer, no_single_step};
use crate::error::Error;
use crate::model::Model;
use crate::queue::{Call, DeviceAddr};

/// Words of the control buffer of one row.
pub(super) const CONTROL_WORDS: usize = (CONTROL_HEADER + CONTROL_ROW) as usize;

/// Runs single layers of a model, over weights and caches of the caller or over host slices. It has the scratch of a
/// session and no caches; made by [`Model::layer_runner`].
pub struct LayerRunner {
    pub(super) model: Model,
    pub(super) buffers: Buffers,
    /// Scratch of the step whose launches multiply by single matrices; made when it is first needed.
    pub(super) products: Option<Buffers>,
    layers: Vec<Program>,
    /// Before the first layer: the embedding.
    pub(super) embed: Vec<Call>,
    /// Behind the last: norm, logits and choice.
    pub(super) head: Vec<Call>,
    control: DeviceAddr,
    /// Where [`Slot::Kv`] lies and how long it is.
    kv: (DeviceAddr, u64),
    /// The scratch's own residual stream.
    pub(super) hidden: DeviceAddr,
}

/// Which launches of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// From the feed-forward's norm on.
    FeedForward,
}

/// The launches of a layer.
struct Program {
    calls: Vec<Call>,
    patches: Vec<Patch>,
    /// The first launch of the feed-forward.
    ffn: usize,
}

/// An argument that comes with each call.
struct Patch {
    call: usize,
    arg: usize,
    source: Source,
}

enum Source {
    Weight(Role),
    Hidden { offset: u64 },
}

const _: () = {
    const fn movable_to_a_thread<T: Send>() {}
    movable_to_a_thread::<LayerRunner>();
};

impl Program {
    fn new(model: &Model, step: &Step, buffers: &Buffers, layer: u32) -> Result<Self, Error> {
        let mut program = Self { calls: vec![], patches: vec![], ffn: 0 };
        let mut ffn = None;
        for launch in step.launches.iter().filter(|launch| launch.layer == Some(layer)) {
            let call = program.calls.len();
            program.calls.push(buffers.call(model, launch)?);
            for (arg, source) in launch.args.iter().enumerate() {
                let Some(source) = source_of(model, step, *source) else { continue };
                if matches!(source, Source::Weight(Role::FfnNorm)) {
                    ffn = ffn.or(Some(call));
                }
                program.patches.push(Patch { call, arg, source });
            }
        }
        program.ffn = ffn.unwrap_or(program.calls.len());
        Ok(program)
    }

    fn patch(&mut self, weights: &RawLayer, hidden: DeviceAddr) {
        for Patch { call, arg, source } in &self.patches {
            let addr = match source {
                Source::Weight(role) => weights.get(*role).map(|raw| raw.addr),
                Source::Hidden { offset } => Some(hidden.offset(*offset).0),
            };
            // Every weight that a launch takes is in the table, and the check saw to it that it was given.
            let place = self.calls.get_mut(*call).and_then(|call| call.args.get_mut(*arg));
            if let Some((place, addr)) = place.zip(addr) {
                *place = addr;
            }
        }
    }
}

fn source_of(model: &Model, step: &Step, arg: Arg) -> Option<Source> {
    match arg {
        Arg::Weight(place) => {
            let desc = model.table().weights.get(place as usize)?;
            desc.layer.is_some().then_some(Source::Weight(desc.role))
        }
        Arg::Buffer { index, offset } => {
            let desc = step.buffers.get(index as usize)?;
            (desc.slot == Slot::Hidden).then_some(Source::Hidden { offset })
        }
    }
}

impl Model {
    /// What runs single layers, with scratch of its own.
    ///
    /// # Errors
    /// When memory does not suffice or the device fails.
    pub fn layer_runner(&self) -> Result<LayerRunner, Error> {
        LayerRunner::new(self)
    }

    /// The cache of one sequence that holds `slot`.
    pub(super) fn cache_of(&self, slot: Slot) -> Result<&BufferDesc, Error> {
        let found = self.table().caches.iter().find(|desc| desc.slot == slot);
        found.ok_or_else(|| no_buffer(self.table(), slot))
    }
}

impl LayerRunner {
    fn new(model: &Model) -> Result<Self, Error> {
        let table = model.table();
        let step = table.single().ok_or_else(|| no_single_step(table))?;
        let buffers = Buffers::new(model, step)?;
        let layers = (0..table.dims.n_layers).map(|layer| Program::new(model, step, &buffers, layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let outside = |phase| -> Result<Vec<Call>, Error> {
            let of_phase = |launch: &&Launch| launch.layer.is_none() && launch.phase == phase;
            step.launches.iter().filter(of_phase).map(|launch| buffers.call(model, launch)).collect()
        };
        let (embed, head) = (outside(Phase::Body)?, outside(Phase::Head)?);
        let find = |slot| buffers.find(slot).ok_or_else(|| no_buffer(table, slot));
        let (control, kv, hidden) = (find(Slot::Control)?.0, find(Slot::Kv)?, find(Slot::Hidden)?.0);
        let (model, products) = (model.clone(), None);
        Ok(Self { model, layers, embed, head, control, kv, hidden, buffers, products })
    }

    /// The model whose layers these are.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Enqueues layer `layer` for one token over memory of the caller: reads `weights`, replaces the residual stream
    /// `io.hidden`, writes row `io.position` of both caches. The same launches as in a session's step, with the same
    /// bits. Every field is checked before anything is enqueued. Does not wait for the device, and allocates nothing
    /// on it; the memory must stay allocated until the work is done.
    ///
    /// An address that passes the checks and was never allocated is the caller's mistake: the emulator names it in a
    /// trap, hardware may end the device's context.
    ///
    /// ```no_run
    /// use monomorph_runtime::queue::Buf;
    /// use monomorph_runtime::{Error, LayerIo, Model, RawLayer, RawMemory};
    ///
    /// # fn example(model: &Model, hidden: &Buf, k: &Buf, v: &Buf) -> Result<(), Error> {
    /// let mut runner = model.layer_runner()?;
    /// let memory = |buf: &Buf| RawMemory { addr: buf.addr().0, bytes: buf.bytes() };
    /// let io = LayerIo { hidden: memory(hidden), k_cache: memory(k), v_cache: memory(v), position: 0 };
    /// // Weights of another place would do as well: RawTensor { addr, bytes, qtype } for each field.
    /// let weights = RawLayer::from(model.layer(0)?);
    /// runner.transformer_layer_indexed(0, &weights, &io)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Api`] naming the field: [`ApiError::Missing`], [`ApiError::Unexpected`], [`ApiError::Null`],
    /// [`ApiError::Misaligned`], [`ApiError::Length`], [`ApiError::Type`], [`ApiError::Wraps`],
    /// [`ApiError::Overlap`], [`ApiError::Layer`]; [`Error::ContextFull`] for a position beyond the model's context.
    /// Or when the device fails.
    pub fn transformer_layer_indexed(
        &mut self,
        layer: u32,
        weights: &RawLayer,
        io: &LayerIo,
    ) -> Result<(), Error> {
        check(&self.model, layer, weights, io)?;
        let (at, bytes) = self.kv;
        let offset = u64::from(layer) * 16;
        if offset + 16 > bytes {
            return Err(no_buffer(self.model.table(), Slot::KCache(layer)));
        }
        self.set(0, io.position)?;
        self.model
            .queue()
            .upload(at.offset(offset), bytemuck::cast_slice(&[io.k_cache.addr, io.v_cache.addr]))?;
        self.run_layer((layer, Part::Whole), weights, io.hidden.device())
    }

    /// Says which token the next launches take.
    pub(super) fn set(&self, token: u32, position: u32) -> Result<(), Error> {
        let mut words = [0u32; CONTROL_WORDS];
        words[0] = 1;
        words[WAITING_CTAS as usize] = self.model.queue().waiting_ctas();
        words[CONTROL_HEADER as usize] = token;
        words[CONTROL_HEADER as usize + 1] = position;
        Ok(self.model.queue().upload(self.control, bytemuck::cast_slice(&words))?)
    }

    /// Enqueues launches of a layer over weights that were checked.
    pub(super) fn run_layer(
        &mut self,
        (layer, part): (u32, Part),
        weights: &RawLayer,
        hidden: DeviceAddr,
    ) -> Result<(), Error> {
        let limit = self.layers.len() as u32;
        let Some(program) = self.layers.get_mut(layer as usize) else {
            return Err(ApiError::Layer { layer, spec: self.model.table().spec.to_string(), limit }.into());
        };
        program.patch(weights, hidden);
        let first = if part == Part::Whole { 0 } else { program.ffn };
        let calls = program.calls.get(first..).unwrap_or(&[]);
        Ok(self.model.kernels().launch(calls)?)
    }
}
