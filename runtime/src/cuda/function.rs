//! Kernels: compiled from their text by the driver, and launched.
//!
//! The invariants of `driver` hold here too.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::ptr;

use cudarc::driver::sys;

use super::driver::{Failed, Result, Stream, check};
use super::sequence::{Start, Waits};
use crate::queue::MAX_KERNEL_PARAMS;

/// Room for the words of the JIT compiler.
const JIT_LOG_BYTES: usize = 16 << 10;
/// How a kernel's text says that it waits for the launches before it.
const WAIT: &[u8] = b"griddepcontrol.wait";

/// A kernel with its launch shape, and the module that it is part of.
pub(super) struct Function {
    raw: sys::CUfunction,
    shape: Shape,
    /// Whether the kernel itself waits for the launches before it.
    waits: bool,
    module: sys::CUmodule,
}

// SAFETY: modules and functions may be used from any thread; the driver locks them.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// What the driver's compiler said.
pub(super) struct JitFailure {
    pub failed: Failed,
    pub log: String,
}

impl From<Failed> for JitFailure {
    fn from(failed: Failed) -> Self {
        Self { failed, log: String::new() }
    }
}

/// The launch shape of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Shared memory that a launch gives each CTA, bytes.
    pub dynamic_shared: u32,
}

impl Function {
    /// Compiles `text` and finds `entry` in it.
    pub fn new(text: &CStr, entry: &str, shape: Shape) -> std::result::Result<Self, JitFailure> {
        let module = load_module(text)?;
        Self::find(module, (text, entry), shape)
    }

    /// Finds `entry` in the machine code in `file`, which an assembler made of `text`.
    pub fn from_file(
        file: &CStr,
        (text, entry): (&CStr, &str),
        shape: Shape,
    ) -> std::result::Result<Self, JitFailure> {
        let mut module: sys::CUmodule = ptr::null_mut();
        // SAFETY: invariant B; `file` ends in NUL; the driver reads the file itself and refuses what is no module.
        let code = unsafe { sys::cuModuleLoad(&raw mut module, file.as_ptr()) };
        check("cuModuleLoad", code)?;
        Self::find(module, (text, entry), shape)
    }

    /// Takes over `module`, which was made of `text`.
    fn find(
        module: sys::CUmodule,
        (text, entry): (&CStr, &str),
        shape: Shape,
    ) -> std::result::Result<Self, JitFailure> {
        // From here on the drop of `function` unloads the module.
        let waits = text.to_bytes().windows(WAIT.len()).any(|part| part == WAIT);
        let mut function = Self { raw: ptr::null_mut(), shape, waits, module };
        let Ok(entry) = CString::new(entry) else {
            let code = sys::CUresult::CUDA_ERROR_NOT_FOUND;
            return Err(Failed { call: "cuModuleGetFunction", code }.into());
        };
        // SAFETY: the module is loaded; `entry` ends in NUL; `raw` is a valid place for a function.
        let code = unsafe { sys::cuModuleGetFunction(&raw mut function.raw, module, entry.as_ptr()) };
        check("cuModuleGetFunction", code)?;
        if shape.dynamic_shared > 0 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // A size that no device has fails here, in the driver, as one that this device lacks does.
            let bytes = c_int::try_from(shape.dynamic_shared).unwrap_or(c_int::MAX);
            // SAFETY: the function was found above and its module is loaded.
            let code = unsafe { sys::cuFuncSetAttribute(function.raw, attribute, bytes) };
            check("cuFuncSetAttribute", code)?;
        }
        Ok(function)
    }

    /// Enqueues a launch. `args` are addresses, one for each parameter of the kernel, at most
    /// [`MAX_KERNEL_PARAMS`]; the caller has checked their number against the kernel.
    pub fn launch(&self, stream: &Stream, args: &[u64], start: Start) -> Result<()> {
        let mut params: [*mut c_void; MAX_KERNEL_PARAMS] = [ptr::null_mut(); MAX_KERNEL_PARAMS];
        for (param, arg) in params.iter_mut().zip(args) {
            *param = ptr::from_ref(arg).cast_mut().cast();
        }
        let mut early = EARLY;
        let config = launch_config(self.shape, stream.raw(), (&mut early, start));
        // SAFETY: the function's module is loaded as long as `self` lives; the driver reads one u64 for each parameter, all
        // of which `args` holds, and `numAttrs` attributes, before it returns; it does not write through the pointers.
        let code = unsafe {
            sys::cuLaunchKernelEx(&raw const config, self.raw, params.as_mut_ptr(), ptr::null_mut())
        };
        check("cuLaunchKernelEx", code)
    }
}

impl Waits for Function {
    fn waits(&self) -> bool {
        self.waits
    }
}

/// Lets a launch start before the one before it has ended.
const EARLY: sys::CUlaunchAttribute_st = sys::CUlaunchAttribute_st {
    id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
    pad: [0; 4],
    value: sys::CUlaunchAttributeValue_union { programmaticStreamSerializationAllowed: 1 },
};

/// What the driver is told of a launch; `early` is one attribute, which counts only for a launch that starts early.
fn launch_config(
    shape: Shape,
    stream: sys::CUstream,
    (early, start): (&mut sys::CUlaunchAttribute_st, Start),
) -> sys::CUlaunchConfig_st {
    let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
    sys::CUlaunchConfig_st {
        gridDimX: gx,
        gridDimY: gy,
        gridDimZ: gz,
        blockDimX: bx,
        blockDimY: by,
        blockDimZ: bz,
        sharedMemBytes: shape.dynamic_shared,
        hStream: stream,
        attrs: ptr::from_mut(early),
        numAttrs: match start {
            Start::InOrder => 0,
            Start::Early => 1,
        },
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        // SAFETY: loaded in `new`, unloaded once.
        let _code = unsafe { sys::cuModuleUnload(self.module) };
    }
}

fn load_module(text: &CStr) -> std::result::Result<sys::CUmodule, JitFailure> {
    let mut module: sys::CUmodule = ptr::null_mut();
    let mut log = vec![0u8; JIT_LOG_BYTES];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The size is passed by value in the place of a pointer, as the driver API wants it.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(JIT_LOG_BYTES - 1)];
    let n = options.len() as c_uint;
    // SAFETY: invariant B; `text` ends in NUL; `options` and `values` have `n` elements; the log buffer has the size
    // that is given for it, and one byte more.
    let code = unsafe {
        sys::cuModuleLoadDataEx(
            &raw mut module,
            text.as_ptr().cast(),
            n,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    check("cuModuleLoadDataEx", code).map_err(|failed| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
        JitFailure { failed, log }
    })?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_launch_that_starts_early_has_the_attribute() {
        let shape = Shape { grid: [1, 2, 3], block: [4, 5, 6], dynamic_shared: 7 };
        for (start, n_attributes) in [(Start::InOrder, 0), (Start::Early, 1)] {
            let mut early = EARLY;
            let place: *mut sys::CUlaunchAttribute_st = &raw mut early;
            let config = launch_config(shape, ptr::null_mut(), (&mut early, start));
            assert_eq!((config.attrs, config.numAttrs), (place, n_attributes));
            assert_eq!([config.gridDimX, config.gridDimY, config.gridDimZ], shape.grid);
            assert_eq!([config.blockDimX, config.blockDimY, config.blockDimZ], shape.block);
            assert_eq!(config.sharedMemBytes, shape.dynamic_shared);
        }
    }
}
