//! Pairs of operations as one slot: a value that one operation makes and one other takes, right there, is never written.
//!
//! A slot costs about ten cycles beside what it computes: finding it, loading rows, storing a row. Kernels on quantized weights
//! are full of the same few pairs, a field cut out of a word and put to use.

use ptx::sem;

use crate::code::{Code, Kind, Slot};
use crate::dots;
use crate::full::Full;
use crate::lanes::{self, LANES, float, map_rows, map2, map3};
use crate::uses::{Uses, line_starts, remove};
use crate::warp::{Context, Warp};

/// How far back a slot looks for the one that makes its operand.
const REACH: usize = 32;

/// A pair that has a function: what `first` computes is operand `place` of `then`.
struct Pair {
    first: Kind,
    then: Kind,
    place: usize,
    /// Sources of each.
    arity: (usize, usize),
    run: Full,
}

/// Every pair, by what the two compute together of the first one's sources and the second one's others, in order.
macro_rules! pairs {
    ($($name:ident: $first:ident($($p:ident),*) => $then:ident[$place:literal]($($q:ident),*) $body:block)*) => {
        $(#[allow(non_snake_case)]
        fn $name(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
            let mut regs = sources(slot).into_iter();
            $(let $p = row(warp, regs.next());)*
            $(let $q = row(warp, regs.next());)*
            let out = map_rows([$($p,)* $($q),*], |[$($p,)* $($q),*]| $body);
            warp.w[usize::from(slot.d)] = out;
            true
        })*

        const PAIRS: &[Pair] = &[$(Pair {
            first: Kind::$first,
            then: Kind::$then,
            place: $place,
            arity: (count(&[$(stringify!($p)),*]), 1 + count(&[$(stringify!($q)),*])),
            run: $name,
        }),*];
    };
}

#[inline(always)]
fn row(warp: &Warp, reg: Option<u16>) -> &[u32; LANES] {
    &warp.w[usize::from(reg.unwrap_or(0))]
}

const fn count(names: &[&str]) -> usize {
    names.len()
}

pairs! {
    AndShl: AndW(a, b) => ShlW[0](y) { sem::shl_b32(a & b, y) }
    ShlAnd: ShlW(a, b) => AndW[0](y) { sem::shl_b32(a, b) & y }
    ShrAnd: ShrU(a, b) => AndW[0](y) { sem::shr_u32(a, b) & y }
    ShrAndOr: ShrU(a, b) => AndOrW[0](y, z) { sem::shr_u32(a, b) & y | z }
    AndOrShl: ShlW(a, b) => AndOrW[2](x, y) { x & y | sem::shl_b32(a, b) }
    AddShr: ShrS(a, b) => AddW[1](x) { x.wrapping_add(sem::shr_s32(a, b)) }
    ShlAdd: ShlW(a, b) => AddW[0](y) { sem::shl_b32(a, b).wrapping_add(y) }
    AddShl: ShlW(a, b) => AddW[1](x) { x.wrapping_add(sem::shl_b32(a, b)) }
    MulToFloat: MulLoW(a, b) => F32FromS32[0]() { sem::cvt_rn_f32_s32(a.wrapping_mul(b) as i32).to_bits() }
    MadToFloat: MadLoW(a, b, c) => F32FromS32[0]() {
        sem::cvt_rn_f32_s32(a.wrapping_mul(b).wrapping_add(c) as i32).to_bits()
    }
    LowHalf: ExtU16(a) => F32FromF16[0]() { lanes::float_of_half(a) }
    HighHalf: HighW(a) => F32FromF16[0]() { lanes::float_of_half(a >> 16) }
    MulNeg: MulF(a, b) => NegF[0]() { sem::neg_f32(sem::mul_f32(float(a), float(b))).to_bits() }
}

/// What masks and `dp4a.u32.s32` have in common with [`PAIRS`]; [`dot_of`] chooses what runs.
const DOTS: &[Pair] = &[
    Pair { first: Kind::AndW, then: Kind::Dp4aUS, place: 0, arity: (2, 3), run: and_dot },
    Pair { first: Kind::AndOrW, then: Kind::Dp4aUS, place: 0, arity: (3, 3), run: and_or_dot },
];

