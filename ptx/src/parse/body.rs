//! Statements of a body: labels, comments, guarded instructions and their operands.

use super::ParseError;
use super::scan::{Scanner, ty_named};
use crate::inst::{Addr, AddrBase, Form, Guard, Imm, Inst, Operand, Special};
use crate::module::{Entry, Label, Reg, Stmt};
use crate::sem::mask;
use crate::table::{ROWS, Row, Sig};
use crate::types::{Mods, Ty, Types};

/// An entry whose body is being read.
pub(super) struct Body {
    entry: Entry,
    /// Where each label was first named, for a message if it is never defined.
    first_uses: Vec<usize>,
}

impl Body {
    pub(super) fn new(entry: Entry) -> Body {
        Body { entry, first_uses: Vec::new() }
    }

    /// Reads to the closing brace.
    pub(super) fn read(mut self, scan: &mut Scanner<'_>) -> Result<Entry, ParseError> {
        while !scan.accept("}") {
            let stmt = self.statement(scan)?;
            self.entry.body.push(stmt);
        }
        for (i, place) in self.first_uses.iter().enumerate() {
            if !self.entry.body.contains(&Stmt::Label(Label(i as u32))) {
                return Err(scan.error_at(*place, "a label that the entry defines"));
            }
        }
        self.entry.number_labels();
        Ok(self.entry)
    }

    fn statement(&mut self, scan: &mut Scanner<'_>) -> Result<Stmt, ParseError> {
        if let Some(text) = scan.comment() {
            return Ok(Stmt::Comment(text));
        }
        let guard = if scan.accept("@") { Some(self.guard(scan)?) } else { None };
        let start = scan.place();
        let word = scan.word();
        if guard.is_none()
            && let Some(name) = word.strip_prefix('$')
        {
            let label = self.label(name, start);
            scan.expect(":")?;
            return Ok(Stmt::Label(label));
        }
        let form = form_named(word).ok_or_else(|| scan.error_at(start, "an instruction of the table"))?;
        let mut operands = Vec::new();
        for (i, sig) in form.row().operands.iter().enumerate() {
            if i > 0 {
                scan.expect(",")?;
            }
            operands.push(self.operand(scan, form, *sig)?);
        }
        scan.expect(";")?;
        Ok(Stmt::Inst(Inst { guard, form, operands }))
    }

    fn guard(&self, scan: &mut Scanner<'_>) -> Result<Guard, ParseError> {
        let negated = scan.accept("!");
        Ok(Guard { reg: self.reg(scan)?, negated })
    }

    fn label(&mut self, name: &str, place: usize) -> Label {
        let known = self.entry.labels.iter().position(|label| label == name);
        let index = known.unwrap_or_else(|| {
            self.entry.labels.push(name.to_owned());
            self.first_uses.push(place);
            self.first_uses.len() - 1
        });
        Label(index as u32)
    }

    fn reg(&self, scan: &mut Scanner<'_>) -> Result<Reg, ParseError> {
        let start = scan.place();
        let reg = self.reg_named(scan.word());
        reg.ok_or_else(|| scan.error_at(start, "a declared register"))
    }

    fn reg_named(&self, word: &str) -> Option<Reg> {
        let (name, digits) = word.strip_prefix('%')?.rsplit_once('_')?;
        let bank = self.entry.banks.iter().position(|bank| bank.name == name)?;
        let index: u32 = digits.parse().ok()?;
        // `%acc_01` is another symbol than `%acc_1`, and none that a bank declares.
        let declared = index < self.entry.banks[bank].count && index.to_string() == digits;
        declared.then_some(Reg { bank: bank as u32, index })
    }

    fn operand(&mut self, scan: &mut Scanner<'_>, form: Form, sig: Sig) -> Result<Operand, ParseError> {
        if scan.accept("{") {
            return self.list(scan);
        }
        if scan.accept("[") {
            return self.address(scan);
        }
        let start = scan.place();
        let sign = if scan.accept("-") { "-" } else { "" };
        let word = scan.word();
        if !sign.is_empty() || word.starts_with(|c: char| c.is_ascii_digit()) {
            let ty = sig.value().and_then(|t| t.of(form.types));
            let imm = ty.and_then(|ty| immediate(&format!("{sign}{word}"), ty));
            let expected =
                || format!("an immediate{}", ty.map(|ty| format!(" of .{ty}")).unwrap_or_default());
            return imm.map(Operand::Imm).ok_or_else(|| scan.error_at(start, &expected()));
        }
        if let Some(name) = word.strip_prefix('$') {
            return Ok(Operand::Label(self.label(name, start)));
        }
        if let Some((special, _)) = Special::ALL.iter().find(|(_, text)| *text == word) {
            return Ok(Operand::Special(*special));
        }
        if let Some(index) = self.entry.shared.iter().position(|decl| decl.name == word) {
            return Ok(Operand::SharedAddr(index as u32));
        }
        let expected = "an operand: a declared register, variable, label or immediate";
        let reg = self.reg_named(word).ok_or_else(|| scan.error_at(start, expected))?;
        if scan.accept("|") { Ok(Operand::Pair(reg, self.reg(scan)?)) } else { Ok(Operand::Reg(reg)) }
    }

