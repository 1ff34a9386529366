//! The command line of unfog.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
