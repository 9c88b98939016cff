//! From the file's blocks to the tiles that kernels stream: once, at load, on the device.

use super::operation::{Cost, Expect, Operation, Trial, name_by_type};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::layout::{Matrix, SUB_BLOCK, SUB_BLOCKS, TILE_ROWS};
use crate::rng::Rng;
use ::plan::QType;

/// Threads of a CTA: one sub-block each.
const THREADS: u32 = 256;

/// A matrix to re-pack; of a type with blocks, since plain ones stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Repack {
    /// Its shape and type.
    pub matrix: Matrix,
}

impl Repack {
    fn ctas(&self) -> u32 {
        (self.matrix.n_cells() * 32).div_ceil(u64::from(THREADS)) as u32
    }
}

/// Row, super-block and cell of a thread; rows beyond the last repeat it and are cleared by `valid`.
#[derive(Clone, Copy)]
struct Home {
    cell: V<u32>,
    lane: V<u32>,
    sub: V<u32>,
    block: V<u32>,
    valid: V<bool>,
}

#[device]
fn home_of(m: &Matrix, unit: V<u32>) -> Home {
    let (cell, lane) = (unit / 32, unit % 32);
    let row = cell / m.n_super_blocks() * TILE_ROWS + lane / SUB_BLOCKS;
    let block = min(row, m.rows - 1) * m.n_super_blocks() + cell % m.n_super_blocks();
    Home { cell, lane, sub: lane % SUB_BLOCKS, block, valid: row < m.rows }
}

#[device]
fn keep_if(valid: V<bool>, word: V<u32>) -> V<u32> {
    select(valid, word, 0u32)
}

/// packed = raw, re-ordered
/// shapes   raw (rows, cols) Q4_K blocks of 144 bytes · packed: quants 512 bytes a tile, headers 64 bytes a tile
/// layout   thread = one sub-block of 32 weights; byte i of its 16 takes weight i low, i + 16 high
/// launch   grid ceil(sub-blocks / 256), block 256, shared 0
/// source   GGML Q4_K; codegen/src/layout/q4k.rs
#[kernel(grid = s.ctas(), block = THREADS)]
pub fn repack_q4k(s: &Repack, raw: In<u32>, packed: Out<u32>) {
    let m = &s.matrix;
    let unit = cta_id() * THREADS + thread_idx_x();
    if unit < m.n_cells() as u32 * 32 {
        let h = home_of(m, unit);
        let block = raw.offset(h.block * 36);
        // Chunk j / 2 of 32 bytes: its low nibbles are sub-block j when j is even, the high ones when odd.
        let chunk = block.offset(h.sub / 2 * 8);
        let (first, second) = (chunk.at(4).load_x4(), chunk.at(8).load_x4());
        let shift = h.sub % 2 * 4;
        let mut words = [0u32; 4].map(|w| dev(w));
        for g in unroll(0..4) {
            let low = first[g as usize] >> shift & 0x0f0f_0f0f;
            let high = second[g as usize] >> shift & 0x0f0f_0f0f;
            words[g as usize] = keep_if(h.valid, low | high << 4);
        }
        packed.offset(h.cell * 128).at(h.lane * 4).store_x4(words);
        if h.sub == 0 {
            store_header(m, h, block, packed);
        }
    }
}

/// The 16 bytes of a row's scales and mins from the first 16 of a Q4_K or Q5_K block.
#[device]
fn store_header(m: &Matrix, h: Home, block: In<u32>, packed: Out<u32>) {
    let bytes = block.cast::<u8>();
    let mut header = [0u32; 4].map(|w| dev(w));
    header[0] = keep_if(h.valid, block.at(0).load());
    for j in unroll(0..8) {
        let (sc, min) = scale_min(bytes, j);
        header[1] = header[1] | keep_if(h.valid, (sc & 15) << (4 * j));
        header[2] = header[2] | keep_if(h.valid, (min & 15) << (4 * j));
        header[3] = header[3] | keep_if(h.valid, (sc >> 4 | min >> 4 << 2) << (4 * j));
    }
    let headers = packed.offset((m.planes().scales / 4) as u32);
    headers.offset(h.cell * 16).at(h.lane / SUB_BLOCKS * 4).store_x4(header);
}

