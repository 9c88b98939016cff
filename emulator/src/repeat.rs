//! Loads that need not look at their addresses, because an earlier load of the same straight line has: what it found out about the
//! register that both start from still holds, since nobody has written to that since.
//!
//! A kernel loads a dozen times from one address register with different offsets. Whoever executes a slot of a straight line
//! has executed all before it, with the same lanes: lanes part and meet only where lines end. So the earlier load has
//! been executed just before, by all 32 lanes if these are all 32, and has left its grid with the warp.

use std::collections::BTreeSet;

use crate::affine::{Grid, known};
use crate::code::{Code, File, Kind};
use crate::operands::{Use, visit};
use crate::uses::line_starts;

/// Whether a load looks at its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It does, and keeps what it finds.
    Itself,
    /// An earlier one has.
    Before,
}

/// The grids that loads found, by address register.
pub(crate) struct Grids {
    q: Vec<Option<Grid>>,
    w: Vec<Option<Grid>>,
}

impl Grids {
    /// None for registers of either file.
    pub fn new(q_regs: usize, w_regs: usize) -> Grids {
        Grids { q: vec![None; q_regs], w: vec![None; w_regs] }
    }

    fn of(&self, file: File) -> &[Option<Grid>] {
        if file == File::Q { &self.q } else { &self.w }
    }

    /// What the last load from a register found.
    #[inline(always)]
    pub fn last(&self, file: File, base: u16) -> Option<Grid> {
        self.of(file).get(usize::from(base)).copied().flatten()
    }

    /// Keeps what a load found, which may be that there is no grid.
    #[inline(always)]
    pub fn keep(&mut self, file: File, base: u16, grid: Option<Grid>) {
        let grids = if file == File::Q { &mut self.q } else { &mut self.w };
        if let Some(place) = grids.get_mut(usize::from(base)) {
            *place = grid;
        }
    }
}

/// How each slot, if it is a load, comes to know its addresses.
pub(crate) fn looks(code: &mut Code) -> Vec<Look> {
    let starts = line_starts(code);
    let mut found: BTreeSet<(bool, u16)> = BTreeSet::new();
    let mut looks = vec![Look::Itself; code.slots.len()];
    for at in 0..code.slots.len() {
        if starts[at] == at {
            found.clear();
        }
        let slot = code.slots[at];
        let load = matches!(slot.kind, Kind::LdGlobal | Kind::LdShared) && slot.guard == 0;
        let access = code.accesses.get(slot.x as usize).filter(|op| load && known(op) && !op.strong);
        if let Some(op) = access {
            let first = found.insert((slot.kind == Kind::LdGlobal, op.base));
            looks[at] = if first { Look::Itself } else { Look::Before };
        }
        visit(code, at, &mut |file: File, index: &mut u16, how: Use| {
            if how == Use::Write && file != File::P {
                found.remove(&(file == File::Q, *index));
            }
        });
    }
    looks
}
