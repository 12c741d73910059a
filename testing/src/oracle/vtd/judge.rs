//! VT-d units as the reference judges them: registers, fault records.

use super::tables::Shape;
use crate::machine::Machine;
use crate::machine::model::Sender;
use crate::machine::vtd::requester;
use crate::oracle::tables::{Decision, Layout, Request, Subject};
use crate::reference::{Update, Words, vtd as reference};
use portcullis_spec::Pasid;
use std::fmt;

/// A fault record (11.4.14), as far as it is defined.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// FR.
    pub code: u8,
    /// SID.
    pub requester_id: u16,
    /// FI, with bits 11:0 zero.
    pub page: u64,
    /// T1 and T2 say: write.
    pub is_write: bool,
    /// PV, where PP is set.
    pub pasid: Option<u32>,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, requester_id, page, is_write, pasid } = self;
        let verb = if *is_write { "write" } else { "read" };
        write!(f, "reason {code:#04x}, {verb} by {requester_id:#06x} at {page:#x}")?;
        pasid.map_or(Ok(()), |pasid| write!(f, ", PASID {pasid:#x}"))
    }
}

impl Recorded {
    /// From the two halves of a fault recording register, or `None` where its F is clear.
    #[must_use]
    pub const fn decode(low: u64, high: u64) -> Option<Self> {
        if high >> 63 == 0 {
            return None;
        }
        let pasid = if high >> 31 & 1 == 1 { Some((high >> 40 & 0xf_ffff) as u32) } else { None };
        Some(Self {
            code: (high >> 32) as u8,
            requester_id: high as u16,
            page: low & !0xfff,
            is_write: high >> 62 & 1 == 0,
            pasid,
        })
    }
}

/// VT-d before tables.
#[derive(Clone, Copy, Debug)]
pub struct Vtd;

/// A unit: what its registers say, and its root table.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// What its registers say.
    pub registers: reference::Unit,
    /// What RTADDR holds.
    pub root: u64,
}

impl Subject for Vtd {
    type Shape = Shape;
    type Unit = Unit;
    type Recorded = Recorded;

    /// Accessed and extended accessed flags: an entry has them as soon as it is used (3.6.2, 3.7.2), which may be before what it
    /// leads to refuses. The reference sets them at the end.
    const ON_THE_WAY: u64 = 1 << 5 | 1 << 8 | 1 << 10;
    const RECORDS: usize = 1;

    fn rooted(unit: &Unit, shape: &Shape, layout: Layout) -> Unit {
        Unit { root: shape.root(layout), ..*unit }
    }

    fn decide(
        unit: &Unit,
        memory: &impl Words,
        shape: &Shape,
        request: Request,
    ) -> Option<(Decision<Recorded>, Vec<Update>)> {
        let Request { address, is_write } = request;
        // An interrupt request (3.15).
        if shape.pasid.is_none() && address >> 20 == 0xfee {
            return None;
        }
        let request = reference::Request {
            requester_id: shape.requester_id,
            pasid: shape.pasid,
            privileged: shape.privileged,
            address,
            read: !is_write,
            write: is_write,
        };
        let (decision, updates) = reference::decide(&unit.registers, unit.root, memory, &request);
        let fault = |code| Recorded {
            code,
            requester_id: shape.requester_id,
            page: address & !0xfff,
            is_write,
            pasid: shape.pasid,
        };
        let decision = match decision {
            reference::Decision::Pass(to) => Decision::Pass(to),
            reference::Decision::Refuse { code, recorded } => Decision::Refuse(recorded.then(|| fault(code))),
            reference::Decision::Abort => Decision::Refuse(None),
        };
        Some((decision, updates))
    }

    /// QEMU forgets everything with the root table, others with CAP.ESRTPS. Translation is in force before and afterwards.
    fn install<M: Machine>(machine: &M, unit: &Unit) {
        machine.write64(RTADDR, unit.root);
        machine.write32(GCMD, GCMD_TE | GCMD_SRTP);
    }

    /// The first record, which is cleared, and the overflow bit with it.
    fn take_faults<M: Machine>(machine: &M, unit: &Unit) -> Vec<Recorded> {
        let offset = (unit.registers.cap >> 24 & 0x3ff) * 16;
        let high = machine.read64(offset + 8);
        if high >> 63 == 0 {
            return Vec::new();
        }
        let fault = Recorded::decode(machine.read64(offset), high);
        machine.write32(offset + 12, 1 << 31);
        machine.write32(FSTS, FSTS_PFO);
        fault.into_iter().collect()
    }

    fn sender(shape: &Shape) -> Sender {
        Sender {
            requester: requester(shape.requester_id),
            pasid: shape.pasid.and_then(Pasid::new),
            privileged: shape.privileged,
        }
    }
}

const CAP: u64 = 0x8;
const ECAP: u64 = 0x10;
pub(super) const GCMD: u64 = 0x18;
pub(super) const GCMD_TE: u32 = 1 << 31;
const GCMD_SRTP: u32 = 1 << 30;
const RTADDR: u64 = 0x20;
pub(super) const FSTS: u64 = 0x34;
const FSTS_PFO: u32 = 1;

/// What a machine's registers say of its unit, which has `haw` host address bits.
pub fn unit<M: Machine>(machine: &M, haw: u32) -> Unit {
    let registers = reference::Unit { cap: machine.read64(CAP), ecap: machine.read64(ECAP), haw };
    Unit { registers, root: 0 }
}

/// Put translation in force, with a root table that has no meaning yet.
pub fn enable<M: Machine>(machine: &M) {
    machine.write32(GCMD, GCMD_SRTP);
    machine.write32(GCMD, GCMD_TE);
}
