//! PASID directory and PASID table entries (VT-d 9.5, 9.6). PASID bits 19:6 index the directory (8 bytes an entry), bits
//! 5:0 the table (64 bytes an entry).

use bitfield_struct::bitfield;

use super::address_reserved;
use super::registers::{Cap, Ecap};

/// Bytes of one PASID directory entry.
pub const PASID_DIRECTORY_ENTRY_SIZE: u64 = 8;
/// Bytes of one PASID table entry.
pub const PASID_TABLE_ENTRY_SIZE: u64 = 64;

/// A PASID directory entry (VT-d 9.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PasidDirectoryEntry {
    /// Present.
    pub p: bool,
    /// Fault processing disable.
    pub fpd: bool,
    #[bits(10)]
    __: u16,
    /// PASID table pointer, bits 63:12.
    #[bits(52)]
    pub smptblptr: u64,
}

impl PasidDirectoryEntry {
    /// The PASID table's address in bytes.
    #[must_use]
    pub const fn pasid_table(self) -> u64 {
        self.smptblptr() << 12
    }

    /// Whether a reserved bit is set, for a host address width of `haw` bits.
    #[must_use]
    pub const fn has_reserved_bits(self, haw: u8) -> bool {
        self.into_bits() & (0xffc | address_reserved(haw)) != 0
    }
}

/// PASID granular translation type (VT-d 9.6, PGTT).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pgtt {
    /// First-stage translation only.
    FirstStage,
    /// Second-stage translation only.
    SecondStage,
    /// First-stage translation nested on second-stage.
    Nested,
    /// Pass-through.
    PassThrough,
    /// An encoding that the specification reserves.
    Reserved(u8),
}

impl Pgtt {
    const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0b001 => Self::FirstStage,
            0b010 => Self::SecondStage,
            0b011 => Self::Nested,
            0b100 => Self::PassThrough,
            other => Self::Reserved(other),
        }
    }

    const fn into_bits(self) -> u8 {
        match self {
            Self::FirstStage => 0b001,
            Self::SecondStage => 0b010,
            Self::Nested => 0b011,
            Self::PassThrough => 0b100,
            Self::Reserved(other) => other & 7,
        }
    }
}

/// First-stage paging mode (VT-d 9.6, FSPM).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Fspm {
    /// 4-level paging.
    Level4 = 0b00,
    /// 5-level paging.
    Level5 = 0b01,
    /// Reserved.
    Reserved2 = 0b10,
    /// Reserved.
    Reserved3 = 0b11,
}

impl Fspm {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0b00 => Self::Level4,
            0b01 => Self::Level5,
            0b10 => Self::Reserved2,
            _ => Self::Reserved3,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Bits 63:0 of a PASID table entry (VT-d 9.6).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PasidEntry0 {
    /// Present.
    pub p: bool,
    /// Fault processing disable.
    pub fpd: bool,
    /// Address width of the second stage, as in [`super::context::levels`].
    #[bits(3)]
    pub aw: u8,
    #[bits(1)]
    __: u8,
    /// Translation type.
    #[bits(3)]
    pub pgtt: Pgtt,
    /// Second-stage accessed and dirty enable.
    pub ssade: bool,
    #[bits(2)]
    __: u8,
    /// Second-stage page table pointer, bits 63:12.
    #[bits(52)]
    pub ssptptr: u64,
}

/// Bits 127:64 of a PASID table entry (VT-d 9.6).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PasidEntry1 {
    /// Domain ID.
    pub did: u16,
    #[bits(7)]
    __: u8,
    /// Page-walk snoop: table accesses snoop processor caches.
    pub pwsnp: bool,
    /// Page snoop: accesses to the pages snoop processor caches.
    pub pgsnp: bool,
    /// Cache disable.
    pub cd: bool,
    /// Extended memory type enable.
    pub emte: bool,
    #[bits(5)]
    __: u8,
    /// Page attribute table.
    pub pat: u32,
}

