//! From a kernel's IR to PTX: phis become registers shared or moved, regions become labels and branches.

mod emit;
mod merge_shared;
mod moves;
mod registers;

use crate::dsl::Kernel;
use crate::ir::{self, Defect};
use crate::pass;
use ptx::{Entry, Module, Target};
use thiserror::Error;

/// Why a kernel could not be lowered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LowerError {
    /// No PTX version is known for the target.
    #[error("kernel `{kernel}`: no PTX version is known for target {target}")]
    Target {
        /// The kernel.
        kernel: String,
        /// The target.
        target: Target,
    },
    /// More shared memory than a CTA has on the target.
    #[error("kernel `{kernel}`: {found} bytes of shared memory, sm_{sm} has {limit} for a CTA")]
    Shared {
        /// The kernel.
        kernel: String,
        /// Bytes needed.
        found: u64,
        /// The target.
        sm: u32,
        /// Bytes there are.
        limit: u32,
    },
    /// A pass left the IR broken: a bug here, not in the kernel.
    #[error("kernel `{kernel}`: after pass {pass}: {defect}")]
    Pass {
        /// The kernel.
        kernel: String,
        /// The pass.
        pass: &'static str,
        /// What is broken.
        defect: Defect,
    },
}

/// Optimises a kernel and lowers it to a module of one entry. The caller verifies it ([`ptx::verify()`]).
pub fn lower(kernel: &Kernel, target: Target, entry_name: &str) -> Result<Module, LowerError> {
    let Some(version) = target.version() else {
        return Err(LowerError::Target { kernel: kernel.name.clone(), target });
    };
    let limit = ptx::verify::shared_bytes_of_cta(target.sm);
    if kernel.shared_bytes > limit {
        let (kernel, found) = (kernel.name.clone(), u64::from(kernel.shared_bytes));
        return Err(LowerError::Shared { kernel, found, sm: target.sm, limit });
    }
    let mut kernel = kernel.clone();
    pass::launch_order::run(&mut kernel.ir, target.sm);
    let entry = lower_entry(&kernel, entry_name)?;
    Ok(Module { header: Vec::new(), version, target, entries: vec![entry] })
}

/// Optimises a kernel and lowers it to an entry, for modules of several. It says nothing of the launches before and after it.
pub fn lower_entry(kernel: &Kernel, entry_name: &str) -> Result<Entry, LowerError> {
    let mut function = kernel.ir.clone();
    merge_shared::run(&mut function);
    for (name, run) in pass::ORDER {
        run(&mut function);
        ir::check(&function).map_err(|defect| LowerError::Pass {
            kernel: kernel.name.clone(),
            pass: name,
            defect,
        })?;
    }
    Ok(emit::entry(kernel, &function, entry_name))
}
