//! Exchanges among the lanes of a warp: shuffles, votes, reductions, and the member masks they share.
//!
//! A live lane that is in a member mask but not executing the instruction is a trap: hardware would wait for it, and
//! lanes that diverged do not come here to be waited for. Exited lanes count for nothing, as on hardware.

use crate::code::{Kind, Reduction, ShflMode, ShflOp, Slot};
use crate::exec_atom::combine32;
use crate::lanes::{ALL, LANES, each, write};
use crate::trap::{Fault, TrapKind};
use crate::warp::Warp;

/// Source lane of a shuffle and whether it is in range (PTX ISA 9.7.8.6).
fn source_lane(mode: ShflMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = lane & segment | clamp & !segment;
    let min = lane & segment;
    let (j, in_range) = match mode {
        // Signed: `lane - b` may lie below zero, and for `.up` the bound is a least lane.
        ShflMode::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= max as i32),
        ShflMode::Down => (lane + b, lane + b <= max),
        ShflMode::Bfly => (lane ^ b, lane ^ b <= max),
        ShflMode::Idx => (min | b & !segment, min | b & !segment <= max),
    };
    if in_range { (j, true) } else { (lane, false) }
}

impl Warp {
    /// Checks the member masks of the executing lanes, in register `members`.
    pub fn check_members(&self, members: usize, active: u32) -> Result<(), Box<Fault>> {
        let masks = &self.w[members];
        if active == ALL && masks.iter().all(|m| *m == ALL) {
            return Ok(());
        }
        for lane in each(active) {
            let mask = masks[lane];
            if mask >> lane & 1 == 0 {
                return Err(Fault::new(lane as u32, TrapKind::NotAMember { lane: lane as u32, mask }));
            }
            if mask & self.live & !active != 0 {
                return Err(Fault::new(lane as u32, TrapKind::MissingMembers { mask, active }));
            }
        }
        Ok(())
    }

    /// `shfl.sync`.
    pub fn shuffle(&mut self, op: &ShflOp, mask: u32) -> Result<(), Box<Fault>> {
        self.check_members(usize::from(op.members), mask)?;
        let (values, lanes, clamps) =
            (&self.w[usize::from(op.value)], &self.w[usize::from(op.lane)], &self.w[usize::from(op.clamp)]);
        let members = &self.w[usize::from(op.members)];
        let mut out = [0; LANES];
        let mut in_range = 0;
        for lane in 0..LANES {
            if mask >> lane & 1 == 0 {
                continue;
            }
            let (source, fits) = source_lane(op.mode, lane as u32, lanes[lane], clamps[lane]);
            let source = source & 31;
            if (mask & members[lane]) >> source & 1 == 0 {
                let kind = TrapKind::InactiveSource { source_lane: source, active: mask & members[lane] };
                return Err(Fault::new(lane as u32, kind));
            }
            out[lane] = values[source as usize];
            in_range |= u32::from(fits) << lane;
        }
        write(&mut self.w[usize::from(op.to)], out, mask);
        if let Some(p) = op.in_range {
            self.write_p(usize::from(p), in_range, mask);
        }
        Ok(())
    }

    /// `vote.sync`. Lanes with different masks vote in groups of their own.
    pub fn vote(&mut self, slot: &Slot, mask: u32) -> Result<(), Box<Fault>> {
        let members = usize::from(slot.b);
        self.check_members(members, mask)?;
        let held = self.p[usize::from(slot.a)];
        let mut ballot = [0; LANES];
        let mut truth = 0;
        for lane in each(mask) {
            let group = self.w[members][lane] & mask;
            let votes = held & group;
            let holds = match slot.kind {
                Kind::VoteAny => votes != 0,
                Kind::VoteAll => votes == group,
                _ => votes == 0 || votes == group,
            };
            ballot[lane] = votes;
            truth |= u32::from(holds) << lane;
        }
        let d = usize::from(slot.d);
        if slot.kind == Kind::Ballot {
            write(&mut self.w[d], ballot, mask);
        } else {
            self.write_p(d, truth, mask);
        }
        Ok(())
    }

    /// `redux.sync`. Lanes with different masks reduce in groups of their own.
    pub fn redux(&mut self, slot: &Slot, mask: u32) -> Result<(), Box<Fault>> {
        const ADD: u32 = Reduction::Add as u32;
        const MIN_U: u32 = Reduction::MinU as u32;
        const MAX_U: u32 = Reduction::MaxU as u32;
        const MIN_S: u32 = Reduction::MinS as u32;
        let members = usize::from(slot.b);
        self.check_members(members, mask)?;
        let op = match slot.x {
            ADD => Reduction::Add,
            MIN_U => Reduction::MinU,
            MAX_U => Reduction::MaxU,
            MIN_S => Reduction::MinS,
            _ => Reduction::MaxS,
        };
        let values = self.w[usize::from(slot.a)];
        let mut out = [0; LANES];
        for lane in each(mask) {
            let group = self.w[members][lane] & mask;
            let mut rest = each(group).map(|l| values[l]);
            let first = rest.next().unwrap_or(values[lane]);
            out[lane] = rest.fold(first, |acc, v| combine32(op, acc, v, 0));
        }
        write(&mut self.w[usize::from(slot.d)], out, mask);
        Ok(())
    }
}
