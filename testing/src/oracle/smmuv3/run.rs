//! Everything that the oracle compares for SMMUv3.

use super::judge::Smmuv3;
use super::programs::Smmuv3Driver;
use super::qemu_tables::Mode;
use super::{model_tables, qemu_tables};
use crate::machine::smmuv3::Stages;
use crate::oracle::programs::{by_hand, random};
use crate::oracle::report::Extent;
use crate::oracle::tables::random_bits::{self, RANDOM_BITS};
use crate::oracle::{Failure, Job, Tally, all};

/// Run the checks with QEMU, half of them steps of programs, half hand-made tables, shared between the stages; and hand-made
/// tables before our model alone, in the shapes that QEMU has not.
///
/// What was compared, without what ended in a failure; and the failures.
#[must_use]
pub fn run(extent: Extent) -> (Tally, Vec<Failure>) {
    let Extent { cases, seed, .. } = extent;
    let judged = extent.judged().div_ceil(2);
    let share = cases.div_ceil(2 * Stages::ALL.len() as u64);
    let mut jobs: Vec<Job> = Vec::new();
    for stages in Stages::ALL {
        jobs.push(Box::new(move || by_hand::<Smmuv3Driver>(stages)));
        jobs.push(Box::new(move || random::<Smmuv3Driver>(stages, share, seed)));
    }
    let modes = Mode::all();
    let tables_share = cases.div_ceil(2 * modes.len() as u64);
    for mode in modes {
        jobs.push(Box::new(move || qemu_tables::run(mode, tables_share, seed)));
    }
    jobs.push(Box::new(qemu_tables::assert_departures));
    jobs.push(Box::new(move || model_tables::run(judged, seed)));
    jobs.push(Box::new(move || model_tables::run(judged, !seed)));
    jobs.push(Box::new(move || random_bits::run::<Smmuv3>(RANDOM_BITS, seed).map(|(tally, _)| tally)));
    all(jobs)
}
