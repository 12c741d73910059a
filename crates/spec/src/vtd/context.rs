//! Context entries (VT-d 9.3, 9.4). A legacy context table is 256 entries of 16 bytes, indexed by device and function;
//! a scalable one is 128 entries of 32 bytes, indexed by the low 7 bits of device and function.

use bitfield_struct::bitfield;

use super::address_reserved;
use super::registers::{Cap, Ecap};

/// Bytes of one legacy-mode context entry.
pub const CONTEXT_ENTRY_SIZE: u64 = 16;
/// Bytes of one scalable-mode context entry.
pub const SCALABLE_CONTEXT_ENTRY_SIZE: u64 = 32;

/// Translation type of a legacy-mode context entry (VT-d 9.3, TT).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TranslationType {
    /// Untranslated requests go through second-stage tables; ATS requests are blocked.
    Untranslated = 0b00,
    /// As above, and ATS requests are allowed.
    WithDeviceTlb = 0b01,
    /// Untranslated requests pass unchanged; ATS requests are blocked.
    PassThrough = 0b10,
    /// Reserved.
    Reserved = 0b11,
}

impl TranslationType {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0b00 => Self::Untranslated,
            0b01 => Self::WithDeviceTlb,
            0b10 => Self::PassThrough,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Low half of a legacy-mode context entry (VT-d 9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct ContextEntryLow {
    /// Present.
    pub p: bool,
    /// Fault processing disable.
    pub fpd: bool,
    /// Translation type.
    #[bits(2)]
    pub tt: TranslationType,
    #[bits(8)]
    __: u8,
    /// Second-stage page table pointer, bits 63:12.
    #[bits(52)]
    pub ssptptr: u64,
}

/// High half of a legacy-mode context entry (VT-d 9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct ContextEntryHigh {
    /// Address width: 1 is 39 bits (3 levels), 2 is 48 (4), 3 is 57 (5).
    #[bits(3)]
    pub aw: u8,
    /// Available to software.
    #[bits(4)]
    pub ign: u8,
    #[bits(1)]
    __: u8,
    /// Domain ID.
    pub did: u16,
    #[bits(40)]
    __: u64,
}

/// A legacy-mode context entry (VT-d 9.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ContextEntry {
    /// Bits 63:0.
    pub low: ContextEntryLow,
    /// Bits 127:64.
    pub high: ContextEntryHigh,
}

impl ContextEntry {
    /// From the two 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        Self { low: ContextEntryLow::from_bits(words[0]), high: ContextEntryHigh::from_bits(words[1]) }
    }

    /// The two 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        [self.low.into_bits(), self.high.into_bits()]
    }

    /// The second-stage root table's address in bytes.
    #[must_use]
    pub const fn second_stage_table(self) -> u64 {
        self.low.ssptptr() << 12
    }

    /// How many levels `aw` selects, or `None` where it is reserved.
    #[must_use]
    pub const fn levels(self) -> Option<u8> {
        levels(self.high.aw())
    }

    /// Whether a reserved bit is set: fixed ones, address bits above the host address width, and domain ID bits that
    /// the hardware lacks (VT-d 9.3, DID).
    #[must_use]
    pub const fn has_reserved_bits(self, haw: u8, cap: Cap) -> bool {
        self.low.into_bits() & (0xff0 | address_reserved(haw)) != 0
            || self.high.into_bits() & 0xffff_ffff_ff00_0080 != 0
            || self.high.did() as u32 >= cap.domains()
    }
}

/// How many levels an address width field selects (VT-d 9.3, AW), or `None` where it is reserved.
#[must_use]
pub const fn levels(aw: u8) -> Option<u8> {
    match aw {
        1..=3 => Some(aw + 2),
        _ => None,
    }
}

/// The address width field for tables of `levels` levels, or `None` where there is none.
#[must_use]
pub const fn address_width(levels: u8) -> Option<u8> {
    match levels {
        3..=5 => Some(levels - 2),
        _ => None,
    }
}

/// Bits 63:0 of a scalable-mode context entry (VT-d 9.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct ScalableContextEntryLow {
    /// Present.
    pub p: bool,
    /// Fault processing disable.
    pub fpd: bool,
    /// Device-TLB enable.
    pub dte: bool,
    /// PASID enable: requests with PASID are allowed.
    pub paside: bool,
    /// Page request enable.
    pub pre: bool,
    #[bits(4)]
    __: u8,
    /// PASID directory size: `2^(pdts+7)` entries.
    #[bits(3)]
    pub pdts: u8,
    /// PASID directory pointer, bits 63:12.
    #[bits(52)]
    pub pasiddirptr: u64,
}

/// Bits 127:64 of a scalable-mode context entry (VT-d 9.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct ScalableContextEntryHigh {
    /// The PASID under which requests without PASID are handled.
    #[bits(20)]
    pub rid_pasid: u32,
    /// Whether requests without PASID count as privileged.
    pub rid_priv: bool,
    #[bits(43)]
    __: u64,
}

/// A scalable-mode context entry (VT-d 9.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ScalableContextEntry {
    /// Bits 63:0.
    pub low: ScalableContextEntryLow,
    /// Bits 127:64.
    pub high: ScalableContextEntryHigh,
    /// Bits 255:128, reserved.
    pub rest: [u64; 2],
}

impl ScalableContextEntry {
    /// From the four 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 4]) -> Self {
        Self {
            low: ScalableContextEntryLow::from_bits(words[0]),
            high: ScalableContextEntryHigh::from_bits(words[1]),
            rest: [words[2], words[3]],
        }
    }

    /// The four 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 4] {
        [self.low.into_bits(), self.high.into_bits(), self.rest[0], self.rest[1]]
    }

    /// The PASID directory's address in bytes.
    #[must_use]
    pub const fn pasid_directory(self) -> u64 {
        self.low.pasiddirptr() << 12
    }

    /// How many PASIDs the directory reaches: 64 for each of its `2^(pdts+7)` entries.
    #[must_use]
    pub const fn pasids(self) -> u32 {
        64 << (self.low.pdts() + 7)
    }

    /// Whether a reserved bit is set: fixed ones, address bits above the host address width, and fields of features
    /// that the hardware does not report (VT-d 9.4).
    #[must_use]
    pub const fn has_reserved_bits(self, haw: u8, ecap: Ecap) -> bool {
        self.low.into_bits() & (0x1e0 | address_reserved(haw)) != 0
            || self.high.into_bits() & 0xffff_ffff_ffe0_0000 != 0
            || self.rest[0] != 0
            || self.rest[1] != 0
            || (self.low.dte() && !ecap.dt())
            || (self.low.paside() && !ecap.pasid())
            || (self.low.pre() && !ecap.prs())
            || (self.high.rid_pasid() != 0 && !ecap.rps())
            || (self.high.rid_priv() && !ecap.rprivs())
    }
}
