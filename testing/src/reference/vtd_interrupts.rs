//! Intel VT-d interrupt remapping (5.1, 9.9): a device's message in, what goes on or why not out.

use super::{Words, bit, bits};

/// A unit whose remapping is on, as far as interrupts go.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// IRTA_REG as it was set.
    pub irta: u64,
    /// GSTS.CFIS.
    pub compatibility: bool,
    /// Host address width.
    pub haw: u32,
}

/// A write of 32 bits to `FEEx_xxxxh` without a PASID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who sends it.
    pub requester_id: u16,
    /// Where, a multiple of 4.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Something goes on to the processors: an address and data as they take them.
    Pass(u64, u32),
    /// It is refused, with this reason and interrupt index; recorded unless the entry's FPD is set.
    Refuse {
        /// FR.
        code: u8,
        /// FI, bits 63:48.
        index: u16,
        /// Whether it is recorded.
        recorded: bool,
    },
}

/// Decides.
pub fn decide(unit: &Unit, memory: &impl Words, message: Message) -> Decision {
    let Message { requester_id, address, data } = message;
    let refuse = |code, index| Decision::Refuse { code, index, recorded: true };
    // 5.1.2: bit 4 of the address is the format.
    if !bit(address, 4) {
        // 5.1.4.
        let blocked = bit(unit.irta, 11) || !unit.compatibility;
        return if blocked { refuse(0x25, 0) } else { Decision::Pass(address, data) };
    }
    // 5.1.3: handle bits 14:0 in 19:5, bit 15 in 2; SHV in 3.
    let handle = bits(address, 19, 5) | u64::from(bit(address, 2)) << 15;
    let mut index = handle;
    if bit(address, 3) {
        if bits(data.into(), 31, 16) != 0 {
            return refuse(0x20, 0);
        }
        index += bits(data.into(), 15, 0);
    }
    let entries = 1u64 << (bits(unit.irta, 3, 0) + 1);
    let table = unit.irta & !0xfff;
    if index >= entries || table >> unit.haw != 0 {
        return refuse(0x21, index as u16);
    }
    let index = index as u16;
    let at = table + 16 * u64::from(index);
    let (Some(low), Some(high)) = (memory.load(at), memory.load(at + 8)) else { return refuse(0x23, index) };
    // 5.1.4.1: what the entry itself refuses is qualified by its FPD.
    let qualified = |code| Decision::Refuse { code, index, recorded: !bit(low, 1) };
    if !bit(low, 0) {
        return qualified(0x22);
    }
    // 9.9. IM (15) is reserved without posting.
    let extended = bit(unit.irta, 11);
    let delivery = bits(low, 7, 5);
    let reserved = bits(low, 15, 12) != 0
        || bits(low, 31, 24) != 0
        || (!extended && (bits(low, 39, 32) != 0 || bits(low, 63, 48) != 0))
        || bits(high, 63, 20) != 0
        || delivery == 3
        || delivery == 6
        || bits(high, 19, 18) == 3;
    if reserved {
        return qualified(0x24);
    }
    let sid = bits(high, 15, 0) as u16;
    let (bus, first, last) = (requester_id >> 8, sid >> 8, sid & 0xff);
    let admitted = match (bits(high, 19, 18), bits(high, 17, 16)) {
        (0, _) => true,
        (1, 0) => requester_id == sid,
        (1, 1) => requester_id | 4 == sid | 4,
        (1, 2) => requester_id | 6 == sid | 6,
        (1, _) => requester_id | 7 == sid | 7,
        _ => first <= bus && bus <= last,
    };
    if !admitted {
        return qualified(0x26);
    }
    let destination = if extended { bits(low, 63, 32) } else { bits(low, 47, 40) };
    let mut to = 0xfee0_0000 | (destination & 0xff) << 12 | (destination >> 8) << 40;
    to |= u64::from(bit(low, 3)) << 3 | u64::from(bit(low, 2)) << 2;
    let what = bits(low, 23, 16) | delivery << 8 | 1 << 14 | u64::from(bit(low, 4)) << 15;
    Decision::Pass(to, what as u32)
}
