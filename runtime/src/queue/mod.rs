//! What the runtime asks of a device, as one trait with two implementations: CUDA and the emulator.
//!
//! A [`Queue`] is one device and one ordered stream of work on it: what is enqueued later sees what was enqueued
//! earlier. Only [`Queue::download`] and [`Queue::synchronize`] wait, and only for as long as the queue's deadline.
//! Everything is reached through the trait so that tests can put a failing device in its place.

mod buf;
mod emulated;
mod error;
mod on_demand;
mod poison;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plan::KernelDesc;

pub use buf::Buf;
pub use emulated::{EmulatorOptions, EmulatorQueue};
pub use error::{ErrorClass, QueueError};
pub(crate) use on_demand::OnDemand;
pub use poison::Poison;

/// The most pointer parameters a kernel may have; the decoder's widest kernel has about a dozen.
pub const MAX_KERNEL_PARAMS: usize = 32;

/// An address in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceAddr(pub u64);

impl DeviceAddr {
    /// The address `bytes` further on. Callers stay inside an allocation, so that this cannot wrap.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// Device memory as the device counts it, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Not allocated by anybody.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// A launch whose arguments are addresses: made once, at load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Index into the kernels that were loaded.
    pub kernel: u32,
    /// One address for each parameter.
    pub args: Box<[u64]>,
}

/// A device and one ordered stream of work on it.
///
/// After an error of class [`ErrorClass::Fatal`] every call returns at once with the first cause and does not touch
/// the device again.
pub trait Queue: Send + Sync {
    /// What a user calls this device: `emulator (2 threads)`, `cuda:0 NVIDIA H200`.
    fn name(&self) -> &str;

    /// Ten times the compute capability; `None` when any target runs.
    fn sm(&self) -> Option<u32>;

    /// Free and total memory; `None` when the device cannot tell.
    ///
    /// # Errors
    /// When the device fails.
    fn memory(&self) -> Result<Option<MemoryInfo>, QueueError>;

    /// CTAs of a launch that may wait at once for CTAs which begin after them: what [`plan::WAITING_CTAS`] is set to. No more
    /// than have a place at once besides those of other queues; with 0, kernels do without.
    fn waiting_ctas(&self) -> u32 {
        0
    }

    /// Takes `bytes` of device memory, aligned to at least 256. Its content is undefined.
    ///
    /// # Errors
    /// [`QueueError::OutOfMemory`], or when the device fails.
    fn alloc(&self, bytes: u64) -> Result<DeviceAddr, QueueError>;

    /// Gives back what [`Queue::alloc`] returned, after the work enqueued so far. Never fails: on a poisoned device
    /// the memory went with it.
    fn free(&self, addr: DeviceAddr);

    /// Enqueues a copy to the device; `bytes` may be reused when it returns.
    ///
    /// # Errors
    /// When the range is not allocated or the device fails.
    fn upload(&self, to: DeviceAddr, bytes: &[u8]) -> Result<(), QueueError>;

    /// Waits for the work enqueued so far and copies from the device.
    ///
    /// # Errors
    /// When that work failed or did not end within the deadline, or the range is not allocated.
    fn download(&self, from: DeviceAddr, out: &mut [u8]) -> Result<(), QueueError>;

    /// Enqueues filling with zero bytes.
    ///
    /// # Errors
    /// When the range is not allocated or the device fails.
    fn zero(&self, at: DeviceAddr, bytes: u64) -> Result<(), QueueError>;

    /// Takes in kernels for this device. Each is made ready when it is first prepared, recorded or launched.
    ///
    /// # Errors
    /// When the device fails. What is wrong with a kernel is told by the call that makes it ready:
    /// [`QueueError::Rejected`] with the compiler's words.
    fn load(&self, kernels: &[KernelDesc]) -> Result<Arc<dyn Kernels>, QueueError>;

    /// Loads one kernel from a file of machine code that an assembler made of its text, on devices that have such.
    ///
    /// # Errors
    /// [`QueueError::Rejected`] when the device has none, or does not take this.
    fn load_assembled(&self, kernel: &KernelDesc, _file: &Path) -> Result<Arc<dyn Kernels>, QueueError> {
        let reason = "it takes kernels as text only".to_owned();
        Err(QueueError::Rejected { kernel: kernel.entry.to_string(), device: self.name().to_owned(), reason })
    }

    /// Waits for all enqueued work.
    ///
    /// # Errors
    /// When that work failed or did not end within the deadline.
    fn synchronize(&self) -> Result<(), QueueError>;
}

/// Kernels of a queue; [`Call::kernel`] indexes them.
pub trait Kernels: Send + Sync {
    /// Makes these kernels ready to be launched: compiles them, or what takes that place on a device.
    ///
    /// # Errors
    /// [`QueueError::Rejected`] when one is not accepted, or when the device fails.
    fn prepare(&self, _kernels: &[u32]) -> Result<(), QueueError> {
        Ok(())
    }

    /// Enqueues `calls` in order. Allocates nothing if their kernels are ready.
    ///
    /// # Errors
    /// When a call does not fit its kernel, or the device fails.
    fn launch(&self, calls: &[Call]) -> Result<(), QueueError>;

    /// Runs `calls` one at a time and gives the time of each on the device. Waits for the last.
    ///
    /// # Errors
    /// As [`Kernels::launch`] and [`Queue::synchronize`].
    fn profile(&self, calls: &[Call]) -> Result<Vec<Duration>, QueueError>;

    /// Prepares `calls` to be enqueued again and again as one unit: a graph where the device has graphs.
    ///
    /// # Errors
    /// As [`Kernels::launch`].
    fn record(self: Arc<Self>, calls: Vec<Call>) -> Result<Box<dyn Replay>, QueueError>;
}

/// A recorded sequence of launches.
pub trait Replay: Send {
    /// Enqueues the whole sequence. Allocates nothing.
    ///
    /// # Errors
    /// When the device fails.
    fn run(&self) -> Result<(), QueueError>;

    /// The launches, for profiling.
    fn calls(&self) -> &[Call];
}

/// Refuses a call that does not fit its kernel, so that no device is asked to read past the arguments.
pub(crate) fn check_call(call: &Call, params_of: impl Fn(usize) -> Option<usize>) -> Result<(), QueueError> {
    let wanted = params_of(call.kernel as usize);
    match wanted {
        Some(n) if n == call.args.len() => Ok(()),
        _ => Err(QueueError::Arguments {
            kernel: call.kernel,
            found: call.args.len(),
            wanted: wanted.unwrap_or(0),
        }),
    }
}
