//! Products of one staged super-block by `mma.m16n8k32`, and their sums over super-blocks in the order of the one-row kernel.
//!
//! Warp `j` of a team multiplies sub-block `j` of all its outputs and rows: one `mma` is one sub-block of 16 outputs times 8
//! rows, exact in integers.

use super::stage::{Job, ROW_WORDS};
use super::tile::{TEAM, Tile};
use crate::dsl::prelude::*;
use crate::kernels::gemv::word_bytes;
use ::plan::QType;
use std::collections::VecDeque;
use std::ops::Range;

/// The outputs of a warp begin with this one of the CTA's.
#[device]
fn first_output(t: Tile) -> V<u32> {
    if t.across == 1 { dev(0u32) } else { warp_id() / TEAM % t.across * (16 * t.m) }
}

/// Adds the staged super-block to the warp's sums.
#[device]
pub(super) fn multiply(job: &Job, base: Shared<u32>, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let mut run = begin(job, base);
    let sums = advance(job, &mut run, (0..job.tile.n, acc));
    finish(job, run, sums)
}

/// The products of a warp's sub-block of a staged super-block, on their way.
pub(super) struct Run {
    /// What a lane multiplies by of its outputs, two words of each.
    halves: Vec<[V<u32>; 2]>,
    /// Their terms.
    rows: Vec<Vec<V<u32>>>,
    /// The lane's quants of the first fragment of rows, and what those multiply by.
    quants: Shared<u32>,
    col_terms: Shared<u32>,
    /// Fragments that are multiplied and not added up yet.
    started: VecDeque<Product>,
}

/// What a fragment of rows was multiplied to, `[fragment of outputs][dot][element]`, and the terms of the lane's two columns.
struct Product {
    /// Which fragment.
    u: u32,
    dots: Vec<Vec<[V<i32>; 4]>>,
    cols: [Vec<V<f32>>; 2],
}

/// Loads what is multiplied by every row.
#[device]
pub(super) fn begin(job: &Job, base: Shared<u32>) -> Run {
    let (qtype, t, at) = (job.m.qtype, job.tile, job.regions());
    let lane = lane_id();
    let sub = if t.warps() == TEAM { warp_id() } else { warp_id() % TEAM };
    let (g, k) = (lane / 4, lane % 4);
    let output = first_output(t) + g;
    let words = base.offset(output * ROW_WORDS + sub * 4 + k);
    let high = base.offset(at.high).offset(output * at.high_stride + sub * at.high_width);
    let quants = base.offset(at.acts).offset(k / 2 * at.acts_plane + g * ROW_WORDS + sub * 4 + k % 2 * 2);
    let row_terms = base.offset(at.row_terms).offset(sub * at.row_stride + output * at.row_width);
    let col_terms = base.offset(at.col_terms).offset(sub * at.col_stride + k * (2 * at.col_width));
    let halves: Vec<[V<u32>; 2]> = (0..2 * t.m)
        .map(|h| {
            let words = words.offset(h * 8 * ROW_WORDS);
            let second = match qtype {
                QType::Q8_0 => words.at(at.quants).load(),
                _ => dev(0u32),
            };
            let high = load_high(high.offset(h * 8 * at.high_stride), at.high_width);
            word_bytes(qtype, [words.at(0).load(), second], high, k)
        })
        .collect();
    let rows: Vec<Vec<V<u32>>> =
        (0..2 * t.m).map(|h| load_terms(row_terms.offset(h * 8 * at.row_width), at.row_width)).collect();
    Run { halves, rows, quants, col_terms, started: VecDeque::new() }
}

/// Multiplies these fragments of rows, and adds up those before each but the last ones, which are as many as [`ahead`] says.
#[device]
pub(super) fn advance(job: &Job, run: &mut Run, (fragments, acc): (Range<u32>, Vec<V<f32>>)) -> Vec<V<f32>> {
    let (qtype, t, at) = (job.m.qtype, job.tile, job.regions());
    let mut acc = acc;
    for u in each(fragments) {
        if t.n > 2 && (ahead(qtype, t) > 0 || u % 2 == 0) {
            // A barrier keeps ptxas from loading the columns of all fragments at once, for which there are no registers.
            sync_warp();
        }
        let b = run.quants.at(u * 8 * ROW_WORDS).load_x2();
        let dots = (0..t.m as usize)
            .map(|f| dots(qtype, [run.halves[2 * f], run.halves[2 * f + 1]], b))
            .collect::<Vec<_>>();
        let cols = load_columns(run.col_terms.offset(u * 8 * at.col_width), at.col_width);
        run.started.push_back(Product { u, dots, cols });
        if run.started.len() > ahead(qtype, t) {
            acc = add_first(job, run, acc);
        }
    }
    acc
}

