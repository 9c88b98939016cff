//! runtime
pub mod gguf;
pub mod sampling;
pub mod tokenizer;
