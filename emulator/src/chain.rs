//! Chains of dot products as one slot: four `dp4a`, each of which adds to the last, of bytes that are known to be small.
//!
//! Weights of a few bits leave room in 16-bit lanes: the products of several words add up there before they are widened once, and
//! the sums in between are never written. The result is that of the instructions one by one, since nothing overflows.

use crate::chain_join::{join_nibbles, six_bits};
use crate::chain_run::{
    both_nibbles, lower_nibbles, six_bits_lower, six_bits_upper, upper_nibbles, whole_bytes,
};
use crate::code::{Code, Kind, Slot};
use crate::full::Full;
use crate::uses::{Uses, line_starts, remove};

/// Terms of a chain.
pub(crate) const TERMS: usize = 4;
/// How far apart the first and the last slot of a chain are at most.
pub(crate) const REACH: usize = 64;

/// The registers of a chain, all `W`: `add` plus the dot products of `words` with `vectors`.
#[derive(Clone, Debug)]
pub(crate) struct DotChain {
    pub words: [u16; TERMS],
    pub vectors: [u16; TERMS],
    /// What some chains multiply beside the vectors or make words of; the vectors again where there is none.
    pub others: [u16; TERMS],
    pub add: u16,
    pub bytes: Bytes,
}

/// Which bytes of its words a chain multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// The lower nibble of each.
    Lower,
    /// The upper nibble of each, in its place.
    Upper,
    /// The lower nibble with the vectors and the upper one with the others.
    Both,
    /// All of each, which is below 64.
    Whole,
    /// The lower nibble, and two bits of another word above it.
    SixLower,
    /// The upper nibble, likewise.
    SixUpper,
}

impl Bytes {
    /// What computes a chain.
    fn run(self) -> Full {
        match self {
            Bytes::Lower => lower_nibbles,
            Bytes::Upper => upper_nibbles,
            Bytes::Both => both_nibbles,
            Bytes::Whole => whole_bytes,
            Bytes::SixLower => six_bits_lower,
            Bytes::SixUpper => six_bits_upper,
        }
    }
}

/// Makes the slot at a place one of this chain, into the register that it has written.
pub(crate) fn place(code: &mut Code, at: usize, chain: DotChain) {
    let (x, full) = (code.chains.len() as u32, chain.bytes.run());
    code.chains.push(chain);
    code.slots[at] = Slot { d: code.slots[at].d, x, full, ..Slot::new(Kind::DotChain) };
}

/// One dot product: the slots that make it, and its registers.
struct Term {
    /// The `dp4a`.
    dot: usize,
    /// The slot that masks the word, if it is for this alone.
    mask: Option<usize>,
    bytes: Bytes,
    word: u16,
    vector: u16,
}

/// Puts chains in place of their slots.
pub(crate) fn link(code: &mut Code) {
    let uses = Uses::of(code);
    let starts = line_starts(code);
    let mut gone = vec![false; code.slots.len()];
    for at in (0..code.slots.len()).rev() {
        let Some(terms) = terms(code, &uses, &starts, &gone, at) else { continue };
        let first = &code.slots[terms[TERMS - 1].dot];
        let vectors = std::array::from_fn(|i| terms[TERMS - 1 - i].vector);
        let mut chain = DotChain {
            words: std::array::from_fn(|i| terms[TERMS - 1 - i].word),
            vectors,
            others: vectors,
            add: first.c,
            bytes: terms[0].bytes,
        };
        for term in &terms {
            gone[term.dot] = term.dot != at;
            if let Some(mask) = term.mask {
                gone[mask] = true;
            }
        }
        if let Some(six) = six_bits(code, &uses, &starts, &gone, (&chain, at)) {
            chain.bytes = if six.upper { Bytes::SixUpper } else { Bytes::SixLower };
            (chain.words, chain.others) = (six.words, [six.pairs; TERMS]);
            for slot in six.slots {
                gone[slot] = true;
            }
        }
        place(code, at, chain);
    }
    remove(code, &gone);
    join_nibbles(code);
}

