//! The kernels, one operation a file: the equation, a plain-Rust reference in f64, and the `#[kernel]`s.
//!
//! Every operation implements [`Operation`]: its build-time constants are the struct, [`Operation::build`] makes the
//! kernel for them, and [`Operation::trial`] makes inputs with the results that must come out.

pub mod activate;
mod activation;
pub mod argmax;
pub mod attention;
pub mod bias;
pub mod embed;
mod exact;
pub mod ffn;
pub mod gemm;
pub mod gemv;
mod judge;
mod kv_rows;
pub mod norm;
mod operation;
pub mod post_norm;
pub mod qk_norm;
mod quantize;
mod reference;
pub mod repack;
pub mod rope;
mod rows;
pub mod sample;

pub use exact::Exact;
pub use judge::{Mismatch, judge};
pub use operation::{Choices, Cost, Expect, Link, Operation, Q8Block, Trial, TrialArg};
pub use rows::Rows;