    fn list(&self, scan: &mut Scanner<'_>) -> Result<Operand, ParseError> {
        let mut regs = vec![self.reg(scan)?];
        while scan.accept(",") {
            regs.push(self.reg(scan)?);
        }
        scan.expect("}")?;
        Ok(Operand::List(regs))
    }

    fn address(&self, scan: &mut Scanner<'_>) -> Result<Operand, ParseError> {
        let start = scan.place();
        let word = scan.word();
        let param = self.entry.params.iter().position(|param| param.name == word);
        let shared = self.entry.shared.iter().position(|decl| decl.name == word);
        let base = match (self.reg_named(word), param, shared) {
            (Some(reg), ..) => AddrBase::Reg(reg),
            (_, Some(index), _) => AddrBase::Param(index as u32),
            (_, _, Some(index)) => AddrBase::Shared(index as u32),
            _ => return Err(scan.error_at(start, "a declared register, parameter or shared variable")),
        };
        let offset = if scan.accept("+") {
            let start = scan.place();
            let negative = scan.accept("-");
            let magnitude = scan.word().parse::<i64>().ok().map(|n| if negative { -n } else { n });
            let offset = magnitude.and_then(|n| i32::try_from(n).ok());
            offset.ok_or_else(|| scan.error_at(start, "an offset of 32 bits"))?
        } else {
            0
        };
        scan.expect("]")?;
        Ok(Operand::Addr(Addr { base, offset }))
    }
}

/// The form of that spelling. Rows of one name are told apart by which of them takes all of the words.
fn form_named(word: &str) -> Option<Form> {
    let mut words = word.split('.');
    let name = words.next()?;
    let words: Vec<&str> = words.collect();
    ROWS.iter().filter(|row| row.name == name).find_map(|row| match_row(row, &words))
}

fn match_row(row: &'static Row, words: &[&str]) -> Option<Form> {
    let mut rest = words;
    let mut mods = Mods::NONE;
    for axis in row.axes {
        let chosen = rest.first().and_then(|word| axis.choices.iter().find(|m| m.text() == *word));
        match chosen {
            Some(m) => {
                mods = mods.with(*m);
                rest = &rest[1..];
            }
            None if axis.required => return None,
            None => {}
        }
    }
    let types: Vec<Ty> = rest.iter().map(|word| ty_named(word)).collect::<Option<_>>()?;
    let permitted = types.len() == row.types.len()
        && types.iter().zip(row.types).all(|(ty, permitted)| permitted.contains(ty));
    permitted.then_some(Form { op: row.op, mods, types: Types::from_list(&types)? })
}

/// A number as raw bits of a type: `0f` and bits for floats, else decimal with its sign, or hexadecimal.
fn immediate(text: &str, ty: Ty) -> Option<Imm> {
    if ty == Ty::F32 {
        let digits = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F"));
        let bits = u32::from_str_radix(digits.filter(|d| d.len() == 8)?, 16).ok()?;
        return Some(Imm(u64::from(bits)));
    }
    let width = if ty == Ty::Pred { 1 } else { ty.bits() };
    if let Some(magnitude) = text.strip_prefix('-') {
        let value: u64 = magnitude.parse().ok()?;
        let bits = value.wrapping_neg() & mask(width);
        return (value <= 1 << (width - 1)).then_some(Imm(bits));
    }
    let (value, limit) = match text.strip_prefix("0x") {
        Some(digits) => (u64::from_str_radix(digits, 16).ok()?, mask(width)),
        None if ty.is_signed() => (text.parse().ok()?, mask(width - 1)),
        None => (text.parse().ok()?, mask(width)),
    };
    (value <= limit).then_some(Imm(value))
}
