//! Global memory: allocations as regions of atomic words, so that CTAs on several threads share them in safe Rust.
//!
//! A device address is `(slot + 1) << 40 | offset`. Slots are never used twice, so address arithmetic that leaves an
//! allocation, and any use of a freed one, meets a bounds check instead of somebody else's bytes; null is slot -1.
//! Words are little-endian, like the device's. Weak accesses are relaxed atomics, which cost what plain ones do.
//!
//! Invariant: bits of a word beyond `Region::bytes` are never read or written by a kernel.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::affine::TEAM;
use crate::code::Access;
use crate::error::Error;
use crate::lanes::LANES;
use crate::rows::Rows;
use crate::trap::{SpaceName, TrapKind};

/// Bits of an address that are the offset in its allocation.
pub(crate) const OFFSET_BITS: u32 = 40;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// One bit for each byte of a space: whether anybody has written it.
pub(crate) struct InitMap(Box<[AtomicU64]>);

impl InitMap {
    /// A map of `bytes` bytes, none written.
    pub fn new(bytes: u64) -> InitMap {
        InitMap((0..bytes.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn bits(offset: u64, bytes: u32) -> u64 {
        (u64::MAX >> (64 - bytes)) << (offset & 63)
    }

    /// Whether all bytes of a naturally aligned access of 1 to 16 bytes were written.
    pub fn has(&self, offset: u64, bytes: u32) -> bool {
        let bits = InitMap::bits(offset, bytes);
        self.0.get((offset >> 6) as usize).is_some_and(|word| word.load(Relaxed) & bits == bits)
    }

    /// Marks an access of 1 to 16 bytes, naturally aligned, as written.
    pub fn mark(&self, offset: u64, bytes: u32) {
        let bits = InitMap::bits(offset, bytes);
        if let Some(word) = self.0.get((offset >> 6) as usize) {
            // The locked operation is rare: most stores overwrite what was written before.
            if word.load(Relaxed) & bits != bits {
                word.fetch_or(bits, Relaxed);
            }
        }
    }

    fn mark_range(&self, offset: u64, bytes: u64) {
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            let n = (64 - (at & 63)).min(end - at);
            self.mark(at, n as u32);
            at += n;
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for word in &self.0 {
            word.store(0, Relaxed);
        }
    }
}

/// What loads and stores need of a state space. Word indices are offsets divided by four.
pub(crate) trait Space {
    /// For traps.
    const NAME: SpaceName;
    /// Size in bytes.
    fn bytes(&self) -> u64;
    /// Address of offset 0, for traps.
    fn base(&self) -> u64;
    /// `V` words from a word index; `None` beyond the end.
    fn load<const V: usize>(&self, word: usize) -> Option<[u32; V]>;
    /// `8 V` words from a word index, word `k` of group `i` into lane `i` of each team of eight of the access's register
    /// `k`; false, with nothing done, beyond the end.
    fn load_team<const V: usize>(&self, word: usize, op: &Access, w: &mut Rows<u32>) -> bool;
    /// `32 V` words from a word index, word `k` of group `i` into lane `i` of the access's register `k`; false, with
    /// nothing done, beyond the end.
    fn load_run<const V: usize>(&self, word: usize, op: &Access, w: &mut Rows<u32>) -> bool;
    /// Overwrites `V` words.
    fn store<const V: usize>(&self, word: usize, values: [u32; V]);
    /// Overwrites the bits of a word that `mask` selects.
    fn store_bits(&self, word: usize, mask: u32, value: u32);
    /// Held during a strong 64-bit access, where another thread could see half of one.
    fn wide_lock(&self) -> Option<MutexGuard<'_, ()>>;
    /// The map of written bytes, where that is checked.
    fn init(&self) -> Option<&InitMap>;
}

/// One allocation.
pub(crate) struct Region {
    words: Box<[AtomicU32]>,
    bytes: u64,
    base: u64,
    init: Option<InitMap>,
    /// Serialises strong 64-bit accesses, which span two words.
    wide: Mutex<()>,
}

impl Region {
    /// A word, as an atomic; `None` beyond the end.
    pub fn atomic(&self, word: usize) -> Option<&AtomicU32> {
        self.words.get(word)
    }
}

impl Space for Region {
    const NAME: SpaceName = SpaceName::Global;

    #[inline(always)]
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn base(&self) -> u64 {
        self.base
    }

    #[inline(always)]
    fn load<const V: usize>(&self, word: usize) -> Option<[u32; V]> {
        let words = self.words.get(word..word + V)?;
        let mut values = [0; V];
        for (value, word) in values.iter_mut().zip(words) {
            *value = word.load(Relaxed);
        }
        Some(values)
    }

    #[inline(always)]
    fn load_team<const V: usize>(&self, word: usize, op: &Access, w: &mut Rows<u32>) -> bool {
        let Some(words) = self.words.get(word..word + TEAM * V) else { return false };
        let groups = words.as_chunks::<V>().0;
        for (k, reg) in op.regs.iter().enumerate().take(V) {
            let Some(to) = w.get_mut(usize::from(*reg)) else { return false };
            for (i, group) in groups.iter().enumerate().take(TEAM) {
                let word = group[k].load(Relaxed);
                for team in to.as_chunks_mut::<TEAM>().0 {
                    team[i] = word;
                }
            }
        }
        true
    }

    /// Word by word: loads of atomics are not made into vectors, and collecting vectors from words takes longer than to
    /// store them.
    #[inline(always)]
    fn load_run<const V: usize>(&self, word: usize, op: &Access, w: &mut Rows<u32>) -> bool {
        let Some(words) = self.words.get(word..word + LANES * V) else { return false };
        let groups = words.as_chunks::<V>().0;
        for (k, reg) in op.regs.iter().enumerate().take(V) {
            let Some(to) = w.get_mut(usize::from(*reg)) else { return false };
            for (to, group) in to.iter_mut().zip(groups) {
                *to = group[k].load(Relaxed);
            }
        }
        true
    }

    #[inline(always)]
    fn store<const V: usize>(&self, word: usize, values: [u32; V]) {
        if let Some(words) = self.words.get(word..word + V) {
            for (value, word) in values.iter().zip(words) {
                word.store(*value, Relaxed);
            }
        }
    }

    fn store_bits(&self, word: usize, mask: u32, value: u32) {
        if let Some(word) = self.words.get(word) {
            // The closure never refuses, so the update cannot fail.
            let _previous = word.fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | value & mask));
        }
    }

    fn wide_lock(&self) -> Option<MutexGuard<'_, ()>> {
        Some(self.wide.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn init(&self) -> Option<&InitMap> {
        self.init.as_ref()
    }
}

/// Every allocation of a machine, by slot.
#[derive(Clone, Default)]
pub(crate) struct Globals {
    slots: Vec<Option<Arc<Region>>>,
    allocated: u64,
}

/// What an allocation is checked for beyond bounds and alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// Nothing.
    None,
    /// Written bytes.
    Full,
}

impl Globals {
    /// Bytes of the live allocations.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// The region that an address names, if it is live.
    #[inline(always)]
    pub fn region(&self, addr: u64) -> Option<&Region> {
        let slot = (addr >> OFFSET_BITS).wrapping_sub(1);
        self.slots.get(slot as usize)?.as_deref()
    }

