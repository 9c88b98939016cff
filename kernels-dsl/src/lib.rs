//! `#[kernel]` and `#[device]`: device kernels in Rust syntax.
//!
//! A kernel is a Rust function that runs at build time and records device instructions as it runs: whatever is known
//! then (dimensions, `Vec`s, `match`, `for … in unroll(…)`) is ordinary Rust and vanishes; device values are
//! `V<T>` handles. The macro rewrites only what plain Rust cannot stage by operator overloading:
//!
//! * comparisons, `&&` and `||`, which in Rust must give `bool`;
//! * `if`, `for` over a range and `while`, whose bodies must be recorded and whose assigned variables become
//!   values that flow out of the branch or around the loop;
//! * `let`, to name registers after variables and to make device values of mutable literals.
//!
//! ```text
//! syn::ItemFn ── signature ──► parameters, grid, block, docs
//!             ── assigned  ──► which outer variables does a body assign?
//!             ── rewrite   ──► the same body with control flow turned into calls of `dsl::staging`
//! ```
//!
//! Errors are spans: a construct that cannot be staged is reported where it stands, with what to write instead.
#![forbid(unsafe_code)]

mod assigned;
mod branches;
mod literals;
mod loops;
mod rewrite;
mod signature;

use proc_macro::TokenStream;
use syn::{ItemFn, parse_macro_input};

/// Turns a function into the builder of a kernel: `#[kernel(grid = …, block = … [, min_ctas = …])]`.
///
/// Parameters of type `Fixed<T>`, `Settled<T>`, `In<T>`, `Out<T>` and `InOut<T>` become kernel parameters in order; all others stay parameters
/// of the builder function, which returns `Result<dsl::Kernel, dsl::BuildError>`. `///` lines become the kernel's
/// comment in PTX. `grid` and `block` are expressions over the build-time parameters: `u32` or tuples of up to three.
#[proc_macro_attribute]
pub fn kernel(args: TokenStream, item: TokenStream) -> TokenStream {
    let args = parse_macro_input!(args as signature::Launch);
    let item = parse_macro_input!(item as ItemFn);
    signature::kernel(&args, item).unwrap_or_else(|error| error.into_compile_error()).into()
}

/// Lets an ordinary function record device code: the same syntax as in a kernel, inlined where it is called.
///
/// It may take and return `V<T>`, arrays, pointers and build-time values, and may be generic.
#[proc_macro_attribute]
pub fn device(args: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as ItemFn);
    signature::device(args.into(), item).unwrap_or_else(|error| error.into_compile_error()).into()
}
