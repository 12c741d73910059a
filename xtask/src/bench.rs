//! `cargo xtask bench` and `cargo xtask stress`: the programs in `bench/src/bin`, in release mode.

use crate::process;
use std::process::ExitCode;

/// Arguments of `cargo xtask bench` and `cargo xtask stress`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Handed to the program, which says with `--help` what it knows
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Measure.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    start("bench", arguments)
}

/// Look for uses of what was unmapped.
pub(crate) fn stress(arguments: &Arguments) -> ExitCode {
    start("stress", arguments)
}

fn start(program: &str, arguments: &Arguments) -> ExitCode {
    let mut cargo =
        vec!["run", "--quiet", "--release", "--package", "portcullis-bench", "--bin", program, "--"];
    cargo.extend(arguments.arguments.iter().map(String::as_str));
    match process::run(&mut process::cargo(&cargo)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
