//! Sub-blocks times activations that are not quantized: weights are widened to f32, rounded as GGML rounds them, and
//! multiplied in f32.

use super::bytes::{quant_bytes, row_terms};
use super::lanes::{Vector, Weights, load_sub_block};
use super::plain;
use crate::dsl::{Carry, prelude::*};
use crate::ir::Operand;
use crate::layout::{Matrix, SUB_BLOCK, SUPER_BLOCK};
use ::plan::QType;

/// A vector of f32.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Floats(pub In<f32>);

impl Carry for Floats {
    fn carry(&mut self, f: &mut dyn FnMut(ptx::Ty, &mut Operand)) {
        self.0.carry(f);
    }
}

impl Vector for Floats {
    fn row(self, row: V<u32>, cols: u32) -> Floats {
        Floats(self.0.offset(row * cols))
    }

    fn of_lane(self, part: V<u32>, sub: V<u32>) -> Floats {
        Floats(self.0.offset(part * SUPER_BLOCK + sub * SUB_BLOCK))
    }

    fn advance(self, cells: u32) -> Floats {
        Floats(self.0.offset(cells * SUPER_BLOCK))
    }

    fn accumulate<const N: usize>(
        m: [&Matrix; N],
        w: [Weights; N],
        cells: u32,
        x: &[Floats],
        acc: [Vec<V<f32>>; N],
    ) -> [Vec<V<f32>>; N] {
        add_sub_block(m, w, cells, x, acc)
    }
}

/// A loaded sub-block, whose weights are widened four at a time.
enum Block {
    /// The 32 weights.
    Plain(Vec<V<f32>>),
    /// Signed bytes in two halves, each half's factor, and what is added to every product.
    Quants { bytes: [[V<u32>; 4]; 2], factors: [V<f32>; 2], term: Option<V<f32>> },
}

/// Loads the lane's sub-block of the super-block that lies `cells` further on.
#[device]
fn load_block(qtype: QType, w: Weights, cells: u32) -> Block {
    if qtype.is_plain() {
        Block::Plain(plain::weights_of_block(qtype, w, cells))
    } else {
        let loaded = load_sub_block(qtype, w, cells);
        let terms = row_terms(qtype, loaded);
        let first = V::<f32>::from_bits(terms[0]);
        let (factors, term) = match qtype {
            QType::Q4K | QType::Q5K | QType::Q4_1 | QType::Q5_1 => {
                ([first; 2], Some(V::<f32>::from_bits(terms[1])))
            }
            // d and the scales of both halves.
            QType::Q6K => ([terms[1], terms[2]].map(|scale| first * scale.as_i32().to_f32()), None),
            _ => ([first; 2], None),
        };
        Block::Quants { bytes: quant_bytes(qtype, loaded), factors, term }
    }
}

/// Weights `4 quad …` of a sub-block. A product of a factor and a quant has at most 24 bits and is exact, so that the fma
/// rounds once, as GGML's subtraction or addition does.
#[device]
fn quad_of(block: &Block, quad: usize) -> [V<f32>; 4] {
    match block {
        Block::Plain(weights) => [0, 1, 2, 3].map(|e| weights[4 * quad + e]),
        Block::Quants { bytes, factors, term } => {
            let (half, factor) = (bytes[quad / 4], factors[quad / 4]);
            plain::signed_bytes(half[quad % 4]).map(|q| match term {
                Some(term) => fma(factor, q, *term),
                None => factor * q,
            })
        }
    }
}

/// `acc + ((s_0 + s_1) + (s_2 + s_3))`, where `s_e` sums the products of weights `e, 4 + e, 8 + e, …` of the sub-block by
/// fma, from +0.
#[device]
fn add_sub_block<const N: usize>(
    m: [&Matrix; N],
    w: [Weights; N],
    cells: u32,
    x: &[Floats],
    acc: [Vec<V<f32>>; N],
) -> [Vec<V<f32>>; N] {
    let blocks: [Block; N] = std::array::from_fn(|i| load_block(m[i].qtype, w[i], cells));
    let mut sums = vec![vec![[dev(0.0f32); 4]; x.len()]; N];
    for quad in unroll(0..SUB_BLOCK as usize / 4) {
        let weights: [[V<f32>; 4]; N] = std::array::from_fn(|i| quad_of(&blocks[i], quad));
        for c in unroll(0..x.len()) {
            let v = x[c].0.at(cells * SUPER_BLOCK + 4 * quad as u32).load_x4();
            for i in unroll(0..N) {
                for e in unroll(0..4usize) {
                    sums[i][c][e] = fma(weights[i][e], v[e], sums[i][c][e]);
                }
            }
        }
    }
    let total = |s: &[V<f32>; 4]| s[0] + s[1] + (s[2] + s[3]);
    std::array::from_fn(|i| acc[i].iter().zip(&sums[i]).map(|(acc, s)| *acc + total(s)).collect())
}
