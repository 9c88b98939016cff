//! Embedding lookup: one row of the packed matrix, as GGML's formula gives it.

use super::operation::{Cost, Expect, Operation, Trial, name_by_type};
use super::reference;
use super::rows::{Control, for_row};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::layout::{Matrix, SUB_BLOCKS, TILE_ROWS};
use crate::rng::Rng;
use ::plan::QType;

/// Threads of a CTA: one element each.
const THREADS: u32 = 128;

/// The embedding matrix; its rows are a multiple of 128 elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// Vocabulary by dim.
    pub matrix: Matrix,
    /// What every element is multiplied by, after all else.
    pub scale: f32,
    /// Rows of the step.
    pub rows: u32,
}

/// x[e] = W[token, e] · scale
/// shapes   W (vocab, dim) packed Q4_K · control as in the plan · x (row, dim) f32
/// layout   one thread an element; bytes of a lane's 16 hold weight i low and i + 16 high
/// launch   grid (dim / 128, rows), block 128, shared 0
/// source   GGML Q4_K: (d·sc)·q − dmin·m, each operation rounded
#[kernel(grid = (s.matrix.cols / THREADS, s.rows), block = THREADS)]
pub fn embed_q4k(s: &Embed, w: Fixed<u32>, control: In<u32>, x: Out<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let m = &s.matrix;
        let token = min(here.control(control).at(0).load(), m.rows - 1);
        let e = block_idx_x() * THREADS + thread_idx_x();
        let (row, sub, i) = (token % TILE_ROWS, e / 32 % SUB_BLOCKS, e % 32);
        let cell = token / TILE_ROWS * m.n_super_blocks() + e / 256;
        let quant = w.cast::<u8>().offset(cell * 512).at((row * SUB_BLOCKS + sub) * 16 + i % 16).load()
            >> (i / 16 * 4)
            & 15;
        let header = w.offset((m.planes().scales / 4) as u32).at(cell * 16 + row * 4).load_x4();
        let pairs = header[3] >> (sub * 4);
        let scale = header[1] >> (sub * 4) & 15 | (pairs & 3) << 4;
        let min = header[2] >> (sub * 4) & 15 | (pairs & 12) << 2;
        let [d, dmin] = unpack_f16(header[0]);
        let value = d.to_f32() * scale.to_f32() * quant.to_f32() - dmin.to_f32() * min.to_f32();
        here.of(x, s.matrix.cols).at(e).store(scaled(s, value));
    });
}

/// x[e] = W[token, e] · scale
/// shapes   W (vocab, dim) packed Q6_K · control as in the plan · x (row, dim) f32
/// layout   one thread an element; high bits as the layout module says
/// launch   grid (dim / 128, rows), block 128, shared 0
/// source   GGML Q6_K: (d·sc)·(q − 32), each operation rounded
#[kernel(grid = (s.matrix.cols / THREADS, s.rows), block = THREADS)]
pub fn embed_q6k(s: &Embed, w: Fixed<u32>, control: In<u32>, x: Out<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let m = &s.matrix;
        let planes = m.planes();
        let token = min(here.control(control).at(0).load(), m.rows - 1);
        let e = block_idx_x() * THREADS + thread_idx_x();
        let (row, sub, i) = (token % TILE_ROWS, e / 32 % SUB_BLOCKS, e % 32);
        let lane = row * SUB_BLOCKS + sub;
        let cell = token / TILE_ROWS * m.n_super_blocks() + e / 256;
        let byte = |plane: u64| w.offset((plane / 4) as u32).cast::<u8>();
        let low = byte(planes.quants).offset(cell * 512).at(lane * 16 + i % 16).load() >> (i / 16 * 4) & 15;
        let high = byte(planes.high).offset(cell * 256).at(lane * 8 + i / 16 * 4 + i % 4).load()
            >> (i % 16 / 4 * 2)
            & 3;
        let scale = byte(planes.scales).cast::<i8>().offset(cell * 64).at(lane * 2 + i / 16).load();
        let d = byte(planes.d).cast::<F16>().offset(cell * 4).at(row).load();
        let quant = (low | high << 4).as_i32() - 32;
        here.of(x, s.matrix.cols).at(e).store(scaled(s, d.to_f32() * scale.to_f32() * quant.to_f32()));
    });
}

