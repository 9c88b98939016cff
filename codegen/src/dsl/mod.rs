//! The kernel DSL: what a `#[kernel]` body may say.
//!
//! A kernel is a Rust function that runs at build time and records what the device is to do. Build-time values are
//! ordinary Rust and vanish; device values are [`V<T>`], copyable handles. One complete kernel:
//!
//! ```
//! use monomorph_codegen::dsl::prelude::*;
//!
//! pub struct Shape { pub rows: u32, pub dim: u32, pub warps: u32 }
//!
//! /// y[n] = Σ_k W[n,k]·x[k]
//! #[kernel(grid = s.rows.div_ceil(s.warps), block = 32 * s.warps)]
//! pub fn gemv_f32(s: &Shape, w: Fixed<f32>, x: In<f32>, y: Out<f32>) {
//!     let row = cta_id() * s.warps + warp_id();
//!     if row >= s.rows {
//!         return;
//!     }
//!     let lane = lane_id();
//!     let weights = w.offset(row * s.dim + lane * 4);
//!     let mut acc = 0.0;                                    // a device value: `let mut` with a float literal
//!     for i in unroll(0..s.dim / 128, 4) {                  // a runtime loop, its body four times
//!         let a = weights.at(i * 128).load_x4();
//!         let b = x.at(i * 128 + lane * 4).load_x4();
//!         for j in unroll(0..4) {                           // a loop of the build
//!             acc = fma(a[j], b[j], acc);
//!         }
//!     }
//!     let total = sum_lanes(acc, 32);
//!     if lane == 0 {
//!         y.store(row, total);
//!     }
//! }
//!
//! let shape = Shape { rows: 100, dim: 512, warps: 4 };
//! let kernel = gemv_f32(&shape)?;
//! assert_eq!((kernel.grid, kernel.block), ([25, 1, 1], [128, 1, 1]));
//! # Ok::<(), monomorph_codegen::dsl::BuildError>(())
//! ```
//!
//! `gemv_f32(&shape)` gives a [`Kernel`]; [`crate::lower::lower`] gives PTX of it.
//!
//! # Values
//! * [`V<T>`] with T one of bool, u16, i16, [`F16`], [`BF16`], u32, i32, f32, u64, i64. Operators `+ - * / % & | ^ ! << >>`
//!   take `V<T>` and `V<T>`, or `V<T>` and a constant `T` on either side; float ones round to nearest and are never
//!   contracted. Types do not mix: convert with `.to_f32()`, `.to_i32()`, `.round_to_i32()`, `.as_u32()`, `.bits()` ….
//!   Build-time sizes that meet `V<u32>` must be `u32`.
//! * `let mut acc = 0.0;`, `let mut n = 0u32;`, `let mut a = [0.0; 4];`: device values. `let eps = 1e-5;` (no `mut`),
//!   `let mut k = 0;` (no suffix): build time. [`dev(x)`](dev) makes a device value of any build-time scalar.
//! * Comparisons, `&&`, `||`, `!` give `bool` for build-time sides and `V<bool>` otherwise. On the device `&&` and `||`
//!   evaluate both sides: guard loads with `if`.
//!
//! # Control
//! * `if c {…} else {…}`, also as an expression: `bool` is decided at build time, `V<bool>` is recorded; assigned
//!   variables and the value flow out. `if row >= n { return; }` at the top of a kernel ends the thread.
//! * `for i in a..b`, `(a..b).step_by(s)`: a runtime loop; `i` is `V<u32>` (or `V<i32>`, by the bounds).
//! * `for i in unroll(0..n)`, `for x in each(iter)`: build-time loops, `i` ordinary Rust.
//! * `for i in unroll(a..b, k)`: a runtime loop with the body `k` times an iteration and the rest after it; `i` is `V<u32>`.
//!   Constant bounds with fewer than 2·k iterations give no loop.
//! * `while c {…}`: a runtime loop over a `V<bool>`.
//! * Variables that a runtime loop or device branch assigns must be made of device values ([`Carry`]: V, pointers, arrays, Vecs,
//!   tuples of them). `break`, `continue` and `return` in them are not supported.
//! * `match`, `if let`, iterators, closures, `Vec`: Rust, at build time.
//! * `#[device] fn` for helpers: inlined where called, generic if you like.
//!
//! # Memory
//! * [`Fixed<T>`](Fixed) (weights and tables: nobody writes them), [`Settled<T>`](Settled) (what earlier steps wrote), [`In<T>`](In), [`Out<T>`](Out), [`InOut<T>`](InOut) as parameters;
//!   [`shared::<T>(n)`](shared) for the CTA's memory.
//! * A kernel may start while the launch before it still runs. It waits for that first of all, or where it calls
//!   [`wait_for_earlier`]: what it loads through [`Fixed<T>`](Fixed) or [`Settled<T>`](Settled) before is on its way meanwhile.
//! * `p.at(i)` is a [`Place`]: `.load()`, `.load_x2()`, `.load_x4()`, `.store(v)`, `.store_x2(..)`, `.store_x4(..)`, `.prefetch_l2()`,
//!   `.cached(Cache::NoAllocate)`; with [`InOut`] or shared memory also `.load_acquire(scope)`, `.store_release(scope, v)`,
//!   `.atomic_add(scope, v)`, `.red_add(scope, v)`, `.release_add(scope, v)`, `.atomic_cas(..)`. `p.store(i, v)` is `p.at(i).store(v)`.
//! * [`copy_async`] from [`Fixed<T>`](Fixed) to shared memory while the kernel computes, [`barriers`] that say when it has landed.
//! * [`sync_grid`]: a barrier of all CTAs, for kernels that are launched with all of them resident.
//! * `p.offset(i)` moves a pointer, `p.cast::<U>()` changes its element. Constant parts of indices are free:
//!   `p.offset(row * n).at(3)` is `[row+12]`. Device indices are 32-bit (or `V<u64>`) and are widened in the address.
//! * u8 and u16 load as `V<u32>`, i8 and i16 as `V<i32>`, F16 as `V<F16>` (`.to_f32()`); stores take the low bits.
//!
//! # Names
//! `let acc = …` names registers `%acc_0`, …; [`note("text")`](note) puts a comment line into the PTX.
//! [`refuse("why")`](refuse) makes building the kernel fail.