/// Adds up what is left.
#[device]
pub(super) fn finish(job: &Job, run: Run, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let (mut run, mut acc) = (run, acc);
    for _ in each(0..run.started.len()) {
        acc = add_first(job, &mut run, acc);
    }
    acc
}

/// Adds the product up that was started first.
#[device]
fn add_first(job: &Job, run: &mut Run, acc: Vec<V<f32>>) -> Vec<V<f32>> {
    let mut acc = acc;
    if let Some(product) = run.started.pop_front() {
        for (f, dots) in each(product.dots.iter().enumerate()) {
            for r in unroll(0..4usize) {
                let place = 4 * (product.u * job.tile.m) as usize + 4 * f + r;
                let dots: Vec<V<i32>> = dots.iter().map(|d| d[r]).collect();
                let terms = (&run.rows[2 * f + r / 2][..], &product.cols[r % 2][..]);
                acc[place] = accumulate(job.m.qtype, &dots, terms, acc[place]);
            }
        }
    }
    acc
}

/// Fragments of rows whose products run ahead of sums, since a product takes as long as 30 other instructions: one, but
/// sub-blocks of Q6_K have two each, for which only tiles that leave a thread 128 registers and more have room.
const fn ahead(qtype: QType, t: Tile) -> usize {
    if t.n > 1 && (!matches!(qtype, QType::Q6K) || t.m == 4 && t.n < 8) { 1 } else { 0 }
}

#[device]
fn load_high(from: Shared<u32>, width: u32) -> [V<u32>; 2] {
    match width {
        0 => [dev(0), dev(0)],
        1 => [from.at(0).load(), dev(0)],
        _ => {
            let words = from.at(0).load_x2();
            words
        }
    }
}

#[device]
fn load_terms(from: Shared<u32>, width: u32) -> Vec<V<u32>> {
    match width {
        1 => vec![from.at(0).load()],
        2 => from.at(0).load_x2().to_vec(),
        _ => from.at(0).load_x4().to_vec(),
    }
}

/// The terms of the lane's two columns.
#[device]
fn load_columns(from: Shared<u32>, width: u32) -> [Vec<V<f32>>; 2] {
    let from = from.cast::<f32>();
    match width {
        1 => from.at(0).load_x2().map(|scale| vec![scale]),
        _ => {
            let words = from.at(0).load_x4();
            [words[..2].to_vec(), words[2..].to_vec()]
        }
    }
}

/// Dot products of a fragment; of Q6_K those of the first and of the last 16 weights, which have scales of their own.
#[device]
fn dots(qtype: QType, [top, bottom]: [[V<u32>; 2]; 2], b: [V<u32>; 2]) -> Vec<[V<i32>; 4]> {
    let zero = dev(0u32);
    let none = [dev(0i32); 4];
    match qtype {
        QType::Q6K => vec![
            mma_s8([top[0], bottom[0], zero, zero], b, none),
            mma_s8([zero, zero, top[1], bottom[1]], b, none),
        ],
        _ => vec![mma_s8([top[0], bottom[0], top[1], bottom[1]], b, none)],
    }
}

/// `acc` plus one sub-block: the roundings of the one-row kernel.
#[device]
fn accumulate(qtype: QType, dots: &[V<i32>], (row, col): (&[V<u32>], &[V<f32>]), acc: V<f32>) -> V<f32> {
    let first = V::<f32>::from_bits(row[0]);
    let value = match qtype {
        // Adding +0 keeps the share of the min from being −0, which it is not where a product of integers is 0.
        QType::Q4K | QType::Q5K => {
            let min = fma(V::<f32>::from_bits(row[1]), col[1], 0.0);
            fma(first, dots[0].to_f32(), min)
        }
        QType::Q4_1 | QType::Q5_1 => fma(first, dots[0].to_f32(), V::<f32>::from_bits(row[1]) * col[1]),
        QType::Q6K => {
            let scaled = dots[0] * row[1].as_i32() + dots[1] * row[2].as_i32();
            first * scaled.to_f32()
        }
        _ => first * dots[0].to_f32(),
    };
    fma(col[0], value, acc)
}
