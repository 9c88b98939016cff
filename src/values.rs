//! Bytes of a step's buffers as numbers: what a debugger shows and where two devices differ.

use half::f16;
use plan::{KvType, Slot};
use serde::Serialize;

/// How the bytes of a buffer are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain f32.
    F32,
    /// Plain f16.
    F16,
    /// Plain i8.
    I8,
    /// Words.
    U32,
    /// Double words.
    U64,
    /// A `(f32 scale, s16 sum, s16 sum)` a block; its number is the scale.
    Scale,
}

impl Kind {
    /// The kind of what `slot` holds, with caches of type `kv`. Caches of q8_0 are read as i8, their scales too.
    #[must_use]
    pub fn of(slot: Slot, kv: KvType) -> Kind {
        match slot {
            Slot::Hidden
            | Slot::Qkv
            | Slot::AttnPartial
            | Slot::AttnStats
            | Slot::Branch
            | Slot::FfnUp
            | Slot::Act
            | Slot::FfnAct
            | Slot::Logits
            | Slot::RopeTable
            | Slot::RopeTableLocal => Kind::F32,
            Slot::ActQuants | Slot::FfnQuants => Kind::I8,
            Slot::ActMeta | Slot::FfnMeta => Kind::Scale,
            Slot::Kv | Slot::ArgmaxPartial => Kind::U64,
            Slot::KCache(_) | Slot::VCache(_) => match kv {
                KvType::F16 => Kind::F16,
                KvType::F32 => Kind::F32,
                KvType::Q8_0 => Kind::I8,
            },
            _ => Kind::U32,
        }
    }

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::I8 => "i8",
            Kind::U32 => "u32",
            Kind::U64 => "u64",
            Kind::Scale => "scale",
        }
    }

    /// Bytes of an element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Kind::I8 => 1,
            Kind::F16 => 2,
            Kind::F32 | Kind::U32 => 4,
            Kind::U64 | Kind::Scale => 8,
        }
    }

    /// The number of an element, from its bytes.
    fn number(self, element: &[u8]) -> f64 {
        let mut raw = [0; 8];
        raw.iter_mut().zip(element).for_each(|(to, from)| *to = *from);
        let word = u64::from_le_bytes(raw);
        match self {
            Kind::F32 | Kind::Scale => f64::from(f32::from_bits(word as u32)),
            Kind::F16 => f16::from_bits(word as u16).to_f64(),
            Kind::I8 => f64::from(word as u8 as i8),
            Kind::U32 | Kind::U64 => word as f64,
        }
    }

    /// The numbers of whole elements.
    pub fn numbers(self, bytes: &[u8]) -> impl Iterator<Item = f64> {
        bytes.chunks_exact(self.bytes()).map(move |element| self.number(element))
    }
}

/// What a buffer holds, in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// [`Kind::name`].
    pub kind: &'static str,
    /// Elements.
    pub elements: usize,
    /// The first of them.
    pub first: Vec<f64>,
    /// The least finite number; none when no number is finite.
    pub min: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// The mean of the finite numbers.
    pub mean: Option<f64>,
    /// How many are NaN.
    pub nan: usize,
    /// How many are infinite.
    pub inf: usize,
    /// FNV-1a of the bytes, 16 hexadecimal digits.
    pub hash: String,
}

impl Summary {
    /// Sums `bytes` up, with the first `n_first` numbers.
    #[must_use]
    pub fn new(kind: Kind, bytes: &[u8], n_first: usize) -> Summary {
        let finite = || kind.numbers(bytes).filter(|number| number.is_finite());
        let n_finite = finite().count();
        let some = |number: f64| (n_finite > 0).then_some(number);
        Summary {
            kind: kind.name(),
            elements: bytes.len() / kind.bytes(),
            first: kind.numbers(bytes).take(n_first).collect(),
            min: some(finite().fold(f64::INFINITY, f64::min)),
            max: some(finite().fold(f64::NEG_INFINITY, f64::max)),
            mean: some(finite().sum::<f64>() / n_finite.max(1) as f64),
            nan: kind.numbers(bytes).filter(|number| number.is_nan()).count(),
            inf: kind.numbers(bytes).filter(|number| number.is_infinite()).count(),
            hash: format!("{:016x}", codegen::fnv1a64(bytes)),
        }
    }
}

