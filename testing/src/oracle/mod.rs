//! Oracles: the same programs on a machine that somebody else wrote and on ours, compared at every step.

pub mod by_hand;
pub mod driven;
pub mod generate;
pub mod lockstep;
pub mod program;
pub mod programs;
pub mod queues;
pub mod report;
pub mod riscv;
pub mod run;
pub mod shadow;
pub mod shrink;
pub mod smmuv3;
pub mod tables;
pub mod vtd;

use crate::machine::MachineError;
use std::collections::BTreeMap;
use std::fmt;

/// What was compared.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Comparisons that found no difference.
    pub checks: u64,
    /// Of those, comparisons of our model with the reference alone.
    pub by_reference: u64,
    /// Comparisons that found a known departure of the other machine from the specification, by its description.
    pub departures: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Count another's too.
    pub fn add(&mut self, other: &Self) {
        self.checks += other.checks;
        self.by_reference += other.by_reference;
        for (what, count) in &other.departures {
            *self.departures.entry(what).or_default() += count;
        }
    }
}

/// Why a comparison ended early.
#[derive(Debug)]
pub enum Failure {
    /// Two sides differ: the shortest program that shows it, and what each did.
    Difference(String),
    /// A machine could not be used.
    Machine(MachineError),
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        Self::Machine(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Difference(text) => f.write_str(text),
            Self::Machine(error) => error.fmt(f),
        }
    }
}

/// A part of a comparison, on a thread of its own.
pub type Job = Box<dyn FnOnce() -> Result<Tally, Failure> + Send>;

/// Run every part. What was compared, without what ended in a failure; and the failures.
#[must_use]
pub fn all(jobs: Vec<Job>) -> (Tally, Vec<Failure>) {
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = jobs.into_iter().map(|job| scope.spawn(job)).collect();
        for thread in threads {
            match thread.join() {
                Ok(Ok(done)) => tally.add(&done),
                Ok(Err(failure)) => failures.push(failure),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    (tally, failures)
}
