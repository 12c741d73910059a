//! The command line and the last line of every oracle that compares with QEMU.

use super::{Failure, Tally};
use crate::qtest::version;
use std::process::ExitCode;

/// Compare with QEMU. The last line says how many checks there were and how many differences.
#[derive(clap::Parser, Clone, Copy, Debug)]
pub struct Extent {
    /// Checks to make at least
    #[arg(long, default_value_t = 30_000)]
    pub cases: u64,
    /// Random tables that the reference judges before our model alone, at least; four times the cases where not said
    #[arg(long)]
    pub by_reference: Option<u64>,
    /// Seed of the random ones
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Extent {
    /// How many cases the reference judges.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.by_reference.unwrap_or(self.cases.saturating_mul(4))
    }
}

/// Print what was found, and the exit status that says the same: 1 for a difference, 2 where nothing could be compared.
pub fn report(name: &str, program: &str, (tally, failures): (Tally, Vec<Failure>)) -> ExitCode {
    if !tally.departures.is_empty() {
        println!("known departures of QEMU from the specification, and how often each was met:");
        for (what, count) in &tally.departures {
            println!("{count:>8}  QEMU {what}");
        }
    }
    let version = version(program).unwrap_or_else(|| "not installed".into());
    for failure in &failures {
        println!("{failure}");
        if let Failure::Machine(_) = failure {
            println!("oracle {name}: could not run");
            return ExitCode::from(2);
        }
    }
    let by_qemu = tally.checks - tally.by_reference;
    println!("{} checks of our model by the reference, {by_qemu} with QEMU", tally.by_reference);
    let noun = if failures.len() == 1 { "difference" } else { "differences" };
    println!("oracle {name}: {by_qemu} checks, {} {noun} (QEMU {version})", failures.len());
    ExitCode::from(u8::from(!failures.is_empty()))
}
