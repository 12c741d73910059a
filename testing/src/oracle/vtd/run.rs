//! Everything that the oracle compares for VT-d.

use super::judge::Vtd;
use super::programs::VtdDriver;
use super::{interrupts, model_tables, programs, qemu_tables};
use crate::machine::vtd::Mode;
use crate::oracle::programs::{by_hand, random};
use crate::oracle::report::Extent;
use crate::oracle::tables::random_bits::{self, RANDOM_BITS};
use crate::oracle::{Failure, Job, Tally, all};

/// Interrupt requests that a run compares at most: there is not more to them.
const INTERRUPTS: u64 = 20_000;

/// Run the checks with QEMU, half of them steps of programs, half hand-made tables, shared between the modes; and hand-made
/// tables before our model alone, in the shapes that QEMU has not.
///
/// What was compared, without what ended in a failure; and the failures.
pub fn run(extent: Extent) -> (Tally, Vec<Failure>) {
    let Extent { cases, seed, .. } = extent;
    let judged = extent.judged().div_ceil(2);
    let share = cases.div_ceil(2 * Mode::ALL.len() as u64);
    let jobs: Vec<Job> = Mode::ALL
        .into_iter()
        .flat_map(|mode| {
            let by_hand: Job = Box::new(move || by_hand::<VtdDriver>(mode));
            let random: Job = Box::new(move || random::<VtdDriver>(mode, share, seed));
            let tables: Job = Box::new(move || qemu_tables::run(mode, share, seed));
            [by_hand, random, tables]
        })
        .chain::<[Job; 6]>([
            Box::new(move || interrupts::run(share.min(INTERRUPTS), seed)),
            Box::new(move || random_bits::run::<Vtd>(RANDOM_BITS, seed).map(|(tally, _)| tally)),
            Box::new(move || model_tables::run(judged, seed)),
            Box::new(move || model_tables::run(judged, !seed)),
            Box::new(qemu_tables::assert_departures),
            Box::new(programs::assert_departures),
        ])
        .collect();
    all(jobs)
}
