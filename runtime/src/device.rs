//! Which device to use, as a user says it: `auto`, `emulator`, `cuda:0`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

#[cfg(feature = "cuda")]
use crate::cuda::{CudaOptions, CudaQueue};
use crate::queue::{EmulatorOptions, EmulatorQueue, Queue, QueueError};

/// A device as a user names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device, or the emulator where there is none.
    #[default]
    Auto,
    /// The emulator.
    Emulator,
    /// The CUDA device of this number.
    Cuda(u32),
}

/// Text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown device {found:?}: expected auto, emulator or cuda:N")]
pub struct UnknownDevice {
    /// The text.
    pub found: String,
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice { found: text.to_owned() };
        match text {
            "auto" => Ok(Self::Auto),
            "emulator" => Ok(Self::Emulator),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").ok_or_else(unknown)?;
                // `parse` alone would take a sign.
                let plain = number.bytes().all(|byte| byte.is_ascii_digit());
                number.parse().ok().filter(|_| plain).map(Self::Cuda).ok_or_else(unknown)
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Emulator => f.write_str("emulator"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// How to open a device of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceOptions {
    /// For the emulator.
    pub emulator: EmulatorOptions,
    /// For CUDA devices.
    #[cfg(feature = "cuda")]
    pub cuda: CudaOptions,
}

/// An opened device.
pub struct Opened {
    /// The device.
    pub queue: Arc<dyn Queue>,
    /// Why it was this one, for a log: `the first CUDA device`, `no CUDA device: libcuda.so.1 not found (…)`.
    pub why: String,
}

/// Opens the device of `choice`.
///
/// # Errors
/// [`QueueError::Unavailable`] when a CUDA device is asked for by number and cannot be used; `Auto` falls back to
/// the emulator and says why.
pub fn open_device(choice: DeviceChoice, options: &DeviceOptions) -> Result<Opened, QueueError> {
    match choice {
        DeviceChoice::Emulator => Ok(emulator(options, "asked for".to_owned())),
        DeviceChoice::Cuda(ordinal) => {
            let queue = open_cuda(ordinal, options)?;
            Ok(Opened { queue, why: "asked for".to_owned() })
        }
        DeviceChoice::Auto => match open_cuda(0, options) {
            Ok(queue) => Ok(Opened { queue, why: "the first CUDA device".to_owned() }),
            Err(error) => Ok(emulator(options, format!("no CUDA device: {error}"))),
        },
    }
}

fn emulator(options: &DeviceOptions, why: String) -> Opened {
    Opened { queue: Arc::new(EmulatorQueue::new(options.emulator)), why }
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: u32, options: &DeviceOptions) -> Result<Arc<dyn Queue>, QueueError> {
    Ok(Arc::new(CudaQueue::open(ordinal, options.cuda)?))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: u32, _options: &DeviceOptions) -> Result<Arc<dyn Queue>, QueueError> {
    let reason = "this program was built without the feature `cuda`".to_owned();
    Err(QueueError::Unavailable { device: format!("cuda:{ordinal}"), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_devices_and_back() {
        for choice in
            [DeviceChoice::Auto, DeviceChoice::Emulator, DeviceChoice::Cuda(0), DeviceChoice::Cuda(13)]
        {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:4294967296", "CUDA:0", "cuda0"]
        {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn auto_always_gives_a_device_and_a_reason() {
        let opened = open_device(DeviceChoice::Auto, &DeviceOptions::default()).unwrap();
        let is_cuda = opened.queue.name().starts_with("cuda:0");
        assert_eq!(is_cuda, opened.why == "the first CUDA device", "{}: {}", opened.queue.name(), opened.why);
        assert!(is_cuda || opened.why.starts_with("no CUDA device: "), "{}", opened.why);
    }

    #[test]
    fn a_device_that_does_not_exist_is_refused_by_name() {
        let Err(error) = open_device(DeviceChoice::Cuda(99_999), &DeviceOptions::default()) else {
            panic!("opened device 99999");
        };
        assert!(matches!(error, QueueError::Unavailable { .. }), "{error}");
    }
}
