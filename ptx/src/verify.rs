//! The verifier: nothing is printed, assembled or emulated but what passed here. It holds every instruction against
//! the table, then the names and resources of each entry, then its control flow. The type [`Verified`] is the proof.

mod fault;
mod flow;
mod operands;
mod structure;

use std::ops::Deref;

pub use fault::{Fault, VerifyError};
pub use structure::shared_bytes_of_cta;

use crate::module::{Entry, Module, Stmt};
use crate::print::print_stmt;

/// A value that [`verify`] accepted. Only it makes one, so to hold one is to know that the rules hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Gives the value back for changing; it has to be verified anew.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Checks a module, and numbers the labels of each entry in the order of their definition (unused names are dropped),
/// so that equal texts are equal modules.
///
/// # Errors
/// The first rule broken, with the entry, the statement, and both things that disagree.
pub fn verify(mut module: Module) -> Result<Verified<Module>, VerifyError> {
    structure::check_module(&module).map_err(|fault| VerifyError::Module { fault: Box::new(fault) })?;
    for entry in &module.entries {
        verify_entry(&module, entry)?;
    }
    module.entries.iter_mut().for_each(Entry::number_labels);
    Ok(Verified(module))
}

fn verify_entry(module: &Module, entry: &Entry) -> Result<(), VerifyError> {
    let in_entry = |fault| VerifyError::Entry { entry: entry.name.clone(), fault: Box::new(fault) };
    structure::check_entry(entry).map_err(in_entry)?;
    for stmt in &entry.body {
        let checked = match stmt {
            Stmt::Inst(inst) => operands::check_inst(module, entry, inst),
            Stmt::Label(label) => structure::check_label(entry, *label),
            Stmt::Comment(text) => structure::check_comment(text),
        };
        checked.map_err(|fault| at_statement(entry, stmt, fault))?;
    }
    flow::check(entry)
}

fn at_statement(entry: &Entry, stmt: &Stmt, fault: Fault) -> VerifyError {
    let statement = print_stmt(entry, stmt).trim().to_owned();
    VerifyError::Statement { entry: entry.name.clone(), statement, fault: Box::new(fault) }
}
