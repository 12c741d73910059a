//! Steps with a headline and a time, and the table that closes a run.

use std::time::{Duration, Instant};

/// How a step ended.
pub(crate) enum Outcome {
    /// It did what it says.
    Passed,
    /// It could not run here, for the reason given, and that is acceptable.
    Skipped(String),
    /// It failed, for the reason given.
    Failed(String),
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(reason) => Self::Failed(reason),
        }
    }
}

/// The steps of one run, in order.
pub(crate) struct Report {
    started: Instant,
    steps: Vec<(String, Duration, Outcome)>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), steps: Vec::new() }
    }

    /// Run one step, between a headline and its time.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Outcome) {
        println!("\n=== {name}");
        let started = Instant::now();
        let outcome = work();
        let took = started.elapsed();
        println!("=== {name}: {} in {}", word(&outcome), seconds(took));
        self.steps.push((name.to_owned(), took, outcome));
    }

    /// Print the table and the last line; whether nothing failed.
    pub(crate) fn close(self, title: &str) -> bool {
        let width = self.steps.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        println!("\n{:width$}  {:>8}  result", "step", "time");
        for (name, took, outcome) in &self.steps {
            let why = match outcome {
                Outcome::Passed => String::new(),
                Outcome::Skipped(reason) | Outcome::Failed(reason) => format!(": {reason}"),
            };
            println!("{name:width$}  {:>8}  {}{why}", seconds(*took), word(outcome));
        }
        let count = |wanted: &str| self.steps.iter().filter(|(.., o)| word(o) == wanted).count();
        let (passed, skipped, failed) = (count("passed"), count("skipped"), count("FAILED"));
        println!(
            "{title}: {passed} passed, {skipped} skipped, {failed} failed in {}",
            seconds(self.started.elapsed())
        );
        failed == 0
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Skipped(_) => "skipped",
        Outcome::Failed(_) => "FAILED",
    }
}

fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole >= 60 {
        format!("{}m{:02}s", whole / 60, whole % 60)
    } else {
        format!("{:.1}s", time.as_secs_f64())
    }
}
