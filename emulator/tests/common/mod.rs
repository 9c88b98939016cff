//! What the emulator's tests share: modules from a body of PTX, launches, and numbers to feed them.

// Every test binary takes its part of these.
#![allow(dead_code)]
// A test's helpers fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

use monomorph_emulator::{Checks, Config, Limits, Machine, Outcome, Program, Trap};

/// A module of one entry `k` with parameters `p0, p1, …` (64-bit), a block of `threads`, and shared variables given
/// as declarations. Registers: `%w_` b32, `%h_` b16, `%f_` f32, `%q_` b64, `%p_` predicates, 24 of each.
pub fn module(params: usize, threads: u32, shared: &str, body: &str) -> String {
    let params: Vec<String> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.visible .entry k({})\n.reqntid {threads}, 1, 1\n{{\n{shared}\n\
         .reg .b32 %w_<24>;\n.reg .b16 %h_<24>;\n.reg .f32 %f_<24>;\n.reg .b64 %q_<24>;\n.reg .pred %p_<24>;\n\
         {body}\n}}\n",
        params.join(", ")
    )
}

/// Parses, verifies and loads.
pub fn load(machine: &Machine, text: &str) -> Program {
    let module = ptx::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let module = ptx::verify(module).unwrap_or_else(|e| panic!("{e}\n{text}"));
    machine.load(&module).unwrap_or_else(|e| panic!("{e}"))
}

/// A machine with all checks and two threads.
pub fn machine() -> Machine {
    Machine::new(Config { threads: 2, checks: Checks::Full })
}

/// A machine that gives up early.
pub fn impatient(checks: Checks) -> Machine {
    Machine::with_limits(Config { threads: 1, checks }, Limits { cta_steps: 200_000, resident_ctas: 4 })
}

/// Runs a body over one buffer of words, given as `p0`: one block of `threads`; the buffer afterwards.
pub fn run_words(threads: u32, shared: &str, body: &str, words: &[u32]) -> Result<Vec<u32>, Box<Trap>> {
    run_grid(&machine(), [1, threads], shared, body, words)
}

/// [`run_words`] with a grid of `shape[0]` blocks of `shape[1]` threads, on a machine.
pub fn run_grid(
    machine: &Machine,
    shape: [u32; 2],
    shared: &str,
    body: &str,
    words: &[u32],
) -> Result<Vec<u32>, Box<Trap>> {
    let program = load(machine, &module(1, shape[1], shared, body));
    let buffer = machine.alloc(words.len() as u64 * 4).unwrap();
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    machine.write(buffer, &bytes).unwrap();
    match machine.launch(&program, "k", [shape[0], 1, 1], [shape[1], 1, 1], &[buffer]).unwrap() {
        Outcome::Trap(trap) => Err(Box::new(trap)),
        Outcome::Done(_) => {
            let mut out = vec![0; bytes.len()];
            machine.read(buffer, &mut out).unwrap();
            machine.free(buffer).unwrap();
            Ok(out.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
        }
    }
}

/// Loads the thread's word into `%w_0` (its address in `%q_1`, the thread index in `%w_1`).
pub const LOAD_OWN: &str = "ld.param.u64 %q_0, [p0];\nmov.u32 %w_1, %tid.x;\nmul.wide.u32 %q_2, %w_1, 4;\n\
     add.u64 %q_1, %q_0, %q_2;\nld.global.u32 %w_0, [%q_1];\n";

/// Stores `%w_2` to the thread's word and returns.
pub const STORE_OWN: &str = "st.global.u32 [%q_1], %w_2;\nret;\n";

/// Numbers that look random (splitmix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
