//! What chains of dot products compute. Sums stay in 16 bits as long as they fit, and are widened once.

use crate::chain::{DotChain, TERMS};
use crate::code::Slot;
use crate::host::{Bytes, Halves, WORDS};
use crate::lanes::LANES;
use crate::rows::Rows;
use crate::warp::{Context, Warp};

/// The lower nibble of each byte.
pub(crate) const NIBBLES: u32 = 0x0f0f_0f0f;
/// Where the upper two of six bits are.
pub(crate) const UPPER_TWO: u32 = 0x3030_3030;

/// The words of four registers at one place of their rows.
#[inline(always)]
fn words(w: &Rows<u32>, regs: &[u16; TERMS], at: usize) -> [Bytes; TERMS] {
    regs.map(|reg| Bytes::of(&w[usize::from(reg)].as_chunks::<WORDS>().0[at]))
}

/// The sum of four terms.
#[inline(always)]
fn four(term: impl Fn(usize) -> Halves) -> Halves {
    term(0).add(term(1)).add(term(2)).add(term(3))
}

/// What a chain adds at a place of its rows, after `sums`, which are added to its `add`.
#[inline(always)]
fn run(
    warp: &mut Warp,
    slot: &Slot,
    cx: &Context<'_>,
    sums: impl Fn(&Rows<u32>, &DotChain, usize) -> [u32; WORDS],
) -> bool {
    let chain = &cx.code.chains[slot.x as usize];
    let mut out = [0; LANES];
    for (at, out) in out.as_chunks_mut::<WORDS>().0.iter_mut().enumerate() {
        *out = sums(&warp.w, chain, at);
    }
    let add = &warp.w[usize::from(chain.add)];
    for (out, add) in out.iter_mut().zip(add) {
        *out = add.wrapping_add(*out);
    }
    warp.w[usize::from(slot.d)] = out;
    true
}

/// 8 products of at most 15 · 128 fit in 16 bits.
pub(crate) fn lower_nibbles(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    run(warp, slot, cx, |w, chain, at| {
        let (words, vectors) = (words(w, &chain.words, at), words(w, &chain.vectors, at));
        four(|k| words[k].and(NIBBLES).products(vectors[k])).sums()
    })
}

/// The upper ones in their place, which are 16 times as much.
pub(crate) fn upper_nibbles(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    run(warp, slot, cx, |w, chain, at| {
        let (words, vectors) = (words(w, &chain.words, at), words(w, &chain.vectors, at));
        four(|k| words[k].shr::<4>().and(NIBBLES).products(vectors[k])).sums().map(|sum| sum << 4)
    })
}

/// Lower nibbles with the chain's vectors and upper ones with the others: 16 products fit as well.
pub(crate) fn both_nibbles(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    run(warp, slot, cx, |w, chain, at| {
        let (words, vectors) = (words(w, &chain.words, at), words(w, &chain.vectors, at));
        let others = self::words(w, &chain.others, at);
        let lower = four(|k| words[k].and(NIBBLES).products(vectors[k]));
        let upper = four(|k| words[k].shr::<4>().and(NIBBLES).products(others[k]));
        lower.add(upper).sums()
    })
}

/// The sum of four terms of which two fit in 16 bits: 4 products of at most 63 · 128.
#[inline(always)]
fn two_and_two(term: impl Fn(usize) -> Halves) -> [u32; WORDS] {
    let (one, other) = (term(0).add(term(1)).sums(), term(2).add(term(3)).sums());
    std::array::from_fn(|i| one[i].wrapping_add(other[i]))
}

/// Bytes below 64.
pub(crate) fn whole_bytes(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    run(warp, slot, cx, |w, chain, at| {
        let (words, vectors) = (words(w, &chain.words, at), words(w, &chain.vectors, at));
        two_and_two(|k| words[k].products(vectors[k]))
    })
}

/// Bytes of six bits: four from a nibble of a word, `nibble` to the right of it, and the upper two from the four pairs of bits of
/// another word in turn, the lowest first.
#[inline(always)]
fn six_bits(warp: &mut Warp, slot: &Slot, cx: &Context<'_>, nibble: impl Fn(Bytes) -> Bytes) -> bool {
    run(warp, slot, cx, |w, chain, at| {
        let (words, vectors) = (words(w, &chain.words, at), words(w, &chain.vectors, at));
        let pairs = self::words(w, &chain.others, at)[0];
        let pairs = [pairs.shl::<4>(), pairs.shl::<2>(), pairs, pairs.shr::<2>()];
        let bytes = |k: usize| nibble(words[k]).and(NIBBLES).or(pairs[k].and(UPPER_TWO));
        two_and_two(|k| bytes(k).products(vectors[k]))
    })
}

/// Six bits with the lower nibble of each byte.
pub(crate) fn six_bits_lower(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    six_bits(warp, slot, cx, |word| word)
}

/// Six bits with the upper nibble of each byte.
pub(crate) fn six_bits_upper(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    six_bits(warp, slot, cx, |word| word.shr::<4>())
}