/// An element that two devices left with different bits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its index.
    pub element: usize,
    /// How many elements differ.
    pub n_differing: usize,
    /// The device's number.
    pub device: f64,
    /// The reference's.
    pub reference: f64,
    /// The device's bits, hexadecimal, most significant first.
    pub device_bits: String,
    /// The reference's.
    pub reference_bits: String,
}

/// The first element whose bits differ; a shorter buffer differs where it ends.
#[must_use]
pub fn first_difference(kind: Kind, device: &[u8], reference: &[u8]) -> Option<Difference> {
    let size = kind.bytes();
    let n = device.len().max(reference.len()).div_ceil(size);
    let at =
        |bytes: &'_ [u8], i: usize| -> Vec<u8> { bytes.iter().skip(i * size).take(size).copied().collect() };
    let bits = |element: &[u8]| element.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
    if device == reference {
        return None;
    }
    let differing: Vec<usize> = (0..n).filter(|i| at(device, *i) != at(reference, *i)).collect();
    let element = *differing.first()?;
    let (device, reference) = (at(device, element), at(reference, element));
    Some(Difference {
        element,
        n_differing: differing.len(),
        device: kind.number(&device),
        reference: kind.number(&reference),
        device_bits: bits(&device),
        reference_bits: bits(&reference),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn what_is_not_finite_is_counted_and_left_out_of_the_rest() {
        let summary = Summary::new(Kind::F32, &bytes(&[1.0, f32::NAN, 3.0, f32::NEG_INFINITY]), 1);
        assert_eq!((summary.nan, summary.inf, summary.elements), (1, 1, 4));
        assert_eq!((summary.min, summary.max, summary.mean), (Some(1.0), Some(3.0), Some(2.0)));
        assert_eq!(summary.first, [1.0]);
        let none = Summary::new(Kind::F32, &bytes(&[f32::NAN]), 4);
        assert_eq!((none.min, none.mean), (None, None));
        assert_ne!(summary.hash, none.hash);
    }

    #[test]
    fn numbers_are_read_by_their_kind() {
        let of = |kind: Kind, raw: &[u8]| kind.numbers(raw).collect::<Vec<f64>>();
        assert_eq!(of(Kind::I8, &[0xff, 2]), [-1.0, 2.0]);
        assert_eq!(of(Kind::F16, &[0x00, 0x3c, 0x00, 0xc0]), [1.0, -2.0]);
        assert_eq!(of(Kind::U32, &[1, 1, 0, 0]), [257.0]);
        let mut block = bytes(&[0.5]);
        block.extend([7, 0, 9, 0]);
        assert_eq!(of(Kind::Scale, &block), [0.5]);
    }

    #[test]
    fn differences_are_of_bits_not_of_values() {
        let (zero, minus) = (bytes(&[1.0, 0.0, 2.0]), bytes(&[1.0, -0.0, 3.0]));
        assert_eq!(first_difference(Kind::F32, &zero, &zero), None);
        let found = first_difference(Kind::F32, &zero, &minus).unwrap();
        assert_eq!((found.element, found.n_differing), (1, 2));
        assert_eq!((found.device_bits.as_str(), found.reference_bits.as_str()), ("00000000", "80000000"));
        let nan = bytes(&[f32::NAN]);
        assert_eq!(first_difference(Kind::F32, &nan, &nan), None);
        // Equal scales, another sum.
        let (a, b) = ([0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(first_difference(Kind::Scale, &a, &b).unwrap().element, 0);
    }
}
