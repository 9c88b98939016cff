//! Several operations as one slot: a value that one operation makes and one other takes, right there, is never written.
//!
//! A slot costs about ten cycles beside what it computes: finding it, loading rows, storing a row. Kernels on quantized weights
//! are full of the same few expressions: a field cut out of a word and put to use, what a sub-block adds to its row's sum.

use ptx::sem;

use crate::code::{Code, Kind, Slot};
use crate::dots;
use crate::full::Full;
use crate::lanes::{self, LANES, float, map_rows, map2, map3};
use crate::uses::{Uses, line_starts, remove};
use crate::warp::{Context, Warp};

/// How far back a slot looks for those that make its operands.
const REACH: usize = 64;

/// Registers that a fused slot reads, at most.
const SOURCES: usize = 9;

/// What slots compute together.
#[derive(Debug)]
enum Tree {
    /// What a register holds.
    X,
    /// An operation of others.
    Of(Kind, &'static [Tree]),
}
use Tree::{Of, X};

/// An expression that has a function: its root, the root's operands, and what computes it of its registers, in order.
struct Pattern {
    root: Kind,
    operands: &'static [Tree],
    run: Full,
}

/// Every expression, by what it computes of its registers.
macro_rules! patterns {
    ($($name:ident: $root:ident $operands:tt => ($($p:ident),*) $body:block)*) => {
        $(#[allow(non_snake_case)]
        fn $name(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
            let mut regs = sources(slot).into_iter();
            $(let $p = row(warp, regs.next());)*
            let out = map_rows([$($p),*], |[$($p),*]| $body);
            warp.w[usize::from(slot.d)] = out;
            true
        })*

        /// The larger before those that are part of them.
        const PATTERNS: &[Pattern] =
            &[$(Pattern { root: Kind::$root, operands: &$operands, run: $name }),*];
    };
}

#[inline(always)]
fn row(warp: &Warp, reg: Option<u16>) -> &[u32; LANES] {
    &warp.w[usize::from(reg.unwrap_or(0))]
}

/// The float of the product of two integers.
#[inline(always)]
fn product(a: u32, b: u32) -> f32 {
    sem::cvt_rn_f32_s32(a.wrapping_mul(b) as i32)
}

/// The float of the lower half of a word.
#[inline(always)]
fn half(word: u32) -> f32 {
    float(lanes::float_of_half(word))
}

use Kind::{
    AndOrW, AndW, ExtU16, F32FromF16, F32FromS32, FmaF, HighW, MadLoW, MulF, MulLoW, NegF, ShlW, ShrS, ShrU,
};

/// A product as a float.
const PRODUCT: Tree = Of(F32FromS32, &[Of(MulLoW, &[X, X])]);
/// The halves of a word as floats.
const LOW_HALF: Tree = Of(F32FromF16, &[Of(ExtU16, &[X])]);
const HIGH_HALF: Tree = Of(F32FromF16, &[Of(HighW, &[X])]);

patterns! {
    // What a sub-block of Q4_K adds: x (d dot scale - dmin sum min).
    AddSubBlock: FmaF [
        X,
        Of(FmaF, &[LOW_HALF, PRODUCT, Of(NegF, &[Of(MulF, &[HIGH_HALF, PRODUCT])])]),
        X
    ] => (x, d, dot, scale, dmin, sum, min, acc) {
        let least = sem::neg_f32(sem::mul_f32(half(dmin >> 16), product(sum, min)));
        let value = sem::fma_f32(half(d), product(dot, scale), least);
        sem::fma_f32(float(x), value, float(acc)).to_bits()
    }
    // What two of Q6_K add: x d (dot scale + dot scale).
    AddTwoSubBlocks: FmaF [
        X,
        Of(MulF, &[Of(F32FromF16, &[X]), Of(F32FromS32, &[Of(MadLoW, &[X, X, Of(MulLoW, &[X, X])])])]),
        X
    ] => (x, d, dot, scale, other, its, acc) {
        let scaled = dot.wrapping_mul(scale).wrapping_add(other.wrapping_mul(its));
        let value = sem::mul_f32(half(d), sem::cvt_rn_f32_s32(scaled as i32));
        sem::fma_f32(float(x), value, float(acc)).to_bits()
    }
    // A field of four bits, and two that belong above it.
    SixBits: AndOrW [Of(ShrU, &[X, X]), X, Of(ShlW, &[Of(AndW, &[X, X]), X])] => (a, by, mask, b, of, up) {
        sem::shr_u32(a, by) & mask | sem::shl_b32(b & of, up)
    }
    AndShl: ShlW [Of(AndW, &[X, X]), X] => (a, b, y) { sem::shl_b32(a & b, y) }
    ShlAnd: AndW [Of(ShlW, &[X, X]), X] => (a, b, y) { sem::shl_b32(a, b) & y }
    ShrAnd: AndW [Of(ShrU, &[X, X]), X] => (a, b, y) { sem::shr_u32(a, b) & y }
    ShrAndOr: AndOrW [Of(ShrU, &[X, X]), X, X] => (a, b, y, z) { sem::shr_u32(a, b) & y | z }
    AndOrShl: AndOrW [X, X, Of(ShlW, &[X, X])] => (x, y, a, b) { x & y | sem::shl_b32(a, b) }
    AddShr: AddW [X, Of(ShrS, &[X, X])] => (x, a, b) { x.wrapping_add(sem::shr_s32(a, b)) }
    ShlAdd: AddW [Of(ShlW, &[X, X]), X] => (a, b, y) { sem::shl_b32(a, b).wrapping_add(y) }
    AddShl: AddW [X, Of(ShlW, &[X, X])] => (x, a, b) { x.wrapping_add(sem::shl_b32(a, b)) }
    MulToFloat: F32FromS32 [Of(MulLoW, &[X, X])] => (a, b) { product(a, b).to_bits() }
    MadToFloat: F32FromS32 [Of(MadLoW, &[X, X, X])] => (a, b, c) {
        sem::cvt_rn_f32_s32(a.wrapping_mul(b).wrapping_add(c) as i32).to_bits()
    }
    LowHalf: F32FromF16 [Of(ExtU16, &[X])] => (a) { lanes::float_of_half(a) }
    HighHalf: F32FromF16 [Of(HighW, &[X])] => (a) { lanes::float_of_half(a >> 16) }
    MulNeg: NegF [Of(MulF, &[X, X])] => (a, b) { sem::neg_f32(sem::mul_f32(float(a), float(b))).to_bits() }
}

/// What masks and `dp4a.u32.s32` have in common with [`PATTERNS`]; [`dot_of`] chooses what runs.
const DOTS: &[Pattern] = &[
    Pattern { root: Kind::Dp4aUS, operands: &[Of(AndW, &[X, X]), X, X], run: and_dot },
    Pattern { root: Kind::Dp4aUS, operands: &[Of(AndOrW, &[X, X, X]), X, X], run: and_or_dot },
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
    set_sources(&mut short, sources_of(&[slot.a, slot.b, slot.c]));
    Some(short)
}

fn small_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, y, z] = [slot.a, slot.b, slot.c].map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot_of_small(*a, y, z, |dot| dot);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, y, z] = rows(warp, slot);
    let out = dots::dot::<false>(&map2(a, mask, |a, mask| a & mask), y, z);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_small_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, y, z] = rows(warp, slot);
    let out = dots::dot_of_small(map2(a, mask, |a, mask| a & mask), y, z, |dot| dot);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_upper_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, y, z] = rows(warp, slot);
    let out = dots::dot_of_small(map2(a, mask, |a, mask| (a & mask) >> 4), y, z, |dot| dot << 4);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_or_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, or, y, z] = rows(warp, slot);
    let out = dots::dot::<false>(&map3(a, mask, or, |a, mask, or| a & mask | or), y, z);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn and_or_small_dot(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, mask, or, y, z] = rows(warp, slot);
    let out = dots::dot_of_small(map3(a, mask, or, |a, mask, or| a & mask | or), y, z, |dot| dot);
    warp.w[usize::from(slot.d)] = out;
    true
}

