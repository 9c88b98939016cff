//! Times one instruction after the other on one thread: 64 of a kind in a loop, each reading what was written four before,
//! so that neither a chain nor a single register decides. Shows which kind of slot is far from its neighbours.
//!
//! `cargo run --release -p monomorph-emulator --example slots [WORD]`: with a word, only lines that contain it.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use monomorph_emulator::{Checks, Config, Machine, Outcome};

/// Instructions with `D`, `A`, `B` for 32-bit registers, `FD`, `FA`, `FB` for floats, `QD`, `QA` for 64-bit ones.
const FORMS: &[&str] = &[
    "mov.b32 D, A;",
    "add.u32 D, A, B;",
    "and.b32 D, A, 252645135;",
    "shl.b32 D, A, 4;",
    "shr.u32 D, A, B;",
    "shr.s32 D, A, 4;",
    "mul.lo.u32 D, A, B;",
    "mad.lo.u32 D, A, B, 4;",
    "lop3.b32 D, A, 15, B, 234;",
    "lop3.b32 D, A, B, 15, 106;",
    "dp4a.u32.s32 D, A, B, D;",
    "dp4a.s32.s32 D, A, B, D;",
    "dp2a.lo.s32.s32 D, A, 257, 0;",
    "prmt.b32 D, A, B, 16;",
    "bfe.u32 D, A, 4, 8;",
    "mov.b32 {HD, HE}, A;",
    "cvt.f32.f16 FD, HA;",
    "cvt.rn.f32.s32 FD, A;",
    "cvt.rni.s32.f32 D, FA;",
    "add.rn.f32 FD, FA, FB;",
    "mul.rn.f32 FD, FA, FB;",
    "fma.rn.f32 FD, FA, FB, FD;",
    "neg.f32 FD, FA;",
    "max.NaN.f32 FD, FA, FB;",
    "div.rn.f32 FD, FA, FB;",
    "setp.lt.u32 %p_0, A, B;",
    "selp.b32 D, A, B, %p_1;",
    "shfl.sync.bfly.b32 D, A, 4, 31, 4294967295;",
    "shfl.sync.idx.b32 D, A, %r_62, 31, 4294967295;",
    "add.s64 QD, QA, 16;",
    "mad.wide.u32 QD, A, 4, QA;",
    "ld.shared.u32 D, [%r_60];",
    "ld.shared.v4.u32 {D, %r_40, %r_41, %r_42}, [%r_60];",
    "ld.shared.v4.u32 {D, %r_40, %r_41, %r_42}, [%r_61];",
    "ld.global.nc.u32 D, [%q_30];",
    "ld.global.nc.v4.u32 {D, %r_40, %r_41, %r_42}, [%q_30];",
    "ld.global.nc.v4.u32 {D, %r_40, %r_41, %r_42}, [%q_31];",
    "st.shared.u32 [%r_60], A;",
];

const COPIES: usize = 64;
const TURNS: u32 = 256;

fn kernel(form: &str) -> String {
    let mut body = String::from(
        "ld.param.u64 %q_29, [memory];\nmov.u32 %r_63, %tid.x;\nand.b32 %r_63, %r_63, 31;\nmov.u32 %r_59, 0;\n\
         mad.lo.u32 %r_60, %r_63, 16, 0;\nand.b32 %r_62, %r_63, 24;\nand.b32 %r_61, %r_63, 7;\nmul.lo.u32 %r_61, %r_61, 16;\n\
         mad.wide.u32 %q_30, %r_63, 16, %q_29;\nmad.wide.u32 %q_31, %r_61, 1, %q_29;\nsetp.lt.u32 %p_1, %r_63, 9;\n",
    );
    for i in 0..40 {
        body += &format!("mov.u32 %r_{i}, {};\n", 0x3c00_1234u32.wrapping_mul(2 * i + 1));
        if i < 32 {
            body += &format!(
                "mov.f32 %f_{i}, 0f3F{:06X};\nmov.b16 %h_{i}, {};\n",
                0x10_1000 + 77 * i,
                0x3c00 + i
            );
        }
        if i < 24 {
            body += &format!("mov.u64 %q_{i}, {i};\n");
        }
    }
    body += "$LOOP:\n";
    for i in 0..COPIES {
        let at = |k: usize, n: usize| (i + k) % n;
        let line = form
            .replace("HD", &format!("%h_{}", at(0, 32)))
            .replace("HE", &format!("%h_{}", at(8, 32)))
            .replace("HA", &format!("%h_{}", at(16, 32)))
            .replace("FD", &format!("%f_{}", at(0, 32)))
            .replace("FA", &format!("%f_{}", at(28, 32)))
            .replace("FB", &format!("%f_{}", at(13, 32)))
            .replace("QD", &format!("%q_{}", at(0, 24)))
            .replace("QA", &format!("%q_{}", at(20, 24)))
            .replace(" D", &format!(" %r_{}", at(0, 40)))
            .replace("{D", &format!("{{%r_{}", at(0, 40)))
            .replace(" A", &format!(" %r_{}", at(36, 40)))
            .replace(" B", &format!(" %r_{}", at(17, 40)));
        body += &line;
        body += "\n";
    }
    body += &format!("add.u32 %r_59, %r_59, 1;\nsetp.lt.u32 %p_0, %r_59, {TURNS};\n@%p_0 bra $LOOP;\nret;\n");
    format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.visible .entry one(.param .u64 memory)\n.reqntid 256, 1, 1\n{{\n\
         .shared .align 16 .b8 room[1024];\n.reg .b32 %r_<64>;\n.reg .f32 %f_<32>;\n.reg .b64 %q_<32>;\n.reg .b16 %h_<32>;\n.reg .pred %p_<2>;\n{body}}}\n"
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let word = std::env::args().nth(1).unwrap_or_default();
    let machine = Machine::new(Config { threads: 1, checks: Checks::Fast });
    let memory = machine.alloc(1 << 16)?;
    machine.fill(memory, 1 << 16, 0x35)?;
    for form in FORMS.iter().filter(|form| form.contains(&word)) {
        let program = machine.load(&ptx::verify(ptx::parse(&kernel(form))?)?)?;
        let mut best = f64::INFINITY;
        for _ in 0..7 {
            let start = Instant::now();
            match machine.launch(&program, "one", [1, 1, 1], [256, 1, 1], &[memory])? {
                Outcome::Done(_) => best = best.min(start.elapsed().as_secs_f64()),
                Outcome::Trap(trap) => return Err(trap.into()),
            }
        }
        let slots = 8.0 * f64::from(TURNS) * COPIES as f64;
        println!("{:6.2} ns  {form}", best * 1e9 / slots);
    }
    Ok(())
}
