//! Who sends a transaction.

use core::fmt;

/// A PCI function: segment, bus, device and function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PciAddress {
    /// PCI segment group (the four hexadecimal digits that Linux prints first).
    pub segment: u16,
    /// Requester ID: bus in bits 15:8, device in 7:3, function in 2:0 (PCIe 2.2.6.2).
    pub requester_id: u16,
}

impl PciAddress {
    /// The function at `bus:device.function` of `segment`. `device` is below 32 and `function` below 8; higher bits
    /// are cut off.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        let low = ((device & 0x1f) << 3) | (function & 7);
        Self { segment, requester_id: ((bus as u16) << 8) | low as u16 }
    }

    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.requester_id >> 8) as u8
    }

    /// Device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.requester_id as u8) >> 3
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.requester_id as u8 & 7
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who sends a transaction, as the unit that checks it knows them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Requester {
    /// A PCI function: VT-d and AMD-Vi.
    Pci(PciAddress),
    /// A StreamID: Arm SMMU. Unique only within one SMMU.
    Stream(u32),
    /// A device_id, at most 24 bits: RISC-V IOMMU.
    Device(u32),
    /// An endpoint: virtio-iommu.
    Endpoint(u32),
}

impl Requester {
    /// The bare number that indexes the unit's device tables: the requester ID without its segment on PCI.
    #[must_use]
    pub const fn index(self) -> u32 {
        match self {
            Self::Pci(address) => address.requester_id as u32,
            Self::Stream(id) | Self::Device(id) | Self::Endpoint(id) => id,
        }
    }
}

impl From<PciAddress> for Requester {
    fn from(address: PciAddress) -> Self {
        Self::Pci(address)
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "{address}"),
            Self::Stream(id) => write!(f, "StreamID {id:#x}"),
            Self::Device(id) => write!(f, "device_id {id:#x}"),
            Self::Endpoint(id) => write!(f, "endpoint {id:#x}"),
        }
    }
}

/// A process address space within a requester, 20 bits: PASID on PCI, SubstreamID on Arm, process_id on RISC-V.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pasid(u32);

impl Pasid {
    /// The largest PASID (PCIe 6.20.2.1: 20 bits).
    pub const MAX: Self = Self(0xf_ffff);

    /// A PASID, or `None` where `value` needs more than 20 bits.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Pasid {
    type Error = &'static str;

    fn try_from(value: u32) -> Result<Self, Self::Error> {
        Self::new(value).ok_or("a PASID has 20 bits")
    }
}

impl From<Pasid> for u32 {
    fn from(pasid: Pasid) -> Self {
        pasid.0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
