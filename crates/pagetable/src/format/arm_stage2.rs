//! Arm VMSAv8-64 stage 2 (Arm ARM D8.3, D8.4; SMMUv3 STE.S2*).
//!
//! Up to 16 root tables lie side by side and are one larger root. Tables limit nothing. Memory type: MemAttr\[3:0\].

use super::arm::{ArmShape, ArmStage};
use super::{Extension, Flags, Rights, bits};
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

impl ArmStage for ArmStage2 {
    #[inline]
    fn shape(&self) -> &ArmShape {
        &self.shape
    }

    #[inline]
    fn extension(&self) -> Extension {
        Extension::Zero
    }

    #[inline]
    fn manages_dirty(&self) -> bool {
        self.dirty
    }

    #[inline]
    fn table_rights(&self, _raw: u64) -> Rights {
        Rights::all()
    }

    #[inline]
    fn leaf_rights(&self, raw: u64, writable: bool) -> (Rights, Flags) {
        let never = raw & XN1 != 0;
        let differs = self.xnx && raw & XN0 != 0;
        let mut rights = Rights::USER;
        rights.set(Rights::READ, raw & S2AP_READ != 0);
        rights.set(Rights::WRITE, writable);
        rights.set(Rights::EXECUTE, !never);
        rights.set(Rights::PRIVILEGED_EXECUTE, never == differs);
        (rights, Flags::empty())
    }

    #[inline]
    fn has_write(&self, raw: u64) -> bool {
        raw & S2AP_WRITE != 0
    }

    #[inline]
    fn with_write(&self, raw: u64, set: bool) -> u64 {
        if set { raw | S2AP_WRITE } else { raw & !S2AP_WRITE }
    }

    #[inline]
    fn place_rights(&self, rights: Rights, _flags: Flags) -> u64 {
        let mut raw = 0;
        if rights.contains(Rights::READ) {
            raw |= S2AP_READ;
        }
        let execute = rights.contains(Rights::EXECUTE);
        if !execute {
            raw |= XN1;
        }
        if execute != rights.contains(Rights::PRIVILEGED_EXECUTE) {
            raw |= XN0;
        }
        raw
    }

    #[inline]
    fn memory_types(&self) -> u64 {
        MEM_ATTR
    }

    #[inline]
    fn has_rights(&self, rights: Rights) -> bool {
        let fetches_alike = rights.contains(Rights::EXECUTE) == rights.contains(Rights::PRIVILEGED_EXECUTE);
        rights.contains(Rights::USER) && (self.xnx || fetches_alike)
    }

    /// MemAttr\[3:2\] clear, without FEAT_S2FWB.
    #[inline]
    fn is_device(&self, memory_type: u8) -> bool {
        memory_type & 0b1100 == 0
    }
}
