//! `--device`, `--threads` and `--checks`, and opening what they name.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use emulator::Checks;
use monomorph::runtime::queue::{EmulatorOptions, EmulatorQueue, Queue};
use monomorph::runtime::{DeviceChoice, DeviceOptions, Opened, open_device};

use super::output::note;

/// Where to run.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// auto (the first CUDA device, else the emulator), emulator, or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Host threads of the emulator; 0 takes all cores
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = thread_count())]
    pub threads: usize,
    /// What the emulator checks on every access
    #[arg(long, value_enum, default_value_t = CheckLevel::Fast, value_name = "LEVEL")]
    pub checks: CheckLevel,
}

/// [`Checks`] as a user names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckLevel {
    /// Also reads of unwritten memory, and races in shared memory
    Full,
    /// Bounds, alignment and barriers
    Fast,
}

/// Numbers of threads that `--threads` takes.
pub fn thread_count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=EmulatorOptions::MOST_THREADS as u64)
}

impl DeviceArgs {
    /// Opens the device and says on stderr which it is and why.
    pub fn open(&self) -> Result<Opened> {
        let options = DeviceOptions { emulator: self.emulator_options(), ..DeviceOptions::default() };
        let opened =
            open_device(self.device, &options).with_context(|| format!("--device {}", self.device))?;
        note(&format!("device: {} ({})", opened.queue.name(), opened.why));
        Ok(opened)
    }
    /// An emulator of its own, to compare with.
    pub fn emulator(&self) -> Arc<dyn Queue> {
        Arc::new(EmulatorQueue::new(self.emulator_options()))
    }

    fn emulator_options(&self) -> EmulatorOptions {
        let checks = match self.checks {
            CheckLevel::Full => Checks::Full,
            CheckLevel::Fast => Checks::Fast,
        };
        EmulatorOptions { threads: self.threads, checks }
    }
}
