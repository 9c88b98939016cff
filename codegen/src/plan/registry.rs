//! The kernels of a plan, without repetition: a kernel's identity is its name and the hash of its constants.

use crate::CodegenError;
use crate::dsl;
use crate::emit::Heading;
use crate::hash::fnv1a64;
use crate::kernels::Operation;
use crate::spec::Device;
use ::plan::{Access, Arg, KernelDesc, Launch, ParamDesc};
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

    /// Refuses a launch that takes for settled what an earlier launch of the step writes.
    pub(super) fn check_settled(&self, launch: &Launch, before: &[Launch]) -> Result<(), CodegenError> {
        let of_kernel = |launch: &Launch| self.kernels.get(launch.kernel as usize);
        let writes = |earlier: &Launch, index: u32| {
            let params = of_kernel(earlier).map(|desc| desc.params.iter()).into_iter().flatten();
            params.zip(earlier.args.iter()).any(|(param, arg)| {
                param.access.writes() && matches!(arg, Arg::Buffer { index: i, .. } if *i == index)
            })
        };
        let Some(desc) = of_kernel(launch) else { return Ok(()) };
        let settled =
            desc.params.iter().zip(launch.args.iter()).filter(|(param, _)| param.access == Access::Settled);
        for (param, arg) in settled {
            let Arg::Buffer { index, .. } = arg else { continue };
            let Some(writer) = before.iter().find(|earlier| writes(earlier, *index)) else { continue };
            let writer = of_kernel(writer).map_or("?", |desc| &desc.name);
            let reason = format!(
                "parameter `{}` is settled, but `{writer}` writes it earlier in the step",
                param.name
            );
            return Err(CodegenError::Plan { kernel: desc.name.to_string(), reason });
        }
        Ok(())
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
    let target = (&Heading::without_spec(device), device);
    compile(operation, &entry_of(operation, device), target)
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
            dsl::Access::Settled => Access::Settled,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may")]

    use super::*;
    use crate::kernels::Rows;
    use crate::kernels::argmax::{Argmax, ArgmaxFinal};
    use crate::kernels::attention::{Attend, AttendStep};
    use ::plan::{KvType, Phase, RopeKind};

    /// Attention, whose first parameter is the step's control, and the choice of a token, whose second is.
    fn registry() -> (Registry, [u32; 2]) {
        let device = Device::from_sm(90).unwrap();
        let mut registry = Registry::new(Heading::without_spec(device), device, vec![]);
        let attend = Attend {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 64,
            n_splits: 4,
            window: None,
            kv: KvType::F16,
            rows: Rows { count: 1, seq_stride: 0 },
        };
        let step =
            AttendStep { attend, kind: RopeKind::Neox, bias: false, norm_eps: None, score_scale: 0.125 };
        let step = registry.add(step).unwrap();
        let choice = registry.add(ArgmaxFinal(Argmax::new(512, 132, 1))).unwrap();
        (registry, [step, choice])
    }

    /// A launch whose parameters are as many buffers, from `first` on; the one at `control` is buffer 0.
    fn launch(registry: &Registry, kernel: u32, control: usize, first: u32) -> Launch {
        let n = registry.kernels()[kernel as usize].params.len();
        let index = |i: usize| if i == control { 0 } else { first + i as u32 };
        let args: Vec<Arg> = (0..n).map(|i| Arg::Buffer { index: index(i), offset: 0 }).collect();
        Launch { kernel, layer: None, phase: Phase::Body, args: args.into() }
    }

    #[test]
    fn what_is_settled_is_not_written_earlier_in_the_step() {
        let (registry, [step, choice]) = registry();
        let (step, choice) = (launch(&registry, step, 0, 100), launch(&registry, choice, 1, 200));
        let error = registry.check_settled(&step, std::slice::from_ref(&choice)).unwrap_err().to_string();
        assert!(error.contains("`control` is settled, but `argmax_final` writes it"), "{error}");
        registry.check_settled(&choice, std::slice::from_ref(&step)).unwrap();
    }

    #[test]
    fn other_buffers_may_be_written_earlier_in_the_step() {
        let (registry, [step, choice]) = registry();
        let elsewhere = launch(&registry, choice, usize::MAX, 200);
        registry.check_settled(&launch(&registry, step, 0, 100), &[elsewhere]).unwrap();
    }
}