mod async_copy;
mod atomic;
mod branch;
mod carry;
mod collective;
mod compare;
mod convert;
mod grid;
mod intrinsics;
mod kernel;
mod loops;
mod math;
mod memory_kind;
mod naming;
mod pointer;
mod record;
mod value;

pub use async_copy::{Barrier, Barriers, barriers, copy_async, fence_copies, publish_barriers};
pub use atomic::{Ordering, Rmw};
pub use carry::{Carry, Merge};
pub use collective::{block_max, block_sum, max_lanes, sum_lanes, warp_max, warp_sum};
pub use compare::BuildTime;
pub use grid::{cooperative, sync_grid};
pub use intrinsics::*;
pub use kernel::{Access, BuildError, BuildFault, Kernel, ParamInfo};
pub use math::{exp, sigmoid, silu};
pub use memory_kind::{Elem, Fixed, In, InOut, Kind, Out, Readable, Settled, Shared, Writable};
pub use pointer::{Cache, Index, Place, Ptr, Scope, at_address, shared};
pub use record::{note, refuse};
pub use value::{BF16, F16, Int, IntoV, Num, Scalar, Signed, V, Word, dev};

/// Everything a file with kernels needs.
pub mod prelude {
    pub use super::*;
    pub use kernels_dsl::{device, kernel};
}

/// What the macros write. Not for hand-written code.
pub mod staging {
    pub use super::branch::{Branch, Carries, Condition, Held, Joins, Settles};
    pub use super::carry::{CarryList, Join};
    pub use super::compare::{Assign, Compare, Logic, Order, and, assign, eq, ge, gt, le, lt, ne, or};
    pub use super::loops::{Bound, DeviceCondition, LoopIndex, Over, Range, While, over, over_from};
    pub use super::naming::{NameAny, NameDevice, Named, Namer};
    pub use super::pointer::{Param, param};
    pub use super::record::{Head, Recording, begin};

    /// A launch dimension: `n`, `(x, y)` or `(x, y, z)`.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not a launch shape: give a u32 or a tuple of up to three"
    )]
    pub trait Dims {
        #[doc(hidden)]
        fn dims(self) -> [u32; 3];
    }
    impl Dims for u32 {
        fn dims(self) -> [u32; 3] {
            [self, 1, 1]
        }
    }
    impl Dims for (u32, u32) {
        fn dims(self) -> [u32; 3] {
            [self.0, self.1, 1]
        }
    }
    impl Dims for (u32, u32, u32) {
        fn dims(self) -> [u32; 3] {
            [self.0, self.1, self.2]
        }
    }
    /// A launch shape from what the attribute gives.
    pub fn dims(shape: impl Dims) -> [u32; 3] {
        shape.dims()
    }
}
