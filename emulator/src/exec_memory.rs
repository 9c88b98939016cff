//! Loads and stores of a warp. Addresses are checked for all lanes at once; the common widths then move whole words,
//! everything else goes element by element. Atomics are in `exec_atom.rs`.

use std::sync::atomic::{Ordering, fence};

use ptx::sem;

use crate::affine::{self, Grid};
use crate::code::{Access, File};
use crate::lanes::{ALL, LANES, each, map1, map2, mask_of, write};
use crate::memory::{Globals, Region, Space};
use crate::race::Touch;
use crate::shared::Shared;
use crate::trap::{Fault, TrapKind};
use crate::warp::{Context, Warp};

/// Checks one lane's access; why it may not happen.
pub(crate) fn check_bounds<S: Space>(space: &S, offset: u64, bytes: u32) -> Result<(), TrapKind> {
    let limit = space.bytes();
    let addr = space.base().wrapping_add(offset);
    if offset.checked_add(u64::from(bytes)).is_none_or(|end| end > limit) {
        return Err(TrapKind::OutOfBounds { space: S::NAME, addr, bytes, offset, limit });
    }
    if offset & u64::from(bytes - 1) != 0 {
        return Err(TrapKind::Misaligned { space: S::NAME, addr, align: bytes });
    }
    Ok(())
}

/// Whether every lane of `mask` has an aligned access inside the space.
#[inline(always)]
fn all_fit<S: Space>(space: &S, bytes: u32, offsets: &[u64; LANES], mask: u32) -> bool {
    let bytes = u64::from(bytes);
    let Some(limit) = space.bytes().checked_sub(bytes) else { return false };
    if mask == ALL {
        let mut bad = 0u64;
        for offset in offsets {
            bad |= u64::from(*offset > limit) | offset & (bytes - 1);
        }
        bad == 0
    } else {
        mask & mask_of(|i| (offsets[i] > limit) | (offsets[i] & (bytes - 1) != 0)) == 0
    }
}

fn check_init<S: Space>(space: &S, bytes: u32, offsets: &[u64; LANES], mask: u32) -> Result<(), Box<Fault>> {
    let Some(init) = space.init() else { return Ok(()) };
    match each(mask).find(|lane| !init.has(offsets[*lane], bytes)) {
        None => Ok(()),
        Some(lane) => {
            let addr = space.base().wrapping_add(offsets[lane]);
            Err(Fault::new(lane as u32, TrapKind::Uninitialised { space: S::NAME, addr, bytes }))
        }
    }
}

fn mark_init<S: Space>(space: &S, bytes: u32, offsets: &[u64; LANES], mask: u32) {
    if let Some(init) = space.init() {
        for lane in each(mask) {
            init.mark(offsets[lane], bytes);
        }
    }
}

/// One element as raw bits, zero-extended.
fn load_element<S: Space>(space: &S, offset: u64, size: u32) -> u64 {
    let word = (offset >> 2) as usize;
    if size == 8 {
        return space.load::<2>(word).map_or(0, |[lo, hi]| u64::from(lo) | u64::from(hi) << 32);
    }
    let bits = space.load::<1>(word).map_or(0, |[bits]| u64::from(bits));
    bits >> (8 * (offset & 3)) & sem::mask(8 * size)
}

fn store_element<S: Space>(space: &S, offset: u64, size: u32, value: u64) {
    let word = (offset >> 2) as usize;
    match size {
        8 => space.store::<2>(word, [value as u32, (value >> 32) as u32]),
        4 => space.store::<1>(word, [value as u32]),
        _ => {
            let shift = 8 * (offset as u32 & 3);
            space.store_bits(word, (sem::mask(8 * size) as u32) << shift, (value as u32) << shift);
        }
    }
}

/// The shared addresses of an access.
pub(crate) fn shared_offsets(base: &[u32; LANES], offset: i32) -> [u64; LANES] {
    map1(base, |a| u64::from(a.wrapping_add(offset as u32)))
}

