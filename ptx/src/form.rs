//! Forms held against the table: which combinations of modifiers and types are legal, how a form is spelled, and the
//! list of all of them. The axes of a row allow a product of choices; the rules here take out what PTX does not have.

use std::fmt::Write;

use thiserror::Error;

use crate::inst::Form;
use crate::table::{Axis, Op, ROWS, Row};
use crate::types::{Mod, Mods, Ty, Types};

/// Why a form is not an instruction.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormError {
    /// A modifier that no axis of the row offers.
    #[error("`{name}` takes no `.{found}`")]
    UnknownModifier {
        /// PTX name of the row.
        name: &'static str,
        /// The modifier.
        found: Mod,
    },
    /// Two modifiers of one axis.
    #[error("`{name}` takes one of `.{first}` and `.{second}`, not both")]
    TwoOfOneAxis {
        /// PTX name of the row.
        name: &'static str,
        /// The earlier choice of the axis.
        first: Mod,
        /// The later one.
        second: Mod,
    },
    /// None of a required axis.
    #[error("`{name}` needs one of {choices}")]
    MissingModifier {
        /// PTX name of the row.
        name: &'static str,
        /// The choices, spelled.
        choices: String,
    },
    /// The wrong number of types.
    #[error("`{name}` has {expected} types, found {found}")]
    TypeCount {
        /// PTX name of the row.
        name: &'static str,
        /// How many the row has.
        expected: usize,
        /// How many the form has.
        found: usize,
    },
    /// A type that the row does not permit there.
    #[error("`{name}`: type {position} is `.{found}`, permitted are {permitted}")]
    Type {
        /// PTX name of the row.
        name: &'static str,
        /// Position, from 0.
        position: usize,
        /// The type found.
        found: Ty,
        /// The types permitted, spelled.
        permitted: String,
    },
    /// A combination that the row's axes allow but PTX does not.
    #[error("`{form}`: {rule}")]
    Combination {
        /// The form, spelled.
        form: String,
        /// The rule of PTX.
        rule: &'static str,
    },
}

fn spelled(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    items.map(|item| format!("`.{item}`")).collect::<Vec<_>>().join(", ")
}

impl Form {
    /// Holds the form against its row and against the combinations that PTX excludes.
    ///
    /// # Errors
    /// The first rule that the form breaks.
    pub fn check(self) -> Result<(), FormError> {
        self.check_axes()?;
        self.check_types()?;
        match broken_rule(self) {
            Some(rule) => Err(FormError::Combination { form: self.text(), rule }),
            None => Ok(()),
        }
    }

