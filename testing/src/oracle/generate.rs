//! Random programs. A generator knows, by its shadow, what is mapped where, so that most of what it does matters.

use super::program::Step;
use super::shadow::{Shadow, SpaceKind};
use crate::machine::ram::DATA_BYTES;
use portcullis_spec::Access;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

const PAGE: u64 = 4096;

/// The spaces of a random program.
pub const SPACES: [SpaceKind; 4] =
    [SpaceKind::Mapped, SpaceKind::Mapped, SpaceKind::Mapped, SpaceKind::Identity];

/// Addresses around which programs map: corners of tables at every level.
const CORNERS: [u64; 12] = [
    0x40_0000,
    0x60_0000 - 2 * PAGE,
    0x3fff_e000,
    0x8000_0000,
    0xbfe0_0000,
    0xfed0_0000,
    0x1_0000_0000,
    0x3f_ffff_e000,
    0x7f_ffff_c000,
    0xff_ffe0_0000,
    0x3fff_ffff_e000,
    0x7fff_ffff_c000,
];

/// The next step of a random program; the shadow is left as it was.
pub fn step(shadow: &Shadow, engines: usize, random: &mut impl Rng) -> Step {
    loop {
        let step = any_step(shadow, engines, random);
        if shadow.is_possible(&step) {
            return step;
        }
    }
}

fn any_step(shadow: &Shadow, engines: usize, random: &mut impl Rng) -> Step {
    let space = random.random_range(0..SPACES.len());
    let engine = random.random_range(0..engines);
    match random.random_range(0..100) {
        0..16 => {
            let (iova, target, length) = mapping(shadow, random);
            Step::Map { space, iova, target, length, access: access(random) }
        }
        16..24 => {
            let (iova, length) = range(shadow, space, random);
            Step::Unmap { space, iova, length }
        }
        24..31 => {
            let (iova, length) = range(shadow, space, random);
            Step::Protect { space, iova, length, access: access(random) }
        }
        31..37 => Step::Attach { engine, space },
        37..40 => Step::Detach { engine },
        40..60 => Step::Touch {
            read: address(shadow, engines - 1, u64::MAX, random) & !3,
            write: (address(shadow, engines - 1, u64::MAX, random) & !127) | 8,
        },
        _ => {
            let engine = random.random_range(0..engines - 1);
            let length = match random.random_range(0..10) {
                0 => random.random_range(1..3 * PAGE as u32),
                1 => PAGE as u32,
                _ => random.random_range(1..64),
            };
            let mut place = || address(shadow, engine, 0xffff_0000, random) as u32;
            Step::Copy { engine, source: place(), destination: place(), length }
        }
    }
}

fn access(random: &mut impl Rng) -> Access {
    *[Access::READ_WRITE, Access::READ_WRITE, Access::READ, Access::WRITE]
        .choose(random)
        .unwrap_or(&Access::READ)
}

/// Where to map what: sometimes what can't be mapped.
fn mapping(shadow: &Shadow, random: &mut impl Rng) -> (u64, u64, u64) {
    let data = shadow.rules().data - shadow.rules().ram;
    let corner = *CORNERS.choose(random).unwrap_or(&0);
    let pages = DATA_BYTES / PAGE;
    let (iova, target, length) = match random.random_range(0..12) {
        // A large page: data is where one begins.
        0 => (corner & !0x1f_ffff, data & !0x1f_ffff, 0x20_0000),
        // A larger one, and what is left of the alignment.
        1 => (corner & !0x3fff_ffff, 0, 0x4000_0000),
        _ => {
            let count = *[1, 1, 1, 2, 3, 5, 16].choose(random).unwrap_or(&1);
            let first = random.random_range(0..=pages - count);
            (corner + random.random_range(0..6) * PAGE, data + first * PAGE, count * PAGE)
        }
    };
    match random.random_range(0..40) {
        0 => (iova + 0x800, target, length),
        1 => (iova, target, length + 0x10),
        2 => (0xfee0_0000, target, length),
        3 => (1 << random.random_range(38..50), target, length),
        _ => (iova, target, length),
    }
}

/// A range of a space, mostly one that is mapped or a part of it.
fn range(shadow: &Shadow, space: usize, random: &mut impl Rng) -> (u64, u64) {
    let corner = (*CORNERS.choose(random).unwrap_or(&0), 4 * PAGE);
    let stretches = shadow.stretches(space);
    let (start, length) = stretches.choose(random).copied().unwrap_or(corner);
    let pages = length / PAGE;
    match random.random_range(0..6) {
        0 => corner,
        1..3 => (start, length),
        3 => (start.saturating_sub(PAGE), length + 2 * PAGE),
        _ => {
            let first = random.random_range(0..pages);
            let count = random.random_range(1..=(pages - first).min(512));
            (start + first * PAGE, count * PAGE)
        }
    }
}

/// An address for an engine, mostly one that is mapped in its space, at most `last`.
fn address(shadow: &Shadow, engine: usize, last: u64, random: &mut impl Rng) -> u64 {
    let stretches = match shadow.space_of(engine) {
        Some(space) => shadow.stretches(space),
        None => Vec::new(),
    };
    let stretches: Vec<_> = stretches.into_iter().filter(|(start, length)| start + length <= last).collect();
    let corner = *CORNERS.choose(random).unwrap_or(&0) + random.random_range(0..6 * PAGE);
    let address = match (random.random_range(0..8), stretches.choose(random)) {
        (0, _) | (_, None) => corner,
        // Around an end, so that what crosses it is tried too.
        (1, Some((start, length))) => start + length - random.random_range(1..40),
        (2, Some((start, _))) => start.saturating_sub(random.random_range(1..40)),
        (3, Some((start, length))) => start + random.random_range(0..*length),
        (_, Some((start, length))) => start + random.random_range(0..(*length).min(DATA_BYTES)),
    };
    let address =
        if random.random_ratio(1, 60) { address ^ 1 << random.random_range(30..64) } else { address };
    // Interrupt requests are not DMA.
    if address <= last && address >> 20 != 0xfee && (address + 3 * PAGE) >> 20 != 0xfee {
        address
    } else {
        0x40_0000
    }
}
