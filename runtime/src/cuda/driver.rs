//! Owners of driver objects and one function for each driver call, with the unsafe part of each call and nothing
//! else. All of it relies on two facts that are established outside:
//!
//! - Invariant A: [`find_symbols`] succeeded before any other function here is called (`probe` sees to it), so that
//!   the binding finds its functions and does not panic.
//! - Invariant B: the context of an object is current on the calling thread ([`Context::bind`], called first by every
//!   public operation of the queue), and outlives the object (the queue owns both and drops it last).
//!
//! Device addresses are numbers: a wrong one makes the device report an error and cannot touch host memory.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use cudarc::driver::sys;

use crate::queue::QueueError;

/// A driver call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    pub call: &'static str,
    pub code: sys::CUresult,
}

impl Failed {
    /// The same with the device's name and the driver's words.
    pub fn on(self, device: &str) -> QueueError {
        QueueError::Driver {
            call: self.call,
            device: device.to_owned(),
            code: error_text(self.code, ErrorText::Name),
            words: error_text(self.code, ErrorText::Description),
            number: self.code as u32,
        }
    }

    pub fn is_out_of_memory(self) -> bool {
        self.code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} failed: {:?}", self.call, self.code)
    }
}

pub(super) type Result<T> = std::result::Result<T, Failed>;

pub(super) fn check(call: &'static str, code: sys::CUresult) -> Result<()> {
    match code {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(Failed { call, code }),
    }
}

#[derive(Clone, Copy)]
enum ErrorText {
    Name,
    Description,
}

fn error_text(code: sys::CUresult, which: ErrorText) -> String {
    let mut text: *const c_char = ptr::null();
    let result = match which {
        // SAFETY: invariant A; `text` is a valid place for a pointer.
        ErrorText::Name => unsafe { sys::cuGetErrorName(code, &raw mut text) },
        // SAFETY: invariant A; `text` is a valid place for a pointer.
        ErrorText::Description => unsafe { sys::cuGetErrorString(code, &raw mut text) },
    };
    if result != sys::CUresult::CUDA_SUCCESS || text.is_null() {
        return format!("{code:?}");
    }
    // SAFETY: on success the driver gives a static string that ends in NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Looks for `library` and for `symbols` in the library that the binding will call; the words of the error say what
/// was not found.
pub(super) fn find_symbols(library: &str, symbols: &[&str]) -> std::result::Result<(), String> {
    // SAFETY: loading runs the library's initialisers; it is the installed driver, or a file of that name.
    let probed = unsafe { libloading::Library::new(library) };
    let probed = probed.map_err(|error| format!("{library} not found ({error})"))?;
    require(&probed, library, symbols)?;
    // SAFETY: only tries to load libraries, as above.
    if !unsafe { sys::is_culib_present() } {
        return Err(format!("{library} was found, but not by the CUDA binding"));
    }
    // The binding may pick another file of the driver; that one is what will be called.
    // SAFETY: a library is present, so that this does not panic.
    let bound = unsafe { sys::culib() };
    require(bound, "the CUDA driver library", symbols)
}

fn require(library: &libloading::Library, name: &str, symbols: &[&str]) -> std::result::Result<(), String> {
    for symbol in symbols {
        // SAFETY: the symbol is only looked up, never called through this type.
        let found = unsafe { library.get::<*const c_void>(symbol.as_bytes()) };
        found.map_err(|_| format!("{name} has no function {symbol}: the driver is too old"))?;
    }
    Ok(())
}

pub(super) fn init() -> Result<()> {
    // SAFETY: invariant A.
    check("cuInit", unsafe { sys::cuInit(0) })
}

pub(super) fn device_count() -> Result<u32> {
    let mut n: c_int = 0;
    // SAFETY: invariant A; `n` is a valid place for the count.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut n) })?;
    Ok(u32::try_from(n).unwrap_or(0))
}

/// A device's primary context, retained.
pub(super) struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
}

