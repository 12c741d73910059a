//! What the reference expects of a case, what a machine did, and whether that is the same.

use super::tables::{Case, Layout, Tables, WINDOW};
use crate::machine::ram::Ram;
use crate::machine::{Machine, Touch};
use crate::qtest::hda::Hda;
use crate::reference::vtd::{Decision, Request, Unit, decide};
use portcullis_driver::platform::Memory as _;
use portcullis_spec::PhysAddr;
use std::collections::BTreeMap;
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

/// What a case did, or should do.
///
/// Of tables, Dirty flags count always; the accessed ones only where everything was permitted: whether a walk that ends in a
/// refusal has set some already is open (3.6.2, 3.7.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The token that was read; 0 where reading was refused.
    pub token: u8,
    /// The first fault that was recorded.
    pub fault: Option<Recorded>,
    /// Data that changed: offset into the window to new byte.
    pub data: BTreeMap<u64, u8>,
    /// Words of tables that changed.
    pub tables: BTreeMap<u64, u64>,
}

/// The token that the memory at `address` holds before a case.
const fn token_at(address: u64) -> u8 {
    // Odd, so never 0, and different in neighbouring words and pages.
    (address >> 2 ^ address >> 9) as u8 | 1
}

/// What the window holds before a case: tokens.
#[must_use]
pub fn pattern(layout: Layout) -> Vec<u8> {
    (layout.data..layout.data + WINDOW).step_by(4).flat_map(|at| Hda::verb(token_at(at))).collect()
}

/// Put a case's tables into memory. The pages were zero before, or hold the words of a case that is [`clear`]ed.
pub fn put(ram: &Ram, tables: &Tables) {
    for word in &tables.words {
        ram.store64(PhysAddr(word.at), word.value);
    }
}

/// Take a case's tables out of memory again.
pub fn clear(ram: &Ram, tables: &Tables) {
    for word in &tables.words {
        ram.store64(PhysAddr(word.at), 0);
    }
}

/// What the specification says of a case whose tables and data lie in `ram`; `None` where it would reach memory outside the
/// window, or is an interrupt request. And whether something is to be refused.
#[must_use]
pub fn expect(unit: &Unit, ram: &Ram, case: &Case, root: u64, layout: Layout) -> Option<(Outcome, bool)> {
    let mut tables = BTreeMap::new();
    let mut refused = false;
    let mut outcome = Outcome { token: 0, fault: None, data: BTreeMap::new(), tables: BTreeMap::new() };
    for is_write in [false, true] {
        let address = if is_write { case.write } else { case.read };
        if case.shape.pasid.is_none() && address >> 20 == 0xfee {
            return None;
        }
        let memory = |at: u64| {
            let inside = at >= ram.base().0 && at - ram.base().0 < crate::machine::ram::RAM_BYTES;
            inside.then(|| tables.get(&at).copied().unwrap_or_else(|| ram.load64(PhysAddr(at))))
        };
        let request = Request {
            requester_id: case.shape.requester_id,
            pasid: case.shape.pasid,
            privileged: case.privileged,
            address,
            read: !is_write,
            write: is_write,
        };
        let (decision, updates) = decide(unit, root, &memory, &request);
        for (at, value) in updates {
            // A table that lies where the data is.
            if (layout.data..layout.data + WINDOW).contains(&at) {
                return None;
            }
            tables.insert(at, value);
        }
        refused |= !matches!(decision, Decision::Pass(_));
        match decision {
            Decision::Pass(to) => {
                let offset = to.checked_sub(layout.data).filter(|offset| *offset < WINDOW)?;
                if is_write {
                    outcome.data.extend((offset..offset + 8).map(|offset| (offset, 0)));
                } else {
                    outcome.token = token_at(to);
                }
            }
            Decision::Refuse { code, recorded } if outcome.fault.is_none() && recorded => {
                outcome.fault = Some(Recorded {
                    code,
                    requester_id: request.requester_id,
                    page: address & !0xfff,
                    is_write,
                    pasid: request.pasid,
                });
            }
            Decision::Refuse { .. } | Decision::Abort => {}
        }
    }
    tables.retain(|at, value| ram.load64(PhysAddr(*at)) != *value);
    outcome.tables = tables;
    // A change to zero where zero was is none.
    let mut byte = [0];
    outcome.data.retain(|offset, value| {
        ram.read(PhysAddr(layout.data + *offset), &mut byte);
        byte[0] != *value
    });
    Some((outcome.without_open_flags(refused, |at| ram.load64(PhysAddr(at))), refused))
}

