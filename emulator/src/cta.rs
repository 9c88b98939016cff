//! One CTA: its warps, their barrier, and a state that can be left and resumed, so that CTAs that wait for each other
//! take turns on one thread.
//!
//! `bar.sync` completes when every warp that still has live lanes waits at the same barrier. Threads that exited do
//! not count: hardware's counter of expected threads goes down as they leave.

use crate::code::Code;
use crate::memory::Globals;
use crate::shared::Shared;
use crate::trap::{Fault, Trap, TrapKind, Waiting};
use crate::warp::{Context, Patience, Pause, Warp};

/// Slots a warp runs before others get a turn.
const SLICE: u64 = 1 << 14;

/// Rounds in which all warps try for mbarriers in vain, and nothing else happens, before that is a deadlock: copies
/// land when they are issued, so that one such round is repeated for ever unless a kernel counts its tries.
const IDLE_ROUNDS: u32 = 1 << 12;

/// What all CTAs of a launch have in common.
pub(crate) struct LaunchInfo<'a> {
    pub code: &'a Code,
    pub globals: &'a Globals,
    pub args: &'a [u64],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of the dynamic shared variable.
    pub dynamic_shared: u32,
    /// Steps that a CTA may take.
    pub step_limit: u64,
    /// Whether shared memory is checked for written bytes and races.
    pub checked: bool,
}

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// All threads exited.
    Done,
    /// Every warp waits, and one of them for what only another CTA can change.
    Waiting,
    /// Others should have a turn: a warp has made strong accesses or atomics for a whole slice.
    Sliced,
}

/// What a CTA has done that others, or it itself, may go on by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deeds {
    /// Stores to global memory and atomics that changed it.
    pub writes: u64,
    /// Strong loads that found something new.
    pub found: u64,
}

/// State of a CTA.
pub(crate) struct Cta {
    warps: Vec<Warp>,
    /// What each warp did last.
    pauses: Vec<Pause>,
    shared: Shared,
    position: [u32; 3],
    epoch: u32,
    /// Rounds in which every warp waited and nothing happened.
    idle_rounds: u32,
}

impl Cta {
    /// A CTA of a launch, to be placed by [`Cta::start`].
    pub fn new(info: &LaunchInfo<'_>) -> Cta {
        let threads = info.block[0] * info.block[1] * info.block[2];
        let warps: Vec<Warp> =
            (0..threads.div_ceil(32)).map(|index| Warp::new(info.code, index, info.block)).collect();
        let mut variables = info.code.shared_vars.clone();
        let mut bytes = info.code.shared_bytes;
        if let Some(start) = info.code.dynamic_start {
            bytes = start + info.dynamic_shared;
            variables.push((start, bytes));
        }
        let shared = if info.checked { Shared::checked(bytes, variables) } else { Shared::unchecked(bytes) };
        let pauses = vec![Pause::Slice; warps.len()];
        Cta { pauses, warps, shared, position: [0; 3], epoch: 0, idle_rounds: 0 }
    }

    /// Becomes the CTA with a linear index, at its first instruction.
    pub fn start(&mut self, index: u64, grid: [u32; 3]) {
        let (x, y) = (u64::from(grid[0]), u64::from(grid[1]));
        self.position = [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32];
        self.epoch = 0;
        self.idle_rounds = 0;
        self.shared.reset();
        self.warps.iter_mut().for_each(Warp::reset);
        self.pauses.fill(Pause::Slice);
    }

    /// Slots executed since the start.
    pub fn steps(&self) -> u64 {
        self.warps.iter().map(|warp| warp.steps).sum()
    }

    /// What it has done since the start.
    pub fn deeds(&self) -> Deeds {
        let writes = self.warps.iter().map(|warp| warp.writes).sum();
        Deeds { writes, found: self.warps.iter().map(|warp| warp.seen.found).sum() }
    }

