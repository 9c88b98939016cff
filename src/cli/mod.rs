//! The verbs, one a file. Each is a clap struct with the arguments and a `run`.

mod bench;
mod chat;
mod completions;
mod debug;
mod device;
mod diff;
mod doctor;
mod emit;
mod explain;
mod generate;
mod inspect;
mod kernels;
mod logits;
mod man;
mod model;
mod next_step;
pub mod output;
mod perplexity;
mod profile;
mod progress;
mod quantize;
mod roofline;
mod style;
mod table_text;
mod tokenize;
mod tool_version;
mod tune;
mod verify;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// LLM kernels, monomorphised for your model at build time.
#[derive(Debug, Parser)]
#[command(name = "monomorph", version, arg_required_else_help = true)]
pub struct Cli {
    /// No bars and clocks on stderr
    #[arg(long, global = true)]
    no_progress: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Continues a text with a model; streams what comes.
    Generate(generate::Generate),
    /// Talks with a model: a line is a turn.
    Chat(chat::Chat),
    /// Prints the token ids of a text.
    Tokenize(tokenize::Tokenize),
    /// Writes the logits after some tokens to a file.
    Logits(logits::Logits),
    /// Shows what a model file holds and whether kernels for it are compiled in.
    Inspect(inspect::Inspect),
    /// Writes the PTX and the table of a spec, or checks those on disk.
    Emit(emit::Emit),
    /// Compares two PTX files, or a spec's PTX on disk with what is generated now.
    Diff(diff::Diff),
    /// Lists the kernels of a spec with their resources and their least time.
    Kernels(kernels::Kernels),
    /// Checks every kernel of a spec: ptxas, the emulator against the reference, and a CUDA device bit for bit.
    Verify(verify::Verify),
    /// Measures prefill and decode, alone and in batches.
    Bench(bench::Bench),
    /// Writes a model file with its matrices in smaller types.
    Quantize(quantize::Quantize),
    /// Shows where the time of a token goes.
    Profile(profile::Profile),
    /// Takes a token through a model launch by launch and shows what each leaves in memory.
    Debug(debug::Debug),
    /// Measures how well a model predicts a text.
    Perplexity(perplexity::Perplexity),
    /// Shows one kernel: header, constants, cost, source, PTX, machine code.
    Explain(explain::Explain),
    /// Shows what this machine and this build have, and how to get what is missing.
    Doctor(doctor::Doctor),
    /// Prints what makes a shell complete the verbs and options.
    Completions(completions::Completions),
    /// Writes man pages.
    Man(man::Man),
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<()> {
        if self.no_progress {
            progress::silence();
        }
        match self.verb {
            Verb::Generate(verb) => verb.run(),
            Verb::Chat(verb) => verb.run(),
            Verb::Tokenize(verb) => verb.run(),
            Verb::Logits(verb) => verb.run(),
            Verb::Inspect(verb) => verb.run(),
            Verb::Emit(verb) => verb.run(),
            Verb::Diff(verb) => verb.run(),
            Verb::Kernels(verb) => verb.run(),
            Verb::Verify(verb) => verb.run(),
            Verb::Bench(verb) => verb.run(),
            Verb::Quantize(verb) => verb.run(),
            Verb::Profile(verb) => verb.run(),
            Verb::Debug(verb) => verb.run(),
            Verb::Perplexity(verb) => verb.run(),
            Verb::Explain(verb) => verb.run(),
            Verb::Doctor(verb) => verb.run(),
            Verb::Completions(verb) => verb.run(),
            Verb::Man(verb) => verb.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
