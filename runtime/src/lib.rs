//! runtime
pub mod gguf;
