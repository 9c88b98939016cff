//! Loads whose addresses are a grid, which nearly all are: within a pair of lanes, from pair to pair of four lanes, from the first
//! four of a team of eight to the others, and from team to team they go by steps that are the same everywhere.
//!
//! One pass over the address register tells, and then bounds and alignment of 32 lanes are those of the corners, and words
//! come in rows. Everything stays in registers of the host in between: addresses written to memory by one loop and read by
//! the next, with vectors of another width, wait for each other longer than the load itself takes.

use crate::code::{Access, File};
use crate::lanes::LANES;
use crate::memory::{Globals, Region, Space};
use crate::rows::Rows;
use crate::shared::Shared;

/// Lanes that share a row of a matrix in most kernels.
pub(crate) const TEAM: usize = 8;
const TEAMS: usize = LANES / TEAM;
/// Lanes that read the words of one row of scales.
const HALF: usize = TEAM / 2;

/// Steps are below this, so that no corner wraps around.
const MOST: u64 = 1 << 32;

/// The addresses of the 32 lanes of an access, in bytes from the start of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    first: u64,
    /// From the first lane of a pair to the other.
    single: u64,
    /// From the first pair of four lanes to the other.
    inner: u64,
    /// From the first four lanes of a team to the others.
    middle: u64,
    /// From team to team.
    outer: u64,
}

impl Grid {
    /// The grid of 64-bit addresses, if they are one.
    #[inline(always)]
    pub fn of_q(base: &[u64; LANES]) -> Option<Grid> {
        let first = base[0];
        let [single, inner, middle, outer] = [1, 2, HALF, TEAM].map(|lane| base[lane].wrapping_sub(first));
        let grid = Grid { first, single, inner, middle, outer };
        ((single | inner | middle | outer) < MOST && strays_q(base, grid) == 0).then_some(grid)
    }

    /// The grid of 32-bit addresses, if they are one.
    #[inline(always)]
    pub fn of_w(base: &[u32; LANES]) -> Option<Grid> {
        let first = base[0];
        let steps = [1, 2, HALF, TEAM].map(|lane| base[lane].wrapping_sub(first));
        // Steps below zero are left to the general way: as unsigned numbers their corners would lie outside.
        let small = steps.iter().all(|step| *step <= i32::MAX as u32);
        let [single, inner, middle, outer] = steps.map(u64::from);
        (small && strays_w(base, first, steps) == 0).then_some(Grid {
            first: first.into(),
            single,
            inner,
            middle,
            outer,
        })
    }

    /// Whether all accesses of `bytes` bytes are aligned and end within `limit`.
    #[inline(always)]
    fn fits(self, bytes: u64, limit: u64) -> bool {
        let Grid { first, single, inner, middle, outer } = self;
        let last = single + inner + middle + outer * (TEAMS as u64 - 1);
        let end = first.checked_add(last + bytes);
        (first | single | inner | middle | outer) & (bytes - 1) == 0 && end.is_some_and(|end| end <= limit)
    }

    /// Where four lanes are from the first of them.
    #[inline(always)]
    fn within(self) -> [u64; HALF] {
        [0, self.single, self.inner, self.single + self.inner]
    }

    /// Whether the lanes of a team follow each other without gaps, `bytes` apart.
    #[inline(always)]
    fn dense(self, bytes: u64) -> bool {
        self.single == bytes && self.inner == 2 * bytes && self.middle == bytes * HALF as u64
    }

    /// Loads into registers `w`; false, with nothing done, for accesses that are not [`known`].
    #[inline(always)]
    fn load_into<S: Space>(self, space: &S, op: &Access, w: &mut Rows<u32>) -> bool {
        match (op.size, op.vector) {
            (4, 1) => self.put::<S, 1>(space, op, w),
            (4, 2) => self.put::<S, 2>(space, op, w),
            (4, 4) => self.put::<S, 4>(space, op, w),
            (1 | 2, 1) => self.put_narrow(space, op, w),
            _ => false,
        }
    }

