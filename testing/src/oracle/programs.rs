//! Programs of a driver on QEMU and on our model, in lockstep: by hand and random, for every architecture.

use super::by_hand;
use super::driven::{Driven, Sight};
use super::generate::{self, SPACES};
use super::lockstep::{EXACT, Tolerance, check, prepare};
use super::program::Step;
use super::shadow::{Rules, Shadow};
use super::shrink::shortest;
use super::{Failure, Tally};
use crate::machine::qemu::{Board, QemuMachine};
use crate::machine::ram::Ram;
use crate::machine::recorder::{Access, Recorder};
use crate::machine::{Machine, MachineError};
use portcullis_driver::common::architecture::Architecture;
use portcullis_spec::{Fault, Requester};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::fmt;

/// Steps of one program. Each begins with a machine that was just started.
const STEPS: usize = 120;

/// What a driver is given of a machine: its registers, and its memory.
pub type Platform<'m, M> = (&'m Recorder<&'m M>, &'m Ram);

/// A driver that has taken over a machine's unit, or why it has not.
pub type Started<'m, D, M> = Result<<D as Driving>::Driver<'m, M>, portcullis_driver::Error>;

/// An architecture, as far as its driver's programs are concerned.
pub trait Driving: Sized {
    /// What QEMU's unit is asked to be.
    type Mode: Copy + fmt::Debug;
    /// A machine with our model.
    type Model: Machine;
    /// The driver.
    type Driver<'m, M: Machine + 'm>: Architecture;

    /// How QEMU may depart from the specification when it refuses.
    const TOLERANCE: Tolerance;

    /// QEMU in a mode.
    const BOARD: fn(Self::Mode) -> Board;
    /// Who a PCI function is to the unit, by its requester ID.
    const REQUESTER: fn(u16) -> Requester;
    /// Our model, with what QEMU's unit has in a mode and no more.
    const MODEL: fn(Self::Mode) -> Result<Self::Model, MachineError>;

    /// Let the driver take over a machine's unit.
    ///
    /// # Errors
    /// What it said.
    fn start<'m, M: Machine>(mode: Self::Mode, platform: Platform<'m, M>) -> Started<'m, Self, M>;

    /// What the shadow must know of a machine in this mode.
    fn rules<M: Machine>(mode: Self::Mode, machine: &M) -> Rules;

    /// What a record of our model can't say, or says otherwise than others.
    const OURS: Tolerance = EXACT;
    /// Whether both units record every refusal; otherwise the first until it is read.
    const RECORDS_ALL: bool;

    /// Whether QEMU's record and our model's say the same.
    fn same(theirs: &Fault, ours: &Fault) -> bool {
        theirs.requester == ours.requester
            && theirs.address == ours.address
            && theirs.access == ours.access
            && theirs.code == ours.code
    }

    /// What a register shows, without what is known to differ.
    fn plain(access: &Access) -> Access {
        *access
    }
}

/// Where a program fails, and how.
pub struct Failed {
    /// The step at which it fails, counted from 0.
    pub step: usize,
    /// How.
    pub why: String,
}

/// Run a program on QEMU and on our model; the steps come from `next`, which is given the shadow. How many were compared, or
/// where it fails.
///
/// # Errors
/// Where there is no machine.
pub fn run<D: Driving>(
    mode: D::Mode,
    mut next: impl FnMut(&Shadow) -> Option<Step>,
    steps: &mut Vec<Step>,
) -> Result<Result<u64, Failed>, Failure> {
    let qemu = QemuMachine::start(&(D::BOARD)(mode), D::REQUESTER)?;
    let model = (D::MODEL)(mode)?;
    let (qemu_registers, model_registers) = (Recorder::new(&qemu), Recorder::new(&model));
    let sides = drive::<D, _>(mode, &qemu, &qemu_registers).and_then(|on_qemu| {
        let on_model = drive::<D, _>(mode, &model, &model_registers)?;
        Ok((on_qemu, on_model))
    });
    let (on_qemu, on_model) = match sides {
        Ok(sides) => sides,
        Err(why) => return Ok(Err(Failed { step: 0, why: format!("the driver did not start: {why}") })),
    };
    let mut differences = compare_registers::<D>(&qemu_registers.take(), &model_registers.take());
    let mut shadow = Shadow::new(D::rules(mode, &qemu), &SPACES);
    let mut checks = 0;
    while let Some(step) = next(&shadow) {
        steps.push(step);
        shadow.fill(steps.len() as u64);
        prepare(&qemu, &shadow);
        prepare(&model, &shadow);
        let expectation = shadow.apply(&step);
        let qemu_sight = check(&on_qemu, &qemu, &step, &expectation, &shadow, D::TOLERANCE);
        let model_sight = check(&on_model, &model, &step, &expectation, &shadow, D::OURS);
        let outcome = match (differences, qemu_sight, model_sight) {
            (Err(why), ..) => Err(format!("while the driver started: {why}")),
            (_, Err(why), _) => Err(format!("QEMU: {why}")),
            (_, _, Err(why)) => Err(format!("our model: {why}")),
            // QEMU may leave such a refusal out, and with it what the driver then reads. Its record was checked.
            (_, Ok(qemu), Ok(model)) => {
                let counted = if D::RECORDS_ALL { usize::MAX } else { 1 };
                let mut refusals = expectation.refusals.iter().take(counted);
                if refusals.any(|refusal| (D::TOLERANCE.unrecorded)(refusal)) {
                    Ok(())
                } else {
                    compare::<D>(&qemu, &model)
                }
            }
        };
        differences = Ok(());
        match outcome {
            Ok(()) => checks += 1,
            Err(why) => return Ok(Err(Failed { step: steps.len() - 1, why })),
        }
    }
    let finished = on_qemu
        .finish()
        .map_err(|why| format!("on QEMU, at the end: {why}"))
        .and_then(|()| on_model.finish().map_err(|why| format!("on our model, at the end: {why}")));
    Ok(match finished {
        Ok(()) => Ok(checks),
        Err(why) => Err(Failed { step: steps.len().saturating_sub(1), why }),
    })
}