/// The terms of the chain that ends at a slot, the last first.
fn terms(code: &Code, uses: &Uses, starts: &[usize], gone: &[bool], at: usize) -> Option<Vec<Term>> {
    let mut terms: Vec<Term> = Vec::with_capacity(TERMS);
    let mut next = at;
    while terms.len() < TERMS {
        let near = next <= at && at - next <= REACH && starts[next] == starts[at];
        if !near || gone[next] {
            return None;
        }
        let term = term(code, uses, starts, gone, next)?;
        if terms.first().is_some_and(|last| last.bytes != term.bytes) {
            return None;
        }
        terms.push(term);
        if terms.len() < TERMS {
            next = uses.maker(code.slots[next].c)?;
        }
    }
    // What the chain reads must still be there where it stands now.
    let kept = |term: &Term| {
        let from = term.mask.unwrap_or(term.dot);
        !uses.written(term.word, from, at) && !uses.written(term.vector, term.dot, at)
    };
    let add = code.slots[next].c;
    (terms.iter().all(kept) && !uses.written(add, next, at)).then_some(terms)
}

/// The term that a slot is, if it is one.
fn term(code: &Code, uses: &Uses, starts: &[usize], gone: &[bool], dot: usize) -> Option<Term> {
    let slot = code.slots[dot];
    if slot.kind != Kind::Dp4aUS || slot.guard != 0 {
        return None;
    }
    let whole = Term { dot, mask: None, bytes: Bytes::Whole, word: slot.a, vector: slot.b };
    let masked = uses.maker(slot.a).filter(|at| {
        let by = &code.slots[*at];
        let near = *at < dot && dot - at <= REACH && starts[*at] == starts[dot];
        near && !gone[*at] && by.kind == Kind::AndW && by.guard == 0
    });
    if let Some(at) = masked {
        let by = &code.slots[at];
        let word = |mask: u32| uses.masked_word(code, by, mask);
        let nibbles = [(Bytes::Lower, 0x0f0f_0f0f), (Bytes::Upper, 0xf0f0_f0f0)];
        let found = nibbles.into_iter().find_map(|(bytes, mask)| Some((bytes, word(mask)?)));
        if let Some((bytes, word)) = found {
            return Some(Term { mask: Some(at), bytes, word, ..whole });
        }
    }
    let bits = uses.bits_of(slot.a)?;
    (bits & 0xc0c0_c0c0 == 0).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::{D, code, run};

    /// Masks in 0 and 1, words in 8 to 11, vectors in 12 to 15; the sum so far in 2, masked words and sums from 16 on.
    const MASKS: [u32; 2] = [0x0f0f_0f0f, 0xf0f0_f0f0];

    fn and(d: u16, word: u16, mask: u16) -> Slot {
        Slot { d, a: word, b: mask, ..Slot::new(Kind::AndW) }
    }

    fn dot(d: u16, [word, vector, add]: [u16; 3]) -> Slot {
        Slot { d, a: word, b: vector, c: add, ..Slot::new(Kind::Dp4aUS) }
    }

    /// A chain over words under a mask.
    fn masked(mask: u16) -> Vec<Slot> {
        let terms = (0..4).flat_map(|i: u16| {
            let (to, add) = (if i == 3 { D } else { 20 + i }, if i == 0 { 2 } else { 19 + i });
            [and(16 + i, 8 + i, mask), dot(to, [16 + i, 12 + i, add])]
        });
        terms.chain([Slot::new(Kind::Ret)]).collect()
    }

    fn with(slots: &[Slot], masks: [u32; 2]) -> Code {
        let mut code = code(slots.to_vec());
        code.w_consts = masks.iter().enumerate().map(|(reg, mask)| (reg as u16, *mask)).collect();
        code
    }

    fn linked(slots: &[Slot], masks: [u32; 2]) -> Code {
        let mut code = with(slots, masks);
        link(&mut code);
        code
    }

    fn same(slots: &[Slot], masks: [u32; 2], slots_left: usize) {
        let (apart, chain) = (with(slots, masks), linked(slots, masks));
        assert_eq!(chain.slots.len(), slots_left, "{masks:x?}");
        for seed in 0..200 {
            for lanes in [32, 11] {
                assert_eq!(run(&apart, seed, lanes), run(&chain, seed, lanes), "{masks:x?}, {lanes} lanes");
            }
        }
    }

    #[test]
    fn chains_compute_what_their_slots_do() {
        same(&masked(0), MASKS, 2);
        same(&masked(1), MASKS, 2);
        // Words below 64, which others read too, are multiplied whole; the masks stay.
        same(&masked(0), [0x3f3f_3f3f, 0], 6);
        same(&masked(0), [0x0101_0101, 0], 6);
        same(&masked(0), [0x7f7f_7f7f, 0], 9);
    }

    #[test]
    fn extreme_bytes_do_not_overflow() {
        for (mask, bytes) in [(0, Bytes::Lower), (1, Bytes::Upper), (2, Bytes::Whole)] {
            let masks = if mask == 2 { [0x3f3f_3f3f, 0] } else { MASKS };
            let fill = |register: u16| match register {
                8..12 => Some(u32::MAX),
                12..16 => Some(0x8080_8080),
                _ => None,
            };
            let slots = masked(mask % 2);
            let (mut apart, mut chain) = (with(&slots, masks), linked(&slots, masks));
            assert_eq!(chain.chains.iter().map(|chain| chain.bytes).collect::<Vec<_>>(), [bytes]);
            for code in [&mut apart, &mut chain] {
                code.w_consts.extend((8..16).filter_map(|reg| Some((reg, fill(reg)?))));
            }
            assert_eq!(crate::trial::run(&apart, 1, 32), crate::trial::run(&chain, 1, 32));
        }
    }

    #[test]
    fn sums_that_others_read_or_whose_sources_change_stay() {
        let whole = masked(0);
        let mov = |d: u16, a: u16| Slot { d, a, ..Slot::new(Kind::MovW) };
        let with_slot = |at: usize, slot: Slot| {
            let mut slots = whole.clone();
            slots.insert(at, slot);
            slots
        };
        let guarded = |at: usize| {
            let mut slots = whole.clone();
            slots[at].guard = 1;
            slots
        };
        let apart = [
            // A sum, and a masked word, that others read.
            with_slot(4, mov(3, 21)),
            with_slot(4, mov(3, 17)),
            // Sources written before the last dot product: a word, a vector, the first sum, a sum in between.
            with_slot(3, mov(8, 3)),
            with_slot(3, mov(12, 3)),
            with_slot(3, mov(2, 3)),
            with_slot(3, mov(20, 3)),
            guarded(0),
            guarded(3),
            guarded(7),
            with_slot(4, Slot { x: 5, guard: 1, ..Slot::new(Kind::BraIf) }),
            with_slot(4, Slot::new(Kind::Join)),
        ];
        for slots in apart {
            let mut code = Code { p_regs: 1, ..with(&slots, MASKS) };
            link(&mut code);
            assert!(code.chains.is_empty(), "{slots:?}");
        }
        // What is read elsewhere is no part of it.
        assert_eq!(linked(&with_slot(3, mov(3, 8)), MASKS).slots.len(), 3);
    }

    #[test]
    fn eight_are_two_chains_and_five_are_one_and_a_dot() {
        for (terms, left) in [(8, 2), (5, 2), (3, 6)] {
            let mut slots: Vec<Slot> = Vec::new();
            for i in 0..terms {
                let add = if i == 0 { 2 } else { 23 };
                // One word and one vector for all, so that registers suffice; each sum is a register of its own.
                let (mask, sum) = (30 + 2 * i, if i + 1 == terms { D } else { 31 + 2 * i });
                let add = if i == 0 { add } else { 31 + 2 * (i - 1) };
                slots.extend([and(mask, 8, 0), dot(sum, [mask, 12, add])]);
            }
            slots.push(Slot::new(Kind::Ret));
            let chain = linked(&slots, MASKS);
            let kinds = chain.slots.iter().filter(|slot| slot.kind == Kind::DotChain).count();
            assert_eq!(kinds, terms as usize / 4, "{terms}");
            assert_eq!(chain.slots.len(), left + if terms == 5 { 2 } else { 1 }, "{terms}");
        }
    }
}
