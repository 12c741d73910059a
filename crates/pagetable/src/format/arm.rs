//! What both stages of Arm's VMSAv8-64 share (Arm ARM D8.2 translation process, D8.3 descriptor formats).
//!
//! Levels: Arm's level 3 is level 0 here, 2 is 1, 1 is 2, 0 is 3 and -1 is 4.

use super::{
    Attributes, Entry, Extension, Flags, Format, Inexpressible, Invalid, Leaf, Rights, TableEntry, bits,
};
use portcullis_spec::{Granule, Shareability};

const VALID: u64 = 1;
/// A table at levels above 0, a page at level 0. Clear: a block above, reserved at level 0.
const TABLE_OR_PAGE: u64 = 1 << 1;
const SH: u64 = bits(9, 8);
const SH_AT: u32 = 8;
pub(super) const AF: u64 = 1 << 10;
pub(super) const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;

/// The shape of an Arm table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArmShape {
    /// Translation granule.
    pub granule: Granule,
    /// Number of levels: 4 less the level at which the walk starts.
    pub levels: u8,
    /// Input address bits: 64 - TxSZ.
    pub input_bits: u8,
    /// Output address bits, 32 to 52 (IPS, S2PS). Addresses above it fault.
    pub output_bits: u8,
    /// FEAT_LPA2 with 4 and 16 KiB granules (TCR.DS): address bits 51:50 are in 9:8, where SH is otherwise, and blocks one
    /// level further up exist.
    pub lpa2: bool,
    /// FEAT_LPA with 64 KiB granules: address bits 51:48 are in 15:12, and blocks one level further up exist. The unit's own
    /// output size decides, not that of the tables.
    pub lpa: bool,
    /// Whether the contiguous hint is written. It is read in any case.
    pub contiguous: bool,
    /// A live entry must be broken before one of another size takes its place (hardware without BBML 2).
    pub break_before_make: bool,
}

impl ArmShape {
    /// The shape that starts at the level of `start_level` (Arm's number, -1 to 3), or `None` where the architecture has no such
    /// table. `concatenated` says how many root tables may lie side by side: 1 at stage 1, 16 at stage 2.
    #[must_use]
    pub const fn new(
        granule: Granule,
        input_bits: u8,
        output_bits: u8,
        start_level: i8,
        concatenated: u8,
    ) -> Option<Self> {
        let shift = granule.shift();
        if input_bits <= shift || input_bits > 52 || output_bits < 32 || output_bits > 52 {
            return None;
        }
        if start_level < -1 || start_level > 3 {
            return None;
        }
        let levels = (4 - start_level) as u8;
        let below = shift + (levels - 1) * (shift - 3);
        let highest = below + (shift - 3) + concatenated.ilog2() as u8;
        if input_bits <= below || input_bits > highest {
            return None;
        }
        let lpa2 = shift != 16 && (input_bits > 48 || output_bits > 48);
        // Level -1 exists only for 4 KiB with FEAT_LPA2, and level 0 of 64 KiB not at all.
        if levels == 5 && !(lpa2 && shift == 12) || levels == 4 && shift == 16 {
            return None;
        }
        Some(Self {
            granule,
            levels,
            input_bits,
            output_bits,
            lpa2,
            lpa: shift == 16 && output_bits > 48,
            contiguous: true,
            break_before_make: true,
        })
    }

    /// The level, in Arm's number, at which a stage 1 with this input size starts: the lowest that reaches.
    #[must_use]
    pub const fn start_level(granule: Granule, input_bits: u8) -> i8 {
        let shift = granule.shift();
        let above = input_bits.saturating_sub(shift);
        4 - above.div_ceil(shift - 3) as i8
    }

    #[inline]
    fn span_shift(&self, level: u8) -> u8 {
        self.granule.shift() + level * (self.granule.shift() - 3)
    }

    /// D8.3, table of block and page sizes: whether a leaf may stand at `level`.
    #[inline]
    fn has_leaves(&self, level: u8) -> bool {
        let highest = match self.granule {
            Granule::Size4K => 2,
            Granule::Size16K => 1,
            Granule::Size64K => 1 + u8::from(self.lpa),
        };
        level <= highest + u8::from(self.lpa2)
    }

