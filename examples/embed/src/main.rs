//! A model in a program of your own: from a file to a stream of text, with progress and cancellation.
//!
//! ```text
//! cd examples/embed && cargo run --release -- ../../models/tiny.gguf "Once upon a time"
//! ```
//!
//! Enter ends the story. The kernels are those of `story.toml`, which `build.rs` compiles in.

use std::error::Error;
use std::io::{self, Write};
use std::thread;

use monomorph_runtime::gguf::Gguf;
use monomorph_runtime::{
    CancelToken, DeviceChoice, DeviceOptions, GenerateOptions, LoadOptions, LoadProgress, TextModel,
    open_device,
};

/// The kernels and launches of `story.toml`.
mod story {
    #![allow(dead_code, reason = "the typed arguments of kernels are for who launches them one by one")]
    include!(concat!(env!("OUT_DIR"), "/table.rs"));
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(prompt)) = (arguments.next(), arguments.next()) else {
        return Err("usage: embed FILE.gguf PROMPT".into());
    };
    let cancel = CancelToken::new();
    cancel_on_enter(cancel.clone());

    // From a file to a stream of text:
    let gguf = Gguf::open(file)?;
    let device = open_device(DeviceChoice::Auto, &DeviceOptions::default())?;
    let show = |p: LoadProgress| eprint!("\rloading {} of {} bytes", p.done_bytes, p.total_bytes);
    let load = LoadOptions { progress: Some(&show), cancel: cancel.clone(), ..LoadOptions::default() };
    let model = TextModel::load(&gguf, &[story::TABLE.clone()], &device.queue, &load)?;
    eprintln!();
    let options = GenerateOptions { max_tokens: Some(40), cancel, ..GenerateOptions::default() };
    let mut stream = model.stream(&prompt, options)?;
    for piece in &mut stream {
        print!("{}", piece?);
        io::stdout().flush()?;
    }

    println!();
    let reason = stream.finish_reason().ok_or("the stream has not ended")?;
    eprintln!("{} tokens on {}, ended: {reason:?}", stream.tokens().len(), device.queue.name());
    Ok(())
}

/// Any thread may cancel; loads and streams look at the token between two pieces.
fn cancel_on_enter(cancel: CancelToken) {
    thread::spawn(move || {
        let mut line = String::new();
        if io::stdin().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            cancel.cancel();
        }
    });
}
