//! NVIDIA devices through the driver API. The only unsafe code of the workspace lives here; what is built on it is
//! safe.
//!
//! ```text
//! probe  is there a driver, and has it every function that we call?   (the binding panics on a missing one)
//! driver owners of driver objects, one unsafe call a block
//! function  kernels: compiled by the driver, launched
//! sequence  which launches of a list may start early
//! upload pinned staging, two halves in turn
//! queue  the trait: deadline, poison, fork check
//! ```

mod driver;
mod function;
mod places;
mod probe;
mod queue;
mod sequence;
mod upload;

pub use probe::{device_count, probe};
pub use queue::{CudaOptions, CudaQueue};
