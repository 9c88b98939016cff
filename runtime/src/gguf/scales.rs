//! The check that weights are finite: one NaN scale turns a whole row of the model into NaN, silently, so every block
//! is looked at once while the weights are uploaded. It runs over gigabytes, so the scan only gathers a flag over a
//! run of blocks, without a branch, and looks for the culprit when the flag is set.

use super::error::{GgufError, Name};
use super::types::GgmlType;

/// Blocks scanned between two looks at the flag.
const RUN_BLOCKS: usize = 1024;

/// An offender: block from the start of the piece, byte in the block, its name and value.
struct Bad {
    block: usize,
    at: usize,
    field: &'static str,
    value: f64,
}

/// Checks that all scales and minima of the blocks in `bytes` are finite; for types without blocks, all elements.
/// `first_block` is the number of the first block of `bytes` in the tensor. Integer types have nothing to check.
///
/// # Errors
/// `NonFinite` with tensor, block and byte offset in the tensor's data; `PartialBlock` when `bytes` is not a multiple
/// of the block; `UncheckedType` for types with scales that no IEEE number holds (MXFP4, NVFP4) or that are spread
/// over the block (IQ1_M).
pub fn check_block_scales(
    ty: GgmlType,
    tensor: &str,
    first_block: u64,
    bytes: &[u8],
) -> Result<(), GgufError> {
    let block_bytes = ty.block_bytes();
    if !(bytes.len() as u64).is_multiple_of(block_bytes) {
        let (found, limit) = (bytes.len() as u64, block_bytes);
        let (tensor, ty) = (Name::from(tensor), ty.name());
        return Err(GgufError::PartialBlock { tensor, ty, block: first_block, found, limit });
    }
    let Some(scan) = scan_of(ty) else {
        return Err(GgufError::UncheckedType { tensor: Name::from(tensor), ty: ty.name() });
    };
    let Some(bad) = scan(bytes) else { return Ok(()) };
    let block = first_block.saturating_add(bad.block as u64);
    Err(GgufError::NonFinite {
        tensor: Name::from(tensor),
        ty: ty.name(),
        block,
        field: bad.field,
        found: bad.value,
        offset: block.saturating_mul(block_bytes).saturating_add(bad.at as u64),
    })
}

type Scan = fn(&[u8]) -> Option<Bad>;

/// The scan of each type: bytes of the block, offset of the scale, offset of the minimum (or the scale again).
fn scan_of(ty: GgmlType) -> Option<Scan> {
    Some(match ty {
        GgmlType::F32 => values::<4, F32>,
        GgmlType::F16 => values::<2, F16>,
        GgmlType::BF16 => values::<2, Bf16>,
        GgmlType::F64 => values::<8, F64>,
        GgmlType::Q4_0 | GgmlType::IQ4_NL | GgmlType::Q1_0 => blocks::<18, 0, 0>,
        GgmlType::Q4_1 => blocks::<20, 0, 2>,
        GgmlType::Q5_0 => blocks::<22, 0, 0>,
        GgmlType::Q5_1 => blocks::<24, 0, 2>,
        GgmlType::Q8_0 => blocks::<34, 0, 0>,
        GgmlType::Q8_1 => blocks::<36, 0, 2>,
        GgmlType::Q2_K => blocks::<84, 80, 82>,
        GgmlType::Q3_K => blocks::<110, 108, 108>,
        GgmlType::Q4_K => blocks::<144, 0, 2>,
        GgmlType::Q5_K => blocks::<176, 0, 2>,
        GgmlType::Q6_K => blocks::<210, 208, 208>,
        GgmlType::Q8_K => wide_blocks::<292>,
        GgmlType::IQ1_S => blocks::<50, 0, 0>,
        GgmlType::IQ2_XXS => blocks::<66, 0, 0>,
        GgmlType::IQ2_XS => blocks::<74, 0, 0>,
        GgmlType::IQ2_S => blocks::<82, 0, 0>,
        GgmlType::IQ3_XXS => blocks::<98, 0, 0>,
        GgmlType::IQ3_S => blocks::<110, 0, 0>,
        GgmlType::IQ4_XS => blocks::<136, 0, 0>,
        GgmlType::TQ1_0 => blocks::<54, 52, 52>,
        GgmlType::TQ2_0 => blocks::<66, 64, 64>,
        GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64 => |_| None,
        GgmlType::IQ1_M | GgmlType::MXFP4 | GgmlType::NVFP4 => return None,
    })
}

