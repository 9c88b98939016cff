//! Which registers a slot reads and writes, wherever it keeps them: in itself or in a side table. Everything that moves
//! registers or slots goes by this one list.

use crate::code::{Code, File, Kind, Slot};
use crate::fuse::{set_sources, sources};
use crate::lane_ops::with_lane_ops;

/// What a slot does with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

/// Told of every register of a slot: file, index, use. It may put another index in place.
pub(crate) trait Visitor {
    /// One register.
    fn register(&mut self, file: File, index: &mut u16, how: Use);
}

impl<F: FnMut(File, &mut u16, Use)> Visitor for F {
    fn register(&mut self, file: File, index: &mut u16, how: Use) {
        self(file, index, how);
    }
}

macro_rules! define {
    ($($name:ident($($p:ident: $file:ident),*) -> $to:ident $body:block)*) => {
        /// Visits a lane operation; false for other kinds.
        fn lane_op(slot: &mut Slot, see: &mut impl Visitor) -> bool {
            match slot.kind {
                $(Kind::$name => {
                    $(see.register(File::$file, &mut slot.$p, Use::Read);)*
                    see.register(File::$to, &mut slot.d, Use::Write);
                })*
                _ => return false,
            }
            true
        }
    };
}
with_lane_ops!(define);

/// Visits the registers of slot `at`, those that it reads first. A guard counts as read.
pub(crate) fn visit(code: &mut Code, at: usize, see: &mut impl Visitor) {
    use File::{P, Q, W};
    use Use::{Read, Write};
    let Some(mut slot) = code.slots.get(at).copied() else { return };
    if slot.guard != 0 {
        let mut guard = (slot.guard - 1) >> 1;
        see.register(P, &mut guard, Read);
        slot.guard = (guard << 1 | (slot.guard - 1) & 1) + 1;
    }
    let x = slot.x as usize;
    let mut slots = |files: &[(File, u8, Use)]| {
        for (file, field, how) in files {
            let field = match field {
                b'a' => &mut slot.a,
                b'b' => &mut slot.b,
                b'c' => &mut slot.c,
                _ => &mut slot.d,
            };
            see.register(*file, field, *how);
        }
    };
    match slot.kind {
        Kind::Fused => {
            let mut regs = sources(&slot);
            for reg in &mut regs {
                see.register(W, reg, Read);
            }
            set_sources(&mut slot, regs);
            see.register(W, &mut slot.d, Write);
        }
        Kind::Lop3 => slots(&[(W, b'a', Read), (W, b'b', Read), (W, b'c', Read), (W, b'd', Write)]),
        Kind::SelW => slots(&[(W, b'a', Read), (W, b'b', Read), (P, b'c', Read), (W, b'd', Write)]),
        Kind::SelQ => slots(&[(Q, b'a', Read), (Q, b'b', Read), (P, b'c', Read), (Q, b'd', Write)]),
        Kind::SetpU | Kind::SetpS | Kind::SetpF => {
            slots(&[(W, b'a', Read), (W, b'b', Read), (P, b'd', Write)])
        }
        Kind::SetpUQ | Kind::SetpSQ => slots(&[(Q, b'a', Read), (Q, b'b', Read), (P, b'd', Write)]),
        Kind::MovP | Kind::NotP => slots(&[(P, b'a', Read), (P, b'd', Write)]),
        Kind::AndP | Kind::OrP | Kind::XorP => slots(&[(P, b'a', Read), (P, b'b', Read), (P, b'd', Write)]),
        Kind::Special | Kind::LdParamW => slots(&[(W, b'd', Write)]),
        Kind::LdParamQ => slots(&[(Q, b'd', Write)]),
        Kind::VoteAny | Kind::VoteAll | Kind::VoteUni => {
            slots(&[(P, b'a', Read), (W, b'b', Read), (P, b'd', Write)])
        }
        Kind::Ballot => slots(&[(P, b'a', Read), (W, b'b', Read), (W, b'd', Write)]),
        Kind::Redux => slots(&[(W, b'a', Read), (W, b'b', Read), (W, b'd', Write)]),
        Kind::BarWarp => slots(&[(W, b'a', Read)]),
        Kind::MbarrierInit => slots(&[(W, b'a', Read), (W, b'b', Read)]),
        Kind::MbarrierArrive | Kind::MbarrierExpect => {
            slots(&[(W, b'a', Read), (W, b'b', Read), (Q, b'd', Write)])
        }
        Kind::MbarrierWait => slots(&[(W, b'a', Read), (W, b'b', Read), (P, b'd', Write)]),
        Kind::Eval
        | Kind::LdGlobal
        | Kind::LdShared
        | Kind::StGlobal
        | Kind::StShared
        | Kind::AtomGlobal
        | Kind::AtomShared
        | Kind::Shfl
        | Kind::MmaInt8
        | Kind::MmaHalf
        | Kind::DotChain
        | Kind::CopyBulk => tables(code, &mut slot, x, see),
        Kind::BarSync | Kind::FenceAsync | Kind::Fence | Kind::Nop | Kind::Bra | Kind::BraIf => {}
        Kind::BraIfUni | Kind::Join | Kind::Ret | Kind::Trap => {}
        _ => {
            lane_op(&mut slot, see);
        }
    }
    if let Some(place) = code.slots.get_mut(at) {
        *place = slot;
    }
}