/// x[e] = W[token, e] · scale
/// shapes   W (vocab, dim) packed Q5_K · control as in the plan · x (row, dim) f32
/// layout   as embed_q4k, with fifth bits as the layout module says
/// launch   grid (dim / 128, rows), block 128, shared 0
/// source   GGML Q5_K: (d·sc)·q − dmin·m, each operation rounded
#[kernel(grid = (s.matrix.cols / THREADS, s.rows), block = THREADS)]
pub fn embed_q5k(s: &Embed, w: Fixed<u32>, control: In<u32>, x: Out<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let m = &s.matrix;
        let token = min(here.control(control).at(0).load(), m.rows - 1);
        let e = block_idx_x() * THREADS + thread_idx_x();
        let sub = e / 32 % SUB_BLOCKS;
        let cell = token / TILE_ROWS * m.n_super_blocks() + e / 256;
        let lane = token % TILE_ROWS * SUB_BLOCKS + sub;
        let quant = nibble(w, cell, lane, e % 32) | fifth_bit(m, w, cell, lane, e % 32);
        let header = w.offset((m.planes().scales / 4) as u32).at(cell * 16 + token % TILE_ROWS * 4).load_x4();
        let pairs = header[3] >> (sub * 4);
        let scale = header[1] >> (sub * 4) & 15 | (pairs & 3) << 4;
        let min = header[2] >> (sub * 4) & 15 | (pairs & 12) << 2;
        let [d, dmin] = unpack_f16(header[0]);
        let value = d.to_f32() * scale.to_f32() * quant.to_f32() - dmin.to_f32() * min.to_f32();
        here.of(x, s.matrix.cols).at(e).store(scaled(s, value));
    });
}

/// The element times the model's scale, where it has one.
#[device]
fn scaled(s: &Embed, value: V<f32>) -> V<f32> {
    if s.scale == 1.0 { value } else { value * s.scale }
}

/// The low 4 bits of weight `i` of a lane's sub-block.
#[device]
fn nibble(w: Fixed<u32>, cell: V<u32>, lane: V<u32>, i: V<u32>) -> V<u32> {
    w.cast::<u8>().offset(cell * 512).at(lane * 16 + i % 16).load() >> (i / 16 * 4) & 15
}

/// The fifth bit of weight `i` of a lane's sub-block, as 0 or 16.
#[device]
fn fifth_bit(m: &Matrix, w: Fixed<u32>, cell: V<u32>, lane: V<u32>, i: V<u32>) -> V<u32> {
    let bits = w.offset((m.planes().high / 4) as u32).cast::<u8>().offset(cell * 128);
    // Bit 8 b + g of the word belongs to weight 4 g + b: byte i mod 4, bit i / 4.
    (bits.at(lane * 4 + i % 4).load() >> (i / 4) & 1) << 4
}

/// x[e] = W[token, e] · scale
/// shapes   W (vocab, dim) packed in blocks of 32 · control as in the plan · x (row, dim) f32
/// layout   one thread an element; nibbles as embed_q4k, bytes in two halves, d or (d, m) a lane
/// launch   grid (dim / 128, rows), block 128, shared 0
/// source   GGML Q8_0 d·q, Q4_0 d·(q − 8), Q5_0 d·(q − 16), Q4_1 and Q5_1 d·q + m, each operation rounded
#[kernel(grid = (s.matrix.cols / THREADS, s.rows), block = THREADS)]
pub fn embed_block32(s: &Embed, w: Fixed<u32>, control: In<u32>, x: Out<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let m = &s.matrix;
        let planes = m.planes();
        let token = min(here.control(control).at(0).load(), m.rows - 1);
        let e = block_idx_x() * THREADS + thread_idx_x();
        let cell = token / TILE_ROWS * m.n_super_blocks() + e / 256;
        let lane = token % TILE_ROWS * SUB_BLOCKS + e / 32 % SUB_BLOCKS;
        let i = e % 32;
        let quant = match m.qtype {
            QType::Q8_0 => w.cast::<i8>().offset(cell * 1024).at(i / 16 * 512 + lane * 16 + i % 16).load(),
            QType::Q4_0 => nibble(w, cell, lane, i).as_i32() - 8,
            QType::Q5_0 => (nibble(w, cell, lane, i) | fifth_bit(m, w, cell, lane, i)).as_i32() - 16,
            QType::Q5_1 => (nibble(w, cell, lane, i) | fifth_bit(m, w, cell, lane, i)).as_i32(),
            _ => nibble(w, cell, lane, i).as_i32(),
        };
        let value = match m.qtype {
            QType::Q4_1 | QType::Q5_1 => {
                let [d, min] = unpack_f16(w.offset((planes.scales / 4) as u32).at(cell * 32 + lane).load());
                d.to_f32() * quant.to_f32() + min.to_f32()
            }
            _ => {
                let d = w.offset((planes.d / 4) as u32).cast::<F16>().offset(cell * 32).at(lane).load();
                d.to_f32() * quant.to_f32()
            }
        };
        here.of(x, s.matrix.cols).at(e).store(scaled(s, value));
    });
}