    fn check_axes(self) -> Result<(), FormError> {
        let row = self.row();
        let offered = |m: Mod| row.axes.iter().any(|axis| axis.choices.contains(&m));
        if let Some(found) = self.mods.iter().find(|m| !offered(*m)) {
            return Err(FormError::UnknownModifier { name: row.name, found });
        }
        for axis in row.axes {
            let mut chosen = axis.choices.iter().copied().filter(|m| self.mods.has(*m));
            match (chosen.next(), chosen.next()) {
                (Some(first), Some(second)) => {
                    return Err(FormError::TwoOfOneAxis { name: row.name, first, second });
                }
                (None, _) if axis.required => {
                    let choices = spelled(axis.choices.iter());
                    return Err(FormError::MissingModifier { name: row.name, choices });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_types(self) -> Result<(), FormError> {
        let row = self.row();
        if self.types.len() != row.types.len() {
            let (expected, found) = (row.types.len(), self.types.len());
            return Err(FormError::TypeCount { name: row.name, expected, found });
        }
        for (position, (found, permitted)) in self.types.iter().zip(row.types).enumerate() {
            if !permitted.contains(&found) {
                let permitted = spelled(permitted.iter());
                return Err(FormError::Type { name: row.name, position, found, permitted });
            }
        }
        Ok(())
    }

    /// The spelling: `ld.global.nc.v4.u32`, modifiers in the order of the row's axes.
    pub fn text(self) -> String {
        let row = self.row();
        let mut text = String::from(row.name);
        for m in row.axes.iter().flat_map(|axis| axis.choices).filter(|m| self.mods.has(**m)) {
            // Writing to a String cannot fail.
            let _ = write!(text, ".{m}");
        }
        for ty in self.types.iter() {
            let _ = write!(text, ".{ty}");
        }
        text
    }

    /// Least compute capability (times ten) that has this form; a row's modifiers may need more than the row.
    pub fn min_sm(self) -> u32 {
        let has = |list: &[Mod]| list.iter().any(|m| self.mods.has(*m));
        let mut sm = self.row().min_sm;
        if matches!(self.op, Op::Ld | Op::St | Op::Atom | Op::AtomCas | Op::Red) {
            // Memory model and eviction hints: sm_70; prefetch sizes: sm_75, 256 bytes sm_80.
            if has(&[Mod::Weak, Mod::Relaxed, Mod::Acquire, Mod::Release, Mod::AcqRel])
                || has(&[Mod::NoAllocate, Mod::EvictFirst, Mod::EvictLast])
            {
                sm = sm.max(70);
            }
            if has(&[Mod::L2x128]) {
                sm = sm.max(75);
            }
            if has(&[Mod::L2x256]) {
                sm = sm.max(80);
            }
            if has(&[Mod::Cta, Mod::Gpu, Mod::Sys]) {
                sm = sm.max(60);
            }
        }
        if matches!(self.op, Op::MinF | Op::MaxF) && has(&[Mod::Nan]) {
            sm = sm.max(80);
        }
        if self.op == Op::Cvt && self.types.get(0) == Some(Ty::Bf16) {
            sm = sm.max(80);
        }
        if self.op == Op::Cvt && self.types.get(1) == Some(Ty::Bf16) {
            sm = sm.max(90);
        }
        sm
    }
}

/// The rule of PTX that a form of legal axes and types breaks.
fn broken_rule(form: Form) -> Option<&'static str> {
    match form.op {
        Op::Cvt => broken_cvt(form),
        Op::Setp => broken_setp(form),
        Op::Ld => broken_ld(form),
        Op::St => broken_order(form).or_else(|| broken_access(form)),
        Op::Atom | Op::Red => broken_rmw(form),
        Op::MmaHalf if form.types.get(1) != form.types.get(2) => {
            Some("a and b of a half-precision mma have one type")
        }
        _ => None,
    }
}

const UNORDERED: &[Mod] = &[Mod::Equ, Mod::Neu, Mod::Ltu, Mod::Leu, Mod::Gtu, Mod::Geu, Mod::Num, Mod::IsNan];

fn any(form: Form, mods: &[Mod]) -> bool {
    mods.iter().any(|m| form.mods.has(*m))
}

fn broken_setp(form: Form) -> Option<&'static str> {
    let ty = form.ty()?;
    if !ty.is_float() && any(form, UNORDERED) {
        return Some("unordered comparisons are for floats");
    }
    if ty.is_bits() && !any(form, &[Mod::Eq, Mod::Ne]) {
        return Some("bit types compare for .eq and .ne only");
    }
    None
}

/// Rounding of `cvt`: `.rn` and the directed modes where a float result may be inexact, the integer modes where a
/// float becomes integral, none where every value converts exactly.
fn broken_cvt(form: Form) -> Option<&'static str> {
    let (to, from) = (form.types.get(0)?, form.types.get(1)?);
    let integral = any(form, &[Mod::Rni, Mod::Rzi, Mod::Rmi, Mod::Rpi]);
    let nearest = form.mods.has(Mod::Rn);
    let directed = any(form, &[Mod::Rz, Mod::Rm, Mod::Rp]);
    let sat = form.mods.has(Mod::Sat);
    if (to == Ty::Bf16 || from == Ty::Bf16) && (sat || to != Ty::F32 && from != Ty::F32) {
        return Some("bf16 converts from and to f32 only, without .sat");
    }
    match (to.is_float(), from.is_float()) {
        (false, false) if integral || nearest || directed => Some("between integers nothing is rounded"),
        (false, false) if sat && covers(to, from) => Some(".sat is for conversions that can overflow"),
        (false, true) if !integral => Some("float to integer needs one of .rni, .rzi, .rmi, .rpi"),
        (false, true) if sat => Some("float to integer always saturates; .sat says nothing"),
        (true, false) if to == Ty::F32 && !(nearest || directed) => {
            Some("integer to f32 needs one of .rn, .rz, .rm, .rp")
        }
        (true, false) if to == Ty::F16 && !nearest => Some("integer to f16 needs .rn, the mode defined here"),
        (true, true) if to == from && to != Ty::F32 => Some("a half format is not converted to itself"),
        (true, true) if to == from && !(integral || sat) => {
            Some("f32 to f32 needs an integer rounding or .sat; `mov` copies")
        }
        (true, true) if to == from && (nearest || directed) => {
            Some("f32 to f32 takes integer roundings only")
        }
        (true, true) if to.bytes() > from.bytes() && (integral || nearest || directed) => {
            Some("widening a float is exact and takes no rounding")
        }
        (true, true) if to.bytes() < from.bytes() && !nearest => {
            Some("narrowing a float needs .rn, the mode defined here")
        }
        _ => None,
    }
}

/// Whether an integer type holds every value of another.
fn covers(to: Ty, from: Ty) -> bool {
    match (to.is_signed(), from.is_signed()) {
        (true, false) => to.bits() > from.bits(),
        (false, true) => false,
        _ => to.bits() >= from.bits(),
    }
}

/// Memory orders: `.relaxed`, `.acquire`, `.release` name a scope; weak and volatile accesses have none.
fn broken_order(form: Form) -> Option<&'static str> {
    let scoped = any(form, &[Mod::Cta, Mod::Gpu, Mod::Sys]);
    let ordered = any(form, &[Mod::Relaxed, Mod::Acquire, Mod::Release]);
    if ordered && !scoped {
        return Some(".relaxed, .acquire and .release need a scope");
    }
    if scoped && !ordered {
        return Some("a scope needs .relaxed, .acquire or .release");
    }
    if (ordered || form.mods.has(Mod::Volatile)) && any(form, &[Mod::Ca, Mod::Cg, Mod::Cs, Mod::Lu]) {
        return Some("cache operators are for weak accesses");
    }
    if form.mods.has(Mod::Volatile) && any(form, &[Mod::NoAllocate, Mod::EvictFirst, Mod::EvictLast]) {
        return Some("a volatile access takes no eviction priority");
    }
    None
}

