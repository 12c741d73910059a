//! Everything that the oracle compares for the RISC-V IOMMU.

use super::{model_tables, qemu_tables};
use crate::machine::riscv::Stages;
use crate::oracle::report::Extent;
use crate::oracle::{Failure, Job, Tally, all};

/// Run the checks.
///
/// What was compared, without what ended in a failure; and the failures.
#[must_use]
pub fn run(extent: Extent) -> (Tally, Vec<Failure>) {
    let Extent { cases, seed, .. } = extent;
    let judged = extent.judged().div_ceil(2);
    let share = cases.div_ceil(2 * Stages::ALL.len() as u64);
    let mut jobs: Vec<Job> = Vec::new();
    for stages in Stages::ALL {
        jobs.push(Box::new(move || qemu_tables::run(stages, share, seed)));
    }
    jobs.push(Box::new(qemu_tables::assert_departures));
    jobs.push(Box::new(move || model_tables::run(false, judged, seed)));
    jobs.push(Box::new(move || model_tables::run(true, judged, !seed)));
    all(jobs)
}
