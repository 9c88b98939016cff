//! What moves on stderr while somebody waits: bars with rates and the time that is left, and a running clock for what has no
//! measure. None when stderr is no terminal, when the terminal is `dumb`, or with `--no-progress`.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use monomorph::runtime::{LoadProgress, PromptProgress, PromptWatch};

/// Between two drawings.
const TICK: Duration = Duration::from_millis(120);
/// Set once, before anything is drawn.
static UNWANTED: AtomicBool = AtomicBool::new(false);

/// Nothing shall move from here on.
pub fn silence() {
    UNWANTED.store(true, Ordering::Relaxed);
}

/// A bar or a clock in this style, if any is wanted; drawn again and again until it is dropped.
fn new_bar(length: Option<u64>, template: &str, what: &str) -> ProgressBar {
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    let target = match io::stderr().is_terminal() && !dumb && !UNWANTED.load(Ordering::Relaxed) {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(length, target);
    // The templates are constants; the default style is the fallback that their type asks for.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// The progress of a load: reading, sending and re-packing weights, piece by piece.
pub struct LoadBar {
    bar: ProgressBar,
}

impl LoadBar {
    /// A clock while kernels are compiled for the device; a bar named `what` from the first piece of weights on.
    pub fn new(what: &str) -> Self {
        Self { bar: new_bar(None, "{spinner} {msg} {elapsed}", what) }
    }

    /// Shows how far a load is.
    pub fn show(&self, progress: LoadProgress) {
        if self.bar.length().is_none() {
            let template = "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            self.bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            self.bar.reset_eta();
        }
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Rounds of a measurement.
pub struct Rounds {
    bar: ProgressBar,
}

impl Rounds {
    /// `n` rounds of `what`.
    pub fn new(what: &str, n: u64) -> Self {
        let bar = new_bar(Some(n), "{msg} {wide_bar} round {pos} of {len}, {eta} left", what);
        // Nothing else runs while it is measured.
        bar.disable_steady_tick();
        Self { bar }
    }

    /// One more is done, at this rate.
    pub fn done(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.inc(1);
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A prompt being read: a clock until the first chunk is done, then a bar with a rate and the time that is left.
pub struct PromptBar {
    bar: ProgressBar,
}

impl PromptBar {
    /// Runs until it is dropped.
    pub fn start(n_tokens: usize) -> Self {
        let what = format!("reading {n_tokens} tokens");
        Self { bar: new_bar(None, "{spinner} {msg} {elapsed}", &what) }
    }

    /// What moves the bar: for the options of the generation.
    pub fn watch(&self) -> PromptWatch {
        // A clone is the same bar.
        let bar = self.bar.clone();
        PromptWatch::new(move |progress| advance(&bar, progress))
    }
}

fn advance(bar: &ProgressBar, PromptProgress { done_tokens, total_tokens }: PromptProgress) {
    if bar.length().is_none() {
        let template = "{msg} {wide_bar} {pos} of {len}, {per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.with_key("per_sec", |state: &ProgressState, text: &mut dyn fmt::Write| {
            // A line that cannot be written shows nothing.
            write!(text, "{:.1} tok/s", state.per_sec()).ok();
        }));
    }
    bar.set_length(total_tokens.into());
    bar.set_position(done_tokens.into());
}

impl Drop for PromptBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A clock beside what is being done.
pub struct Clock {
    bar: ProgressBar,
}

impl Clock {
    /// Runs until it is dropped.
    pub fn start(what: &str) -> Self {
        Self { bar: new_bar(None, "{spinner} {msg} {elapsed}", what) }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