    /// One element of 8 or 16 bits a lane; teams often read the same.
    #[inline(never)]
    fn put_narrow<S: Space>(self, space: &S, op: &Access, w: &mut Rows<u32>) -> bool {
        let Some(to) = w.get_mut(usize::from(op.regs[0])) else { return false };
        let one_a_team = self.single | self.inner | self.middle == 0;
        for (team, to) in to.as_chunks_mut::<TEAM>().0.iter_mut().enumerate() {
            let start = self.first + self.outer * team as u64;
            let different = if one_a_team { 1 } else { TEAM };
            for (lane, to) in to.iter_mut().enumerate().take(different) {
                let at = start + self.within()[lane % HALF] + self.middle * (lane / HALF) as u64;
                let Some([word]) = space.load::<1>((at >> 2) as usize) else { return false };
                *to = op.narrow(word, at);
            }
            if one_a_team {
                *to = [to[0]; TEAM];
            }
        }
        true
    }

    #[inline(never)]
    fn put<S: Space, const V: usize>(self, space: &S, op: &Access, w: &mut Rows<u32>) -> bool {
        let word = (self.first >> 2) as usize;
        if !self.dense(4 * V as u64) {
            if V == 1 && (self.single, self.inner, self.middle) == (4, 8, 0) {
                return self.put_halves(space, op, w);
            }
            if self.outer == 0 {
                return self.put_same_teams::<S, V>(space, op, w);
            }
            return self.put_lanes::<S, V>(space, op, w);
        }
        if self.outer == (4 * V * TEAM) as u64 {
            return space.load_run::<V>(word, op, w);
        }
        if self.outer == 0 {
            return space.load_team::<V>(word, op, w);
        }
        self.put_lanes::<S, V>(space, op, w)
    }

    /// One word a lane, where the two halves of a team read the same four words: scales of sub-blocks.
    #[inline(always)]
    fn put_halves<S: Space>(self, space: &S, op: &Access, w: &mut Rows<u32>) -> bool {
        let Some(to) = w.get_mut(usize::from(op.regs[0])) else { return false };
        for (team, to) in to.as_chunks_mut::<TEAM>().0.iter_mut().enumerate() {
            let start = self.first + self.outer * team as u64;
            let Some(words) = space.load::<HALF>((start >> 2) as usize) else { return false };
            for (i, word) in words.into_iter().enumerate() {
                (to[i], to[HALF + i]) = (word, word);
            }
        }
        true
    }

    /// Words of one team for all of them: activations, which every row of a matrix is multiplied by.
    #[inline(always)]
    fn put_same_teams<S: Space, const V: usize>(self, space: &S, op: &Access, w: &mut Rows<u32>) -> bool {
        let mut rows = [[0; TEAM]; V];
        for lane in 0..TEAM {
            let at = self.first + self.within()[lane % HALF] + self.middle * (lane / HALF) as u64;
            let Some(words) = space.load::<V>((at >> 2) as usize) else { return false };
            for (row, word) in rows.iter_mut().zip(words) {
                row[lane] = word;
            }
        }
        for (row, reg) in rows.iter().zip(op.regs) {
            let Some(to) = w.get_mut(usize::from(reg)) else { return false };
            to.as_chunks_mut::<TEAM>().0.fill(*row);
        }
        true
    }

    /// Lane by lane, straight into the registers: vectors collected from words in memory would wait for them there.
    #[inline(always)]
    fn put_lanes<S: Space, const V: usize>(self, space: &S, op: &Access, w: &mut Rows<u32>) -> bool {
        for (k, reg) in op.regs.iter().enumerate().take(V) {
            let Some(to) = w.get_mut(usize::from(*reg)) else { return false };
            for (team, to) in to.as_chunks_mut::<TEAM>().0.iter_mut().enumerate() {
                let start = self.first + self.outer * team as u64 + 4 * k as u64;
                let (one, other) = to.split_at_mut(HALF);
                for ((one, other), within) in one.iter_mut().zip(other).zip(self.within()) {
                    let at = start + within;
                    let Some([word]) = space.load::<1>((at >> 2) as usize) else { return false };
                    (*one, *other) = (word, word);
                    if self.middle != 0 {
                        let Some([word]) = space.load::<1>(((at + self.middle) >> 2) as usize) else {
                            return false;
                        };
                        *other = word;
                    }
                }
            }
        }
        true
    }
}

