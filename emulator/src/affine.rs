//! Loads whose addresses are a grid: `first + inner · (lane mod 8) + outer · (lane div 8)`, which most are.
//!
//! One pass over the address register tells, and then bounds and alignment of 32 lanes are those of the corners, and words
//! come in rows. Everything stays in registers of the host in between: addresses written to memory by one loop and read by
//! the next, with vectors of another width, wait for each other longer than the load itself takes.

use crate::code::{Access, File};
use crate::lanes::LANES;
use crate::memory::{Globals, Region, Space};
use crate::shared::Shared;

/// Lanes that share a row of a matrix in most kernels.
const TEAM: usize = 8;
const TEAMS: usize = LANES / TEAM;

/// Steps are below this, so that no corner wraps around.
const MOST: u64 = 1 << 32;

/// The addresses of the 32 lanes of an access, in bytes from the start of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    first: u64,
    /// From lane to lane of a team.
    inner: u64,
    /// From team to team.
    outer: u64,
}

impl Grid {
    /// The grid of 64-bit addresses, if they are one.
    #[inline(always)]
    fn of_q(base: &[u64; LANES]) -> Option<Grid> {
        let first = base[0];
        let (inner, outer) = (base[1].wrapping_sub(first), base[TEAM].wrapping_sub(first));
        let small = inner < MOST && outer < MOST;
        (small && is_grid_q(base, first, inner, outer)).then_some(Grid { first, inner, outer })
    }

    /// The grid of 32-bit addresses, if they are one.
    #[inline(always)]
    fn of_w(base: &[u32; LANES]) -> Option<Grid> {
        let first = base[0];
        let (inner, outer) = (base[1].wrapping_sub(first), base[TEAM].wrapping_sub(first));
        // Steps below zero are left to the general way: as unsigned numbers their corners would lie outside.
        let small = inner <= i32::MAX as u32 && outer <= i32::MAX as u32;
        let same = small && is_grid_w(base, first, inner, outer);
        same.then_some(Grid { first: first.into(), inner: inner.into(), outer: outer.into() })
    }

    /// Whether all accesses of `bytes` bytes are aligned and end within `limit`.
    #[inline(always)]
    fn fits(self, bytes: u64, limit: u64) -> bool {
        let Grid { first, inner, outer } = self;
        let last = inner * (TEAM as u64 - 1) + outer * (TEAMS as u64 - 1);
        let end = first.checked_add(last + bytes);
        (first | inner | outer) & (bytes - 1) == 0 && end.is_some_and(|end| end <= limit)
    }

    /// Fills the lanes of a team, whose first address is `start`; `N` is `TEAM * V`. False beyond the space's end.
    #[inline(always)]
    fn fill<S: Space, const V: usize, const N: usize>(
        self,
        space: &S,
        (start, lanes): (u64, &mut [[u32; TEAM]; V]),
    ) -> bool {
        if self.inner == 4 * V as u64 {
            let Some(words) = space.load::<N>((start >> 2) as usize) else { return false };
            for (k, lanes) in lanes.iter_mut().enumerate() {
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = words[V * i + k];
                }
            }
        } else if self.inner == 0 {
            let Some(words) = space.load::<V>((start >> 2) as usize) else { return false };
            *lanes = words.map(|word| [word; TEAM]);
        } else {
            for i in 0..TEAM {
                let at = start + self.inner * i as u64;
                let Some(words) = space.load::<V>((at >> 2) as usize) else { return false };
                for (lanes, word) in lanes.iter_mut().zip(words) {
                    lanes[i] = word;
                }
            }
        }
        true
    }

    /// Loads into registers `w`; false, with nothing done, for accesses that are not of 32-bit words.
    #[inline(always)]
    fn load_into<S: Space>(self, space: &S, op: &Access, w: &mut [[u32; LANES]]) -> bool {
        match op.vector {
            1 => self.put::<S, 1, 8>(space, op, w),
            2 => self.put::<S, 2, 16>(space, op, w),
            4 => self.put::<S, 4, 32>(space, op, w),
            _ => false,
        }
    }

    #[inline(never)]
    fn put<S: Space, const V: usize, const N: usize>(
        self,
        space: &S,
        op: &Access,
        w: &mut [[u32; LANES]],
    ) -> bool {
        let mut lanes = [[0; TEAM]; V];
        for team in 0..TEAMS {
            if (team == 0 || self.outer != 0)
                && !self.fill::<S, V, N>(space, (self.first + self.outer * team as u64, &mut lanes))
            {
                return false;
            }
            for (lanes, reg) in lanes.iter().zip(op.regs) {
                if let Some(to) = w.get_mut(usize::from(reg))
                    && let Some(to) = to.as_chunks_mut::<TEAM>().0.get_mut(team)
                {
                    *to = *lanes;
                }
            }
        }
        true
    }
}

