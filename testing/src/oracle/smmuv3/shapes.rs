//! Random shapes of tables that a unit can have.

use super::tables::{Config, Shape, Stage};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

/// The function that touches on QEMU's board.
pub const TOUCHER: u32 = 0xa8;

/// What a unit can have, as far as shapes depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Granules.
    pub granules: &'static [u32],
    /// The smallest T0SZ makes this many bits.
    pub bits: (u32, u32),
    /// Output address bits.
    pub output: u32,
    /// HTTU: 0 to 2.
    pub flags: u8,
    /// Whether both byte orders are walked.
    pub both_endians: bool,
}

impl Limits {
    /// A stage with an input of at least `least` and at most `most` bits.
    pub fn stage(&self, (least, most): (u32, u32), random: &mut impl Rng) -> Stage {
        let granule = *self.granules.choose(random).unwrap_or(&12);
        let (least, most) = (least.max(self.bits.0), most.min(self.bits.1));
        let flags = if self.flags > 0 { random.random_range(0..=self.flags) } else { 0 };
        Stage {
            granule,
            bits: random.random_range(least..=most),
            ha: flags > 0,
            hd: flags > 1,
            big_endian: self.both_endians && random.random_ratio(1, 4),
        }
    }

    /// A leaf level of a stage with so many levels.
    fn leaf(stage: &Stage, levels: u32, random: &mut impl Rng) -> u32 {
        let blocks = if stage.granule == 12 { 2 } else { 1 };
        random.random_range(0..=blocks.min(levels - 1))
    }

    /// A first address for the mapping.
    fn address(stage: &Stage, leaf: u32, random: &mut impl Rng) -> u64 {
        // The window is a page or several; it fits where its first address is a multiple of 64 KiB.
        let shift = (stage.granule + leaf * (stage.granule - 3)).max(16);
        let reach = 1u64 << stage.bits;
        let size = 1u64 << shift.min(stage.bits);
        match random.random_range(0..4) {
            0 => 0,
            1 => reach - size,
            _ => random.random::<u64>() & (reach - 1) & !(size - 1),
        }
    }

    /// A shape of this configuration, with one CD and nothing special.
    pub fn shape(&self, config: Config, random: &mut impl Rng) -> Shape {
        let first = self.stage((0, 64), random);
        // A second stage of two maps data and tables to themselves: they lie below 4 GiB.
        let size = *[4, 4, 4, 2, 1, 0, 5].choose(random).unwrap_or(&4);
        let output = [32, 36, 40, 42, 44, 48, 52][usize::from(size)].min(self.output);
        let second = self.stage((if config == Config::Nested { 32 } else { 0 }, output), random);
        let (stage, levels) =
            if config.stage1() { (&first, first.levels()) } else { (&second, second.concatenated_levels()) };
        let leaf = Self::leaf(stage, levels, random);
        let address = Self::address(stage, leaf, random);
        let upper = config.stage1() && random.random_ratio(1, 4);
        Shape {
            config,
            stream: TOUCHER,
            split: None,
            log2size: random.random_range(8..=9),
            substream: None,
            cdmax: 0,
            s1fmt: 0,
            s1dss: 2,
            first,
            second,
            upper,
            leaf,
            size,
            overrides: 0,
            privileged: false,
            address: if upper { address | u64::MAX << first.bits } else { address },
        }
    }
}
