//! The first process of a guest: it runs the cases of one suite and reports each.
//!
//! Run as a process of its own (`portcullis-guest case SUITE NAME`), it runs one case, so that a case that panics,
//! hangs, or leaves processes behind harms no other.
#![forbid(unsafe_code)]

mod bench;
mod canary;
mod case;
mod cases;
mod client;
mod edu;
mod init;
mod network;
// The example that shows users how to drive a disk is what the cases drive theirs with.
#[path = "../../../../crates/client/examples/nvme/driver.rs"]
mod nvme;
mod probe;
mod supervisor;
mod systemd;

use anyhow::{Context, Result, bail};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        _ if std::process::id() == 1 => init::run(),
        ["cases"] => init::cases(),
        ["case", suite, name] => run_case(suite, name),
        ["probe"] => {
            probe::run();
            Ok(())
        }
        ["hold", ids] => cases::hold(ids),
        ["client"] => client::run(),
        ["launch", program @ ..] => supervisor::launch(program),
        _ => {
            Err(anyhow::anyhow!("portcullis-guest is the first process of a guest; see `cargo xtask guest`"))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run_case(suite: &str, name: &str) -> Result<()> {
    let cases = cases::suite(suite).with_context(|| format!("no suite is named {suite}"))?;
    let Some(case) = cases.iter().find(|case| case.name == name) else {
        bail!("suite {suite} has no case {name}");
    };
    (case.run)(&case::World::read()?)
}
