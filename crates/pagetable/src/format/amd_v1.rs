//! AMD-Vi host tables, "v1" (AMD I/O Virtualization 2.2.3 I/O Page Tables for Host Translations).
//!
//! Levels: AMD's level 1 is level 0 here, and a table of mode *n* has *n* levels. An entry names the level of what it leads to: a table
//! entry may skip levels, whose input bits must then be zero; 0 is a leaf of its level's span; 7 is a leaf whose size is coded
//! in its address: the lowest address bit that is clear is half of it. Such a leaf stands in every entry that the page covers. IR and IW are
//! intersected along the walk. There is no memory type, no privilege, and no execute bit: what may be read may be executed.

use super::{
    Attributes, Entry, Extension, Flags, Format, Inexpressible, Invalid, Leaf, Rights, TableEntry, bits,
};
use portcullis_spec::Shareability;

const PR: u64 = 1;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const NEXT_LEVEL: u64 = bits(11, 9);
const NEXT_LEVEL_AT: u32 = 9;
const PAGE_OF_SPAN: u64 = 0;
const PAGE_OF_CODED_SIZE: u64 = 7;
const ADDRESS: u64 = bits(51, 12);
const U: u64 = 1 << 59;
const FC: u64 = 1 << 60;
const IR: u64 = 1 << 61;
const IW: u64 = 1 << 62;
/// 2.2.3, figures of PDE and PTE: U and FC are reserved in a PDE.
const RESERVED_PTE: u64 = bits(58, 52);
const RESERVED_PDE: u64 = bits(60, 52);
/// 2.2.3, table of level parameters: a table of level 6 holds no leaves.
const LEVEL_WITHOUT_LEAVES: u8 = 5;

/// AMD-Vi host tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AmdV1 {
    /// Mode of the device table entry, 1 to 6: the number of levels.
    pub mode: u8,
    /// A and D are kept by the unit (HAD of the device table entry). Ignored bits otherwise.
    pub accessed_dirty: bool,
    /// Physical address width, 32 to 52 (PASize). Addresses with higher bits are refused.
    pub host_bits: u8,
}

impl AmdV1 {
    /// With 52 address bits, without A and D.
    #[must_use]
    pub const fn new(mode: u8) -> Self {
        Self { mode, accessed_dirty: false, host_bits: 52 }
    }

    #[inline]
    fn flags(&self, raw: u64) -> Flags {
        let mut flags = Flags::empty();
        if self.accessed_dirty {
            flags.set(Flags::ACCESSED, raw & A != 0);
            flags.set(Flags::DIRTY, raw & D != 0);
        }
        flags
    }

    #[inline]
    fn beyond(&self, address: u64) -> bool {
        address & !(u64::MAX >> (64 - self.host_bits)) != 0
    }

    #[inline(always)]
    fn leaf(&self, level: u8, raw: u64, coded: bool) -> Entry {
        if raw & RESERVED_PTE != 0 {
            return Entry::Invalid(Invalid::Reserved);
        }
        if level == LEVEL_WITHOUT_LEAVES {
            return Entry::Invalid(Invalid::PageSize);
        }
        let span = 12 + 9 * level;
        let mut shift = span;
        let mut address = raw & ADDRESS;
        if coded {
            // The size is larger than the span, or it would have been coded as 0, and does not reach the next level's.
            shift = (raw | !ADDRESS).trailing_ones() as u8 + 1;
            if shift <= span || shift >= span + 9 {
                return Entry::Invalid(Invalid::PageSize);
            }
            address &= u64::MAX << shift;
        } else if address & ((1 << shift) - 1) != 0 {
            return Entry::Invalid(Invalid::Misaligned);
        }
        if self.beyond(address) {
            return Entry::Invalid(Invalid::OutputSize);
        }
        let mut flags = self.flags(raw);
        flags.set(Flags::UNTRANSLATED_ONLY, raw & U != 0);
        let attributes = Attributes {
            rights: rights(raw),
            flags,
            memory_type: 0,
            shareability: Shareability::Default,
            force_snoop: raw & FC != 0,
        };
        Entry::Leaf(Leaf { address, shift, run_shift: shift, attributes })
    }
}

#[inline]
fn rights(raw: u64) -> Rights {
    let mut rights = Rights::USER;
    if raw & IR != 0 {
        rights |= Rights::READ | Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
    }
    rights.set(Rights::WRITE, raw & IW != 0);
    rights
}

impl Format for AmdV1 {
    #[inline]
    fn levels(&self) -> u8 {
        self.mode
    }

    /// Mode 6 would reach beyond 64 bits: its root has 128 entries in use.
    #[inline]
    fn input_bits(&self) -> u8 {
        (12 + 9 * self.mode).min(64)
    }

    #[inline]
    fn extension(&self) -> Extension {
        Extension::Zero
    }

    #[inline]
    fn output_bits(&self) -> u8 {
        self.host_bits
    }

    /// Every power of two up to 256 GiB. Larger pages are read but not written: 512 GiB, to which they would have to be split,
    /// is not safe on all hardware.
    #[inline]
    fn page_sizes(&self) -> u64 {
        bits(38.min(self.input_bits() - 1), 12)
    }

    #[inline(always)]
    fn decode(&self, level: u8, raw: u64) -> Entry {
        if raw & PR == 0 {
            return Entry::Empty;
        }
        match (raw & NEXT_LEVEL) >> NEXT_LEVEL_AT {
            PAGE_OF_SPAN => self.leaf(level, raw, false),
            PAGE_OF_CODED_SIZE => self.leaf(level, raw, true),
            next if next > u64::from(level) => Entry::Invalid(Invalid::NextLevel),
            _ if raw & RESERVED_PDE != 0 => Entry::Invalid(Invalid::Reserved),
            _ if self.beyond(raw & ADDRESS) => Entry::Invalid(Invalid::OutputSize),
            next => Entry::Table(TableEntry {
                address: raw & ADDRESS,
                level: next as u8 - 1,
                rights: rights(raw),
                flags: self.flags(raw) & Flags::ACCESSED,
            }),
        }
    }

    #[inline]
    fn encode_table(&self, level: u8, address: u64) -> u64 {
        address | u64::from(level) << NEXT_LEVEL_AT | PR | IR | IW
    }

    #[inline]
    fn encode_leaf(&self, level: u8, shift: u8, address: u64, attributes: &Attributes) -> u64 {
        let size = 1u64 << shift;
        let mut raw = PR | (address & !(size - 1));
        if shift != 12 + 9 * level {
            raw |= PAGE_OF_CODED_SIZE << NEXT_LEVEL_AT | ((size / 2 - 1) & ADDRESS);
        }
        if attributes.rights.contains(Rights::READ) {
            raw |= IR;
        }
        if attributes.rights.contains(Rights::WRITE) {
            raw |= IW;
        }
        if attributes.force_snoop {
            raw |= FC;
        }
        if attributes.flags.contains(Flags::UNTRANSLATED_ONLY) {
            raw |= U;
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

    #[inline]
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        let fits = attributes.rights.contains(Rights::USER)
            && attributes.memory_type == 0
            && attributes.shareability == Shareability::Default;
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
