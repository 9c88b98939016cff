//! A step launch by launch, on one device or on two beside each other: what each launch left in each buffer, and the
//! first element in which the devices differ.

use runtime::{Error, Walk};
use serde::Serialize;

use crate::values::{Difference, Kind, Summary, first_difference};

/// What one launch left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaunchReport {
    /// Index in the step.
    pub index: usize,
    /// Which layer, for launches that have one.
    pub layer: Option<u32>,
    /// Symbol of the kernel.
    pub kernel: String,
    /// The buffers that it may have written; of caches the row of this position.
    pub buffers: Vec<BufferReport>,
}

/// A buffer after a launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BufferReport {
    /// The slot: `Hidden`, `KCache(3)`.
    pub slot: String,
    /// What it holds on the device.
    #[serde(flatten)]
    pub summary: Summary,
    /// Where the reference differs; always none without a reference.
    pub difference: Option<Difference>,
}

impl LaunchReport {
    /// The first buffer in which the devices differ.
    #[must_use]
    pub fn first_difference(&self) -> Option<(&BufferReport, &Difference)> {
        self.buffers.iter().find_map(|buffer| Some((buffer, buffer.difference.as_ref()?)))
    }
}

/// Runs the next launch of `device`, and of `reference` beside it, and tells what it left with the first `n_first`
/// numbers of each buffer; none after the last launch.
///
/// # Errors
/// When a device fails.
pub fn advance(
    device: &mut Walk<'_>,
    mut reference: Option<&mut Walk<'_>>,
    n_first: usize,
) -> Result<Option<LaunchReport>, Error> {
    if !device.advance()? {
        return Ok(None);
    }
    if let Some(reference) = &mut reference {
        reference.advance()?;
    }
    let kv = device.table().dims.kv_type;
    let mut buffers = Vec::new();
    for region in device.written() {
        let bytes = device.read(&region)?;
        let kind = Kind::of(region.slot, kv);
        let difference = match &reference {
            None => None,
            Some(reference) => first_difference(kind, &bytes, &reference.read(&region)?),
        };
        let summary = Summary::new(kind, &bytes, n_first);
        buffers.push(BufferReport { slot: format!("{:?}", region.slot), summary, difference });
    }
    Ok(device.launch().map(|(index, launch, kernel)| LaunchReport {
        index,
        layer: launch.layer,
        kernel: kernel.entry.to_string(),
        buffers,
    }))
}
