//! Trials: one launch of a kernel on random inputs, judged against the operation's plain-Rust reference.
//!
//! `monomorph verify` and the tests run every kernel of a spec this way, on the emulator with all of its checks and on
//! a CUDA device, where every argument must end up with the same bytes.

use std::sync::Arc;

use codegen::kernels::{Mismatch, Operation, Trial, judge};
use emulator::{Checks, Config, LaunchShape, Machine, Outcome};
use plan::KernelDesc;
use runtime::queue::{Buf, Call, Kernels, Queue, QueueError};

/// Trials of a kernel where nobody says otherwise. One alone may want the very constant that a broken kernel stores.
pub const SEEDS: u64 = 2;

/// What the arguments of a launch hold, in the order of the kernel's parameters.
pub type Arguments = Vec<Vec<u8>>;

/// Why a trial failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The trial does not fit the kernel.
    #[error("{entry}: the trial has {found} arguments, the kernel {wanted} parameters")]
    Arity {
        /// Symbol.
        entry: String,
        /// Arguments of the trial.
        found: usize,
        /// Parameters of the kernel.
        wanted: usize,
    },
    /// The PTX does not parse.
    #[error(transparent)]
    Parse(#[from] ptx::ParseError),
    /// The PTX does not verify.
    #[error(transparent)]
    Verify(#[from] ptx::VerifyError),
    /// The emulator refused the launch.
    #[error(transparent)]
    Emulator(#[from] emulator::Error),
    /// The kernel did what it must not.
    #[error("trap: {0}")]
    Trap(String),
    /// The kernel computed something else.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The device failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The device left other bytes than the emulator.
    #[error("{buffer}[byte {index}]: device {device:#04x}, emulator {emulator:#04x} (seed {seed})")]
    Differs {
        /// Name of the parameter.
        buffer: String,
        /// First byte that differs.
        index: usize,
        /// The device's.
        device: u8,
        /// The emulator's.
        emulator: u8,
        /// The seed that replays the trial.
        seed: u64,
    },
}

/// Runs `trial` on an emulator with every check and `threads` threads (0: all), and gives what the arguments hold.
///
/// # Errors
/// When the kernel's text is not accepted or the kernel traps.
pub fn emulate(kernel: &KernelDesc, trial: &Trial, threads: usize) -> Result<Arguments, TrialError> {
    check_arity(kernel, trial)?;
    let module = ptx::verify(ptx::parse(&kernel.ptx)?)?;
    let machine = Machine::new(Config { threads, checks: Checks::Full });
    let program = machine.load(&module)?;
    let mut addresses = Vec::with_capacity(trial.args.len());
    for arg in &trial.args {
        addresses.push(machine.alloc(arg.before.len() as u64)?);
    }
    for (arg, address) in trial.args.iter().zip(&addresses) {
        machine.write(*address, &arg.linked(&addresses))?;
    }
    let params = addresses.get(..trial.n_params()).unwrap_or_default();
    let (grid, block) = (kernel.grid, kernel.block);
    let (dynamic_shared, cooperative) = (kernel.dynamic_shared_bytes(), kernel.cooperative);
    let shape = LaunchShape { grid, block, dynamic_shared, cooperative };
    match machine.launch_shaped(&program, &*kernel.entry, shape, params)? {
        Outcome::Done(_) => {}
        Outcome::Trap(trap) => return Err(TrialError::Trap(trap.to_string())),
    }
    let mut after = Vec::with_capacity(addresses.len());
    for (address, arg) in addresses.iter().zip(&trial.args) {
        let mut bytes = vec![0; arg.before.len()];
        machine.read(*address, &mut bytes)?;
        after.push(arg.unlinked(&bytes));
    }
    Ok(after)
}

/// Runs `trial` on the emulator and judges the result; gives what the arguments hold.
///
/// # Errors
/// As [`emulate`], and [`TrialError::Mismatch`].
pub fn check(
    kernel: &KernelDesc,
    operation: &dyn Operation,
    seed: u64,
    threads: usize,
) -> Result<(Trial, Arguments), TrialError> {
    let trial = operation.trial(seed);
    let after = emulate(kernel, &trial, threads)?;
    let names: Vec<String> = kernel.params.iter().map(|param| param.name.to_string()).collect();
    judge(&trial, &names, &after)?;
    Ok((trial, after))
}

/// Kernels loaded on a device, for trials there.
pub struct Device<'a> {
    queue: Arc<dyn Queue>,
    kernels: Arc<dyn Kernels>,
    descs: &'a [KernelDesc],
}

impl<'a> Device<'a> {
    /// Loads `descs` on `queue`.
    ///
    /// # Errors
    /// When the device refuses a kernel.
    pub fn new(queue: &Arc<dyn Queue>, descs: &'a [KernelDesc]) -> Result<Device<'a>, QueueError> {
        Ok(Device { queue: Arc::clone(queue), kernels: queue.load(descs)?, descs })
    }

    /// Runs `trial` with kernel number `index` and compares every argument with `expected`, byte for byte.
    ///
    /// # Errors
    /// [`TrialError::Differs`] at the first byte that differs, or when the device fails.
    pub fn compare(&self, index: usize, trial: &Trial, expected: &[Vec<u8>]) -> Result<(), TrialError> {
        let found = self.run(index, trial)?;
        for (i, (device, emulator)) in found.iter().zip(expected).enumerate() {
            let Some(byte) = device.iter().zip(emulator).position(|(a, b)| a != b) else { continue };
            let name = self.descs.get(index).and_then(|kernel| kernel.params.get(i));
            return Err(TrialError::Differs {
                buffer: name.map_or_else(|| format!("argument {i}"), |param| param.name.to_string()),
                index: byte,
                device: device[byte],
                emulator: emulator[byte],
                seed: trial.seed,
            });
        }
        Ok(())
    }

    fn run(&self, index: usize, trial: &Trial) -> Result<Arguments, TrialError> {
        if let Some(kernel) = self.descs.get(index) {
            check_arity(kernel, trial)?;
        }
        let mut buffers = Vec::with_capacity(trial.args.len());
        for arg in &trial.args {
            buffers.push(Buf::new(&self.queue, arg.before.len() as u64)?);
        }
        let addresses: Vec<u64> = buffers.iter().map(|buffer| buffer.addr().0).collect();
        for (arg, buffer) in trial.args.iter().zip(&buffers) {
            buffer.upload(0, &arg.linked(&addresses))?;
        }
        let args = addresses.into_iter().take(trial.n_params()).collect();
        self.kernels.launch(&[Call { kernel: index as u32, args }])?;
        self.queue.synchronize()?;
        let mut after = Vec::with_capacity(buffers.len());
        for (buffer, arg) in buffers.iter().zip(&trial.args) {
            let mut bytes = vec![0; arg.before.len()];
            buffer.download(0, &mut bytes)?;
            after.push(arg.unlinked(&bytes));
        }
        Ok(after)
    }
}

fn check_arity(kernel: &KernelDesc, trial: &Trial) -> Result<(), TrialError> {
    let (found, wanted) = (trial.n_params(), kernel.params.len());
    if found == wanted {
        return Ok(());
    }
    Err(TrialError::Arity { entry: kernel.entry.to_string(), found, wanted })
}
