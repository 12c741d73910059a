//! Arm VMSAv8-64 stage 1 of a regime with two privileges (Arm ARM D8.3, D8.4; SMMUv3 NS-EL1 streams).
//!
//! Tables limit what is below by APTable, UXNTable and PXNTable. Memory type: AttrIndx, an index into MAIR. That what unprivileged requests
//! may write is not executed by privileged ones is a rule upon the rights, and not seen in them.

use super::arm::{ArmShape, ArmStage};
use super::{Extension, Flags, Rights, bits};
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
    /// Tables limit nothing (TCR.HPD, CD.HAD): APTable, UXNTable and PXNTable are ignored.
    pub no_hierarchy: bool,
}

impl ArmStage1 {
    /// The tables for this granule and these sizes, without management of dirty state; `None` where there are none.
    #[must_use]
    pub const fn new(granule: Granule, input_bits: u8, output_bits: u8, upper: bool) -> Option<Self> {
        let start_level = ArmShape::start_level(granule, input_bits);
        match ArmShape::new(granule, input_bits, output_bits, start_level, 1) {
            Some(shape) => Some(Self { shape, upper, dirty: false, no_hierarchy: false }),
            None => None,
        }
    }
}

impl ArmStage for ArmStage1 {
    #[inline]
    fn shape(&self) -> &ArmShape {
        &self.shape
    }

    #[inline]
    fn extension(&self) -> Extension {
        if self.upper { Extension::Ones } else { Extension::Zero }
    }

    #[inline]
    fn manages_dirty(&self) -> bool {
        self.dirty
    }

    #[inline]
    fn table_rights(&self, raw: u64) -> Rights {
        let raw = if self.no_hierarchy { 0 } else { raw };
        let mut rights = Rights::all();
        rights.set(Rights::USER, raw & AP_TABLE_PRIVILEGED == 0);
        rights.set(Rights::WRITE, raw & AP_TABLE_READ_ONLY == 0);
        rights.set(Rights::EXECUTE, raw & UXN_TABLE == 0);
        rights.set(Rights::PRIVILEGED_EXECUTE, raw & PXN_TABLE == 0);
        rights
    }

    #[inline]
    fn leaf_rights(&self, raw: u64, writable: bool) -> (Rights, Flags) {
        let mut rights = Rights::READ;
        rights.set(Rights::WRITE, writable);
        rights.set(Rights::USER, raw & AP_UNPRIVILEGED != 0);
        rights.set(Rights::EXECUTE, raw & UXN == 0);
        rights.set(Rights::PRIVILEGED_EXECUTE, raw & PXN == 0);
        let mut flags = Flags::empty();
        flags.set(Flags::GLOBAL, raw & NG == 0);
        flags.set(Flags::NON_SECURE, raw & NS != 0);
        (rights, flags)
    }

    #[inline]
    fn has_write(&self, raw: u64) -> bool {
        raw & AP_READ_ONLY == 0
    }

    #[inline]
    fn with_write(&self, raw: u64, set: bool) -> u64 {
        if set { raw & !AP_READ_ONLY } else { raw | AP_READ_ONLY }
    }

    #[inline]
    fn place_rights(&self, rights: Rights, flags: Flags) -> u64 {
        let mut raw = 0;
        if rights.contains(Rights::USER) {
            raw |= AP_UNPRIVILEGED;
        }
        if !rights.contains(Rights::EXECUTE) {
            raw |= UXN;
        }
        if !rights.contains(Rights::PRIVILEGED_EXECUTE) {
            raw |= PXN;
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
    fn memory_types(&self) -> u64 {
        ATTR_INDX
    }

    #[inline]
    fn has_rights(&self, rights: Rights) -> bool {
        rights.contains(Rights::READ)
    }

    /// What an index stands for is MAIR's to say.
    #[inline]
    fn is_device(&self, _memory_type: u8) -> bool {
        false
    }
}
