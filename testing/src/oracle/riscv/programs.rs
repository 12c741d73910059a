//! Programs of the RISC-V IOMMU's driver.

use crate::machine::qemu::Board;
use crate::machine::ram::Ram;
use crate::machine::recorder::{Access, Recorder};
use crate::machine::riscv::{RiscvMachine, Stages, board, like_qemu, model, requester};
use crate::machine::{Machine, MachineError};
use crate::oracle::lockstep::{EXACT, Tolerance};
use crate::oracle::programs::{Driving, Platform, Started};
use crate::oracle::shadow::{Rules, Why};
use portcullis_driver::riscv::{Options, Riscv};
use portcullis_spec::{Fault, FaultReason, Requester};

/// CAUSE of a device context that is not valid.
const NOT_VALID: u32 = 258;

/// The driver of the RISC-V IOMMU.
#[derive(Debug)]
pub struct RiscvDriver;

impl Driving for RiscvDriver {
    type Mode = Stages;
    type Model = RiscvMachine;
    type Driver<'m, M: Machine + 'm> = Riscv<&'m Recorder<&'m M>, &'m Ram>;

    /// The departures as far as a driver's programs meet them.
    const TOLERANCE: Tolerance = Tolerance {
        unrecorded: |refusal| refusal.why.is_right(),
        invents_pasid: true,
        stands_for: |fault, refusal| match refusal.why {
            // Without address and type.
            Why::Detached => fault.code == NOT_VALID && fault.address.0 == 0,
            // A read as a write.
            _ => {
                matches!(fault.code, 5 | 13 | 21)
                    && !refusal.is_write
                    && fault.address.0 & !0xfff == refusal.page
            }
        },
        ..Self::OURS
    };
    /// One cause says both that nothing is mapped and that the right is lacking (2.3).
    const OURS: Tolerance =
        Tolerance { also: |reason, why| why.is_right() && reason == FaultReason::NotMapped, ..EXACT };
    const RECORDS_ALL: bool = true;

    const BOARD: fn(Stages) -> Board = board;
    const REQUESTER: fn(u16) -> Requester = requester;
    const MODEL: fn(Stages) -> Result<Self::Model, MachineError> = |stages| model(like_qemu(stages));

    fn start<'m, M: Machine>(_: Stages, (registers, ram): Platform<'m, M>) -> Started<'m, Self, M> {
        // Room for a record of each byte.
        Riscv::start(registers, ram, Options { fault_queue_size: 7, ..Options::default() })
    }

    fn rules<M: Machine>(stages: Stages, machine: &M) -> Rules {
        // The lower half of Sv48, and all of Sv48x4. W without R is reserved.
        Rules::on(machine, if stages == Stages::Second { 1 << 50 } else { 1 << 47 })
    }

    /// Where the directory refuses, QEMU records no address and no type; where page tables refuse, reads as writes.
    fn same(theirs: &Fault, ours: &Fault) -> bool {
        theirs.requester == ours.requester
            && theirs.code == ours.code
            && (theirs.address == ours.address || theirs.code == NOT_VALID)
    }

    /// QEMU says that it has Sv32 and Sv32x4 (5.3); and how many records a refusal makes is the machine's.
    fn plain(access: &Access) -> Access {
        const FQH: u64 = 0x30;
        const FQT: u64 = 0x34;
        let hidden = match access.offset {
            0 => 1 << 8 | 1 << 16,
            FQH | FQT => u64::MAX,
            _ => 0,
        };
        Access { value: access.value & !hidden, ..*access }
    }
}