/// The top bits of the bytes of a word.
const TOPS: u32 = 0x8080_8080;

/// The function for the bytes that `made_by` leaves: most are fields of a few bits, whose products are short.
fn dot_of(code: &Code, uses: &Uses, made_by: &Slot) -> Full {
    let small = |bits: Option<u32>| bits.is_some_and(|bits| bits & TOPS == 0);
    let field = uses.masked(code, made_by.a, made_by.b);
    if made_by.kind == Kind::AndW {
        return match field {
            Some(bits) if bits & TOPS == 0 => and_small_dot,
            Some(bits) if bits & 0x0f0f_0f0f == 0 => and_upper_dot,
            _ => and_dot,
        };
    }
    let or = uses.bits.get(usize::from(made_by.c)).copied().flatten();
    if small(field) && small(or) { and_or_small_dot } else { and_or_dot }
}

/// A dot product by itself whose bytes are known to be small.
fn short_dot(code: &Code, uses: &Uses, at: usize) -> Option<Slot> {
    let slot = code.slots[at];
    let bits = uses.bits.get(usize::from(slot.a)).copied().flatten()?;
    if slot.kind != Kind::Dp4aUS || slot.guard != 0 || bits & TOPS != 0 {
        return None;
    }
    let mut short = Slot { d: slot.d, full: small_dot, ..Slot::new(Kind::Fused) };
    set_sources(&mut short, [slot.a, slot.b, slot.c, slot.a, slot.a]);
    Some(short)
}

fn small_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, y, z] = [slot.a, slot.b, slot.c].map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot_of_small(*a, y, z, |dot| dot);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, y, z, _] = sources(slot).map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot::<false>(&map2(a, mask, |a, mask| a & mask), y, z);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_small_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, y, z, _] = sources(slot).map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot_of_small(map2(a, mask, |a, mask| a & mask), y, z, |dot| dot);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_upper_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, y, z, _] = sources(slot).map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot_of_small(map2(a, mask, |a, mask| (a & mask) >> 4), y, z, |dot| dot << 4);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_or_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, or, y, z] = sources(slot).map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot::<false>(&map3(a, mask, or, |a, mask, or| a & mask | or), y, z);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_or_small_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, or, y, z] = sources(slot).map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot_of_small(map3(a, mask, or, |a, mask, or| a & mask | or), y, z, |dot| dot);
    warp.w[usize::from(slot.d)] = out;
    true
}

/// Where a fused slot keeps its sources; what it does not need repeats the first.
pub(crate) fn sources(slot: &Slot) -> [u16; 5] {
    [slot.a, slot.b, slot.c, slot.x as u16, (slot.x >> 16) as u16]
}

/// The reverse of [`sources`].
pub(crate) fn set_sources(slot: &mut Slot, regs: [u16; 5]) {
    [slot.a, slot.b, slot.c] = [regs[0], regs[1], regs[2]];
    slot.x = u32::from(regs[3]) | u32::from(regs[4]) << 16;
}

/// Fuses what can be, and takes out the slots that are no longer needed. Branches go by slots already.
pub(crate) fn fuse(code: &mut Code) {
    let uses = Uses::of(code);
    let starts = line_starts(code);
    let mut gone = vec![false; code.slots.len()];
    for at in 0..code.slots.len() {
        if let Some((first, fused)) = partner(code, &uses, &starts, &gone, at) {
            gone[first] = true;
            code.slots[at] = fused;
        } else if let Some(short) = short_dot(code, &uses, at) {
            code.slots[at] = short;
        }
    }
    remove(code, &gone);
}

