//! The `portcullis` command.
//!
//! Each subcommand is a file of this folder with an `Args` and a `run`; [`Command`] lists them and [`dispatch`] calls them. What a
//! subcommand shows goes through [`output::Output`], which knows whether a person or a program reads; how it ended is an
//! [`exit::Exit`].
#![forbid(unsafe_code)]

mod check;
mod completions;
mod decode;
mod demo;
mod exit;
mod inspect;
mod man;
mod output;
mod service;
mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::{Exit, Failure};
use output::Output;

/// Decides, shows and explains what every DMA-capable device may touch.
#[derive(Parser)]
#[command(name = "portcullis", version, about, after_help = exit::HELP, propagate_version = true)]
struct Cli {
    /// Answer in JSON, errors too.
    #[arg(short, long, global = true, display_order = 900)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Args),
    Run(service::run::Args),
    Status(service::status::Args),
    Units(service::units::Args),
    Devices(service::devices::Args),
    Groups(service::groups::Args),
    Clients(service::clients::Args),
    Grants(service::grants::Args),
    Faults(service::faults::Args),
    Events(service::events::Args),
    Claim(service::claim::Args),
    Release(service::release::Args),
    Grant(service::grant::Args),
    Revoke(service::revoke::Args),
    Top(top::Args),
    Demo(demo::Args),
    Inspect(inspect::Args),
    Decode(decode::Args),
    Completions(completions::Args),
    Man(man::Args),
}

fn dispatch(command: Command, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        Command::Check(arguments) => check::run(&arguments, output),
        Command::Run(arguments) => service::run::run(&arguments, output),
        Command::Status(arguments) => service::status::run(&arguments, output),
        Command::Units(arguments) => service::units::run(&arguments, output),
        Command::Devices(arguments) => service::devices::run(&arguments, output),
        Command::Groups(arguments) => service::groups::run(&arguments, output),
        Command::Clients(arguments) => service::clients::run(&arguments, output),
        Command::Grants(arguments) => service::grants::run(&arguments, output),
        Command::Faults(arguments) => service::faults::run(&arguments, output),
        Command::Events(arguments) => service::events::run(&arguments, output),
        Command::Claim(arguments) => service::claim::run(&arguments, output),
        Command::Release(arguments) => service::release::run(&arguments, output),
        Command::Grant(arguments) => service::grant::run(&arguments, output),
        Command::Revoke(arguments) => service::revoke::run(&arguments, output),
        Command::Top(arguments) => top::run(&arguments, output),
        Command::Demo(arguments) => demo::run(&arguments, output),
        Command::Inspect(arguments) => inspect::run(&arguments, output),
        Command::Decode(arguments) => decode::run(&arguments, output),
        Command::Completions(arguments) => completions::run(&arguments, output),
        Command::Man(arguments) => man::run(&arguments, output),
    }
}

/// Says what is wrong with the arguments, or the help that they ask for.
fn refused(error: &clap::Error) -> ExitCode {
    let json = std::env::args().take_while(|word| word != "--").any(|word| word == "--json" || word == "-j");
    if json && error.use_stderr() {
        let text = error.render().to_string();
        let mut lines = text.lines().map(|line| line.trim_start_matches("error: ").trim());
        let first = lines.next().unwrap_or_default().to_owned();
        let rest: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        return Output::standard(true).failed(&Failure::usage(format!("{first} {}", rest.join("; ")))).into();
    }
    // Nowhere is left to complain to when it cannot be written.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let mut output = Output::standard(cli.json);
    let exit = match dispatch(cli.command, &mut output) {
        Ok(exit) => exit,
        Err(failure) => output.failed(&failure),
    };
    exit.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        super::Cli::command().debug_assert();
    }
}
