//! The command line and the last line of every oracle that compares with QEMU.

use super::tables::random_bits::{self, BadInput, Tried};
use super::{Failure, Tally};
use crate::qtest::version;
use clap::Parser as _;
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
    /// Try nothing but bad input, on our model: so many table entries and commands whose fields are set to random bits
    #[arg(long)]
    pub random_bits: Option<u64>,
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

/// What the program of an oracle does.
pub fn main_of<S: BadInput>(name: &str, program: &str, run: fn(Extent) -> (Tally, Vec<Failure>)) -> ExitCode {
    let extent = Extent::parse();
    match extent.random_bits {
        Some(entries) => report_random_bits(name, random_bits::run_both::<S>(entries, extent.seed)),
        None => report(name, program, run(extent)),
    }
}

fn report_random_bits(name: &str, halves: Vec<Result<(Tally, Tried), Failure>>) -> ExitCode {
    let mut all = Tried::default();
    let mut differences = 0;
    for half in halves {
        match half {
            Ok((_, tried)) => {
                all.entries += tried.entries;
                all.commands += tried.commands;
                all.beside += tried.beside;
                all.slowest = all.slowest.max(tried.slowest);
            }
            Err(failure) => {
                println!("{failure}");
                differences += 1;
            }
        }
    }
    let Tried { entries, commands, beside, slowest } = all;
    println!("the slowest round took {slowest:?}; beside, neighbours read and wrote {beside} times");
    println!(
        "oracle {name}: random bits in {entries} entries and {commands} commands, {differences} differences"
    );
    ExitCode::from(u8::from(differences > 0))
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
