//! Page request registers (VT-d 11.4.11). Their event registers are [`super::EventControl`] and its fellows.

use bitfield_struct::bitfield;

/// PQH_REG (VT-d 11.4.11.1): page request queue head, written by software.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pqh {
    #[bits(5)]
    __: u8,
    /// Head in units of 32 bytes.
    #[bits(14)]
    pub pqh: u16,
    #[bits(45)]
    __: u64,
}

/// PQT_REG (VT-d 11.4.11.2): page request queue tail, advanced by hardware.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pqt {
    #[bits(5)]
    __: u8,
    /// Tail in units of 32 bytes.
    #[bits(14)]
    pub pqt: u16,
    #[bits(45)]
    __: u64,
}

/// PQA_REG (VT-d 11.4.11.3): page request queue address.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Pqa {
    /// Queue size: `2^pqs` pages of 4 KiB.
    #[bits(3)]
    pub pqs: u8,
    #[bits(9)]
    __: u16,
    /// Queue address, bits 63:12.
    #[bits(52)]
    pub pqa: u64,
}

impl Pqa {
    /// Address of the queue in bytes.
    #[must_use]
    pub const fn queue(self) -> u64 {
        self.pqa() << 12
    }

    /// Size of the queue in bytes.
    #[must_use]
    pub const fn queue_bytes(self) -> u64 {
        4096 << self.pqs()
    }
}

/// PRS_REG (VT-d 11.4.11.4): page request status.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Prs {
    /// Pending page request; write 1 to clear.
    pub ppr: bool,
    /// Page request overflow; write 1 to clear.
    pub pro: bool,
    #[bits(30)]
    __: u32,
}
