//! Every kernel of the tiny spec, and shapes at the edges of their tiles, on the emulator against the references.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use emulator::{Checks, Config, Machine, Outcome};
use monomorph_codegen::kernels::embed::Embed;
use monomorph_codegen::kernels::gemv::{Epilogue, Gemv, GemvQkv, Split};
use monomorph_codegen::kernels::repack::Repack;
use monomorph_codegen::kernels::{Operation, judge};
use monomorph_codegen::layout::Matrix;
use monomorph_codegen::{Device, ModelSpec};
use plan::QType;

fn machine() -> Machine {
    Machine::new(Config { threads: 0, checks: Checks::Full })
}

/// Runs one trial of an operation and says what is wrong with its results.
fn attempt(machine: &Machine, operation: &dyn Operation, seed: u64) -> Result<(), String> {
    let kernel = operation.build().map_err(|e| e.to_string())?;
    let target = ptx::Target { sm: 90, arch_specific: false };
    let module = monomorph_codegen::lower::lower(&kernel, target, "k").map_err(|e| e.to_string())?;
    let module = ptx::verify::verify(module).map_err(|e| e.to_string())?;
    let text = ptx::print::print(&module);
    // The text is what ships: run what its parser makes of it.
    let module = ptx::verify::verify(ptx::parse::parse(&text).map_err(|e| e.to_string())?)
        .map_err(|e| e.to_string())?;
    let program = machine.load(&module).map_err(|e| e.to_string())?;
    let trial = operation.trial(seed);
    assert_eq!(trial.args.len(), kernel.params.len(), "{}", operation.name());
    let mut addresses = Vec::new();
    for arg in &trial.args {
        let address = machine.alloc(arg.before.len() as u64).unwrap();
        machine.write(address, &arg.before).unwrap();
        addresses.push(address);
    }
    let outcome =
        machine.launch(&program, "k", kernel.grid, kernel.block, &addresses).map_err(|e| e.to_string())?;
    if let Outcome::Trap(trap) = outcome {
        return Err(trap.to_string());
    }
    let mut after = Vec::new();
    for (arg, address) in trial.args.iter().zip(&addresses) {
        let mut bytes = vec![0; arg.before.len()];
        machine.read(*address, &mut bytes).unwrap();
        machine.free(*address).unwrap();
        after.push(bytes);
    }
    let names: Vec<String> = kernel.params.iter().map(|p| p.name.clone()).collect();
    judge(&trial, &names, &after).map_err(|e| e.to_string())
}

fn check(operation: &dyn Operation, seeds: std::ops::Range<u64>) {
    let machine = machine();
    for seed in seeds {
        if let Err(what) = attempt(&machine, operation, seed) {
            panic!("{} {}: {what}", operation.name(), operation.constants());
        }
    }
}

fn plan_of(name: &str) -> monomorph_codegen::plan::Plan {
    let path = format!("{}/../models/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let spec = ModelSpec::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap();
    monomorph_codegen::plan::build(&spec, Device::from_sm(90).unwrap()).unwrap()
}

#[test]
fn every_kernel_of_tiny_computes_its_equation() {
    for operation in &plan_of("tiny").operations {
        check(operation.as_ref(), 0..8);
    }
}

#[test]
fn gemv_at_the_edges_of_tiles_and_splits() {
    for qtype in [QType::Q4K, QType::Q6K] {
        for (rows, cols) in [(1, 256), (3, 512), (4, 768), (5, 1280), (7, 256), (33, 2304)] {
            for (k_split, tiles_per_cta, unroll) in [(1, 8, 4), (1, 1, 2), (2, 2, 1), (4, 1, 4), (8, 1, 2)] {
                let matrix = Matrix { qtype, rows, cols };
                let split = Split { k_split, tiles_per_cta, unroll };
                for epilogue in [Epilogue::Store, Epilogue::Add] {
                    check(&Gemv { matrix, epilogue, split }, 0..1);
                }
            }
        }
    }
}

#[test]
fn mixed_types_share_a_qkv_launch() {
    let m = |qtype, rows| Matrix { qtype, rows, cols: 512 };
    let split = Split { k_split: 2, tiles_per_cta: 4, unroll: 2 };
    check(&GemvQkv { matrices: [m(QType::Q4K, 24), m(QType::Q6K, 12), m(QType::Q4K, 20)], split }, 0..3);
}

#[test]
fn repack_and_lookup_agree_with_the_layout_at_odd_shapes() {
    for qtype in [QType::Q4K, QType::Q6K] {
        for (rows, cols) in [(1, 256), (5, 512), (9, 1024)] {
            let matrix = Matrix { qtype, rows, cols };
            check(&Repack { matrix }, 0..2);
            check(&Embed { matrix }, 0..4);
        }
    }
    check(&Embed { matrix: Matrix { qtype: QType::F32, rows: 7, cols: 384 } }, 0..4);
}
