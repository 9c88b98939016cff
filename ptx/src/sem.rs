//! The scalar meaning of pure rows: what one lane computes. Constant folding and the emulator's slow path call
//! [`eval`]; the emulator's 32-lane loops call the same small functions one by one, so the two cannot disagree.
//!
//! Conventions: values travel as raw bits, zero-extended to 64; predicates are 0 or 1; a NaN that arithmetic
//! produces is [`NAN_F32`]. Invariant: [`eval`] defines every pure form that [`Form::check`] accepts.

mod convert;
mod float;
mod int;
pub mod tensor;

pub use convert::*;
pub use float::*;
use int::value_of;
pub use int::*;

use crate::inst::Form;
use crate::table::{Effect, Op};
use crate::types::{Mod, Ty};

/// The lowest `bits` bits set.
#[inline]
pub const fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// The value of `bits` as a `ty`, sign- or zero-extended to 64 bits: what a narrow result becomes in a wider
/// register (truncate to the register's width afterwards).
#[inline]
pub const fn extend(ty: Ty, bits: u64) -> u64 {
    match ty {
        Ty::S8 => bits as i8 as i64 as u64,
        Ty::S16 => bits as i16 as i64 as u64,
        Ty::S32 => bits as i32 as i64 as u64,
        Ty::Pred => bits & 1,
        _ => bits & mask(ty.bits()),
    }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn out(value: f32) -> u64 {
    u64::from(value.to_bits())
}

/// What a pure form computes for one lane.
///
/// `args` are the sources in operand order, raw bits zero-extended. The result has the width of the destination's
/// type: a narrow integer result (`cvt.s8.s32`) goes through [`extend`] before it enters a wider register. `None`
/// when the form is not pure, has a list operand (packing `mov` takes several registers), or lacks arguments.
pub fn eval(form: Form, args: &[u64]) -> Option<u64> {
    if form.row().effect != Effect::Pure {
        return None;
    }
    match form.op {
        Op::CvtPack => Some(u64::from(pack_f16x2(f(*args.first()?), f(*args.get(1)?)))),
        Op::Cvt => convert(form, *args.first()?),
        Op::Mov | Op::Cvta => (args.len() == 1).then(|| width(form, args[0])).flatten(),
        Op::Setp => compare(form, *args.first()?, *args.get(1)?),
        Op::Selp => width(form, if *args.get(2)? & 1 == 1 { args[0] } else { args[1] }),
        Op::AddF | Op::SubF | Op::MulF | Op::FmaF | Op::DivF | Op::RcpF | Op::SqrtF => float_op(form, args),
        Op::MinF | Op::MaxF | Op::AbsF | Op::NegF => float_select(form, args),
        Op::And | Op::Or | Op::Xor | Op::Not => logic(form, args),
        _ => int::eval_int(form, args),
    }
}

/// Truncates to the form's first type.
fn width(form: Form, value: u64) -> Option<u64> {
    Some(match form.ty()? {
        Ty::Pred => value & 1,
        ty => value & mask(ty.bits()),
    })
}

fn rounding(form: Form) -> Option<Mod> {
    [Mod::Rn, Mod::Rz, Mod::Rm, Mod::Rp, Mod::Rni, Mod::Rzi, Mod::Rmi, Mod::Rpi]
        .into_iter()
        .find(|m| form.mods.has(*m))
}

fn float_op(form: Form, args: &[u64]) -> Option<u64> {
    let round = rounding(form)?;
    let a = f(*args.first()?);
    Some(out(match form.op {
        Op::RcpF => rcp_f32(a),
        Op::SqrtF => sqrt_f32(a),
        op => {
            let b = f(*args.get(1)?);
            match (op, round) {
                (Op::AddF, Mod::Rn) => add_f32(a, b),
                (Op::SubF, Mod::Rn) => sub_f32(a, b),
                (Op::MulF, Mod::Rn) => mul_f32(a, b),
                (Op::AddF, r) => add_f32_directed(r, a, b),
                (Op::SubF, r) => add_f32_directed(r, a, -b),
                (Op::MulF, r) => mul_f32_directed(r, a, b),
                (Op::DivF, _) => div_f32(a, b),
                (Op::FmaF, _) => fma_f32(a, b, f(*args.get(2)?)),
                _ => return None,
            }
        }
    }))
}

fn float_select(form: Form, args: &[u64]) -> Option<u64> {
    let a = f(*args.first()?);
    let nan = form.mods.has(Mod::Nan);
    Some(out(match form.op {
        Op::AbsF => abs_f32(a),
        Op::NegF => neg_f32(a),
        Op::MinF if nan => min_nan_f32(a, f(*args.get(1)?)),
        Op::MinF => min_f32(a, f(*args.get(1)?)),
        Op::MaxF if nan => max_nan_f32(a, f(*args.get(1)?)),
        Op::MaxF => max_f32(a, f(*args.get(1)?)),
        _ => return None,
    }))
}

fn logic(form: Form, args: &[u64]) -> Option<u64> {
    let a = *args.first()?;
    let value = match form.op {
        Op::Not => !a,
        Op::And => a & args.get(1)?,
        Op::Or => a | args.get(1)?,
        Op::Xor => a ^ args.get(1)?,
        _ => return None,
    };
    width(form, value)
}

fn compare(form: Form, a: u64, b: u64) -> Option<u64> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let ty = form.ty()?;
    let (unordered, order) = if ty == Ty::F32 {
        let order = f(a).partial_cmp(&f(b));
        (order.is_none(), order.unwrap_or(Equal))
    } else {
        (false, value_of(ty, a).cmp(&value_of(ty, b)))
    };
    let comparison = form.row().axes.first()?.choices.iter().copied().find(|m| form.mods.has(*m))?;
    let ordered = |truth: bool| !unordered && truth;
    let or_unordered = |truth: bool| unordered || truth;
    Some(u64::from(match comparison {
        Mod::Eq => ordered(order == Equal),
        Mod::Ne => ordered(order != Equal),
        Mod::Lt => ordered(order == Less),
        Mod::Le => ordered(order != Greater),
        Mod::Gt => ordered(order == Greater),
        Mod::Ge => ordered(order != Less),
        Mod::Equ => or_unordered(order == Equal),
        Mod::Neu => or_unordered(order != Equal),
        Mod::Ltu => or_unordered(order == Less),
        Mod::Leu => or_unordered(order != Greater),
        Mod::Gtu => or_unordered(order == Greater),
        Mod::Geu => or_unordered(order != Less),
        Mod::Num => !unordered,
        Mod::IsNan => unordered,
        _ => return None,
    }))
}

