//! Who writes and reads registers, and which slots follow each other without a branch: what it takes to put several slots in one.

use crate::code::{Code, File, Kind, Slot};
use crate::operands::{Use, visit};

/// How often each `W` register is read and written, and by which slots it is written.
pub(crate) struct Uses {
    pub reads: Vec<u32>,
    pub writers: Vec<Vec<usize>>,
    /// The bits that a register can have, where a mask says so.
    pub bits: Vec<Option<u32>>,
}

impl Uses {
    /// Of all slots.
    pub fn of(code: &mut Code) -> Uses {
        let mut uses = Uses { reads: Vec::new(), writers: Vec::new(), bits: Vec::new() };
        for at in 0..code.slots.len() {
            visit(code, at, &mut |file: File, index: &mut u16, how: Use| {
                if file != File::W {
                    return;
                }
                let index = usize::from(*index);
                if index >= uses.reads.len() {
                    uses.reads.resize(index + 1, 0);
                    uses.writers.resize(index + 1, Vec::new());
                    uses.bits.resize(index + 1, None);
                }
                match how {
                    Use::Read => uses.reads[index] += 1,
                    Use::Write => uses.writers[index].push(at),
                }
            });
        }
        for (reg, value) in &code.w_consts {
            if let Some(bits) = uses.bits.get_mut(usize::from(*reg)) {
                *bits = Some(*value);
            }
        }
        for slot in code.slots.iter().filter(|slot| slot.guard == 0) {
            let d = usize::from(slot.d);
            let masked = uses.masked(code, slot.a, slot.b);
            let bits = match slot.kind {
                Kind::AndW => masked,
                Kind::AndOrW => uses.bits[usize::from(slot.c)].zip(masked).map(|(or, bits)| or | bits),
                _ => None,
            };
            if bits.is_some() && uses.writers[d].len() == 1 {
                uses.bits[d] = bits;
            }
        }
        uses
    }

    /// The bits that a conjunction can have, if one of the two is a constant.
    pub fn masked(&self, code: &Code, a: u16, b: u16) -> Option<u32> {
        let constant = |reg: u16| code.w_consts.iter().find(|(at, _)| *at == reg).map(|(_, value)| *value);
        constant(a).or_else(|| constant(b))
    }

    /// The word of a conjunction with a constant.
    pub fn masked_word(&self, code: &Code, and: &Slot, mask: u32) -> Option<u16> {
        let is = |reg: u16| code.w_consts.contains(&(reg, mask));
        if is(and.b) { Some(and.a) } else { is(and.a).then_some(and.b) }
    }

    /// Whether a register is a constant of that value.
    pub fn is_constant(&self, code: &Code, reg: u16, value: u32) -> bool {
        code.w_consts.contains(&(reg, value))
    }

    /// The bits that a register can have, where a mask says so.
    pub fn bits_of(&self, reg: u16) -> Option<u32> {
        self.bits.get(usize::from(reg)).copied().flatten()
    }

    /// The slot that writes a register, if it is the only one and its value is read once.
    pub fn maker(&self, reg: u16) -> Option<usize> {
        let [maker] = self.writers.get(usize::from(reg))?.as_slice() else { return None };
        (self.reads[usize::from(reg)] == 1).then_some(*maker)
    }

    /// Whether a slot in `from..to` writes a register.
    pub fn written(&self, reg: u16, from: usize, to: usize) -> bool {
        let writers = self.writers.get(usize::from(reg)).map_or(&[][..], Vec::as_slice);
        writers.iter().any(|writer| (from..to).contains(writer))
    }
}

/// The first slot of the straight line that each slot is in.
pub(crate) fn line_starts(code: &Code) -> Vec<usize> {
    let branches = |kind| matches!(kind, Kind::Bra | Kind::BraIf | Kind::BraIfUni);
    let ends = |kind| branches(kind) || matches!(kind, Kind::Ret | Kind::Trap | Kind::Join);
    let mut first = vec![false; code.slots.len() + 1];
    for (at, slot) in code.slots.iter().enumerate() {
        if ends(slot.kind) {
            first[at + 1] = true;
        }
        if branches(slot.kind)
            && let Some(first) = first.get_mut(slot.x as usize)
        {
            *first = true;
        }
    }
    let mut start = 0;
    let of = |(at, first): (usize, &bool)| {
        if *first {
            start = at;
        }
        start
    };
    first.iter().enumerate().map(of).collect()
}

/// Takes slots out; branches then go by the new numbers.
pub(crate) fn remove(code: &mut Code, gone: &[bool]) {
    let mut new = Vec::with_capacity(gone.len() + 1);
    let mut count = 0;
    for gone in gone {
        new.push(count);
        count += u32::from(!gone);
    }
    new.push(count);
    let moved = |at: u32| new.get(at as usize).copied().unwrap_or(at);
    for slot in &mut code.slots {
        if matches!(slot.kind, Kind::Bra | Kind::BraIf | Kind::BraIfUni) {
            slot.x = moved(slot.x);
            let meet = moved(u32::from(slot.a) | u32::from(slot.b) << 16);
            (slot.a, slot.b) = (meet as u16, (meet >> 16) as u16);
        }
    }
    let mut kept = gone.iter();
    code.slots.retain(|_| kept.next() == Some(&false));
    let mut kept = gone.iter();
    code.origin.retain(|_| kept.next() == Some(&false));
}
