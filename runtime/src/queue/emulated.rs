//! The emulator as a queue: every call runs at once, on the host, with checks that hardware does not make.

use std::sync::Arc;
use std::time::{Duration, Instant};

use emulator::{Checks, Config, EntryId, LaunchShape, Machine, Outcome, Program};
use plan::KernelDesc;

use super::{Call, DeviceAddr, Kernels, MemoryInfo, OnDemand, Poison, Queue, QueueError, Replay};

/// How to emulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Host threads, of which more than [`EmulatorOptions::MOST_THREADS`] are not taken; 0 takes as many as the machine has.
    pub threads: usize,
    /// What is checked on every access.
    pub checks: Checks,
}

impl EmulatorOptions {
    /// More than any machine has cores for; a system that is asked for far more threads ends the program.
    pub const MOST_THREADS: usize = 1024;
}

impl Default for EmulatorOptions {
    /// All cores, and the checks that cost no memory: for running models. Tests of kernels take [`Checks::Full`].
    fn default() -> Self {
        Self { threads: 0, checks: Checks::Fast }
    }
}

/// An emulated device.
pub struct EmulatorQueue {
    shared: Arc<Shared>,
}

/// What the queue and the kernels loaded on it share.
struct Shared {
    machine: Machine,
    poison: Poison,
}

const NAME: &str = "emulator";

impl EmulatorQueue {
    /// A device without allocations.
    #[must_use]
    pub fn new(options: EmulatorOptions) -> Self {
        let EmulatorOptions { threads, checks } = options;
        let threads = threads.min(EmulatorOptions::MOST_THREADS);
        let machine = Machine::new(Config { threads, checks });
        Self { shared: Arc::new(Shared { machine, poison: Poison::default() }) }
    }

    /// Bytes that are allocated now.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.shared.machine.allocated_bytes()
    }
}

impl Shared {
    fn enter(&self) -> Result<(), QueueError> {
        self.poison.check()
    }

    fn check<T>(&self, result: Result<T, emulator::Error>) -> Result<T, QueueError> {
        self.poison.watch(result.map_err(|error| queue_error(&error)))
    }
}

fn queue_error(error: &emulator::Error) -> QueueError {
    match *error {
        emulator::Error::OutOfMemory { bytes, .. } => QueueError::OutOfMemory {
            device: NAME.to_owned(),
            wanted: bytes,
            free: host_memory().map_or(0, |memory| memory.free),
        },
        emulator::Error::BadRange { addr, bytes, .. } => QueueError::Range { addr, wanted: bytes },
        ref other => QueueError::Emulator { reason: other.to_string() },
    }
}

/// The host's memory, as Linux tells it; other systems do not say without a dependency.
fn host_memory() -> Option<MemoryInfo> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(MemoryInfo { free: bytes("MemAvailable:")?, total: bytes("MemTotal:")? })
}

impl Queue for EmulatorQueue {
    fn name(&self) -> &str {
        NAME
    }

    fn sm(&self) -> Option<u32> {
        None
    }

    fn waiting_ctas(&self) -> u32 {
        u32::try_from(self.shared.machine.limits().resident_ctas).unwrap_or(u32::MAX)
    }

    fn memory(&self) -> Result<Option<MemoryInfo>, QueueError> {
        self.shared.enter()?;
        Ok(host_memory())
    }

    fn alloc(&self, bytes: u64) -> Result<DeviceAddr, QueueError> {
        self.shared.enter()?;
        self.shared.check(self.shared.machine.alloc(bytes)).map(DeviceAddr)
    }

    fn free(&self, addr: DeviceAddr) {
        // Also after a trap: the memory is the host's. A wrong address is met again by the next call.
        let freed = self.shared.check(self.shared.machine.free(addr.0));
        drop(freed);
    }

    fn upload(&self, to: DeviceAddr, bytes: &[u8]) -> Result<(), QueueError> {
        self.shared.enter()?;
        self.shared.check(self.shared.machine.write(to.0, bytes))
    }

    fn download(&self, from: DeviceAddr, out: &mut [u8]) -> Result<(), QueueError> {
        self.shared.enter()?;
        self.shared.check(self.shared.machine.read(from.0, out))
    }

    fn zero(&self, at: DeviceAddr, bytes: u64) -> Result<(), QueueError> {
        self.shared.enter()?;
        self.shared.check(self.shared.machine.fill(at.0, bytes, 0))
    }