// SAFETY: a context may be used from any thread; the driver locks it.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub fn new(ordinal: u32) -> Result<Self> {
        let mut device: sys::CUdevice = 0;
        let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: invariant A; `device` is a valid place for a device.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
        let mut raw: sys::CUcontext = ptr::null_mut();
        // SAFETY: `device` was given by the driver; `raw` is a valid place for a context.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) };
        check("cuDevicePrimaryCtxRetain", code)?;
        let context = Self { device, raw };
        context.bind()?;
        Ok(context)
    }

    /// Makes this the context of the calling thread: invariant B.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained for as long as `self` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.raw) })
    }

    pub fn device_name(&self) -> Result<String> {
        let mut name: [c_char; 128] = [0; 128];
        // SAFETY: the driver writes at most the given number of bytes.
        let code = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, self.device) };
        check("cuDeviceGetName", code)?;
        let bytes = name.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned());
        Ok(String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned())
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<u32> {
        let mut value: c_int = 0;
        // SAFETY: `value` is a valid place for the attribute; the device was given by the driver.
        let code = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, self.device) };
        check("cuDeviceGetAttribute", code)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Ten times the compute capability.
    pub fn sm(&self) -> Result<u32> {
        let major = self.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = self.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(major * 10 + minor)
    }

    /// Multiprocessors, of which each has room for one CTA of any kernel at least.
    pub fn multiprocessors(&self) -> Result<u32> {
        self.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
    }

    /// Free and total bytes.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both are valid places for a size.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }

    pub fn alloc(&self, bytes: u64) -> Result<u64> {
        let mut addr: sys::CUdeviceptr = 0;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: `addr` is a valid place for an address.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut addr, bytes) })?;
        Ok(addr)
    }

    pub fn free(&self, addr: u64) -> Result<()> {
        // SAFETY: the driver checks that the address is one of its allocations.
        check("cuMemFree", unsafe { sys::cuMemFree_v2(addr) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained in `new`, released once. Nothing can be done about an error here.
        let _code = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Whether work that was asked about has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Done,
    Running,
}

fn work(call: &'static str, code: sys::CUresult) -> Result<Work> {
    match code {
        sys::CUresult::CUDA_ERROR_NOT_READY => Ok(Work::Running),
        code => check(call, code).map(|()| Work::Done),
    }
}

/// A stream that does not wait for the default stream.
pub(super) struct Stream(sys::CUstream);

// SAFETY: a stream may be used from any thread; the driver locks it.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub fn new() -> Result<Self> {
        let mut raw: sys::CUstream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: invariant B; `raw` is a valid place for a stream.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut raw, flags) })?;
        Ok(Self(raw))
    }

    pub fn query(&self) -> Result<Work> {
        // SAFETY: the stream lives as long as `self`.
        work("cuStreamQuery", unsafe { sys::cuStreamQuery(self.0) })
    }

    /// Enqueues the copy of a few bytes. They are copied from this function's own frame, which is pageable memory:
    /// the driver stages such a source before the call returns.
    pub fn copy_small(&self, to: u64, bytes: &[u8]) -> Result<()> {
        let mut frame = [0u8; SMALL_COPY_BYTES];
        let n = bytes.len().min(SMALL_COPY_BYTES);
        frame[..n].copy_from_slice(&bytes[..n]);
        // SAFETY: `n` bytes of `frame` are readable until the call returns, and pageable sources are not read later.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, frame.as_ptr().cast(), n, self.0) };
        check("cuMemcpyHtoDAsync", code)
    }

    /// Enqueues the copy of the first `n` bytes of `from`. The caller leaves `from` alone until the stream has passed
    /// this point; dropping it before leaks nothing but is prevented by [`Pinned`]'s owner waiting first.
    pub fn copy_from_pinned(&self, to: u64, from: &Pinned, n: usize) -> Result<()> {
        let n = n.min(from.bytes);
        // SAFETY: `n` bytes of the pinned block are readable; its owner (`upload.rs`) neither writes nor frees it
        // before an event behind this copy has passed.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.start, n, self.0) };
        check("cuMemcpyHtoDAsync", code)
    }

    /// Enqueues the copy of `n` bytes into `into`, to be read after the stream has passed this point.
    pub fn copy_to_pinned(&self, into: &mut Pinned, from: u64, n: usize) -> Result<()> {
        let n = n.min(into.bytes);
        // SAFETY: `n` bytes of the pinned block are writable; its owner waits for the stream before it reads or
        // frees it.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(into.start, from, n, self.0) };
        check("cuMemcpyDtoHAsync", code)
    }

    pub fn zero(&self, at: u64, bytes: u64) -> Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: the driver checks the range.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(at, 0, bytes, self.0) })
    }

    /// Records the work that `enqueue` puts on this stream instead of running it.
    pub fn capture(&self, enqueue: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`; the queue's lock keeps other threads from it meanwhile.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(self.0, mode) })?;
        let enqueued = enqueue();
        let mut graph: sys::CUgraph = ptr::null_mut();
        // SAFETY: capture began above; `graph` is a valid place for a graph. Called also after an error, so that the
        // stream leaves capture.
        let ended = check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(self.0, &raw mut graph) });
        let captured = enqueued.and(ended).and_then(|()| Graph::instantiate(graph));
        if !graph.is_null() {
            // SAFETY: the graph was given by the driver and is destroyed once; an instance does not need it.
            let _code = unsafe { sys::cuGraphDestroy(graph) };
        }
        captured
    }

    /// The driver's handle, for launches.
    pub fn raw(&self) -> sys::CUstream {
        self.0
    }

    pub fn launch_graph(&self, graph: &Graph) -> Result<()> {
        // SAFETY: both live as long as their owners.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(graph.0, self.0) })
    }

    pub fn record(&self, event: &Event) -> Result<()> {
        // SAFETY: both live as long as their owners.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event.0, self.0) })
    }
}

/// The most bytes that [`Stream::copy_small`] takes.
pub(super) const SMALL_COPY_BYTES: usize = 256;

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once; the driver lets enqueued work finish by itself.
        let _code = unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}

/// An executable graph.
pub(super) struct Graph(sys::CUgraphExec);

// SAFETY: used by one thread at a time, under the queue's lock; the driver does not tie it to a thread.
unsafe impl Send for Graph {}

impl Graph {
    fn instantiate(graph: sys::CUgraph) -> Result<Self> {
        let mut raw: sys::CUgraphExec = ptr::null_mut();
        // SAFETY: `graph` was given by the driver; `raw` is a valid place for an instance.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut raw, graph, 0) };
        check("cuGraphInstantiate", code)?;
        Ok(Self(raw))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated once, destroyed once; a launch that is under way keeps what it needs.
        let _code = unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}

/// A point in a stream, with its time.
pub(super) struct Event(sys::CUevent);

// SAFETY: an event may be used from any thread; the driver locks it.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub fn new() -> Result<Self> {
        let mut raw: sys::CUevent = ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as c_uint;
        // SAFETY: invariant B; `raw` is a valid place for an event.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut raw, flags) })?;
        Ok(Self(raw))
    }

    pub fn query(&self) -> Result<Work> {
        // SAFETY: the event lives as long as `self`.
        work("cuEventQuery", unsafe { sys::cuEventQuery(self.0) })
    }

    /// Milliseconds from `self` to `later`; both have passed.
    pub fn elapsed_ms(&self, later: &Event) -> Result<f32> {
        let mut ms = 0.0;
        // SAFETY: both live as long as their owners; `ms` is a valid place for the result.
        let code = unsafe { sys::cuEventElapsedTime_v2(&raw mut ms, self.0, later.0) };
        check("cuEventElapsedTime", code)?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        let _code = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

/// Page-locked host memory, cached (not write-combined), which the device copies from and to by itself.
pub(super) struct Pinned {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: the block is plain memory owned by this value.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn new(bytes: usize) -> Result<Self> {
        let mut start: *mut c_void = ptr::null_mut();
        // SAFETY: invariant B; `start` is a valid place for a pointer.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut start, bytes, 0) })?;
        // SAFETY: the driver gave `bytes` writable bytes; zeroing makes them initialised for `bytes_mut`.
        unsafe { ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Self { start, bytes })
    }

    /// The block. The caller has made sure that no copy from or to it is under way.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `bytes` initialised bytes that this value owns alone; see the remark above for the device.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once; the owner waited for copies or the device is lost.
        let _code = unsafe { sys::cuMemFreeHost(self.start) };
    }
}
