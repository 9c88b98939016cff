//! Mbarriers and asynchronous copies.
//!
//! A copy moves its bytes when it is issued and lands at once. A kernel that relies on that is wrong on a device, so
//! with checks each byte remembers its copy: whoever touches it must know, by a wait of its own or through barriers
//! and arrivals of others, that the copy's phase is over ([`crate::race`], [`crate::order`]).

use crate::code::{CopyOp, Kind, Slot};
use crate::exec_memory::{check_shared, check_variable, shared_offsets};
use crate::lanes::{LANES, each};
use crate::memory::Space;
use crate::order::Clock;
use crate::race::{Copied, Touch};
use crate::trap::{Fault, TrapKind};
use crate::warp::{Context, Pause, Warp};

/// What addresses and sizes of a bulk copy are multiples of.
const BULK_BYTES: u32 = 16;
/// Size and alignment of an mbarrier.
const MBARRIER_BYTES: u32 = 8;

/// Checks one side of a bulk copy.
fn check_side<S: Space>(space: &S, offset: u64, bytes: u32) -> Result<(), TrapKind> {
    let limit = space.bytes();
    let addr = space.base().wrapping_add(offset);
    if offset.checked_add(u64::from(bytes)).is_none_or(|end| end > limit) {
        return Err(TrapKind::OutOfBounds { space: S::NAME, addr, bytes, offset, limit });
    }
    if !offset.is_multiple_of(u64::from(BULK_BYTES)) {
        return Err(TrapKind::Misaligned { space: S::NAME, addr, align: BULK_BYTES });
    }
    Ok(())
}

impl Warp {
    /// The mbarrier addresses of a slot, checked as atomic accesses.
    fn mbarriers(&self, slot: &Slot, mask: u32, cx: &Context<'_>) -> Result<[u64; LANES], Box<Fault>> {
        let offsets = shared_offsets(&self.w[usize::from(slot.a)], slot.x as i32);
        let touch = if slot.kind == Kind::MbarrierInit { Touch::Write } else { Touch::Atomic };
        check_shared(self, cx, MBARRIER_BYTES, &offsets, (mask, touch))?;
        Ok(offsets)
    }

    /// What a lane gives to those who see the phase over that it arrives in.
    fn release(&mut self, lane: usize, cx: &Context<'_>) -> Clock {
        let now = self.when(lane, cx);
        self.arrivals += 1;
        let shadow = cx.shared.shadow.as_ref();
        shadow.map_or_else(Clock::default, |shadow| shadow.order().release(&now, self.arrivals))
    }

    /// `mbarrier.init`.
    pub fn mbarrier_init(&mut self, slot: &Slot, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        let offsets = self.mbarriers(slot, mask, cx)?;
        for lane in each(mask) {
            let count = self.w[usize::from(slot.b)][lane];
            let thread = self.when(lane, cx).thread;
            let made = cx.shared.mbarriers.init(offsets[lane] as u32, count, thread);
            made.map_err(|kind| Fault::new(lane as u32, kind))?;
        }
        Ok(())
    }

    /// `mbarrier.arrive`, with or without `.expect_tx`. The state it gives is the number of the phase.
    pub fn mbarrier_arrive(&mut self, slot: &Slot, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        let offsets = self.mbarriers(slot, mask, cx)?;
        let mbarriers = &cx.shared.mbarriers;
        for lane in each(mask) {
            let fault = |kind| Fault::new(lane as u32, kind);
            let index = mbarriers.at(offsets[lane] as u32).map_err(fault)?;
            self.q[usize::from(slot.d)][lane] = u64::from(mbarriers.phase(index));
            if slot.kind == Kind::MbarrierExpect {
                let bytes = self.w[usize::from(slot.b)][lane];
                mbarriers.expect(index, i64::from(bytes)).map_err(fault)?;
            }
            let clock = self.release(lane, cx);
            mbarriers.arrive(index, &clock).map_err(fault)?;
        }
        Ok(())
    }