    /// The region and the offset in it; a trap if there is none.
    #[inline(always)]
    pub fn locate(&self, addr: u64, bytes: u32) -> Result<(&Region, u64), TrapKind> {
        match self.region(addr) {
            Some(region) => Ok((region, addr & OFFSET_MASK)),
            None => Err(TrapKind::NoAllocation { addr, bytes }),
        }
    }

    /// A new allocation, its bytes unwritten. Zero bytes make an allocation that any access leaves.
    pub fn alloc(&mut self, bytes: u64, tracking: Tracking) -> Result<u64, Error> {
        let refused = Error::OutOfMemory { bytes, allocated: self.allocated };
        if bytes > OFFSET_MASK || self.slots.len() >= (1 << (63 - OFFSET_BITS)) {
            return Err(refused);
        }
        let n = bytes.div_ceil(4) as usize;
        let mut words = Vec::new();
        if words.try_reserve_exact(n).is_err() {
            return Err(refused);
        }
        words.resize_with(n, || AtomicU32::new(0));
        let base = (self.slots.len() as u64 + 1) << OFFSET_BITS;
        let full = tracking == Tracking::Full;
        self.slots.push(Some(Arc::new(Region {
            words: words.into_boxed_slice(),
            bytes,
            base,
            init: full.then(|| InitMap::new(bytes)),
            wide: Mutex::new(()),
        })));
        self.allocated += bytes;
        Ok(base)
    }