/// The kinds whose registers are in a side table, at `x`.
fn tables(code: &mut Code, slot: &mut Slot, x: usize, see: &mut impl Visitor) {
    use File::{Q, W};
    use Use::{Read, Write};
    match slot.kind {
        Kind::Eval => {
            let op = &mut code.evals[x];
            for source in &mut op.sources {
                see.register(source.file, &mut source.index, Read);
            }
            see.register(op.to.file, &mut op.to.index, Write);
        }
        Kind::LdGlobal | Kind::LdShared | Kind::StGlobal | Kind::StShared => {
            let op = &mut code.accesses[x];
            let global = matches!(slot.kind, Kind::LdGlobal | Kind::StGlobal);
            let load = matches!(slot.kind, Kind::LdGlobal | Kind::LdShared);
            see.register(if global { Q } else { W }, &mut op.base, Read);
            for reg in op.regs.iter_mut().take(op.vector as usize) {
                see.register(op.file, reg, if load { Write } else { Read });
            }
        }
        Kind::AtomGlobal | Kind::AtomShared => {
            let op = &mut code.atoms[x];
            see.register(if slot.kind == Kind::AtomGlobal { Q } else { W }, &mut op.base, Read);
            see.register(op.file, &mut op.value, Read);
            see.register(op.file, &mut op.new, Read);
            if let Some(to) = &mut op.to {
                see.register(op.file, to, Write);
            }
        }
        Kind::Shfl => {
            let op = &mut code.shuffles[x];
            for reg in [&mut op.value, &mut op.lane, &mut op.clamp, &mut op.members] {
                see.register(W, reg, Read);
            }
            see.register(W, &mut op.to, Write);
            if let Some(p) = &mut op.in_range {
                see.register(File::P, p, Write);
            }
            // The commonest shuffles find these in the slot.
            (slot.d, slot.a, slot.b) = (op.to, op.value, op.lane);
        }
        Kind::MmaInt8 | Kind::MmaHalf => {
            let op = &mut code.mmas[x];
            for reg in op.a.iter_mut().chain(&mut op.b).chain(&mut op.c) {
                see.register(W, reg, Read);
            }
            for reg in &mut op.d {
                see.register(W, reg, Write);
            }
        }
        Kind::DotChain => {
            let chain = &mut code.chains[x];
            for reg in chain.words.iter_mut().chain(&mut chain.vectors).chain(&mut chain.others) {
                see.register(W, reg, Read);
            }
            see.register(W, &mut chain.add, Read);
            see.register(W, &mut slot.d, Write);
        }
        _ => {
            let op = &mut code.copies[x];
            see.register(W, &mut op.to.0, Read);
            see.register(Q, &mut op.from.0, Read);
            see.register(W, &mut op.bytes, Read);
            see.register(W, &mut op.mbarrier.0, Read);
        }
    }
}
