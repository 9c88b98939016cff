//! The two type tables of the format: metadata value types, and tensor types with their block layout. All tensor
//! types with a known layout are here, so that any well-formed file can be inspected; which of them the kernels
//! serve is decided where the plan is bound.

use std::fmt;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the types")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Str = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// All types in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this number in the file, if there is one.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The number in the file.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The least bytes a value takes: all of them for a number, the length field of an empty string, the element
    /// type and length of an empty array.
    #[must_use]
    pub fn min_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }

    /// The name used in errors and listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "str",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One table makes the enum, the numbers, the names and the layouts, so that they cannot disagree.
macro_rules! ggml_types {
    ($($variant:ident = $id:literal, $name:literal, $elems:literal, $bytes:literal;)*) => {
        /// The type of a tensor's elements, as GGML numbers it. Quantized types store blocks of
        /// [`block_elems`](Self::block_elems) elements in [`block_bytes`](Self::block_bytes) bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(non_camel_case_types, missing_docs, reason = "the names of the format, as its users write them")]
        #[repr(u8)]
        pub enum GgmlType { $($variant = $id,)* }

        impl GgmlType {
            /// All types in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The type with this number in the file; `None` for removed and unknown ones.
            #[must_use]
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* _ => None }
            }

            /// The name the format's users know it by.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Elements in a block; 1 for types that are not quantized.
            #[must_use]
            pub fn block_elems(self) -> u64 {
                match self { $(Self::$variant => $elems,)* }
            }

            /// Bytes of a block.
            #[must_use]
            pub fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

// type = number, name, elements a block, bytes a block. Source of numbers and layouts: ggml.h, ggml-common.h.
ggml_types! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 36;
    Q2_K = 10, "Q2_K", 256, 84;
    Q3_K = 11, "Q3_K", 256, 110;
    Q4_K = 12, "Q4_K", 256, 144;
    Q5_K = 13, "Q5_K", 256, 176;
    Q6_K = 14, "Q6_K", 256, 210;
    Q8_K = 15, "Q8_K", 256, 292;
    IQ2_XXS = 16, "IQ2_XXS", 256, 66;
    IQ2_XS = 17, "IQ2_XS", 256, 74;
    IQ3_XXS = 18, "IQ3_XXS", 256, 98;
    IQ1_S = 19, "IQ1_S", 256, 50;
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    IQ3_S = 21, "IQ3_S", 256, 110;
    IQ2_S = 22, "IQ2_S", 256, 82;
    IQ4_XS = 23, "IQ4_XS", 256, 136;
    I8 = 24, "I8", 1, 1;
    I16 = 25, "I16", 1, 2;
    I32 = 26, "I32", 1, 4;
    I64 = 27, "I64", 1, 8;
    F64 = 28, "F64", 1, 8;
    IQ1_M = 29, "IQ1_M", 256, 56;
    BF16 = 30, "BF16", 1, 2;
    TQ1_0 = 34, "TQ1_0", 256, 54;
    TQ2_0 = 35, "TQ2_0", 256, 66;
    MXFP4 = 39, "MXFP4", 32, 17;
    NVFP4 = 40, "NVFP4", 64, 36;
    Q1_0 = 41, "Q1_0", 128, 18;
}

impl GgmlType {
    /// The number in the file.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Numbers that once had a type: Q4_2, Q4_3, and the layouts repacked for one processor each.
    #[must_use]
    pub fn is_removed(id: u32) -> bool {
        matches!(id, 4 | 5 | 31..=33 | 36..=38)
    }

    /// Bytes of a tensor with these dimensions (row length first); `None` when a row ends inside a block, a
    /// dimension is zero, or the product leaves 128 bits.
    #[must_use]
    pub fn tensor_bytes(self, dims: &[u64]) -> Option<u128> {
        let row = *dims.first()?;
        if dims.contains(&0) || !row.is_multiple_of(self.block_elems()) {
            return None;
        }
        let row_bytes = u128::from(row / self.block_elems()) * u128::from(self.block_bytes());
        dims[1..].iter().try_fold(row_bytes, |bytes, &dim| bytes.checked_mul(u128::from(dim)))
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_types_are_inverse() {
        for ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Some(*ty));
            assert!(!GgmlType::is_removed(ty.id()));
        }
        for id in (0..1000).chain([u32::MAX, 1 << 31]) {
            assert_eq!(GgmlType::from_id(id).is_some(), GgmlType::ALL.iter().any(|t| t.id() == id), "{id}");
        }
        for id in 0..20 {
            assert_eq!(ValueType::from_id(id).map(ValueType::id), (id < 13).then_some(id));
        }
    }

    /// Each block layout summed from its fields: scales, minima, quants.
    #[test]
    fn block_bytes_are_the_sum_of_their_fields() {
        let sums = [
            (GgmlType::Q4_0, 2 + 16),
            (GgmlType::Q5_1, 2 + 2 + 4 + 16),
            (GgmlType::Q8_0, 2 + 32),
            (GgmlType::Q2_K, 256 / 16 + 256 / 4 + 2 + 2),
            (GgmlType::Q3_K, 256 / 8 + 256 / 4 + 12 + 2),
            (GgmlType::Q4_K, 2 + 2 + 12 + 256 / 2),
            (GgmlType::Q5_K, 2 + 2 + 12 + 256 / 8 + 256 / 2),
            (GgmlType::Q6_K, 256 / 2 + 256 / 4 + 256 / 16 + 2),
            (GgmlType::Q8_K, 4 + 256 + 2 * 16),
            (GgmlType::IQ4_XS, 2 + 2 + 4 + 128),
            (GgmlType::TQ1_0, 48 + 4 + 2),
            (GgmlType::MXFP4, 1 + 16),
        ];
        for (ty, bytes) in sums {
            assert_eq!(ty.block_bytes(), bytes, "{ty}");
        }
    }

    #[test]
    fn tensor_bytes_refuses_what_has_no_size() {
        assert_eq!(GgmlType::Q4_K.tensor_bytes(&[256, 2]), Some(288));
        assert_eq!(GgmlType::Q4_K.tensor_bytes(&[257]), None);
        assert_eq!(GgmlType::F32.tensor_bytes(&[]), None);
        assert_eq!(GgmlType::F32.tensor_bytes(&[4, 0]), None);
        assert_eq!(GgmlType::F32.tensor_bytes(&[u64::MAX, u64::MAX, 2]), None);
    }
}
