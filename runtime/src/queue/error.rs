//! What can go wrong on a device, with the numbers, and what each failure means for the engine as a whole.

/// What an error leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// This request was refused or failed; the engine is fine.
    Request,
    /// Something ran out: memory, files. The engine is fine and the same request may succeed later.
    Resource,
    /// The device is lost to this process: every later call fails at once with the first cause.
    Fatal,
}

/// A failure on a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// No device of the wanted kind; says what was looked for.
    #[error("{device} cannot be used: {reason}")]
    Unavailable {
        /// The device that was asked for.
        device: String,
        /// What was looked for and not found.
        reason: String,
    },
    /// Not enough device memory.
    #[error("out of memory on {device}: {wanted} bytes wanted, {free} free")]
    OutOfMemory {
        /// Which device.
        device: String,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes free at that time.
        free: u64,
    },
    /// A kernel's text was not accepted.
    #[error("kernel {kernel} was rejected by {device}: {reason}")]
    Rejected {
        /// Entry symbol.
        kernel: String,
        /// Which device.
        device: String,
        /// The compiler's or verifier's words.
        reason: String,
    },
    /// A kernel did something it must not: the emulator says what and where.
    #[error("kernel {kernel} trapped on the emulator: {trap}")]
    Trap {
        /// Entry symbol.
        kernel: String,
        /// What happened, with instruction, thread and address.
        trap: String,
    },
    /// The driver returned an error.
    #[error("{call} failed on {device}: {code} ({words}, {number})")]
    Driver {
        /// Driver function.
        call: &'static str,
        /// Which device.
        device: String,
        /// Name of the error code.
        code: String,
        /// The driver's description.
        words: String,
        /// Number of the error code.
        number: u32,
    },
    /// The emulator itself failed.
    #[error("the emulator failed: {reason}")]
    Emulator {
        /// Its words.
        reason: String,
    },
    /// A wait took longer than the deadline.
    #[error("{device} did not finish within {deadline_ms} ms: a kernel is stalled")]
    Deadline {
        /// Which device.
        device: String,
        /// The deadline.
        deadline_ms: u64,
    },
    /// An earlier fatal error; the device is not touched any more.
    #[error("the device failed earlier: {first}")]
    Poisoned {
        /// The first cause.
        first: String,
    },
    /// The process forked after the device was opened; contexts do not survive that.
    #[error(
        "{device} was opened by process {opened_by} and cannot be used by process {process} after a fork"
    )]
    Forked {
        /// Which device.
        device: String,
        /// Who opened it.
        opened_by: u32,
        /// Who uses it.
        process: u32,
    },
    /// A range of device memory that is not inside an allocation.
    #[error("{wanted} bytes at device address {addr:#x} are not allocated")]
    Range {
        /// Start.
        addr: u64,
        /// Length in bytes.
        wanted: u64,
    },
    /// A call with a wrong number of arguments or of a kernel that does not exist.
    #[error("call of kernel {kernel} with {found} arguments, it has {wanted} parameters")]
    Arguments {
        /// Index of the kernel.
        kernel: u32,
        /// Arguments given.
        found: usize,
        /// Parameters it has; 0 for an unknown kernel.
        wanted: usize,
    },
}

impl QueueError {
    /// What this error leaves behind.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::OutOfMemory { .. } => ErrorClass::Resource,
            Self::Driver { number, .. } if !is_fatal_code(*number) => ErrorClass::Request,
            Self::Trap { .. } | Self::Deadline { .. } | Self::Poisoned { .. } | Self::Forked { .. } => {
                ErrorClass::Fatal
            }
            Self::Driver { .. } | Self::Emulator { .. } => ErrorClass::Fatal,
            Self::Unavailable { .. }
            | Self::Rejected { .. }
            | Self::Range { .. }
            | Self::Arguments { .. } => ErrorClass::Request,
        }
    }
}

/// Whether a driver error code means that the context is gone. The list is that of the codes which leave the context
/// usable, so that an unknown code counts as fatal. Source: CUDA driver API, `CUresult`.
fn is_fatal_code(number: u32) -> bool {
    const ECC_UNCORRECTABLE: u32 = 214;
    const NVLINK_UNCORRECTABLE: u32 = 220;
    match number {
        // invalid value, out of memory
        1 | 2 => false,
        ECC_UNCORRECTABLE | NVLINK_UNCORRECTABLE => true,
        // images, contexts, PTX and JIT; files and symbols
        200..=226 | 300..=304 => false,
        // invalid handle, not found, launch out of resources, not permitted, not supported, stream capture
        400 | 500 | 701 | 800 | 801 | 900..=908 => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(number: u32) -> ErrorClass {
        let (device, code, words) = (String::new(), String::new(), String::new());
        QueueError::Driver { call: "cuX", device, code, words, number }.class()
    }

    #[test]
    fn codes_that_destroy_the_context_are_fatal() {
        for number in [214, 220, 700, 702, 710, 715, 716, 717, 718, 719, 999, 4, 123_456] {
            assert_eq!(driver(number), ErrorClass::Fatal, "{number}");
        }
        for number in [1, 200, 218, 222, 301, 400, 500, 701, 801, 900] {
            assert_eq!(driver(number), ErrorClass::Request, "{number}");
        }
        let full = QueueError::OutOfMemory { device: "d".into(), wanted: 2, free: 1 };
        assert_eq!(full.class(), ErrorClass::Resource);
    }
}
