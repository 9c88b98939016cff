//! Data races in shared memory: who touched each byte since the last barrier.
//!
//! Two accesses of a byte by different threads conflict when one of them writes, they are not both atomic, and
//! neither `bar.sync` nor (for threads of one warp) `bar.warp.sync` nor an mbarrier stands between. An asynchronous copy
//! writes its bytes from when it is issued until its mbarrier's phase is over. That warps happen to run in
//! lockstep here excuses nobody: hardware makes no such promise. A warp barrier over some lanes counts for the whole
//! warp, so a race that only a partial mask leaves open is missed; nothing clean is ever reported.

use std::cell::{Cell, RefCell, RefMut};

use crate::order::Order;
use crate::trap::{SpaceName, TrapKind};

/// How traps name an asynchronous copy.
const COPY: &str = "asynchronous copy";

/// How a thread touches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    Atomic,
}

impl Touch {
    fn text(self) -> &'static str {
        match self {
            Touch::Read => "read",
            Touch::Write => "write",
            Touch::Atomic => "atomic",
        }
    }
}

/// Who touches, and when: the numbers of barriers passed so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct When {
    /// Linear index in the CTA.
    pub thread: u32,
    /// `bar.sync`s that the CTA completed.
    pub cta_epoch: u32,
    /// Barriers of either kind that the warp passed.
    pub warp_epoch: u32,
    /// Times that the warp arrived at mbarriers.
    pub arrivals: u32,
}

/// The asynchronous copy that a byte comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    /// The mbarrier that counts it, by its number.
    pub mbarrier: usize,
    /// The phase it belongs to.
    pub phase: u32,
    /// Thread that issued it.
    pub thread: u32,
}

/// An earlier touch. `many`: also by other lanes of that warp, in the same epoch.
#[derive(Clone, Copy, Debug)]
struct Past {
    touch: Touch,
    when: When,
    many: bool,
}

impl Past {
    fn ordered_before(&self, now: &When) -> bool {
        let same_warp = self.when.thread / 32 == now.thread / 32;
        self.when.cta_epoch != now.cta_epoch || same_warp && self.when.warp_epoch != now.warp_epoch
    }

    fn conflicts(&self, touch: Touch, now: &When, order: &Order) -> bool {
        let other_thread = self.many || self.when.thread != now.thread;
        let both_atomic = self.touch == Touch::Atomic && touch == Touch::Atomic;
        let unordered = || !self.ordered_before(now) && !order.knows_access(now, &self.when);
        other_thread && !both_atomic && unordered()
    }
}

/// What is remembered of one byte: the last write, and the last reads by up to two warps. Two are enough to see a
/// conflict with any other warp's write.
#[derive(Clone, Copy, Default)]
struct ByteHistory {
    write: Option<Past>,
    /// The last atomic access; it does not hide the write before it, which others may not be ordered behind.
    atomic: Option<Past>,
    reads: [Option<Past>; 2],
    /// The copy that wrote it last.
    copied: Option<Copied>,
}

impl ByteHistory {
    fn conflict(&self, touch: Touch, now: &When, order: &Order) -> Option<Past> {
        let write = self.write.filter(|past| past.conflicts(touch, now, order));
        let read = || self.reads.iter().flatten().find(|past| past.conflicts(touch, now, order)).copied();
        let atomic = self.atomic.filter(|past| past.conflicts(touch, now, order));
        write.or(atomic).or_else(|| if touch == Touch::Read { None } else { read() })
    }

    fn record(&mut self, touch: Touch, now: When) {
        let past = Past { touch, when: now, many: false };
        match (touch, self.reads[0]) {
            (Touch::Write, _) => *self = ByteHistory { write: Some(past), ..ByteHistory::default() },
            (Touch::Atomic, _) => {
                let others = |w: Past| w.many || w.when.thread != now.thread;
                let many = self.atomic.is_some_and(|w| !w.ordered_before(&now) && others(w));
                self.atomic = Some(Past { many, ..past });
            }
            (Touch::Read, Some(last)) if last.when.thread / 32 == now.thread / 32 => {
                let many = !last.ordered_before(&now) && (last.many || last.when.thread != now.thread);
                self.reads[0] = Some(Past { many, ..past });
            }
            (Touch::Read, last) => self.reads = [Some(past), last],
        }
    }
}

/// The history of every byte of a CTA's shared memory, and what its warps know of each other.
pub(crate) struct CtaShadow {
    bytes: Box<[Cell<ByteHistory>]>,
    order: RefCell<Order>,
}

impl CtaShadow {
    /// A shadow of `bytes` bytes, untouched.
    pub fn new(bytes: u64) -> CtaShadow {
        let bytes = (0..bytes).map(|_| Cell::new(ByteHistory::default())).collect();
        CtaShadow { bytes, order: RefCell::default() }
    }

    /// What warps know through mbarriers.
    pub fn order(&self) -> RefMut<'_, Order> {
        self.order.borrow_mut()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for byte in &self.bytes {
            byte.set(ByteHistory::default());
        }
        self.order.get_mut().clear();
    }

    /// Records an access; an error if it races with an earlier one.
    pub fn access(&self, offset: u64, bytes: u32, touch: Touch, now: When) -> Result<(), TrapKind> {
        for at in offset..offset + u64::from(bytes) {
            let Some(cell) = self.bytes.get(at as usize) else { continue };
            let mut history = cell.get();
            self.check(&history, (at, touch), (&now, touch.text()))?;
            history.record(touch, now);
            cell.set(history);
        }
        Ok(())
    }

    /// Records a copy into bytes: to others it is a write by the thread that issues it, which ends some time.
    pub fn copy(&self, offset: u64, bytes: u32, copied: Copied, now: When) -> Result<(), TrapKind> {
        for at in offset..offset + u64::from(bytes) {
            let Some(cell) = self.bytes.get(at as usize) else { continue };
            self.check(&cell.get(), (at, Touch::Write), (&now, COPY))?;
            cell.set(ByteHistory { copied: Some(copied), ..ByteHistory::default() });
        }
        Ok(())
    }

    fn check(
        &self,
        history: &ByteHistory,
        (addr, touch): (u64, Touch),
        (now, access): (&When, &'static str),
    ) -> Result<(), TrapKind> {
        let order = self.order.borrow();
        let race = |other_access, other| {
            Err(TrapKind::Race { space: SpaceName::Shared, addr, access, other_access, other })
        };
        if let Some(copied) = history.copied
            && !order.knows_phase(now, copied.mbarrier, copied.phase)
        {
            return race(COPY, copied.thread);
        }
        match history.conflict(touch, now, &order) {
            Some(past) => race(past.touch.text(), past.when.thread),
            None => Ok(()),
        }
    }
}
