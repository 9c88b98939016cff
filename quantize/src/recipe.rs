//! Which type each tensor gets. A file type names one type for most matrices; the mixed ones give more bits to the
//! matrices whose errors cost most: the head, and in some layers the values and the second matrix of the feed-forward
//! part. Source of the choices: llama.cpp, `llama-quant.cpp`, for dense models without an importance matrix.

use plan::QType;

/// A kind of quantized file, as `general.file_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileType {
    /// The name on the command line.
    pub name: &'static str,
    /// `general.file_type`.
    pub id: u32,
    /// The type of a matrix that no rule is about.
    base: QType,
    mix: Mix,
}

/// Which layers' `attn_v` and `ffn_down` have more bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mix {
    /// None.
    Plain,
    /// Both in the first and last eighth of the layers and in every third between.
    Medium(QType),
    /// `attn_v` in the first four layers, `ffn_down` in the first eighth.
    Small(QType),
}

/// Every file type that can be written.
pub const FILE_TYPES: [FileType; 13] = {
    use QType::*;
    const fn of(name: &'static str, id: u32, base: QType, mix: Mix) -> FileType {
        FileType { name, id, base, mix }
    }
    [
        of("q4_k_m", 15, Q4K, Mix::Medium(Q6K)),
        of("q4_k_s", 14, Q4K, Mix::Small(Q5K)),
        of("q5_k_m", 17, Q5K, Mix::Medium(Q6K)),
        of("q5_k_s", 16, Q5K, Mix::Plain),
        of("q6_k", 18, Q6K, Mix::Plain),
        of("q8_0", 7, Q8_0, Mix::Plain),
        of("q4_0", 2, Q4_0, Mix::Plain),
        of("q4_1", 3, Q4_1, Mix::Plain),
        of("q5_0", 8, Q5_0, Mix::Plain),
        of("q5_1", 9, Q5_1, Mix::Plain),
        of("f16", 1, F16, Mix::Plain),
        of("bf16", 32, Bf16, Mix::Plain),
        of("f32", 0, F32, Mix::Plain),
    ]
};

/// What the choice for a tensor depends on.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dimensions, the row length first.
    pub dims: &'a [u64],
    /// Layers of the model.
    pub n_layers: u64,
    /// The name of the head: `output.weight`, or the embedding where that is the head too.
    pub head: &'a str,
}

impl FileType {
    /// The type of a name; `q4_k` and `q5_k` are the `_m` mixes.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = match name.as_str() {
            "q4_k" => "q4_k_m",
            "q5_k" => "q5_k_m",
            other => other,
        };
        FILE_TYPES.into_iter().find(|file_type| file_type.name == name)
    }

    /// The type that a tensor gets; nothing for those that stay as they are: vectors, norms, and what is no weight.
    #[must_use]
    pub fn tensor_type(&self, place: Place<'_>) -> Option<QType> {
        if place.dims.len() < 2 || !place.name.ends_with("weight") || place.name.ends_with("_norm.weight") {
            return None;
        }
        Some(fitting(self.wanted(place), place.dims[0]))
    }

    fn wanted(&self, place: Place<'_>) -> QType {
        if self.base.is_plain() {
            return self.base;
        }
        if place.name == place.head {
            return if self.base == QType::Q8_0 { QType::Q8_0 } else { QType::Q6K };
        }
        let (layer, part) = layer_and_part(place.name);
        let (layer, n) = (layer.unwrap_or(0), place.n_layers);
        let special = match (self.mix, part) {
            (Mix::Medium(more), "attn_v" | "ffn_down") if has_more_bits(layer, n) => Some(more),
            (Mix::Medium(_), "attn_qkv") if self.base == QType::Q4K => Some(QType::Q5K),
            (Mix::Medium(more), "attn_qkv") => Some(more),
            (Mix::Small(more), "attn_v") if layer < 4 => Some(more),
            (Mix::Small(more), "ffn_down") if layer < n / 8 => Some(more),
            _ => None,
        };
        special.unwrap_or(self.base)
    }
}

fn has_more_bits(layer: u64, n_layers: u64) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
}

/// `blk.3.attn_v.weight` is layer 3's `attn_v`.
fn layer_and_part(name: &str) -> (Option<u64>, &str) {
    let mut parts = name.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("blk"), Some(layer), Some(part)) => (layer.parse().ok(), part),
        (first, ..) => (None, first.unwrap_or(name)),
    }
}

/// The type itself, or the one that serves rows which are not whole blocks of it.
fn fitting(wanted: QType, row: u64) -> QType {
    let fits = |qtype: QType| row.is_multiple_of(u64::from(qtype.block_elems()));
    let of_32 = match wanted {
        _ if fits(wanted) => wanted,
        QType::Q4K => QType::Q5_0,
        QType::Q5K => QType::Q5_1,
        QType::Q6K => QType::Q8_0,
        other => other,
    };
    if fits(of_32) { of_32 } else { QType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file_type: &str, name: &str, row: u64) -> Option<QType> {
        let place = Place { name, dims: &[row, 8], n_layers: 28, head: "token_embd.weight" };
        FileType::from_name(file_type).unwrap().tensor_type(place)
    }

    #[test]
    fn the_medium_mix_is_that_of_published_files() {
        let more =
            |layer: u64| of("Q4_K_M", &format!("blk.{layer}.ffn_down.weight"), 512) == Some(QType::Q6K);
        // As in Qwen2.5-1.5B Q4_K_M, 28 layers.
        let found: Vec<u64> = (0..28).filter(|layer| more(*layer)).collect();
        assert_eq!(found, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        assert_eq!(of("q4_k", "token_embd.weight", 512), Some(QType::Q6K));
        assert_eq!(of("q4_k", "blk.0.attn_q.weight", 512), Some(QType::Q4K));
        assert_eq!(of("q5_k", "blk.3.attn_q.weight", 512), Some(QType::Q5K));
        assert_eq!(of("q4_k_s", "blk.3.attn_v.weight", 512), Some(QType::Q5K));
        assert_eq!(of("q4_0", "token_embd.weight", 512), Some(QType::Q6K));
        assert_eq!(of("f16", "token_embd.weight", 512), Some(QType::F16));
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_a_type_that_serves() {
        assert_eq!(of("q4_k_m", "blk.4.attn_q.weight", 32 * 7), Some(QType::Q5_0));
        assert_eq!(of("q6_k", "blk.4.attn_q.weight", 32 * 7), Some(QType::Q8_0));
        assert_eq!(of("q4_0", "blk.4.attn_q.weight", 48), Some(QType::F16));
    }

    #[test]
    fn norms_vectors_and_other_tensors_stay() {
        assert_eq!(of("q8_0", "blk.4.attn_norm.weight", 512), None);
        assert_eq!(of("q8_0", "blk.4.attn_q.bias", 512), None);
        let place = Place { name: "rope_freqs.weight", dims: &[32], n_layers: 1, head: "" };
        assert_eq!(FILE_TYPES[0].tensor_type(place), None);
    }

    #[test]
    fn names_are_found_in_any_case_and_no_other() {
        for file_type in FILE_TYPES {
            assert_eq!(FileType::from_name(&file_type.name.to_uppercase()), Some(file_type));
        }
        assert_eq!(FileType::from_name("q3_k_m"), None);
    }
}
