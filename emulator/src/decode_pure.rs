//! Which pure forms have a vector operation, and which. The match is exhaustive: a new row of the table does not
//! compile until somebody decides.

use ptx::{Form, Mod, Op, Ty};

use crate::code::Kind;

/// How the decoder treats a form.
pub(crate) enum Plan {
    /// Operands in order into d, a, b, c of one slot of this kind.
    Lanes(Kind),
    /// Lane by lane through [`ptx::sem::eval`].
    Eval,
    /// Code of its own in the decoder.
    Own,
}

/// Picks by width; widths without a kind go through `eval`.
fn by_width(ty: Ty, w: Kind, q: Option<Kind>) -> Plan {
    match (ty.bits(), q) {
        (32, _) => Plan::Lanes(w),
        (64, Some(q)) => Plan::Lanes(q),
        _ => Plan::Eval,
    }
}

/// Picks by signedness among 32-bit types.
fn by_sign(ty: Ty, unsigned: Kind, signed: Kind) -> Plan {
    match (ty.bits(), ty.is_signed()) {
        (32, false) => Plan::Lanes(unsigned),
        (32, true) => Plan::Lanes(signed),
        _ => Plan::Eval,
    }
}

/// The plan for a form of the table.
pub(crate) fn plan(form: Form) -> Plan {
    let ty = form.ty().unwrap_or(Ty::B32);
    let has = |m| form.mods.has(m);
    match form.op {
        Op::AddInt => by_width(ty, Kind::AddW, Some(Kind::AddQ)),
        Op::SubInt => by_width(ty, Kind::SubW, Some(Kind::SubQ)),
        Op::MulInt if has(Mod::Lo) => by_width(ty, Kind::MulLoW, Some(Kind::MulLoQ)),
        Op::MulInt => by_sign(ty, Kind::MulHiU, Kind::MulHiS),
        Op::MulWide => by_sign(ty, Kind::MulWideU, Kind::MulWideS),
        Op::MadInt if has(Mod::Lo) => by_width(ty, Kind::MadLoW, Some(Kind::MadLoQ)),
        Op::MadInt => Plan::Eval,
        Op::MadWide => by_sign(ty, Kind::MadWideU, Kind::MadWideS),
        Op::DivInt => by_sign(ty, Kind::DivU, Kind::DivS),
        Op::RemInt => by_sign(ty, Kind::RemU, Kind::RemS),
        Op::MinInt if ty.is_signed() => by_width(ty, Kind::MinS, Some(Kind::MinSQ)),
        Op::MinInt => by_width(ty, Kind::MinU, Some(Kind::MinUQ)),
        Op::MaxInt if ty.is_signed() => by_width(ty, Kind::MaxS, Some(Kind::MaxSQ)),
        Op::MaxInt => by_width(ty, Kind::MaxU, Some(Kind::MaxUQ)),
        Op::AbsInt => by_width(ty, Kind::AbsW, None),
        Op::NegInt => by_width(ty, Kind::NegW, Some(Kind::NegQ)),
        Op::Popc => by_width(ty, Kind::Popc, None),
        Op::Clz => by_width(ty, Kind::Clz, None),
        Op::Brev => by_width(ty, Kind::Brev, None),
        Op::Bfi => Plan::Eval,
        Op::Dp2a => dot_of_halves(form),
        Op::Bfe => by_sign(ty, Kind::BfeU, Kind::BfeS),
        Op::Dp4a => Plan::Lanes(match (ty.is_signed(), form.types.get(1).is_some_and(Ty::is_signed)) {
            (true, true) => Kind::Dp4aSS,
            (true, false) => Kind::Dp4aSU,
            (false, true) => Kind::Dp4aUS,
            (false, false) => Kind::Dp4aUU,
        }),
        Op::AddF if has(Mod::Rn) => Plan::Lanes(Kind::AddF),
        Op::SubF if has(Mod::Rn) => Plan::Lanes(Kind::SubF),
        Op::MulF if has(Mod::Rn) => Plan::Lanes(Kind::MulF),
        Op::FmaF => Plan::Lanes(Kind::FmaF),
        Op::DivF => Plan::Lanes(Kind::DivF),
        Op::RcpF => Plan::Lanes(Kind::RcpF),
        Op::SqrtF => Plan::Lanes(Kind::SqrtF),
        Op::MinF if has(Mod::Nan) => Plan::Lanes(Kind::MinNanF),
        Op::MaxF if has(Mod::Nan) => Plan::Lanes(Kind::MaxNanF),
        Op::MinF => Plan::Lanes(Kind::MinF),
        Op::MaxF => Plan::Lanes(Kind::MaxF),
        Op::AddF | Op::SubF | Op::MulF => Plan::Eval,
        Op::AbsF => Plan::Lanes(Kind::AbsF),
        Op::NegF => Plan::Lanes(Kind::NegF),
        Op::And | Op::Or | Op::Xor => logic(form.op, ty),
        Op::Not if ty == Ty::Pred => Plan::Lanes(Kind::NotP),
        Op::Not => by_width(ty, Kind::NotW, Some(Kind::NotQ)),
        Op::Shl => by_width(ty, Kind::ShlW, Some(Kind::ShlQ)),
        Op::Shr if ty.is_signed() => by_width(ty, Kind::ShrS, Some(Kind::ShrSQ)),
        Op::Shr => by_width(ty, Kind::ShrU, Some(Kind::ShrQ)),
        Op::Shf => Plan::Lanes(match (has(Mod::L), has(Mod::Wrap)) {
            (true, true) => Kind::ShfL,
            (false, true) => Kind::ShfR,
            (true, false) => Kind::ShfLClamp,
            (false, false) => Kind::ShfRClamp,
        }),
        Op::Prmt => Plan::Lanes(Kind::Prmt),
        Op::Cvta => Plan::Lanes(Kind::MovQ),
        Op::Cvt => convert(form),
        Op::CvtPack => Plan::Lanes(Kind::PackF16x2),
        Op::Setp | Op::Selp | Op::Lop3 | Op::Mov => Plan::Own,
        Op::Ld | Op::St | Op::Prefetch | Op::Atom | Op::AtomCas | Op::Red => Plan::Own,
        Op::ShflSync | Op::VoteSync | Op::BallotSync | Op::ReduxSync => Plan::Own,
        Op::BarSync | Op::BarWarpSync | Op::Fence | Op::GridDepControl | Op::Nanosleep => Plan::Own,
        Op::MbarrierInit | Op::MbarrierArrive | Op::MbarrierExpect | Op::MbarrierTryWait => Plan::Own,
        Op::CopyBulk | Op::FenceProxyAsync | Op::FenceMbarrierInit => Plan::Own,
        Op::MmaInt8 | Op::MmaHalf | Op::Bra | Op::Ret | Op::Trap => Plan::Own,
    }
}