    /// `mbarrier.try_wait.parity`: a lane whose phase is not over gives the other warps a turn.
    pub fn mbarrier_wait(
        &mut self,
        slot: &Slot,
        mask: u32,
        cx: &Context<'_>,
    ) -> Result<Option<Pause>, Box<Fault>> {
        let offsets = self.mbarriers(slot, mask, cx)?;
        let mbarriers = &cx.shared.mbarriers;
        let mut over = 0;
        let mut waits = None;
        for lane in each(mask) {
            let addr = offsets[lane] as u32;
            let index = mbarriers.at(addr).map_err(|kind| Fault::new(lane as u32, kind))?;
            if !mbarriers.is_over(index, self.w[usize::from(slot.b)][lane]) {
                waits = Some(Pause::Retry(addr));
                continue;
            }
            over |= 1 << lane;
            if let Some(shadow) = &cx.shared.shadow {
                shadow.order().learn(&self.when(lane, cx), &mbarriers.released(index));
            }
        }
        self.write_p(usize::from(slot.d), over, mask);
        Ok(waits)
    }

    /// `fence.proxy.async` and `fence.mbarrier_init`.
    pub fn fence_async(&self, mask: u32, cx: &Context<'_>) {
        for lane in each(mask) {
            cx.shared.mbarriers.fence(self.when(lane, cx).thread);
        }
    }

    /// `cp.async.bulk` from global to shared memory.
    pub fn copy_bulk(&mut self, op: &CopyOp, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        let to = shared_offsets(&self.w[usize::from(op.to.0)], op.to.1);
        let mbarriers = shared_offsets(&self.w[usize::from(op.mbarrier.0)], op.mbarrier.1);
        check_shared(self, cx, MBARRIER_BYTES, &mbarriers, (mask, Touch::Atomic))?;
        for lane in each(mask) {
            let from = self.q[usize::from(op.from.0)][lane].wrapping_add(i64::from(op.from.1) as u64);
            let bytes = self.w[usize::from(op.bytes)][lane];
            let copied = self.copy_lane((to[lane], from, mbarriers[lane] as u32), bytes, (lane, cx));
            copied.map_err(|kind| Fault::new(lane as u32, kind))?;
        }
        Ok(())
    }

    fn copy_lane(
        &self,
        (to, from, mbarrier): (u64, u64, u32),
        bytes: u32,
        (lane, cx): (usize, &Context<'_>),
    ) -> Result<(), TrapKind> {
        if !bytes.is_multiple_of(BULK_BYTES) {
            return Err(TrapKind::CopySize { bytes });
        }
        let (region, offset) = cx.globals.locate(from, bytes)?;
        check_side(region, offset, bytes)?;
        check_side(cx.shared, to, bytes)?;
        let index = cx.shared.mbarriers.at(mbarrier)?;
        if !cx.shared.mbarriers.is_fenced(index) {
            return Err(TrapKind::MbarrierUnfenced { addr: mbarrier });
        }
        if let Some(shadow) = &cx.shared.shadow {
            check_variable(cx.shared, to, bytes)?;
            let now = self.when(lane, cx);
            let copied =
                Copied { mbarrier: index, phase: cx.shared.mbarriers.phase(index), thread: now.thread };
            shadow.copy(to, bytes, copied, now)?;
        }
        for at in (0..u64::from(bytes)).step_by(BULK_BYTES as usize) {
            if region.init().is_some_and(|init| !init.has(offset + at, BULK_BYTES)) {
                let addr = region.base().wrapping_add(offset + at);
                return Err(TrapKind::Uninitialised {
                    space: crate::SpaceName::Global,
                    addr,
                    bytes: BULK_BYTES,
                });
            }
            if let Some(words) = region.load::<4>(((offset + at) >> 2) as usize) {
                cx.shared.store::<4>(((to + at) >> 2) as usize, words);
            }
            if let Some(init) = cx.shared.init() {
                init.mark(to + at, BULK_BYTES);
            }
        }
        cx.shared.mbarriers.expect(index, -i64::from(bytes))
    }
}