/// The slot that `at` can be fused with, and both as one.
fn partner(code: &Code, uses: &Uses, starts: &[usize], gone: &[bool], at: usize) -> Option<(usize, Slot)> {
    let then = code.slots[at];
    if then.guard != 0 {
        return None;
    }
    PAIRS.iter().chain(DOTS).filter(|pair| pair.then == then.kind).find_map(|pair| {
        let operand = [then.a, then.b, then.c][pair.place];
        let [first] = uses.writers.get(usize::from(operand))?.as_slice() else { return None };
        let first = *first;
        let near = first < at && at - first <= REACH && starts[first] == starts[at];
        if !near || gone[first] || uses.reads[usize::from(operand)] != 1 {
            return None;
        }
        // Another pair may have taken this slot's place.
        let made_by = code.slots[first];
        let theirs = [made_by.a, made_by.b, made_by.c];
        let theirs = &theirs[..pair.arity.0];
        let fits = made_by.kind == pair.first && made_by.guard == 0;
        if !fits || theirs.iter().any(|reg| uses.written(*reg, first, at)) {
            return None;
        }
        let mut fused = Slot { d: then.d, full: pair.run, ..Slot::new(Kind::Fused) };
        let mut regs = [theirs[0]; 5];
        let others = [then.a, then.b, then.c];
        let others = others[..pair.arity.1].iter().enumerate().filter(|(i, _)| *i != pair.place);
        let all = theirs.iter().chain(others.map(|(_, reg)| reg));
        for (place, reg) in regs.iter_mut().zip(all) {
            *place = *reg;
        }
        set_sources(&mut fused, regs);
        if then.kind == Kind::Dp4aUS {
            fused.full = dot_of(code, uses, &made_by);
        }
        Some((first, fused))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::{D, code, run};

    /// The two slots of a pair, their sources in registers 0 to 4, and what they leave in register 7.
    fn pair_of(pair: &Pair) -> Code {
        let between = 6;
        let first = Slot { d: between, a: 0, b: 1, c: 2, ..Slot::new(pair.first) };
        let mut rest = pair.arity.0 as u16..;
        let mut others = [0; 3];
        for (place, reg) in others.iter_mut().enumerate().take(pair.arity.1) {
            *reg = if place == pair.place { between } else { rest.next().unwrap() };
        }
        let [a, b, c] = others;
        let then = Slot { d: D, a, b, c, ..Slot::new(pair.then) };
        code(vec![first, then, Slot::new(Kind::Ret)])
    }

    #[test]
    fn every_pair_computes_what_its_two_do() {
        for pair in PAIRS.iter().chain(DOTS) {
            let apart = pair_of(pair);
            let mut fused = pair_of(pair);
            fuse(&mut fused);
            assert_eq!(fused.slots.len(), 2, "{:?} and {:?}", pair.first, pair.then);
            for seed in 0..50 {
                for lanes in [32, 11] {
                    let (want, got) = (run(&apart, seed, lanes), run(&fused, seed, lanes));
                    assert_eq!(want, got, "{:?} and {:?} of {lanes} lanes", pair.first, pair.then);
                }
            }
        }
    }

    #[test]
    fn dots_of_fields_compute_what_dots_do() {
        // Registers 0 and 1 are masks; the first word is in 2, what is or'd in 3.
        let masks =
            [[0x0f0f_0f0f, 0x3030_3030], [0x7f7f_7f7f, 0x7070_7070], [0xf0f0_f0f0, 0x0101_0101], [!0, !0]];
        let want: [[Full; 2]; 4] = [
            [and_small_dot, and_or_small_dot],
            [and_small_dot, and_or_small_dot],
            [and_upper_dot, and_or_dot],
            [and_dot, and_or_dot],
        ];
        for (masks, want) in masks.into_iter().zip(want) {
            let and = Slot { d: 6, a: 2, b: 0, ..Slot::new(Kind::AndW) };
            let or = Slot { d: 5, a: 3, b: 1, ..Slot::new(Kind::AndW) };
            let and_or = Slot { kind: Kind::AndOrW, c: 5, ..and };
            let dot = Slot { d: D, a: 6, b: 3, c: 4, ..Slot::new(Kind::Dp4aUS) };
            let ret = Slot::new(Kind::Ret);
            for (slots, want) in [vec![and, dot, ret], vec![or, and_or, dot, ret]].into_iter().zip(want) {
                let w_consts = vec![(0, masks[0]), (1, masks[1])];
                let apart = Code { w_consts, ..code(slots) };
                let mut fused = code(apart.slots.clone());
                fused.w_consts = apart.w_consts.clone();
                fuse(&mut fused);
                let chosen = fused.slots[fused.slots.len() - 2];
                assert_eq!(chosen.kind, Kind::Fused);
                assert_eq!(chosen.full as usize, want as usize, "{masks:x?}");
                for seed in 0..50 {
                    assert_eq!(run(&apart, seed, 32), run(&fused, seed, 32), "{masks:x?}");
                }
            }
        }
    }

    #[test]
    fn a_dot_of_what_others_read_too_is_short_if_its_bytes_are_small() {
        for (mask, short) in [(0x0f0f_0f0f, true), (0x8f0f_0f0f, false)] {
            let and = Slot { d: 6, a: 2, b: 0, ..Slot::new(Kind::AndW) };
            let or = Slot { d: 5, a: 3, b: 0, c: 6, ..Slot::new(Kind::AndOrW) };
            let dot = Slot { d: D, a: 5, b: 3, c: 6, ..Slot::new(Kind::Dp4aUS) };
            let again = Slot { d: 1, a: 5, ..Slot::new(Kind::NotW) };
            let apart =
                Code { w_consts: vec![(0, mask)], ..code(vec![and, or, dot, again, Slot::new(Kind::Ret)]) };
            let mut fused = code(apart.slots.clone());
            fused.w_consts = apart.w_consts.clone();
            fuse(&mut fused);
            assert_eq!(fused.slots.len(), 5);
            assert_eq!(fused.slots[2].kind == Kind::Fused, short, "{mask:#x}");
            for seed in 0..50 {
                assert_eq!(run(&apart, seed, 32), run(&fused, seed, 32), "{mask:#x}");
            }
        }
    }

    fn and_shl() -> [Slot; 2] {
        let and = Slot { d: 6, a: 0, b: 1, ..Slot::new(Kind::AndW) };
        [and, Slot { d: D, a: 6, b: 2, ..Slot::new(Kind::ShlW) }]
    }

    #[test]
    fn a_value_that_others_read_or_whose_sources_change_stays() {
        let [and, shl] = and_shl();
        let ret = Slot::new(Kind::Ret);
        let mov = |d: u16, a: u16| Slot { d, a, ..Slot::new(Kind::MovW) };
        let guarded = Slot { guard: 1, ..and };
        let jump = Slot { x: 2, guard: 1, ..Slot::new(Kind::BraIf) };
        let apart = [
            vec![and, shl, mov(3, 6), ret],
            vec![and, mov(1, 3), shl, ret],
            vec![and, mov(6, 3), shl, ret],
            vec![guarded, shl, ret],
            vec![and, Slot { guard: 1, ..shl }, ret],
            vec![and, jump, shl, ret],
        ];
        for slots in apart {
            let mut code = Code { p_regs: 1, ..code(slots.clone()) };
            fuse(&mut code);
            assert_eq!(code.slots.len(), slots.len(), "{slots:?}");
        }
        let mut code = code(vec![and, mov(3, 1), shl, ret]);
        fuse(&mut code);
        assert_eq!(code.slots.len(), 3);
    }

    #[test]
    fn branches_go_where_they_went() {
        let [and, shl] = and_shl();
        let jump = Slot { x: 4, a: 4, ..Slot::new(Kind::BraIf) };
        let back = Slot { x: 0, a: 0xffff, b: 0xffff, ..Slot::new(Kind::Bra) };
        let mut code = code(vec![and, shl, Slot { guard: 1, ..jump }, back, Slot::new(Kind::Join)]);
        fuse(&mut code);
        let kinds: Vec<Kind> = code.slots.iter().map(|slot| slot.kind).collect();
        assert_eq!(kinds, [Kind::Fused, Kind::BraIf, Kind::Bra, Kind::Join]);
        assert_eq!((code.slots[1].x, code.slots[1].a, code.slots[1].b), (3, 3, 0));
        assert_eq!((code.slots[2].x, code.slots[2].a, code.slots[2].b), (0, 0xffff, 0xffff));
        assert_eq!(code.origin.len(), 4);
    }
}
