//! `cargo xtask stress`: devices translate while the driver takes their mappings away, on every architecture.

use clap::Parser;
use portcullis_bench::machine::{Kind, riscv, smmuv3, vtd};
use portcullis_bench::stress::{Counts, run, run_nested};
use std::process::ExitCode;
use std::time::Duration;

/// Look for uses of what was unmapped, on every architecture.
#[derive(Parser)]
#[command(name = "cargo xtask stress", bin_name = "cargo xtask stress")]
struct Arguments {
    /// How long, all architectures together
    #[arg(long, default_value_t = 4.0, value_name = "N")]
    minutes: f64,
    /// How many translations on each architecture, however long that takes
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    translations: Option<u64>,
    /// One architecture alone
    #[arg(long, value_name = "NAME", value_parser = NAMES)]
    only: Option<String>,
}

const NAMES: [&str; 5] =
    [vtd::Legacy::NAME, vtd::Scalable::NAME, NESTED, smmuv3::Smmuv3::NAME, riscv::Riscv::NAME];
const NESTED: &str = "vtd-nested";

/// When an architecture has had enough.
#[derive(Clone, Copy)]
enum Goal {
    Time(Duration),
    Translations(u64),
}

/// Whether one architecture passes: as much was translated as was asked for, and nothing stale.
fn stress(name: &str, goal: Goal) -> bool {
    let mut said = 0;
    let enough = |elapsed: Duration, counts: Counts| {
        if elapsed.as_secs() / 10 > said {
            said = elapsed.as_secs() / 10;
            let Counts { translations, stale, unmaps, tables } = counts;
            println!(
                "{:4} s  {name}: {translations} translations, {unmaps} unmaps, {tables} tables given back, {stale} stale",
                elapsed.as_secs(),
            );
        }
        match goal {
            Goal::Time(length) => elapsed >= length,
            Goal::Translations(least) => counts.translations >= least,
        }
    };
    let counts = match name {
        vtd::Legacy::NAME => run::<vtd::Legacy>(enough),
        vtd::Scalable::NAME => run::<vtd::Scalable>(enough),
        smmuv3::Smmuv3::NAME => run::<smmuv3::Smmuv3>(enough),
        riscv::Riscv::NAME => run::<riscv::Riscv>(enough),
        _ => run_nested(enough),
    };
    println!("stress {name}: {} translations, {} stale", counts.translations, counts.stale);
    counts.translations > 0 && counts.stale == 0
}

fn main() -> ExitCode {
    let Arguments { minutes, translations, only } = Arguments::parse();
    let chosen: Vec<_> =
        NAMES.into_iter().filter(|name| only.as_ref().is_none_or(|only| only == name)).collect();
    let goal = match translations {
        Some(least) => Goal::Translations(least),
        None => Goal::Time(Duration::from_secs_f64(minutes.max(0.0) * 60.0 / chosen.len() as f64)),
    };
    let passed = chosen.iter().filter(|name| stress(name, goal)).count();
    if passed == chosen.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
