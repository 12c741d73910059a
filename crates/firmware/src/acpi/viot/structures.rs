//! The fixed parts of VIOT's nodes, field by field.

use crate::acpi::layout::{Show, record};

const TYPES: Show = Show::Values(&[
    (1, "PCI Range"),
    (2, "Single MMIO Endpoint"),
    (3, "Virtio-iommu based on virtio-pci"),
    (4, "Virtio-iommu based on virtio-mmio"),
]);

/// A requester ID as people write it.
const REQUESTER_ID: Show =
    Show::Explained(|id| Some(alloc::format!("{:02x}:{:02x}.{:x}", id >> 8 & 0xff, id >> 3 & 0x1f, id & 7)));

record! {
    /// What follows the header, from byte 36 of the table.
    pub(super) struct Info, 12 bytes {
        0: u16, "Node Count";
        2: u16, "Node Offset";
        4: /** Reserved. */ pub reserved: u64, "Reserved";
    }
}

record! {
    /// What every node begins with.
    pub(super) struct NodeInfo, 4 bytes {
        0: u8, "Type", TYPES;
        1: u8, "Reserved";
        2: u16, "Length";
    }
}

record! {
    /// A range of PCI functions, without its output node.
    pub struct PciRange, 24 bytes {
        0: u8, "Type", TYPES;
        1: /** Reserved. */ pub reserved1: u8, "Reserved";
        2: u16, "Length";
        4: /** Endpoint ID of the first function. */ pub endpoint_start: u32, "Endpoint Start";
        8: /** First PCI segment. */ pub segment_start: u16, "PCI Segment Start";
        10: /** Last PCI segment. */ pub segment_end: u16, "PCI Segment End";
        12: /** First requester ID. */ pub bdf_start: u16, "PCI BDF Start", REQUESTER_ID;
        14: /** Last requester ID. */ pub bdf_end: u16, "PCI BDF End", REQUESTER_ID;
        16: u16, "Output Node";
        18: /** Reserved. */ pub reserved2: [u8; 6], "Reserved";
    }
}

record! {
    /// A platform device, without its output node.
    pub struct MmioEndpoint, 24 bytes {
        0: u8, "Type", TYPES;
        1: /** Reserved. */ pub reserved1: u8, "Reserved";
        2: u16, "Length";
        4: /** Endpoint ID. */ pub endpoint: u32, "Endpoint ID";
        8: /** First register of the device. */ pub base: u64, "Base Address";
        16: u16, "Output Node";
        18: /** Reserved. */ pub reserved2: [u8; 6], "Reserved";
    }
}

record! {
    /// A virtio-iommu that is a PCI function.
    pub struct PciIommu, 16 bytes {
        0: u8, "Type", TYPES;
        1: /** Reserved. */ pub reserved1: u8, "Reserved";
        2: u16, "Length";
        4: /** PCI segment. */ pub segment: u16, "PCI Segment";
        6: /** Requester ID. */ pub bdf: u16, "PCI BDF Number", REQUESTER_ID;
        8: /** Reserved. */ pub reserved2: u64, "Reserved";
    }
}

record! {
    /// A virtio-iommu that is a platform device.
    pub struct MmioIommu, 16 bytes {
        0: u8, "Type", TYPES;
        1: /** Reserved. */ pub reserved1: u8, "Reserved";
        2: u16, "Length";
        4: /** Reserved. */ pub reserved2: u32, "Reserved";
        8: /** First register. */ pub base: u64, "Base Address";
    }
}
