//! Tiles of keys and values on their way from the cache to shared memory.
//!
//! A tile of 32 positions goes through one small buffer in slabs: keys by elements (32 positions of some elements), since a
//! score adds up over elements; values by positions (some positions, all elements), since an output adds up over
//! positions. The next slab is fetched into registers while the present one is worked on.

use super::{KEY_LANES, THREADS, TILE};
use crate::dsl::prelude::*;
use crate::kernels::kv_rows::{KvRows, PIECE};

/// The most elements of a key in a slab.
const MOST_ELEMENTS: u32 = 112;
/// Elements of a key in a slab, where the head is a multiple of it.
const ELEMENTS: u32 = 64;

/// How the tiles of a model are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tiles {
    head_dim: u32,
    /// Elements of a key in a slab.
    key_elements: u32,
    /// Positions in a slab of values.
    value_keys: u32,
}

/// A part of a tile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slab {
    of_keys: bool,
    /// First position, in the tile.
    pub(super) first_key: u32,
    /// Positions.
    pub(super) n_keys: u32,
    /// First element of each.
    pub(super) first_element: u32,
    /// Elements of each.
    pub(super) n_elements: u32,
}

impl Slab {
    /// Elements from a position to the next in shared memory: an odd number of quads.
    pub(super) const fn pitch(&self) -> u32 {
        self.n_elements + 4
    }

    const fn elements(&self) -> u32 {
        self.n_keys * self.pitch()
    }

    /// Pieces of a position.
    const fn pieces(&self) -> u32 {
        self.n_elements / PIECE
    }

    /// Whether there is a piece for every thread in turn `turn`.
    const fn fills(&self, turn: u32) -> bool {
        (turn + 1) * THREADS <= self.all_pieces()
    }

    const fn all_pieces(&self) -> u32 {
        self.n_keys * self.pieces()
    }
}

impl Tiles {
    pub(super) fn new(head_dim: u32) -> Tiles {
        let divides = |n: &u32| head_dim.is_multiple_of(*n);
        let widest = || (1..=MOST_ELEMENTS / 16).map(|n| 16 * n).filter(divides).max().unwrap_or(16);
        let key_elements = if divides(&ELEMENTS) { ELEMENTS } else { widest() };
        let room = TILE * (key_elements + 4);
        let fits = |n: &u32| n * (head_dim + 4) <= room;
        let value_keys = [TILE, TILE / 2].into_iter().find(fits).unwrap_or(KEY_LANES);
        Tiles { head_dim, key_elements, value_keys }
    }

    /// Slabs of keys in a tile.
    pub(super) const fn n_keys(&self) -> u32 {
        self.head_dim / self.key_elements
    }

    /// Slabs of values in a tile.
    pub(super) const fn n_values(&self) -> u32 {
        TILE / self.value_keys
    }

    /// A slab of keys.
    pub(super) const fn keys(&self, slab: u32) -> Slab {
        let first_element = slab * self.key_elements;
        Slab { of_keys: true, first_key: 0, n_keys: TILE, first_element, n_elements: self.key_elements }
    }

    /// A slab of values.
    pub(super) const fn values(&self, slab: u32) -> Slab {
        let first_key = slab * self.value_keys;
        Slab {
            of_keys: false,
            first_key,
            n_keys: self.value_keys,
            first_element: 0,
            n_elements: self.head_dim,
        }
    }

    /// f32 of the buffer that every slab fits into.
    pub(super) fn elements(&self) -> u32 {
        self.keys(0).elements().max(self.values(0).elements())
    }
}

/// The caches of a sequence.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) k: In<u8>,
    pub(super) v: In<u8>,
    pub(super) rows: KvRows,
    /// First element of the key head.
    pub(super) element: V<u32>,
    /// The last position that is read: in place of those beyond it.
    pub(super) last: V<u32>,
}

/// The pieces of a slab of the tile at `start` that this thread moves.
#[device]
pub(super) fn fetch(source: Source, slab: Slab, start: V<u32>) -> Vec<Vec<V<u32>>> {
    let cache = if slab.of_keys { source.k } else { source.v };
    let mut held = Vec::new();
    for turn in unroll(0..slab.all_pieces().div_ceil(THREADS)) {
        // The last turn may have fewer pieces than threads; the others need no clamp.
        let piece = thread_idx_x() + turn * THREADS;
        let piece = if slab.fills(turn) { piece } else { min(piece, slab.all_pieces() - 1) };
        let position = min(start + slab.first_key + piece / slab.pieces(), source.last);
        let element = source.element + piece % slab.pieces() * PIECE + slab.first_element;
        held.push(source.rows.fetch(cache, source.rows.place(position), element));
    }
    held
}

/// Puts the pieces into shared memory as f32, once all threads are done with what was there.
#[device]
pub(super) fn put(rows: KvRows, held: &[Vec<V<u32>>], slab: Slab, buffer: Shared<f32>) {
    sync_threads();
    for turn in unroll(0..slab.all_pieces().div_ceil(THREADS)) {
        let piece = thread_idx_x() + turn * THREADS;
        let x = rows.widen(&held[turn as usize]);
        let to = buffer.offset(piece / slab.pieces() * slab.pitch() + piece % slab.pieces() * PIECE);
        if slab.fills(turn) || piece < slab.all_pieces() {
            to.at(0).store_x4([x[0], x[1], x[2], x[3]]);
            to.at(4).store_x4([x[4], x[5], x[6], x[7]]);
        }
    }
    sync_threads();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_cover_a_tile_once() {
        for head_dim in (16..=256).step_by(16) {
            let tiles = Tiles::new(head_dim);
            let keys: u32 = (0..tiles.n_keys()).map(|i| tiles.keys(i).n_elements).sum();
            let values: u32 = (0..tiles.n_values()).map(|i| tiles.values(i).n_keys).sum();
            assert_eq!((keys, values), (head_dim, TILE), "{tiles:?}");
            assert!(tiles.keys(0).pitch() / 4 % 2 == 1 && tiles.values(0).pitch() / 4 % 2 == 1, "{tiles:?}");
            assert!(tiles.elements() * 4 <= 16 << 10, "{tiles:?}");
        }
    }
}