/// Checks a warp's shared access: bounds, alignment, variables, races.
pub(crate) fn check_shared(
    warp: &Warp,
    cx: &Context<'_>,
    bytes: u32,
    offsets: &[u64; LANES],
    (mask, touch): (u32, Touch),
) -> Result<(), Box<Fault>> {
    let shared: &Shared = cx.shared;
    if !all_fit(shared, bytes, offsets, mask) {
        for lane in each(mask) {
            check_bounds(shared, offsets[lane], bytes).map_err(|kind| Fault::new(lane as u32, kind))?;
        }
    }
    let Some(shadow) = &shared.shadow else { return Ok(()) };
    for lane in each(mask) {
        let fault = |kind| Fault::new(lane as u32, kind);
        check_variable(shared, offsets[lane], bytes).map_err(fault)?;
        shadow.access(offsets[lane], bytes, touch, warp.when(lane, cx)).map_err(fault)?;
    }
    Ok(())
}

/// Checks that an access stays in one shared variable.
pub(crate) fn check_variable(shared: &Shared, offset: u64, bytes: u32) -> Result<(), TrapKind> {
    let end = offset + u64::from(bytes);
    let inside = |(start, stop): &(u32, u32)| u64::from(*start) <= offset && end <= u64::from(*stop);
    if shared.variables.iter().any(inside) {
        return Ok(());
    }
    // The variable in which the access starts says by how much it is left.
    let holds = |(start, stop): &&(u32, u32)| (u64::from(*start)..u64::from(*stop)).contains(&offset);
    let (start, stop) = shared.variables.iter().find(holds).copied().unwrap_or((0, 0));
    Err(TrapKind::OutOfBounds {
        space: Shared::NAME,
        addr: offset,
        bytes,
        offset: offset - u64::from(start),
        limit: u64::from(stop - start),
    })
}

/// The region that the first lane names, if all lanes of `mask` have sound accesses in it, and their offsets.
#[inline(always)]
fn one_region<'g>(
    globals: &'g Globals,
    base: &[u64; LANES],
    op: &Access,
    mask: u32,
) -> Option<(&'g Region, [u64; LANES])> {
    let offset = i64::from(op.offset) as u64;
    let first = base[mask.trailing_zeros() as usize & 31].wrapping_add(offset);
    let region = globals.region(first)?;
    // Addresses in other regions become offsets beyond any region.
    let from_base = offset.wrapping_sub(region.base());
    let offsets = map1(base, |a| a.wrapping_add(from_base));
    all_fit(region, op.bytes(), &offsets, mask).then_some((region, offsets))
}

/// The words of every lane of `mask`, word `k` of lane `i` at `[k][i]`; the accesses were checked.
#[inline(always)]
fn words_of<S: Space, const V: usize>(space: &S, offsets: &[u64; LANES], mask: u32) -> [[u32; LANES]; V] {
    let mut out = [[0; LANES]; V];
    for lane in each(mask) {
        if let Some(words) = space.load::<V>((offsets[lane] >> 2) as usize) {
            for k in 0..V {
                out[k][lane] = words[k];
            }
        }
    }
    out
}

/// The address of one lane.
fn global_address(base: &[u64; LANES], op: &Access, lane: usize) -> u64 {
    base[lane].wrapping_add(i64::from(op.offset) as u64)
}

impl Warp {
    /// `ld.global`.
    pub fn load_global(&mut self, op: &Access, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        let base = &self.q[usize::from(op.base)];
        let grid = if mask == ALL && affine::known(op) { Grid::of_q(base) } else { None };
        if grid.is_some_and(|grid| affine::load_global(cx.globals, op, grid, &mut self.w)) {
            // Done.
        } else if let Some((region, offsets)) = one_region(cx.globals, base, op, mask) {
            check_init(region, op.bytes(), &offsets, mask)?;
            self.load_from(region, op, &offsets, mask);
        } else {
            let base = *base;
            for lane in each(mask) {
                let fault = |kind| Fault::new(lane as u32, kind);
                let addr = global_address(&base, op, lane);
                let (region, offset) = cx.globals.locate(addr, op.bytes()).map_err(fault)?;
                check_bounds(region, offset, op.bytes()).map_err(fault)?;
                let offsets = [offset; LANES];
                check_init(region, op.bytes(), &offsets, 1 << lane)?;
                self.load_from(region, op, &offsets, 1 << lane);
            }
        }
        if op.strong {
            fence(Ordering::Acquire);
            self.polls += 1;
        }
        Ok(())
    }

