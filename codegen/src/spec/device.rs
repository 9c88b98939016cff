//! The device that kernels are specialised to.

/// A GPU as codegen sees it. The compute capability selects instructions; the number of multiprocessors only
/// balances work, so a wrong guess costs speed, never correctness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Ten times the compute capability: 90 for 9.0.
    pub sm: u32,
    /// Streaming multiprocessors of the largest common part.
    pub n_sms: u32,
}

impl Device {
    /// Every device that kernels are emitted for.
    pub const ALL: [Device; 6] = [
        Device { sm: 80, n_sms: 108 },
        Device { sm: 86, n_sms: 84 },
        Device { sm: 89, n_sms: 128 },
        Device { sm: 90, n_sms: 132 },
        Device { sm: 100, n_sms: 148 },
        Device { sm: 120, n_sms: 170 },
    ];

    /// The device of a compute capability (times ten).
    pub fn from_sm(sm: u32) -> Option<Device> {
        Device::ALL.into_iter().find(|d| d.sm == sm)
    }
}
