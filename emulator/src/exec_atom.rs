//! Atomics: `atom` and `red`, lane by lane in lane order, which is one of the orders the ISA permits.
//!
//! 32-bit ones are atomics of the host. 64-bit ones hold the region's lock, as strong 64-bit loads and stores do.

use std::sync::atomic::Ordering;

use crate::code::{AtomOp, File, Reduction};
use crate::exec_memory::{check_bounds, check_shared, shared_offsets};
use crate::lanes::each;
use crate::memory::Space;
use crate::race::Touch;
use crate::trap::{Fault, TrapKind};
use crate::warp::{Context, Warp};

/// The new value of a 64-bit word.
fn combine64(op: Reduction, old: u64, value: u64, new: u64) -> u64 {
    match op {
        Reduction::Add => old.wrapping_add(value),
        Reduction::MinU => old.min(value),
        Reduction::MaxU => old.max(value),
        Reduction::MinS => (old as i64).min(value as i64) as u64,
        Reduction::MaxS => (old as i64).max(value as i64) as u64,
        Reduction::And => old & value,
        Reduction::Or => old | value,
        Reduction::Xor => old ^ value,
        Reduction::Exch => value,
        Reduction::Inc => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        Reduction::Cas => {
            if old == value {
                new
            } else {
                old
            }
        }
    }
}

/// The new value of a 32-bit word.
pub(crate) fn combine32(op: Reduction, old: u32, value: u32, new: u32) -> u32 {
    match op {
        Reduction::MinS => (old as i32).min(value as i32) as u32,
        Reduction::MaxS => (old as i32).max(value as i32) as u32,
        _ => combine64(op, u64::from(old), u64::from(value), u64::from(new)) as u32,
    }
}

/// Replaces a 64-bit value; the old one. The caller excludes others.
fn replace64<S: Space>(space: &S, word: usize, f: impl Fn(u64) -> u64) -> u64 {
    let [lo, hi] = space.load::<2>(word).unwrap_or_default();
    let old = u64::from(lo) | u64::from(hi) << 32;
    let new = f(old);
    space.store::<2>(word, [new as u32, (new >> 32) as u32]);
    old
}

fn check_written<S: Space>(space: &S, offset: u64, bytes: u32) -> Result<(), TrapKind> {
    match space.init() {
        Some(init) if !init.has(offset, bytes) => {
            let addr = space.base().wrapping_add(offset);
            Err(TrapKind::Uninitialised { space: S::NAME, addr, bytes })
        }
        _ => Ok(()),
    }
}

impl Warp {
    fn atom_operands(&self, op: &AtomOp, lane: usize) -> (u64, u64) {
        let (value, new) = (usize::from(op.value), usize::from(op.new));
        match op.file {
            File::Q => (self.q[value][lane], self.q[new][lane]),
            _ => (u64::from(self.w[value][lane]), u64::from(self.w[new][lane])),
        }
    }

    fn atom_result(&mut self, op: &AtomOp, lane: usize, old: u64) {
        match (op.to, op.file) {
            (Some(to), File::Q) => self.q[usize::from(to)][lane] = old,
            (Some(to), _) => self.w[usize::from(to)][lane] = old as u32,
            (None, _) => {}
        }
    }

    /// `atom.global`, `red.global`.
    pub fn atom_global(&mut self, op: &AtomOp, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        let bytes = if op.file == File::Q { 8 } else { 4 };
        self.polls += 1;
        for lane in each(mask) {
            let addr = self.q[usize::from(op.base)][lane].wrapping_add(i64::from(op.offset) as u64);
            let fault = |kind| Fault::new(lane as u32, kind);
            let (region, offset) = cx.globals.locate(addr, bytes).map_err(fault)?;
            check_bounds(region, offset, bytes).map_err(fault)?;
            if op.op != Reduction::Exch {
                check_written(region, offset, bytes).map_err(fault)?;
            }
            let (value, new) = self.atom_operands(op, lane);
            let word = (offset >> 2) as usize;
            let changes = if bytes == 8 {
                |op, old, value, new| combine64(op, old, value, new) != old
            } else {
                |op, old, value, new| combine32(op, old as u32, value as u32, new as u32) != old as u32
            };
            let old = if bytes == 8 {
                let _whole = region.wide_lock();
                replace64(region, word, |old| combine64(op.op, old, value, new))
            } else {
                let update = |old| Some(combine32(op.op, old, value as u32, new as u32));
                let cell = region.atomic(word);
                // The closure never refuses, so both arms carry the old value.
                let old = cell.map(|cell| cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, update));
                old.map_or(0, |old| u64::from(old.unwrap_or_else(|old| old)))
            };
            if let Some(init) = region.init() {
                init.mark(offset, bytes);
            }
            self.writes += u64::from(changes(op.op, old, value, new));
            self.atom_result(op, lane, old);
        }
        Ok(())
    }

    /// `atom.shared`, `red.shared`.
    pub fn atom_shared(&mut self, op: &AtomOp, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        let bytes = if op.file == File::Q { 8 } else { 4 };
        self.polls += 1;
        let offsets = shared_offsets(&self.w[usize::from(op.base)], op.offset);
        check_shared(self, cx, bytes, &offsets, (mask, Touch::Atomic))?;
        for lane in each(mask) {
            let offset = offsets[lane];
            if op.op != Reduction::Exch {
                check_written(cx.shared, offset, bytes).map_err(|kind| Fault::new(lane as u32, kind))?;
            }
            let (value, new) = self.atom_operands(op, lane);
            let word = (offset >> 2) as usize;
            let old = if bytes == 8 {
                replace64(cx.shared, word, |old| combine64(op.op, old, value, new))
            } else {
                let [old] = cx.shared.load::<1>(word).unwrap_or_default();
                cx.shared.store::<1>(word, [combine32(op.op, old, value as u32, new as u32)]);
                u64::from(old)
            };
            if let Some(init) = cx.shared.init() {
                init.mark(offset, bytes);
            }
            self.atom_result(op, lane, old);
        }
        Ok(())
    }
}
