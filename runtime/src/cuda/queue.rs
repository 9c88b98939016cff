//! A CUDA device as a queue: one stream, waits with a deadline, and a device that failed stays failed.

use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plan::KernelDesc;

use super::driver::{self, Context, Event, Failed, Graph, Stream, Work};
use super::function::{Function, Shape};
use super::places::Places;
use super::sequence::in_sequence;
use super::upload::Staging;
use crate::queue::{
    Call, DeviceAddr, ErrorClass, Kernels, MemoryInfo, OnDemand, Poison, Queue, QueueError, Replay,
};

/// For this long a wait polls without sleeping: a decode step ends within it.
const SPIN: Duration = Duration::from_millis(20);
/// Between two polls after that.
const NAP: Duration = Duration::from_micros(50);

/// How to use a CUDA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// The longest that a wait takes before the device counts as stalled.
    pub deadline: Duration,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(60) }
    }
}

/// A CUDA device and one stream on it.
pub struct CudaQueue {
    device: Arc<Device>,
}

/// What the queue and the kernels loaded on it share. The driver objects are not dropped on a lost device, since the
/// driver's destructors could wait for it: the process gives them back when it ends.
struct Device {
    name: String,
    sm: u32,
    deadline: Duration,
    poison: Poison,
    places: Places,
    opened_by: u32,
    /// Also the lock of the stream: work of two sessions is not mixed within one call.
    staging: Mutex<ManuallyDrop<Staging>>,
    stream: ManuallyDrop<Stream>,
    context: ManuallyDrop<Context>,
}

/// Waits with a deadline, for whoever holds the stream.
pub(super) struct Waiter<'a> {
    pub stream: &'a Stream,
    name: &'a str,
    deadline: Duration,
}

impl Waiter<'_> {
    pub fn error(&self, failed: Failed) -> QueueError {
        failed.on(self.name)
    }

    /// Polls `query` until the work is done.
    pub fn wait(&self, query: impl Fn() -> driver::Result<Work>) -> Result<(), QueueError> {
        let start = Instant::now();
        loop {
            if query().map_err(|e| self.error(e))? == Work::Done {
                return Ok(());
            }
            match start.elapsed() {
                waited if waited > self.deadline => {
                    let deadline_ms = self.deadline.as_millis() as u64;
                    return Err(QueueError::Deadline { device: self.name.to_owned(), deadline_ms });
                }
                waited if waited > SPIN => std::thread::sleep(NAP),
                _ => std::hint::spin_loop(),
            }
        }
    }
}

impl CudaQueue {
    /// Opens device number `ordinal`.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when there is no driver or no such device; or what the driver says.
    pub fn open(ordinal: u32, options: CudaOptions) -> Result<Self, QueueError> {
        let asked = format!("cuda:{ordinal}");
        let n_devices = super::device_count()?;
        if ordinal >= n_devices {
            let reason = format!("the driver shows {n_devices} devices");
            return Err(QueueError::Unavailable { device: asked, reason });
        }
        let failed = |e: Failed| e.on(&asked);
        let context = Context::new(ordinal).map_err(failed)?;
        let name = format!("{asked} {}", context.device_name().map_err(failed)?);
        let sm = context.sm().map_err(failed)?;
        let places = Places::of(ordinal, context.multiprocessors().map_err(failed)?);
        let stream = Stream::new().map_err(failed)?;
        let staging = Mutex::new(ManuallyDrop::new(Staging::new().map_err(failed)?));
        let (stream, context) = (ManuallyDrop::new(stream), ManuallyDrop::new(context));
        let (poison, opened_by, deadline) = (Poison::default(), std::process::id(), options.deadline);
        let device = Device { name, sm, deadline, poison, places, opened_by, staging, stream, context };
        Ok(Self { device: Arc::new(device) })
    }
}

impl Device {
    fn waiter(&self) -> Waiter<'_> {
        Waiter { stream: &self.stream, name: &self.name, deadline: self.deadline }
    }

    /// Every operation starts here: nothing is done on a lost device or in a forked process.
    fn enter(&self) -> Result<(), QueueError> {
        self.poison.check()?;
        let process = std::process::id();
        if process != self.opened_by {
            let (device, opened_by) = (self.name.clone(), self.opened_by);
            return Err(QueueError::Forked { device, opened_by, process });
        }
        self.poison.watch(self.context.bind().map_err(|e| e.on(&self.name)))
    }

    /// The lock of the stream. A thread that panicked while holding it cannot have left staging half-written in a
    /// way that matters: every use settles it first.
    fn lock(&self) -> MutexGuard<'_, ManuallyDrop<Staging>> {
        self.staging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn synchronize(&self) -> Result<(), QueueError> {
        self.enter()?;
        self.poison.watch(self.waiter().wait(|| self.stream.query()))
    }

    fn check(&self, result: driver::Result<()>) -> Result<(), QueueError> {
        self.poison.watch(result.map_err(|e| e.on(&self.name)))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // The wait is bounded; afterwards nothing is in flight and the destructors return at once.
        if self.synchronize().is_err() {
            return;
        }
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: dropped here once and never used again; the stream is idle.
        unsafe { ManuallyDrop::drop(staging) };
        // SAFETY: as above; staging, which uses the stream, is gone.
        unsafe { ManuallyDrop::drop(&mut self.stream) };
        // SAFETY: as above; last, since the others belong to the context.
        unsafe { ManuallyDrop::drop(&mut self.context) };
    }
}

