//! What the runs with random bits share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

mod numbers;

use std::time::Duration;

pub(crate) use numbers::Random;
use portcullis_model::Registers;

/// How often each run is repeated; `PORTCULLIS_RANDOM_ROUNDS` makes it longer.
pub(crate) fn rounds() -> u64 {
    rounds_or(5_000)
}

/// The same, with how often it is where nothing is said.
pub(crate) fn rounds_or(most: u64) -> u64 {
    std::env::var("PORTCULLIS_RANDOM_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(most)
}

/// A register's value: any bits, few, or something that lies in `memory` bytes and low bits.
pub(crate) fn register_value(random: &mut Random, memory: u64) -> u64 {
    match random.below(3) {
        0 => random.next(),
        1 => random.next() & random.next() & random.next(),
        _ => random.below(memory) & !0xfff | random.below(0x1000) & 0xc07,
    }
}

/// Writes some bytes of registers at `offset`, and reads them.
pub(crate) fn write_and_read(
    random: &mut Random,
    unit: &impl Registers,
    offset: u64,
    value: impl FnOnce(&mut Random) -> u64,
) {
    let length = [1, 2, 4, 4, 4, 8, 8, 16][random.below(8) as usize];
    let value = value(random).to_le_bytes();
    let mut bytes = vec![0; length];
    bytes[..length.min(8)].copy_from_slice(&value[..length.min(8)]);
    unit.mmio_write(offset, &bytes);
    unit.mmio_read(offset, &mut bytes);
}

/// The rounds in pieces, each for a unit of its own: with a seed, how many rounds a piece has. A unit remembers the tables that it has seen
/// up to a limit, so that a long run on one alone would be a run of invalidations.
pub(crate) fn pieces(seed: u64) -> impl Iterator<Item = (u64, u64)> {
    const PIECE: u64 = 5_000;
    let all = rounds();
    (0..all.div_ceil(PIECE)).map(move |piece| (seed + 1000 * piece, PIECE.min(all - piece * PIECE)))
}

/// What one round may take, on however loaded a machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
