//! Everything that the oracle compares for the RISC-V IOMMU.

use super::judge::Riscv;
use super::programs::RiscvDriver;
use super::{model_tables, qemu_tables};
use crate::machine::riscv::Stages;
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
        jobs.push(Box::new(move || by_hand::<RiscvDriver>(stages)));
        jobs.push(Box::new(move || random::<RiscvDriver>(stages, share, seed)));
    }
    for stages in Stages::ALL {
        jobs.push(Box::new(move || qemu_tables::run(stages, share, seed)));
    }
    jobs.push(Box::new(qemu_tables::assert_departures));
    jobs.push(Box::new(move || model_tables::run(false, judged, seed)));
    jobs.push(Box::new(move || model_tables::run(true, judged, !seed)));
    jobs.push(Box::new(move || random_bits::run::<Riscv>(RANDOM_BITS, seed).map(|(tally, _)| tally)));
    all(jobs)
}
