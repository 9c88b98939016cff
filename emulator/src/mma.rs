//! Matrix multiply-accumulate: fragments gathered into plain matrices, multiplied, scattered (PTX ISA 9.7.13.4).
//!
//! With g = lane / 4 and t = lane % 4, and e elements a register (4 bytes or 2 halves):
//! A (16 × 8e): register r holds row g + 8·(r % 2), columns e·t … of column half r / 2;
//! B (8e × 8): register r holds rows e·t … of row half r, column g;
//! C and D (16 × 8): register r holds row g + 8·(r / 2), column 2·t + r % 2.
//!
//! Integer results are exact modulo 2^32 (or saturated). Floats are added up as the tensor cores of the module's target do
//! it ([`ptx::sem::tensor`]).

use ptx::sem::tensor::{DEPTH, Half};

use crate::code::{MmaElem, MmaOp};
use crate::lanes::LANES;
use crate::trap::Fault;
use crate::warp::Warp;

const ROWS: usize = 16;
const COLS: usize = 8;

/// Row and column of register `r` of C or D on a lane.
fn accumulator_place(lane: usize, r: usize) -> (usize, usize) {
    (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2)
}

fn byte(elem: MmaElem, word: u32, i: usize) -> i16 {
    let raw = (word >> (8 * i)) as u8;
    if elem == MmaElem::S8 { i16::from(raw as i8) } else { i16::from(raw) }
}

fn half(_: MmaElem, word: u32, i: usize) -> u16 {
    (word >> (16 * i)) as u16
}

impl Warp {
    /// A as rows and B as columns of `K` elements, `K / 8` of them in each register.
    fn operands<T: Copy + Default, const K: usize>(
        &self,
        op: &MmaOp,
        element: impl Fn(MmaElem, u32, usize) -> T,
    ) -> ([[T; K]; ROWS], [[T; K]; COLS]) {
        let each = K / 8;
        let mut a = [[T::default(); K]; ROWS];
        let mut b = [[T::default(); K]; COLS];
        for lane in 0..LANES {
            let (g, t) = (lane / 4, lane % 4);
            for (r, reg) in op.a.iter().enumerate() {
                let word = self.w[usize::from(*reg)][lane];
                for i in 0..each {
                    a[g + 8 * (r % 2)][K / 2 * (r / 2) + each * t + i] = element(op.a_elem, word, i);
                }
            }
            for (r, reg) in op.b.iter().enumerate() {
                let word = self.w[usize::from(*reg)][lane];
                for i in 0..each {
                    b[g][K / 2 * r + each * t + i] = element(op.b_elem, word, i);
                }
            }
        }
        (a, b)
    }

    /// Replaces the accumulator element by element.
    fn accumulate(&mut self, op: &MmaOp, f: impl Fn(usize, usize, u32) -> u32) {
        let mut out = [[0; LANES]; 4];
        for (r, values) in out.iter_mut().enumerate() {
            for (lane, value) in values.iter_mut().enumerate() {
                let (row, col) = accumulator_place(lane, r);
                *value = f(row, col, self.w[usize::from(op.c[r])][lane]);
            }
        }
        for (reg, values) in op.d.iter().zip(out) {
            self.w[usize::from(*reg)] = values;
        }
    }

    /// `mma.m16n8k32` of bytes.
    pub fn mma_int8(&mut self, op: &MmaOp, mask: u32) -> Result<(), Box<Fault>> {
        self.require_all(mask)?;
        let (a, b) = self.operands::<i16, 32>(op, byte);
        self.accumulate(op, |row, col, c| {
            let mut dot = 0i32;
            for k in 0..32 {
                dot += i32::from(a[row][k]) * i32::from(b[col][k]);
            }
            if op.saturate { (c as i32).saturating_add(dot) as u32 } else { c.wrapping_add(dot as u32) }
        });
        Ok(())
    }

    /// `mma.m16n8k16` of halves.
    pub fn mma_half(&mut self, op: &MmaOp, mask: u32) -> Result<(), Box<Fault>> {
        self.require_all(mask)?;
        let (a, b) = self.operands::<u16, DEPTH>(op, half);
        let kind = if op.a_elem == MmaElem::F16 { Half::F16 } else { Half::Bf16 };
        let mut c = [[0; COLS]; ROWS];
        for (r, reg) in op.c.iter().enumerate() {
            for lane in 0..LANES {
                let (row, col) = accumulator_place(lane, r);
                c[row][col] = self.w[usize::from(*reg)][lane];
            }
        }
        let d = op.adder.tile(kind, &a, &b, &c);
        self.accumulate(op, |row, col, _| d[row][col]);
        Ok(())
    }
}
