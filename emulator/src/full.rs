//! What slots do when all 32 lanes execute them, which is nearly always: one small function each, which the decoder puts
//! into the slot, so that a straight line is a row of calls with nothing to decide in between.
//!
//! A function that returns false has done nothing, and the slot goes the general way (`Warp::run`): for control flow, guards,
//! strong accesses, and whatever is about to trap.

use ptx::{Mod, Ty, sem};

use crate::affine::{self, TEAM};
use crate::code::{Code, File, Kind, ShflMode, Slot};
use crate::dots;
use crate::lane_ops::with_lane_ops;
use crate::lanes::{self, ALL, LANES, float, map1, map2, map3};
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

/// The function of a slot of `code`.
pub(crate) fn choose(code: &Code, slot: &Slot) -> Full {
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
        Kind::SelW | Kind::SelQ => select,
        Kind::SetpU | Kind::SetpS | Kind::SetpF | Kind::SetpUQ | Kind::SetpSQ => setp,
        Kind::LdGlobal => load_global,
        Kind::LdShared => load_shared,
        Kind::StGlobal => store_global,
        Kind::StShared => store_shared,
        Kind::Nop => nothing,
        Kind::Fused => slot.full,
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

fn lop3(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    warp.lop3(slot, ALL);
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

fn load_global(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    if op.strong {
        return false;
    }
    affine::load_global(cx.globals, op, &warp.q[usize::from(op.base)], &mut warp.w)
        || warp.load_global(op, ALL, cx).is_ok()
}

fn load_shared(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    let op = &cx.code.accesses[slot.x as usize];
    !op.strong && (affine::load_shared(cx.shared, op, &mut warp.w) || warp.load_shared(op, ALL, cx).is_ok())
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

/// `shfl.sync.idx`, usually from one lane to a team of eight.
fn shuffle_from(warp: &mut Warp, slot: &Slot, _: &Context<'_>) -> bool {
    let (values, from) = (&warp.w[usize::from(slot.a)], &warp.w[usize::from(slot.b)]);
    let mut out = [0; LANES];
    for (out, from) in out.as_chunks_mut::<TEAM>().0.iter_mut().zip(from.as_chunks::<TEAM>().0) {
        if *from == [from[0]; TEAM] {
            *out = [values[from[0] as usize & 31]; TEAM];
        } else {
            *out = from.map(|from| values[from as usize & 31]);
        }
    }
    warp.w[usize::from(slot.d)] = out;
    true
}

fn shuffle(warp: &mut Warp, slot: &Slot, cx: &Context<'_>) -> bool {
    warp.shuffle(&cx.code.shuffles[slot.x as usize], ALL).is_ok()
}
