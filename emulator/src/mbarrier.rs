//! The mbarriers of a CTA. Their eight bytes are opaque to kernels, so that their state lies beside shared memory; the
//! bytes are never marked as written, and reading them traps where that is checked.
//!
//! A phase is over when its arrivals have come and the bytes it waits for have landed (PTX ISA 9.7.12, mbarrier).

use std::cell::{Cell, RefCell};

use crate::order::Clock;
use crate::trap::TrapKind;

/// Arrivals that a phase may take, and bytes that it may wait for (PTX ISA 9.7.12, contents of the mbarrier object).
pub(crate) const MAX_COUNT: u32 = (1 << 20) - 1;

/// One mbarrier.
#[derive(Debug)]
struct Mbarrier {
    addr: u32,
    /// Arrivals a phase takes.
    count: u32,
    /// Arrivals that the phase under way still waits for.
    pending: u32,
    /// Bytes that it still waits for; negative while copies have landed that nobody expected yet.
    bytes: i64,
    /// Phases that are over.
    phase: u32,
    /// Thread that initialised it.
    thread: u32,
    /// Whether that thread has made the initialisation known to asynchronous copies.
    fenced: bool,
    /// What those who arrived in the phase under way release.
    arriving: Clock,
    /// What a thread that sees the last phase over acquires.
    released: Clock,
}

/// The mbarriers of a CTA, numbered in the order of their initialisation.
#[derive(Debug, Default)]
pub(crate) struct Mbarriers {
    list: RefCell<Vec<Mbarrier>>,
    /// Arrivals, expectations and landings so far: what a wait may be waiting for.
    changes: Cell<u64>,
}

impl Mbarriers {
    /// Forgets all.
    pub fn clear(&mut self) {
        self.list.get_mut().clear();
        self.changes.set(0);
    }

    /// A number that grows with everything that may end a wait.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    fn change(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// `mbarrier.init` by a thread.
    pub fn init(&self, addr: u32, count: u32, thread: u32) -> Result<(), TrapKind> {
        let mut list = self.list.borrow_mut();
        if list.iter().any(|m| m.addr == addr) {
            return Err(TrapKind::MbarrierTwice { addr });
        }
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(TrapKind::MbarrierCount { addr, found: i64::from(count), limit: MAX_COUNT });
        }
        let (arriving, released) = (Clock::default(), Clock::default());
        let (pending, fenced) = (count, false);
        list.push(Mbarrier { addr, count, pending, bytes: 0, phase: 0, thread, fenced, arriving, released });
        self.change();
        Ok(())
    }

    /// The number of the mbarrier at an address.
    pub fn at(&self, addr: u32) -> Result<usize, TrapKind> {
        let found = self.list.borrow().iter().position(|m| m.addr == addr);
        found.ok_or(TrapKind::NoMbarrier { addr })
    }

    /// A thread's fence between its initialisations and asynchronous copies.
    pub fn fence(&self, thread: u32) {
        self.list.borrow_mut().iter_mut().filter(|m| m.thread == thread).for_each(|m| m.fenced = true);
    }

    /// Whether asynchronous copies may count on the mbarrier.
    pub fn is_fenced(&self, index: usize) -> bool {
        self.list.borrow().get(index).is_some_and(|m| m.fenced)
    }

    /// Phases that are over.
    pub fn phase(&self, index: usize) -> u32 {
        self.list.borrow().get(index).map_or(0, |m| m.phase)
    }

    /// Whether the phase of that parity is over: the one before that under way.
    pub fn is_over(&self, index: usize, parity: u32) -> bool {
        self.phase(index) & 1 != parity & 1
    }

    /// What a thread that saw the last phase over knows.
    pub fn released(&self, index: usize) -> Clock {
        self.list.borrow().get(index).map_or_else(Clock::default, |m| m.released.clone())
    }

    /// The phase under way waits for `bytes` bytes more; negative when they landed.
    pub fn expect(&self, index: usize, bytes: i64) -> Result<(), TrapKind> {
        let mut list = self.list.borrow_mut();
        let Some(m) = list.get_mut(index) else { return Ok(()) };
        m.bytes += bytes;
        if m.bytes.unsigned_abs() > u64::from(MAX_COUNT) {
            return Err(TrapKind::MbarrierCount { addr: m.addr, found: m.bytes, limit: MAX_COUNT });
        }
        m.end_phase(index);
        self.change();
        Ok(())
    }

    /// One arrival, which releases `clock`.
    pub fn arrive(&self, index: usize, clock: &Clock) -> Result<(), TrapKind> {
        let mut list = self.list.borrow_mut();
        let Some(m) = list.get_mut(index) else { return Ok(()) };
        if m.pending == 0 {
            return Err(TrapKind::MbarrierOverrun { addr: m.addr, count: m.count, bytes: m.bytes });
        }
        m.pending -= 1;
        m.arriving.merge(clock);
        m.end_phase(index);
        self.change();
        Ok(())
    }
}

impl Mbarrier {
    /// Goes on to the next phase if this one is complete.
    fn end_phase(&mut self, index: usize) {
        if self.pending > 0 || self.bytes != 0 {
            return;
        }
        self.phase += 1;
        self.pending = self.count;
        self.released.merge(&std::mem::take(&mut self.arriving));
        self.released.pass(index, self.phase);
    }
}