/// Bits in which addresses differ from those of a grid. A function of its own, and the bits instead of a truth value, so that
/// the vector code is not taken apart by what the caller knows of single lanes.
#[inline(never)]
fn strays_q(base: &[u64; LANES], grid: Grid) -> u64 {
    let Grid { first, single, inner, middle, outer } = grid;
    let mut differs = 0;
    for (i, at) in base.iter().enumerate() {
        let bit = |bit: usize| (i >> bit & 1) as u64;
        let of_half =
            first.wrapping_add(bit(0).wrapping_mul(single)).wrapping_add(bit(1).wrapping_mul(inner));
        let of_team = of_half.wrapping_add(bit(2).wrapping_mul(middle));
        differs |= at ^ of_team.wrapping_add(outer.wrapping_mul((i / TEAM) as u64));
    }
    differs
}

/// [`strays_q`] of 32-bit addresses.
#[inline(never)]
fn strays_w(base: &[u32; LANES], first: u32, [single, inner, middle, outer]: [u32; 4]) -> u32 {
    let mut differs = 0;
    for (i, at) in base.iter().enumerate() {
        let bit = |bit: usize| (i >> bit & 1) as u32;
        let of_half =
            first.wrapping_add(bit(0).wrapping_mul(single)).wrapping_add(bit(1).wrapping_mul(inner));
        let of_team = of_half.wrapping_add(bit(2).wrapping_mul(middle));
        differs |= at ^ of_team.wrapping_add(outer.wrapping_mul((i / TEAM) as u32));
    }
    differs
}

/// Whether an access is one that [`Grid::load_into`] has a way for: words, or one narrower element, into 32-bit registers.
#[inline(always)]
pub(crate) fn known(op: &Access) -> bool {
    op.file == File::W && (op.size == 4 || op.vector == 1)
}

/// Loads from global memory for 32 lanes whose addresses, `grid` before the access's offset, are in one region, where nothing
/// but bounds and alignment is checked; false, with nothing done, otherwise.
#[inline(always)]
pub(crate) fn load_global(globals: &Globals, op: &Access, grid: Grid, w: &mut Rows<u32>) -> bool {
    let offset = i64::from(op.offset) as u64;
    let Some(region) = globals.region(grid.first.wrapping_add(offset)) else { return false };
    let first = grid.first.wrapping_add(offset).wrapping_sub(region.base());
    let grid = Grid { first, ..grid };
    let sound = region.init().is_none() && grid.fits(u64::from(op.bytes()), region.bytes());
    sound && grid.load_into::<Region>(region, op, w)
}

