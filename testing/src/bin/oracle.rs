//! Compares implementations that nobody here wrote with ours. `cargo xtask oracle` builds and runs this.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use portcullis_testing::machine::vtd;
use portcullis_testing::oracle::{Failure, Tally};
use portcullis_testing::qtest::version;
use std::process::ExitCode;

/// Compare with an implementation that nobody here wrote. The last line says how many checks there were and how many differences.
#[derive(Parser)]
#[command(name = "cargo xtask oracle", bin_name = "cargo xtask oracle")]
struct Arguments {
    #[command(subcommand)]
    oracle: Oracle,
}

#[derive(Subcommand)]
enum Oracle {
    /// Intel VT-d, with QEMU's intel-iommu
    Vtd(Extent),
}

#[derive(clap::Args, Clone, Copy)]
struct Extent {
    /// Checks to make at least
    #[arg(long, default_value_t = 30_000)]
    cases: u64,
    /// Seed of the random ones
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match Arguments::parse().oracle {
        Oracle::Vtd(Extent { cases, seed }) => {
            let program = vtd::board(vtd::Mode::Legacy48).program;
            report("vtd", program, portcullis_testing::oracle::vtd::run::run(cases, seed))
        }
    }
}

fn report(name: &str, program: &str, outcome: Result<Tally, (Tally, Failure)>) -> ExitCode {
    let (tally, failure) = match outcome {
        Ok(tally) => (tally, None),
        Err((tally, failure)) => (tally, Some(failure)),
    };
    if !tally.departures.is_empty() {
        println!(
            "known departures of QEMU from the specification (docs/support/{name}.md), and how often they were met:"
        );
        for (what, count) in &tally.departures {
            println!("{count:>8}  QEMU {what}");
        }
    }
    let version = version(program).unwrap_or_else(|| "not installed".into());
    let differences = match failure {
        None => 0,
        Some(Failure::Machine(error)) => {
            println!("oracle {name}: could not run: {error}");
            return ExitCode::from(2);
        }
        Some(difference) => {
            println!("{difference}");
            1
        }
    };
    let noun = if differences == 1 { "difference" } else { "differences" };
    println!("oracle {name}: {} checks, {differences} {noun} (QEMU {version})", tally.checks);
    ExitCode::from(u8::from(differences != 0))
}
