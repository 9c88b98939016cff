//! What a warp's strong loads of global memory and its atomics found, so that a loop that waits for another CTA is seen to wait.
//!
//! A load that finds again what it found the last time, while no other load of the warp found anything new between and
//! the warp wrote nothing, cannot find its way out of a loop by what it reads. The warp then gives way instead of trying
//! again. A kernel that counts its tries is not caught by this: the scheduler lets it insist before it calls a deadlock.

use crate::code::{Access, AtomOp, File};
use crate::lanes::each;
use crate::warp::Warp;

/// A strong load, as it went the last time.
#[derive(Clone, Copy, Debug)]
struct Poll {
    slot: usize,
    /// A digest of the lanes that loaded, where and what.
    digest: u64,
    /// [`Warp::steps`] then.
    at: u64,
    addr: u64,
    value: u64,
}

/// The strong loads of a warp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Polls {
    /// By slot, ascending.
    known: Vec<Poll>,
    /// Loads that found something new, or something in a new place.
    pub found: u64,
    /// When one of them found something new.
    news: u64,
    /// [`Warp::writes`] at the last load.
    writes: u64,
    /// Index in `known` of the last load.
    last: usize,
}

impl Polls {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Polls { known: std::mem::take(&mut self.known), ..Polls::default() };
        self.known.clear();
    }

    /// Slot, address and value (of the first lane) of the last load.
    pub fn last(&self) -> Option<(usize, u64, u64)> {
        self.known.get(self.last).map(|poll| (poll.slot, poll.addr, poll.value))
    }
}

/// What an instruction reads from global memory, and where that went.
pub(crate) struct Reads<'a> {
    base: u16,
    offset: i32,
    regs: &'a [u16],
    file: File,
}

impl<'a> From<&'a Access> for Reads<'a> {
    fn from(op: &'a Access) -> Self {
        let Access { base, offset, file, .. } = *op;
        Reads { base, offset, regs: &op.regs[..op.vector as usize], file }
    }
}

impl<'a> From<&'a AtomOp> for Reads<'a> {
    fn from(op: &'a AtomOp) -> Self {
        let AtomOp { base, offset, file, .. } = *op;
        Reads { base, offset, regs: op.to.as_slice(), file }
    }
}

/// FNV-1a over words.
fn mix(digest: u64, word: u64) -> u64 {
    (digest ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

impl Warp {
    /// Records the strong load of global memory, or atomic, that was just executed; whether it shows that the warp waits.
    pub fn spins(&mut self, op: &Reads<'_>, mask: u32) -> bool {
        let value = |reg: u16, lane: usize| match op.file {
            File::Q => self.q[usize::from(reg)][lane],
            _ => u64::from(self.w[usize::from(reg)][lane]),
        };
        let addr = |lane: usize| self.q[usize::from(op.base)][lane].wrapping_add(i64::from(op.offset) as u64);
        let mut digest = mix(0xcbf2_9ce4_8422_2325, u64::from(mask));
        for lane in each(mask) {
            digest = mix(digest, addr(lane));
            digest = op.regs.iter().fold(digest, |digest, reg| mix(digest, value(*reg, lane)));
        }
        let first = mask.trailing_zeros() as usize & 31;
        let (slot, at) = (self.last_slot(), self.steps);
        let poll = Poll {
            slot,
            digest,
            at,
            addr: addr(first),
            value: op.regs.first().map_or(0, |reg| value(*reg, first)),
        };
        let seen = &mut self.seen;
        if seen.writes != self.writes {
            (seen.writes, seen.news) = (self.writes, at);
        }
        let place = seen.known.binary_search_by_key(&slot, |known| known.slot);
        seen.last = place.unwrap_or_else(|at| at);
        if place.is_err() {
            seen.known.insert(seen.last, poll);
        } else if let Some(known) = seen.known.get_mut(seen.last) {
            let before = std::mem::replace(known, poll);
            if before.digest == digest {
                return seen.news <= before.at;
            }
        }
        seen.news = at;
        seen.found += 1;
        false
    }
}