/// The request of a case, by whichever engine can make it.
pub type Ask<'a, M> = dyn Fn(&M, &Case) -> u8 + 'a;

/// Let the machine's last engine, which carries no PASID, make the request of a case.
pub fn touch<M: Machine>(machine: &M, case: &Case) -> u8 {
    machine.touch(Touch { read: case.read, write: case.write })
}

/// Let a machine whose root table is set and whose caches are empty make the request of a case, and see what it did. The
/// window holds `pattern` before and afterwards.
pub fn observe<M: Machine>(
    machine: &M,
    unit: &Unit,
    (case, tables): (&Case, &Tables),
    (layout, pattern): (Layout, &[u8]),
    refused: bool,
    ask: &Ask<'_, M>,
) -> Outcome {
    let ram = machine.ram();
    let token = ask(machine, case);

    let mut after = [0; WINDOW as usize];
    ram.read(PhysAddr(layout.data), &mut after);
    let mut data = BTreeMap::new();
    if after != pattern {
        let changed = pattern.iter().zip(&after).enumerate().filter(|(_, (before, after))| before != after);
        data.extend(changed.map(|(offset, (_, after))| (offset as u64, *after)));
        ram.write(PhysAddr(layout.data), pattern);
    }
    let changed = tables.words.iter().filter_map(|word| {
        let after = ram.load64(PhysAddr(word.at));
        (after != tables.value(word.at)).then_some((word.at, after))
    });
    let outcome = Outcome { token, fault: take_fault(machine, unit), data, tables: changed.collect() };
    outcome.without_open_flags(refused, |at| tables.value(at))
}

/// Accessed and extended accessed flags of both stages.
const ACCESSED: u64 = 1 << 5 | 1 << 8 | 1 << 10;

impl Outcome {
    /// Leave out of the tables what does not count.
    fn without_open_flags(mut self, refused: bool, before: impl Fn(u64) -> u64) -> Self {
        if refused {
            self.tables.retain(|at, after| (before(*at) ^ *after) & !ACCESSED != 0);
            for after in self.tables.values_mut() {
                *after &= !ACCESSED;
            }
        }
        self
    }
}

const CAP: u64 = 0x8;
const ECAP: u64 = 0x10;
const GCMD: u64 = 0x18;
const GCMD_TE: u32 = 1 << 31;
const GCMD_SRTP: u32 = 1 << 30;
const RTADDR: u64 = 0x20;
const FSTS: u64 = 0x34;
const FSTS_PFO: u32 = 1;

/// What a machine's registers say of its unit.
pub fn unit<M: Machine>(machine: &M, haw: u32) -> Unit {
    Unit { cap: machine.read64(CAP), ecap: machine.read64(ECAP), haw }
}

/// Put translation in force, with a root table that has no meaning yet.
pub fn enable<M: Machine>(machine: &M) {
    machine.write32(GCMD, GCMD_SRTP);
    machine.write32(GCMD, GCMD_TE);
}

/// Set the root table and let nothing remain of an earlier one (QEMU always forgets; others with CAP.ESRTPS). Translation is
/// in force before and afterwards.
pub fn set_root<M: Machine>(machine: &M, root: u64) {
    machine.write64(RTADDR, root);
    machine.write32(GCMD, GCMD_TE | GCMD_SRTP);
}

/// The first fault record, which is cleared, and its overflow bit with it.
pub fn take_fault<M: Machine>(machine: &M, unit: &Unit) -> Option<Recorded> {
    let offset = (unit.cap >> 24 & 0x3ff) * 16;
    let high = machine.read64(offset + 8);
    if high >> 63 == 0 {
        return None;
    }
    let fault = Recorded::decode(machine.read64(offset), high);
    machine.write32(offset + 12, 1 << 31);
    machine.write32(FSTS, FSTS_PFO);
    fault
}