    /// Runs until the CTA is done, or until none of its warps does anything but wait and poll.
    ///
    /// # Errors
    /// The trap.
    pub fn run(&mut self, info: &LaunchInfo<'_>, patience: Patience) -> Result<Turn, Box<Trap>> {
        loop {
            // Whether a warp used up a slice polling, or without.
            let (mut polled, mut busy) = (false, false);
            let changes = self.shared.mbarriers.changes();
            for i in 0..self.warps.len() {
                if !self.pauses[i].may_go_on() {
                    continue;
                }
                self.warps[i].polls = 0;
                let cx = Context {
                    code: info.code,
                    globals: info.globals,
                    shared: &self.shared,
                    args: info.args,
                    cta: self.position,
                    grid: info.grid,
                    block: info.block,
                    epoch: self.epoch,
                    patience,
                };
                let warp = &mut self.warps[i];
                self.pauses[i] = match warp.run(&cx, SLICE) {
                    Ok(pause) => pause,
                    Err(fault) => return Err(self.trap(info, i, *fault)),
                };
                let polls = self.warps[i].polls > 0;
                polled |= self.pauses[i] == Pause::Slice && polls;
                busy |= self.pauses[i] == Pause::Slice && !polls;
            }
            if self.pauses.iter().all(|p| *p == Pause::Exit) {
                return Ok(Turn::Done);
            }
            busy |= self.shared.mbarriers.changes() != changes;
            let spins = self.pauses.contains(&Pause::Spin);
            if busy || polled || spins {
                self.idle_rounds = 0;
            } else {
                self.wait(info)?;
            }
            let steps = self.steps();
            if steps > info.step_limit {
                let warp = self.pauses.iter().position(|p| *p != Pause::Exit).unwrap_or(0);
                let kind = TrapKind::StepLimit { steps, limit: info.step_limit };
                return Err(self.trap(info, warp, self.fault_of(warp, kind)));
            }
            match (busy, polled) {
                (false, true) => return Ok(Turn::Sliced),
                (false, false) if spins => return Ok(Turn::Waiting),
                _ => {}
            }
        }
    }

    fn fault_of(&self, warp: usize, kind: TrapKind) -> Fault {
        Fault { lane: self.warps[warp].mask.trailing_zeros(), kind }
    }

    /// No warp has anything to do but wait: for a barrier that is complete, or for what may never come.
    fn wait(&mut self, info: &LaunchInfo<'_>) -> Result<(), Box<Trap>> {
        let retries = self.pauses.iter().enumerate().find_map(|(i, pause)| match pause {
            Pause::Retry(addr) => Some((i, *addr)),
            _ => None,
        });
        let Some((warp, addr)) = retries else { return self.complete_barrier(info) };
        self.idle_rounds += 1;
        if self.idle_rounds < IDLE_ROUNDS {
            return Ok(());
        }
        let mbarriers = &self.shared.mbarriers;
        let phase = mbarriers.at(addr).map_or(0, |index| mbarriers.phase(index));
        let kind = TrapKind::MbarrierDeadlock { warp: warp as u32, addr, phase };
        Err(self.trap(info, warp, self.fault_of(warp, kind)))
    }

    /// Lets the warps go on, if all that live wait at the same barrier.
    fn complete_barrier(&mut self, info: &LaunchInfo<'_>) -> Result<(), Box<Trap>> {
        let mut waiting = self.pauses.iter().enumerate().filter_map(|(i, pause)| match pause {
            Pause::Barrier(id) => Some((i, *id)),
            _ => None,
        });
        if let Some((first, id)) = waiting.next()
            && let Some((other, other_id)) = waiting.find(|(_, other)| *other != id)
        {
            let kind = TrapKind::BarrierDeadlock {
                warp: first as u32,
                barrier: id,
                other_warp: other as u32,
                other_barrier: other_id,
            };
            return Err(self.trap(info, first, self.fault_of(first, kind)));
        }
        self.epoch += 1;
        if let Some(shadow) = &self.shared.shadow {
            shadow.order().join();
        }
        for pause in &mut self.pauses {
            if *pause != Pause::Exit {
                *pause = Pause::Slice;
            }
        }
        Ok(())
    }

    /// The trap of a deadlock in which this CTA waits, with the places of its warps that poll.
    pub fn waits(&self, info: &LaunchInfo<'_>) -> Box<Trap> {
        let polling = |i: &usize| matches!(self.pauses[*i], Pause::Spin | Pause::Slice);
        let waiting = (0..self.warps.len()).filter(polling).map(|i| {
            let (slot, addr, value) = self.warps[i].seen.last().unwrap_or((self.warps[i].last_slot(), 0, 0));
            let pc = info.code.origin.get(slot).copied().unwrap_or(0);
            let statement = info.code.text.get(pc as usize).cloned().unwrap_or_default();
            Waiting { pc, statement, ctas: 1, first: self.position, warp: i as u32, addr, value }
        });
        let kind = TrapKind::GridDeadlock { ctas: 0, begun: 0, ended: 0, waiting: waiting.collect() };
        let warp = (0..self.warps.len()).find(polling).unwrap_or(0);
        self.trap(info, warp, self.fault_of(warp, kind))
    }

    fn trap(&self, info: &LaunchInfo<'_>, warp: usize, fault: Fault) -> Box<Trap> {
        let warp = &self.warps[warp];
        let pc = info.code.origin.get(warp.last_slot()).copied().unwrap_or(0);
        let lane = fault.lane as usize & 31;
        Box::new(Trap {
            entry: info.code.name.clone(),
            pc,
            statement: info.code.text.get(pc as usize).cloned().unwrap_or_default(),
            cta: self.position,
            thread: [warp.tid[0][lane], warp.tid[1][lane], warp.tid[2][lane]],
            kind: fault.kind,
        })
    }
}
