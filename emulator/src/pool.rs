//! Worker threads that live as long as the machine and sleep between launches.
//!
//! A launch is a queue of CTA numbers. The caller works through it too; workers join while there is something left.
//! So a launch never waits for a worker to wake up, only for CTAs that a worker has begun.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::code::Code;
use crate::cta::{Cta, LaunchInfo, Turn};
use crate::memory::Globals;
use crate::trap::Trap;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A launch in progress.
pub(crate) struct Job {
    pub code: Arc<Code>,
    pub globals: Arc<Globals>,
    pub args: Vec<u64>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub step_limit: u64,
    pub checked: bool,
    pub total: u64,
    /// CTAs that may have begun and not ended.
    pub resident: u64,
    next: AtomicU64,
    ended: AtomicU64,
    steps: AtomicU64,
    stop: AtomicBool,
    /// The trap of the lowest CTA that trapped.
    trap: Mutex<Option<(u64, Box<Trap>)>>,
    /// CTAs lost to a worker that died.
    lost: AtomicU64,
    done: (Mutex<bool>, Condvar),
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
    pub resident: u64,
}

/// Counts CTAs as ended even when the code that ran them dies.
struct Ending<'a> {
    job: &'a Job,
    begun: u64,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if self.begun > 0 {
            self.job.lost.fetch_add(self.begun, Ordering::AcqRel);
            self.job.stop.store(true, Ordering::Release);
            self.job.end(self.begun);
        }
    }
}

impl Job {
    /// A launch ready to be worked on.
    pub fn new(spec: JobSpec) -> Job {
        let JobSpec { code, globals, args, grid, block, dynamic_shared, step_limit, checked, resident } =
            spec;
        Job {
            code,
            globals,
            args,
            grid,
            block,
            dynamic_shared,
            step_limit,
            checked,
            total: grid.iter().map(|n| u64::from(*n)).product(),
            resident,
            next: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            trap: Mutex::new(None),
            lost: AtomicU64::new(0),
            done: (Mutex::new(false), Condvar::new()),
        }
    }

    /// Steps of all CTAs.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Acquire)
    }

    /// CTAs lost to a worker that died.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Acquire)
    }

    /// The trap of the lowest CTA that trapped.
    pub fn take_trap(&self) -> Option<Box<Trap>> {
        lock(&self.trap).take().map(|(_, trap)| trap)
    }

    fn exhausted(&self) -> bool {
        self.next.load(Ordering::Acquire) >= self.total
    }

    fn end(&self, n: u64) {
        if self.ended.fetch_add(n, Ordering::AcqRel) + n >= self.total {
            *lock(&self.done.0) = true;
            self.done.1.notify_all();
        }
    }

    /// Waits until every CTA has ended.
    pub fn wait(&self) {
        let mut done = lock(&self.done.0);
        while !*done {
            done = self.done.1.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Begins a CTA, unless all have begun, or the machine is full and `waiting` ones can go on instead.
    fn begin(&self, waiting: usize) -> Option<u64> {
        let begun = self.next.load(Ordering::Acquire);
        let in_flight = begun.saturating_sub(self.ended.load(Ordering::Acquire));
        if begun >= self.total || waiting > 0 && in_flight >= self.resident {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::AcqRel);
        (index < self.total).then_some(index)
    }

    /// Runs CTAs until none is left to begin and all begun here have ended.
    pub fn work(&self) {
        let info = LaunchInfo {
            code: &self.code,
            globals: &self.globals,
            args: &self.args,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            step_limit: self.step_limit,
            checked: self.checked,
        };
        let mut ending = Ending { job: self, begun: 0 };
        // CTAs that wait for others, each with its index; and state of ended ones, to be used again.
        let mut waiting: VecDeque<(u64, Cta)> = VecDeque::new();
        let mut spare: Vec<Cta> = Vec::new();
        loop {
            let (index, mut cta) = match self.begin(waiting.len()) {
                Some(index) => {
                    ending.begun += 1;
                    let mut cta = spare.pop().unwrap_or_else(|| Cta::new(&info));
                    cta.start(index, self.grid);
                    (index, cta)
                }
                None => match waiting.pop_front() {
                    Some(next) => next,
                    None => break,
                },
            };
            let turn = if self.stop.load(Ordering::Acquire) { Ok(Turn::Done) } else { cta.run(&info) };
            if matches!(turn, Ok(Turn::Waiting)) {
                // Whoever it waits for may be on another thread.
                std::thread::yield_now();
                waiting.push_back((index, cta));
                continue;
            }
            if let Err(trap) = turn {
                self.stop.store(true, Ordering::Release);
                let mut first = lock(&self.trap);
                if first.as_ref().is_none_or(|(lowest, _)| index < *lowest) {
                    *first = Some((index, trap));
                }
            }
            self.steps.fetch_add(cta.steps(), Ordering::AcqRel);
            spare.push(cta);
            ending.begun -= 1;
            self.end(1);
        }
    }
}

/// What workers and callers share.
struct Board {
    state: Mutex<BoardState>,
    wake: Condvar,
}

struct BoardState {
    jobs: VecDeque<Arc<Job>>,
    closing: bool,
}

/// The workers.
pub(crate) struct Pool {
    board: Arc<Board>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `helpers` workers; callers work too. Threads that the system refuses are done without.
    pub fn new(helpers: usize) -> Pool {
        let board = Arc::new(Board {
            state: Mutex::new(BoardState { jobs: VecDeque::new(), closing: false }),
            wake: Condvar::new(),
        });
        let spawn = |i: usize| {
            let board = Arc::clone(&board);
            std::thread::Builder::new().name(format!("emulator-{i}")).spawn(move || worker(&board)).ok()
        };
        let workers = (0..helpers).filter_map(spawn).collect();
        Pool { board, workers }
    }

    /// Runs a job to its end, on the caller's thread and, if there are CTAs to share, on the workers'.
    pub fn run(&self, job: &Arc<Job>) {
        if job.total > 1 && !self.workers.is_empty() {
            lock(&self.board.state).jobs.push_back(Arc::clone(job));
            self.board.wake.notify_all();
        }
        job.work();
        job.wait();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.board.state).closing = true;
        self.board.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that died has been counted as lost CTAs of its launch.
            let _outcome = worker.join();
        }
    }
}

fn worker(board: &Board) {
    loop {
        let job = {
            let mut state = lock(&board.state);
            loop {
                while state.jobs.front().is_some_and(|job| job.exhausted()) {
                    state.jobs.pop_front();
                }
                if state.closing {
                    return;
                }
                if let Some(job) = state.jobs.front() {
                    break Arc::clone(job);
                }
                state = board.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        };
        job.work();
    }
}
