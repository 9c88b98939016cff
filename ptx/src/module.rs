//! Modules, entries and the statements of a body.
//!
//! A register belongs to a *bank*: a base name with a type and a count, declared as `.reg .f32 %acc_<3>;`, whose
//! members print as `%acc_0 … %acc_2`. Banks are named after DSL variables, so a local change of a kernel gives a
//! local change of its text.

use crate::inst::{Inst, Operand};
use crate::types::Ty;

/// `.target`: a compute capability, and whether arch-specific features (`sm_90a`) may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Ten times the compute capability: 90 for 9.0.
    pub sm: u32,
    /// `sm_90a` rather than `sm_90`.
    pub arch_specific: bool,
}

impl Target {
    /// The `.version` a module of this target has: that of the table, or the first that knows the target. `None` for
    /// a target that does not exist; only compute capability 9.0 and later has arch-specific ones.
    pub fn version(self) -> Option<(u8, u8)> {
        let version = match self.sm {
            50 | 52 | 53 | 60 | 61 | 62 | 70 | 72 | 75 | 80 | 86 | 87 | 89 if !self.arch_specific => (8, 1),
            90 => (8, 1),
            100 => (8, 6),
            120 => (8, 7),
            103 | 121 => (8, 8),
            _ => return None,
        };
        Some(version)
    }
}

/// A register bank: `.reg .ty %name_<count>;`. Invariant: names of the banks of an entry are unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegBank {
    /// Base name without `%` and without the trailing `_`; `[a-z][a-z0-9_]*`.
    pub name: String,
    /// Declared type: one of those that [`Ty::register`] returns.
    pub ty: Ty,
    /// How many registers the bank has.
    pub count: u32,
}

/// A register: bank index in the entry and index in the bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg {
    /// Index into [`Entry::banks`].
    pub bank: u32,
    /// Index within the bank.
    pub index: u32,
}

/// A label: index into [`Entry::labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(pub u32);

/// A kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    /// Name without the entry's prefix; printed as `name`.
    pub name: String,
    /// `U64` for pointers.
    pub ty: Ty,
}

/// Who says how large a shared variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// The text: `.shared .align A .b8 name[bytes];` in the entry.
    Static,
    /// The launch: `.extern .shared .align A .b8 name[];` before the entry. It lies behind the static variables, and
    /// an entry has at most one.
    Dynamic,
}

/// A shared variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedDecl {
    /// Variable name.
    pub name: String,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// Size in bytes; 0 for a dynamic one.
    pub bytes: u32,
    /// Who says how large it is.
    pub storage: Storage,
}

/// A statement of a body.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stmt {
    /// `NAME:`
    Label(Label),
    /// An instruction.
    Inst(Inst),
    /// `// text` on a line of its own (no leading space is stored).
    Comment(String),
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Symbol.
    pub name: String,
    /// Comment lines before the entry (equation, shapes, layout, launch, source).
    pub doc: Vec<String>,
    /// Parameters.
    pub params: Vec<Param>,
    /// `.reqntid x, y, z`.
    pub reqntid: [u32; 3],
    /// `.minnctapersm n`, if given.
    pub min_ctas_per_sm: Option<u32>,
    /// Shared variables.
    pub shared: Vec<SharedDecl>,
    /// Register banks in order of declaration.
    pub banks: Vec<RegBank>,
    /// Label names; `[A-Z][A-Za-z0-9_]*`, printed with a leading `$`.
    pub labels: Vec<String>,
    /// The body.
    pub body: Vec<Stmt>,
}

/// A module: what one `.ptx` file holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// Comment lines at the top of the file.
    pub header: Vec<String>,
    /// `.version major.minor`.
    pub version: (u8, u8),
    /// `.target`.
    pub target: Target,
    /// Kernels.
    pub entries: Vec<Entry>,
}

impl Entry {
    /// Numbers labels in the order of their definition. Labels without a definition keep their order behind those,
    /// if an instruction uses them, and are dropped otherwise.
    pub fn number_labels(&mut self) {
        let mut order: Vec<Label> = Vec::new();
        let defined = self.body.iter().filter_map(|stmt| match stmt {
            Stmt::Label(label) => Some(*label),
            _ => None,
        });
        let used = self.body.iter().flat_map(|stmt| match stmt {
            Stmt::Inst(inst) => inst.operands.as_slice(),
            _ => &[],
        });
        let used = used.filter_map(|operand| match operand {
            Operand::Label(label) => Some(*label),
            _ => None,
        });
        for label in defined.chain(used) {
            if !order.contains(&label) && (label.0 as usize) < self.labels.len() {
                order.push(label);
            }
        }
        let renumber = |label: &mut Label| {
            if let Some(place) = order.iter().position(|old| old == label) {
                *label = Label(place as u32);
            }
        };
        for stmt in &mut self.body {
            match stmt {
                Stmt::Label(label) => renumber(label),
                Stmt::Inst(inst) => inst.operands.iter_mut().for_each(|operand| {
                    if let Operand::Label(label) = operand {
                        renumber(label);
                    }
                }),
                Stmt::Comment(_) => {}
            }
        }
        self.labels = order.iter().map(|label| self.labels[label.0 as usize].clone()).collect();
    }
}
