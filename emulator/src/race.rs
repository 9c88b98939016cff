//! Data races in shared memory: who touched each byte since the last barrier.
//!
//! Two accesses of a byte by different threads conflict when one of them writes, they are not both atomic, and
//! neither `bar.sync` nor (for threads of one warp) `bar.warp.sync` stands between. That warps happen to run in
//! lockstep here excuses nobody: hardware makes no such promise. A warp barrier over some lanes counts for the whole
//! warp, so a race that only a partial mask leaves open is missed; nothing clean is ever reported.

use std::cell::Cell;

use crate::trap::{SpaceName, TrapKind};

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

    fn conflicts(&self, touch: Touch, now: &When) -> bool {
        let other_thread = self.many || self.when.thread != now.thread;
        let both_atomic = self.touch == Touch::Atomic && touch == Touch::Atomic;
        other_thread && !both_atomic && !self.ordered_before(now)
    }
}

/// What is remembered of one byte: the last write, and the last reads by up to two warps. Two are enough to see a
/// conflict with any other warp's write.
#[derive(Clone, Copy, Default)]
struct ByteHistory {
    write: Option<Past>,
    reads: [Option<Past>; 2],
}

impl ByteHistory {
    fn conflict(&self, touch: Touch, now: &When) -> Option<Past> {
        let write = self.write.filter(|past| past.conflicts(touch, now));
        let read = || self.reads.iter().flatten().find(|past| past.conflicts(touch, now)).copied();
        write.or_else(|| if touch == Touch::Read { None } else { read() })
    }

    fn record(&mut self, touch: Touch, now: When) {
        let past = Past { touch, when: now, many: false };
        match (touch, self.reads[0]) {
            (Touch::Write, _) => *self = ByteHistory { write: Some(past), reads: [None; 2] },
            (Touch::Atomic, _) => {
                let many = self.write.is_some_and(|w| w.touch == Touch::Atomic && !w.ordered_before(&now));
                self.write = Some(Past { many, ..past });
            }
            (Touch::Read, Some(last)) if last.when.thread / 32 == now.thread / 32 => {
                let many = !last.ordered_before(&now) && (last.many || last.when.thread != now.thread);
                self.reads[0] = Some(Past { many, ..past });
            }
            (Touch::Read, last) => self.reads = [Some(past), last],
        }
    }
}

/// The history of every byte of a CTA's shared memory.
pub(crate) struct CtaShadow(Box<[Cell<ByteHistory>]>);

impl CtaShadow {
    /// A shadow of `bytes` bytes, untouched.
    pub fn new(bytes: u64) -> CtaShadow {
        CtaShadow((0..bytes).map(|_| Cell::new(ByteHistory::default())).collect())
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for byte in &self.0 {
            byte.set(ByteHistory::default());
        }
    }

    /// Records an access; an error if it races with an earlier one.
    pub fn access(&self, offset: u64, bytes: u32, touch: Touch, now: When) -> Result<(), TrapKind> {
        for at in offset..offset + u64::from(bytes) {
            let Some(cell) = self.0.get(at as usize) else { continue };
            let mut history = cell.get();
            if let Some(past) = history.conflict(touch, &now) {
                return Err(TrapKind::Race {
                    space: SpaceName::Shared,
                    addr: at,
                    access: touch.text(),
                    other_access: past.touch.text(),
                    other: past.when.thread,
                });
            }
            history.record(touch, now);
            cell.set(history);
        }
        Ok(())
    }
}