/// A floating-point format of `N` bytes. A number is not finite when all bits of its exponent are set: adding the
/// lowest exponent bit then carries into the sign's place, and into it only then.
trait Format<const N: usize> {
    /// Bit 63 is set exactly when the number is not finite; the other bits mean nothing.
    fn flag(raw: [u8; N]) -> u64;
    fn value(raw: [u8; N]) -> f64;
}

struct F16;
struct Bf16;
struct F32;
struct F64;

impl Format<2> for F16 {
    #[inline]
    fn flag(raw: [u8; 2]) -> u64 {
        u64::from((u16::from_le_bytes(raw) & 0x7c00) + 0x0400) << 48
    }
    fn value(raw: [u8; 2]) -> f64 {
        half::f16::from_le_bytes(raw).to_f64()
    }
}

impl Format<2> for Bf16 {
    #[inline]
    fn flag(raw: [u8; 2]) -> u64 {
        u64::from((u16::from_le_bytes(raw) & 0x7f80) + 0x0080) << 48
    }
    fn value(raw: [u8; 2]) -> f64 {
        half::bf16::from_le_bytes(raw).to_f64()
    }
}

impl Format<4> for F32 {
    #[inline]
    fn flag(raw: [u8; 4]) -> u64 {
        u64::from((u32::from_le_bytes(raw) & 0x7f80_0000) + 0x0080_0000) << 32
    }
    fn value(raw: [u8; 4]) -> f64 {
        f32::from_le_bytes(raw).into()
    }
}

impl Format<8> for F64 {
    #[inline]
    fn flag(raw: [u8; 8]) -> u64 {
        (u64::from_le_bytes(raw) & 0x7ff0_0000_0000_0000) + 0x0010_0000_0000_0000
    }
    fn value(raw: [u8; 8]) -> f64 {
        f64::from_le_bytes(raw)
    }
}

const NOT_FINITE: u64 = 1 << 63;

/// Elements without blocks.
fn values<const N: usize, T: Format<N>>(bytes: &[u8]) -> Option<Bad> {
    let (items, _) = bytes.as_chunks::<N>();
    for (run_idx, run) in items.chunks(RUN_BLOCKS).enumerate() {
        if run.iter().fold(0, |flags, &raw| flags | T::flag(raw)) & NOT_FINITE == 0 {
            continue;
        }
        let (idx, raw) = run.iter().enumerate().find(|(_, raw)| T::flag(**raw) & NOT_FINITE != 0)?;
        return Some(Bad { block: run_idx * RUN_BLOCKS + idx, at: 0, field: "value", value: T::value(*raw) });
    }
    None
}

/// Blocks of `BLOCK` bytes with an f16 scale at `D` and a second f16 at `M`.
fn blocks<const BLOCK: usize, const D: usize, const M: usize>(bytes: &[u8]) -> Option<Bad> {
    let pair = |block: &[u8; BLOCK]| ([block[D], block[D + 1]], [block[M], block[M + 1]]);
    let flags = |block: &[u8; BLOCK]| {
        let (d, m) = pair(block);
        F16::flag(d) | F16::flag(m)
    };
    let (all, _) = bytes.as_chunks::<BLOCK>();
    for (run_idx, run) in all.chunks(RUN_BLOCKS).enumerate() {
        if run.iter().fold(0, |sum, block| sum | flags(block)) & NOT_FINITE == 0 {
            continue;
        }
        let (idx, block) = run.iter().enumerate().find(|(_, block)| flags(block) & NOT_FINITE != 0)?;
        let (d, m) = pair(block);
        let block = run_idx * RUN_BLOCKS + idx;
        return Some(match F16::flag(d) & NOT_FINITE {
            0 => Bad { block, at: M, field: "minimum", value: F16::value(m) },
            _ => Bad { block, at: D, field: "scale", value: F16::value(d) },
        });
    }
    None
}