    /// D8.6.1, the contiguous bit: log2 of the entries of a run at `level`, 0 where there is none.
    #[inline]
    fn run_bits(&self, level: u8) -> u8 {
        match (self.granule, level) {
            (Granule::Size4K, 0..=2) => 4,
            (Granule::Size16K, 0) => 7,
            (Granule::Size16K, 1) | (Granule::Size64K, 0 | 1) => 5,
            _ => 0,
        }
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        let mut sizes = 0;
        for level in 0..self.levels {
            if self.has_leaves(level) {
                let span = self.span_shift(level);
                sizes |= 1 << span;
                if self.contiguous {
                    sizes |= 1 << (span + self.run_bits(level));
                }
            }
        }
        sizes & (u64::MAX >> (63 - self.input_bits))
    }

    /// The address in a descriptor, of which the bits below `shift` are not address.
    #[inline]
    fn address(&self, raw: u64, shift: u8) -> u64 {
        if self.lpa2 {
            (raw & bits(49, 12) | (raw & bits(9, 8)) << 42) & (u64::MAX << shift)
        } else {
            let low = raw & bits(47, 12) & (u64::MAX << shift);
            if self.lpa { low | (raw & bits(15, 12)) << 36 } else { low }
        }
    }

    /// A descriptor's address bits.
    #[inline]
    fn place(&self, address: u64) -> u64 {
        if self.lpa2 {
            address & bits(49, 12) | (address >> 42) & bits(9, 8)
        } else {
            address & bits(47, 12) | (address >> 36) & bits(15, 12)
        }
    }

    /// What kind of descriptor this is; a leaf with its address, size and run.
    #[inline(always)]
    fn classify(&self, level: u8, raw: u64) -> Kind {
        if raw & VALID == 0 {
            return Kind::Other(Entry::Empty);
        }
        let table = raw & TABLE_OR_PAGE != 0 && level != 0;
        // D8.3: a block at level 0, or where there are none, is reserved and reads as not valid.
        if !table && (!self.has_leaves(level) || (raw & TABLE_OR_PAGE == 0) == (level == 0)) {
            return Kind::Other(Entry::Empty);
        }
        let shift = if table { self.granule.shift() } else { self.span_shift(level) };
        let address = self.address(raw, shift);
        // D8.2.6: an address size fault.
        if address & !(u64::MAX >> (64 - self.output_bits)) != 0 {
            return Kind::Other(Entry::Invalid(Invalid::OutputSize));
        }
        if table {
            return Kind::Table { address };
        }
        let run = if raw & CONTIGUOUS != 0 { self.run_bits(level) } else { 0 };
        Kind::Leaf { address, shift, run_shift: shift + run }
    }

    /// Type, address, AF-independent bits that both stages write alike.
    #[inline]
    fn leaf_bits(&self, level: u8, shift: u8, address: u64) -> u64 {
        let mut raw = VALID | self.place(address);
        if level == 0 {
            raw |= TABLE_OR_PAGE;
        }
        if shift != self.span_shift(level) {
            raw |= CONTIGUOUS;
        }
        raw
    }

    /// D8.6.2. With FEAT_LPA2 the field holds address bits, and shareability comes from the context.
    #[inline]
    fn shareability(&self, raw: u64) -> Shareability {
        if self.lpa2 {
            return Shareability::Default;
        }
        match (raw & SH) >> SH_AT {
            0 => Shareability::NonShareable,
            2 => Shareability::Outer,
            3 => Shareability::Inner,
            _ => Shareability::Default,
        }
    }

    /// `None` where the field cannot hold it. [`Shareability::Default`] is inner shareable where there is a field.
    #[inline]
    pub(super) fn place_shareability(&self, shareability: Shareability) -> Option<u64> {
        if self.lpa2 {
            return (shareability == Shareability::Default).then_some(0);
        }
        Some(match shareability {
            Shareability::NonShareable => 0,
            Shareability::Outer => 2 << SH_AT,
            Shareability::Default | Shareability::Inner => 3 << SH_AT,
        })
    }
}

/// What a descriptor is.
enum Kind {
    /// Leads to a table.
    Table { address: u64 },
    /// A block or page.
    Leaf { address: u64, shift: u8, run_shift: u8 },
    /// Empty or invalid.
    Other(Entry),
}

/// What a stage's descriptors say in bits of their own.
pub trait ArmStage: Copy {
    /// The shape of the tables.
    fn shape(&self) -> &ArmShape;

    /// What the input bits above the input size are.
    fn extension(&self) -> Extension;

    /// Whether DBM is heeded: a page with it is writable, and dirty once its write permission is set.
    fn manages_dirty(&self) -> bool;

    /// What a table permits below it.
    fn table_rights(&self, raw: u64) -> Rights;

    /// The rights of a leaf and its flags but for Accessed and Dirty. `writable` says whether it may be written at all.
    fn leaf_rights(&self, raw: u64, writable: bool) -> (Rights, Flags);

