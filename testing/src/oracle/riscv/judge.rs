//! RISC-V IOMMUs as the reference judges them: registers, queues, fault records.

use super::tables::Shape;
use crate::machine::Machine;
use crate::machine::model::Sender;
use crate::oracle::queues::{self, COMMANDS, FAULTS, Queues};
use crate::oracle::tables::{Decision, Layout, Request, Subject};
use crate::reference::{Update, Words, riscv as reference};
use portcullis_spec::{Pasid, Requester};
use std::fmt;

/// A fault record (3.2), as far as it is defined.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// CAUSE.
    pub cause: u16,
    /// DID.
    pub device: u32,
    /// PID, where PV is set.
    pub process: Option<u32>,
    /// PRIV, where PV is set.
    pub privileged: bool,
    /// TTYP: 1 read to execute, 2 read, 3 write.
    pub transaction: u8,
    /// iotval.
    pub address: u64,
    /// iotval2.
    pub second: u64,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, device, privileged, transaction, address, second, .. } = self;
        write!(f, "cause {cause}, TTYP {transaction} by {device:#x}")?;
        if let Some(process) = self.process {
            write!(f, ".{process:#x}{}", if *privileged { " privileged" } else { "" })?;
        }
        write!(f, " at {address:#x}, iotval2 {second:#x}")
    }
}

impl Recorded {
    /// From the words of a record.
    #[must_use]
    pub const fn decode([head, _, iotval, iotval2]: [u64; 4]) -> Self {
        let with_process = head >> 32 & 1 == 1;
        Self {
            cause: (head & 0xfff) as u16,
            device: (head >> 40) as u32,
            process: if with_process { Some((head >> 12 & 0xf_ffff) as u32) } else { None },
            privileged: with_process && head >> 33 & 1 == 1,
            transaction: (head >> 34 & 0x3f) as u8,
            address: iotval,
            second: iotval2,
        }
    }
}

/// RISC-V IOMMUs before tables.
#[derive(Clone, Copy, Debug)]
pub struct Riscv;

const CAPABILITIES: u64 = 0x0;
const FCTL: u64 = 0x8;
const DDTP: u64 = 0x10;
const CQB: u64 = 0x18;
pub(super) const CQH: u64 = 0x20;
pub(super) const CQT: u64 = 0x24;
const FQB: u64 = 0x28;
const FQH: u64 = 0x30;
const FQT: u64 = 0x34;
pub(super) const CQCSR: u64 = 0x48;
const FQCSR: u64 = 0x4c;

const QUEUES: Queues = Queues { commands: CQT, faults: (FQT, FQH), index: (1 << queues::BITS) - 1 };

/// Whether the words of queues are in big-endian order (`fctl.BE`).
pub(super) fn is_big_endian<M: Machine>(machine: &M) -> bool {
    machine.read32(FCTL) & 1 == 1
}

impl Subject for Riscv {
    type Shape = Shape;
    type Unit = reference::Unit;
    type Recorded = Recorded;

    const RECORDS: usize = 3;

    fn rooted(unit: &Self::Unit, shape: &Shape, layout: Layout) -> Self::Unit {
        reference::Unit { ddtp: shape.ddtp(layout), ..*unit }
    }

    fn decide(
        unit: &Self::Unit,
        memory: &impl Words,
        shape: &Shape,
        request: Request,
    ) -> Option<(Decision<Recorded>, Vec<Update>)> {
        let Request { address, is_write } = request;
        let asked = reference::Request {
            device_id: shape.device,
            process_id: shape.process,
            privileged: shape.privileged,
            address,
            access: if is_write { reference::Access::Write } else { reference::Access::Read },
        };
        let (decision, updates) = reference::decide(unit, memory, &asked);
        let decision = match decision {
            reference::Decision::Pass(to) => Decision::Pass(to),
            // AIA 9.5.2: reads give zero; writes of a case go to no register of an interrupt file, and are discarded.
            reference::Decision::Mrif(_) if !is_write || address & 0xff8 != 0 => Decision::Taken,
            reference::Decision::Mrif(_) => return None,
            reference::Decision::Refuse { cause, iotval2, recorded } => {
                Decision::Refuse(recorded.then_some(Recorded {
                    cause,
                    device: shape.device,
                    process: shape.process,
                    privileged: shape.privileged,
                    transaction: if is_write { 3 } else { 2 },
                    address,
                    second: iotval2,
                }))
            }
        };
        Some((decision, updates))
    }

    fn install<M: Machine>(machine: &M, unit: &Self::Unit) {
        // Between depths the unit must be off (2.1, 5.5).
        machine.write64(DDTP, 0);
        machine.write64(DDTP, unit.ddtp);
        // IODIR.INVAL_DDT, IOTINVAL.VMA, IOTINVAL.GVMA, IOFENCE.C (4.1 to 4.3).
        let commands = [[3, 0], [1, 0], [1 | 1 << 7, 0], [2, 0]];
        QUEUES.submit(machine, &commands, is_big_endian(machine));
    }

    fn take_faults<M: Machine>(machine: &M, _: &Self::Unit) -> Vec<Recorded> {
        QUEUES.take_faults(machine, is_big_endian(machine), Recorded::decode)
    }

    fn sender(shape: &Shape) -> Sender {
        Sender {
            requester: Requester::Device(shape.device),
            pasid: shape.process.and_then(Pasid::new),
            privileged: shape.privileged,
        }
    }
}

/// Give a machine's unit its queues, in big-endian order if `big_endian` and possible. What its registers say.
pub fn enable<M: Machine>(machine: &M, big_endian: bool) -> reference::Unit {
    const BE: u32 = 1;
    const ENABLE: u32 = 1;
    let base = machine.ram().base().0;
    let page = |offset: u64| (base + offset) >> 12 << 10 | u64::from(queues::BITS - 1);
    machine.write64(DDTP, 0);
    machine.write32(CQCSR, 0);
    machine.write32(FQCSR, 0);
    let capabilities = machine.read64(CAPABILITIES);
    // 5.4: fixed without END.
    let be_writable = capabilities >> 27 & 1 == 1;
    if be_writable {
        machine.write32(FCTL, machine.read32(FCTL) & !BE | u32::from(big_endian));
    }
    machine.write64(CQB, page(COMMANDS));
    machine.write32(CQT, 0);
    machine.write32(CQCSR, ENABLE);
    machine.write64(FQB, page(FAULTS));
    machine.write32(FQH, 0);
    machine.write32(FQCSR, ENABLE);
    reference::Unit { capabilities, fctl: machine.read32(FCTL), be_writable, ddtp: 0 }
}
