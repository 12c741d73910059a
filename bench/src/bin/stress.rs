//! `cargo xtask stress`: devices translate while the driver takes their mappings away, on every architecture.

use clap::Parser;
use portcullis_bench::machine::{Kind, riscv, smmuv3, vtd};
use portcullis_bench::stress::run;
use std::process::ExitCode;
use std::time::Duration;

/// Look for uses of what was unmapped, on every architecture.
#[derive(Parser)]
#[command(name = "cargo xtask stress", bin_name = "cargo xtask stress")]
struct Arguments {
    /// How long, all architectures together
    #[arg(long, default_value_t = 4.0, value_name = "N")]
    minutes: f64,
}

/// Whether one architecture passes: something was translated, and nothing stale.
fn stress<K: Kind>(length: Duration) -> bool {
    let mut said = 0;
    let counts = run::<K>(|elapsed, counts| {
        if elapsed.as_secs() / 10 > said {
            said = elapsed.as_secs() / 10;
            let (translations, stale, unmaps) = (counts.translations, counts.stale, counts.unmaps);
            println!(
                "{:4} s  {}: {translations} translations, {unmaps} unmaps, {stale} stale",
                elapsed.as_secs(),
                K::NAME
            );
        }
        elapsed >= length
    });
    println!("stress {}: {} translations, {} stale", K::NAME, counts.translations, counts.stale);
    counts.translations > 0 && counts.stale == 0
}

fn main() -> ExitCode {
    let all =
        [stress::<vtd::Legacy>, stress::<vtd::Scalable>, stress::<smmuv3::Smmuv3>, stress::<riscv::Riscv>];
    let each = Duration::from_secs_f64(Arguments::parse().minutes.max(0.0) * 60.0 / all.len() as f64);
    let passed = all.iter().filter(|stress| stress(each)).count();
    if passed == all.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
