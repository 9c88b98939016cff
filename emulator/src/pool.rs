//! Worker threads that live as long as the machine and sleep between launches.
//!
//! The caller works at its launch too; workers join while there is something left to run. So a launch never waits for a
//! worker to wake up, only for CTAs that a worker runs.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::job::{Job, lock};

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
        job.finish();
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
