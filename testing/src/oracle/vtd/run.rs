//! Everything that the oracle compares for VT-d.

use super::judge::Vtd;
use super::programs::VtdDriver;
use super::{interrupts, model_tables, programs, qemu_tables};
use crate::machine::vtd::Mode;
use crate::oracle::report::Extent;
use crate::oracle::run::jobs;
use crate::oracle::{Failure, Job, Tally, all};

/// Interrupt requests that a run compares at most: there is not more to them.
const INTERRUPTS: u64 = 20_000;

/// Run the checks with QEMU, half of them steps of programs, half hand-made tables, shared between the modes; and hand-made
/// tables before our model alone, in the shapes that QEMU has not.
///
/// What was compared, without what ended in a failure; and the failures.
pub fn run(extent: Extent) -> (Tally, Vec<Failure>) {
    let (judged, seed) = (extent.judged().div_ceil(2), extent.seed);
    let interrupts = extent.cases.div_ceil(2 * Mode::ALL.len() as u64).min(INTERRUPTS);
    let mut jobs = jobs::<VtdDriver, Vtd, _>(extent, &Mode::ALL, &Mode::ALL, qemu_tables::run);
    jobs.extend::<[Job; 5]>([
        Box::new(move || interrupts::run(interrupts, seed)),
        Box::new(qemu_tables::assert_departures),
        Box::new(programs::assert_departures),
        Box::new(move || model_tables::run(judged, seed)),
        Box::new(move || model_tables::run(judged, !seed)),
    ]);
    all(jobs)
}
