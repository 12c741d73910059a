//! Everything that the oracle compares for the RISC-V IOMMU.

use super::judge::Riscv;
use super::programs::RiscvDriver;
use super::{model_tables, qemu_tables};
use crate::machine::riscv::Stages;
use crate::oracle::report::Extent;
use crate::oracle::run::jobs;
use crate::oracle::{Failure, Job, Tally, all};

/// Run the checks with QEMU, half of them steps of programs, half hand-made tables, shared between the stages; and hand-made
/// tables before our model alone, in the shapes that QEMU has not.
///
/// What was compared, without what ended in a failure; and the failures.
#[must_use]
pub fn run(extent: Extent) -> (Tally, Vec<Failure>) {
    let (judged, seed) = (extent.judged().div_ceil(2), extent.seed);
    let mut jobs = jobs::<RiscvDriver, Riscv, _>(extent, &Stages::ALL, &Stages::ALL, qemu_tables::run);
    jobs.extend::<[Job; 3]>([
        Box::new(qemu_tables::assert_departures),
        Box::new(move || model_tables::run(false, judged, seed)),
        Box::new(move || model_tables::run(true, judged, !seed)),
    ]);
    all(jobs)
}
