//! Runs verified PTX on the CPU, bit for bit as the GPU does, and stops kernels that do what hardware forgives.
//!
//! ```text
//! Verified<Module> ── load ──► Program (flat slots) ── launch ──► Outcome::Done | Outcome::Trap
//!                    decode*                         pool ► cta ► warp ► lanes
//! ```
//!
//! A warp executes one slot for its 32 lanes at once, as vector code: a straight line is a row of calls, one small function a
//! slot (`full`). The decoder fuses pairs of slots (`fuse`) and chains of dot products (`chain`) and lets registers share rows (`allocate`). CTAs spread over host threads. Lanes that
//! diverge meet again at the immediate post-dominator of their branch. Scheduling differs from a GPU's in one way that
//! a kernel can observe: a path that waits for another path of the same warp never sees it advance.
//!
//! Always checked: bounds of every access, natural alignment, barriers reached by part of a warp, member masks of
//! warp-wide instructions, endless loops. With [`Checks::Full`] also reads of unwritten global and shared bytes, and
//! races in shared memory. Registers need no check: the verifier proves each is written before it is read.
//!
//! Invariant: no unsafe code; device memory is atomic words, and every access of a kernel is checked.
#![forbid(unsafe_code)]

mod affine;
mod allocate;
mod chain;
mod chain_join;
mod chain_run;
mod code;
mod cta;
mod decode;
mod decode_own;
mod decode_pure;
mod dots;
mod error;
mod exec_async;
mod exec_atom;
mod exec_memory;
mod exec_small;
mod exec_sync;
mod full;
mod fuse;
mod host;
mod job;
mod lane_ops;
mod lanes;
mod machine;
mod mbarrier;
mod memory;
mod mma;
mod operands;
mod order;
mod poll;
mod pool;
mod race;
mod reconverge;
mod repeat;
mod rows;
mod shared;
mod trap;
#[cfg(test)]
mod trial;
mod uses;
mod warp;

pub use error::Error;
pub use machine::{Checks, Config, EntryId, EntryRef, LaunchShape, Limits, Machine, Outcome, Program, Stats};
pub use trap::{SpaceName, Trap, TrapKind, Waiting};
