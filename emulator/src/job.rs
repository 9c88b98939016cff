//! A launch in progress: CTAs to begin, CTAs that wait, and who runs what.
//!
//! CTAs begin in order. One that waits for others leaves its thread and stands in line; any thread takes it up again once
//! some CTA has written to global memory since, so that CTAs which poll cost the others nothing. What a race-free kernel
//! computes depends neither on that order nor on the number of threads.
//!
//! Invariant: a CTA is in exactly one place: not begun, run by one thread, in line, or ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::code::Code;
use crate::cta::{Cta, Deeds, LaunchInfo, Turn};
use crate::memory::Globals;
use crate::trap::{Trap, TrapKind, Waiting};
use crate::warp::Patience;

/// Turns of every CTA in line in which none writes, ends, or stops polling, before that is a deadlock. In such turns each
/// warp polls for a whole slice, so that kernels which count some ten thousand tries have their way.
const IDLE_TURNS: usize = 8;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A launch's numbers, before anything has run.
pub(crate) struct JobSpec {
    pub code: Arc<Code>,
    pub globals: Arc<Globals>,
    pub args: Vec<u64>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub step_limit: u64,
    pub checked: bool,
    /// CTAs that may have begun and not ended, at least 1.
    pub resident: u64,
}

/// A launch in progress.
pub(crate) struct Job {
    spec: JobSpec,
    /// CTAs of the grid.
    pub total: u64,
    line: Mutex<Line>,
    /// Told when something changes that a thread without work may wait for.
    change: Condvar,
}

/// A CTA that waits.
struct Parked {
    index: u64,
    cta: Cta,
    /// The number of changes when it found nothing new; `None` if it only gave others a turn.
    saw: Option<u64>,
}

/// What the threads of a launch agree on.
#[derive(Default)]
struct Line {
    begun: u64,
    ended: u64,
    running: u64,
    /// Turns in which a CTA wrote to global memory.
    changes: u64,
    /// Turns since something happened, while all CTAs that can run wait.
    idle: usize,
    parked: VecDeque<Parked>,
    /// State of ended CTAs, to be used again.
    spare: Vec<Cta>,
    /// Threads that wait for a change.
    sleepers: u32,
    steps: u64,
    stop: bool,
    /// The trap of the lowest CTA that trapped.
    trap: Option<(u64, Box<Trap>)>,
    lost: u64,
}

/// A CTA and how its next turn goes.
struct Next {
    index: u64,
    /// `None`: not begun, and no state left over from others.
    cta: Option<Cta>,
    begins: bool,
    patience: Patience,
    /// The number of changes before the turn.
    changes: u64,
}

/// Counts a CTA as lost if the code that runs it dies.
struct Running<'a>(&'a Job);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut line = lock(&self.0.line);
            (line.running, line.lost, line.stop) = (line.running - 1, line.lost + 1, true);
            self.0.change.notify_all();
        }
    }
}

impl Line {
    fn exhausted(&self, total: u64) -> bool {
        self.stop || self.begun >= total && self.parked.is_empty()
    }

    fn keep_trap(&mut self, index: u64, trap: Box<Trap>) {
        self.stop = true;
        if self.trap.as_ref().is_none_or(|(lowest, _)| index < *lowest) {
            self.trap = Some((index, trap));
        }
    }

    /// The CTA to run next: a new one, or one in line that may find something new, or, when no CTA at all runs, the first
    /// in line, which is then to insist. `None` if there is none (yet).
    fn choose(&mut self, spec: &JobSpec, total: u64) -> Option<Next> {
        let changes = self.changes;
        if self.begun < total && self.begun - self.ended < spec.resident {
            self.begun += 1;
            let (index, cta) = (self.begun - 1, self.spare.pop());
            return Some(Next { index, cta, begins: true, patience: Patience::Yield, changes });
        }
        let ready = self.parked.iter().position(|parked| parked.saw != Some(changes));
        let (at, patience) = match ready {
            Some(at) => (at, Patience::Yield),
            None if self.running == 0 => {
                self.idle += 1;
                (0, Patience::Insist)
            }
            None => return None,
        };
        let Parked { index, cta, .. } = self.parked.remove(at)?;
        Some(Next { index, cta: Some(cta), begins: false, patience, changes })
    }
}

impl Job {
    /// A launch ready to be worked on.
    pub fn new(spec: JobSpec) -> Job {
        let total = spec.grid.iter().map(|n| u64::from(*n)).product();
        Job { spec, total, line: Mutex::default(), change: Condvar::new() }
    }

    /// Steps of all CTAs.
    pub fn steps(&self) -> u64 {
        lock(&self.line).steps
    }

    /// CTAs lost to a thread that died.
    pub fn lost(&self) -> u64 {
        lock(&self.line).lost
    }

    /// The trap of the lowest CTA that trapped.
    pub fn take_trap(&self) -> Option<Box<Trap>> {
        lock(&self.line).trap.take().map(|(_, trap)| trap)
    }

    /// Whether there is nothing to do for another thread.
    pub fn exhausted(&self) -> bool {
        lock(&self.line).exhausted(self.total)
    }

