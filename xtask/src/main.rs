//! The developer's commands: one file each.
#![forbid(unsafe_code)]

mod bench;
mod guest;
mod host;
mod mutants;
mod oracle;
mod process;
mod report;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The developer's commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything: tools, format, clippy, documentation, tests, doctests, oracles
    Test(test::Arguments),
    /// Boot Linux in QEMU and run a suite's cases inside; exit status 1 on any failure
    Guest(guest::Arguments),
    /// Measure ours beside its peers and print one table
    Bench(bench::Arguments),
    /// Run the model's caches and drain under a model checker
    Loom,
    /// Break the model's caches and drain in every way we know; exit status 1 if a test does not notice
    Mutants(mutants::Arguments),
    /// Let devices translate while their mappings are taken away, and count what is stale
    Stress(bench::Arguments),
    /// Compare with somebody else's implementation; exit status 1 on any difference
    Oracle(oracle::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Test(arguments) => test::run(&arguments),
        Command::Guest(arguments) => guest::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Loom => mutants::run_loom(),
        Command::Mutants(arguments) => mutants::run(&arguments),
        Command::Stress(arguments) => bench::stress(&arguments),
        Command::Oracle(arguments) => oracle::run(&arguments),
    }
}
