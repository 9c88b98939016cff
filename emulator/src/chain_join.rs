//! Chains that take in the slots around them: those that make their words of six bits, and the sum of two over the nibbles of the same
//! words. Kernels on Q6_K and Q4_K consist of these.

use crate::chain::{Bytes, DotChain, REACH, TERMS, place};
use crate::chain_run::{NIBBLES, UPPER_TWO};
use crate::code::{Code, Kind, Slot};
use crate::uses::{Uses, line_starts, remove};

/// Words of six bits a byte, made by slots for a chain alone.
pub(crate) struct SixBits {
    /// Of nibbles.
    pub words: [u16; TERMS],
    /// The register of the upper two bits.
    pub pairs: u16,
    /// Whether the nibbles are the upper ones.
    pub upper: bool,
    pub slots: Vec<usize>,
}

/// How the words of a chain that stands at a slot are made, if each is a nibble and two bits of one word, the lowest two in the first.
pub(crate) fn six_bits(
    code: &Code,
    uses: &Uses,
    starts: &[usize],
    gone: &[bool],
    (chain, at): (&DotChain, usize),
) -> Option<SixBits> {
    let mut slots = Vec::new();
    let mut maker = |reg: u16, kind: Kind| {
        let made = uses.maker(reg)?;
        let slot = &code.slots[made];
        let near = made < at && at - made <= REACH && starts[made] == starts[at];
        let fits = near && !gone[made] && slot.kind == kind && slot.guard == 0;
        fits.then(|| slots.push(made))?;
        Some((made, *slot))
    };
    let is = |reg: u16, value: u32| uses.is_constant(code, reg, value);
    let mut found: Vec<(u16, u16, bool)> = Vec::with_capacity(TERMS);
    for (k, word) in chain.words.iter().enumerate() {
        let (both_at, both) = maker(*word, Kind::AndOrW)?;
        let (masked_at, masked) = maker(both.c, Kind::AndW)?;
        let shift = [(Kind::ShlW, 4), (Kind::ShlW, 2), (Kind::MovW, 0), (Kind::ShrU, 2)][k];
        let (pairs, read_at) = match shift {
            (Kind::MovW, _) => (masked.a, masked_at),
            (kind, by) => {
                let (shifted_at, shifted) = maker(masked.a, kind)?;
                is(shifted.b, by).then_some((shifted.a, shifted_at))?
            }
        };
        let (nibble, from, upper) = match maker(both.a, Kind::ShrU) {
            Some((shifted_at, shifted)) if is(shifted.b, 4) => (shifted.a, shifted_at, true),
            Some(_) => return None,
            None => (both.a, both_at, false),
        };
        let masks = is(both.b, NIBBLES) && is(masked.b, UPPER_TWO);
        let kept = !uses.written(pairs, read_at, at) && !uses.written(nibble, from, at);
        (masks && kept).then(|| found.push((nibble, pairs, upper)))?;
    }
    let (_, pairs, upper) = found[0];
    let same = found.iter().all(|word| (word.1, word.2) == (pairs, upper));
    same.then(|| SixBits { words: std::array::from_fn(|k| found[k].0), pairs, upper, slots })
}

/// Makes one chain of two over the nibbles of the same words where the upper one's sum, brought to its place, is added to the lower's.
pub(crate) fn join_nibbles(code: &mut Code) {
    let uses = Uses::of(code);
    let starts = line_starts(code);
    let mut gone = vec![false; code.slots.len()];
    for at in 0..code.slots.len() {
        let Some((chain, others)) = both_of(code, &uses, &starts, at) else { continue };
        for slot in others {
            gone[slot] = true;
        }
        place(code, at, chain);
    }
    remove(code, &gone);
}

