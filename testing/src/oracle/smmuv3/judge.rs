//! SMMUv3s as the reference judges them: registers, queues, event records.

use super::tables::Shape;
use crate::machine::Machine;
use crate::machine::model::Sender;
use crate::machine::smmuv3::requester;
use crate::oracle::queues::{self, COMMANDS, FAULTS, Queues};
use crate::oracle::tables::{Decision, Layout, Request, Subject};
use crate::reference::{Update, Words, smmuv3 as reference};
use portcullis_spec::Pasid;
use std::fmt;

/// An event record (7.3), as far as it is defined.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// Event number.
    pub number: u8,
    /// StreamID.
    pub stream: u32,
    /// SubstreamID, where SSV is set.
    pub substream: Option<u32>,
    /// What the transaction was, in events that say it.
    pub transaction: Option<Transaction>,
    /// FetchAddr or IPA, in events that have one.
    pub fetched: Option<u64>,
}

/// What an event says of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Transaction {
    /// InputAddr.
    pub address: u64,
    /// RnW clear.
    pub is_write: bool,
    /// S2.
    pub stage2: bool,
    /// CLASS.
    pub class: u8,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {:#04x} of stream {:#x}", self.number, self.stream)?;
        if let Some(substream) = self.substream {
            write!(f, ".{substream:#x}")?;
        }
        if let Some(Transaction { address, is_write, stage2, class }) = self.transaction {
            let verb = if is_write { "write" } else { "read" };
            write!(f, ", {verb} at {address:#x}, S2 {}, CLASS {class}", u8::from(stage2))?;
        }
        self.fetched.map_or(Ok(()), |address| write!(f, ", address {address:#x}"))
    }
}

impl Recorded {
    /// From the words of a record.
    #[must_use]
    pub const fn decode(words: [u64; 4]) -> Self {
        let [w0, w1, w2, w3] = words;
        let number = w0 as u8;
        let stage2 = w1 >> 39 & 1 == 1;
        let (of_transaction, fetched) = match number {
            0x03 | 0x09 => (false, Some(w3 & 0x00ff_ffff_ffff_fff8)),
            0x0b => (true, Some(w3 & 0x00ff_ffff_ffff_fff8)),
            0x10..=0x13 if stage2 => (true, Some(w3 & 0x00ff_ffff_ffff_f000)),
            0x10..=0x13 => (true, None),
            _ => (false, None),
        };
        let transaction = if of_transaction {
            let class = (w1 >> 40 & 3) as u8;
            Some(Transaction { address: w2, is_write: w1 >> 35 & 1 == 0, stage2, class })
        } else {
            None
        };
        // 7.3.9: C_BAD_SUBSTREAMID has no SSV, its SubstreamID is always valid.
        let substream =
            if w0 >> 11 & 1 == 1 || number == 0x08 { Some((w0 >> 12 & 0xf_ffff) as u32) } else { None };
        Self { number, stream: (w0 >> 32) as u32, substream, transaction, fetched }
    }

    /// As the reference says it.
    fn expected(event: reference::Event, shape: &Shape, request: Request) -> Self {
        let reference::Event { number, stage2, class, address } = event;
        let Request { address: input, is_write } = request;
        let of_transaction = matches!(number, 0x0b | 0x10..=0x13);
        Self {
            number,
            stream: shape.stream,
            substream: if number == 0x08 { Some(shape.substream.unwrap_or(0)) } else { shape.substream },
            transaction: of_transaction.then_some(Transaction { address: input, is_write, stage2, class }),
            fetched: address,
        }
    }
}

/// SMMUv3 before tables.
#[derive(Clone, Copy, Debug)]
pub struct Smmuv3;

pub(super) const CR0: u64 = 0x20;
pub(super) const CR0_SMMUEN: u32 = 1;
pub(super) const CR0_QUEUES: u32 = 1 << 2 | 1 << 3;
const CR2: u64 = 0x2c;
pub(super) const GERROR: u64 = 0x60;
pub(super) const GERRORN: u64 = 0x64;
const STRTAB_BASE: u64 = 0x80;
const STRTAB_BASE_CFG: u64 = 0x88;
const CMDQ_BASE: u64 = 0x90;
pub(super) const CMDQ_PROD: u64 = 0x98;
pub(super) const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
const EVENTQ_PROD: u64 = 0x1_00a8;
const EVENTQ_CONS: u64 = 0x1_00ac;

