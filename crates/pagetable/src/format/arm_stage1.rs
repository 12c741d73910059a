//! Arm VMSAv8-64 stage 1 of a regime with two privileges (Arm ARM D8.3, D8.4; SMMUv3 NS-EL1 streams).
//!
//! Tables limit what is below by APTable, UXNTable and PXNTable. Memory type: AttrIndx, an index into MAIR. That what unprivileged requests
//! may write is not executed by privileged ones is a rule upon the rights, and not seen in them.

use super::arm::{AF, ArmShape, DBM, Kind, TABLE_OR_PAGE, VALID};
use super::{Attributes, Entry, Extension, Flags, Format, Inexpressible, Leaf, Rights, TableEntry, bits};
use portcullis_spec::Granule;

const ATTR_INDX: u64 = bits(4, 2);
const NS: u64 = 1 << 5;
/// AP\[1\]: unprivileged access.
const AP_UNPRIVILEGED: u64 = 1 << 6;
/// AP\[2\]: read-only.
const AP_READ_ONLY: u64 = 1 << 7;
const NG: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const PXN_TABLE: u64 = 1 << 59;
const UXN_TABLE: u64 = 1 << 60;
const AP_TABLE_PRIVILEGED: u64 = 1 << 61;
const AP_TABLE_READ_ONLY: u64 = 1 << 62;

/// Arm stage 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArmStage1 {
    /// The shape of the tables.
    pub shape: ArmShape,
    /// The upper half of the address space (TTB1): input bits above the input size are ones.
    pub upper: bool,
    /// The unit manages dirty state (CD.HD): a read-only page with DBM is writable and clean. DBM is ignored otherwise.
    pub dirty: bool,
}

impl ArmStage1 {
    /// The tables for this granule and these sizes, without management of dirty state; `None` where there are none.
    #[must_use]
    pub const fn new(granule: Granule, input_bits: u8, output_bits: u8, upper: bool) -> Option<Self> {
        let start_level = ArmShape::start_level(granule, input_bits);
        match ArmShape::new(granule, input_bits, output_bits, start_level, 1) {
            Some(shape) => Some(Self { shape, upper, dirty: false }),
            None => None,
        }
    }
}

impl Format for ArmStage1 {
    #[inline]
    fn levels(&self) -> u8 {
        self.shape.levels
    }

    #[inline]
    fn granule_shift(&self) -> u8 {
        self.shape.granule.shift()
    }

    #[inline]
    fn input_bits(&self) -> u8 {
        self.shape.input_bits
    }

    #[inline]
    fn extension(&self) -> Extension {
        ArmShape::extension(self.upper)
    }

    #[inline]
    fn output_bits(&self) -> u8 {
        self.shape.output_bits
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        self.shape.page_sizes()
    }

    #[inline]
    fn break_before_make(&self) -> bool {
        self.shape.break_before_make
    }

    #[inline(always)]
    fn decode(&self, level: u8, raw: u64) -> Entry {
        match self.shape.classify(level, raw) {
            Kind::Other(entry) => entry,
            Kind::Table { address } => {
                let mut rights = Rights::all();
                rights.set(Rights::USER, raw & AP_TABLE_PRIVILEGED == 0);
                rights.set(Rights::WRITE, raw & AP_TABLE_READ_ONLY == 0);
                rights.set(Rights::EXECUTE, raw & UXN_TABLE == 0);
                rights.set(Rights::PRIVILEGED_EXECUTE, raw & PXN_TABLE == 0);
                Entry::Table(TableEntry { address, level: level - 1, rights, flags: Flags::empty() })
            }
            Kind::Leaf { address, shift, run_shift } => {
                let writable = raw & AP_READ_ONLY == 0;
                let managed = self.dirty && raw & DBM != 0;
                let mut rights = Rights::READ;
                rights.set(Rights::WRITE, writable || managed);
                rights.set(Rights::USER, raw & AP_UNPRIVILEGED != 0);
                rights.set(Rights::EXECUTE, raw & UXN == 0);
                rights.set(Rights::PRIVILEGED_EXECUTE, raw & PXN == 0);
                let mut flags = Flags::empty();
                flags.set(Flags::ACCESSED, raw & AF != 0);
                flags.set(Flags::DIRTY, writable && managed);
                flags.set(Flags::GLOBAL, raw & NG == 0);
                flags.set(Flags::NON_SECURE, raw & NS != 0);
                let attributes = Attributes {
                    rights,
                    flags,
                    memory_type: ((raw & ATTR_INDX) >> 2) as u8,
                    shareability: self.shape.shareability(raw),
                    force_snoop: false,
                };
                Entry::Leaf(Leaf { address, shift, run_shift, attributes })
            }
        }
    }

    #[inline]
    fn encode_table(&self, _level: u8, address: u64) -> u64 {
        self.shape.place(address) | TABLE_OR_PAGE | VALID
    }

    /// A writable page whose dirty state is managed is read-only with DBM until it is dirty.
    #[inline]
    fn encode_leaf(&self, level: u8, shift: u8, address: u64, attributes: &Attributes) -> u64 {
        let Attributes { rights, flags, memory_type, shareability, .. } = *attributes;
        let mut raw = self.shape.leaf_bits(level, shift, address) | u64::from(memory_type) << 2;
        raw |= self.shape.place_shareability(shareability).unwrap_or(0);
        if rights.contains(Rights::WRITE) && self.dirty {
            raw |= DBM;
        }
        if !rights.contains(Rights::WRITE) || self.dirty && !flags.contains(Flags::DIRTY) {
            raw |= AP_READ_ONLY;
        }
        if rights.contains(Rights::USER) {
            raw |= AP_UNPRIVILEGED;
        }
        if !rights.contains(Rights::EXECUTE) {
            raw |= UXN;
        }
        if !rights.contains(Rights::PRIVILEGED_EXECUTE) {
            raw |= PXN;
        }
        if flags.contains(Flags::ACCESSED) {
            raw |= AF;
        }
        if !flags.contains(Flags::GLOBAL) {
            raw |= NG;
        }
        if flags.contains(Flags::NON_SECURE) {
            raw |= NS;
        }
        raw
    }

    #[inline]
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        let fits = attributes.rights.contains(Rights::READ)
            && attributes.memory_type < 8
            && self.shape.place_shareability(attributes.shareability).is_some()
            && !attributes.force_snoop;
        if fits { Ok(()) } else { Err(Inexpressible) }
    }

    #[inline]
    fn with_accessed(&self, level: u8, raw: u64) -> u64 {
        if level != 0 && raw & TABLE_OR_PAGE != 0 { raw } else { raw | AF }
    }

    #[inline]
    fn with_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.dirty && raw & DBM != 0 { raw & !AP_READ_ONLY } else { raw }
    }

    #[inline]
    fn without_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.dirty && raw & DBM != 0 { raw | AP_READ_ONLY } else { raw }
    }
}
