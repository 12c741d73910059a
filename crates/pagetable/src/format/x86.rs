//! x86-64 paging with 4 and 5 levels: VT-d first stage (VT-d 3.6 First-Stage Translation, 9.7 First-Stage Paging Entries),
//! AMD-Vi guest tables (AMD I/O Virtualization 2.2.6), processors (SDM vol. 3, 4.5).
//!
//! Levels: 0 PTE, 1 PDE, 2 PDPTE, 3 PML4E, 4 PML5E. R/W, U/S and XD are intersected along the walk. Memory type: the
//! PAT index, from PWT (bit 0), PCD (bit 1) and PAT (bit 2); 0 is write-back in the PAT's reset value.

use super::{
    Attributes, Entry, Extension, Flags, Format, Inexpressible, Invalid, Leaf, Rights, TableEntry, bits,
};
use portcullis_spec::Shareability;

const P: u64 = 1;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const PAT_4K: u64 = 1 << 7;
const G: u64 = 1 << 8;
const EA: u64 = 1 << 10;
const PAT_LARGE: u64 = 1 << 12;
const ADDR: u64 = bits(51, 12);
const XD: u64 = 1 << 63;
const PAGE_4K: u64 = 1 << 12;
const PAGE_2M: u64 = 1 << 21;
const PAGE_1G: u64 = 1 << 30;

/// x86-64 paging.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct X86 {
    /// 4 or 5 (5 with CAP.FS5LP and FSPM 1 on VT-d, GLX on AMD).
    pub levels: u8,
    /// 1 GiB pages exist (CAP.FS1GP). PS is reserved in a PDPTE otherwise.
    pub pages_1g: bool,
    /// XD exists (NXE of the PASID entry on VT-d, always on AMD). Reserved otherwise.
    pub execute_disable: bool,
    /// EA, bit 10, is kept by the unit (EAFE of the PASID entry on VT-d). Ignored otherwise.
    pub extended_accessed: bool,
    /// Input must be canonical. Otherwise its bits above the input size must be zero, as some AMD units want for requests
    /// without PASID.
    pub canonical: bool,
    /// Physical address width (HAW), 12 to 52: address bits from here to 51 are reserved.
    pub host_bits: u8,
}

impl X86 {
    /// Canonical, with 1 GiB pages, XD and 52 address bits, and without EA.
    #[must_use]
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            pages_1g: true,
            execute_disable: true,
            extended_accessed: false,
            canonical: true,
            host_bits: 52,
        }
    }

    #[inline]
    fn rights(&self, raw: u64) -> Rights {
        let mut rights = Rights::READ;
        rights.set(Rights::WRITE, raw & RW != 0);
        rights.set(Rights::USER, raw & US != 0);
        rights.set(Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE, raw & XD == 0);
        rights
    }

    #[inline]
    fn flags(&self, raw: u64) -> Flags {
        let mut flags = Flags::empty();
        flags.set(Flags::ACCESSED, raw & A != 0);
        flags.set(Flags::DIRTY, raw & D != 0);
        flags.set(Flags::GLOBAL, raw & G != 0);
        flags.set(Flags::EXTENDED_ACCESSED, self.extended_accessed && raw & EA != 0);
        flags
    }

    /// `raw`, a present entry, with EA set (VT-d 3.6.3); unchanged where the unit doesn't keep it.
    #[inline]
    #[must_use]
    pub fn with_extended_accessed(&self, raw: u64) -> u64 {
        if self.extended_accessed { raw | EA } else { raw }
    }
}

impl Format for X86 {
    #[inline]
    fn levels(&self) -> u8 {
        self.levels
    }

    #[inline]
    fn input_bits(&self) -> u8 {
        12 + 9 * self.levels
    }

    #[inline]
    fn extension(&self) -> Extension {
        if self.canonical { Extension::Sign } else { Extension::Zero }
    }

    #[inline]
    fn output_bits(&self) -> u8 {
        self.host_bits
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        if self.pages_1g { PAGE_4K | PAGE_2M | PAGE_1G } else { PAGE_4K | PAGE_2M }
    }

