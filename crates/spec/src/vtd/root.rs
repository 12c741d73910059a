//! Root entries (VT-d 9.1, 9.2). A root table is one 4 KiB page of 256 entries of 16 bytes, indexed by bus number.

use bitfield_struct::bitfield;

use super::address_reserved;

/// Bytes of one root entry.
pub const ROOT_ENTRY_SIZE: u64 = 16;

/// The low 64 bits of a legacy-mode root entry (VT-d 9.1); the high 64 bits are reserved. Each half of a scalable-mode
/// root entry (VT-d 9.2) has the same fields, there called LP and LCTP, UP and UCTP: the lower half serves device
/// numbers 0 to 15, the upper half 16 to 31.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct RootEntryHalf {
    /// Present.
    pub p: bool,
    #[bits(11)]
    __: u16,
    /// Context table pointer, bits 63:12.
    #[bits(52)]
    pub ctp: u64,
}

impl RootEntryHalf {
    /// The context table's address in bytes.
    #[must_use]
    pub const fn context_table(self) -> u64 {
        self.ctp() << 12
    }

    /// The reserved bits that are set, for a host address width of `haw` bits.
    #[must_use]
    pub const fn reserved_bits(self, haw: u8) -> u64 {
        self.into_bits() & (0xffe | address_reserved(haw))
    }
}

/// A legacy-mode root entry (VT-d 9.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RootEntry {
    /// Present and pointer.
    pub low: RootEntryHalf,
    /// Reserved.
    pub high: u64,
}

impl RootEntry {
    /// From the two 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        Self { low: RootEntryHalf::from_bits(words[0]), high: words[1] }
    }

    /// The two 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        [self.low.into_bits(), self.high]
    }

    /// Whether a reserved bit is set, for a host address width of `haw` bits.
    #[must_use]
    pub const fn has_reserved_bits(self, haw: u8) -> bool {
        self.low.reserved_bits(haw) != 0 || self.high != 0
    }
}

/// A scalable-mode root entry (VT-d 9.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ScalableRootEntry {
    /// LP and LCTP: devices 0 to 15.
    pub lower: RootEntryHalf,
    /// UP and UCTP: devices 16 to 31.
    pub upper: RootEntryHalf,
}

impl ScalableRootEntry {
    /// From the two 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        Self { lower: RootEntryHalf::from_bits(words[0]), upper: RootEntryHalf::from_bits(words[1]) }
    }

    /// The two 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        [self.lower.into_bits(), self.upper.into_bits()]
    }

    /// The half that serves a requester ID's device and function.
    #[must_use]
    pub const fn half(self, devfn: u8) -> RootEntryHalf {
        if devfn < 0x80 { self.lower } else { self.upper }
    }
}