/// packed = raw, re-ordered
/// shapes   raw (rows, cols) Q5_K blocks of 176 bytes · packed: quants 512, fifth bits 128, headers 64 bytes a tile
/// layout   thread = one sub-block of 32 weights; bit j of byte i in the file becomes bit i / 4 of byte i mod 4
/// launch   grid ceil(sub-blocks / 256), block 256, shared 0
/// source   GGML Q5_K; codegen/src/layout/q5k.rs
#[kernel(grid = s.ctas(), block = THREADS)]
pub fn repack_q5k(s: &Repack, raw: In<u32>, packed: Out<u32>) {
    let m = &s.matrix;
    let unit = cta_id() * THREADS + thread_idx_x();
    if unit < m.n_cells() as u32 * 32 {
        let h = home_of(m, unit);
        let block = raw.offset(h.block * 44);
        let chunk = block.offset(h.sub / 2 * 8);
        let (first, second) = (chunk.at(12).load_x4(), chunk.at(16).load_x4());
        let shift = h.sub % 2 * 4;
        let mut words = [0u32; 4].map(|w| dev(w));
        for g in unroll(0..4) {
            let low = first[g as usize] >> shift & 0x0f0f_0f0f;
            let high = second[g as usize] >> shift & 0x0f0f_0f0f;
            words[g as usize] = keep_if(h.valid, low | high << 4);
        }
        packed.offset(h.cell * 128).at(h.lane * 4).store_x4(words);
        let mut bits = dev(0u32);
        for g in unroll(0..8) {
            bits = bits | (block.at(4 + g).load() >> h.sub & 0x0101_0101) << g;
        }
        let plane = packed.offset((m.planes().high / 4) as u32);
        plane.offset(h.cell * 32).at(h.lane).store(keep_if(h.valid, bits));
        if h.sub == 0 {
            store_header(m, h, block, packed);
        }
    }
}

/// 6-bit scale and min of sub-block `j` of a Q4_K block.
#[device]
fn scale_min(bytes: In<u8>, j: u32) -> (V<u32>, V<u32>) {
    let at = |i: u32| bytes.at(4 + i).load();
    if j < 4 {
        (at(j) & 63, at(j + 4) & 63)
    } else {
        (at(j + 4) & 15 | at(j - 4) >> 6 << 4, at(j + 4) >> 4 | at(j) >> 6 << 4)
    }
}

/// packed = raw, re-ordered
/// shapes   raw (rows, cols) Q6_K blocks of 210 bytes · packed: quants 512, high bits 256, scales 64, d 8 bytes a tile
/// layout   thread = one sub-block of 32 weights; blocks are only 2-aligned, so it reads 16 bits at a time
/// launch   grid ceil(sub-blocks / 256), block 256, shared 0
/// source   GGML Q6_K; codegen/src/layout/q6k.rs
#[kernel(grid = s.ctas(), block = THREADS)]
pub fn repack_q6k(s: &Repack, raw: In<u16>, packed: Out<u32>) {
    let m = &s.matrix;
    let planes = m.planes();
    let unit = cta_id() * THREADS + thread_idx_x();
    if unit < m.n_cells() as u32 * 32 {
        let h = home_of(m, unit);
        let block = raw.offset(h.block * 105);
        let (half, k) = (h.sub / 4, h.sub % 4);
        let low = block.offset(half * 32 + k % 2 * 16);
        let high = block.offset(half * 16 + 64);
        let mut words = [0u32; 4].map(|w| dev(w));
        let mut bits = [0u32; 2].map(|w| dev(w));
        for g in unroll(0..4) {
            let (a, b) = (word_of(low, 2 * g), word_of(low, 2 * g + 8));
            let nibbles = |w: V<u32>| w >> (k / 2 * 4) & 0x0f0f_0f0f;
            words[g as usize] = keep_if(h.valid, nibbles(a) | nibbles(b) << 4);
            for part in unroll(0..2) {
                let pairs = word_of(high, 2 * g + 8 * part) >> (k * 2) & 0x0303_0303;
                bits[part as usize] = bits[part as usize] | keep_if(h.valid, pairs << (2 * g));
            }
        }
        packed.offset(h.cell * 128).at(h.lane * 4).store_x4(words);
        packed.offset((planes.high / 4) as u32).offset(h.cell * 64).at(h.lane * 2).store_x2(bits);
        let scales = keep_if(h.valid, block.offset(h.sub).at(96).load());
        packed.offset((planes.scales / 4) as u32).cast::<u16>().offset(h.cell * 32).at(h.lane).store(scales);
        if h.sub == 0 {
            let d = keep_if(h.valid, block.at(104).load());
            packed
                .offset((planes.d / 4) as u32)
                .cast::<u16>()
                .offset(h.cell * 4)
                .at(h.lane / SUB_BLOCKS)
                .store(d);
        }
    }
}

