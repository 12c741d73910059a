//! `cargo xtask bench`: ours beside the peers, measured in turns in one run, as one table.

mod allocations;
mod rows;

use clap::Parser;
use portcullis_bench::result::{Row, table};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measure ours beside the peers and print one table.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Shorter turns: less than a minute of measuring
    #[arg(long)]
    quick: bool,
    /// Where to write the rows as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only groups whose name has this in it
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Effort {
    /// For one contest.
    pub contest: Duration,
    /// Operations of which each is timed by itself.
    pub singles: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let effort = if arguments.quick {
        Effort { contest: Duration::from_millis(600), singles: 10_000 }
    } else {
        Effort { contest: Duration::from_secs(4), singles: 100_000 }
    };
    let started = Instant::now();
    let mut rows: Vec<Row> = Vec::new();
    for (name, group) in rows::GROUPS {
        if arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            eprintln!("{:6.1} s  {name}", started.elapsed().as_secs_f64());
            rows.extend(group(effort));
        }
    }
    eprintln!("{:6.1} s", started.elapsed().as_secs_f64());
    println!("{}", table(&rows));
    let judged = rows.iter().filter(|row| row.met.is_some()).count();
    let met = rows.iter().filter(|row| row.met == Some(true)).count();
    println!("{} rows, {met} of {judged} targets met", rows.len());
    let Some(file) = arguments.json else { return ExitCode::SUCCESS };
    let written = serde_json::to_vec_pretty(&rows)
        .map_err(std::io::Error::from)
        .and_then(|bytes| std::fs::write(&file, bytes));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}
