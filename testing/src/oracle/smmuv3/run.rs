//! Everything that the oracle compares for SMMUv3.

use super::qemu_tables::{self, Mode};
use crate::oracle::report::Extent;
use crate::oracle::{Failure, Job, Tally, all};

/// Run the checks.
///
/// What was compared, without what ended in a failure; and the failures.
#[must_use]
pub fn run(extent: Extent) -> (Tally, Vec<Failure>) {
    let Extent { cases, seed, .. } = extent;
    let modes = Mode::all();
    let share = cases.div_ceil(2 * modes.len() as u64);
    let mut jobs: Vec<Job> = Vec::new();
    for mode in modes {
        jobs.push(Box::new(move || qemu_tables::run(mode, share, seed)));
    }
    jobs.push(Box::new(qemu_tables::assert_departures));
    all(jobs)
}
