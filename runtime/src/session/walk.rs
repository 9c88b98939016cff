//! A step taken launch by launch, with a look at what each launch left in memory: for debugging and for comparing two
//! devices.
//!
//! Scratch is filled with zeros before the step, and before a launch that only writes it, so that two walks over the
//! same tokens leave the same bytes everywhere, also where no launch writes.

use plan::{Access, Arg, KernelDesc, Launch, Place, Slot, Step, Table};

use super::Session;
use crate::error::Error;
use crate::memory::{CONSTANT_SLOTS, buffer_bytes};

/// A piece of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// What the buffer holds.
    pub slot: Slot,
    /// Bytes from the buffer's start.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A step of a session between two of its launches. A walk that does not reach the last launch leaves the session
/// where it was; the token counts as taken with the last one.
pub struct Walk<'s> {
    session: &'s mut Session,
    /// The position that the step fills.
    position: u32,
    /// Launches that were run.
    n_done: usize,
}

impl Session {
    /// Begins a step with head for `token`, with the greatest logit chosen at its end. Scratch and what the device keeps of earlier tokens beside the caches
    /// ([`Slot::History`]) are cleared.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn walk(&mut self, token: u32) -> Result<Walk<'_>, Error> {
        self.prepare_step(token)?;
        let kept = |slot: Slot| {
            matches!(slot, Slot::Control | Slot::Kv | Slot::Sampling) || CONSTANT_SLOTS.contains(&slot)
        };
        let single = self.model.table().single();
        for desc in single.iter().flat_map(|step| step.buffers.iter()).filter(|desc| !kept(desc.slot)) {
            self.engine.zero(&self.model, desc.slot)?;
        }
        self.caches.clear_row(&self.model, self.position)?;
        Ok(Walk { position: self.position, session: self, n_done: 0 })
    }
}

impl Walk<'_> {
    /// Runs the next launch and waits for it; false when there is none left.
    ///
    /// # Errors
    /// When the device fails: the error is that of this launch.
    pub fn advance(&mut self) -> Result<bool, Error> {
        let session = &*self.session;
        let calls = session.engine.calls();
        let Some(call) = calls.get(self.n_done..=self.n_done) else { return Ok(false) };
        let n_calls = calls.len();
        self.clear_outputs(self.n_done)?;
        session.model.kernels().launch(call)?;
        session.model.queue().synchronize()?;
        self.n_done += 1;
        if self.n_done == n_calls {
            self.session.position = self.position + 1;
            self.session.has_logits = true;
        }
        Ok(true)
    }

    /// The table whose first step is walked.
    #[must_use]
    pub fn table(&self) -> &Table {
        self.session.model.table()
    }

    /// The position that the step fills.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Index of the launch that was run last, with its row of the table and its kernel.
    #[must_use]
    pub fn launch(&self) -> Option<(usize, &Launch, &KernelDesc)> {
        let index = self.n_done.checked_sub(1)?;
        let (_, launch, kernel) = self.at(index)?;
        Some((index, launch, kernel))
    }

    /// What the launch that was run last may have written: each buffer whole, and of caches the row of this position.
    #[must_use]
    pub fn written(&self) -> Vec<Region> {
        let Some((index, launch, kernel)) = self.launch() else { return Vec::new() };
        let Some(step) = self.session.model.table().single() else { return Vec::new() };
        let mut regions = Vec::new();
        for (slot, _) in outputs(step, launch, kernel) {
            let desc = step.buffers.iter().find(|desc| desc.slot == slot);
            let bytes = desc.map_or(0, |desc| buffer_bytes(desc, self.session.model.context()));
            let region = Region { slot, offset: 0, bytes };
            if !regions.contains(&region) {
                regions.push(region);
            }
        }
        if appends(step, index) {
            regions.extend(self.cache_rows(launch));
        }
        regions
    }

    /// The bytes of a piece of a buffer of the step or of a cache.
    ///
    /// # Errors
    /// When the table has no such buffer, the piece does not lie in it, or the device fails.
    pub fn read(&self, region: &Region) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; region.bytes as usize];
        let Session { engine, model, caches, .. } = &*self.session;
        engine.read_bytes((model, caches), (region.slot, region.offset), &mut bytes)?;
        Ok(bytes)
    }

    fn at(&self, index: usize) -> Option<(&Step, &Launch, &KernelDesc)> {
        let table = self.session.model.table();
        let step = table.single()?;
        let launch = step.launches.get(index)?;
        Some((step, launch, table.kernels.get(launch.kernel as usize)?))
    }

    /// Scratch that the launch only writes holds nothing that is read later: the arena reuses it by the same rule.
    fn clear_outputs(&self, index: usize) -> Result<(), Error> {
        let Some((step, launch, kernel)) = self.at(index) else { return Ok(()) };
        let is_scratch = |slot: Slot| {
            let desc = step.buffers.iter().find(|desc| desc.slot == slot);
            desc.is_some_and(|desc| desc.place != Place::Own)
        };
        let is_read = |slot: Slot| uses(step, launch, kernel).any(|(s, a)| s == slot && a != Access::Write);
        for (slot, access) in outputs(step, launch, kernel) {
            if access == Access::Write && is_scratch(slot) && !is_read(slot) {
                self.session.engine.zero(&self.session.model, slot)?;
            }
        }
        Ok(())
    }

    fn cache_rows(&self, launch: &Launch) -> impl Iterator<Item = Region> {
        let of_layer = launch.layer.map(|layer| [Slot::KCache(layer), Slot::VCache(layer)]);
        let caches = self.session.model.table().caches.iter();
        let position = u64::from(self.position);
        caches.filter(move |desc| of_layer.is_some_and(|slots| slots.contains(&desc.slot))).map(move |desc| {
            let offset = desc.bytes + desc.bytes_per_pos * position;
            Region { slot: desc.slot, offset, bytes: desc.bytes_per_pos }
        })
    }
}

/// The buffers that a launch is given, with how it uses each.
fn uses<'a>(
    step: &'a Step,
    launch: &'a Launch,
    kernel: &'a KernelDesc,
) -> impl Iterator<Item = (Slot, Access)> + 'a {
    launch.args.iter().zip(kernel.params.iter()).filter_map(|(arg, param)| match arg {
        Arg::Buffer { index, .. } => Some((step.buffers.get(*index as usize)?.slot, param.access)),
        Arg::Weight(_) => None,
    })
}

fn outputs<'a>(
    step: &'a Step,
    launch: &'a Launch,
    kernel: &'a KernelDesc,
) -> impl Iterator<Item = (Slot, Access)> + 'a {
    uses(step, launch, kernel).filter(|(_, access)| access.writes())
}

/// Whether a launch puts keys and values into the caches, which it reaches through [`Slot::Kv`]: the first of its layer
/// that has their addresses does, the later ones read them.
fn appends(step: &Step, index: usize) -> bool {
    let has_caches = |launch: &Launch| {
        launch.args.iter().any(|arg| match arg {
            Arg::Buffer { index, .. } => {
                step.buffers.get(*index as usize).is_some_and(|desc| desc.slot == Slot::Kv)
            }
            Arg::Weight(_) => false,
        })
    };
    let Some(launch) = step.launches.get(index) else { return false };
    let first = step.launches.iter().position(|l| l.layer == launch.layer && has_caches(l));
    first == Some(index)
}
