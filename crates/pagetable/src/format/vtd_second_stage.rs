//! VT-d second stage (VT-d 3.7 Second-Stage Translation, 9.8 Second-Stage Paging Entries).
//!
//! Levels: 0 SS-PTE, 1 SS-PDE, 2 SS-PDPTE, 3 SS-PML4E, 4 SS-PML5E. There is no present bit: an entry with R and W clear is
//! not present. R and W are intersected along the walk. Memory type: EMT in bits 2:0 and IPAT in bit 3.

use super::{
    Attributes, Entry, Extension, Flags, Format, Inexpressible, Invalid, Leaf, Rights, TableEntry, bits,
};
use portcullis_spec::Shareability;

const R: u64 = 1;
const W: u64 = 1 << 1;
const EMT_IPAT: u64 = bits(6, 3);
const PS: u64 = 1 << 7;
const A: u64 = 1 << 8;
const D: u64 = 1 << 9;
const SNP: u64 = 1 << 11;
const ADDR: u64 = bits(51, 12);
const TM: u64 = 1 << 62;
const PAGE_4K: u64 = 1 << 12;
const PAGE_2M: u64 = 1 << 21;
const PAGE_1G: u64 = 1 << 30;

/// VT-d second stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VtdSecondStage {
    /// 3, 4 or 5 (CAP.SAGAW; AW of the context or PASID entry, less 2).
    pub levels: u8,
    /// 2 MiB pages exist (CAP.SSLPS bit 0). PS is reserved in an SS-PDE otherwise.
    pub pages_2m: bool,
    /// 1 GiB pages exist (CAP.SSLPS bit 1). PS is reserved in an SS-PDPTE otherwise.
    pub pages_1g: bool,
    /// SNP exists in leaves (ECAP.SC, or scalable mode). Reserved otherwise.
    pub snoop: bool,
    /// TM, bit 62, exists in leaves (ECAP.DT in old revisions, for Device-TLBs). Reserved otherwise.
    pub transient: bool,
    /// A and D are kept by the unit (SSADE with ECAP.SSADS). Ignored bits otherwise.
    pub accessed_dirty: bool,
    /// Host address width (HAW), 12 to 52: address bits from here to 51 are reserved.
    pub host_bits: u8,
}

impl VtdSecondStage {
    /// With every page size, snoop control and 52 address bits, and without TM, A and D.
    #[must_use]
    pub const fn new(levels: u8) -> Self {
        Self {
            levels,
            pages_2m: true,
            pages_1g: true,
            snoop: true,
            transient: false,
            accessed_dirty: false,
            host_bits: 52,
        }
    }

    fn flags(&self, raw: u64) -> Flags {
        let mut flags = Flags::empty();
        if self.accessed_dirty {
            flags.set(Flags::ACCESSED, raw & A != 0);
            flags.set(Flags::DIRTY, raw & D != 0);
        }
        flags
    }
}

/// An instruction fetch needs what a read needs: the second stage has no execute bit.
#[inline]
fn rights(raw: u64) -> Rights {
    // Without a branch, for every entry of every walk comes by here: R and W lie where the rights have them.
    const _: () = assert!(R == Rights::READ.bits() as u64 && W == Rights::WRITE.bits() as u64);
    const FETCH: u64 = Rights::EXECUTE.union(Rights::PRIVILEGED_EXECUTE).bits() as u64;
    let bits = Rights::USER.bits() as u64 | (raw & (R | W)) | ((raw & R) * FETCH);
    Rights::from_bits_truncate(bits as u8)
}

impl Format for VtdSecondStage {
    #[inline]
    fn levels(&self) -> u8 {
        self.levels
    }

    /// 3.7: adjusted guest address widths of 39, 48 and 57 bits.
    #[inline]
    fn input_bits(&self) -> u8 {
        12 + 9 * self.levels
    }

    #[inline]
    fn extension(&self) -> Extension {
        Extension::Zero
    }

    #[inline]
    fn output_bits(&self) -> u8 {
        self.host_bits
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        let mut sizes = PAGE_4K;
        if self.pages_2m {
            sizes |= PAGE_2M;
        }
        if self.pages_1g {
            sizes |= PAGE_1G;
        }
        sizes
    }

    /// 9.8: a leaf is any SS-PTE, or an SS-PDE or SS-PDPTE with PS. Bits 63 and 61:52 are ignored, and so are 10:2 where
    /// they have no meaning; SNP in a table entry, PS above level 2, and address bits above HAW are reserved.
    #[inline(always)]
    fn decode(&self, level: u8, raw: u64) -> Entry {
        if raw & (R | W) == 0 {
            return Entry::Empty;
        }
        let beyond = bits(51, 12) & !(u64::MAX >> (64 - self.host_bits));
        if level != 0 && raw & (PS | SNP | TM | beyond) == 0 {
            let flags = self.flags(raw) & Flags::ACCESSED;
            return Entry::Table(TableEntry {
                address: raw & ADDR,
                level: level - 1,
                rights: rights(raw),
                flags,
            });
        }
        let shift = 12 + 9 * level;
        let mut reserved = beyond;
        if level != 0 {
            if raw & PS == 0 || level > 2 || self.page_sizes() & (1 << shift) == 0 {
                return Entry::Invalid(Invalid::Reserved);
            }
            reserved |= bits(51, 12) & !(u64::MAX << shift);
        }
        if !self.snoop {
            reserved |= SNP;
        }
        if !self.transient {
            reserved |= TM;
        }
        if raw & reserved != 0 {
            return Entry::Invalid(Invalid::Reserved);
        }
        let attributes = Attributes {
            rights: rights(raw),
            flags: self.flags(raw),
            memory_type: ((raw & EMT_IPAT) >> 3) as u8,
            shareability: Shareability::Default,
            force_snoop: raw & SNP != 0,
        };
        Entry::Leaf(Leaf { address: raw & ADDR, shift, run_shift: shift, attributes })
    }

    #[inline]
    fn encode_table(&self, _level: u8, address: u64) -> u64 {
        address | R | W
    }

    #[inline]
    fn encode_leaf(&self, level: u8, _shift: u8, address: u64, attributes: &Attributes) -> u64 {
        let mut raw = address | u64::from(attributes.memory_type) << 3;
        if attributes.rights.contains(Rights::READ) {
            raw |= R;
        }
        if attributes.rights.contains(Rights::WRITE) {
            raw |= W;
        }
        if level != 0 {
            raw |= PS;
        }
        if attributes.force_snoop {
            raw |= SNP;
        }
        if self.accessed_dirty {
            if attributes.flags.contains(Flags::ACCESSED) {
                raw |= A;
            }
            if attributes.flags.contains(Flags::DIRTY) {
                raw |= D;
            }
        }
        raw
    }

    /// Without R and W the entry would not be present. Execute rights follow from R.
    #[inline]
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        let rights = attributes.rights;
        let fits = rights.intersects(Rights::READ | Rights::WRITE)
            && rights.contains(Rights::USER)
            && attributes.memory_type < 16
            && attributes.shareability == Shareability::Default
            && (self.snoop || !attributes.force_snoop);
        if fits { Ok(()) } else { Err(Inexpressible) }
    }

    #[inline]
    fn with_accessed(&self, _level: u8, raw: u64) -> u64 {
        if self.accessed_dirty { raw | A } else { raw }
    }

    #[inline]
    fn with_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.accessed_dirty { raw | D } else { raw }
    }

    #[inline]
    fn without_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.accessed_dirty { raw & !D } else { raw }
    }
}
