//! Random programs of the VT-d driver.

use crate::machine::Machine;
use crate::machine::qemu::QemuMachine;
use crate::machine::ram::Ram;
use crate::machine::recorder::{Access, Recorder};
use crate::machine::vtd::{Mode, board, like_qemu, model, requester};
use crate::oracle::by_hand;
use crate::oracle::driven::{Driven, Sight};
use crate::oracle::generate::{self, SPACES};
use crate::oracle::lockstep::{EXACT, check, prepare};
use crate::oracle::program::Step;
use crate::oracle::shadow::{Rules, Shadow, SpaceKind};
use crate::oracle::shrink::shortest;
use crate::oracle::vtd::departures::TOLERANCE;
use crate::oracle::{Failure, Tally};
use portcullis_driver::vtd::{Options, Vtd};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Steps of one program. Each begins with a machine that was just started.
const STEPS: usize = 120;

/// What the shadow must know of a machine in this mode.
pub fn rules<M: Machine>(mode: Mode, machine: &M) -> Rules {
    Rules {
        limit: match mode {
            Mode::Legacy39 => 1 << 39,
            Mode::Legacy48 => 1 << 48,
            // 3.6: canonical addresses; the driver maps the lower half.
            Mode::FirstStage48 => 1 << 47,
        },
        reserved: vec![(0xfee0_0000, 0xfeef_ffff)],
        write_implies_read: mode == Mode::FirstStage48,
        identity_sticks: mode == Mode::FirstStage48,
        data: machine.ram().data().0,
        ram: machine.ram().base().0,
        scripts: (0..machine.requesters().len()).map(|engine| machine.ram().script(engine).0).collect(),
    }
}

/// How the driver starts its unit in this mode.
pub fn options(mode: Mode) -> Options {
    Options { host_address_bits: mode.address_bits(), ..Options::default() }
}

/// Where a program fails, and how.
struct Failed {
    step: usize,
    why: String,
}