    fn load(&self, kernels: &[KernelDesc]) -> Result<Arc<dyn Kernels>, QueueError> {
        self.shared.enter()?;
        let loaded = OnDemand::new(kernels.to_vec());
        Ok(Arc::new(EmulatedKernels { loaded, shared: Arc::clone(&self.shared) }))
    }

    fn synchronize(&self) -> Result<(), QueueError> {
        self.shared.enter()
    }
}

/// A decoded kernel with its launch shape.
struct Loaded {
    entry: String,
    program: Program,
    id: EntryId,
    shape: LaunchShape,
}

impl Loaded {
    fn new(machine: &Machine, kernel: &KernelDesc) -> Result<Self, QueueError> {
        let rejected = |reason: String| QueueError::Rejected {
            kernel: kernel.entry.to_string(),
            device: NAME.to_owned(),
            reason,
        };
        let module = ptx::parse(&kernel.ptx).map_err(|e| rejected(e.to_string()))?;
        let module = ptx::verify(module).map_err(|e| rejected(e.to_string()))?;
        let program = machine.load(&module).map_err(|e| rejected(e.to_string()))?;
        let id = program.entry(&kernel.entry);
        let id = id.ok_or_else(|| rejected("its text has no entry of this name".to_owned()))?;
        let (grid, block) = (kernel.grid, kernel.block);
        let (dynamic_shared, cooperative) = (kernel.dynamic_shared_bytes(), kernel.cooperative);
        let shape = LaunchShape { grid, block, dynamic_shared, cooperative };
        Ok(Self { entry: kernel.entry.to_string(), program, id, shape })
    }
}

struct EmulatedKernels {
    loaded: OnDemand<Loaded>,
    shared: Arc<Shared>,
}

impl EmulatedKernels {
    fn check(&self, calls: &[Call]) -> Result<(), QueueError> {
        self.loaded.make_for(calls, |kernel| Loaded::new(&self.shared.machine, kernel))
    }

    fn run(&self, call: &Call) -> Result<(), QueueError> {
        self.check(std::slice::from_ref(call))?;
        let Some(kernel) = self.loaded.get(call.kernel) else { return Ok(()) };
        let machine = &self.shared.machine;
        let outcome = machine.launch_shaped(&kernel.program, kernel.id, kernel.shape, &call.args);
        match self.shared.check(outcome)? {
            Outcome::Done(_) => Ok(()),
            Outcome::Trap(trap) => {
                let error = QueueError::Trap { kernel: kernel.entry.clone(), trap: trap.to_string() };
                self.shared.poison.watch(Err(error))
            }
        }
    }
}

impl Kernels for EmulatedKernels {
    fn prepare(&self, kernels: &[u32]) -> Result<(), QueueError> {
        self.shared.enter()?;
        let load = |kernel: &KernelDesc| Loaded::new(&self.shared.machine, kernel);
        kernels.iter().try_for_each(|idx| self.loaded.make(*idx, load))
    }

    fn launch(&self, calls: &[Call]) -> Result<(), QueueError> {
        self.shared.enter()?;
        calls.iter().try_for_each(|call| self.run(call))
    }

    fn profile(&self, calls: &[Call]) -> Result<Vec<Duration>, QueueError> {
        self.shared.enter()?;
        self.check(calls)?;
        let timed = calls.iter().map(|call| {
            let start = Instant::now();
            self.run(call).map(|()| start.elapsed())
        });
        timed.collect()
    }

    fn record(self: Arc<Self>, calls: Vec<Call>) -> Result<Box<dyn Replay>, QueueError> {
        self.shared.enter()?;
        self.check(&calls)?;
        Ok(Box::new(EmulatedReplay { calls, kernels: self }))
    }
}

struct EmulatedReplay {
    calls: Vec<Call>,
    kernels: Arc<EmulatedKernels>,
}

impl Replay for EmulatedReplay {
    fn run(&self) -> Result<(), QueueError> {
        self.kernels.launch(&self.calls)
    }

    fn calls(&self) -> &[Call] {
        &self.calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_a_system_has_are_not_asked_for() {
        let options = EmulatorOptions { threads: usize::MAX, ..EmulatorOptions::default() };
        assert_eq!(EmulatorQueue::new(options).allocated_bytes(), 0);
    }
}