impl Queue for CudaQueue {
    fn name(&self) -> &str {
        &self.device.name
    }

    fn sm(&self) -> Option<u32> {
        Some(self.device.sm)
    }

    fn waiting_ctas(&self) -> u32 {
        self.device.places.count()
    }

    fn memory(&self) -> Result<Option<MemoryInfo>, QueueError> {
        let d = &self.device;
        d.enter()?;
        let (free, total) = d.poison.watch(d.context.memory().map_err(|e| e.on(&d.name)))?;
        Ok(Some(MemoryInfo { free, total }))
    }

    fn alloc(&self, bytes: u64) -> Result<DeviceAddr, QueueError> {
        let d = &self.device;
        d.enter()?;
        match d.context.alloc(bytes) {
            Ok(addr) => Ok(DeviceAddr(addr)),
            Err(failed) if failed.is_out_of_memory() => {
                let free = d.context.memory().map_or(0, |(free, _)| free);
                Err(QueueError::OutOfMemory { device: d.name.clone(), wanted: bytes, free })
            }
            Err(failed) => d.poison.watch(Err(failed.on(&d.name))),
        }
    }

    fn free(&self, addr: DeviceAddr) {
        let d = &self.device;
        // The driver's own free waits without a deadline, so we wait before it. On a lost device the memory is lost.
        if d.synchronize().is_ok() {
            let freed = d.context.free(addr.0).map_err(|e| e.on(&d.name));
            // A fatal error is remembered and met by the next call; there is nobody to tell here.
            drop(d.poison.watch(freed));
        }
    }

    fn upload(&self, to: DeviceAddr, bytes: &[u8]) -> Result<(), QueueError> {
        let d = &self.device;
        d.enter()?;
        d.poison.watch(d.lock().upload(&d.waiter(), to.0, bytes))
    }

    fn download(&self, from: DeviceAddr, out: &mut [u8]) -> Result<(), QueueError> {
        let d = &self.device;
        d.enter()?;
        d.poison.watch(d.lock().download(&d.waiter(), from.0, out))
    }

    fn zero(&self, at: DeviceAddr, bytes: u64) -> Result<(), QueueError> {
        let d = &self.device;
        d.enter()?;
        d.check(d.stream.zero(at.0, bytes))
    }

    fn load(&self, kernels: &[KernelDesc]) -> Result<Arc<dyn Kernels>, QueueError> {
        self.device.enter()?;
        let functions = ManuallyDrop::new(OnDemand::new(kernels.to_vec()));
        Ok(Arc::new(CudaKernels { functions, device: Arc::clone(&self.device) }))
    }

    fn load_assembled(&self, kernel: &KernelDesc, file: &Path) -> Result<Arc<dyn Kernels>, QueueError> {
        let d = &self.device;
        d.enter()?;
        let functions = OnDemand::of_one(kernel.clone(), compile(d, kernel, Some(file))?);
        Ok(Arc::new(CudaKernels { functions: ManuallyDrop::new(functions), device: Arc::clone(d) }))
    }

    fn synchronize(&self) -> Result<(), QueueError> {
        self.device.synchronize()
    }
}

/// Compiles a kernel's text, or loads the file of machine code that was made of it.
fn compile(device: &Device, kernel: &KernelDesc, file: Option<&Path>) -> Result<Function, QueueError> {
    let rejected = |reason: String| QueueError::Rejected {
        kernel: kernel.entry.to_string(),
        device: device.name.clone(),
        reason,
    };
    let text =
        CString::new(kernel.ptx.as_bytes()).map_err(|_| rejected("its text has a NUL byte".to_owned()))?;
    let shape =
        Shape { grid: kernel.grid, block: kernel.block, dynamic_shared: kernel.dynamic_shared_bytes() };
    let compiled = match file {
        None => Function::new(&text, &kernel.entry, shape),
        Some(file) => {
            let file = CString::new(file.as_os_str().as_encoded_bytes())
                .map_err(|_| rejected("the name of its file has a NUL byte".to_owned()))?;
            Function::from_file(&file, (&text, &kernel.entry), shape)
        }
    };
    let compiled = compiled.map_err(|jit| {
        let error = jit.failed.on(&device.name);
        match error.class() {
            ErrorClass::Fatal => error,
            _ if jit.log.is_empty() => rejected(error.to_string()),
            _ => rejected(format!("{error}: {}", jit.log)),
        }
    });
    device.poison.watch(compiled)
}