fn convert(form: Form, a: u64) -> Option<u64> {
    let (to, from) = (form.types.get(0)?, form.types.get(1)?);
    let saturate = if form.mods.has(Mod::Sat) { Overflow::Saturate } else { Overflow::Wrap };
    let round = rounding(form);
    if !from.is_float() {
        let value = value_of(from, a);
        return Some(match to {
            Ty::F32 => out(saturated(saturate, int_to_f32(round?, value))),
            Ty::F16 => u64::from(f32_to_f16(saturated(saturate, int_to_f32_odd(value)))),
            _ => int_to_int(to, saturate, value),
        });
    }
    let value = match from {
        Ty::F16 => f16_to_f32(a as u16),
        Ty::Bf16 => bf16_to_f32(a as u16),
        _ => f(a),
    };
    Some(match to {
        Ty::F32 if from == Ty::Bf16 => out(value),
        Ty::F32 => out(saturated(saturate, round.map_or(quiet_f32(value), |r| round_integral(r, value)))),
        Ty::F16 => u64::from(f32_to_f16(saturated(saturate, value))),
        Ty::Bf16 => u64::from(f32_to_bf16(value)),
        _ => float_to_int(to, round_integral(round?, value)),
    })
}

/// `.sat` of a float result: into [0, 1], NaN to +0.
fn saturated(overflow: Overflow, value: f32) -> f32 {
    match overflow {
        Overflow::Saturate => saturate_f32(value),
        Overflow::Wrap => value,
    }
}
