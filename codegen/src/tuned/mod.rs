//! Winners of searches on devices: what a launch does where its layout was measured, before the cost model is asked.
//!
//! `monomorph bench --tune` times the choices of a spec's products and writes the fastest as a file, one for each compute capability.
//! An entry holds for a product of these matrices with these rows, in whichever model. A layout changes where work is done and
//! never the order of a sum, so that a wrong entry costs speed and no bits; one that the product cannot have is an error that
//! names it.

use crate::kernels::gemm::Tile;
use crate::layout::Matrix;
use serde::{Deserialize, Serialize};

/// Files by compute capability, times ten.
const FILES: &[(u32, &str)] = &[(90, include_str!("sm_90.toml"))];

/// What a layout is chosen for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Key {
    /// Kind of product: `gemm`, `gemm_qkv`, `gemm_gate_up`.
    pub product: String,
    /// The matrices, such as `q4_k 1536x8960`: type, outputs, columns.
    pub matrices: Vec<String>,
    /// Parts of K, which the order of sums fixes.
    pub k_split: u32,
    /// Rows of activations.
    pub rows: u32,
}

impl Key {
    /// The key of a product.
    pub fn new(product: &str, matrices: &[Matrix], k_split: u32, rows: u32) -> Key {
        let text = |m: &Matrix| format!("{} {}x{}", m.qtype, m.rows, m.cols);
        Key { product: product.to_owned(), matrices: matrices.iter().map(text).collect(), k_split, rows }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Key { product, matrices, k_split, rows } = self;
        write!(f, "{product} of {}, {rows} rows, K in {k_split} parts", matrices.join(", "))
    }
}

/// The fastest layout that a search found.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Winner {
    /// What it is for.
    #[serde(flatten)]
    pub key: Key,
    /// Microseconds of a launch with it, where it was measured.
    pub us: f64,
    /// The same with the cost model's choice.
    pub model_us: f64,
    /// What a CTA computes.
    pub tile: Tile,
}

/// A file of winners does not say what it must.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("winners for sm_{sm}: {reason}")]
pub struct TunedError {
    /// The compute capability, times ten.
    pub sm: u32,
    /// What the parser says.
    pub reason: String,
}

/// The winners of a compute capability.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// In the order of their keys.
    #[serde(default, rename = "winner")]
    pub winners: Vec<Winner>,
}

impl Tuned {
    /// The committed winners for a compute capability, times ten; none where nobody searched.
    ///
    /// # Errors
    /// [`TunedError`] when the file does not parse or has two winners for one key.
    pub fn of(sm: u32) -> Result<Tuned, TunedError> {
        let text = FILES.iter().find(|(of, _)| *of == sm).map_or("", |(_, text)| text);
        Tuned::parse(sm, text)
    }

    /// The winners that a file holds.
    ///
    /// # Errors
    /// As [`Tuned::of`].
    pub fn parse(sm: u32, text: &str) -> Result<Tuned, TunedError> {
        let mut tuned: Tuned = toml::from_str(text).map_err(|e| TunedError { sm, reason: e.to_string() })?;
        tuned.winners.sort_by(|a, b| a.key.cmp(&b.key));
        let twice = tuned.winners.iter().zip(tuned.winners.iter().skip(1)).find(|(a, b)| a.key == b.key);
        match twice {
            Some((of, _)) => Err(TunedError { sm, reason: format!("two winners for {}", of.key) }),
            None => Ok(tuned),
        }
    }

    /// The tile that was fastest for a key.
    pub fn tile(&self, key: &Key) -> Option<Tile> {
        let found = self.winners.binary_search_by(|winner| winner.key.cmp(key)).ok()?;
        self.winners.get(found).map(|winner| winner.tile)
    }

    /// These winners, and of others those for which there is none here.
    #[must_use]
    pub fn or(mut self, others: Tuned) -> Tuned {
        for winner in others.winners {
            if self.tile(&winner.key).is_none() {
                let at = self.winners.partition_point(|w| w.key < winner.key);
                self.winners.insert(at, winner);
            }
        }
        self
    }

    /// The file that holds these winners.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "# Written by `monomorph bench --tune`; codegen/src/tuned/mod.rs says how it is used.\n",
        );
        for Winner { key, us, model_us, tile } in &self.winners {
            let Key { product, matrices, k_split, rows } = key;
            let Tile { m, n, across, parts, slots, depth, buffers, fill, resident } = tile;
            text.push_str(&format!(
                "\n[[winner]]\nproduct = {product:?}\nmatrices = {matrices:?}\nk_split = {k_split}\nrows = {rows}\n\
                 us = {us:.2}\nmodel_us = {model_us:.2}\n\
                 tile = {{ m = {m}, n = {n}, across = {across}, parts = {parts}, slots = {slots}, depth = {depth}, \
                 buffers = {buffers}, fill = \"{fill}\", resident = {resident} }}\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::Fill;
    use ::plan::QType;

    fn winner(rows: u32, tile: Tile) -> Winner {
        let matrix = Matrix { qtype: QType::Q4K, rows: 64, cols: 512 };
        Winner { key: Key::new("gemm", &[matrix], 2, rows), us: 1.5, model_us: 2.0, tile }
    }

    fn tile(n: u32) -> Tile {
        Tile { m: 2, n, across: 1, parts: 1, slots: 1, depth: 1, buffers: 1, fill: Fill::Before, resident: 2 }
    }

    #[test]
    fn committed_winners_parse() {
        for (sm, _) in FILES {
            let tuned = Tuned::of(*sm).unwrap();
            assert_eq!(Tuned::parse(*sm, &tuned.text()).unwrap(), tuned);
        }
        assert_eq!(Tuned::of(80).unwrap(), Tuned::default());
    }

    #[test]
    fn a_file_keeps_what_was_found() {
        let tuned = Tuned { winners: vec![winner(8, tile(1)), winner(256, tile(8))] };
        let read = Tuned::parse(90, &tuned.text()).unwrap();
        assert_eq!(read, tuned);
        assert_eq!(read.tile(&winner(256, tile(1)).key), Some(tile(8)));
        assert_eq!(read.tile(&winner(32, tile(1)).key), None);
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        let text = Tuned { winners: vec![winner(8, tile(1))] }.text();
        let why = |text: &str| Tuned::parse(90, text).unwrap_err().to_string();
        assert!(
            why(&text.replace("depth", "deep")).contains("deep"),
            "{}",
            why(&text.replace("depth", "deep"))
        );
        let twice = format!("{text}{}", text.lines().skip(1).map(|l| format!("{l}\n")).collect::<String>());
        assert!(
            why(&twice).contains("two winners for gemm of q4_k 64x512, 8 rows, K in 2 parts"),
            "{}",
            why(&twice)
        );
    }

    #[test]
    fn new_winners_stand_before_old_ones() {
        let new = Tuned { winners: vec![winner(8, tile(1))] };
        let old = Tuned { winners: vec![winner(8, tile(2)), winner(4, tile(4)), winner(32, tile(8))] };
        let both = new.or(old);
        let rows: Vec<u32> = both.winners.iter().map(|w| w.key.rows).collect();
        assert_eq!((rows, both.winners[1].tile), (vec![4, 8, 32], tile(1)));
    }
}