/// Blocks of `BLOCK` bytes that start with an f32 scale.
fn wide_blocks<const BLOCK: usize>(bytes: &[u8]) -> Option<Bad> {
    let (all, _) = bytes.as_chunks::<BLOCK>();
    let (block, value) = all.iter().enumerate().find_map(|(idx, block)| {
        let raw = *block.first_chunk::<4>()?;
        (F32::flag(raw) & NOT_FINITE != 0).then(|| (idx, F32::value(raw)))
    })?;
    Some(Bad { block, at: 0, field: "scale", value })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field offsets, written down apart from the scan table, from the block layouts.
    const FIELDS: &[(GgmlType, &[usize])] = &[
        (GgmlType::F16, &[0]),
        (GgmlType::BF16, &[0]),
        (GgmlType::Q4_0, &[0]),
        (GgmlType::Q4_1, &[0, 2]),
        (GgmlType::Q5_0, &[0]),
        (GgmlType::Q5_1, &[0, 2]),
        (GgmlType::Q8_0, &[0]),
        (GgmlType::Q2_K, &[16 + 64, 16 + 64 + 2]),
        (GgmlType::Q3_K, &[32 + 64 + 12]),
        (GgmlType::Q4_K, &[0, 2]),
        (GgmlType::Q5_K, &[0, 2]),
        (GgmlType::Q6_K, &[128 + 64 + 16]),
    ];

    const BLOCKS: usize = 2 * RUN_BLOCKS + 7;

    /// Every byte 0xff outside the fields: quants must not be taken for scales.
    fn finite(ty: GgmlType, fields: &[usize]) -> Vec<u8> {
        let size = ty.block_bytes() as usize;
        let mut bytes = vec![0xff; size * BLOCKS];
        for block in bytes.chunks_mut(size) {
            for &at in fields {
                // The largest finite value of f16 and of bf16.
                let largest: u16 = if ty == GgmlType::BF16 { 0x7f7f } else { 0x7bff };
                block[at..at + 2].copy_from_slice(&largest.to_le_bytes());
            }
        }
        bytes
    }

    #[test]
    fn each_field_of_each_type_is_found_where_it_is() {
        for &(ty, fields) in FIELDS {
            let clean = finite(ty, fields);
            check_block_scales(ty, "w", 0, &clean).unwrap_or_else(|e| panic!("{ty}: {e}"));
            let size = ty.block_bytes() as usize;
            for block in [0, 1, RUN_BLOCKS - 1, RUN_BLOCKS, BLOCKS - 1] {
                for &at in fields {
                    for bits in [0x7f80_u16, 0x7c00, 0xfc01, 0xffff, 0xff80] {
                        if ty == GgmlType::BF16 && bits & 0x7f80 != 0x7f80 {
                            continue;
                        }
                        let mut bytes = clean.clone();
                        let place = block * size + at;
                        bytes[place..place + 2].copy_from_slice(&bits.to_le_bytes());
                        let found = check_block_scales(ty, "w", 10, &bytes);
                        let (want_block, want_at) = (10 + block as u64, (10 * size + place) as u64);
                        assert!(
                            matches!(found, Err(GgufError::NonFinite { block, offset, found, .. })
                                if block == want_block && offset == want_at && !found.is_finite()),
                            "{ty} block {block} field {at}: {found:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_scan_table_agrees_with_the_block_sizes() {
        for &ty in GgmlType::ALL {
            let Some(scan) = scan_of(ty) else { continue };
            // All bits set: the first offender is in block 0, and a piece of two blocks with the first one zero has it
            // in block 1 exactly when the scan's stride is the block size.
            let size = ty.block_bytes() as usize;
            let mut bytes = vec![0; 2 * size];
            bytes[size..].fill(0xff);
            let found = scan(&bytes).map(|bad| bad.block);
            let integer = matches!(ty, GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64);
            assert_eq!(found, (!integer).then_some(1), "{ty}");
        }
    }

    #[test]
    fn every_f16_pattern_is_judged_as_ieee_says() {
        for bits in 0..=u16::MAX {
            let raw = bits.to_le_bytes();
            assert_eq!(F16::flag(raw) & NOT_FINITE == 0, half::f16::from_bits(bits).is_finite(), "{bits:#x}");
            assert_eq!(
                Bf16::flag(raw) & NOT_FINITE == 0,
                half::bf16::from_bits(bits).is_finite(),
                "{bits:#x}"
            );
            for low in [0, 1, u16::MAX] {
                let bits = u32::from(bits) << 16 | u32::from(low);
                let finite = f32::from_bits(bits).is_finite();
                assert_eq!(F32::flag(bits.to_le_bytes()) & NOT_FINITE == 0, finite, "{bits:#x}");
            }
        }
        for value in [0.0, -0.0, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324] {
            assert_eq!(F64::flag(value.to_le_bytes()) & NOT_FINITE == 0, value.is_finite(), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let partial = check_block_scales(GgmlType::Q4_K, "w", 0, &[0; 143]);
        assert!(
            matches!(partial, Err(GgufError::PartialBlock { found: 143, limit: 144, .. })),
            "{partial:?}"
        );
        let unchecked = check_block_scales(GgmlType::MXFP4, "w", 0, &[0; 17]);
        assert!(matches!(unchecked, Err(GgufError::UncheckedType { .. })), "{unchecked:?}");
    }
}
