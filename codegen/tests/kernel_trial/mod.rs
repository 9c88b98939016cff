//! Running a trial of an operation on the emulator, through the text that ships.

use emulator::{Checks, Config, LaunchShape, Machine, Outcome};
use monomorph_codegen::kernels::{Operation, Trial, judge};

pub fn machine() -> Machine {
    Machine::new(Config { threads: 0, checks: Checks::Full })
}

/// What a launch of an operation leaves in the arguments of a trial.
pub fn run(machine: &Machine, operation: &dyn Operation, trial: &Trial) -> Result<Vec<Vec<u8>>, String> {
    let kernel = operation.build().map_err(|e| e.to_string())?;
    let target = ptx::Target { sm: 90, arch_specific: false };
    let module = monomorph_codegen::lower::lower(&kernel, target, "k").map_err(|e| e.to_string())?;
    let module = ptx::verify::verify(module).map_err(|e| e.to_string())?;
    let text = ptx::print::print(&module);
    // The text is what ships: run what its parser makes of it.
    let module = ptx::verify::verify(ptx::parse::parse(&text).map_err(|e| e.to_string())?)
        .map_err(|e| e.to_string())?;
    let program = machine.load(&module).map_err(|e| e.to_string())?;
    assert_eq!(trial.n_params(), kernel.params.len(), "{}", operation.name());
    let addresses: Vec<u64> =
        trial.args.iter().map(|arg| machine.alloc(arg.before.len() as u64).unwrap()).collect();
    for (arg, address) in trial.args.iter().zip(&addresses) {
        machine.write(*address, &arg.linked(&addresses)).unwrap();
    }
    let params = &addresses[..trial.n_params()];
    let shape = LaunchShape {
        grid: kernel.grid,
        block: kernel.block,
        dynamic_shared: kernel.dynamic_shared_bytes(),
        cooperative: kernel.cooperative,
    };
    let outcome = machine.launch_shaped(&program, "k", shape, params).map_err(|e| e.to_string())?;
    if let Outcome::Trap(trap) = outcome {
        return Err(trap.to_string());
    }
    let mut after = Vec::new();
    for (arg, address) in trial.args.iter().zip(&addresses) {
        let mut bytes = vec![0; arg.before.len()];
        machine.read(*address, &mut bytes).unwrap();
        machine.free(*address).unwrap();
        after.push(arg.unlinked(&bytes));
    }
    Ok(after)
}

/// Runs one trial of an operation and says what is wrong with its results.
fn attempt(machine: &Machine, operation: &dyn Operation, seed: u64) -> Result<(), String> {
    let trial = operation.trial(seed);
    let after = run(machine, operation, &trial)?;
    let kernel = operation.build().map_err(|e| e.to_string())?;
    let names: Vec<String> = kernel.params.iter().map(|p| p.name.clone()).collect();
    judge(&trial, &names, &after).map_err(|e| e.to_string())
}

pub fn check(operation: &dyn Operation, seeds: std::ops::Range<u64>) {
    let machine = machine();
    for seed in seeds {
        if let Err(what) = attempt(&machine, operation, seed) {
            panic!("{} {}: {what}", operation.name(), operation.constants());
        }
    }
}
