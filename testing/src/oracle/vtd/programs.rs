//! Random programs of the VT-d driver.

use crate::machine::Machine;
use crate::machine::qemu::QemuMachine;
use crate::machine::recorder::Recorder;
use crate::machine::vtd::{Mode, board, requester};
use crate::oracle::by_hand;
use crate::oracle::driven::Driven;
use crate::oracle::generate::{self, SPACES};
use crate::oracle::lockstep::{check, prepare};
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

/// Run a program; the steps come from `next`, which is given the shadow.
fn run(
    mode: Mode,
    mut next: impl FnMut(&Shadow) -> Option<Step>,
    steps: &mut Vec<Step>,
) -> Result<Result<u64, Failed>, Failure> {
    let qemu = QemuMachine::start(&board(mode), requester)?;
    let recorder = Recorder::new(&qemu);
    let start = || {
        let unit = Vtd::start(&recorder, qemu.ram(), options(mode)).map_err(|error| error.to_string())?;
        Driven::new(&qemu, &recorder, unit, &SPACES)
    };
    let driven = match start() {
        Ok(driven) => driven,
        Err(why) => return Ok(Err(Failed { step: 0, why: format!("the driver did not start: {why}") })),
    };
    let mut shadow = Shadow::new(rules(mode, &qemu), &SPACES);
    let mut checks = 0;
    while let Some(step) = next(&shadow) {
        steps.push(step);
        shadow.fill(steps.len() as u64);
        prepare(&qemu, &shadow);
        let expectation = shadow.apply(&step);
        match check(&driven, &qemu, &step, &expectation, &shadow, TOLERANCE) {
            Ok(_) => checks += 1,
            Err(why) => return Ok(Err(Failed { step: steps.len() - 1, why: format!("QEMU: {why}") })),
        }
    }
    Ok(Ok(checks))
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
                let step = program.get(failed.step).map_or_else(String::new, ToString::to_string);
                let why = failed.why;
                return Err(Failure::Difference(format!(
                    "{mode:?}: {name}: step {}, {step}: {why}",
                    failed.step
                )));
            }
        }
    }
    Ok(tally)
}

/// What QEMU does in a program that departs from the specification.
const STICKY_IDENTITY: &str = "ignores PASID-cache invalidations: a device whose PASID table entry was pass-through passes on \
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
