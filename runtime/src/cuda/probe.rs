//! Whether this machine has a driver that can be called at all. The binding panics when the library or one of its
//! functions is missing, so that both are looked up here before the first call.

use std::sync::OnceLock;

use super::driver;
use crate::queue::QueueError;

/// Every driver function that `driver.rs` calls.
pub(super) const NEEDED_SYMBOLS: [&str; 38] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamQuery",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventElapsedTime_v2",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// File name of the driver library, as its installers name it.
pub(super) const DRIVER_LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Looks for a usable driver and initialises it; done once for the process.
///
/// # Errors
/// [`QueueError::Unavailable`], saying what was looked for and not found.
pub fn probe() -> Result<(), QueueError> {
    static RESULT: OnceLock<Result<(), String>> = OnceLock::new();
    match RESULT.get_or_init(|| probe_library(DRIVER_LIBRARY)) {
        Ok(()) => Ok(()),
        Err(reason) => Err(QueueError::Unavailable { device: "cuda".to_owned(), reason: reason.clone() }),
    }
}

fn probe_library(library: &str) -> Result<(), String> {
    driver::find_symbols(library, &NEEDED_SYMBOLS)?;
    driver::init().map_err(|error| error.to_string())
}

/// How many devices the driver shows.
///
/// # Errors
/// As [`probe`].
pub fn device_count() -> Result<u32, QueueError> {
    probe()?;
    driver::device_count().map_err(|error| error.on("cuda"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_library_is_named() {
        let reason = probe_library("libmonomorph-no-such-driver.so.1").unwrap_err();
        assert!(reason.contains("libmonomorph-no-such-driver.so.1"), "{reason}");
        assert!(reason.contains("not found"), "{reason}");
    }

    #[test]
    fn a_library_without_the_functions_is_refused() {
        // The C library is on every Linux machine and has none of them.
        if cfg!(target_os = "linux") {
            let reason = probe_library("libc.so.6").unwrap_err();
            assert!(reason.contains("cuInit"), "{reason}");
        }
    }

    #[test]
    fn probing_says_the_same_twice() {
        let text = |result: Result<(), QueueError>| result.map_err(|error| error.to_string());
        assert_eq!(text(probe()), text(probe()));
        if let Err(error) = probe() {
            assert!(error.to_string().contains("cuda cannot be used"), "{error}");
        }
    }
}
