//! F16, BF16 and F32: elements without blocks, on the device as in the file.

use super::f16_at;
use ::plan::QType;

/// The values of little-endian elements; exact.
pub(super) fn decode(qtype: QType, raw: &[u8]) -> Vec<f32> {
    match qtype {
        QType::F32 => raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        QType::F16 => raw.as_chunks::<2>().0.iter().map(|b| f16_at(*b)).collect(),
        // The bits of a bf16 are the high half of an f32.
        _ => {
            raw.as_chunks::<2>().0.iter().map(|[low, high]| f32::from_le_bytes([0, 0, *low, *high])).collect()
        }
    }
}

/// The bytes of a value; BF16 is cut, not rounded, which is all that random weights need.
pub(super) fn encode(qtype: QType, value: f32) -> Vec<u8> {
    match qtype {
        QType::F32 => value.to_le_bytes().to_vec(),
        QType::F16 => ptx::sem::f32_to_f16(value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes()[2..].to_vec(),
    }
}