const QUEUES: Queues =
    Queues { commands: CMDQ_PROD, faults: (EVENTQ_PROD, EVENTQ_CONS), index: (2 << queues::BITS) - 1 };

impl Subject for Smmuv3 {
    type Shape = Shape;
    type Unit = reference::Unit;
    type Recorded = Recorded;

    const RECORDS: usize = 3;

    fn rooted(unit: &Self::Unit, shape: &Shape, layout: Layout) -> Self::Unit {
        let (strtab_base, strtab_base_cfg) = shape.registers(layout);
        reference::Unit { strtab_base, strtab_base_cfg, ..*unit }
    }

    fn decide(
        unit: &Self::Unit,
        memory: &impl Words,
        shape: &Shape,
        request: Request,
    ) -> Option<(Decision<Recorded>, Vec<Update>)> {
        let transaction = reference::Request {
            stream: shape.stream,
            substream: shape.substream,
            privileged: shape.privileged,
            instruction: false,
            write: request.is_write,
            address: request.address,
        };
        let (decision, updates) = reference::decide(unit, memory, &transaction);
        let decision = match decision {
            reference::Decision::Pass(to) => Decision::Pass(to),
            reference::Decision::Terminate { event, .. } => {
                Decision::Refuse(event.map(|event| Recorded::expected(event, shape, request)))
            }
            // The compared units don't stall.
            reference::Decision::Stall(_) => return None,
        };
        Some((decision, updates))
    }

    fn install<M: Machine>(machine: &M, unit: &Self::Unit) {
        machine.write32(CR0, CR0_QUEUES);
        machine.write64(STRTAB_BASE, unit.strtab_base);
        machine.write32(STRTAB_BASE_CFG, unit.strtab_base_cfg as u32);
        machine.write32(CR0, CR0_QUEUES | CR0_SMMUEN);
        // CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL, CMD_TLBI_EL2_ALL, CMD_SYNC (4.3, 4.4, 4.7).
        QUEUES.submit(machine, &[[0x04, 31], [0x30, 0], [0x20, 0], [0x46, 0]], false);
    }

    fn take_faults<M: Machine>(machine: &M, _: &Self::Unit) -> Vec<Recorded> {
        QUEUES.take_faults(machine, false, Recorded::decode)
    }

    fn sender(shape: &Shape) -> Sender {
        Sender {
            requester: requester(shape.stream as u16),
            pasid: shape.substream.and_then(Pasid::new),
            privileged: shape.privileged,
        }
    }
}

/// Give a machine's unit its queues, and enable it with a stream table that has no meaning yet. What its registers say.
pub fn enable<M: Machine>(machine: &M) -> reference::Unit {
    const CR2_RECINVSID: u32 = 1 << 1;
    let base = machine.ram().base().0;
    machine.write32(CR0, 0);
    machine.write64(CMDQ_BASE, (base + COMMANDS) | u64::from(queues::BITS));
    machine.write32(CMDQ_PROD, 0);
    machine.write32(CMDQ_CONS, 0);
    machine.write64(EVENTQ_BASE, (base + FAULTS) | u64::from(queues::BITS));
    machine.write32(EVENTQ_PROD, 0);
    machine.write32(EVENTQ_CONS, 0);
    machine.write32(CR2, CR2_RECINVSID);
    machine.write32(GERRORN, machine.read32(GERROR));
    let id = |offset| u64::from(machine.read32(offset));
    reference::Unit {
        idr0: id(0x0),
        idr1: id(0x4),
        idr3: id(0xc),
        idr5: id(0x14),
        cr0: 1,
        cr2: u64::from(CR2_RECINVSID),
        gbpa: 0,
        strtab_base: 0,
        strtab_base_cfg: 0,
    }
}
