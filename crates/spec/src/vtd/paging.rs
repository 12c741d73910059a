//! Paging entries (VT-d 9.7 first stage, 9.8 second stage). Levels here: 0 PTE, 1 PDE, 2 PDPTE, 3 PML4E, 4 PML5E. Tables
//! are 4 KiB, 512 entries of 8 bytes, at every level of both stages.

use bitfield_struct::bitfield;

use super::address_reserved;

/// A first-stage paging entry of any level (VT-d 9.7).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct FirstStageEntry {
    /// Present.
    pub p: bool,
    /// Writable.
    pub rw: bool,
    /// User accessible.
    pub us: bool,
    /// Page-level write-through.
    pub pwt: bool,
    /// Page-level cache disable.
    pub pcd: bool,
    /// Accessed.
    pub a: bool,
    /// Dirty, in a leaf.
    pub d: bool,
    /// Page size at levels 1 and 2 (a leaf); PAT at level 0; reserved above.
    pub ps: bool,
    /// Global, in a leaf.
    pub g: bool,
    /// Ignored.
    #[bits(1)]
    pub ign9: u8,
    /// Extended accessed.
    pub ea: bool,
    /// Ignored.
    #[bits(1)]
    pub ign11: u8,
    /// Address bits 51:12. In a large leaf bit 12 is PAT, and the bits between it and the page's size are reserved.
    #[bits(40)]
    pub addr: u64,
    /// Ignored.
    #[bits(11)]
    pub ign52: u16,
    /// Execute disable.
    pub xd: bool,
}

impl FirstStageEntry {
    /// Address in bytes of the next table, or of a 4 KiB page.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.addr() << 12
    }

    /// Whether the entry is a leaf at `level`: any at level 0; with PS at levels 1 and 2.
    #[must_use]
    pub const fn is_leaf(self, level: u8) -> bool {
        level == 0 || (self.ps() && level <= 2)
    }

    /// The reserved bits that are set in a present entry at `level`, for a host address width of `haw` bits.
    #[must_use]
    pub const fn reserved_bits(self, level: u8, haw: u8) -> u64 {
        let fixed = match (level, self.ps()) {
            (1, true) => 0x1f_e000,
            (2, true) => 0x3fff_e000,
            (0..=2, _) => 0,
            (_, _) => 0x80,
        };
        self.into_bits() & (fixed | (address_reserved(haw) & 0x000f_ffff_ffff_f000))
    }
}

/// A second-stage paging entry of any level (VT-d 9.8).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct SecondStageEntry {
    /// Readable.
    pub r: bool,
    /// Writable.
    pub w: bool,
    /// Ignored (execute until revision 4).
    #[bits(1)]
    pub ign2: u8,
    /// Extended memory type, in a leaf; ignored elsewhere.
    #[bits(3)]
    pub emt: u8,
    /// Ignore PAT, in a leaf; ignored elsewhere.
    pub ipat: bool,
    /// Page size at levels 1 and 2 (a leaf); ignored at level 0; reserved above.
    pub ps: bool,
    /// Accessed, where SSADE is on; ignored otherwise.
    pub a: bool,
    /// Dirty, in a leaf where SSADE is on; ignored otherwise.
    pub d: bool,
    /// Ignored.
    #[bits(1)]
    pub ign10: u8,
    /// Snoop, in a leaf where ECAP.SC is reported; reserved elsewhere.
    pub snp: bool,
    /// Address bits 51:12.
    #[bits(40)]
    pub addr: u64,
    /// Ignored.
    #[bits(10)]
    pub ign52: u16,
    /// Transient mapping until revision 3.2, in a leaf of hardware with device-TLBs; reserved since.
    pub tm: bool,
    /// Ignored.
    #[bits(1)]
    pub ign63: u8,
}

impl SecondStageEntry {
    /// Address in bytes of the next table, or of a 4 KiB page.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.addr() << 12
    }

    /// Whether the entry is a leaf at `level`: any at level 0; with PS at levels 1 and 2.
    #[must_use]
    pub const fn is_leaf(self, level: u8) -> bool {
        level == 0 || (self.ps() && level <= 2)
    }

    /// Whether the entry counts as present: R or W.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.r() || self.w()
    }

    /// The reserved bits that are set in a present entry at `level`, for a host address width of `haw` bits;
    /// `large_pages` is CAP.SSLPS and `snoop_control` ECAP.SC.
    #[must_use]
    pub const fn reserved_bits(self, level: u8, haw: u8, large_pages: u8, snoop_control: bool) -> u64 {
        let fixed = match (level, self.ps()) {
            (1, true) if large_pages & 1 == 0 => 0x80,
            (2, true) if large_pages & 2 == 0 => 0x80,
            (1, true) => 0x1f_f000,
            (2, true) => 0x3fff_f000,
            (0..=2, _) => 0,
            (_, _) => 0x80,
        };
        let snoop = if snoop_control && self.is_leaf(level) { 0 } else { 0x800 };
        self.into_bits() & (fixed | snoop | 1 << 62 | (address_reserved(haw) & 0x000f_ffff_ffff_f000))
    }
}
