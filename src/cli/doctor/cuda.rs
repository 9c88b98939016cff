//! The driver and the devices that it shows.

use std::fs;

use monomorph::runtime::queue::{Queue, QueueError};
use monomorph::runtime::{DeviceChoice, DeviceOptions, open_device};
use serde::Serialize;

use super::super::table_text::bytes;
use super::{Missing, Page, Spec};

/// The oldest driver whose compiler takes the PTX that is emitted: major number.
const OLDEST_DRIVER: u32 = 570;
/// Where the kernel module tells its version.
const VERSION_FILE: &str = "/proc/driver/nvidia/version";
/// More than any host has; a device past the last is refused.
const MOST_DEVICES: u32 = 64;

/// NVIDIA's driver.
#[derive(Serialize)]
pub struct Driver {
    /// Whether it can be called.
    found: bool,
    /// `580.159.04`; `None` where the system does not tell.
    version: Option<String>,
    /// Why it cannot be used.
    reason: Option<String>,
    #[serde(skip)]
    pub missing: Option<Missing>,
}

/// A device.
#[derive(Serialize)]
pub struct GpuReport {
    /// `cuda:0 NVIDIA H200`.
    pub name: String,
    /// Ten times the compute capability.
    sm: Option<u32>,
    total_bytes: Option<u64>,
    free_bytes: Option<u64>,
    /// Specs with kernels that run on it.
    specs: Vec<String>,
    /// Why it cannot be used.
    reason: Option<String>,
    #[serde(skip)]
    pub missing: Option<Missing>,
}

/// Asks the driver, when there is one.
pub fn look(specs: &[Spec]) -> (Driver, Vec<GpuReport>) {
    let version = fs::read_to_string(VERSION_FILE).ok().as_deref().and_then(parse_version);
    let mut devices = Vec::new();
    let mut reason = None;
    for ordinal in 0..MOST_DEVICES {
        match open_device(DeviceChoice::Cuda(ordinal), &DeviceOptions::default()) {
            Ok(opened) => devices.push(usable(opened.queue.as_ref(), specs)),
            Err(error @ QueueError::Unavailable { .. }) => {
                // The first that is not there ends the list, and says why when it is the very first.
                reason = devices.is_empty().then(|| why(&error));
                break;
            }
            Err(error) => devices.push(GpuReport::broken(ordinal, &error)),
        }
    }
    (Driver::of(version, reason), devices)
}

fn why(error: &QueueError) -> String {
    match error {
        QueueError::Unavailable { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

impl Driver {
    fn of(version: Option<String>, reason: Option<String>) -> Driver {
        let old = version.as_deref().is_some_and(|version| major(version).is_some_and(|n| n < OLDEST_DRIVER));
        let gives = "the same tokens on an NVIDIA GPU, hundreds of times faster".to_owned();
        let command = match cfg!(feature = "cuda") {
            true => format!("NVIDIA's driver {OLDEST_DRIVER} or later: https://www.nvidia.com/drivers"),
            false => "cargo build --release --features cuda".to_owned(),
        };
        let missing =
            (reason.is_some() || old).then(|| Missing { what: "CUDA driver".to_owned(), gives, command });
        Driver { found: reason.is_none(), version, reason, missing }
    }

    pub(super) fn show(&self, page: &mut Page) {
        let version = self.version.as_deref().unwrap_or("version unknown");
        match (&self.reason, &self.missing) {
            (Some(reason), Some(missing)) => page.missing("CUDA driver", reason, missing),
            (None, Some(missing)) => page.missing("CUDA driver", &format!("{version} is too old"), missing),
            _ => page.found("CUDA driver", version),
        }
    }
}

fn usable(queue: &dyn Queue, specs: &[Spec]) -> GpuReport {
    let sm = queue.sm();
    let memory = queue.memory().ok().flatten();
    let runs = |spec: &&Spec| spec.targets.iter().any(|target| sm.is_none_or(|sm| *target <= sm));
    let specs: Vec<String> = specs.iter().filter(runs).map(|spec| spec.name.clone()).collect();
    let missing = specs.is_empty().then(|| Missing {
        what: format!("kernels for {}", queue.name()),
        gives: "models that start without making their kernels first (--jit does that)".to_owned(),
        command: format!("cargo build --release --features sm-{}", sm.unwrap_or(80)),
    });
    GpuReport {
        name: queue.name().to_owned(),
        sm,
        total_bytes: memory.map(|memory| memory.total),
        free_bytes: memory.map(|memory| memory.free),
        specs,
        reason: None,
        missing,
    }
}

impl GpuReport {
    fn broken(ordinal: u32, error: &QueueError) -> GpuReport {
        let name = format!("cuda:{ordinal}");
        let missing = Missing {
            what: name.clone(),
            gives: "a device to run on".to_owned(),
            command: "nvidia-smi shows its state".to_owned(),
        };
        GpuReport {
            name,
            sm: None,
            total_bytes: None,
            free_bytes: None,
            specs: Vec::new(),
            reason: Some(error.to_string()),
            missing: Some(missing),
        }
    }

    pub(super) fn show(&self, page: &mut Page) {
        if let (Some(reason), Some(missing)) = (&self.reason, &self.missing) {
            return page.missing("GPU", reason, missing);
        }
        let sm = self.sm.map_or_else(String::new, |sm| format!(", sm_{sm}"));
        let memory = match (self.free_bytes, self.total_bytes) {
            (Some(free), Some(total)) => format!(", {} free of {}", bytes(free), bytes(total)),
            _ => String::new(),
        };
        let text = format!("{}{sm}{memory}", self.name);
        match &self.missing {
            Some(missing) => {
                page.missing("GPU", &format!("{text}; no kernels for it in this build"), missing)
            }
            None => page.found("GPU", &text),
        }
    }
}

/// `580.159.04` out of `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue …`.
fn parse_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version).map(str::to_owned)
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_file_is_read() {
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC version: 12.3";
        assert_eq!(parse_version(open).as_deref(), Some("580.159.04"));
        assert_eq!(parse_version("GCC version: 12.3.0"), None);
    }

    #[test]
    fn an_old_driver_is_told_with_what_would_do() {
        let old = Driver::of(Some("535.86.10".to_owned()), None);
        assert!(old.found && old.missing.is_some_and(|missing| missing.command.contains("570")));
        let new = Driver::of(Some("580.159.04".to_owned()), None);
        assert!(new.missing.is_none());
    }
}
