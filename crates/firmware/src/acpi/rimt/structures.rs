//! The fixed parts of RIMT's nodes, field by field.

use crate::acpi::layout::{Bits, Show, record};

const TYPES: Show = Show::Values(&[(0, "IOMMU"), (1, "PCIe root complex"), (2, "Platform device")]);

record! {
    /// What follows the header (RIMT 2), from byte 36 of the table.
    pub(super) struct Info, 12 bytes {
        0: u32, "Number of RIMT Nodes";
        4: u32, "Offset to RIMT Node Array";
        8: /** Reserved. */ pub reserved: u32, "Reserved";
    }
}

record! {
    /// What every node begins with.
    pub(super) struct NodeInfo, 8 bytes {
        0: u8, "Type", TYPES;
        1: /** Revision of the node. */ pub revision: u8, "Revision";
        2: u16, "Length";
        4: /** Reserved. */ pub reserved: u16, "Reserved";
        6: /** Identifier, unique in the table. */ pub id: u16, "ID";
    }
}

record! {
    /// An IOMMU (RIMT 2.1.1) without its interrupt wires.
    pub struct Iommu, 32 bytes {
        0: /** `_HID` of the platform device, or vendor and device ID of the PCIe function. */
            pub hardware_id: [u8; 8], "Hardware ID", Show::Text;
        8: /** Register base of a platform device. */ pub base: u64, "Base Address";
        16: /** Flags: 0 PCIe device, 1 proximity domain valid. */ pub flags: u32, "Flags", Show::Bits(&[
            Bits::means(0, "Device Type", &[(0, "platform device"), (1, "PCIe device")]),
            Bits::flag(1, "Proximity Domain Valid"),
        ]);
        20: /** NUMA proximity domain. */ pub proximity_domain: u32, "Proximity Domain";
        24: /** PCI segment of a PCIe device. */ pub segment: u16, "PCIe Segment Number";
        26: /** Requester ID of a PCIe device. */ pub bdf: u16, "PCIe B/D/F";
        28: u16, "Number of Interrupt Wires";
        30: u16, "Interrupt Wire Array Offset";
    }
}

record! {
    /// An interrupt wire of an IOMMU.
    pub struct InterruptWire, 8 bytes {
        0: /** Global system interrupt. */ pub number: u32, "Interrupt Number";
        4: /** Flags: 0 level triggered, 1 active high. */ pub flags: u32, "Flags", Show::Bits(&[
            Bits::values(0, 0, "Interrupt Mode", &[(0, "edge triggered"), (1, "level triggered")]),
            Bits::values(1, 1, "Interrupt Polarity", &[(0, "active low"), (1, "active high")]),
        ]);
    }
}

record! {
    /// A PCIe root complex (RIMT 2.1.2).
    pub struct RootComplex, 12 bytes {
        0: /** Flags: 0 ATS supported, 1 PRI supported. */ pub flags: u32, "Flags", Show::Bits(&[
            Bits::flag(0, "ATS Support"),
            Bits::flag(1, "PRI Support"),
        ]);
        4: /** Reserved. */ pub reserved: u16, "Reserved";
        6: /** PCI segment. */ pub segment: u16, "PCIe Segment Number";
        8: u16, "ID Mapping Array Offset";
        10: u16, "Number of ID Mappings";
    }
}

record! {
    /// A platform device (RIMT 2.1.3) without its name.
    pub(super) struct PlatformDevice, 4 bytes {
        0: u16, "ID Mapping Array Offset";
        2: u16, "Number of ID Mappings";
    }
}

record! {
    /// One ID mapping (RIMT 2.2) without its destination.
    pub struct MappingInfo, 20 bytes {
        0: /** Lowest source ID. */ pub source_id_base: u32, "Source ID Base";
        4: /** Number of IDs. */ pub count: u32, "Number of IDs";
        8: /** device_id of the first. */ pub destination_base: u32, "Destination Device ID Base";
        12: u32, "Destination IOMMU Offset";
        16: /** Flags: 0 ATS required, 1 PRI required. */ pub flags: u32, "Flags", Show::Bits(&[
            Bits::flag(0, "ATS Required"),
            Bits::flag(1, "PRI Required"),
        ]);
    }
}