/// Bits 191:128 of a PASID table entry (VT-d 9.6).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PasidEntry2 {
    /// Supervisor request enable.
    pub sre: bool,
    #[bits(1)]
    __: u8,
    /// First-stage paging mode.
    #[bits(2)]
    pub fspm: Fspm,
    /// Write protect enable: supervisor writes obey read-only entries.
    pub wpe: bool,
    /// Ignored, for software written when these were NXE and SMEP.
    #[bits(2)]
    pub ign: u8,
    /// Extended accessed flag enable.
    pub eafe: bool,
    #[bits(4)]
    __: u8,
    /// First-stage page table pointer, bits 63:12.
    #[bits(52)]
    pub fsptptr: u64,
}

/// A PASID table entry (VT-d 9.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PasidEntry {
    /// Bits 63:0.
    pub word0: PasidEntry0,
    /// Bits 127:64.
    pub word1: PasidEntry1,
    /// Bits 191:128.
    pub word2: PasidEntry2,
    /// Bits 511:192, reserved.
    pub rest: [u64; 5],
}

impl PasidEntry {
    /// From the eight 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 8]) -> Self {
        Self {
            word0: PasidEntry0::from_bits(words[0]),
            word1: PasidEntry1::from_bits(words[1]),
            word2: PasidEntry2::from_bits(words[2]),
            rest: [words[3], words[4], words[5], words[6], words[7]],
        }
    }

    /// The eight 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 8] {
        let [r3, r4, r5, r6, r7] = self.rest;
        [self.word0.into_bits(), self.word1.into_bits(), self.word2.into_bits(), r3, r4, r5, r6, r7]
    }

    /// The second-stage root table's address in bytes.
    #[must_use]
    pub const fn second_stage_table(self) -> u64 {
        self.word0.ssptptr() << 12
    }

    /// The first-stage root table's address in bytes.
    #[must_use]
    pub const fn first_stage_table(self) -> u64 {
        self.word2.fsptptr() << 12
    }

    /// How many levels the second stage has, or `None` where `aw` is reserved.
    #[must_use]
    pub const fn second_stage_levels(self) -> Option<u8> {
        super::context::levels(self.word0.aw())
    }

    /// How many levels the first stage has, or `None` where `fspm` is reserved.
    #[must_use]
    pub const fn first_stage_levels(self) -> Option<u8> {
        match self.word2.fspm() {
            Fspm::Level4 => Some(4),
            Fspm::Level5 => Some(5),
            Fspm::Reserved2 | Fspm::Reserved3 => None,
        }
    }

    /// Whether a reserved bit is set: fixed ones, address bits above the host address width, domain ID bits that the
    /// hardware lacks, and fields of features that it does not report (VT-d 9.6). The first-stage pointer of a nested
    /// entry is a guest address, and is not held against the host address width.
    #[must_use]
    pub const fn has_reserved_bits(self, haw: u8, cap: Cap, ecap: Ecap) -> bool {
        let fsptptr_reserved =
            if matches!(self.word0.pgtt(), Pgtt::Nested) { 0 } else { address_reserved(haw) };
        let [r3, r4, r5, r6, r7] = self.rest;
        self.word0.into_bits() & (0xc20 | address_reserved(haw)) != 0
            || self.word1.into_bits() & 0xf87f_0000 != 0
            || self.word2.into_bits() & (0xf02 | fsptptr_reserved) != 0
            || (r3 | r4 | r5 | r6 | r7) != 0
            || self.word1.did() as u32 >= cap.domains()
            || (self.word0.ssade() && !ecap.ssads())
            || (self.word1.pwsnp() && !ecap.smpwcs())
            || (self.word1.pgsnp() && !ecap.sc())
            || ((self.word1.cd() || self.word1.emte() || self.word1.pat() != 0) && !ecap.mts())
            || (self.word2.sre() && !ecap.srs())
            || (self.word2.wpe() && !ecap.srs())
            || (self.word2.eafe() && !ecap.eafs())
    }
}
