//! Reserved regions: memory that devices must, may, or cannot reach, whatever software maps.

use alloc::vec::Vec;
use core::fmt;

use portcullis_spec::Access;

use super::{Devices, Fact, Source};

/// Why a region is reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReservedKind {
    /// DMAR RMRR: firmware keeps using this memory by DMA; it must stay mapped one to one.
    Rmrr,
    /// IVMD with Unity: must stay mapped one to one.
    Unity,
    /// IVMD with ExclusionRange: accesses are not translated.
    Exclusion,
    /// IVMD with neither Unity nor ExclusionRange set: firmware's own use; no mapping is asked for.
    Unmapped,
    /// IORT RMR, or a devicetree's reserved memory with `iommu-addresses`: must stay mapped one to one.
    Rmr {
        /// Software may place it elsewhere once it controls the device.
        remapping_permitted: bool,
        /// Accesses are privileged.
        privileged: bool,
        /// Memory attributes (IORT RMR flags 9:2): 0 Device-nGnRnE, 1 -nGnRE, 2 -nGRE, 3 -GRE, 4 Normal inner
        /// non-cacheable, 5 Normal write-back.
        attributes: u8,
    },
    /// A devicetree range that must not be used for I/O virtual addresses: `iommu-addresses` without memory behind it.
    NoMap,
    /// The window in which writes are interrupts.
    Msi,
}

impl fmt::Display for ReservedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rmrr => "RMRR",
            Self::Unity => "unity map",
            Self::Exclusion => "exclusion range",
            Self::Unmapped => "firmware range without mapping",
            Self::Rmr { .. } => "reserved memory range",
            Self::NoMap => "reserved I/O addresses",
            Self::Msi => "MSI window",
        })
    }
}

/// A range of addresses, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub struct AddressRange {
    /// First byte.
    pub first: u64,
    /// Last byte; never below `first`.
    pub last: u64,
}

impl AddressRange {
    /// `length` bytes from `first`; `None` where that is nothing or passes 64 bits.
    #[must_use]
    pub fn from_length(first: u64, length: u64) -> Option<Self> {
        let last = first.checked_add(length.checked_sub(1)?)?;
        Some(Self { first, last })
    }

    /// Whether the two share a byte.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.first, self.last)
    }
}

/// One reserved region.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ReservedRegion {
    /// Addresses.
    pub range: Fact<AddressRange>,
    /// Why.
    pub kind: Fact<ReservedKind>,
    /// What the devices do there.
    pub access: Access,
    /// For whom, each with its own statement. Empty: firmware names nobody (see the findings).
    pub devices: Vec<Fact<Devices>>,
    /// The statement that it exists.
    pub source: Source,
}
