//! Tables of VT-d before QEMU, judged by the reference, and the departures that QEMU is known for.

use super::departures::DEPARTURES;
use super::judge::{self, Vtd};
use super::tables::{Kind, Shape};
use crate::machine::MachineError;
use crate::machine::qemu::QemuMachine;
use crate::machine::vtd::{Mode, board, requester};
use crate::oracle::tables::bench::{Bench, touch};
use crate::oracle::tables::run::{assert_departures as assert, on_qemu};
use crate::oracle::{Failure, Tally};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

/// The function that touches.
const TOUCHER: u16 = 0xa8;

fn start(mode: Mode) -> Result<Bench<Vtd, QemuMachine>, MachineError> {
    let machine = QemuMachine::start(&board(mode), requester)?;
    // QEMU takes the width of physical addresses from `aw-bits`.
    judge::enable(&machine);
    let mut unit = judge::unit(&machine, u32::from(mode.address_bits()));
    // ECAP.SMPWCS: QEMU does not report it, but sets flags in tables, which it could not without. That is one of the
    // departures; beyond it, QEMU is held to what it does.
    unit.registers.ecap |= 1 << 48;
    Ok(Bench::new(machine, unit, touch))
}

fn random_shape(mode: Mode, random: &mut impl Rng) -> Shape {
    let kind = match (mode, random.random_ratio(1, 8)) {
        (Mode::FirstStage48, true) => Kind::PassThrough,
        (Mode::FirstStage48, false) => Kind::First,
        (_, true) => Kind::LegacyPassThrough,
        (_, false) => Kind::Legacy,
    };
    let second_levels = match mode {
        Mode::Legacy39 => 3,
        Mode::Legacy48 if kind == Kind::Legacy => random.random_range(3..=4),
        Mode::Legacy48 => 4,
        Mode::FirstStage48 => 4,
    };
    let address = *[0, 0x4000_0000, 0x3f_c000_0000, 0x7f_c000_0000].choose(random).unwrap_or(&0);
    Shape {
        kind,
        first_levels: 4,
        second_levels,
        leaf: random.random_range(0..3),
        flags: false,
        snoop: true,
        requester_id: TOUCHER,
        pasid: None,
        privileged: false,
        address,
    }
}

/// Judge `cases` random cases.
///
/// # Errors
/// The simplest case in which QEMU does what neither the specification nor a known departure says, or why QEMU can't be
/// asked.
pub fn run(mode: Mode, cases: u64, seed: u64) -> Result<Tally, Failure> {
    let draw = &mut |random: &mut _| random_shape(mode, random);
    on_qemu(&start(mode)?, DEPARTURES, (draw, |_| true), (cases, seed))
}

/// Make sure that QEMU still departs from the specification where it is said to.
///
/// # Errors
/// The departures that it no longer shows.
pub fn assert_departures() -> Result<Tally, Failure> {
    let legacy = start(Mode::Legacy48)?;
    let scalable = start(Mode::FirstStage48)?;
    let bench = |case: &crate::oracle::tables::Case<Shape>| {
        if case.shape.kind.is_scalable() { &scalable } else { &legacy }
    };
    assert(DEPARTURES, bench, legacy.layout)
}