type Sides<'m, D, M> = Driven<'m, M, <D as Driving>::Driver<'m, M>>;

fn drive<'m, D: Driving, M: Machine>(
    mode: D::Mode,
    machine: &'m M,
    recorder: &'m Recorder<&'m M>,
) -> Result<Sides<'m, D, M>, String> {
    let unit = D::start(mode, (recorder, machine.ram())).map_err(|error| error.to_string())?;
    Driven::new(machine, recorder, unit, &SPACES)
}

/// Whether both sides recorded the same and showed the driver the same registers.
fn compare<D: Driving>(qemu: &Sight, model: &Sight) -> Result<(), String> {
    let plain = |sight: &Sight| {
        let mut faults: Vec<Fault> = sight.faults.iter().map(|record| record.fault).collect();
        faults.dedup_by(|later, earlier| D::same(earlier, later));
        faults
    };
    let (theirs, ours) = (plain(qemu), plain(model));
    let same =
        theirs.len() == ours.len() && theirs.iter().zip(&ours).all(|(theirs, ours)| D::same(theirs, ours));
    if !same {
        return Err(format!("QEMU recorded {theirs:x?}, our model {ours:x?}"));
    }
    compare_registers::<D>(&qemu.registers, &model.registers)
}

fn compare_registers<D: Driving>(qemu: &[Access], model: &[Access]) -> Result<(), String> {
    let differs = qemu.iter().zip(model).position(|(theirs, ours)| D::plain(theirs) != D::plain(ours));
    match differs {
        Some(at) => Err(format!("access {at} to registers: QEMU {:?}, our model {:?}", qemu[at], model[at])),
        None if qemu.len() != model.len() => Err(format!(
            "{} accesses to registers with QEMU, {} with our model: {qemu:?}, {model:?}",
            qemu.len(),
            model.len()
        )),
        None => Ok(()),
    }
}

fn replay<D: Driving>(mode: D::Mode, program: &[Step]) -> Result<Result<u64, Failed>, Failure> {
    let mut steps = program.iter().copied();
    run::<D>(mode, |shadow| steps.by_ref().find(|step| shadow.is_possible(step)), &mut Vec::new())
}

/// Run the programs that were written by hand.
///
/// # Errors
/// As [`random`].
pub fn by_hand<D: Driving>(mode: D::Mode) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for (name, program) in by_hand::programs((D::MODEL)(mode)?.ram().base().0) {
        match replay::<D>(mode, &program)? {
            Ok(checks) => tally.checks += checks,
            Err(failed) => {
                let Failure::Difference(shortest) = explain::<D>(mode, program, &failed) else { continue };
                return Err(Failure::Difference(format!("{name}: {shortest}")));
            }
        }
    }
    Ok(tally)
}

/// Run random programs until `checks` steps were compared.
///
/// # Errors
/// The shortest program that shows a difference, or why there is no machine.
pub fn random<D: Driving>(mode: D::Mode, checks: u64, seed: u64) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    let mut seeds = ChaCha8Rng::seed_from_u64(seed);
    while tally.checks < checks {
        let mut random = ChaCha8Rng::seed_from_u64(seeds.next_u64());
        let mut steps = Vec::new();
        let mut left = STEPS;
        let next = |shadow: &Shadow| {
            left = left.checked_sub(1)?;
            Some(generate::step(shadow, shadow.rules().scripts.len(), &mut random))
        };
        match run::<D>(mode, next, &mut steps)? {
            Ok(done) => tally.checks += done,
            Err(failed) => return Err(explain::<D>(mode, steps, &failed)),
        }
    }
    Ok(tally)
}

fn explain<D: Driving>(mode: D::Mode, mut steps: Vec<Step>, failed: &Failed) -> Failure {
    steps.truncate(failed.step + 1);
    let fails = |program: &[Step]| matches!(replay::<D>(mode, program), Ok(Err(_)));
    if !fails(&steps) {
        return Failure::Difference(format!("{mode:?}: {} (not reproducible)", failed.why));
    }
    let program = shortest(steps, 600, Step::simpler, fails);
    let why = match replay::<D>(mode, &program) {
        Ok(Err(failed)) => failed.why,
        _ => "not reproducible".into(),
    };
    let listing: Vec<String> = program.iter().map(|step| format!("  {step}")).collect();
    Failure::Difference(format!("{mode:?}:\n{}\n{why}", listing.join("\n")))
}
