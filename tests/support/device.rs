//! The device that tests of whole models run on.

#![allow(dead_code, reason = "not every test program needs both")]

use std::sync::Arc;

use monomorph::runtime::queue::{EmulatorOptions, EmulatorQueue, Queue};
use monomorph::runtime::{DeviceOptions, open_device};

/// The device that MONOMORPH_TEST_DEVICE names, such as `cuda:0`, which must be there; without it the emulator. The same
/// tests hold on both.
pub fn queue() -> Arc<dyn Queue> {
    match std::env::var("MONOMORPH_TEST_DEVICE") {
        Ok(name) => open_device(name.parse().unwrap(), &DeviceOptions::default()).unwrap().queue,
        Err(_) => emulator(),
    }
}

/// The emulator.
pub fn emulator() -> Arc<dyn Queue> {
    Arc::new(EmulatorQueue::new(EmulatorOptions { threads: 0, checks: emulator::Checks::Fast }))
}
