//! Programs of the SMMUv3's driver.

use crate::machine::qemu::Board;
use crate::machine::ram::Ram;
use crate::machine::recorder::{Access, Recorder};
use crate::machine::smmuv3::{Smmuv3Machine, Stages, board, like_qemu, model, requester};
use crate::machine::{Machine, MachineError};
use crate::oracle::lockstep::{EXACT, Tolerance};
use crate::oracle::programs::{Driving, Platform, Started};
use crate::oracle::shadow::{Rules, Why};
use portcullis_driver::smmuv3::{Options, Smmuv3};
use portcullis_spec::Requester;

/// The driver of the SMMUv3.
#[derive(Debug)]
pub struct Smmuv3Driver;

impl Driving for Smmuv3Driver {
    type Mode = Stages;
    type Model = Smmuv3Machine;
    type Driver<'m, M: Machine + 'm> = Smmuv3<&'m Recorder<&'m M>, &'m Ram>;

    /// The departures as far as a driver's programs meet them.
    const TOLERANCE: Tolerance = Tolerance {
        // Rights that a cached translation of stage 2 lacks, and what lies beyond the input size of a stage 2 alone.
        unrecorded: |refusal| refusal.why.is_right() || refusal.page >> 44 != 0,
        ..Self::OURS
    };
    /// C_BAD_STREAMID and C_BAD_STE have neither address nor direction (7.3.3, 7.3.5).
    const OURS: Tolerance = Tolerance {
        stands_for: |fault, refusal| refusal.why == Why::Detached && matches!(fault.code, 2 | 4),
        ..EXACT
    };
    const RECORDS_ALL: bool = true;

    const BOARD: fn(Stages) -> Board = board;
    const REQUESTER: fn(u16) -> Requester = requester;
    const MODEL: fn(Stages) -> Result<Self::Model, MachineError> = |stages| model(like_qemu(stages));

    fn start<'m, M: Machine>(_: Stages, (registers, ram): Platform<'m, M>) -> Started<'m, Self, M> {
        // Room for a record of each byte.
        Smmuv3::start(registers, ram, Options { event_queue_size: 7, ..Options::default() })
    }

    fn rules<M: Machine>(stages: Stages, machine: &M) -> Rules {
        Rules {
            // Stage 1 has no way to say write-only.
            write_implies_read: stages != Stages::Two,
            ..Rules::on(machine, if stages == Stages::Two { 1 << 44 } else { 1 << 48 })
        }
    }

    /// QEMU says VMID16 also without stage 2, and ASID16 without stage 1 (6.3.1); and how many records a refusal makes is the
    /// machine's.
    fn plain(access: &Access) -> Access {
        const EVENTQ_PROD: u64 = 0x1_00a8;
        const EVENTQ_CONS: u64 = 0x1_00ac;
        let hidden = match access.offset {
            0 => 1 << 12 | 1 << 18,
            EVENTQ_PROD | EVENTQ_CONS => u64::MAX,
            _ => 0,
        };
        Access { value: access.value & !hidden, ..*access }
    }
}
