//! What the DSL's tests share: a kernel as verified PTX text, and a kernel run in the emulator.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use emulator::{Checks, Config, LaunchShape, Machine, Outcome};
use monomorph_codegen::dsl::{BuildError, Kernel};
use monomorph_codegen::lower::lower;
use ptx::{Module, Target, Verified};

/// Lowers for sm_90 and verifies.
pub fn module(kernel: Result<Kernel, BuildError>) -> (Kernel, Verified<Module>) {
    let kernel = kernel.unwrap();
    let module = lower(&kernel, Target { sm: 90, arch_specific: false }, &kernel.name).unwrap();
    let verified = ptx::verify(module).unwrap_or_else(|error| panic!("{error}"));
    // For reading, and for `ptxas`.
    if let Ok(dir) = std::env::var("DSL_TEXT_DIR") {
        std::fs::write(format!("{dir}/{}.ptx", kernel.name), ptx::print(&verified)).unwrap();
    }
    (kernel, verified)
}

/// The PTX text of a kernel.
pub fn text(kernel: Result<Kernel, BuildError>) -> String {
    ptx::print(&module(kernel).1)
}

/// How often something stands in a text.
pub fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// A buffer of a launch.
pub enum Buf {
    /// Filled before the launch.
    Words(Vec<u32>),
    /// Bytes that nobody has written.
    Fresh(usize),
}

/// Floats as a buffer.
pub fn floats(values: &[f32]) -> Buf {
    Buf::Words(values.iter().map(|v| v.to_bits()).collect())
}

/// Integers as a buffer.
pub fn words(values: impl IntoIterator<Item = u32>) -> Buf {
    Buf::Words(values.into_iter().collect())
}

/// Runs a kernel with full checks and gives the words of its last buffer.
pub fn run(kernel: Result<Kernel, BuildError>, buffers: &[Buf]) -> Vec<u32> {
    let (kernel, verified) = module(kernel);
    let machine = Machine::new(Config { threads: 1, checks: Checks::Full });
    let program = machine.load(&verified).unwrap();
    let mut args = Vec::new();
    let mut last = 0;
    for buffer in buffers {
        last = match buffer {
            Buf::Words(words) => words.len(),
            Buf::Fresh(n) => *n,
        };
        let addr = machine.alloc(4 * last as u64).unwrap();
        if let Buf::Words(words) = buffer {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            machine.write(addr, &bytes).unwrap();
        }
        args.push(addr);
    }
    let shape = LaunchShape {
        grid: kernel.grid,
        block: kernel.block,
        dynamic_shared: kernel.dynamic_shared_bytes(),
        cooperative: kernel.cooperative,
    };
    match machine.launch_shaped(&program, kernel.name.as_str(), shape, &args).unwrap() {
        Outcome::Done(_) => {}
        Outcome::Trap(trap) => panic!("{trap:?}\n{}", ptx::print(&verified)),
    }
    let mut out = vec![0; 4 * last];
    machine.read(*args.last().unwrap(), &mut out).unwrap();
    out.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// [`run`], as floats.
pub fn run_f32(kernel: Result<Kernel, BuildError>, buffers: &[Buf]) -> Vec<f32> {
    run(kernel, buffers).into_iter().map(f32::from_bits).collect()
}
