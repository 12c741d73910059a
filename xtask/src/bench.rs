//! `cargo xtask bench`: the program `bench/src/bin/bench`, in release mode.

use crate::process;
use std::process::ExitCode;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Handed to the program: `--quick`, `--json FILE`, `--only TEXT`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Build and run it.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let mut cargo =
        vec!["run", "--quiet", "--release", "--package", "portcullis-bench", "--bin", "bench", "--"];
    cargo.extend(arguments.arguments.iter().map(String::as_str));
    match process::run(&mut process::cargo(&cargo)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