/// Run a program on QEMU and on our model; the steps come from `next`, which is given the shadow.
fn run(
    mode: Mode,
    mut next: impl FnMut(&Shadow) -> Option<Step>,
    steps: &mut Vec<Step>,
) -> Result<Result<u64, Failed>, Failure> {
    let qemu = QemuMachine::start(&board(mode), requester)?;
    let model = model(like_qemu(mode))?;
    let (qemu_registers, model_registers) = (Recorder::new(&qemu), Recorder::new(&model));
    let sides = drive(mode, &qemu, &qemu_registers).and_then(|on_qemu| {
        let on_model = drive(mode, &model, &model_registers)?;
        Ok((on_qemu, on_model))
    });
    let (on_qemu, on_model) = match sides {
        Ok(sides) => sides,
        Err(why) => return Ok(Err(Failed { step: 0, why: format!("the driver did not start: {why}") })),
    };
    let mut differences = compare_registers(&qemu_registers.take(), &model_registers.take());
    let mut shadow = Shadow::new(rules(mode, &qemu), &SPACES);
    let mut checks = 0;
    while let Some(step) = next(&shadow) {
        steps.push(step);
        shadow.fill(steps.len() as u64);
        prepare(&qemu, &shadow);
        prepare(&model, &shadow);
        let expectation = shadow.apply(&step);
        let qemu_sight = check(&on_qemu, &qemu, &step, &expectation, &shadow, TOLERANCE);
        let model_sight = check(&on_model, &model, &step, &expectation, &shadow, EXACT);
        let outcome = match (differences, qemu_sight, model_sight) {
            (Err(why), ..) => Err(format!("while the driver started: {why}")),
            (_, Err(why), _) => Err(format!("QEMU: {why}")),
            (_, _, Err(why)) => Err(format!("our model: {why}")),
            // QEMU may leave the first refusal out, and with it what the driver then reads. Its record was checked.
            (_, Ok(qemu), Ok(model)) => match expectation.refusals.first() {
                Some(refusal) if (TOLERANCE.unrecorded)(refusal.why) => Ok(()),
                _ => compare(&qemu, &model),
            },
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

type Sides<'m, M> = Driven<'m, M, Vtd<&'m Recorder<&'m M>, &'m Ram>>;

fn drive<'m, M: Machine>(
    mode: Mode,
    machine: &'m M,
    recorder: &'m Recorder<&'m M>,
) -> Result<Sides<'m, M>, String> {
    let unit = Vtd::start(recorder, machine.ram(), options(mode)).map_err(|error| error.to_string())?;
    Driven::new(machine, recorder, unit, &SPACES)
}

/// Whether both sides recorded the same and showed the driver the same registers.
fn compare(qemu: &Sight, model: &Sight) -> Result<(), String> {
    if qemu.faults.len() != model.faults.len() {
        return Err(format!("QEMU recorded {:x?}, our model {:x?}", qemu.faults, model.faults));
    }
    for (theirs, ours) in qemu.faults.iter().zip(&model.faults) {
        let (theirs, ours) = (theirs.fault, ours.fault);
        // Departures: the PASID of a request without, and the code of an entry that is not present.
        let same = theirs.requester == ours.requester
            && theirs.address == ours.address
            && theirs.access == ours.access
            && (theirs.code == ours.code || (theirs.code, ours.code) == (0x5b, 0x59));
        if !same {
            return Err(format!("QEMU recorded {theirs:x?}, our model {ours:x?}"));
        }
    }
    compare_registers(&qemu.registers, &model.registers)
}

fn compare_registers(qemu: &[Access], model: &[Access]) -> Result<(), String> {
    /// What a register shows, without what is known to differ.
    fn plain(access: &Access) -> Access {
        // The high half of the fault record: PV is open without PP; the rest is compared as a record.
        const FRCD_HIGH: u64 = 0x228;
        let hidden = match (access.offset, access.width) {
            (FRCD_HIGH, 8) => 0x0fff_ff00_8000_0000 | 0xff << 32,
            (FRCD_HIGH, 4) => 0x8000_0000,
            (0x22c, 4) => 0x0fff_ffff,
            _ => 0,
        };
        Access { value: access.value & !hidden, ..*access }
    }
    let differs = qemu.iter().zip(model).position(|(theirs, ours)| plain(theirs) != plain(ours));
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

fn replay(mode: Mode, program: &[Step]) -> Result<Result<u64, Failed>, Failure> {
    let mut steps = program.iter().copied();
    run(mode, |shadow| steps.by_ref().find(|step| shadow.is_possible(step)), &mut Vec::new())
}

/// Run the programs that were written by hand.
///
/// # Errors
/// As [`random`].
pub fn by_hand(mode: Mode) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for (name, program) in by_hand::programs() {
        match replay(mode, &program)? {
            Ok(checks) => tally.checks += checks,
            Err(failed) => {
                let Failure::Difference(shortest) = explain(mode, program, &failed) else { continue };
                return Err(Failure::Difference(format!("{name}: {shortest}")));
            }
        }
    }
    Ok(tally)
}

/// What QEMU does in a program that departs from the specification (6.5.2.4).
pub const STICKY_IDENTITY: &str = "ignores PASID-cache invalidations: a device whose PASID table entry was pass-through passes on \
                               when it is gone";

/// Make sure that QEMU still departs from the specification in programs where it is said to.
///
/// # Errors
/// The departures that it no longer shows.
pub fn assert_departures() -> Result<Tally, Failure> {
    let (engine, source, destination, length) = (0, 0x20_0000, 0x20_1000, 16);
    let copy = Step::Copy { engine, source, destination, length };
    let identity = SPACES.iter().position(|kind| *kind == SpaceKind::Identity).unwrap_or(0);
    let program = [Step::Attach { engine, space: identity }, copy, Step::Detach { engine }, copy];
    let mut steps = program.iter().copied();
    match run(Mode::FirstStage48, |_| steps.next(), &mut Vec::new())? {
        Err(Failed { step: 3, .. }) => {
            Ok(Tally { departures: [(STICKY_IDENTITY, 1)].into_iter().collect(), ..Tally::default() })
        }
        Err(failed) => Err(Failure::Difference(format!("step {}: {}", failed.step, failed.why))),
        Ok(_) => Err(Failure::Difference(format!("QEMU no longer {STICKY_IDENTITY}"))),
    }
}

/// Run random programs until `checks` steps were compared.
///
/// # Errors
/// The shortest program that shows a difference, or why there is no machine.
pub fn random(mode: Mode, checks: u64, seed: u64) -> Result<Tally, Failure> {
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
        match run(mode, next, &mut steps)? {
            Ok(done) => tally.checks += done,
            Err(failed) => return Err(explain(mode, steps, &failed)),
        }
    }
    Ok(tally)
}

fn explain(mode: Mode, mut steps: Vec<Step>, failed: &Failed) -> Failure {
    steps.truncate(failed.step + 1);
    let fails = |program: &[Step]| matches!(replay(mode, program), Ok(Err(_)));
    if !fails(&steps) {
        return Failure::Difference(format!("{mode:?}: {} (not reproducible)", failed.why));
    }
    let program = shortest(steps, 600, Step::simpler, fails);
    let why = match replay(mode, &program) {
        Ok(Err(failed)) => failed.why,
        _ => "not reproducible".into(),
    };
    let listing: Vec<String> = program.iter().map(|step| format!("  {step}")).collect();
    Failure::Difference(format!("{mode:?}:\n{}\n{why}", listing.join("\n")))
}
