//! The PTX text of a module. The layout is the golden format: equal modules print equal bytes, and a local change of
//! a kernel changes its own lines only. Only a verified module prints; single instructions print for messages.

use std::fmt::Write;

use crate::inst::{Addr, AddrBase, Imm, Inst, Operand};
use crate::module::{Entry, Module, Reg, Stmt, Storage, Target};
use crate::types::Ty;
use crate::verify::Verified;

/// Writes formatted text to a String, which cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{ let _ = write!($out, $($arg)*); }};
}

/// The text of a module, as the driver and `ptxas` read it.
pub fn print(module: &Verified<Module>) -> String {
    let mut out = String::new();
    for line in &module.header {
        put!(out, "{}\n", comment(line));
    }
    if !module.header.is_empty() {
        out.push('\n');
    }
    let (major, minor) = module.version;
    put!(out, ".version {major}.{minor}\n.target {}\n.address_size 64\n", module.target);
    for entry in &module.entries {
        out.push('\n');
        print_entry(&mut out, entry);
    }
    out
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sm_{}{}", self.sm, if self.arch_specific { "a" } else { "" })
    }
}

/// `// text`; an empty comment has no trailing space.
fn comment(line: &str) -> String {
    if line.is_empty() { "//".to_owned() } else { format!("// {line}") }
}

fn print_entry(out: &mut String, entry: &Entry) {
    for line in &entry.doc {
        put!(out, "{}\n", comment(line));
    }
    // The variable's symbol belongs to the module: a declaration is repeated where entries share it.
    for decl in entry.shared.iter().filter(|decl| decl.storage == Storage::Dynamic) {
        put!(out, ".extern .shared .align {} .b8 {}[];\n", decl.align, decl.name);
    }
    put!(out, ".visible .entry {}(", entry.name);
    for (i, param) in entry.params.iter().enumerate() {
        put!(out, "{}\n\t.param .{} {}", if i == 0 { "" } else { "," }, param.ty, param.name);
    }
    let [x, y, z] = entry.reqntid;
    put!(out, "{})\n.reqntid {x}, {y}, {z}\n", if entry.params.is_empty() { "" } else { "\n" });
    if let Some(n) = entry.min_ctas_per_sm {
        put!(out, ".minnctapersm {n}\n");
    }
    out.push_str("{\n");
    for decl in entry.shared.iter().filter(|decl| decl.storage == Storage::Static) {
        put!(out, "\t.shared .align {} .b8 {}[{}];\n", decl.align, decl.name, decl.bytes);
    }
    for bank in &entry.banks {
        put!(out, "\t.reg .{} %{}_<{}>;\n", bank.ty, bank.name, bank.count);
    }
    if !(entry.shared.is_empty() && entry.banks.is_empty()) {
        out.push('\n');
    }
    for stmt in &entry.body {
        put!(out, "{}\n", print_stmt(entry, stmt));
    }
    out.push_str("}\n");
}

/// A statement as it stands on its line, with indentation.
pub(crate) fn print_stmt(entry: &Entry, stmt: &Stmt) -> String {
    match stmt {
        Stmt::Label(label) => format!("{}:", label_name(entry, label.0)),
        Stmt::Inst(inst) => format!("\t{}", print_inst(entry, inst)),
        Stmt::Comment(text) => format!("\t{}", comment(text)),
    }
}

fn label_name(entry: &Entry, index: u32) -> String {
    entry.labels.get(index as usize).map_or_else(|| format!("$?{index}"), |name| format!("${name}"))
}

/// The name of a register, `%acc_2`; `%?` where the entry has no such bank.
pub fn print_reg(entry: &Entry, reg: Reg) -> String {
    let name = entry.banks.get(reg.bank as usize).map_or("?", |bank| bank.name.as_str());
    format!("%{name}_{}", reg.index)
}

/// One instruction with guard and semicolon, without indentation: for messages, dumps and traps, and so defined for
/// instructions that no verifier has seen.
pub fn print_inst(entry: &Entry, inst: &Inst) -> String {
    let mut out = String::new();
    if let Some(guard) = inst.guard {
        put!(out, "@{}{} ", if guard.negated { "!" } else { "" }, print_reg(entry, guard.reg));
    }
    out.push_str(&inst.form.text());
    let sigs = inst.form.row().operands;
    for (i, operand) in inst.operands.iter().enumerate() {
        let ty = sigs.get(i).and_then(|sig| sig.value()).and_then(|t| t.of(inst.form.types));
        put!(out, "{}{}", if i == 0 { " " } else { ", " }, print_operand(entry, operand, ty));
    }
    out.push(';');
    out
}

fn print_operand(entry: &Entry, operand: &Operand, ty: Option<Ty>) -> String {
    match operand {
        Operand::Reg(reg) => print_reg(entry, *reg),
        Operand::List(regs) => {
            let names: Vec<String> = regs.iter().map(|reg| print_reg(entry, *reg)).collect();
            format!("{{{}}}", names.join(", "))
        }
        Operand::Imm(imm) => print_imm(*imm, ty),
        Operand::Special(special) => special.text().to_owned(),
        Operand::SharedAddr(index) => shared_name(entry, *index),
        Operand::Addr(addr) => print_addr(entry, *addr),
        Operand::Label(label) => label_name(entry, label.0),
        Operand::Pair(reg, pred) => format!("{}|{}", print_reg(entry, *reg), print_reg(entry, *pred)),
    }
}

/// Floats as `0f` and their bits, bits in hexadecimal, integers in decimal by their sign.
fn print_imm(Imm(bits): Imm, ty: Option<Ty>) -> String {
    match ty {
        Some(Ty::F32) => format!("0f{bits:08X}"),
        Some(Ty::F64) => format!("0d{bits:016X}"),
        Some(ty) if ty.is_signed() => format!("{}", crate::sem::extend(ty, bits) as i64),
        Some(ty) if ty.is_int() || ty == Ty::Pred => format!("{bits}"),
        _ => format!("{bits:#x}"),
    }
}

fn shared_name(entry: &Entry, index: u32) -> String {
    entry.shared.get(index as usize).map_or_else(|| format!("?{index}"), |decl| decl.name.clone())
}

fn print_addr(entry: &Entry, addr: Addr) -> String {
    let base = match addr.base {
        AddrBase::Reg(reg) => print_reg(entry, reg),
        AddrBase::Shared(index) => shared_name(entry, index),
        AddrBase::Param(index) => {
            entry.params.get(index as usize).map_or_else(|| format!("?{index}"), |param| param.name.clone())
        }
    };
    match addr.offset {
        0 => format!("[{base}]"),
        // A negative offset is added too: PTX has no subtraction in addresses.
        offset => format!("[{base}+{offset}]"),
    }
}
