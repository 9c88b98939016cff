//! Monomorph: LLM kernels, monomorphised for your model at build time.
//!
//! This package is the command line and a facade: [`runtime`] to load and run models, [`COMPILED`] with the tables
//! that this build was specialised to (cargo features `model-*` and `sm-*`), and the tools that check generated code.
//!
//! ```text
//! models/*.toml ─► build.rs (codegen) ─► COMPILED ─► runtime::select_table ─► runtime::Model
//! ```
//!
//! A program that embeds the engine needs [`runtime`] and a table only; what else is here serves the command line and
//! the tests: [`specs`] (shipped model specs), [`golden`] (generated files compared with those on disk), [`ptxas`]
//! and [`nvdisasm`] (NVIDIA's assembler and disassembler, where there are any), [`kernel_source`] (kernels as they are
//! written), [`quantize`] (model files in smaller types), [`trial`] and [`matrix`]
//! (kernels against their references), [`parity`] and [`stepwise`] (a loaded model against the same on another device:
//! logits, or each launch's buffers, read by [`values`]) and [`vocabulary`] (a vocabulary for models that have none).
#![forbid(unsafe_code)]

mod built_in;
pub mod golden;
pub mod kernel_source;
pub mod matrix;
pub mod nvdisasm;
pub mod parity;
pub mod ptxas;
pub mod specs;
pub mod stepwise;
pub mod trial;
pub mod values;
pub mod vocabulary;

pub use built_in::{BuiltIn, built_in};
pub use plan;
pub use quantize;
pub use runtime;

/// What the build generated.
mod compiled {
    #![allow(
        missing_docs,
        dead_code,
        clippy::pedantic,
        reason = "generated; its generator is what is reviewed"
    )]
    include!(concat!(env!("OUT_DIR"), "/compiled.rs"));
}

pub use compiled::COMPILED;

/// The tables of this build by value, as [`runtime::select_table`] takes them; they borrow what is compiled in.
#[must_use]
pub fn compiled_tables() -> Vec<plan::Table> {
    COMPILED.iter().map(|table| (*table).clone()).collect()
}

/// The compiled table of a spec for the newest target that a device of `sm` runs.
#[must_use]
pub fn compiled_table(spec: &str, sm: u32) -> Option<&'static plan::Table> {
    COMPILED.iter().copied().filter(|table| table.spec == spec && table.sm <= sm).max_by_key(|table| table.sm)
}