    /// Works until all CTAs have ended, or none shall run any more. A CTA that another thread runs may come to wait in line after
    /// everything else has ended, so that there is work again.
    pub fn finish(&self) {
        loop {
            self.work();
            let mut line = lock(&self.line);
            while line.running > 0 {
                line = self.sleep(line);
            }
            if line.exhausted(self.total) {
                return;
            }
        }
    }

    fn sleep<'a>(&'a self, mut line: MutexGuard<'a, Line>) -> MutexGuard<'a, Line> {
        line.sleepers += 1;
        let mut line = self.change.wait(line).unwrap_or_else(PoisonError::into_inner);
        line.sleepers -= 1;
        line
    }

    fn next(&self, info: &LaunchInfo<'_>) -> Option<Next> {
        let mut line = lock(&self.line);
        loop {
            if line.exhausted(self.total) {
                return None;
            }
            if line.running == 0 && line.idle > IDLE_TURNS * line.parked.len() {
                let (index, trap) = self.deadlock(&line, info)?;
                line.keep_trap(index, trap);
                self.change.notify_all();
                return None;
            }
            if let Some(next) = line.choose(&self.spec, self.total) {
                line.running += 1;
                return Some(next);
            }
            line = self.sleep(line);
        }
    }

    /// All CTAs that could run wait for each other.
    fn deadlock(&self, line: &Line, info: &LaunchInfo<'_>) -> Option<(u64, Box<Trap>)> {
        let mut parked: Vec<&Parked> = line.parked.iter().collect();
        parked.sort_unstable_by_key(|parked| parked.index);
        let (lowest, mut trap) = parked.first().map(|parked| (parked.index, parked.cta.waits(info)))?;
        let mut places: BTreeMap<(u32, u64), Waiting> = BTreeMap::new();
        for Parked { cta, .. } in &parked {
            let at = cta.waits(info);
            let TrapKind::GridDeadlock { waiting, .. } = at.kind else { continue };
            for place in waiting {
                places.entry((place.pc, place.addr)).and_modify(|same| same.ctas += 1).or_insert(place);
            }
        }
        let (begun, ended) = (line.begun, line.ended);
        let waiting = places.into_values().collect();
        trap.kind = TrapKind::GridDeadlock { ctas: self.total, begun, ended, waiting };
        Some((lowest, trap))
    }

    fn info(&self) -> LaunchInfo<'_> {
        let spec = &self.spec;
        LaunchInfo {
            code: &spec.code,
            globals: &spec.globals,
            args: &spec.args,
            grid: spec.grid,
            block: spec.block,
            dynamic_shared: spec.dynamic_shared,
            step_limit: spec.step_limit,
            checked: spec.checked,
        }
    }

    /// Runs CTAs as long as there are any to run.
    pub fn work(&self) {
        let info = self.info();
        while let Some(Next { index, cta, begins, patience, changes }) = self.next(&info) {
            let running = Running(self);
            let mut cta = cta.unwrap_or_else(|| Cta::new(&info));
            if begins {
                cta.start(index, info.grid);
            }
            let before = cta.deeds();
            let turn = cta.run(&info, patience);
            drop(running);
            self.settle(Parked { index, saw: Some(changes), cta }, turn, before);
        }
    }

    /// Puts a CTA where it belongs after a turn, before which it had done what `before` says.
    fn settle(&self, mut parked: Parked, turn: Result<Turn, Box<Trap>>, before: Deeds) {
        let now = parked.cta.deeds();
        let mut line = lock(&self.line);
        line.running -= 1;
        line.changes += u64::from(now.writes != before.writes);
        if now != before {
            line.idle = 0;
        }
        match turn {
            Ok(Turn::Waiting) => line.parked.push_back(parked),
            Ok(Turn::Sliced) => {
                parked.saw = parked.saw.filter(|_| now == before);
                line.parked.push_back(parked);
            }
            Ok(Turn::Done) => {
                line.idle = 0;
                line.ended += 1;
                line.steps += parked.cta.steps();
                line.spare.push(parked.cta);
            }
            Err(trap) => line.keep_trap(parked.index, trap),
        }
        if line.sleepers > 0 {
            self.change.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Kind, Slot};
    use crate::trial;

    /// A thread that has nothing to do sleeps while another has the last CTA, which comes to wait: then there is work again, and the
    /// launch ends when that is done.
    #[test]
    fn a_cta_that_comes_to_wait_last_is_run_to_its_end() {
        let job = Job::new(JobSpec {
            code: Arc::new(trial::code(vec![Slot::new(Kind::Ret)])),
            globals: Arc::new(Globals::default()),
            args: Vec::new(),
            grid: [1; 3],
            block: [32, 1, 1],
            dynamic_shared: 0,
            step_limit: 100,
            checked: false,
            resident: 1,
        });
        let (info, spec) = (job.info(), &job.spec);
        for turn in [Turn::Sliced, Turn::Waiting] {
            *lock(&job.line) = Line::default();
            let taken = job.next(&info).unwrap();
            std::thread::scope(|threads| {
                threads.spawn(|| job.finish());
                while lock(&job.line).sleepers == 0 {
                    std::thread::yield_now();
                }
                let mut cta = Cta::new(&info);
                cta.start(taken.index, spec.grid);
                let before = cta.deeds();
                job.settle(Parked { index: taken.index, cta, saw: Some(taken.changes) }, Ok(turn), before);
            });
            assert_eq!(lock(&job.line).ended, 1);
        }
    }
}
