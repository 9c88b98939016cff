//! How keys and values lie in a cache.

use std::fmt;

/// The element type of the K and V caches.
///
/// A position is a row: `n_kv_heads · head_dim` elements, head after head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum KvType {
    /// Each element rounded once to f16.
    #[default]
    F16,
    /// As computed.
    F32,
    /// Blocks of 32 neighbours: the i8 quants of the row, then the f16 scales of its blocks, then padding, so that rows
    /// begin at multiples of 32 bytes. `kv_dim` is a multiple of 32.
    Q8_0,
}

impl KvType {
    /// Every type.
    pub const ALL: [KvType; 3] = [KvType::F16, KvType::F32, KvType::Q8_0];

    /// The name in specs.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// The type of a name.
    pub fn from_name(name: &str) -> Option<KvType> {
        KvType::ALL.into_iter().find(|kv| kv.name() == name)
    }

    /// Bytes of a row of `kv_dim` elements, from one position to the next.
    pub const fn row_bytes(self, kv_dim: u32) -> u32 {
        match self {
            KvType::F16 => kv_dim * 2,
            KvType::F32 => kv_dim * 4,
            KvType::Q8_0 => (kv_dim + kv_dim / 32 * 2).next_multiple_of(32),
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for kv in KvType::ALL {
            assert_eq!(KvType::from_name(kv.name()), Some(kv));
        }
        assert_eq!(KvType::from_name("q4_0"), None);
    }

    #[test]
    fn rows_hold_their_quants_and_scales() {
        for kv_dim in [32, 64, 256, 512, 1024] {
            let bytes = KvType::Q8_0.row_bytes(kv_dim);
            assert!(bytes >= kv_dim + kv_dim / 16 && bytes < kv_dim + kv_dim / 16 + 32);
            assert!(bytes.is_multiple_of(32));
        }
        assert_eq!((KvType::F16.row_bytes(256), KvType::F32.row_bytes(256)), (512, 1024));
        assert_eq!(KvType::Q8_0.row_bytes(1024), 1088);
    }
}
