//! What unit tests share: words, and a few slots run by a warp on registers of random words.

use crate::code::{Code, Slot};
use crate::full;
use crate::lanes::LANES;
use crate::memory::Globals;
use crate::shared::Shared;
use crate::warp::{Context, Patience, Warp};

/// The register that is looked at.
pub(crate) const D: u16 = 7;
/// Registers of 32 bits.
pub(crate) const REGISTERS: usize = 48;

/// Slots with their functions, over [`REGISTERS`] registers of 32 bits.
pub(crate) fn code(slots: Vec<Slot>) -> Code {
    let origin = vec![0; slots.len()];
    let mut code = Code { slots, origin, w_regs: REGISTERS, q_regs: 1, ..Code::default() };
    full::choose_all(&mut code);
    code
}

/// What [`D`] holds after a run on registers filled from `seed`, a third of them small numbers, by the first `lanes` lanes.
pub(crate) fn run(code: &Code, seed: u32, lanes: u32) -> [u32; LANES] {
    let mut warp = Warp::new(code, 0, [lanes, 1, 1]);
    let mut random = seed;
    for reg in 0..REGISTERS {
        if code.w_consts.iter().any(|(constant, _)| usize::from(*constant) == reg) {
            continue;
        }
        for lane in 0..LANES {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = random >> 7 ^ random << 11;
            warp.w[reg][lane] = if value.is_multiple_of(3) { value >> 27 } else { value };
        }
    }
    let (globals, shared) = (Globals::default(), Shared::unchecked(0));
    let cx = Context {
        code,
        globals: &globals,
        shared: &shared,
        args: &[],
        cta: [0; 3],
        grid: [1; 3],
        block: [lanes, 1, 1],
        epoch: 0,
        patience: Patience::Yield,
    };
    warp.run(&cx, 100).unwrap();
    warp.w[usize::from(D)]
}

/// Words of extreme bytes in all places, and others.
pub(crate) fn words<const N: usize>(seed: u32) -> [u32; N] {
    let bytes = [0, 1, 127, 128, 129, 255];
    let mut random = seed;
    std::array::from_fn(|_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = random >> 5 ^ random << 9;
        if random >> 30 == 0 {
            word
        } else {
            u32::from_le_bytes([0, 8, 16, 24].map(|at| bytes[(word >> at) as usize % 6]))
        }
    })
}