/// Kernels, each compiled when it is first needed: the driver takes a tenth of a second for one, and compiles one at a time
/// however many threads ask.
struct CudaKernels {
    functions: ManuallyDrop<OnDemand<Function>>,
    device: Arc<Device>,
}

impl CudaKernels {
    fn check(&self, calls: &[Call]) -> Result<(), QueueError> {
        self.functions.make_for(calls, |kernel| compile(&self.device, kernel, None))
    }

    /// Enqueues checked launches; the first starts when all work before it is done.
    fn enqueue(&self, calls: &[Call]) -> driver::Result<()> {
        in_sequence(calls, |idx| self.functions.get(idx))
            .try_for_each(|(function, call, start)| function.launch(&self.device.stream, &call.args, start))
    }
}

impl Drop for CudaKernels {
    fn drop(&mut self) {
        // Unloading waits for the kernels without a deadline, so we wait before it; on a lost device they stay.
        if self.device.synchronize().is_ok() {
            // SAFETY: dropped here once and never used again.
            unsafe { ManuallyDrop::drop(&mut self.functions) };
        }
    }
}

impl Kernels for CudaKernels {
    fn prepare(&self, kernels: &[u32]) -> Result<(), QueueError> {
        self.device.enter()?;
        let compile = |kernel: &KernelDesc| compile(&self.device, kernel, None);
        kernels.iter().try_for_each(|idx| self.functions.make(*idx, compile))
    }

    fn launch(&self, calls: &[Call]) -> Result<(), QueueError> {
        self.device.enter()?;
        self.check(calls)?;
        let _stream = self.device.lock();
        self.device.check(self.enqueue(calls))
    }

    fn profile(&self, calls: &[Call]) -> Result<Vec<Duration>, QueueError> {
        let d = &self.device;
        d.enter()?;
        self.check(calls)?;
        let _stream = d.lock();
        let failed = |e: Failed| e.on(&d.name);
        let events = (0..=calls.len()).map(|_| Event::new()).collect::<driver::Result<Vec<_>>>();
        let events = d.poison.watch(events.map_err(failed))?;
        for (event, idx) in events.iter().zip(0..) {
            d.check(d.stream.record(event))?;
            if let Some(call) = calls.get(idx) {
                d.check(self.enqueue(std::slice::from_ref(call)))?;
            }
        }
        d.poison.watch(d.waiter().wait(|| d.stream.query()))?;
        let pairs = events.iter().zip(events.iter().skip(1));
        let times = pairs.map(|(start, end)| start.elapsed_ms(end)).collect::<driver::Result<Vec<f32>>>();
        let times = d.poison.watch(times.map_err(failed))?;
        Ok(times.into_iter().map(|ms| Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3)).collect())
    }

    fn record(self: Arc<Self>, calls: Vec<Call>) -> Result<Box<dyn Replay>, QueueError> {
        let d = &self.device;
        d.enter()?;
        self.check(&calls)?;
        let graph = match calls.is_empty() {
            true => None,
            false => {
                let _stream = d.lock();
                let captured = d.stream.capture(|| self.enqueue(&calls));
                Some(ManuallyDrop::new(d.poison.watch(captured.map_err(|e| e.on(&d.name)))?))
            }
        };
        Ok(Box::new(CudaReplay { graph, calls, kernels: self }))
    }
}

/// A graph of launches; `None` for an empty sequence, which the driver has no graph for.
struct CudaReplay {
    graph: Option<ManuallyDrop<Graph>>,
    calls: Vec<Call>,
    kernels: Arc<CudaKernels>,
}

impl Replay for CudaReplay {
    fn run(&self) -> Result<(), QueueError> {
        let d = &self.kernels.device;
        d.enter()?;
        let Some(graph) = &self.graph else { return Ok(()) };
        let _stream = d.lock();
        d.check(d.stream.launch_graph(graph))
    }

    fn calls(&self) -> &[Call] {
        &self.calls
    }
}

impl Drop for CudaReplay {
    fn drop(&mut self) {
        if let Some(graph) = &mut self.graph
            && !self.kernels.device.poison.is_set()
        {
            // SAFETY: dropped here once and never used again; the driver keeps what a launch under way needs.
            unsafe { ManuallyDrop::drop(graph) };
        }
    }
}