/// The first registers that a fused slot reads.
#[inline(always)]
fn rows<'w, const N: usize>(warp: &'w Warp, slot: &Slot) -> [&'w [u32; LANES]; N] {
    let regs = sources(slot);
    std::array::from_fn(|i| &warp.w[usize::from(regs[i])])
}

/// Where a fused slot keeps its sources; what it does not need repeats the first.
#[inline(always)]
pub(crate) fn sources(slot: &Slot) -> [u16; SOURCES] {
    let [d, e, f, g] = slot.more;
    [slot.a, slot.b, slot.c, slot.x as u16, (slot.x >> 16) as u16, d, e, f, g]
}

/// The reverse of [`sources`].
pub(crate) fn set_sources(slot: &mut Slot, regs: [u16; SOURCES]) {
    let [a, b, c, low, high, more @ ..] = regs;
    (slot.a, slot.b, slot.c, slot.more) = (a, b, c, more);
    slot.x = u32::from(low) | u32::from(high) << 16;
}

/// Some registers as all [`sources`].
fn sources_of(regs: &[u16]) -> [u16; SOURCES] {
    std::array::from_fn(|i| regs.get(i).or(regs.first()).copied().unwrap_or(0))
}

/// Fuses what can be, and takes out the slots that are no longer needed. Branches go by slots already.
pub(crate) fn fuse(code: &mut Code) {
    let uses = Uses::of(code);
    let starts = line_starts(code);
    let mut gone = vec![false; code.slots.len()];
    for at in (0..code.slots.len()).rev().filter(|at| code.slots[*at].guard == 0).collect::<Vec<_>>() {
        if gone[at] {
            continue;
        }
        let (code_now, starts) = (&*code, starts.as_slice());
        let fused = PATTERNS.iter().chain(DOTS).find_map(|pattern| {
            let mut found =
                Found { code: code_now, uses: &uses, starts, at, inner: Vec::new(), leaves: Vec::new() };
            found.is(pattern).then(|| (found.slot(pattern), found.inner))
        });
        if let Some((slot, inner)) = fused {
            for inner in inner {
                gone[inner] = true;
            }
            code.slots[at] = slot;
        } else if let Some(short) = short_dot(code, &uses, at) {
            code.slots[at] = short;
        }
    }
    remove(code, &gone);
}

