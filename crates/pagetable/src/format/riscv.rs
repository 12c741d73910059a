//! RISC-V Sv39, Sv48, Sv57 (Privileged Architecture, "Sv39" and following), with Svnapot and Svpbmt, and the second-stage
//! forms Sv39x4, Sv48x4, Sv57x4 ("Two-Stage Address Translation"), whose root is four times as large.
//!
//! Levels are the specification's *i*. A present entry with R, W and X clear leads to a table; tables limit nothing. Memory type: PBMT,
//! 0 PMA, 1 NC, 2 IO.

use super::{
    Attributes, Entry, Extension, Flags, Format, Inexpressible, Invalid, Leaf, Rights, TableEntry, bits,
};
use portcullis_spec::Shareability;

const V: u64 = 1;
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
const U: u64 = 1 << 4;
const G: u64 = 1 << 5;
const A: u64 = 1 << 6;
const D: u64 = 1 << 7;
const PPN: u64 = bits(53, 10);
const PPN_AT: u32 = 10;
const RESERVED: u64 = bits(60, 54);
const PBMT: u64 = bits(62, 61);
const PBMT_AT: u32 = 61;
const N: u64 = 1 << 63;
/// Svnapot, table of encodings: with N, the low four bits of the PPN must be 1000, for 64 KiB.
const NAPOT_64K: u64 = 0b1000 << PPN_AT;
const NAPOT_BITS: u64 = 0b1111 << PPN_AT;
const NAPOT_SHIFT: u8 = 16;

/// RISC-V Sv39, Sv48, Sv57, or their second-stage forms.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Riscv {
    /// 3 for Sv39, 4 for Sv48, 5 for Sv57.
    pub levels: u8,
    /// The second-stage form: two more input bits, zero-extended. All of its accesses count as unprivileged, so that every page
    /// needs U; G is ignored.
    pub x4: bool,
    /// Svnapot: pages of 64 KiB. N is reserved otherwise.
    pub svnapot: bool,
    /// Svpbmt: page-based memory types (capabilities.Svpbmt). PBMT is reserved otherwise.
    pub svpbmt: bool,
    /// Physical address size, 32 to 56 (capabilities.PAS). Addresses with higher bits are refused.
    pub host_bits: u8,
}

impl Riscv {
    /// Sv39, Sv48 or Sv57 with Svnapot, Svpbmt and 56 address bits.
    #[must_use]
    pub const fn new(levels: u8) -> Self {
        Self { levels, x4: false, svnapot: true, svpbmt: true, host_bits: 56 }
    }

    /// The same for Sv39x4, Sv48x4 or Sv57x4.
    #[must_use]
    pub const fn new_x4(levels: u8) -> Self {
        Self { x4: true, ..Self::new(levels) }
    }

    #[inline]
    fn beyond(&self, address: u64) -> bool {
        address & !(u64::MAX >> (64 - self.host_bits)) != 0
    }
}

impl Format for Riscv {
    #[inline]
    fn levels(&self) -> u8 {
        self.levels
    }

    #[inline]
    fn input_bits(&self) -> u8 {
        12 + 9 * self.levels + if self.x4 { 2 } else { 0 }
    }

    #[inline]
    fn extension(&self) -> Extension {
        if self.x4 { Extension::Zero } else { Extension::Sign }
    }

    #[inline]
    fn output_bits(&self) -> u8 {
        self.host_bits
    }

    /// A leaf may stand at any level.
    #[inline]
    fn page_sizes(&self) -> u64 {
        let mut sizes = 0;
        for level in 0..self.levels {
            sizes |= 1 << (12 + 9 * level);
        }
        if self.svnapot {
            sizes |= 1 << NAPOT_SHIFT;
        }
        sizes
    }