/// Vector size and cache hints, common to loads and stores.
fn broken_access(form: Form) -> Option<&'static str> {
    let ty = form.ty()?;
    if ty.bytes() * form.vector() > 16 {
        return Some("one access moves at most 16 bytes");
    }
    let hints = [Mod::Ca, Mod::Cg, Mod::Cs, Mod::Lu, Mod::NoAllocate, Mod::EvictFirst, Mod::EvictLast];
    if !form.mods.has(Mod::Global) && (any(form, &hints) || any(form, &[Mod::L2x128, Mod::L2x256])) {
        return Some("cache hints are for global memory");
    }
    None
}

fn broken_ld(form: Form) -> Option<&'static str> {
    let plain = form.mods.without(Mod::Param).is_empty();
    if form.mods.has(Mod::Param) && !plain {
        return Some("ld.param is a plain scalar load");
    }
    if form.mods.has(Mod::Nc) {
        if !form.mods.has(Mod::Global) {
            return Some(".nc is for global memory");
        }
        if any(form, &[Mod::Volatile, Mod::Weak, Mod::Relaxed, Mod::Acquire]) {
            return Some(".nc takes no memory order");
        }
        if any(form, &[Mod::Ca, Mod::Cg, Mod::Cs, Mod::Lu]) {
            return Some(".nc takes eviction priorities, not cache operators");
        }
    }
    broken_order(form).or_else(|| broken_access(form))
}

/// Which types the operations of `atom` and `red` have.
fn broken_rmw(form: Form) -> Option<&'static str> {
    let ty = form.ty()?;
    let fits = if form.mods.has(Mod::Inc) {
        ty == Ty::U32
    } else if any(form, &[Mod::Add, Mod::Min, Mod::Max]) {
        ty.is_int()
    } else {
        ty.is_bits()
    };
    (!fits).then_some("add, min, max are for integers, inc for u32, and, or, xor, exch for bits")
}

/// Every legal form, in table order: what the verifier lets through and the emulator has to handle.
pub fn every_form() -> Vec<Form> {
    let mut forms = Vec::new();
    for row in ROWS {
        for mods in choices_of(row.axes) {
            for types in types_of(row) {
                let form = Form { op: row.op, mods, types };
                if form.check().is_ok() {
                    forms.push(form);
                }
            }
        }
    }
    forms
}

fn choices_of(axes: &[Axis]) -> Vec<Mods> {
    let mut sets = vec![Mods::NONE];
    for axis in axes {
        let mut longer = if axis.required { Vec::new() } else { sets.clone() };
        longer.extend(sets.iter().flat_map(|set| axis.choices.iter().map(|m| set.with(*m))));
        sets = longer;
    }
    sets
}

