//! Times one kernel of a file of PTX on one thread, over memory filled with one byte: what an emulated instruction costs.
//!
//! `cargo run --release -p monomorph-emulator --example kernel -- FILE.ptx CTAS LAUNCHES [BYTE]`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use monomorph_emulator::{Checks, Config, Machine, Outcome};

/// Bytes behind every parameter.
const BYTES: u64 = 256 << 20;

/// Nanoseconds that this thread has had a CPU, where the system tells (Linux). Other work on the machine lengthens them less
/// than it does the clock's; they are counted from tick to tick, so that only many launches together have a time.
fn scheduled() -> Option<f64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| format!("missing {what}"));
    let text = std::fs::read_to_string(next("file")?)?;
    let (ctas, launches): (u32, u32) = (next("CTAs")?.parse()?, next("launches")?.parse()?);
    let byte: u8 = next("byte").map_or(Ok(0x11), |byte| byte.parse())?;
    let module = ptx::parse(&text)?;
    let entry = module.entries.first().ok_or("no entry")?;
    let (name, params, block) = (entry.name.clone(), entry.params.len(), entry.reqntid);
    let machine = Machine::new(Config { threads: 1, checks: Checks::Fast });
    let program = machine.load(&ptx::verify(module)?)?;
    let mut addresses = Vec::new();
    for _ in 0..params {
        let address = machine.alloc(BYTES)?;
        machine.fill(address, BYTES, byte)?;
        addresses.push(address);
    }
    let mut best = f64::INFINITY;
    let mut instructions = 0;
    let before = scheduled();
    for _ in 0..launches {
        let start = Instant::now();
        match machine.launch(&program, &name, [ctas, 1, 1], block, &addresses)? {
            Outcome::Done(stats) => instructions = stats.warp_instructions,
            Outcome::Trap(trap) => return Err(trap.into()),
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!(
        "{name}: {instructions} warp-instructions, {:.2} ns each, {:.1} us a launch at best",
        best * 1e9 / instructions as f64,
        best * 1e6
    );
    if let Some((before, after)) = before.zip(scheduled()) {
        println!("{:.1} us of CPU a launch", (after - before) * 1e-3 / f64::from(launches));
    }
    Ok(())
}