/// Row, cell and block of a thread in a type with 32 weights a block: its block is its sub-block. Rows and columns that
/// do not exist repeat the last and are cleared by `valid`.
#[device]
fn home_of_block32(m: &Matrix, unit: V<u32>) -> Home {
    let (cell, lane) = (unit / 32, unit % 32);
    let n_blocks = m.cols / SUB_BLOCK;
    let row = cell / m.n_super_blocks() * TILE_ROWS + lane / SUB_BLOCKS;
    let col = cell % m.n_super_blocks() * SUB_BLOCKS + lane % SUB_BLOCKS;
    let block = min(row, m.rows - 1) * n_blocks + min(col, n_blocks - 1);
    Home { cell, lane, sub: lane % SUB_BLOCKS, block, valid: row < m.rows && col < n_blocks }
}

/// The fifth bits of 32 weights, from bit i for weight i to bit 8 b + g for weight 4 g + b.
#[device]
fn spread_bits(bits: V<u32>) -> V<u32> {
    let mut word = dev(0u32);
    for g in unroll(0..8) {
        // 7 b + b: the product puts a copy of the four bits at 0, 7, 14 and 21; the mask takes bit b of copy b.
        word = word | ((bits >> (4 * g) & 15) * 0x0020_4081 & 0x0101_0101) << g;
    }
    word
}

/// packed = raw, re-ordered
/// shapes   raw (rows, cols) blocks of 32 weights: d, m in some types, fifth bits in some, quants · packed: a plane of each
/// layout   thread = one block; blocks may be only 2-aligned, so it reads 16 bits at a time; quants keep their order
/// launch   grid ceil(blocks / 256), block 256, shared 0
/// source   GGML Q8_0, Q4_0, Q4_1, Q5_0, Q5_1; codegen/src/layout
#[kernel(grid = s.ctas(), block = THREADS)]
pub fn repack_block32(s: &Repack, raw: In<u16>, packed: Out<u32>) {
    let m = &s.matrix;
    let (planes, of) = (m.planes(), m.cell_bytes());
    let unit = cta_id() * THREADS + thread_idx_x();
    if unit < m.n_cells() as u32 * 32 {
        let h = home_of_block32(m, unit);
        let block = raw.offset(h.block * (m.qtype.block_bytes() / 2));
        // Halves before the fifth bits and before the quants.
        let before_bits = if of.scales > 0 { 2 } else { 1 };
        let before_quants = if of.high > 0 { before_bits + 2 } else { before_bits };
        for part in unroll(0..(of.quants / 512) as u32) {
            let words = std::array::from_fn(|g| {
                keep_if(h.valid, word_of(block, before_quants + 8 * part + 2 * g as u32))
            });
            packed.offset(h.cell * (of.quants / 4) as u32).at(h.lane * 4 + 128 * part).store_x4(words);
        }
        if of.high > 0 {
            let bits = keep_if(h.valid, spread_bits(word_of(block, before_bits)));
            packed.offset((planes.high / 4) as u32).offset(h.cell * 32).at(h.lane).store(bits);
        }
        if of.scales > 0 {
            let pair = keep_if(h.valid, word_of(block, 0));
            packed.offset((planes.scales / 4) as u32).offset(h.cell * 32).at(h.lane).store(pair);
        } else {
            let d = keep_if(h.valid, block.at(0).load());
            packed.offset((planes.d / 4) as u32).cast::<u16>().offset(h.cell * 32).at(h.lane).store(d);
        }
    }
}

#[device]
fn word_of(halves: In<u16>, i: u32) -> V<u32> {
    halves.at(i).load() | halves.at(i + 1).load() << 16
}

impl Operation for Repack {
    fn name(&self) -> &'static str {
        name_by_type!("repack_", self.matrix.qtype)
    }

    fn constants(&self) -> String {
        format!("{:?}", self.matrix)
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match self.matrix.qtype {
            QType::Q4K => repack_q4k(self),
            QType::Q5K => repack_q5k(self),
            QType::Q6K => repack_q6k(self),
            _ => repack_block32(self),
        }
    }

    fn cost(&self) -> Cost {
        Cost { bytes: self.matrix.raw_bytes() + self.matrix.planes().bytes, macs: 0 }
    }

    fn trial(&self, seed: u64) -> Trial {
        let raw = self.matrix.random(&mut Rng::new(seed));
        let packed = self.matrix.pack(&raw);
        Trial::new(seed).output_after(raw, packed)
    }
}

impl Trial {
    fn output_after(self, raw: Vec<u8>, packed: Vec<u8>) -> Trial {
        let bytes = packed.len() as u64;
        self.input(raw).output(bytes, Expect::Exact(packed))
    }
}
