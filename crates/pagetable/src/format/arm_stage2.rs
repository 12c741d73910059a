//! Arm VMSAv8-64 stage 2 (Arm ARM D8.3, D8.4; SMMUv3 STE.S2*).
//!
//! Up to 16 root tables lie side by side and are one larger root. Tables limit nothing. Memory type: MemAttr\[3:0\].

use super::arm::{AF, ArmShape, DBM, Kind, TABLE_OR_PAGE, VALID};
use super::{Attributes, Entry, Extension, Flags, Format, Inexpressible, Leaf, Rights, TableEntry, bits};
use portcullis_spec::Granule;

const MEM_ATTR: u64 = bits(5, 2);
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
/// XN\[0\]: with FEAT_XNX, inverts what XN\[1\] says for privileged requests.
const XN0: u64 = 1 << 53;
/// XN\[1\].
const XN1: u64 = 1 << 54;

/// Arm stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArmStage2 {
    /// The shape of the tables.
    pub shape: ArmShape,
    /// The unit manages dirty state (STE.S2HD): a page with DBM that S2AP doesn't let write is writable and clean. DBM is
    /// ignored otherwise.
    pub dirty: bool,
    /// FEAT_XNX (SMMU_IDR3.XNX): privileged and unprivileged fetches are told apart. XN\[0\] is ignored otherwise.
    pub xnx: bool,
}

impl ArmStage2 {
    /// MemAttr of device-nGnRE memory, without FEAT_S2FWB.
    pub const DEVICE: u8 = 0b0001;
    /// MemAttr of normal non-cacheable memory, without FEAT_S2FWB.
    pub const NON_CACHEABLE: u8 = 0b0101;
    /// MemAttr of normal write-back memory, without FEAT_S2FWB.
    pub const WRITE_BACK: u8 = 0b1111;

    /// The tables for this granule, these sizes and this start level (Arm's number, -1 to 3), without management of dirty
    /// state and FEAT_XNX; `None` where there are none.
    #[must_use]
    pub const fn new(granule: Granule, input_bits: u8, output_bits: u8, start_level: i8) -> Option<Self> {
        match ArmShape::new(granule, input_bits, output_bits, start_level, 16) {
            Some(shape) => Some(Self { shape, dirty: false, xnx: false }),
            None => None,
        }
    }
}

impl Format for ArmStage2 {
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
        Extension::Zero
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
            Kind::Table { address } => Entry::Table(TableEntry {
                address,
                level: level - 1,
                rights: Rights::all(),
                flags: Flags::empty(),
            }),
            Kind::Leaf { address, shift, run_shift } => {
                let writable = raw & S2AP_WRITE != 0;
                let managed = self.dirty && raw & DBM != 0;
                let never = raw & XN1 != 0;
                let differs = self.xnx && raw & XN0 != 0;
                let mut rights = Rights::USER;
                rights.set(Rights::READ, raw & S2AP_READ != 0);
                rights.set(Rights::WRITE, writable || managed);
                rights.set(Rights::EXECUTE, !never);
                rights.set(Rights::PRIVILEGED_EXECUTE, never == differs);
                let mut flags = Flags::empty();
                flags.set(Flags::ACCESSED, raw & AF != 0);
                flags.set(Flags::DIRTY, writable && managed);
                let attributes = Attributes {
                    rights,
                    flags,
                    memory_type: ((raw & MEM_ATTR) >> 2) as u8,
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

    /// A writable page whose dirty state is managed has DBM, and the write permission only once it is dirty.
    #[inline]
    fn encode_leaf(&self, level: u8, shift: u8, address: u64, attributes: &Attributes) -> u64 {
        let Attributes { rights, flags, memory_type, shareability, .. } = *attributes;
        let mut raw = self.shape.leaf_bits(level, shift, address) | u64::from(memory_type) << 2;
        raw |= self.shape.place_shareability(shareability).unwrap_or(0);
        if rights.contains(Rights::READ) {
            raw |= S2AP_READ;
        }
        if rights.contains(Rights::WRITE) {
            if self.dirty {
                raw |= DBM;
            }
            if !self.dirty || flags.contains(Flags::DIRTY) {
                raw |= S2AP_WRITE;
            }
        }
        let execute = rights.contains(Rights::EXECUTE);
        if !execute {
            raw |= XN1;
        }
        if execute != rights.contains(Rights::PRIVILEGED_EXECUTE) {
            raw |= XN0;
        }
        if flags.contains(Flags::ACCESSED) {
            raw |= AF;
        }
        raw
    }

    #[inline]
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        let rights = attributes.rights;
        let fetches_alike = rights.contains(Rights::EXECUTE) == rights.contains(Rights::PRIVILEGED_EXECUTE);
        let fits = rights.contains(Rights::USER)
            && (self.xnx || fetches_alike)
            && attributes.memory_type < 16
            && self.shape.place_shareability(attributes.shareability).is_some()
            && !attributes.force_snoop;
        if fits { Ok(()) } else { Err(Inexpressible) }
    }

    /// MemAttr\[3:2\] clear, without FEAT_S2FWB.
    #[inline]
    fn is_device(&self, attributes: &Attributes) -> bool {
        attributes.memory_type & 0b1100 == 0
    }

    #[inline]
    fn with_accessed(&self, level: u8, raw: u64) -> u64 {
        if level != 0 && raw & TABLE_OR_PAGE != 0 { raw } else { raw | AF }
    }

    #[inline]
    fn with_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.dirty && raw & DBM != 0 { raw | S2AP_WRITE } else { raw }
    }

    #[inline]
    fn without_dirty(&self, _level: u8, raw: u64) -> u64 {
        if self.dirty && raw & DBM != 0 { raw & !S2AP_WRITE } else { raw }
    }
}
