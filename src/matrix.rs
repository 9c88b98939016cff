//! The test matrix: products of every weight type at many shapes, numbers of rows and distributions of activations, each
//! judged against its reference on the emulator and, where there is a device, compared with it bit for bit.
//!
//! `monomorph verify --matrix` runs all of it; the tests run a sample.

use codegen::kernels::Operation;
use codegen::kernels::gemm::Gemm;
use codegen::kernels::gemv::{Epilogue, Gemv, Split};
use codegen::layout::Matrix;
use plan::QType;

/// Rows of activations.
pub const ROWS: [u32; 13] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 33, 64];

/// Seeds of the trials: the distribution of activations is the seed modulo four.
pub const SEEDS: std::ops::Range<u64> = 0..4;

/// Rows and columns of matrices for types with 256 weights a block.
const WIDE: [(u32, u32); 12] = [
    (1, 256),
    (4, 256),
    (5, 512),
    (16, 768),
    (17, 1024),
    (33, 1536),
    (64, 2048),
    (100, 256),
    (128, 512),
    (48, 2304),
    (7, 4096),
    (256, 1280),
];

/// The same for types with 32 weights a block or without blocks: rows end within a super-block.
const NARROW: [(u32, u32); 12] = [
    (1, 32),
    (4, 96),
    (5, 224),
    (16, 640),
    (17, 896),
    (33, 1184),
    (64, 2080),
    (100, 288),
    (128, 512),
    (48, 2304),
    (7, 4064),
    (256, 1280),
];

/// Every case: types × rows × shapes. Epilogues and ways to split K take turns.
pub fn cases() -> Vec<Box<dyn Operation + Send + Sync>> {
    let mut cases: Vec<Box<dyn Operation + Send + Sync>> = Vec::new();
    for qtype in QType::ALL {
        let shapes = if qtype.block_elems() == 256 { WIDE } else { NARROW };
        for n in ROWS {
            for (i, (rows, cols)) in shapes.into_iter().enumerate() {
                let turn = i as u32 + n;
                let matrix = Matrix { qtype, rows, cols };
                let epilogue = if turn.is_multiple_of(2) { Epilogue::Store } else { Epilogue::Add };
                let k_split = 1 << (turn / 2 % 4);
                let split = Split { k_split, tiles_per_cta: 8 / k_split, unroll: 4 }.fit(&[matrix]);
                cases.push(match n {
                    1 => Box::new(Gemv { matrix, epilogue, split }),
                    n => Box::new(Gemm::new(matrix, epilogue, split, n)),
                });
            }
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_meets_every_number_of_rows_at_twelve_shapes() {
        let cases = cases();
        assert_eq!(cases.len(), 11 * 13 * 12);
        let identities: std::collections::BTreeSet<String> =
            cases.iter().map(|case| format!("{} {}", case.name(), case.constants())).collect();
        assert_eq!(identities.len(), cases.len());
    }
}