    /// 9.7: a leaf is any PTE, or a PDE or PDPTE with PS. Bits 62:52 are ignored. PS above level 2, bits of a large page
    /// between PAT and its address, address bits above HAW, and XD where it doesn't exist are reserved.
    #[inline(always)]
    fn decode(&self, level: u8, raw: u64) -> Entry {
        if raw & P == 0 {
            return Entry::Empty;
        }
        let mut reserved = bits(51, 12) & !(u64::MAX >> (64 - self.host_bits));
        if !self.execute_disable {
            reserved |= XD;
        }
        if level != 0 && raw & (PS | reserved) == 0 {
            let flags = self.flags(raw) & (Flags::ACCESSED | Flags::EXTENDED_ACCESSED);
            return Entry::Table(TableEntry {
                address: raw & ADDR,
                level: level - 1,
                rights: self.rights(raw),
                flags,
            });
        }
        let shift = 12 + 9 * level;
        let large = level != 0;
        if large {
            if raw & PS == 0 || level > 2 || level == 2 && !self.pages_1g {
                return Entry::Invalid(Invalid::Reserved);
            }
            reserved |= bits(51, 13) & !(u64::MAX << shift);
        }
        if raw & reserved != 0 {
            return Entry::Invalid(Invalid::Reserved);
        }
        let pat = raw & if large { PAT_LARGE } else { PAT_4K } != 0;
        let attributes = Attributes {
            rights: self.rights(raw),
            flags: self.flags(raw),
            memory_type: ((raw & (PWT | PCD)) >> 3) as u8 | u8::from(pat) << 2,
            shareability: Shareability::Default,
            force_snoop: false,
        };
        Entry::Leaf(Leaf { address: raw & ADDR & (u64::MAX << shift), shift, run_shift: shift, attributes })
    }

    /// Marked accessed, so that no unit needs to write it.
    #[inline]
    fn encode_table(&self, _level: u8, address: u64) -> u64 {
        address | P | RW | US | A
    }

    #[inline]
    fn encode_leaf(&self, level: u8, _shift: u8, address: u64, attributes: &Attributes) -> u64 {
        let Attributes { rights, flags, memory_type, .. } = *attributes;
        let mut raw = address | P | u64::from(memory_type & 3) << 3;
        if level != 0 {
            raw |= PS;
        }
        if memory_type & 4 != 0 {
            raw |= if level != 0 { PAT_LARGE } else { PAT_4K };
        }
        if rights.contains(Rights::WRITE) {
            raw |= RW;
        }
        if rights.contains(Rights::USER) {
            raw |= US;
        }
        if self.execute_disable && !rights.contains(Rights::EXECUTE) {
            raw |= XD;
        }
        if flags.contains(Flags::ACCESSED) {
            raw |= A;
        }
        if flags.contains(Flags::DIRTY) {
            raw |= D;
        }
        if flags.contains(Flags::GLOBAL) {
            raw |= G;
        }
        if self.extended_accessed && flags.contains(Flags::EXTENDED_ACCESSED) {
            raw |= EA;
        }
        raw
    }

    /// Every page is readable, and fetches are permitted or not to both privileges. Without XD every page executes, so
    /// that the absence of the execute rights is only a promise that nobody checks.
    #[inline]
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        let rights = attributes.rights;
        let fits = rights.contains(Rights::READ)
            && rights.contains(Rights::EXECUTE) == rights.contains(Rights::PRIVILEGED_EXECUTE)
            && attributes.memory_type < 8
            && attributes.shareability == Shareability::Default
            && !attributes.force_snoop;
        if fits { Ok(()) } else { Err(Inexpressible) }
    }

    #[inline]
    fn with_accessed(&self, _level: u8, raw: u64) -> u64 {
        raw | A
    }

    #[inline]
    fn with_dirty(&self, _level: u8, raw: u64) -> u64 {
        raw | D
    }

    #[inline]
    fn without_dirty(&self, _level: u8, raw: u64) -> u64 {
        raw & !D
    }
}