/// The same in shared memory.
#[inline(always)]
pub(crate) fn load_shared(shared: &Shared, op: &Access, grid: Grid, w: &mut Rows<u32>) -> bool {
    let first = u64::from((grid.first as u32).wrapping_add(op.offset as u32));
    let grid = Grid { first, ..grid };
    let sound = shared.shadow.is_none() && grid.fits(u64::from(op.bytes()), shared.bytes());
    sound && grid.load_into::<Shared>(shared, op, w)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_told_from_other_addresses_by_every_lane() {
        let at = |grid: Grid, i: usize| {
            let i = i as u64;
            let of_half = grid.single * (i % 2) + grid.inner * (i / 2 % 2);
            grid.first + of_half + grid.middle * (i / 4 % 2) + grid.outer * (i / 8)
        };
        let grids = [
            [0, 0, 0, 0],
            [16, 32, 64, 128],
            [16, 32, 64, 0],
            [0, 0, 0, 64],
            [4, 8, 0, 16],
            [0, 4, 8, 16],
            [4, 100, 1000, 12],
        ];
        for [single, inner, middle, outer] in grids {
            let grid = Grid { first: 4096, single, inner, middle, outer };
            let base: [u64; LANES] = std::array::from_fn(|i| at(grid, i));
            assert_eq!(Grid::of_q(&base), Some(grid));
            assert_eq!(Grid::of_w(&base.map(|a| a as u32)), Some(grid));
            for lane in 0..LANES {
                let mut other = base;
                other[lane] += 4;
                // Lanes 0, 1, 2, 4 and 8 make the steps, so that another lane differs then.
                assert_eq!(Grid::of_q(&other), None, "lane {lane}");
                assert_eq!(Grid::of_w(&other.map(|a| a as u32)), None, "lane {lane}");
            }
        }
        assert_eq!(Grid::of_q(&std::array::from_fn(|i| 4096 - 4 * i as u64)), None);
        assert_eq!(Grid::of_w(&std::array::from_fn(|i| 4096 - 4 * i as u32)), None);
    }

    #[test]
    fn corners_decide_bounds_and_alignment() {
        let grid = Grid { first: 32, single: 16, inner: 32, middle: 64, outer: 128 };
        let end = 32 + 3 * 16 + 64 + 3 * 128 + 16;
        assert!(grid.fits(16, end) && !grid.fits(16, end - 1));
        let others = [
            Grid { first: 36, ..grid },
            Grid { single: 20, ..grid },
            Grid { inner: 36, ..grid },
            Grid { middle: 68, ..grid },
            Grid { outer: 136, ..grid },
        ];
        for off in others {
            assert!(!off.fits(16, 4096), "{off:?}");
            assert!(off.fits(4, 4096), "{off:?}");
        }
        assert!(!Grid { first: u64::MAX - 15, ..grid }.fits(16, u64::MAX));
    }

    /// Every way of reading a grid gives what single lanes read, in both spaces.
    #[test]
    fn grids_read_what_single_lanes_read() {
        let mut globals = Globals::default();
        let address = globals.alloc(1 << 14, crate::memory::Tracking::None).unwrap();
        let shared = Shared::unchecked(1 << 14);
        let region = globals.region(address).unwrap();
        let word_at = |word: u32| word.wrapping_mul(0x9e37_79b1);
        for word in 0..1 << 12 {
            region.store(word, [word_at(word as u32)]);
            shared.store(word, [word_at(word as u32)]);
        }
        let grids = [
            [0, 0, 0, 0],
            [1, 2, 4, 8],
            [1, 2, 4, 0],
            [1, 2, 0, 4],
            [1, 2, 4, 100],
            [0, 1, 2, 4],
            [2, 4, 8, 16],
            [3, 6, 1, 7],
            [2, 4, 8, 0],
            [5, 3, 9, 0],
            [0, 0, 0, 5],
        ];
        for steps in grids {
            for (size, vector) in [(4, 1), (4, 2), (4, 4), (2, 1), (1, 1)] {
                let bytes = u64::from(size * vector);
                let [single, inner, middle, outer] = steps.map(|step| step * bytes);
                let grid = Grid { first: 64 + bytes, single, inner, middle, outer };
                let op = Access {
                    base: 0,
                    offset: 0,
                    vector,
                    size,
                    signed: size == 1,
                    strong: false,
                    regs: [3, 1, 2, 0],
                    file: File::W,
                    reg_bits: 32,
                };
                let (mut of_global, mut of_shared) = (Rows::new(4), Rows::new(4));
                assert!(grid.load_into(region, &op, &mut of_global));
                assert!(grid.load_into(&shared, &op, &mut of_shared));
                for i in 0..LANES {
                    let lane = i as u64;
                    let of_half = single * (lane % 2) + inner * (lane / 2 % 2);
                    let at = (grid.first + of_half + middle * (lane / 4 % 2) + outer * (lane / 8)) as u32;
                    for k in 0..vector {
                        let word = word_at(at / 4 + k) >> (8 * (at % 4));
                        let word = match size {
                            1 => word as i8 as u32,
                            2 => word & 0xffff,
                            _ => word,
                        };
                        let reg = usize::from(op.regs[k as usize]);
                        assert_eq!(of_global[reg][i], word, "{grid:?}, word {k} of lane {i}");
                        assert_eq!(of_shared[reg][i], word, "{grid:?}, word {k} of lane {i}, shared");
                    }
                }
            }
        }
    }
}
