//! The command line: one file a command, each a thin layer over the library.

mod args;
mod bench;
mod devices;
mod edit;
mod forward;
mod inspect;
mod output;
mod pack;
mod progress;
mod replay;
mod restore;
mod sample;
mod schedule;
mod tokens;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use unfog::stop::Stop;
use unfog::{Error, Result};

/// Diffusion image models on small computers: noise in, pictures out.
#[derive(Parser)]
#[command(name = "unfog", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Sample(Box<sample::Args>),
    Edit(Box<edit::Args>),
    Restore(Box<restore::Args>),
    Forward(forward::Args),
    Schedule(schedule::Args),
    Inspect(inspect::Args),
    Devices(devices::Args),
    Bench(bench::Args),
    Pack(pack::Args),
    Tokens(tokens::Args),
    Replay(replay::Args),
}

/// Runs the command that the process's arguments name.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::print(&e.to_string())
        }
        Err(e) => Err(usage(&e)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            output::note(&e.report());
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(command: Command) -> Result<()> {
    let stop = Stop::default();
    stop_on_signals(&stop)?;
    match command {
        Command::Sample(args) => sample::run(&args, &stop),
        Command::Edit(args) => edit::run(&args, &stop),
        Command::Restore(args) => restore::run(&args, &stop),
        Command::Forward(args) => forward::run(&args),
        Command::Schedule(args) => schedule::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Devices(args) => devices::run(&args, &stop),
        Command::Bench(args) => bench::run(&args, &stop),
        Command::Pack(args) => pack::run(&args),
        Command::Tokens(args) => tokens::run(&args),
        Command::Replay(args) => replay::run(&args, &stop),
    }
}

/// Ctrl-C and a request to terminate end the run in an orderly way; a second one ends the process at once.
fn stop_on_signals(stop: &Stop) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let failed = |e: std::io::Error| Error::failure("can't listen for Ctrl-C").because(e);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset.
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.flag()).map_err(failed)?;
        signal_hook::flag::register(signal, stop.flag()).map_err(failed)?;
    }
    Ok(())
}

/// What the argument parser has to say, on one line: without the usage and the pointer to --help that follow.
fn usage(e: &clap::Error) -> Error {
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("no command is given").hint("see unfog --help");
    }
    let text = e.to_string();
    let lines =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    Error::usage(said.join(" ").trim_start_matches("error: ").replace(" tip:", "; tip:"))
}
