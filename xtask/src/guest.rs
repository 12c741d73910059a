//! `cargo xtask guest`: Linux in QEMU, with named cases inside.
//!
//! The suites live in `testing/guest`; this makes sure of what they need and runs its `guest` program.

use crate::{host, process};
use std::process::ExitCode;

/// Arguments of `cargo xtask guest`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which suite, then its options; without any, the suites are listed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Run one suite. Its last line is `guest SUITE: N passed, M failed`.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let arguments: Vec<&str> = arguments.arguments.iter().map(String::as_str).collect();
    let suite = arguments.first().copied().unwrap_or_default();
    match prepare(suite).and_then(|()| start(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// Make sure of QEMU, that apt knows the kernels, and of what else the suite needs.
pub(crate) fn prepare(suite: &str) -> Result<(), String> {
    host::ensure(host::GUEST).map_err(|missing| missing.to_string())?;
    host::kernels()?;
    if suite == "systemd" { host::systemd() } else { Ok(()) }
}

/// Build and run the guest program with `arguments`; an error where any case failed.
pub(crate) fn start(arguments: &[&str]) -> Result<(), String> {
    let build = ["run", "--quiet", "--package", "portcullis-guest", "--bin", "guest", "--"];
    process::run(&mut process::cargo(&[&build, arguments].concat()))
}
