//! Builds an entry: hands out registers by variable name, labels, parameters and shared variables, and keeps the
//! names in the form that the verifier asks for. It checks nothing else; the verifier does.

use std::collections::BTreeMap;

use crate::inst::{Guard, Inst};
use crate::module::{Entry, Label, Param, Reg, RegBank, SharedDecl, Stmt, Storage};
use crate::types::Ty;

/// An entry under construction.
#[derive(Clone, Debug)]
pub struct EntryBuilder {
    entry: Entry,
    /// Bank of each (variable, register type).
    banks: BTreeMap<(String, Ty), u32>,
}

impl EntryBuilder {
    /// An entry of that symbol and CTA shape.
    pub fn new(name: &str, reqntid: [u32; 3]) -> EntryBuilder {
        let entry = Entry {
            name: name.to_owned(),
            doc: Vec::new(),
            params: Vec::new(),
            reqntid,
            min_ctas_per_sm: None,
            shared: Vec::new(),
            banks: Vec::new(),
            labels: Vec::new(),
            body: Vec::new(),
        };
        EntryBuilder { entry, banks: BTreeMap::new() }
    }

    /// Adds a comment line before the entry.
    pub fn doc(&mut self, line: &str) {
        self.entry.doc.push(one_line(line));
    }

    /// Sets `.minnctapersm`.
    pub fn min_ctas_per_sm(&mut self, n: u32) {
        self.entry.min_ctas_per_sm = Some(n);
    }

    /// A new register that holds a `ty`, in the bank of that variable and register type. A second register type for
    /// the same variable gets a bank with a suffix: `acc`, then `acc_b32`.
    pub fn reg(&mut self, name: &str, ty: Ty) -> Reg {
        let ty = ty.register();
        let name = bank_name(name);
        let bank = match self.banks.get(&(name.clone(), ty)) {
            Some(bank) => *bank,
            None => {
                let bank = self.entry.banks.len() as u32;
                let unique = self.free_bank_name(&name, ty);
                self.entry.banks.push(RegBank { name: unique, ty, count: 0 });
                self.banks.insert((name, ty), bank);
                bank
            }
        };
        let index = self.entry.banks.get_mut(bank as usize).map_or(0, |declared| {
            declared.count += 1;
            declared.count - 1
        });
        Reg { bank, index }
    }

    fn free_bank_name(&self, name: &str, ty: Ty) -> String {
        let taken = |candidate: &str| self.entry.banks.iter().any(|bank| bank.name == candidate);
        if !taken(name) {
            return name.to_owned();
        }
        let typed = format!("{name}_{ty}");
        if !taken(&typed) {
            return typed;
        }
        // Only a variable that is itself called `acc_b32` gets here; its bank is numbered.
        (2..).map(|n| format!("{typed}_{n}")).find(|candidate| !taken(candidate)).unwrap_or(typed)
    }

    /// A new label; a name that is taken gets a number.
    pub fn label(&mut self, name: &str) -> Label {
        let base = label_name(name);
        let taken = |candidate: &String| self.entry.labels.contains(candidate);
        let unique = if taken(&base) {
            (2..).map(|n| format!("{base}_{n}")).find(|candidate| !taken(candidate)).unwrap_or(base)
        } else {
            base
        };
        self.entry.labels.push(unique);
        Label(self.entry.labels.len() as u32 - 1)
    }

    /// Puts a label here.
    pub fn place(&mut self, label: Label) {
        self.entry.body.push(Stmt::Label(label));
    }

    /// Appends an instruction.
    pub fn emit(&mut self, inst: Inst) {
        self.entry.body.push(Stmt::Inst(inst));
    }

    /// Appends an instruction under a guard.
    pub fn emit_guarded(&mut self, guard: Guard, inst: Inst) {
        self.entry.body.push(Stmt::Inst(Inst { guard: Some(guard), ..inst }));
    }

    /// Appends a comment line.
    pub fn comment(&mut self, text: &str) {
        self.entry.body.push(Stmt::Comment(one_line(text)));
    }

    /// Adds a parameter; its index is what [`crate::AddrBase::Param`] takes.
    pub fn param(&mut self, name: &str, ty: Ty) -> u32 {
        self.entry.params.push(Param { name: name.to_owned(), ty });
        self.entry.params.len() as u32 - 1
    }

    /// Adds a shared variable of `bytes` bytes aligned to `align`; its index is what [`crate::AddrBase::Shared`] and
    /// [`crate::Operand::SharedAddr`] take.
    pub fn shared(&mut self, name: &str, align: u32, bytes: u32) -> u32 {
        self.entry.shared.push(SharedDecl { name: name.to_owned(), align, bytes, storage: Storage::Static });
        self.entry.shared.len() as u32 - 1
    }

    /// Adds the shared variable whose size the launch gives.
    pub fn dynamic_shared(&mut self, name: &str, align: u32) -> u32 {
        self.entry.shared.push(SharedDecl {
            name: name.to_owned(),
            align,
            bytes: 0,
            storage: Storage::Dynamic,
        });
        self.entry.shared.len() as u32 - 1
    }

    /// What has been built so far, for printing an instruction in a message.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The entry.
    pub fn finish(self) -> Entry {
        self.entry
    }
}

/// `[a-z][a-z0-9_]*`: lower case, anything else an underscore, `v` before a name that does not start with a letter.
fn bank_name(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_lowercase()) { name } else { format!("v{name}") }
}

/// `[A-Z][A-Za-z0-9_]*`: upper case, anything else an underscore, `L` before a name that does not start with a letter.
fn label_name(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_uppercase()) { name } else { format!("L{name}") }
}

/// Comments are one line without outer space.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().to_owned()
}