fn types_of(row: &Row) -> Vec<Types> {
    let mut lists: Vec<Vec<Ty>> = vec![Vec::new()];
    for permitted in row.types {
        lists = lists
            .iter()
            .flat_map(|list| permitted.iter().map(move |ty| [list.as_slice(), &[*ty]].concat()))
            .collect();
    }
    lists.iter().filter_map(|list| Types::from_list(list)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sem;
    use crate::table::Effect;

    #[test]
    fn no_two_forms_are_spelled_alike() {
        let forms = every_form();
        let mut texts: Vec<String> = forms.iter().map(|form| form.text()).collect();
        texts.sort();
        let total = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), total);
        assert!(total > 500, "{total}");
    }

    #[test]
    fn eval_defines_every_pure_form() {
        for form in every_form().into_iter().filter(|form| form.row().effect == Effect::Pure) {
            let sources = match form.op {
                Op::Mov => 1,
                _ => form.row().operands.len() - 1,
            };
            assert!(sem::eval(form, &vec![1; sources]).is_some(), "{}", form.text());
        }
    }

    #[test]
    fn each_combination_rule_rejects() {
        let broken = |op: Op, mods: &[Mod], types: &[Ty]| {
            let form = Form::new(op, mods, Types::from_list(types).unwrap());
            match form.check() {
                Err(FormError::Combination { rule, .. }) => rule,
                other => panic!("{}: {other:?}", form.text()),
            }
        };
        use Mod::*;
        let cases: &[(Op, &[Mod], &[Ty], &str)] = &[
            (Op::Setp, &[Ltu], &[Ty::U32], "unordered"),
            (Op::Setp, &[Lt], &[Ty::B32], "bit types"),
            (Op::Cvt, &[Rn], &[Ty::Bf16, Ty::S32], "bf16"),
            (Op::Cvt, &[Rn], &[Ty::U8, Ty::U32], "nothing is rounded"),
            (Op::Cvt, &[Sat], &[Ty::S32, Ty::U16], "can overflow"),
            (Op::Cvt, &[], &[Ty::S32, Ty::F32], "needs one of .rni"),
            (Op::Cvt, &[Rni, Sat], &[Ty::S32, Ty::F32], "always saturates"),
            (Op::Cvt, &[], &[Ty::F32, Ty::S32], "integer to f32"),
            (Op::Cvt, &[Rz], &[Ty::F16, Ty::S32], "integer to f16"),
            (Op::Cvt, &[], &[Ty::F16, Ty::F16], "to itself"),
            (Op::Cvt, &[], &[Ty::F32, Ty::F32], "`mov` copies"),
            (Op::Cvt, &[Rn, Sat], &[Ty::F32, Ty::F32], "integer roundings only"),
            (Op::Cvt, &[Rn], &[Ty::F32, Ty::F16], "widening"),
            (Op::Cvt, &[], &[Ty::F16, Ty::F32], "narrowing"),
            (Op::Ld, &[Acquire, Global], &[Ty::B32], "need a scope"),
            (Op::Ld, &[Gpu, Global], &[Ty::B32], "a scope needs"),
            (Op::Ld, &[Volatile, Global, Cg], &[Ty::B32], "for weak"),
            (Op::Ld, &[Volatile, Global, EvictLast], &[Ty::B32], "volatile"),
            (Op::Ld, &[Global, V4], &[Ty::B64], "16 bytes"),
            (Op::Ld, &[Shared, Cg], &[Ty::B32], "global memory"),
            (Op::Ld, &[Param, V2], &[Ty::B32], "plain scalar"),
            (Op::Ld, &[Shared, Nc], &[Ty::B32], ".nc is for global"),
            (Op::Ld, &[Weak, Global, Nc], &[Ty::B32], "no memory order"),
            (Op::Ld, &[Global, Nc, Cg], &[Ty::B32], "not cache operators"),
            (Op::St, &[Release, Global], &[Ty::B32], "need a scope"),
            (Op::Atom, &[Global, Add], &[Ty::B32], "add, min, max"),
            (Op::Red, &[Global, Inc], &[Ty::U64], "inc for u32"),
            (
                Op::MmaHalf,
                &[Sync, Aligned, M16n8k16, Row, Col],
                &[Ty::F32, Ty::F16, Ty::Bf16, Ty::F32],
                "one type",
            ),
        ];
        for (op, mods, types, rule) in cases {
            let found = broken(*op, mods, types);
            assert!(found.contains(rule), "{op:?}: {found}");
        }
    }

    #[test]
    fn axes_and_types_are_held_against_the_row() {
        let check = |op, mods: &[Mod], types| Form::new(op, mods, types).check().unwrap_err().to_string();
        assert!(check(Op::AddF, &[], Types::one(Ty::F32)).contains("needs one of `.rn`"));
        assert!(check(Op::AddF, &[Mod::Rn, Mod::Rz], Types::one(Ty::F32)).contains("not both"));
        assert!(check(Op::AddInt, &[Mod::Rn], Types::one(Ty::U32)).contains("takes no `.rn`"));
        assert!(check(Op::AddInt, &[], Types::NONE).contains("has 1 types, found 0"));
        assert!(check(Op::AddInt, &[], Types::one(Ty::F32)).contains("type 0 is `.f32`"));
    }
}