fn dot_of_halves(form: Form) -> Plan {
    let signed = |i: usize| form.types.get(i).is_some_and(Ty::is_signed);
    Plan::Lanes(match (form.mods.has(Mod::Hi), signed(0), signed(1)) {
        (false, true, true) => Kind::Dp2aLoSS,
        (false, true, false) => Kind::Dp2aLoSU,
        (false, false, true) => Kind::Dp2aLoUS,
        (false, false, false) => Kind::Dp2aLoUU,
        (true, true, true) => Kind::Dp2aHiSS,
        (true, true, false) => Kind::Dp2aHiSU,
        (true, false, true) => Kind::Dp2aHiUS,
        (true, false, false) => Kind::Dp2aHiUU,
    })
}

fn logic(op: Op, ty: Ty) -> Plan {
    let (w, q, p) = match op {
        Op::And => (Kind::AndW, Kind::AndQ, Kind::AndP),
        Op::Or => (Kind::OrW, Kind::OrQ, Kind::OrP),
        _ => (Kind::XorW, Kind::XorQ, Kind::XorP),
    };
    Plan::Lanes(match ty.bits() {
        0 => p,
        64 => q,
        // 16-bit registers have zero upper halves, which these operations keep.
        _ => w,
    })
}

/// Conversions between types whose registers have exactly the types' widths (the decoder checks that they do).
fn convert(form: Form) -> Plan {
    let (Some(to), Some(from)) = (form.types.get(0), form.types.get(1)) else { return Plan::Eval };
    if form.mods.has(Mod::Sat) {
        return Plan::Eval;
    }
    match (to, from) {
        (Ty::F32, Ty::S32) if form.mods.has(Mod::Rn) => Plan::Lanes(Kind::F32FromS32),
        (Ty::F32, Ty::U32) if form.mods.has(Mod::Rn) => Plan::Lanes(Kind::F32FromU32),
        // `.rni` and its kind round to integers.
        (Ty::F32, Ty::F16) if form.mods.is_empty() => Plan::Lanes(Kind::F32FromF16),
        (Ty::F32, Ty::Bf16) if form.mods.is_empty() => Plan::Lanes(Kind::F32FromBf16),
        (Ty::F16, Ty::F32) if form.mods.has(Mod::Rn) => Plan::Lanes(Kind::F16FromF32),
        (Ty::Bf16, Ty::F32) if form.mods.has(Mod::Rn) => Plan::Lanes(Kind::Bf16FromF32),
        (Ty::S32, Ty::F32) if form.mods.has(Mod::Rzi) => Plan::Lanes(Kind::S32FromF32Rzi),
        (Ty::S32, Ty::F32) if form.mods.has(Mod::Rni) => Plan::Lanes(Kind::S32FromF32Rni),
        _ if to.is_float() || from.is_float() => Plan::Eval,
        _ => match (to.bits(), from.bits(), from.is_signed()) {
            (64, 64, _) => Plan::Lanes(Kind::MovQ),
            (64, 32, true) => Plan::Lanes(Kind::ExtQS32),
            (64, 32, false) => Plan::Lanes(Kind::ExtQU32),
            (32, 64, _) => Plan::Lanes(Kind::LowQ),
            (32, 32, _) => Plan::Lanes(Kind::MovW),
            (32, 16, true) => Plan::Lanes(Kind::ExtS16),
            (32, 16, false) => Plan::Lanes(Kind::ExtU16),
            (32, 8, true) => Plan::Lanes(Kind::ExtS8),
            (32, 8, false) => Plan::Lanes(Kind::ExtU8),
            (16, 32 | 16, _) => Plan::Lanes(Kind::ExtU16),
            _ => Plan::Eval,
        },
    }
}
