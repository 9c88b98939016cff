//! The tiles that a search on a device tries for a product: all that fit and that leave threads enough registers.

use super::tile::{Fill, Tile, Wanted};
use super::{Gemm, GemmGateUp, GemmQkv};
use crate::kernels::operation::{Choices, Operation};
use crate::layout::Matrix;
use crate::tuned::Key;
use ::plan::QType;

/// A product whose tile is a choice.
pub trait Tiled: Operation + Clone + Send + Sync + 'static {
    /// What the tile is chosen for.
    fn key(&self) -> Key;

    /// The same with this tile, or `None` where it does not fit.
    fn with_tile(self, tile: Tile) -> Option<Self>;
}

impl Tiled for Gemm {
    fn key(&self) -> Key {
        Key::new("gemm", &[self.matrix], self.split.k_split, self.rows)
    }

    fn with_tile(self, tile: Tile) -> Option<Gemm> {
        Gemm::with_tile(self, tile)
    }
}

impl Tiled for GemmQkv {
    fn key(&self) -> Key {
        Key::new("gemm_qkv", &self.matrices, self.split.k_split, self.rows)
    }

    fn with_tile(self, tile: Tile) -> Option<GemmQkv> {
        GemmQkv::with_tile(self, tile)
    }
}

impl Tiled for GemmGateUp {
    fn key(&self) -> Key {
        Key::new("gemm_gate_up", &[self.gate, self.up], 1, self.rows)
    }

    fn with_tile(self, tile: Tile) -> Option<GemmGateUp> {
        GemmGateUp::with_tile(self, tile)
    }
}

/// All layouts of a product of these matrices.
pub(super) fn of(product: &impl Tiled, now: Option<Tile>, wanted: Wanted) -> Choices {
    let with =
        |tile| Some((tile, Box::new(product.clone().with_tile(tile)?) as Box<dyn Operation + Send + Sync>));
    let mut tiles = candidates(wanted);
    tiles.extend(now.filter(|tile| !tiles.contains(tile)));
    Choices { key: product.key(), now, tiles: tiles.into_iter().filter_map(with).collect() }
}

/// Registers that ptxas may do without: it computes some values again and moves others to memory.
const SLACK: u32 = 16;

/// Registers of a thread, by what it keeps: sums, what is on its way, what it multiplies, addresses. A guess: with fewer it
/// spills, with a few more it may not.
fn registers(t: Tile, wanted: Wanted) -> u32 {
    let of_type = |m: &Matrix| match m.qtype {
        QType::Q8_0 => (9, 1),
        QType::Q6K => (8, 3),
        QType::Q5K => (9, 2),
        QType::Q4K => (8, 2),
        _ => (6, 2),
    };
    let words = wanted.matrices.iter().map(|m| of_type(m).0).max().unwrap_or(0);
    let terms = wanted.matrices.iter().map(|m| of_type(m).1).max().unwrap_or(0);
    let on_the_way = t.depth * t.weights_of_thread() * words + t.acts_depth() * t.acts_of_thread() * 10;
    let totals = if wanted.k_split > t.parts { t.sums_of_thread() } else { 0 };
    4 * t.fragments() + on_the_way + totals + 2 * t.m * (2 + terms) + 14
}

/// Stages in shared memory, and when they are filled.
const FILLS: [(u32, Fill); 3] = [(1, Fill::Before), (2, Fill::Before), (2, Fill::During)];

fn candidates(wanted: Wanted) -> Vec<Tile> {
    let most = wanted.fragments();
    let mut tiles = Vec::new();
    for n in [most, most / 2].into_iter().filter(|n| *n > 0 && (*n == most || most > 2)) {
        for (m, across, parts) in cross([1, 2, 4], [1, 2], [1, 2, 4]) {
            for (slots, depth, (buffers, fill)) in cross([1, 2], [1, 2, 4], FILLS) {
                let with = |resident| Tile { m, n, across, parts, slots, depth, buffers, fill, resident };
                let has_registers = |t: &Tile| {
                    let threads = t.threads() * t.resident;
                    threads <= 1024 && registers(*t, wanted) <= (65_536 / threads).min(248) + SLACK
                };
                // With fewer on a multiprocessor than registers allow, threads only get more of them: one fewer is tried too.
                let fitting: Vec<Tile> = (1..=4).map(with).filter(has_registers).collect();
                tiles.extend(fitting.iter().rev().take(2).filter(|t| is_promising(**t, wanted)));
            }
        }
    }
    tiles
}

/// Whether a tile is worth timing: not where others of its kind were far behind on an H200.
fn is_promising(t: Tile, wanted: Wanted) -> bool {
    // Fewer warps wait for each other with nothing else to do.
    let is_full = t.threads() * t.resident >= 256;
    let is_decode = wanted.rows <= 32;
    let shape = match is_decode {
        // Few rows: all is about weights on their way.
        true => t.across == 1 && t.depth > 1 && t.buffers == 2 && (t.fill == Fill::Before || t.n > 2),
        // Many: there are enough CTAs without parts of K, and 16 outputs are too few for what is staged of rows.
        false => {
            let is_double = t.buffers == 2;
            t.parts == 1 && t.slots == 1 && t.m > 1 && t.depth < 4 && is_double == (t.fill == Fill::During)
        }
    };
    let is_wide = t.n < 4 || (t.slots < 3 - u32::from(t.m > 1) && t.depth < 4 && t.parts < 4);
    is_full && shape && is_wide
}

fn cross<T: Copy, const A: usize, const B: usize, const C: usize>(
    a: [u32; A],
    b: [u32; B],
    c: [T; C],
) -> impl Iterator<Item = (u32, u32, T)> {
    a.into_iter().flat_map(move |a| b.into_iter().flat_map(move |b| c.into_iter().map(move |c| (a, b, c))))
}
