//! Programs of the VT-d driver.

use crate::machine::qemu::Board;
use crate::machine::ram::Ram;
use crate::machine::recorder::{Access, Recorder};
use crate::machine::vtd::{Mode, VtdMachine, board, like_qemu, model, requester};
use crate::machine::{Machine, MachineError};
use crate::oracle::generate::SPACES;
use crate::oracle::lockstep::Tolerance;
use crate::oracle::program::Step;
use crate::oracle::programs::{Driving, Failed, Platform, Started, run};
use crate::oracle::shadow::{Rules, SpaceKind};
use crate::oracle::vtd::departures::TOLERANCE;
use crate::oracle::{Failure, Tally};
use portcullis_driver::vtd::{Options, Vtd};
use portcullis_spec::{Fault, Requester};

/// The VT-d driver.
#[derive(Debug)]
pub struct VtdDriver;

impl Driving for VtdDriver {
    type Mode = Mode;
    type Model = VtdMachine;
    type Driver<'m, M: Machine + 'm> = Vtd<&'m Recorder<&'m M>, &'m Ram>;

    const TOLERANCE: Tolerance = TOLERANCE;

    const BOARD: fn(Mode) -> Board = board;
    const REQUESTER: fn(u16) -> Requester = requester;
    const MODEL: fn(Mode) -> Result<Self::Model, MachineError> = |mode| model(like_qemu(mode));

    fn start<'m, M: Machine>(mode: Mode, (registers, ram): Platform<'m, M>) -> Started<'m, Self, M> {
        let options = Options { host_address_bits: mode.address_bits(), ..Options::default() };
        Vtd::start(registers, ram, options)
    }

    fn rules<M: Machine>(mode: Mode, machine: &M) -> Rules {
        let limit = match mode {
            Mode::Legacy39 => 1 << 39,
            Mode::Legacy48 => 1 << 48,
            // 3.6: canonical addresses; the driver maps the lower half.
            Mode::FirstStage48 => 1 << 47,
        };
        Rules {
            reserved: vec![(0xfee0_0000, 0xfeef_ffff)],
            write_implies_read: mode == Mode::FirstStage48,
            identity_sticks: mode == Mode::FirstStage48,
            fetches_always: false,
            ..Rules::on(machine, limit)
        }
    }

    const RECORDS_ALL: bool = false;

    /// One departure: the code of an entry that is not present.
    fn same(theirs: &Fault, ours: &Fault) -> bool {
        theirs.requester == ours.requester
            && theirs.address == ours.address
            && theirs.access == ours.access
            && (theirs.code == ours.code || (theirs.code, ours.code) == (0x5b, 0x59))
    }

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
    match run::<VtdDriver>(Mode::FirstStage48, |_| steps.next(), &mut Vec::new())? {
        Err(Failed { step: 3, .. }) => {
            Ok(Tally { departures: [(STICKY_IDENTITY, 1)].into_iter().collect(), ..Tally::default() })
        }
        Err(failed) => Err(Failure::Difference(format!("step {}: {}", failed.step, failed.why))),
        Ok(_) => Err(Failure::Difference(format!("QEMU no longer {STICKY_IDENTITY}"))),
    }
}
