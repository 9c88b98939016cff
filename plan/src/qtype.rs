//! Element types of tensors and the facts about their blocks. Layouts: GGML's block structures.

use std::fmt;

/// An element type that kernels exist (or will exist) for.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl QType {
    /// Every type.
    pub const ALL: [QType; 11] = [
        QType::F32,
        QType::F16,
        QType::Bf16,
        QType::Q4_0,
        QType::Q4_1,
        QType::Q5_0,
        QType::Q5_1,
        QType::Q8_0,
        QType::Q4K,
        QType::Q5K,
        QType::Q6K,
    ];

    /// The name in specs and messages: GGML's, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            QType::F32 => "f32",
            QType::F16 => "f16",
            QType::Bf16 => "bf16",
            QType::Q4_0 => "q4_0",
            QType::Q4_1 => "q4_1",
            QType::Q5_0 => "q5_0",
            QType::Q5_1 => "q5_1",
            QType::Q8_0 => "q8_0",
            QType::Q4K => "q4_k",
            QType::Q5K => "q5_k",
            QType::Q6K => "q6_k",
        }
    }

    /// The type of a name.
    pub fn from_name(name: &str) -> Option<QType> {
        QType::ALL.into_iter().find(|t| t.name() == name)
    }

    /// The type's number in GGUF.
    pub const fn ggml_id(self) -> u32 {
        match self {
            QType::F32 => 0,
            QType::F16 => 1,
            QType::Q4_0 => 2,
            QType::Q4_1 => 3,
            QType::Q5_0 => 6,
            QType::Q5_1 => 7,
            QType::Q8_0 => 8,
            QType::Q4K => 12,
            QType::Q5K => 13,
            QType::Q6K => 14,
            QType::Bf16 => 30,
        }
    }

    /// The type of a GGUF number.
    pub fn from_ggml_id(id: u32) -> Option<QType> {
        QType::ALL.into_iter().find(|t| t.ggml_id() == id)
    }

    /// Elements of a block.
    pub const fn block_elems(self) -> u32 {
        match self {
            QType::F32 | QType::F16 | QType::Bf16 => 1,
            QType::Q4_0 | QType::Q4_1 | QType::Q5_0 | QType::Q5_1 | QType::Q8_0 => 32,
            QType::Q4K | QType::Q5K | QType::Q6K => 256,
        }
    }

    /// Whether elements stand alone, without blocks and scales.
    pub const fn is_plain(self) -> bool {
        self.block_elems() == 1
    }

    /// Bytes of a block: scales, then mins, then high bits and quants, as GGML lays them out.
    pub const fn block_bytes(self) -> u32 {
        match self {
            QType::F32 => 4,
            QType::F16 | QType::Bf16 => 2,
            QType::Q4_0 => 2 + 16,
            QType::Q4_1 => 2 + 2 + 16,
            QType::Q5_0 => 2 + 4 + 16,
            QType::Q5_1 => 2 + 2 + 4 + 16,
            QType::Q8_0 => 2 + 32,
            QType::Q4K => 2 + 2 + 12 + 128,
            QType::Q5K => 2 + 2 + 12 + 32 + 128,
            QType::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of `cols` elements in a file; `cols` must be a multiple of [`Self::block_elems`].
    pub const fn row_bytes(self, cols: u32) -> u64 {
        (cols / self.block_elems()) as u64 * self.block_bytes() as u64
    }
}

impl fmt::Display for QType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for t in QType::ALL {
            assert_eq!(QType::from_name(t.name()), Some(t));
            assert_eq!(QType::from_ggml_id(t.ggml_id()), Some(t));
        }
        assert_eq!(QType::from_ggml_id(4), None);
    }

    #[test]
    fn block_sizes_are_those_of_ggml() {
        let sizes = QType::ALL.map(QType::block_bytes);
        assert_eq!(sizes, [4, 2, 2, 18, 20, 22, 24, 34, 144, 176, 210]);
    }
}
