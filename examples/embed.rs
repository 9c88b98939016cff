//! A model in a program of your own: ten lines from a file to a stream of text.
//!
//! ```text
//! cargo run --release --features model-1.5b --example embed -- \
//!     models-cache/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf "def fibonacci(n):"
//! ```
//!
//! The kernels are those that the build compiled in. A program outside this workspace depends on `monomorph-runtime` and
//! brings its own tables (what `build.rs` here makes with `codegen::plan::build` and `codegen::emit`).

use std::error::Error;
use std::io::Write as _;

use monomorph::runtime::{DeviceChoice, GenerateOptions, TextModel};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embed FILE.gguf PROMPT".into());
    };
    let model = TextModel::open(file, &monomorph::compiled_tables(), DeviceChoice::Auto)?;
    let options = GenerateOptions { max_tokens: Some(32), ..GenerateOptions::default() };
    let mut out = std::io::stdout();
    for piece in model.stream(&prompt, options)? {
        write!(out, "{}", piece?)?;
        out.flush()?;
    }
    Ok(writeln!(out)?)
}
