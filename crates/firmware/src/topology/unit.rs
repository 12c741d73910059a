//! Units: the IOMMUs themselves, and what firmware declares about them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use portcullis_spec::{PciAddress, PhysAddr};

use super::{Fact, Source};

/// A unit's place in [`Topology::units`](super::Topology::units).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct UnitId(pub u32);

/// Which architecture a unit is programmed by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Intel VT-d.
    Vtd,
    /// AMD I/O Virtualization.
    AmdVi,
    /// Arm SMMU version 1.
    SmmuV1,
    /// Arm SMMU version 2.
    SmmuV2,
    /// Arm SMMU version 3.
    SmmuV3,
    /// RISC-V IOMMU.
    Riscv,
    /// virtio-iommu.
    Virtio,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vtd => "Intel VT-d",
            Self::AmdVi => "AMD-Vi",
            Self::SmmuV1 => "Arm SMMUv1",
            Self::SmmuV2 => "Arm SMMUv2",
            Self::SmmuV3 => "Arm SMMUv3",
            Self::Riscv => "RISC-V IOMMU",
            Self::Virtio => "virtio-iommu",
        })
    }
}

/// Where a unit's registers lie.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
pub struct RegisterWindow {
    /// First byte.
    pub base: PhysAddr,
    /// Bytes, where the source states them (or the architecture fixes them).
    pub size: Option<u64>,
}

/// What an interrupt wire of a unit signals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WirePurpose {
    /// Event queue (SMMUv3).
    Event,
    /// Page-request queue (SMMUv3).
    PageRequest,
    /// Global error (SMMUv3), or global fault (SMMUv1/2 `NSgIrpt`).
    GlobalError,
    /// Command synchronisation complete (SMMUv3).
    CommandSync,
    /// Configuration access fault (SMMUv1/2 `NSgCfgIrpt`).
    Configuration,
    /// Context bank, by index (SMMUv1/2).
    ContextBank(u32),
    /// Performance monitor, by index (SMMUv1/2).
    Pmu(u32),
    /// Numbered by the unit itself, by index (RISC-V `icvec`).
    Vector(u32),
}

/// One interrupt wire of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
pub struct Wire {
    /// What it signals.
    pub purpose: WirePurpose,
    /// Global system interrupt number.
    pub gsi: u32,
    /// Edge triggered; level otherwise. `None` where the source does not say.
    pub edge: Option<bool>,
    /// Active low; high otherwise. `None` where the source does not say.
    pub active_low: Option<bool>,
}

/// What firmware declares about a unit beyond its place: the bits as the table has them, by architecture. The unit's own
/// registers are the authority; these let software decide before it touches them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Declared {
    /// Nothing.
    Nothing,
    /// A DRHD (VT-d 8.3).
    Vtd {
        /// `INCLUDE_PCI_ALL`: it takes all PCI functions of its segment that no other unit names.
        include_pci_all: bool,
    },
    /// An IVHD (AMD I/O Virtualization 5.2.2).
    AmdVi {
        /// Type of the block that was used: 0x10, 0x11 or 0x40.
        block_type: u8,
        /// Flags: 0 HtTunEn, 1 PassPW, 2 ResPassPW, 3 Isoc, 4 IotlbSup, 5 Coherent, and in type 0x10 6 PreFSup, 7 PPRSup.
        flags: u8,
        /// Offset of the IOMMU's capability block in its configuration space.
        capability_offset: u16,
        /// IOMMU info: 4:0 MSInum, 12:8 UnitID.
        info: u16,
        /// Type 0x10: IOMMU feature info. Types 0x11 and 0x40: IOMMU attributes.
        attributes: u32,
        /// EFR image (types 0x11 and 0x40): the Extended Feature register, MMIO 0x30.
        efr: Option<u64>,
        /// EFR2 image (types 0x11 and 0x40): the Extended Feature 2 register, MMIO 0x1a0.
        efr2: Option<u64>,
    },
    /// An SMMUv1 or v2 node (IORT 3.1.1.3).
    Smmu {
        /// Model.
        model: u32,
        /// DVM supported.
        dvm: bool,
        /// Page-table walks are coherent.
        coherent_walk: bool,
    },
    /// An SMMUv3 node (IORT 3.1.1.2).
    SmmuV3 {
        /// Model.
        model: u32,
        /// Walks are coherent although `SMMU_IDR0.COHACC` says otherwise.
        coherent_override: bool,
        /// HTTU override: 0 none, 1 access flag, 3 access flag and dirty state; 2 reserved.
        httu_override: u8,
        /// Base of the virtual ATOS registers, 0 where there are none.
        vatos: u64,
        /// DeviceID of the unit's own MSIs, where `Device ID Mapping Index` is valid.
        msi_device_id: Option<u32>,
    },
    /// A RISC-V IOMMU (RIMT 2.1).
    Riscv {
        /// `_HID` or PCI identity that the table gives, eight bytes.
        hardware_id: [u8; 8],
    },
}

/// One IOMMU.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Unit {
    /// Its place in the list.
    pub id: UnitId,
    /// A stable name: `dmar0`, `ivhd0`, `smmu3.0`, … by order in the table; a user's own where they gave one.
    pub name: Fact<String>,
    /// Architecture.
    pub architecture: Fact<Architecture>,
    /// Register window. `None` where the unit is found through its PCI function's BAR.
    pub registers: Option<Fact<RegisterWindow>>,
    /// PCI segment that it serves, where it is bound to one.
    pub segment: Option<Fact<u16>>,
    /// The unit's own PCI function (AMD-Vi, virtio-iommu, RISC-V).
    pub function: Option<Fact<PciAddress>>,
    /// NUMA proximity domain.
    pub proximity: Option<Fact<u32>>,
    /// Interrupt wires.
    pub wires: Vec<Fact<Wire>>,
    /// What the table declares.
    pub declared: Fact<Declared>,
    /// The statement that this unit exists.
    pub source: Source,
}
