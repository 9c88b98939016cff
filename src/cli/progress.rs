//! A bar on stderr while weights load. There is none when stderr is no terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use monomorph::runtime::LoadProgress;

/// The progress of a load.
pub struct LoadBar {
    bar: ProgressBar,
}

impl LoadBar {
    /// A bar named `what`.
    pub fn new(what: &str) -> Self {
        let bar = match io::stderr().is_terminal() {
            true => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            false => ProgressBar::hidden(),
        };
        let template = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}";
        // The template is a constant; the default style is the fallback that its type asks for.
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(what.to_owned());
        Self { bar }
    }

    /// Shows how far a load is.
    pub fn show(&self, progress: LoadProgress) {
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