    /// Whether the leaf's write permission is set.
    fn has_write(&self, raw: u64) -> bool;

    /// The leaf with its write permission set or not.
    fn with_write(&self, raw: u64, set: bool) -> u64;

    /// The bits of the rights but for the write permission, and of the flags but for Accessed and Dirty.
    fn place_rights(&self, rights: Rights, flags: Flags) -> u64;

    /// The bits that name the memory type, from bit 2.
    fn memory_types(&self) -> u64;

    /// Whether the descriptor can hold these rights.
    fn has_rights(&self, rights: Rights) -> bool;

    /// Whether the memory type is one of device memory.
    fn is_device(&self, memory_type: u8) -> bool;
}

const MEMORY_TYPE_AT: u32 = 2;

impl<S: ArmStage> Format for S {
    #[inline]
    fn levels(&self) -> u8 {
        self.shape().levels
    }

    #[inline]
    fn granule_shift(&self) -> u8 {
        self.shape().granule.shift()
    }

    #[inline]
    fn input_bits(&self) -> u8 {
        self.shape().input_bits
    }

    #[inline]
    fn extension(&self) -> Extension {
        ArmStage::extension(self)
    }

    #[inline]
    fn output_bits(&self) -> u8 {
        self.shape().output_bits
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        self.shape().page_sizes()
    }

    #[inline]
    fn break_before_make(&self) -> bool {
        self.shape().break_before_make
    }

    #[inline(always)]
    fn decode(&self, level: u8, raw: u64) -> Entry {
        match self.shape().classify(level, raw) {
            Kind::Other(entry) => entry,
            Kind::Table { address } => Entry::Table(TableEntry {
                address,
                level: level - 1,
                rights: self.table_rights(raw),
                flags: Flags::empty(),
            }),
            Kind::Leaf { address, shift, run_shift } => {
                let write = self.has_write(raw);
                let managed = self.manages_dirty() && raw & DBM != 0;
                let (rights, mut flags) = self.leaf_rights(raw, write || managed);
                flags.set(Flags::ACCESSED, raw & AF != 0);
                flags.set(Flags::DIRTY, write && managed);
                let attributes = Attributes {
                    rights,
                    flags,
                    memory_type: ((raw & self.memory_types()) >> MEMORY_TYPE_AT) as u8,
                    shareability: self.shape().shareability(raw),
                    force_snoop: false,
                };
                Entry::Leaf(Leaf { address, shift, run_shift, attributes })
            }
        }
    }

    #[inline]
    fn encode_table(&self, _level: u8, address: u64) -> u64 {
        self.shape().place(address) | TABLE_OR_PAGE | VALID
    }

    /// A writable page whose dirty state is managed has DBM, and the write permission only once it is dirty.
    #[inline]
    fn encode_leaf(&self, level: u8, shift: u8, address: u64, attributes: &Attributes) -> u64 {
        let Attributes { rights, flags, memory_type, shareability, .. } = *attributes;
        let mut raw = self.shape().leaf_bits(level, shift, address)
            | u64::from(memory_type) << MEMORY_TYPE_AT
            | self.shape().place_shareability(shareability).unwrap_or(0)
            | self.place_rights(rights, flags);
        let writable = rights.contains(Rights::WRITE);
        if writable && self.manages_dirty() {
            raw |= DBM;
        }
        if flags.contains(Flags::ACCESSED) {
            raw |= AF;
        }
        self.with_write(raw, writable && (!self.manages_dirty() || flags.contains(Flags::DIRTY)))
    }

    #[inline]
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        let types = self.memory_types() >> MEMORY_TYPE_AT;
        let fits = self.has_rights(attributes.rights)
            && u64::from(attributes.memory_type) <= types
            && self.shape().place_shareability(attributes.shareability).is_some()
            && !attributes.force_snoop;
        if fits { Ok(()) } else { Err(Inexpressible) }
    }

    #[inline]
    fn is_device(&self, attributes: &Attributes) -> bool {
        ArmStage::is_device(self, attributes.memory_type)
    }

    #[inline]
    fn with_accessed(&self, level: u8, raw: u64) -> u64 {
        if level != 0 && raw & TABLE_OR_PAGE != 0 { raw } else { raw | AF }
    }

    #[inline]
    fn with_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.manages_dirty() && raw & DBM != 0 { self.with_write(raw, true) } else { raw }
    }

    #[inline]
    fn without_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.manages_dirty() && raw & DBM != 0 { self.with_write(raw, false) } else { raw }
    }
}
