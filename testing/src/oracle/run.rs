//! What the oracle of every architecture compares.

use super::programs::{Driving, by_hand, random};
use super::report::Extent;
use super::tables::random_bits::{self, BadInput, RANDOM_BITS};
use super::{Failure, Job, Tally};

/// Half of the cases, shared between what QEMU is started as.
fn each<T: Copy + Send + 'static>(
    extent: Extent,
    modes: &[T],
    run: fn(T, u64, u64) -> Result<Tally, Failure>,
) -> impl Iterator<Item = Job> {
    let share = extent.cases.div_ceil(2 * modes.len() as u64);
    modes.iter().map(move |&mode| -> Job { Box::new(move || run(mode, share, extent.seed)) })
}

/// The checks with QEMU, half of them steps of programs in `modes`, half hand-made tables, which `on_tables` compares; and bad
/// input on our model.
pub fn jobs<D, S, T>(
    extent: Extent,
    modes: &[D::Mode],
    tables: &[T],
    on_tables: fn(T, u64, u64) -> Result<Tally, Failure>,
) -> Vec<Job>
where
    D: Driving<Mode: Send + 'static>,
    S: BadInput,
    T: Copy + Send + 'static,
{
    let mut jobs: Vec<Job> = Vec::new();
    jobs.extend(each(extent, modes, |mode, _, _| by_hand::<D>(mode)));
    jobs.extend(each(extent, modes, random::<D>));
    jobs.extend(each(extent, tables, on_tables));
    jobs.push(Box::new(move || random_bits::run::<S>(RANDOM_BITS, extent.seed).map(|(tally, _)| tally)));
    jobs
}
