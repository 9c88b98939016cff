//! What slots do when all 32 lanes execute them, which is nearly always: one small function each, which the decoder puts
//! into the slot, so that a straight line is a row of calls with nothing to decide in between.
//!
//! A function that returns false has done nothing, and the slot goes the general way (`Warp::run`): for control flow, guards,
//! strong accesses, and whatever is about to trap.

use ptx::{Special, sem};

use crate::affine::{self, Grid};
use crate::code::{Code, Compare, File, Kind, ShflMode, Slot};
use crate::dots;
use crate::host::{below, chosen, equal, permuted};
use crate::lane_ops::with_lane_ops;
use crate::lanes::{self, ALL, LANES, float, map1, map2, map3};
use crate::repeat::{Look, looks};
use crate::warp::{Context, Warp};

/// Executes a slot for all 32 lanes; false, with nothing done, if that is not enough for it.
pub(crate) type Full = fn(&mut Warp, &Slot, &Context<'_>) -> bool;

macro_rules! file {
    ($warp:ident, W, $i:expr) => {
        $warp.w[usize::from($i)]
    };
    ($warp:ident, Q, $i:expr) => {
        $warp.q[usize::from($i)]
    };
}

macro_rules! lanes {
    ($warp:ident, $slot:ident, $body:block, $a:ident: $fa:ident) => {
        map1(&file!($warp, $fa, $slot.a), |$a| $body)
    };
    ($warp:ident, $slot:ident, $body:block, $a:ident: $fa:ident, $b:ident: $fb:ident) => {
        map2(&file!($warp, $fa, $slot.a), &file!($warp, $fb, $slot.b), |$a, $b| $body)
    };
    ($warp:ident, $slot:ident, $body:block, $a:ident: $fa:ident, $b:ident: $fb:ident, $c:ident: $fc:ident) => {{
        let (a, b) = (&file!($warp, $fa, $slot.a), &file!($warp, $fb, $slot.b));
        map3(a, b, &file!($warp, $fc, $slot.c), |$a, $b, $c| $body)
    }};
}

macro_rules! define {
    ($($name:ident($($p:ident: $file:ident),*) -> $to:ident $body:block)*) => {
        $(#[allow(non_snake_case)]
        fn $name(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
            let out = lanes!(warp, slot, $body, $($p: $file),*);
            file!(warp, $to, slot.d) = out;
            true
        })*

        /// The function of a lane operation, which never declines, and the file of its destination.
        pub(crate) fn lane_op(kind: Kind) -> Option<(Full, File)> {
            match kind {
                $(Kind::$name => Some(($name as Full, File::$to)),)*
                _ => None,
            }
        }
    };
}
with_lane_ops!(define);

/// Gives every slot of `code` its function.
pub(crate) fn choose_all(code: &mut Code) {
    let looks = looks(code);
    let chosen: Vec<Full> =
        code.slots.iter().zip(looks).map(|(slot, look)| choose(code, slot, look)).collect();
    for (slot, full) in code.slots.iter_mut().zip(chosen) {
        slot.full = full;
        slot.writes = writes(slot);
    }
}

/// What a slot writes whose function never declines and does nothing else.
fn writes(slot: &Slot) -> Option<File> {
    if slot.guard != 0 {
        return None;
    }
    match slot.kind {
        Kind::Fused | Kind::DotChain | Kind::Lop3 | Kind::SelW => Some(File::W),
        Kind::SelQ => Some(File::Q),
        Kind::SetpU | Kind::SetpS | Kind::SetpF | Kind::SetpUQ | Kind::SetpSQ => Some(File::P),
        kind => lane_op(kind).map(|(_, file)| file),
    }
}

/// The function of a slot of `code`; if it is a load, `look` says how it comes to know its addresses.
fn choose(code: &Code, slot: &Slot, look: Look) -> Full {
    if slot.guard != 0 {
        return general;
    }
    match slot.kind {
        Kind::S32FromF32Rni => return round_to_even,
        Kind::Dp4aUS => return dot::<false>,
        Kind::Dp4aSS => return dot::<true>,
        Kind::Shfl => return choose_shuffle(code, slot),
        _ => {}
    }
    if let Some((op, _)) = lane_op(slot.kind) {
        return op;
    }
    match slot.kind {
        Kind::Lop3 => lop3,
        Kind::SelW => select_word,
        Kind::SelQ => select,
        Kind::SetpU | Kind::SetpS | Kind::SetpF | Kind::SetpUQ | Kind::SetpSQ => choose_setp(slot),
        Kind::LdGlobal | Kind::LdShared => choose_load(code, slot, look),
        Kind::StGlobal => store_global,
        Kind::StShared => store_shared,
        Kind::LdParamW | Kind::LdParamQ => parameter,
        // What a clock tells is up to date only there.
        Kind::Special if Special::ALL.get(slot.x as usize).is_none_or(|(of, _)| *of != Special::Clock) => {
            special
        }
        Kind::Nop => nothing,
        Kind::Fused | Kind::DotChain => slot.full,
        _ => general,
    }
}

/// Leaves a slot to `Warp::run`.
pub(crate) fn general(_: &mut Warp, _: &Slot, _: &Context<'_>) -> bool {
    false
}

fn nothing(_: &mut Warp, _: &Slot, _: &Context<'_>) -> bool {
    true
}

fn parameter(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    warp.load_param(slot, ALL, cx);
    true
}

fn special(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    warp.special(slot, ALL, cx);
    true
}

fn lop3(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    warp.lop3(slot, ALL);
    true
}

fn select_word(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let (a, b) = (&warp.w[usize::from(slot.a)], &warp.w[usize::from(slot.b)]);
    let out = chosen(warp.p[usize::from(slot.c)], a, b);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn select(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    warp.select(slot, ALL);
    true
}

fn setp(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    warp.setp(slot, ALL);
    true
}

const EQ: u32 = Compare::Eq as u32;
const NE: u32 = Compare::Ne as u32;
const LT: u32 = Compare::Lt as u32;
const GE: u32 = Compare::Ge as u32;

/// `setp` of unsigned integers, by one of the comparisons that loops and bounds are made of.
fn setp_unsigned<const HOW: u32>(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let (a, b) = (&warp.w[usize::from(slot.a)], &warp.w[usize::from(slot.b)]);
    warp.p[usize::from(slot.d)] = match HOW {
        EQ => equal(a, b),
        NE => !equal(a, b),
        LT => below(a, b),
        _ => !below(a, b),
    };
    true
}

fn choose_setp(slot: &Slot) -> Full {
    match (slot.kind, slot.x) {
        (Kind::SetpU, EQ) => setp_unsigned::<EQ>,
        (Kind::SetpU, NE) => setp_unsigned::<NE>,
        (Kind::SetpU, LT) => setp_unsigned::<LT>,
        (Kind::SetpU, GE) => setp_unsigned::<GE>,
        _ => setp,
    }
}

/// A load that is none of the common ones, from global memory.
fn load_global(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    !op.strong && warp.load_global(op, ALL, cx).is_ok()
}

/// The same from shared memory.
fn load_shared(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    !op.strong && warp.load_shared(op, ALL, cx).is_ok()
}

/// `ld.global` of a form that [`affine::known`] knows; with `AGAIN`, an earlier load has looked at the addresses.
fn load_global_by_grid<const AGAIN: bool>(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    let grid = if AGAIN {
        warp.grids.last(File::Q, op.base)
    } else {
        let grid = Grid::of_q(&warp.q[usize::from(op.base)]);
        warp.grids.keep(File::Q, op.base, grid);
        grid
    };
    let done = grid.is_some_and(|grid| affine::load_global(cx.globals, op, grid, &mut warp.w));
    done || warp.load_global(op, ALL, cx).is_ok()
}

/// `ld.shared` likewise.
fn load_shared_by_grid<const AGAIN: bool>(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    let grid = if AGAIN {
        warp.grids.last(File::W, op.base)
    } else {
        let grid = Grid::of_w(&warp.w[usize::from(op.base)]);
        warp.grids.keep(File::W, op.base, grid);
        grid
    };
    let done = grid.is_some_and(|grid| affine::load_shared(cx.shared, op, grid, &mut warp.w));
    done || warp.load_shared(op, ALL, cx).is_ok()
}

/// The function of a load, of which it is known whether an earlier one has looked at its addresses.
fn choose_load(code: &Code, slot: &Slot, look: Look) -> Full {
    let op = &code.accesses[slot.x as usize];
    let by_grid = affine::known(op) && !op.strong;
    match (slot.kind, by_grid, look) {
        (Kind::LdGlobal, true, Look::Itself) => load_global_by_grid::<false>,
        (Kind::LdGlobal, true, Look::Before) => load_global_by_grid::<true>,
        (Kind::LdGlobal, false, _) => load_global,
        (_, true, Look::Itself) => load_shared_by_grid::<false>,
        (_, true, Look::Before) => load_shared_by_grid::<true>,
        (_, false, _) => load_shared,
    }
}

fn store_global(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    !op.strong && warp.store_global(op, ALL, cx).is_ok()
}

fn store_shared(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    !op.strong && warp.store_shared(op, ALL, cx).is_ok()
}

/// `cvt.rni.s32.f32`. The conversion that saturates and knows NaN has no vector instruction; where every lane is small, adding
/// 1.5 · 2^23 rounds to the nearest even integer and leaves it in the low bits.
fn round_to_even(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    const MAGIC: f32 = 12_582_912.0;
    let values = &warp.w[usize::from(slot.a)];
    let large = values.iter().fold(0, |large, value| large | u32::from(value & 0x7fff_ffff >= 0x4a80_0000));
    if large != 0 {
        return S32FromF32Rni(warp, slot, cx);
    }
    let out = map1(values, |value| (float(value) + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()));
    warp.w[usize::from(slot.d)] = out;
    true
}

/// `dp4a` of unsigned or signed bytes with signed ones.
fn dot<const SIGNED: bool>(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let [a, b, c] = [slot.a, slot.b, slot.c].map(|reg| &warp.w[usize::from(reg)]);
    let out = dots::dot::<SIGNED>(a, b, c);
    warp.w[usize::from(slot.d)] = out;
    true
}

/// Shuffles of whole warps by constant masks and clamps, which are nearly all, have functions of their own.
fn choose_shuffle(code: &Code, slot: &Slot) -> Full {
    let op = &code.shuffles[slot.x as usize];
    let constant = |reg: u16| code.w_consts.iter().find(|(at, _)| *at == reg).map(|(_, value)| *value);
    if op.in_range.is_some() || constant(op.members) != Some(ALL) || constant(op.clamp) != Some(31) {
        return shuffle;
    }
    match (op.mode, constant(op.lane)) {
        (ShflMode::Bfly, Some(1)) => exchange::<1>,
        (ShflMode::Bfly, Some(2)) => exchange::<2>,
        (ShflMode::Bfly, Some(4)) => exchange::<4>,
        (ShflMode::Bfly, Some(8)) => exchange::<8>,
        (ShflMode::Bfly, Some(16)) => exchange::<16>,
        (ShflMode::Idx, _) => shuffle_from,
        _ => shuffle,
    }
}

/// `shfl.sync.bfly` by a constant.
fn exchange<const BY: usize>(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let values = &warp.w[usize::from(slot.a)];
    let mut out = [0; LANES];
    for i in 0..LANES {
        out[i] = values[i ^ BY];
    }
    warp.w[usize::from(slot.d)] = out;
    true
}

/// `shfl.sync.idx`.
fn shuffle_from(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let out = permuted(&warp.w[usize::from(slot.a)], &warp.w[usize::from(slot.b)]);
    warp.w[usize::from(slot.d)] = out;
    true
}

fn shuffle(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    warp.shuffle(&cx.code.shuffles[slot.x as usize], ALL).is_ok()
}
