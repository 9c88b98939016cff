//! Shared memory of one CTA: plain words, since a CTA runs on one thread.

use std::cell::Cell;
use std::sync::MutexGuard;

use crate::affine::TEAM;
use crate::code::Access;
use crate::host::team_rows;
use crate::lanes::LANES;
use crate::mbarrier::Mbarriers;
use crate::memory::{InitMap, Space};
use crate::race::CtaShadow;
use crate::rows::Rows;
use crate::trap::SpaceName;

/// A CTA's shared variables, one after the other, starting at address 0.
pub(crate) struct Shared {
    words: Box<[Cell<u32>]>,
    bytes: u64,
    init: Option<InitMap>,
    /// Who accessed what since the last barrier, where that is checked.
    pub shadow: Option<CtaShadow>,
    /// The mbarriers that live here.
    pub mbarriers: Mbarriers,
    /// `(start, end)` of each variable, where leaving one for its neighbour is checked.
    pub variables: Vec<(u32, u32)>,
}

impl Shared {
    /// Memory for variables at the given `(start, end)` byte ranges, with all checks.
    pub fn checked(bytes: u32, variables: Vec<(u32, u32)>) -> Shared {
        let bytes = u64::from(bytes);
        Shared {
            init: Some(InitMap::new(bytes)),
            shadow: Some(CtaShadow::new(bytes)),
            variables,
            ..Shared::unchecked(bytes as u32)
        }
    }

    /// Memory of `bytes` bytes with bounds and alignment checks only.
    pub fn unchecked(bytes: u32) -> Shared {
        let words = (0..bytes.div_ceil(4)).map(|_| Cell::new(0)).collect();
        Shared {
            words,
            bytes: u64::from(bytes),
            init: None,
            shadow: None,
            mbarriers: Mbarriers::default(),
            variables: Vec::new(),
        }
    }

    /// Ready for the next CTA. Contents stay: they are as undefined as the hardware's.
    pub fn reset(&mut self) {
        if let Some(init) = &self.init {
            init.clear();
        }
        if let Some(shadow) = &mut self.shadow {
            shadow.clear();
        }
        self.mbarriers.clear();
    }
}

/// `N` groups of `V` words as `V` rows. A function of its own: by itself it becomes vector code.
#[inline(never)]
fn transposed<const V: usize, const N: usize>(groups: &[[Cell<u32>; V]]) -> [[u32; N]; V] {
    let mut rows = [[0; N]; V];
    if let Some(groups) = groups.first_chunk::<N>() {
        for i in 0..N {
            for k in 0..V {
                rows[k][i] = groups[i][k].get();
            }
        }
    }
    rows
}

/// 16 bytes a lane, the same for each team: activations, in most kernels.
#[inline(always)]
fn load_team_of_four(words: &[Cell<u32>], op: &Access, w: &mut Rows<u32>) -> bool {
    let Some(words) = words.first_chunk::<{ 4 * TEAM }>() else { return false };
    let rows = team_rows(&words.each_ref().map(Cell::get));
    for (row, reg) in rows.iter().zip(op.regs) {
        let Some(to) = w.get_mut(usize::from(reg)) else { return false };
        to.as_chunks_mut::<{ 2 * TEAM }>().0.fill(*row);
    }
    true
}

impl Space for Shared {
    const NAME: SpaceName = SpaceName::Shared;

    #[inline(always)]
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn base(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn load<const V: usize>(&self, word: usize) -> Option<[u32; V]> {
        let words = self.words.get(word..word + V)?;
        let mut values = [0; V];
        for (value, word) in values.iter_mut().zip(words) {
            *value = word.get();
        }
        Some(values)
    }

    #[inline(always)]
    fn load_team<const V: usize>(&self, word: usize, op: &Access, w: &mut Rows<u32>) -> bool {
        let Some(words) = self.words.get(word..word + TEAM * V) else { return false };
        if V == 4 {
            return load_team_of_four(words, op, w);
        }
        let lanes = transposed::<V, TEAM>(words.as_chunks::<V>().0);
        for (lanes, reg) in lanes.iter().zip(op.regs) {
            let Some(to) = w.get_mut(usize::from(reg)) else { return false };
            to.as_chunks_mut::<TEAM>().0.fill(*lanes);
        }
        true
    }

    #[inline(always)]
    fn load_run<const V: usize>(&self, word: usize, op: &Access, w: &mut Rows<u32>) -> bool {
        let Some(words) = self.words.get(word..word + LANES * V) else { return false };
        let lanes = transposed::<V, LANES>(words.as_chunks::<V>().0);
        for (lanes, reg) in lanes.iter().zip(op.regs) {
            let Some(to) = w.get_mut(usize::from(reg)) else { return false };
            *to = *lanes;
        }
        true
    }

    #[inline(always)]
    fn store<const V: usize>(&self, word: usize, values: [u32; V]) {
        if let Some(words) = self.words.get(word..word + V) {
            for (value, word) in values.iter().zip(words) {
                word.set(*value);
            }
        }
    }

    fn store_bits(&self, word: usize, mask: u32, value: u32) {
        if let Some(word) = self.words.get(word) {
            word.set(word.get() & !mask | value & mask);
        }
    }

    fn wide_lock(&self) -> Option<MutexGuard<'_, ()>> {
        None
    }

    fn init(&self) -> Option<&InitMap> {
        self.init.as_ref()
    }
}