/// x[e] = W[token, e] · scale
/// shapes   W (vocab, dim) f16 or bf16 · control as in the plan · x (row, dim) f32
/// layout   rows as in the file
/// launch   grid (dim / 128, rows), block 128, shared 0
/// source   a copy, widened exactly
#[kernel(grid = (s.matrix.cols / THREADS, s.rows), block = THREADS)]
pub fn embed_half(s: &Embed, w: Fixed<u16>, control: In<u32>, x: Out<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let token = min(here.control(control).at(0).load(), s.matrix.rows - 1);
        let e = block_idx_x() * THREADS + thread_idx_x();
        let bits = w.offset(token * s.matrix.cols).at(e).load();
        let value = match s.matrix.qtype {
            QType::F16 => V::<F16>::from_bits(bits).to_f32(),
            _ => V::<f32>::from_bits(bits << 16),
        };
        here.of(x, s.matrix.cols).at(e).store(scaled(s, value));
    });
}

/// x[e] = W[token, e] · scale
/// shapes   W (vocab, dim) f32 · control as in the plan · x (row, dim) f32
/// layout   rows as in the file
/// launch   grid (dim / 128, rows), block 128, shared 0
/// source   a copy
#[kernel(grid = (s.matrix.cols / THREADS, s.rows), block = THREADS)]
pub fn embed_f32(s: &Embed, w: Fixed<f32>, control: In<u32>, x: Out<f32>) {
    for_row(s.rows, block_idx_y(), control, |here| {
        let token = min(here.control(control).at(0).load(), s.matrix.rows - 1);
        let e = block_idx_x() * THREADS + thread_idx_x();
        // Two steps of 32-bit indices: their sum may exceed 32 bits of bytes, each part does not.
        here.of(x, s.matrix.cols).at(e).store(scaled(s, w.offset(token * s.matrix.cols).at(e).load()));
    });
}

impl Operation for Embed {
    fn name(&self) -> &'static str {
        name_by_type!("embed_", self.matrix.qtype)
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match self.matrix.qtype {
            QType::Q4K => embed_q4k(self),
            QType::Q5K => embed_q5k(self),
            QType::Q6K => embed_q6k(self),
            QType::F16 | QType::Bf16 => embed_half(self),
            QType::F32 => embed_f32(self),
            _ => embed_block32(self),
        }
    }

    fn cost(&self) -> Cost {
        let m = &self.matrix;
        let rows = u64::from(self.rows);
        let bytes = rows * (m.qtype.row_bytes(m.cols) + u64::from(m.cols) * 4 + 4);
        Cost { bytes, macs: rows * u64::from(m.cols) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let m = &self.matrix;
        let raw = m.random(&mut rng);
        let row_bytes = m.qtype.row_bytes(m.cols) as usize;
        let one = Matrix { rows: 1, ..*m };
        let mut control = Control::random(&mut rng, self.rows);
        let mut x = Vec::new();
        for row in 0..control.active {
            // A token beyond the vocabulary reads the last row: memory stays safe whatever the host writes.
            let asked = rng.below(m.rows) + if seed % 4 == 3 { m.rows } else { 0 };
            control.rows[row as usize][0] = asked;
            let token = asked.min(m.rows - 1);
            let row = one.dequantize(&raw[token as usize * row_bytes..][..row_bytes]);
            x.extend(row.into_iter().map(|v| v * self.scale));
        }
        let bytes = u64::from(self.rows * m.cols) * 4;
        let trial = Trial::new(seed).input(m.pack(&raw)).input(control.bytes());
        trial.output(bytes, Expect::First(reference::bytes_f32(&x)))
    }
}
