//! The command line: results on stdout, everything else on stderr; exit 0 for success, 1 for an error told in one
//! line, 2 for wrong usage.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Usage errors print themselves and exit with 2.
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(error) if cli::output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            cli::output::error(&error);
            ExitCode::FAILURE
        }
    }
}
