//! Hand-made tables before QEMU, judged by the reference.
//!
//! This judges the reference as much as QEMU: whatever both say of hundreds of thousands of broken tables is hardly a
//! mistake of both.

use super::departures::{DEPARTURES, Departure, Evidence, explanation, translate};
use super::judge::{self, Outcome};
use super::tables::{Case, Kind, Layout, Shape};
use crate::machine::qemu::QemuMachine;
use crate::machine::vtd::{Mode, board, requester};
use crate::machine::{Machine as _, MachineError};
use crate::oracle::shrink::simplest;
use crate::oracle::{Failure, Tally};
use crate::reference::vtd::Unit;
use portcullis_spec::PhysAddr;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Where tables and data lie in a machine's memory.
pub const LAYOUT: Layout = Layout { tables: 0x80_0000, data: 0x20_0000 };

/// The function that touches.
const TOUCHER: u16 = 0xa8;

/// What came of one case.
enum Verdict {
    /// It can't be run: it would reach what is not memory.
    Skipped,
    Same,
    Departs(&'static Departure),
    Differs {
        expected: Outcome,
        observed: Outcome,
    },
}

struct Bench {
    machine: QemuMachine,
    unit: Unit,
    pattern: Vec<u8>,
}

impl Bench {
    fn start(mode: Mode) -> Result<Self, MachineError> {
        let machine = QemuMachine::start(&board(mode), requester)?;
        let pattern = judge::pattern(LAYOUT);
        machine.ram().write(PhysAddr(LAYOUT.data), &pattern);
        // QEMU takes the width of physical addresses from `aw-bits`.
        judge::enable(&machine);
        let mut unit = judge::unit(&machine, u32::from(mode.address_bits()));
        // ECAP.SMPWCS: QEMU does not report it, but sets flags in tables, which it could not without. That is one of the
        // departures; beyond it, QEMU is held to what it does.
        unit.ecap |= 1 << 48;
        Ok(Self { machine, unit, pattern })
    }

    /// Both outcomes of a case.
    fn run(&self, case: &Case) -> Option<(Outcome, Outcome)> {
        let ram = self.machine.ram();
        let tables = case.tables(LAYOUT);
        judge::put(ram, &tables);
        let expected = judge::expect(&self.unit, ram, case, tables.root, LAYOUT);
        let outcomes = expected.map(|(expected, refused)| {
            judge::set_root(&self.machine, tables.root);
            let (case, data) = ((case, &tables), (LAYOUT, &self.pattern[..]));
            let observed = judge::observe(&self.machine, &self.unit, case, data, refused, &judge::touch);
            (expected, observed)
        });
        judge::clear(ram, &tables);
        outcomes
    }

    fn judge(&self, case: &Case) -> Verdict {
        let Some((expected, observed)) = self.run(case) else { return Verdict::Skipped };
        let tables = case.tables(LAYOUT);
        let evidence =
            Evidence { case, tables: &tables, unit: &self.unit, expected: &expected, observed: &observed };
        let translated = translate(&evidence);
        if translated == expected {
            return Verdict::Same;
        }
        match explanation(&Evidence { observed: &translated, ..evidence }) {
            Some(departure) => Verdict::Departs(departure),
            None => Verdict::Differs { expected, observed },
        }
    }

    fn health(&self) -> Result<(), Failure> {
        self.machine.health().map_err(|reason| Failure::Difference(format!("QEMU failed: {reason}")))
    }
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
        address,
    }
}

/// Judge `cases` random cases.
///
/// # Errors
/// The simplest case in which QEMU does what neither the specification nor a known departure says, or why QEMU can't be
/// asked.
pub fn run(mode: Mode, cases: u64, seed: u64) -> Result<Tally, Failure> {
    let bench = Bench::start(mode)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally::default();
    while tally.checks < cases {
        let case = Case::random(random_shape(mode, &mut random), LAYOUT, &mut random);
        match bench.judge(&case) {
            Verdict::Skipped => {}
            Verdict::Same => tally.checks += 1,
            Verdict::Departs(departure) => *tally.departures.entry(departure.what).or_default() += 1,
            Verdict::Differs { .. } => {
                bench.health()?;
                let case = simplest(case, Case::simpler, |case| {
                    matches!(bench.judge(case), Verdict::Differs { .. })
                });
                let Verdict::Differs { expected, observed } = bench.judge(&case) else {
                    return Err(Failure::Difference(format!("not reproducible: {case}")));
                };
                return Err(Failure::Difference(format!(
                    "{mode:?}, {case}\n  specification: {expected:x?}\n  QEMU: {observed:x?}"
                )));
            }
        }
    }
    bench.health()?;
    Ok(tally)
}

/// Make sure that QEMU still departs from the specification where it is said to.
///
/// # Errors
/// The departures that it no longer shows.
pub fn assert_departures() -> Result<Tally, Failure> {
    let legacy = Bench::start(Mode::Legacy48)?;
    let scalable = Bench::start(Mode::FirstStage48)?;
    let mut gone = Vec::new();
    let mut tally = Tally::default();
    for departure in DEPARTURES {
        let case = (departure.example)();
        let bench = if case.shape.kind.is_scalable() { &scalable } else { &legacy };
        let Some((expected, observed)) = bench.run(&case) else {
            return Err(Failure::Difference(format!("can't be run: {case}")));
        };
        let tables = case.tables(LAYOUT);
        let evidence = Evidence {
            case: &case,
            tables: &tables,
            unit: &bench.unit,
            expected: &expected,
            observed: &observed,
        };
        let translated = translate(&evidence);
        let explained = Evidence { observed: &translated, ..evidence };
        let shown = (departure.translate)(&evidence).is_some()
            || (translated != expected && (departure.explains)(&explained));
        if shown {
            *tally.departures.entry(departure.what).or_default() += 1;
        } else {
            gone.push(format!(
                "QEMU no longer {}:\n{case}\n  specification: {expected:x?}\n  QEMU: {observed:x?}",
                departure.what
            ));
        }
    }
    legacy.health()?;
    scalable.health()?;
    if gone.is_empty() { Ok(tally) } else { Err(Failure::Difference(gone.join("\n"))) }
}
