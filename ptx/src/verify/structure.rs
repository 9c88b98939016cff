//! Names, declarations and resources.

use std::collections::BTreeMap;

use super::fault::Fault;
use crate::module::{Entry, Label, Module, Storage};
use crate::table::ROWS;
use crate::types::Ty;

/// Static shared memory of a CTA on every target: what `ptxas` accepts without an opt-in (48 KiB).
const STATIC_SHARED_BYTES: u64 = 48 * 1024;

/// Shared memory that a CTA may have at most on a target, static and dynamic together (CUDA C++ Programming Guide,
/// technical specifications by compute capability).
pub fn shared_bytes_of_cta(sm: u32) -> u32 {
    let kib = match sm {
        70 | 72 => 96,
        75 => 64,
        80 | 87 => 163,
        86 | 89 | 120 | 121 => 99,
        90 | 100 | 103 => 227,
        _ => 48,
    };
    kib * 1024
}

/// Threads of a CTA.
const MAX_THREADS: u64 = 1024;

pub(super) fn check_module(module: &Module) -> Result<(), Fault> {
    let target = module.target.to_string();
    let Some(version) = module.target.version() else { return Err(Fault::UnknownTarget { target }) };
    if module.version != version {
        let spell = |(major, minor): (u8, u8)| format!("{major}.{minor}");
        return Err(Fault::Version { found: spell(module.version), expected: spell(version), target });
    }
    for line in &module.header {
        check_comment(line)?;
    }
    let mut names = Names::new("entry");
    for entry in &module.entries {
        check_identifier("entry", &entry.name)?;
        names.add(&entry.name, "an entry")?;
    }
    // A dynamic variable's symbol stands beside the entries'.
    for entry in &module.entries {
        for decl in entry.shared.iter().filter(|decl| decl.storage == Storage::Dynamic) {
            if module.entries.iter().any(|other| other.name == decl.name) {
                return Err(Fault::Duplicate {
                    kind: "module",
                    name: decl.name.clone(),
                    first: "an entry".to_owned(),
                    second: "a dynamic shared variable".to_owned(),
                });
            }
        }
    }
    Ok(())
}

pub(super) fn check_entry(entry: &Entry) -> Result<(), Fault> {
    for line in &entry.doc {
        check_comment(line)?;
    }
    let [x, y, z] = entry.reqntid;
    let threads = u64::from(x) * u64::from(y).saturating_mul(u64::from(z));
    if threads == 0 || threads > MAX_THREADS {
        return Err(Fault::Threads { x, y, z, threads });
    }
    if let Some(found) = entry.min_ctas_per_sm.filter(|n| !(1..=32).contains(n)) {
        return Err(Fault::MinCtas { found });
    }
    check_variables(entry)?;
    check_banks(entry)?;
    check_labels(entry)
}

/// Parameters and shared variables share the entry's name space with the entry itself.
fn check_variables(entry: &Entry) -> Result<(), Fault> {
    let mut names = Names::new("variable");
    names.add(&entry.name, "the entry")?;
    for param in &entry.params {
        check_identifier("parameter", &param.name)?;
        names.add(&param.name, "a parameter")?;
        // The parameter space holds sized scalars; 8-bit and half ones are not used here.
        if !matches!(param.ty, Ty::U32 | Ty::S32 | Ty::B32 | Ty::F32 | Ty::U64 | Ty::S64 | Ty::B64) {
            return Err(Fault::ParamType { name: param.name.clone(), found: param.ty });
        }
    }
    let mut end = 0u64;
    for (i, decl) in entry.shared.iter().enumerate() {
        check_identifier("shared variable", &decl.name)?;
        names.add(&decl.name, "a shared variable")?;
        if !decl.align.is_power_of_two() || decl.align > 128 {
            return Err(Fault::Alignment { name: decl.name.clone(), align: decl.align });
        }
        if decl.storage == Storage::Dynamic {
            // The text form has no place for its size, and puts it behind the others.
            if decl.bytes != 0 || i + 1 != entry.shared.len() {
                return Err(Fault::Dynamic { name: decl.name.clone(), bytes: decl.bytes });
            }
            continue;
        }
        if decl.bytes == 0 {
            return Err(Fault::Empty { kind: "shared variable", name: decl.name.clone() });
        }
        end = end.next_multiple_of(u64::from(decl.align)) + u64::from(decl.bytes);
    }
    if end > STATIC_SHARED_BYTES {
        return Err(Fault::SharedSize { found: end, limit: STATIC_SHARED_BYTES });
    }
    Ok(())
}

fn check_banks(entry: &Entry) -> Result<(), Fault> {
    let mut names = Names::new("bank");
    for bank in &entry.banks {
        let mut chars = bank.name.chars();
        let well_formed = chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !well_formed {
            let rule = "of the form [a-z][a-z0-9_]*";
            return Err(Fault::Name { kind: "bank", name: bank.name.clone(), rule });
        }
        names.add(&bank.name, "a bank")?;
        if bank.ty.register() != bank.ty {
            return Err(Fault::BankType { name: bank.name.clone(), found: bank.ty });
        }
        if bank.count == 0 {
            return Err(Fault::Empty { kind: "bank", name: bank.name.clone() });
        }
    }
    Ok(())
}

fn check_labels(entry: &Entry) -> Result<(), Fault> {
    let mut names = Names::new("label");
    for name in &entry.labels {
        let mut chars = name.chars();
        let well_formed = chars.next().is_some_and(|c| c.is_ascii_uppercase())
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !well_formed {
            let rule = "of the form [A-Z][A-Za-z0-9_]*";
            return Err(Fault::Name { kind: "label", name: name.clone(), rule });
        }
        names.add(name, "a label")?;
    }
    Ok(())
}

/// A label statement names a label of the entry.
pub(super) fn check_label(entry: &Entry, label: Label) -> Result<(), Fault> {
    if (label.0 as usize) < entry.labels.len() {
        return Ok(());
    }
    Err(Fault::Dangling { kind: "label", index: label.0, count: entry.labels.len() })
}

/// A comment is one line without outer space, so that it is read back as it was written.
pub(super) fn check_comment(text: &str) -> Result<(), Fault> {
    if text.trim() != text || text.chars().any(char::is_control) {
        return Err(Fault::Comment { text: text.to_owned() });
    }
    Ok(())
}

/// Symbols of ours are ASCII identifiers that are no keyword of PTX: opcode names are reserved.
fn check_identifier(kind: &'static str, name: &str) -> Result<(), Fault> {
    let mut chars = name.chars();
    let well_formed = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !well_formed {
        return Err(Fault::Name { kind, name: name.to_owned(), rule: "of the form [A-Za-z][A-Za-z0-9_]*" });
    }
    if name == "WARP_SZ" || ROWS.iter().any(|row| row.name == name) {
        return Err(Fault::Name { kind, name: name.to_owned(), rule: "free: PTX reserves it" });
    }
    Ok(())
}

/// Names seen so far, each with what it stands for.
struct Names<'a> {
    kind: &'static str,
    seen: BTreeMap<&'a str, &'static str>,
}

impl<'a> Names<'a> {
    fn new(kind: &'static str) -> Names<'a> {
        Names { kind, seen: BTreeMap::new() }
    }

    fn add(&mut self, name: &'a str, what: &'static str) -> Result<(), Fault> {
        match self.seen.insert(name, what) {
            None => Ok(()),
            Some(first) => Err(Fault::Duplicate {
                kind: self.kind,
                name: name.to_owned(),
                first: first.to_owned(),
                second: what.to_owned(),
            }),
        }
    }
}
