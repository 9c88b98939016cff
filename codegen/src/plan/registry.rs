//! The kernels of a plan, without repetition: a kernel's identity is its name and the hash of its constants.

use crate::CodegenError;
use crate::dsl;
use crate::emit::Heading;
use crate::hash::fnv1a64;
use crate::kernels::Operation;
use crate::spec::Device;
use ::plan::{Access, KernelDesc, ParamDesc};
use std::collections::BTreeMap;

type BoxedOperation = Box<dyn Operation + Send + Sync>;

pub(super) struct Registry {
    heading: Heading,
    device: Device,
    by_entry: BTreeMap<String, u32>,
    /// Kernels that need not be built, by symbol.
    known: BTreeMap<String, KernelDesc>,
    kernels: Vec<KernelDesc>,
    operations: Vec<BoxedOperation>,
    n_built: usize,
}

impl Registry {
    pub(super) fn new(heading: Heading, device: Device, known: Vec<KernelDesc>) -> Registry {
        Registry {
            heading,
            device,
            by_entry: BTreeMap::new(),
            known: known.into_iter().map(|kernel| (kernel.entry.to_string(), kernel)).collect(),
            kernels: Vec::new(),
            operations: Vec::new(),
            n_built: 0,
        }
    }

    /// The index of this operation's kernel; builds it when it is new and not known.
    pub(super) fn add<O>(&mut self, operation: O) -> Result<u32, CodegenError>
    where
        O: Operation + Send + Sync + 'static,
    {
        let entry = entry_of(&operation, self.device);
        if let Some(index) = self.by_entry.get(&entry) {
            return Ok(*index);
        }
        let known = self.known.remove(&entry).filter(|known| {
            // Symbols are short hashes: what the kernel says of itself must be the same.
            known.name == operation.name() && known.constants == operation.constants()
        });
        let desc = match known {
            Some(desc) => desc,
            None => {
                self.n_built += 1;
                compile(&operation, &entry, (&self.heading, self.device))?
            }
        };
        let index = self.kernels.len() as u32;
        self.by_entry.insert(entry, index);
        self.kernels.push(desc);
        self.operations.push(Box::new(operation));
        Ok(index)
    }

    pub(super) fn check_arity(&self, kernel: u32, n_args: usize) -> Result<(), CodegenError> {
        let Some(desc) = self.kernels.get(kernel as usize) else { return Ok(()) };
        if desc.params.len() == n_args {
            return Ok(());
        }
        let reason = format!("{n_args} arguments for {} parameters", desc.params.len());
        Err(CodegenError::Plan { kernel: desc.name.to_string(), reason })
    }

    /// The kernels so far.
    pub(super) fn kernels(&self) -> &[KernelDesc] {
        &self.kernels
    }

    /// How many of them were built here.
    pub(super) fn n_built(&self) -> usize {
        self.n_built
    }

    pub(super) fn finish(self) -> (Vec<KernelDesc>, Vec<BoxedOperation>) {
        (self.kernels, self.operations)
    }
}

/// A kernel's symbol: equal symbols, equal kernels.
fn entry_of(operation: &dyn Operation, device: Device) -> String {
    let identity = format!("{} {}", operation.constants(), device.sm);
    format!("{}_{:08x}", operation.name(), fnv1a64(identity.as_bytes()) >> 32)
}

/// A kernel that belongs to no spec.
pub(super) fn kernel(operation: &dyn Operation, device: Device) -> Result<KernelDesc, CodegenError> {
    compile(operation, &entry_of(operation, device), (&Heading::without_spec(device), device))
}

fn compile(
    operation: &dyn Operation,
    entry: &str,
    target: (&Heading, Device),
) -> Result<KernelDesc, CodegenError> {
    let kernel = operation.build()?;
    let (module, shared_bytes) = crate::emit::module_of(&kernel, operation, entry, target)?;
    let cost = operation.cost();
    let params = kernel.params.iter().map(|p| ParamDesc {
        name: p.name.clone().into(),
        elem: p.elem.text().into(),
        access: match p.access {
            dsl::Access::Read => Access::Read,
            dsl::Access::Write => Access::Write,
            dsl::Access::ReadWrite => Access::ReadWrite,
        },
    });
    Ok(KernelDesc {
        entry: entry.to_owned().into(),
        name: operation.name().into(),
        constants: operation.constants().into(),
        ptx: ptx::print::print(&module).into(),
        grid: kernel.grid,
        block: kernel.block,
        shared_bytes,
        cooperative: kernel.cooperative,
        params: params.collect::<Vec<_>>().into(),
        bytes: cost.bytes,
        macs: cost.macs,
    })
}