    /// "Virtual Address Translation Process", steps 3 to 6.
    #[inline(always)]
    fn decode(&self, level: u8, raw: u64) -> Entry {
        if raw & V == 0 {
            return Entry::Empty;
        }
        if raw & (R | W) == W {
            return Entry::Invalid(Invalid::Permissions);
        }
        let mut reserved = RESERVED;
        if !self.svnapot || level != 0 {
            reserved |= N;
        }
        if !self.svpbmt {
            reserved |= PBMT;
        }
        if raw & reserved != 0 || raw & PBMT == PBMT {
            return Entry::Invalid(Invalid::Reserved);
        }
        let mut address = ((raw & PPN) >> PPN_AT) << 12;
        if raw & (R | X) == 0 {
            if level == 0 {
                return Entry::Invalid(Invalid::NextLevel);
            }
            if raw & (D | A | U | PBMT) != 0 {
                return Entry::Invalid(Invalid::Reserved);
            }
            if self.beyond(address) {
                return Entry::Invalid(Invalid::OutputSize);
            }
            return Entry::Table(TableEntry {
                address,
                level: level - 1,
                rights: Rights::all(),
                flags: if raw & G != 0 && !self.x4 { Flags::GLOBAL } else { Flags::empty() },
            });
        }
        let mut shift = 12 + 9 * level;
        if raw & N != 0 {
            if raw & NAPOT_BITS != NAPOT_64K {
                return Entry::Invalid(Invalid::Reserved);
            }
            shift = NAPOT_SHIFT;
            address &= u64::MAX << NAPOT_SHIFT;
        }
        if address & ((1 << shift) - 1) != 0 {
            return Entry::Invalid(Invalid::Misaligned);
        }
        if self.beyond(address) {
            return Entry::Invalid(Invalid::OutputSize);
        }
        let mut rights = Rights::empty();
        // A second-stage page without U admits nobody.
        if raw & U != 0 || !self.x4 {
            rights.set(Rights::READ, raw & R != 0);
            rights.set(Rights::WRITE, raw & W != 0);
            rights.set(Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE, raw & X != 0);
            rights.set(Rights::USER, raw & U != 0);
        }
        let mut flags = Flags::empty();
        flags.set(Flags::ACCESSED, raw & A != 0);
        flags.set(Flags::DIRTY, raw & D != 0);
        flags.set(Flags::GLOBAL, raw & G != 0 && !self.x4);
        let attributes = Attributes {
            rights,
            flags,
            memory_type: ((raw & PBMT) >> PBMT_AT) as u8,
            shareability: Shareability::Default,
            force_snoop: false,
        };
        Entry::Leaf(Leaf { address, shift, run_shift: shift, attributes })
    }

    #[inline]
    fn encode_table(&self, _level: u8, address: u64) -> u64 {
        (address >> 12) << PPN_AT | V
    }

    #[inline]
    fn encode_leaf(&self, _level: u8, shift: u8, address: u64, attributes: &Attributes) -> u64 {
        let Attributes { rights, flags, memory_type, .. } = *attributes;
        let mut raw = V | u64::from(memory_type) << PBMT_AT;
        if shift == NAPOT_SHIFT {
            raw |= N | NAPOT_64K | (address >> NAPOT_SHIFT) << (PPN_AT + 4);
        } else {
            raw |= (address >> 12) << PPN_AT;
        }
        if rights.contains(Rights::READ) {
            raw |= R;
        }
        if rights.contains(Rights::WRITE) {
            raw |= W;
        }
        if rights.contains(Rights::EXECUTE) {
            raw |= X;
        }
        if rights.contains(Rights::USER) {
            raw |= U;
        }
        if flags.contains(Flags::ACCESSED) {
            raw |= A;
        }
        if flags.contains(Flags::DIRTY) {
            raw |= D;
        }
        if flags.contains(Flags::GLOBAL) && !self.x4 {
            raw |= G;
        }
        raw
    }

    /// W without R is reserved, and without R and X the entry would lead to a table. That privileged requests do not
    /// execute user pages is a rule of the unit's, not of the entry.
    #[inline]
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        let rights = attributes.rights;
        let fits = (rights.contains(Rights::READ) || !rights.contains(Rights::WRITE))
            && rights.intersects(Rights::READ | Rights::EXECUTE)
            && rights.contains(Rights::EXECUTE) == rights.contains(Rights::PRIVILEGED_EXECUTE)
            && (rights.contains(Rights::USER) || !self.x4)
            && attributes.memory_type < if self.svpbmt { 3 } else { 1 }
            && attributes.shareability == Shareability::Default
            && !attributes.force_snoop;
        if fits { Ok(()) } else { Err(Inexpressible) }
    }

    #[inline]
    fn with_accessed(&self, _level: u8, raw: u64) -> u64 {
        if raw & (R | X) != 0 { raw | A } else { raw }
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
