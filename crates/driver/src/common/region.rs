//! Regions of a device's address space that are spoken for, and the device they belong to.

use alloc::vec::Vec;

use portcullis_spec::{Access, Iova, Requester};

/// What a region is reserved for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// Nothing may be mapped there.
    Blocked,
    /// Writes there are interrupts, not memory accesses; nothing may be mapped there.
    Interrupts,
    /// Firmware or the device needs it mapped to itself with these rights as long as the device is attached (RMRR, IVMD).
    Direct(Access),
}

/// A reserved region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First byte.
    pub first: Iova,
    /// Last byte.
    pub last: Iova,
    /// What for.
    pub kind: RegionKind,
}

impl Region {
    /// Whether the region shares a byte with `first` to `last`.
    #[must_use]
    pub fn overlaps(&self, first: Iova, last: Iova) -> bool {
        self.first <= last && first <= self.last
    }
}

/// A device as the unit meets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Every requester that its transactions may carry: its own first, then phantom functions and the aliases that bridges give
    /// it. They are attached and detached together, or not at all.
    pub requesters: Vec<Requester>,
    /// PASID bits that it uses; 0 where it sends none.
    pub pasid_bits: u8,
    /// Its reserved regions.
    pub regions: Vec<Region>,
}

impl Device {
    /// A device with one requester, no PASIDs and no reserved regions.
    #[must_use]
    pub fn new(requester: impl Into<Requester>) -> Self {
        Self { requesters: alloc::vec![requester.into()], pasid_bits: 0, regions: Vec::new() }
    }
}
