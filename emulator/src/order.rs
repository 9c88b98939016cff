//! What the warps of a CTA know of each other through mbarriers: who has arrived, and which phases are over.
//!
//! `bar.sync` and `bar.warp.sync` are epochs in [`When`]; an mbarrier orders only those who arrive with those who see
//! its phase over, so each warp has a vector clock. It is kept by the warp, with the lanes that learned something since
//! the warp's last barrier beside it: other lanes know it after that barrier.

use crate::race::When;

/// A vector clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    /// By warp: accesses before that many arrivals of it are over.
    arrivals: Vec<u32>,
    /// By mbarrier: that many phases are over.
    phases: Vec<u32>,
}

fn raise(list: &mut Vec<u32>, at: usize, to: u32) {
    if list.len() <= at {
        list.resize(at + 1, 0);
    }
    if let Some(value) = list.get_mut(at) {
        *value = to.max(*value);
    }
}

fn at_least(list: &[u32], at: usize, least: u32) -> bool {
    list.get(at).is_some_and(|value| *value >= least)
}

impl Clock {
    /// Knows what the other knows, too.
    pub fn merge(&mut self, other: &Clock) {
        other.arrivals.iter().enumerate().for_each(|(i, v)| raise(&mut self.arrivals, i, *v));
        other.phases.iter().enumerate().for_each(|(i, v)| raise(&mut self.phases, i, *v));
    }

    /// Knows that `phases` phases of an mbarrier are over.
    pub fn pass(&mut self, mbarrier: usize, phases: u32) {
        raise(&mut self.phases, mbarrier, phases);
    }
}

/// What one warp knows.
#[derive(Debug, Default)]
struct View {
    /// All of its lanes.
    settled: Clock,
    /// The lanes of `lanes`, since the warp's barrier number `epoch`; all lanes after the next.
    fresh: Clock,
    lanes: u32,
    epoch: u32,
}

impl View {
    fn is_fresh_to(&self, now: &When) -> bool {
        self.epoch != now.warp_epoch || self.lanes >> (now.thread % 32) & 1 == 1
    }

    fn knows(&self, now: &When, holds: impl Fn(&Clock) -> bool) -> bool {
        holds(&self.settled) || self.is_fresh_to(now) && holds(&self.fresh)
    }

    fn settle(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        self.settled.merge(&fresh);
        self.lanes = 0;
    }
}

/// What every warp knows.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// What all know since the last `bar.sync`.
    joined: Clock,
    views: Vec<View>,
}

impl Order {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Order::default();
    }

    fn view(&mut self, thread: u32) -> Option<&mut View> {
        let warp = (thread / 32) as usize;
        if self.views.len() <= warp {
            self.views.resize_with(warp + 1, View::default);
        }
        self.views.get_mut(warp)
    }

    /// A thread learns a clock.
    pub fn learn(&mut self, now: &When, clock: &Clock) {
        let Some(view) = self.view(now.thread) else { return };
        if view.epoch != now.warp_epoch {
            view.settle();
            view.epoch = now.warp_epoch;
        }
        view.fresh.merge(clock);
        view.lanes |= 1 << (now.thread % 32);
    }

    /// What a thread gives to others by its arrival number `arrivals`, this one included.
    pub fn release(&mut self, now: &When, arrivals: u32) -> Clock {
        let mut clock = self.joined.clone();
        if let Some(view) = self.view(now.thread) {
            clock.merge(&view.settled);
            if view.is_fresh_to(now) {
                clock.merge(&view.fresh);
            }
        }
        raise(&mut clock.arrivals, (now.thread / 32) as usize, arrivals);
        clock
    }

    /// All warps passed a `bar.sync`.
    pub fn join(&mut self) {
        for view in &mut self.views {
            view.settle();
            self.joined.merge(&view.settled);
        }
    }

    fn knows(&self, now: &When, holds: impl Fn(&Clock) -> bool) -> bool {
        let view = self.views.get((now.thread / 32) as usize);
        holds(&self.joined) || view.is_some_and(|view| view.knows(now, holds))
    }

    /// Whether a thread knows that a phase (from 0) of an mbarrier is over.
    pub fn knows_phase(&self, now: &When, mbarrier: usize, phase: u32) -> bool {
        self.knows(now, |clock| at_least(&clock.phases, mbarrier, phase + 1))
    }

    /// Whether a thread knows that an access is over, by arrivals of the accessing warp.
    pub fn knows_access(&self, now: &When, past: &When) -> bool {
        let warp = (past.thread / 32) as usize;
        self.knows(now, |clock| at_least(&clock.arrivals, warp, past.arrivals + 1))
    }
}