/// Whether addresses are `first + inner * (lane mod 8) + outer * (lane div 8)`. A function of its own, so that the vector code
/// is not taken apart by what the caller knows of single lanes.
#[inline(never)]
fn is_grid_q(base: &[u64; LANES], first: u64, inner: u64, outer: u64) -> bool {
    let mut differs = 0;
    for (i, at) in base.iter().enumerate() {
        let (lane, team) = ((i % TEAM) as u64, (i / TEAM) as u64);
        let expected = first.wrapping_add(inner.wrapping_mul(lane)).wrapping_add(outer.wrapping_mul(team));
        differs |= at ^ expected;
    }
    differs == 0
}

/// [`is_grid_q`] of 32-bit addresses.
#[inline(never)]
fn is_grid_w(base: &[u32; LANES], first: u32, inner: u32, outer: u32) -> bool {
    let mut differs = 0;
    for (i, at) in base.iter().enumerate() {
        let (lane, team) = ((i % TEAM) as u32, (i / TEAM) as u32);
        let expected = first.wrapping_add(inner.wrapping_mul(lane)).wrapping_add(outer.wrapping_mul(team));
        differs |= at ^ expected;
    }
    differs == 0
}

/// Whether an access is of whole words into 32-bit registers, which is what grids are for.
#[inline(always)]
fn of_words(op: &Access) -> bool {
    op.size == 4 && op.file == File::W
}

/// Loads words of global memory for 32 lanes whose addresses are a grid in one region, where nothing but bounds and
/// alignment is checked; false, with nothing done, otherwise.
#[inline(always)]
pub(crate) fn load_global(
    globals: &Globals,
    op: &Access,
    base: &[u64; LANES],
    w: &mut [[u32; LANES]],
) -> bool {
    if !of_words(op) {
        return false;
    }
    let offset = i64::from(op.offset) as u64;
    let Some(region) = globals.region(base[0].wrapping_add(offset)) else { return false };
    let Some(grid) = Grid::of_q(base) else { return false };
    let first = grid.first.wrapping_add(offset).wrapping_sub(region.base());
    let grid = Grid { first, ..grid };
    let sound = region.init().is_none() && grid.fits(u64::from(op.bytes()), region.bytes());
    sound && grid.load_into::<Region>(region, op, w)
}

/// The same in shared memory.
#[inline(always)]
pub(crate) fn load_shared(shared: &Shared, op: &Access, w: &mut [[u32; LANES]]) -> bool {
    if !of_words(op) || shared.shadow.is_some() {
        return false;
    }
    let Some(grid) = w.get(usize::from(op.base)).and_then(Grid::of_w) else { return false };
    let first = u64::from((grid.first as u32).wrapping_add(op.offset as u32));
    let grid = Grid { first, ..grid };
    grid.fits(u64::from(op.bytes()), shared.bytes()) && grid.load_into::<Shared>(shared, op, w)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_told_from_other_addresses_by_every_lane() {
        let grid = |inner: u64, outer: u64| -> [u64; LANES] {
            std::array::from_fn(|i| 4096 + inner * (i as u64 % 8) + outer * (i as u64 / 8))
        };
        for (inner, outer) in [(0, 0), (16, 128), (16, 0), (0, 64), (4, 1000)] {
            let base = grid(inner, outer);
            assert_eq!(Grid::of_q(&base), Some(Grid { first: 4096, inner, outer }));
            assert_eq!(Grid::of_w(&base.map(|a| a as u32)), Some(Grid { first: 4096, inner, outer }));
            for lane in 0..LANES {
                let mut other = base;
                other[lane] += 4;
                // Lanes 0, 1 and 8 make the steps, so that another lane differs then.
                assert_eq!(Grid::of_q(&other), None, "lane {lane}");
                assert_eq!(Grid::of_w(&other.map(|a| a as u32)), None, "lane {lane}");
            }
        }
        assert_eq!(Grid::of_q(&std::array::from_fn(|i| 4096 - 4 * i as u64)), None);
        assert_eq!(Grid::of_w(&std::array::from_fn(|i| 4096 - 4 * i as u32)), None);
    }

    #[test]
    fn corners_decide_bounds_and_alignment() {
        let grid = Grid { first: 32, inner: 16, outer: 128 };
        let end = 32 + 7 * 16 + 3 * 128 + 16;
        assert!(grid.fits(16, end) && !grid.fits(16, end - 1));
        for off in [Grid { first: 36, ..grid }, Grid { inner: 20, ..grid }, Grid { outer: 136, ..grid }] {
            assert!(!off.fits(16, 4096), "{off:?}");
            assert!(off.fits(4, 4096), "{off:?}");
        }
        assert!(!Grid { first: u64::MAX - 15, ..grid }.fits(16, u64::MAX));
    }
}
