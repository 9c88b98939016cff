//! Exchanges among the lanes of a warp: shuffles, votes, reductions, and the member masks they share.
//!
//! A live lane that is in a member mask but not executing the instruction is a trap: hardware would wait for it, and
//! lanes that diverged do not come here to be waited for. Exited lanes count for nothing, as on hardware.

use crate::code::{Kind, Reduction, ShflMode, ShflOp, Slot};
use crate::exec_atom::combine32;
use crate::lanes::{ALL, LANES, each, map1, map3, mask_of, write};
use crate::trap::{Fault, TrapKind};
use crate::warp::Warp;

/// Source lane of a shuffle (PTX ISA 9.7.8.6), with bit 31 set where it is in range.
#[inline(always)]
fn source_lane(mode: ShflMode, lane: u32, b: u32, c: u32) -> u32 {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = lane & segment | clamp & !segment;
    let min = lane & segment;
    let (source, in_range) = match mode {
        // Signed: `lane - b` may lie below zero, and for `.up` the bound is a least lane.
        ShflMode::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= max as i32),
        ShflMode::Down => (lane + b, lane + b <= max),
        ShflMode::Bfly => (lane ^ b, lane ^ b <= max),
        ShflMode::Idx => (min | b & !segment, min | b & !segment <= max),
    };
    if in_range { source & 31 | IN_RANGE } else { lane }
}

/// Set in what [`source_lane`] gives where the source lane is in range.
const IN_RANGE: u32 = 1 << 31;

/// [`source_lane`] of every lane, as vector code for each mode.
#[inline(always)]
fn source_lanes(mode: ShflMode, b: &[u32; LANES], c: &[u32; LANES]) -> [u32; LANES] {
    let mut lanes = [0; LANES];
    for (lane, index) in lanes.iter_mut().zip(0..) {
        *lane = index;
    }
    match mode {
        ShflMode::Up => map3(&lanes, b, c, |lane, b, c| source_lane(ShflMode::Up, lane, b, c)),
        ShflMode::Down => map3(&lanes, b, c, |lane, b, c| source_lane(ShflMode::Down, lane, b, c)),
        ShflMode::Bfly => map3(&lanes, b, c, |lane, b, c| source_lane(ShflMode::Bfly, lane, b, c)),
        ShflMode::Idx => map3(&lanes, b, c, |lane, b, c| source_lane(ShflMode::Idx, lane, b, c)),
    }
}

impl Warp {
    /// Checks the member masks of the executing lanes, in register `members`; whether all 32 lanes execute and are members.
    pub fn check_members(&self, members: usize, active: u32) -> Result<bool, Box<Fault>> {
        let masks = &self.w[members];
        if active == ALL && masks.iter().fold(ALL, |all, mask| all & mask) == ALL {
            return Ok(true);
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
        Ok(false)
    }

    /// `shfl.sync`.
    #[inline(never)]
    pub fn shuffle(&mut self, op: &ShflOp, mask: u32) -> Result<(), Box<Fault>> {
        let whole = self.check_members(usize::from(op.members), mask)?;
        let sources = source_lanes(op.mode, &self.w[usize::from(op.lane)], &self.w[usize::from(op.clamp)]);
        if !whole {
            let members = &self.w[usize::from(op.members)];
            for lane in each(mask) {
                let source_lane = sources[lane] & 31;
                let active = mask & members[lane];
                if active >> source_lane & 1 == 0 {
                    return Err(Fault::new(lane as u32, TrapKind::InactiveSource { source_lane, active }));
                }
            }
        }
        let values = &self.w[usize::from(op.value)];
        let out = map1(&sources, |source| values[source as usize & 31]);
        write(&mut self.w[usize::from(op.to)], out, mask);
        if let Some(p) = op.in_range {
            let in_range = mask_of(|lane| sources[lane] & IN_RANGE != 0);
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
