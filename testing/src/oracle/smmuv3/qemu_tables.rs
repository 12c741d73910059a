//! Tables of SMMUv3 before QEMU, judged by the reference, and the departures that QEMU is known for.

use super::departures::DEPARTURES;
use super::judge::{self, Smmuv3};
use super::tables::{Config, Shape, Stage};
use crate::machine::MachineError;
use crate::machine::qemu::QemuMachine;
use crate::machine::smmuv3::{Stages, board, requester};
use crate::oracle::tables::bench::{Bench, touch};
use crate::oracle::tables::run::{assert_departures as assert, on_qemu};
use crate::oracle::tables::{Case, Word};
use crate::oracle::{Failure, Tally};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

/// What QEMU is started for: once it had a two-level stream table, it takes every later one for such.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// The unit's stages.
    pub stages: Stages,
    /// Whether stream tables have two levels.
    pub two_level: bool,
}

impl Mode {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        Stages::ALL
            .into_iter()
            .flat_map(|stages| [false, true].map(|two_level| Self { stages, two_level }))
            .collect()
    }
}

/// The function that touches.
const TOUCHER: u32 = 0xa8;

fn start(mode: Mode) -> Result<Bench<Smmuv3, QemuMachine>, MachineError> {
    let machine = QemuMachine::start(&board(mode.stages), requester)?;
    let unit = judge::enable(&machine);
    let mut bench = Bench::new(machine, unit, touch);
    // Flash and devices, and what PCI has above 4 GiB.
    bench.elsewhere = vec![0..board(mode.stages).ram, 0x80_0000_0000..0x100_0000_0000];
    Ok(bench)
}

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

/// What QEMU's unit has.
const QEMU: Limits =
    Limits { granules: &[12, 14, 16], bits: (25, 48), output: 44, flags: 0, both_endians: false };

fn random_shape(mode: Mode, random: &mut impl Rng) -> Shape {
    use Config::{Abort, Bypass, Nested, Stage1, Stage2};
    let configs: &[Config] = match mode.stages {
        Stages::One => &[Abort, Bypass, Stage1, Stage1, Stage1, Stage1, Stage1],
        Stages::Two => &[Abort, Bypass, Stage2, Stage2, Stage2, Stage2, Stage2],
        Stages::Nested => &[Stage1, Stage2, Nested, Nested, Nested, Nested, Bypass],
    };
    let config = *configs.choose(random).unwrap_or(&Bypass);
    let mut shape = QEMU.shape(config, random);
    // Of larger tables of stage 1, QEMU translates the first address only. See the departures.
    while config == Config::Nested && shape.first.granule > shape.second.granule && random.random_ratio(7, 8)
    {
        shape = QEMU.shape(config, random);
    }
    if !mode.two_level {
        return shape;
    }
    let split = *[6, 8, 10].choose(random).unwrap_or(&8);
    Shape { split: Some(split), log2size: random.random_range(8..=16), ..shape }
}

/// Whether QEMU does not end in an assertion, as it does where an STE's second stage has S2AA64 clear and where a CD's IPS is
/// reserved.
fn survives(words: &[Word]) -> bool {
    let word = |name| words.iter().find(|word| word.name == name).map_or(0, |word| word.value);
    let (config, second, context) = (word("STE, word 0"), word("STE, word 2"), word("CD, word 0"));
    let has_second = config & 0b1101 == 0b1101;
    let has_first = config & 0b1011 == 0b1011;
    // A CD elsewhere may be anything.
    let pointer = config & 0x00ff_ffff_ffff_ffc0;
    let at = words.iter().find(|word| word.name == "CD, word 0").map_or(0, |word| word.at);
    (!has_second || second >> 51 & 1 == 1) && (!has_first || (context >> 32 & 7 < 6 && pointer == at))
}

/// Judge `cases` random cases.
///
/// # Errors
/// The simplest case in which QEMU does what neither the specification nor a known departure says, or why QEMU can't be
/// asked.
pub fn run(mode: Mode, cases: u64, seed: u64) -> Result<Tally, Failure> {
    let draw = &mut |random: &mut _| random_shape(mode, random);
    on_qemu(&start(mode)?, DEPARTURES, (draw, survives), (cases, seed))
}

/// Make sure that QEMU still departs from the specification where it is said to.
///
/// # Errors
/// The departures that it no longer shows.
pub fn assert_departures() -> Result<Tally, Failure> {
    let mut benches = Vec::new();
    for mode in Mode::all() {
        benches.push((mode, start(mode)?));
    }
    let layout = benches[0].1.layout;
    let bench = |case: &Case<Shape>| {
        let stages = match case.shape.config {
            Config::Stage2 => Stages::Two,
            Config::Nested => Stages::Nested,
            _ => Stages::One,
        };
        let wanted = Mode { stages, two_level: case.shape.split.is_some() };
        benches.iter().find(|(mode, _)| *mode == wanted).map_or(&benches[0].1, |(_, bench)| bench)
    };
    assert(DEPARTURES, bench, layout)
}