/// The search for an expression whose root is a slot.
struct Found<'a> {
    code: &'a Code,
    uses: &'a Uses,
    starts: &'a [usize],
    at: usize,
    /// The slots that make operands.
    inner: Vec<usize>,
    /// The registers, in order, and the slots that read them.
    leaves: Vec<(u16, usize)>,
}

impl Found<'_> {
    /// Whether the slot is the root of a pattern.
    fn is(&mut self, pattern: &Pattern) -> bool {
        let grows = self.code.slots[self.at].kind == pattern.root && self.grow(pattern.operands, self.at);
        // What the slot reads must still be there where it stands.
        grows && self.leaves.iter().all(|(reg, from)| !self.uses.written(*reg, *from, self.at))
    }

    /// Whether a slot's operands are made as trees say.
    fn grow(&mut self, trees: &[Tree], by: usize) -> bool {
        let slot = self.code.slots[by];
        let mut operands = trees.iter().zip([slot.a, slot.b, slot.c]);
        operands.all(|(tree, reg)| match tree {
            X => {
                self.leaves.push((reg, by));
                true
            }
            Of(kind, operands) => {
                let Some(made) = self.uses.maker(reg).filter(|made| self.near(*made, by)) else {
                    return false;
                };
                let made_by = &self.code.slots[made];
                self.inner.push(made);
                made_by.kind == *kind && made_by.guard == 0 && self.grow(operands, made)
            }
        })
    }

    /// Whether a slot comes before another, and shortly before the root, with nothing but a straight line in between.
    fn near(&self, made: usize, by: usize) -> bool {
        made < by && self.at - made <= REACH && self.starts[made] == self.starts[self.at]
    }

    /// Everything as one slot.
    fn slot(&self, pattern: &Pattern) -> Slot {
        let root = self.code.slots[self.at];
        let mut slot = Slot { d: root.d, full: pattern.run, ..Slot::new(Kind::Fused) };
        let regs: Vec<u16> = self.leaves.iter().map(|(reg, _)| *reg).collect();
        set_sources(&mut slot, sources_of(&regs));
        if root.kind == Kind::Dp4aUS {
            slot.full = dot_of(self.code, self.uses, &self.code.slots[self.inner[0]]);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::{D, code, run};

    /// The slots of an expression: registers in 0 to 5 and 8 on, what is made in between in 20 on, the result in 7.
    fn slots_of(kind: Kind, operands: &[Tree], (leaf, made): (&mut u16, &mut u16), d: u16) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut regs = [0; 3];
        for (tree, reg) in operands.iter().zip(&mut regs) {
            match tree {
                X => {
                    *reg = *leaf;
                    *leaf += if *leaf == 5 { 3 } else { 1 };
                }
                Of(kind, operands) => {
                    *reg = *made;
                    *made += 1;
                    slots.extend(slots_of(*kind, operands, (&mut *leaf, &mut *made), *reg));
                }
            }
        }
        let [a, b, c] = regs;
        slots.push(Slot { d, a, b, c, ..Slot::new(kind) });
        slots
    }

    /// A pattern's slots, with the end of a kernel.
    fn code_of(pattern: &Pattern) -> Code {
        let mut slots = slots_of(pattern.root, pattern.operands, (&mut 0, &mut 20), D);
        slots.push(Slot::new(Kind::Ret));
        code(slots)
    }

    #[test]
    fn every_pattern_computes_what_its_slots_do() {
        for pattern in PATTERNS.iter().chain(DOTS) {
            let apart = code_of(pattern);
            let mut fused = code_of(pattern);
            fuse(&mut fused);
            let tree = (pattern.root, pattern.operands);
            assert_eq!(fused.slots.len(), 2, "{tree:?}");
            if pattern.root != Kind::Dp4aUS {
                assert_eq!(fused.slots[0].full as usize, pattern.run as usize, "{tree:?}");
            }
            for seed in 0..200 {
                for lanes in [32, 11] {
                    let (want, got) = (run(&apart, seed, lanes), run(&fused, seed, lanes));
                    assert_eq!(want, got, "{tree:?} of {lanes} lanes");
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
