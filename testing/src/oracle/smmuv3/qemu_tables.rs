//! Tables of SMMUv3 before QEMU, judged by the reference, and the departures that QEMU is known for.

use super::departures::DEPARTURES;
use super::judge::{self, Smmuv3};
use super::shapes::Limits;
use super::tables::{Config, Shape};
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

fn start(mode: Mode) -> Result<Bench<Smmuv3, QemuMachine>, MachineError> {
    let machine = QemuMachine::start(&board(mode.stages), requester)?;
    let unit = judge::enable(&machine);
    let mut bench = Bench::new(machine, unit, touch);
    // Flash and devices, and what PCI has above 4 GiB.
    bench.elsewhere = vec![0..board(mode.stages).ram, 0x80_0000_0000..0x100_0000_0000];
    Ok(bench)
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