    /// Ends an allocation. Launches in flight keep its memory until they are done.
    pub fn free(&mut self, addr: u64) -> Result<(), Error> {
        let slot = (addr >> OFFSET_BITS).wrapping_sub(1) as usize;
        match self.slots.get_mut(slot) {
            Some(place) if addr & OFFSET_MASK == 0 => {
                let region = place.take().ok_or(Error::BadFree { addr })?;
                self.allocated -= region.bytes;
                Ok(())
            }
            _ => Err(Error::BadFree { addr }),
        }
    }

    fn host_range(&self, addr: u64, bytes: u64) -> Result<(&Region, u64), Error> {
        let region = self.region(addr).ok_or(Error::BadRange { addr, bytes, limit: 0 })?;
        let offset = addr & OFFSET_MASK;
        match offset.checked_add(bytes) {
            Some(end) if end <= region.bytes => Ok((region, offset)),
            _ => Err(Error::BadRange { addr, bytes, limit: region.bytes }),
        }
    }

    /// Copies `data` to the device.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        let (region, offset) = self.host_range(addr, data.len() as u64)?;
        let mut at = offset;
        let mut rest = data;
        while at & 3 != 0 && !rest.is_empty() {
            region.store_byte(at, rest[0]);
            (at, rest) = (at + 1, &rest[1..]);
        }
        let (whole, tail) = rest.as_chunks::<4>();
        let first = (at >> 2) as usize;
        if let Some(words) = region.words.get(first..first + whole.len()) {
            for (word, bytes) in words.iter().zip(whole) {
                word.store(u32::from_le_bytes(*bytes), Relaxed);
            }
        }
        at += whole.len() as u64 * 4;
        for (i, byte) in tail.iter().enumerate() {
            region.store_byte(at + i as u64, *byte);
        }
        region.written(offset, data.len() as u64);
        Ok(())
    }

    /// Copies from the device. Bytes nobody wrote read as zero.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Error> {
        let (region, offset) = self.host_range(addr, out.len() as u64)?;
        let mut at = offset;
        let mut rest = out;
        while at & 3 != 0 && !rest.is_empty() {
            rest[0] = region.load_byte(at);
            at += 1;
            rest = &mut rest[1..];
        }
        let (whole, tail) = rest.as_chunks_mut::<4>();
        let first = (at >> 2) as usize;
        if let Some(words) = region.words.get(first..first + whole.len()) {
            for (word, bytes) in words.iter().zip(whole.iter_mut()) {
                *bytes = word.load(Relaxed).to_le_bytes();
            }
        }
        at += whole.len() as u64 * 4;
        for (i, byte) in tail.iter_mut().enumerate() {
            *byte = region.load_byte(at + i as u64);
        }
        Ok(())
    }

    /// Sets `bytes` bytes to `value`.
    pub fn fill(&self, addr: u64, bytes: u64, value: u8) -> Result<(), Error> {
        let (region, offset) = self.host_range(addr, bytes)?;
        let end = offset + bytes;
        let mut at = offset;
        while at < end {
            if at & 3 == 0 && end - at >= 4 {
                region.store((at >> 2) as usize, [u32::from_ne_bytes([value; 4])]);
                at += 4;
            } else {
                region.store_byte(at, value);
                at += 1;
            }
        }
        region.written(offset, bytes);
        Ok(())
    }
}

impl Region {
    fn store_byte(&self, offset: u64, value: u8) {
        let shift = (offset & 3) * 8;
        self.store_bits((offset >> 2) as usize, 0xff << shift, u32::from(value) << shift);
    }

    fn load_byte(&self, offset: u64) -> u8 {
        let word = self.load::<1>((offset >> 2) as usize).map_or(0, |[word]| word);
        (word >> ((offset & 3) * 8)) as u8
    }

    fn written(&self, offset: u64, bytes: u64) {
        if let Some(init) = &self.init {
            init.mark_range(offset, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bytes_are_told_apart_one_by_one() {
        let map = InitMap::new(200);
        for offset in [0, 31, 32, 63, 64, 100, 199] {
            assert!(!map.has(offset, 1));
            map.mark(offset, 1);
            for other in 0..200 {
                assert_eq!(map.has(other, 1), other == offset, "byte {other} after {offset}");
            }
            map.clear();
        }
        map.mark_range(30, 70);
        for other in 0..200 {
            assert_eq!(map.has(other, 1), (30..100).contains(&other), "byte {other}");
        }
        assert!(map.has(32, 16) && map.has(96, 4) && !map.has(96, 8) && !map.has(28, 4));
    }
}