    /// `ld.shared`.
    pub fn load_shared(&mut self, op: &Access, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        self.polls += u32::from(op.strong);
        let grid =
            if mask == ALL && affine::known(op) { Grid::of_w(&self.w[usize::from(op.base)]) } else { None };
        if grid.is_some_and(|grid| affine::load_shared(cx.shared, op, grid, &mut self.w)) {
            return Ok(());
        }
        let offsets = shared_offsets(&self.w[usize::from(op.base)], op.offset);
        check_shared(self, cx, op.bytes(), &offsets, (mask, Touch::Read))?;
        check_init(cx.shared, op.bytes(), &offsets, mask)?;
        self.load_from(cx.shared, op, &offsets, mask);
        Ok(())
    }

    /// `st.global`.
    pub fn store_global(&mut self, op: &Access, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        if op.strong {
            fence(Ordering::Release);
        }
        self.writes += 1;
        let base = &self.q[usize::from(op.base)];
        if let Some((region, offsets)) = one_region(cx.globals, base, op, mask) {
            self.store_to(region, op, &offsets, mask);
            mark_init(region, op.bytes(), &offsets, mask);
            return Ok(());
        }
        for lane in each(mask) {
            let fault = |kind| Fault::new(lane as u32, kind);
            let addr = global_address(base, op, lane);
            let (region, offset) = cx.globals.locate(addr, op.bytes()).map_err(fault)?;
            check_bounds(region, offset, op.bytes()).map_err(fault)?;
            self.store_to(region, op, &[offset; LANES], 1 << lane);
            mark_init(region, op.bytes(), &[offset; LANES], 1 << lane);
        }
        Ok(())
    }

    /// `st.shared`.
    pub fn store_shared(&mut self, op: &Access, mask: u32, cx: &Context<'_>) -> Result<(), Box<Fault>> {
        let offsets = shared_offsets(&self.w[usize::from(op.base)], op.offset);
        check_shared(self, cx, op.bytes(), &offsets, (mask, Touch::Write))?;
        self.store_to(cx.shared, op, &offsets, mask);
        mark_init(cx.shared, op.bytes(), &offsets, mask);
        Ok(())
    }

    /// Moves checked elements into registers.
    #[inline(always)]
    fn load_from<S: Space>(&mut self, space: &S, op: &Access, offsets: &[u64; LANES], mask: u32) {
        match (op.size, op.vector, op.file) {
            (4, 1, File::W) => self.gather::<S, 1>(space, op, offsets, mask),
            (4, 2, File::W) => self.gather::<S, 2>(space, op, offsets, mask),
            (4, 4, File::W) => self.gather::<S, 4>(space, op, offsets, mask),
            (8, 1, File::Q) if !op.strong => self.gather_pairs::<S, 2>(space, op, offsets, mask),
            (8, 2, File::Q) if !op.strong => self.gather_pairs::<S, 4>(space, op, offsets, mask),
            (1 | 2, 1, File::W) => self.gather_narrow(space, op, offsets, mask),
            (1, 2 | 4, File::W) | (2, 2, File::W) => self.gather_narrow(space, op, offsets, mask),
            _ => self.load_elements(space, op, offsets, mask),
        }
    }

    #[inline(never)]
    fn gather<S: Space, const V: usize>(
        &mut self,
        space: &S,
        op: &Access,
        offsets: &[u64; LANES],
        mask: u32,
    ) {
        let out = words_of::<S, V>(space, offsets, mask);
        for (words, reg) in out.iter().zip(op.regs) {
            write(&mut self.w[usize::from(reg)], *words, mask);
        }
    }

    /// 64-bit elements: `V` words are `V / 2` of them.
    fn gather_pairs<S: Space, const V: usize>(
        &mut self,
        space: &S,
        op: &Access,
        offsets: &[u64; LANES],
        mask: u32,
    ) {
        let out = words_of::<S, V>(space, offsets, mask);
        for (pair, reg) in out.as_chunks::<2>().0.iter().zip(op.regs) {
            let whole = map2(&pair[0], &pair[1], |lo, hi| u64::from(lo) | u64::from(hi) << 32);
            write(&mut self.q[usize::from(reg)], whole, mask);
        }
    }

