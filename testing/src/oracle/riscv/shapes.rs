//! Random shapes of tables that a unit can have.

use super::tables::Shape;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

/// What a unit has, as far as shapes depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// device_ids that ask.
    pub devices: &'static [u32],
    /// Levels of first stages; 0 for Bare.
    pub first: &'static [u8],
    /// Levels of second stages; 0 for Bare.
    pub second: &'static [u8],
    /// Modes of process directories; 0 for none.
    pub processes: &'static [u8],
    /// Whether requests carry process_ids.
    pub with_process: bool,
    /// Whether the unit sets flags.
    pub flags: bool,
    /// `fctl.BE`.
    pub big_endian: bool,
    /// Whether SBE may differ from it.
    pub both_endians: bool,
    /// Whether device contexts have the extended format, and MSI page tables.
    pub extended: bool,
}

fn of<T: Copy + Default>(choices: &[T], random: &mut impl Rng) -> T {
    choices.choose(random).copied().unwrap_or_default()
}

impl Limits {
    /// A shape.
    pub fn shape(&self, random: &mut impl Rng) -> Shape {
        let device = of(self.devices, random);
        let low = if self.extended { 6 } else { 7 };
        let least = match (device >> low, device >> (low + 9)) {
            (0, _) => 1,
            (_, 0) => 2,
            _ => 3,
        };
        let (first, second) = (of(self.first, random), of(self.second, random));
        let processes = of(self.processes, random);
        let with_process = self.with_process && processes > 0 && random.random_ratio(3, 4);
        let process = with_process.then(|| {
            let bits = [8, 17, 20][usize::from(processes) - 1];
            random.random::<u32>() & ((1 << bits) - 1)
        });
        // The upper half of a first stage's addresses is sign-extended; a second stage's has two more bits.
        let bits = if first > 0 { 11 + 9 * u32::from(first) } else { 14 + 9 * u32::from(second.max(3)) };
        let leaf = random.random_range(0..3);
        let shift = (12 + 9 * u32::from(leaf)).max(16);
        let (reach, size) = (1u64 << bits, 1u64 << shift);
        let address = match random.random_range(0..4) {
            0 => 0,
            1 => reach - size,
            _ => random.random::<u64>() & (reach - 1) & !(size - 1),
        };
        let upper = first > 0 && random.random_ratio(1, 4);
        Shape {
            directory: random.random_range(least..=3),
            device,
            process,
            processes,
            first,
            second,
            leaf,
            napot: random.random_ratio(1, 4),
            flags: self.flags && random.random(),
            big_endian: self.big_endian,
            first_big_endian: if self.both_endians { random.random() } else { self.big_endian },
            extended: self.extended,
            files: self.extended && random.random(),
            privileged: process.is_some() && random.random_ratio(1, 4),
            address: if upper { address | u64::MAX << bits } else { address },
        }
    }
}
