//! Measures the interpreter: warp-instructions a second on the inner loop of a 4-bit matrix-vector product (16-byte
//! loads, nibble masks, `dp4a`, scale arithmetic, a warp sum), on one thread and on all; and the cost of a small launch.
//!
//! `cargo run --release -p monomorph-emulator --example speed`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use monomorph_emulator::{Checks, Config, Machine, Outcome};

const ROWS: u32 = 1024;
const BLOCKS_PER_LANE: u32 = 64;

/// One warp a row; each lane takes 16 bytes of nibbles and 32 bytes of activations a step.
fn kernel() -> String {
    let mut body = String::from(
        "ld.param.u64 %q_0, [weights];\nld.param.u64 %q_1, [acts];\nld.param.u64 %q_2, [y];\n\
         mov.u32 %r_0, %tid.x;\nand.b32 %r_1, %r_0, 31;\nshr.u32 %r_2, %r_0, 5;\nmov.u32 %r_3, %ctaid.x;\n\
         mad.lo.u32 %r_4, %r_3, 8, %r_2;\nmul.lo.u32 %r_5, %r_4, 32768;\nmad.lo.u32 %r_5, %r_1, 16, %r_5;\n\
         cvt.u64.u32 %q_3, %r_5;\nadd.u64 %q_0, %q_0, %q_3;\nmul.wide.u32 %q_4, %r_1, 32;\nadd.u64 %q_1, %q_1, %q_4;\n\
         mov.u32 %r_6, 0;\nmov.f32 %f_0, 0f00000000;\n$LOOP:\n\
         ld.global.nc.v4.u32 {%r_8, %r_9, %r_10, %r_11}, [%q_0];\n\
         ld.global.v4.u32 {%r_12, %r_13, %r_14, %r_15}, [%q_1];\n\
         ld.global.v4.u32 {%r_16, %r_17, %r_18, %r_19}, [%q_1+16];\nmov.u32 %r_20, 0;\nmov.u32 %r_21, 0;\n",
    );
    for i in 0..4 {
        body += &format!(
            "and.b32 %r_22, %r_{w}, 252645135;\nand.b32 %r_23, %r_{w}, 4042322160;\n\
             dp4a.s32.s32 %r_20, %r_22, %r_{lo}, %r_20;\ndp4a.u32.s32 %r_21, %r_23, %r_{hi}, %r_21;\n",
            w = 8 + i,
            lo = 12 + i,
            hi = 16 + i
        );
    }
    body += "shr.s32 %r_21, %r_21, 4;\nadd.s32 %r_20, %r_20, %r_21;\ncvt.rn.f32.s32 %f_1, %r_20;\n\
         fma.rn.f32 %f_0, %f_1, 0f3C000000, %f_0;\nadd.u64 %q_0, %q_0, 512;\nadd.u64 %q_1, %q_1, 1024;\n\
         add.u32 %r_6, %r_6, 1;\nsetp.lt.u32 %p_0, %r_6, 64;\n@%p_0 bra $LOOP;\n";
    for step in [16, 8, 4, 2, 1] {
        body += &format!(
            "mov.b32 %r_24, %f_0;\nshfl.sync.bfly.b32 %r_25, %r_24, {step}, 31, 4294967295;\n\
             mov.b32 %f_2, %r_25;\nadd.rn.f32 %f_0, %f_0, %f_2;\n"
        );
    }
    body += "setp.ne.u32 %p_1, %r_1, 0;\n@%p_1 bra $DONE;\nmul.wide.u32 %q_5, %r_4, 4;\nadd.u64 %q_2, %q_2, %q_5;\n\
         st.global.f32 [%q_2], %f_0;\n$DONE:\nret;\n";
    format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.visible .entry gemv(.param .u64 weights, .param .u64 acts, \
         .param .u64 y)\n.reqntid 256, 1, 1\n{{\n.reg .b32 %r_<26>;\n.reg .f32 %f_<3>;\n.reg .b64 %q_<6>;\n\
         .reg .pred %p_<2>;\n{body}}}\n"
    )
}

fn measure(config: Config) -> Result<(), Box<dyn Error>> {
    let machine = Machine::new(config);
    let module = ptx::verify(ptx::parse(&kernel())?)?;
    let program = machine.load(&module)?;
    let gemv = program.entry("gemv").ok_or("no entry")?;
    let weights = machine.alloc(u64::from(ROWS) * 32768)?;
    let acts = machine.alloc(u64::from(BLOCKS_PER_LANE) * 1024)?;
    let y = machine.alloc(u64::from(ROWS) * 4)?;
    machine.fill(weights, u64::from(ROWS) * 32768, 0x93)?;
    machine.fill(acts, u64::from(BLOCKS_PER_LANE) * 1024, 0x71)?;
    let args = [weights, acts, y];
    let mut best = 0.0f64;
    let mut weights_a_second = 0.0f64;
    for _ in 0..5 {
        let start = Instant::now();
        let outcome = machine.launch(&program, gemv, [ROWS / 8, 1, 1], [256, 1, 1], &args)?;
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Outcome::Done(stats) => {
                best = best.max(stats.warp_instructions as f64 / seconds);
                weights_a_second = weights_a_second.max(f64::from(ROWS) * 65536.0 / seconds);
            }
            Outcome::Trap(trap) => return Err(trap.into()),
        }
    }
    println!(
        "{config:?}: {:.1} M warp-instructions/s, {:.2} G weights/s",
        best / 1e6,
        weights_a_second / 1e9
    );
    Ok(())
}

fn measure_launch(threads: usize, ctas: u32) -> Result<(), Box<dyn Error>> {
    let machine = Machine::new(Config { threads, checks: Checks::Fast });
    let text = ".version 8.1\n.target sm_90\n.address_size 64\n.visible .entry empty()\n.reqntid 128, 1, 1\n{\nret;\n}\n";
    let program = machine.load(&ptx::verify(ptx::parse(text)?)?)?;
    let empty = program.entry("empty").ok_or("no entry")?;
    let n = 2000;
    let start = Instant::now();
    for _ in 0..n {
        machine.launch(&program, empty, [ctas, 1, 1], [128, 1, 1], &[])?;
    }
    println!(
        "launch of {ctas} empty CTAs, {threads} threads: {:.2} us",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(n)
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    measure(Config { threads: 1, checks: Checks::Fast })?;
    measure(Config { threads: 0, checks: Checks::Fast })?;
    measure(Config { threads: 1, checks: Checks::Full })?;
    for ctas in [1, 4, 132] {
        measure_launch(2, ctas)?;
    }
    Ok(())
}