    /// Elements below 32 bits, all of an access in one word (its alignment sees to that).
    fn gather_narrow<S: Space>(&mut self, space: &S, op: &Access, offsets: &[u64; LANES], mask: u32) {
        let [words] = words_of::<S, 1>(space, offsets, mask);
        let unused = 32 - 8 * op.size;
        let keep = sem::mask(op.reg_bits) as u32;
        for k in 0..op.vector {
            let element = |word: u32, offset: u64| {
                let shift = 8 * (offset as u32 & 3) + 8 * k * op.size;
                let high = word >> (shift & 31) << (unused & 31);
                let value =
                    if op.signed { ((high as i32) >> (unused & 31)) as u32 } else { high >> (unused & 31) };
                value & keep
            };
            let out = map2(&words, offsets, element);
            write(&mut self.w[usize::from(op.regs[k as usize])], out, mask);
        }
    }

    fn load_elements<S: Space>(&mut self, space: &S, op: &Access, offsets: &[u64; LANES], mask: u32) {
        let unused = 64 - 8 * op.size;
        for lane in each(mask) {
            let _whole = (op.strong && op.size == 8).then(|| space.wide_lock());
            for k in 0..op.vector {
                let raw = load_element(space, offsets[lane] + u64::from(k * op.size), op.size);
                let value = if op.signed { ((raw << unused) as i64 >> unused) as u64 } else { raw };
                let value = value & sem::mask(op.reg_bits);
                let reg = usize::from(op.regs[k as usize]);
                match op.file {
                    File::Q => self.q[reg][lane] = value,
                    _ => self.w[reg][lane] = value as u32,
                }
            }
        }
    }

    #[inline(always)]
    fn store_to<S: Space>(&self, space: &S, op: &Access, offsets: &[u64; LANES], mask: u32) {
        match (op.size, op.vector, op.file) {
            (4, 1, File::W) => self.scatter::<S, 1>(space, op, offsets, mask),
            (4, 2, File::W) => self.scatter::<S, 2>(space, op, offsets, mask),
            (4, 4, File::W) => self.scatter::<S, 4>(space, op, offsets, mask),
            (1 | 2, 1, File::W) if mask == ALL && self.store_narrow_run(space, op, offsets) => {}
            _ => self.store_elements(space, op, offsets, mask),
        }
    }

    #[inline(never)]
    fn scatter<S: Space, const V: usize>(&self, space: &S, op: &Access, offsets: &[u64; LANES], mask: u32) {
        for lane in each(mask) {
            let mut words = [0; V];
            for (word, reg) in words.iter_mut().zip(op.regs) {
                *word = self.w[usize::from(reg)][lane];
            }
            space.store::<V>((offsets[lane] >> 2) as usize, words);
        }
    }

    /// Elements below 32 bits of 32 lanes that follow each other from the start of a word: no byte of those words
    /// belongs to anybody else, so that whole words can be stored. False, with nothing done, where they do not.
    fn store_narrow_run<S: Space>(&self, space: &S, op: &Access, offsets: &[u64; LANES]) -> bool {
        let size = u64::from(op.size);
        let mut gaps = offsets[0] & 3;
        for (i, offset) in offsets.iter().enumerate() {
            gaps |= offset ^ offsets[0].wrapping_add(size * i as u64);
        }
        if gaps != 0 {
            return false;
        }
        let values = &self.w[usize::from(op.regs[0])];
        let first = (offsets[0] >> 2) as usize;
        if op.size == 1 {
            for (i, [a, b, c, d]) in values.as_chunks::<4>().0.iter().enumerate() {
                let word = a & 0xff | (b & 0xff) << 8 | (c & 0xff) << 16 | d << 24;
                space.store::<1>(first + i, [word]);
            }
        } else {
            for (i, [a, b]) in values.as_chunks::<2>().0.iter().enumerate() {
                space.store::<1>(first + i, [a & 0xffff | b << 16]);
            }
        }
        true
    }

    fn store_elements<S: Space>(&self, space: &S, op: &Access, offsets: &[u64; LANES], mask: u32) {
        for lane in each(mask) {
            let _whole = (op.strong && op.size == 8).then(|| space.wide_lock());
            for k in 0..op.vector {
                let reg = usize::from(op.regs[k as usize]);
                let value = match op.file {
                    File::Q => self.q[reg][lane],
                    _ => u64::from(self.w[reg][lane]),
                };
                store_element(space, offsets[lane] + u64::from(k * op.size), op.size, value);
            }
        }
    }
}