/// The chain that the addition at a slot makes of two, and the slots that it replaces.
fn both_of(code: &Code, uses: &Uses, starts: &[usize], at: usize) -> Option<(DotChain, [usize; 3])> {
    let add = code.slots[at];
    let maker = |reg: u16, kind: Kind| {
        let made = uses.maker(reg)?;
        let slot = &code.slots[made];
        let near = made < at && at - made <= REACH && starts[made] == starts[at];
        (near && slot.kind == kind && slot.guard == 0).then_some((made, slot))
    };
    if add.kind != Kind::AddW || add.guard != 0 {
        return None;
    }
    let (lower_at, lower) = maker(add.a, Kind::DotChain)?;
    let (shift_at, shift) = maker(add.b, Kind::ShrS)?;
    let (upper_at, upper) = maker(shift.a, Kind::DotChain)?;
    let chain = |slot: &Slot, bytes: Bytes| {
        let chain = &code.chains[slot.x as usize];
        (chain.bytes == bytes).then_some(chain)
    };
    let (lower, upper) = (chain(lower, Bytes::Lower)?, chain(upper, Bytes::Upper)?);
    // From 0 on the upper sum is a multiple of 16, which loses nothing when it is shifted back.
    let alone = uses.is_constant(code, upper.add, 0) && uses.is_constant(code, shift.b, 4);
    let kept = |from: usize, chain: &DotChain| {
        let regs = chain.words.iter().chain(&chain.vectors).chain([&chain.add]);
        regs.into_iter().all(|reg| !uses.written(*reg, from, at))
    };
    let fits = alone && lower.words == upper.words && kept(lower_at, lower) && kept(upper_at, upper);
    let both = || DotChain { others: upper.vectors, bytes: Bytes::Both, ..lower.clone() };
    fits.then(|| (both(), [lower_at, upper_at, shift_at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::link;
    use crate::trial::{D, code, run};

    /// Constants in 0 to 6; words in 8 to 11, vectors in 12 to 15, others in 16 to 19; the sum so far in 20, pairs of bits in 21.
    const CONSTANTS: [u32; 6] = [NIBBLES, UPPER_TWO, 4, 2, 0xf0f0_f0f0, 0];
    const LOWER: u16 = 0;
    const TWO: u16 = 1;
    const BY_4: u16 = 2;
    const BY_2: u16 = 3;
    const UPPER: u16 = 4;
    const ZERO: u16 = 5;
    const SUM: u16 = 20;
    const PAIRS: u16 = 21;

    fn slot(kind: Kind, d: u16, [a, b, c]: [u16; 3]) -> Slot {
        Slot { d, a, b, c, ..Slot::new(kind) }
    }

    fn with(slots: &[Slot]) -> Code {
        let mut code = code(slots.to_vec());
        code.w_consts = CONSTANTS.iter().enumerate().map(|(reg, value)| (reg as u16, *value)).collect();
        code
    }

    fn linked(slots: &[Slot]) -> Code {
        let mut code = with(slots);
        link(&mut code);
        code
    }

    fn same(slots: &[Slot], left: usize) -> Code {
        let (apart, chain) = (with(slots), linked(slots));
        assert_eq!(chain.slots.len(), left, "{slots:?}");
        for seed in 0..200 {
            for lanes in [32, 11] {
                assert_eq!(run(&apart, seed, lanes), run(&chain, seed, lanes), "{lanes} lanes");
            }
        }
        chain
    }

    /// A chain over words of six bits a byte, whose nibbles are shifted by a constant first.
    fn six(shift_by: Option<u16>) -> Vec<Slot> {
        let mut slots = Vec::new();
        for k in 0..4 {
            let (shifted, masked, nibble, word) = (24 + k, 28 + k, 32 + k, 36 + k);
            let shift = [Some((Kind::ShlW, BY_4)), Some((Kind::ShlW, BY_2)), None, Some((Kind::ShrU, BY_2))];
            if let Some((kind, by)) = shift[usize::from(k)] {
                slots.push(slot(kind, shifted, [PAIRS, by, 0]));
            }
            let pairs = if k == 2 { PAIRS } else { shifted };
            slots.push(slot(Kind::AndW, masked, [pairs, TWO, 0]));
            if let Some(by) = shift_by {
                slots.push(slot(Kind::ShrU, nibble, [8 + k, by, 0]));
            }
            let from = shift_by.map_or(8 + k, |_| nibble);
            slots.push(slot(Kind::AndOrW, word, [from, LOWER, masked]));
        }
        for k in 0..4 {
            let (to, add) = (if k == 3 { D } else { 40 + k }, if k == 0 { SUM } else { 39 + k });
            slots.push(slot(Kind::Dp4aUS, to, [36 + k, 12 + k, add]));
        }
        slots.push(Slot::new(Kind::Ret));
        slots
    }

    /// What the chain multiplies that the first slot is.
    fn first_bytes(code: &Code) -> Bytes {
        assert_eq!(code.slots[0].kind, Kind::DotChain);
        code.chains[code.slots[0].x as usize].bytes
    }

    #[test]
    fn words_of_six_bits_are_made_by_their_chain() {
        for (shift, want) in [(None, Bytes::SixLower), (Some(BY_4), Bytes::SixUpper)] {
            assert_eq!(first_bytes(&same(&six(shift), 2)), want);
        }
    }

    #[test]
    fn six_bits_at_their_largest_do_not_overflow() {
        for shift in [None, Some(BY_4)] {
            let (mut apart, mut chain) = (with(&six(shift)), linked(&six(shift)));
            for code in [&mut apart, &mut chain] {
                code.w_consts.extend((8..12).chain([PAIRS]).map(|reg| (reg, u32::MAX)));
                code.w_consts.extend((12..16).map(|reg| (reg, 0x8080_8080)));
            }
            assert_eq!(run(&apart, 1, 32), run(&chain, 1, 32));
        }
    }

    #[test]
    fn other_words_are_left_to_their_slots() {
        for shift in [None, Some(BY_4)] {
            let whole = six(shift);
            for at in 0..whole.len() - 5 {
                // Another constant, a guard, and a value that somebody else reads.
                let mut changed = vec![whole.clone(), whole.clone(), whole.clone()];
                let constant = &mut changed[0][at].b;
                *constant = if *constant == BY_4 { BY_2 } else { BY_4 };
                changed[1][at].guard = 1;
                let read = slot(Kind::MovW, 44, [whole[at].d, 0, 0]);
                changed[2].insert(whole.len() - 1, read);
                // A source written in between.
                for source in [PAIRS, 8, 11] {
                    let mut written = whole.clone();
                    written.insert(whole.len() - 2, slot(Kind::MovW, source, [SUM, 0, 0]));
                    changed.push(written);
                }
                for slots in changed {
                    let mut code = Code { p_regs: 1, ..with(&slots) };
                    link(&mut code);
                    let six = [Bytes::SixLower, Bytes::SixUpper];
                    assert!(code.chains.iter().all(|chain| !six.contains(&chain.bytes)), "{slots:?}");
                }
            }
        }
    }

    /// Two chains over the nibbles of the same words, and their sum.
    fn nibbles() -> Vec<Slot> {
        let mut slots = Vec::new();
        for (mask, vectors, first, sum) in [(LOWER, 12, SUM, 24), (UPPER, 16, ZERO, 36)] {
            for k in 0..4 {
                slots.push(slot(Kind::AndW, sum + 4 + k, [8 + k, mask, 0]));
                let add = if k == 0 { first } else { sum + k - 1 };
                slots.push(slot(Kind::Dp4aUS, sum + k, [sum + 4 + k, vectors + k, add]));
            }
        }
        slots.push(slot(Kind::ShrS, 44, [39, BY_4, 0]));
        slots.push(slot(Kind::AddW, D, [27, 44, 0]));
        slots.push(Slot::new(Kind::Ret));
        slots
    }

    #[test]
    fn both_nibbles_are_one_chain() {
        let chain = same(&nibbles(), 2);
        assert_eq!(first_bytes(&chain), Bytes::Both);
        let (mut apart, mut chain) = (with(&nibbles()), chain);
        for code in [&mut apart, &mut chain] {
            code.w_consts.extend((8..12).map(|reg| (reg, u32::MAX)));
            code.w_consts.extend((12..20).map(|reg| (reg, 0x8080_8080)));
        }
        assert_eq!(run(&apart, 1, 32), run(&chain, 1, 32));
    }

    #[test]
    fn sums_of_other_chains_stay_two() {
        let whole = nibbles();
        let change = |at: usize, by: &dyn Fn(&mut Slot)| {
            let mut slots = whole.clone();
            by(&mut slots[at]);
            slots
        };
        let insert = |at: usize, d: u16, a: u16| {
            let mut slots = whole.clone();
            slots.insert(at, slot(Kind::MovW, d, [a, 0, 0]));
            slots
        };
        let others = [
            // The upper sum does not start at 0, is shifted otherwise, is of other words; a guard.
            change(9, &|slot| slot.c = SUM),
            change(16, &|slot| slot.b = BY_2),
            change(14, &|slot| slot.a = 10),
            change(17, &|slot| slot.guard = 1),
            // Somebody else reads a sum, and sources are written after a chain.
            insert(18, 45, 27),
            insert(18, 45, 44),
            insert(16, 8, SUM),
            insert(16, 12, SUM),
            insert(16, 19, SUM),
            insert(16, SUM, 8),
        ];
        for slots in others {
            let mut code = Code { p_regs: 1, ..with(&slots) };
            link(&mut code);
            let chains = code.slots.iter().filter(|slot| slot.kind == Kind::DotChain).count();
            assert_eq!(chains, 2, "{slots:?}");
        }
    }
}
