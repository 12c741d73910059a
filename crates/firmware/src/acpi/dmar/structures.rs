//! The fixed parts of DMAR's structures, field by field.

use crate::acpi::layout::{Bits, Show, record};

/// Remapping structure types (VT-d 8.2).
const TYPES: Show = Show::Values(&[
    (0, "DMA Remapping Hardware Unit Definition (DRHD)"),
    (1, "Reserved Memory Region Reporting (RMRR)"),
    (2, "Root Port ATS Capability Reporting (ATSR)"),
    (3, "Remapping Hardware Static Affinity (RHSA)"),
    (4, "ACPI Name-space Device Declaration (ANDD)"),
    (5, "SoC Integrated Address Translation Cache (SATC)"),
    (6, "SoC Integrated Device Property (SIDP)"),
]);

record! {
    /// What DMAR says of the platform (VT-d 8.1), from byte 36 of the table.
    pub struct PlatformInfo, 12 bytes {
        0: /** Host Address Width: address bits that the platform can use for DMA, less one. */
            pub host_address_width: u8, "Host Address Width", Show::Explained(|width| {
                Some(alloc::format!("{} bits", width + 1))
            });
        1: /** Flags: 0 `INTR_REMAP`, 1 `X2APIC_OPT_OUT`, 2 `DMA_CTRL_PLATFORM_OPT_IN_FLAG`. */
            pub flags: u8, "Flags", Show::Bits(&[
                Bits::means(0, "INTR_REMAP", &[(0, "no interrupt remapping"), (1, "interrupt remapping is supported")]),
                Bits::means(1, "X2APIC_OPT_OUT", &[(1, "firmware asks software not to enable x2APIC")]),
                Bits::means(2, "DMA_CTRL_PLATFORM_OPT_IN_FLAG", &[(1, "firmware asks software to keep DMA protected")]),
            ]);
        2: /** Reserved. */ pub reserved: [u8; 10], "Reserved";
    }
}

record! {
    /// A structure whose type is not known.
    pub(super) struct Unknown, 4 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
    }
}

record! {
    /// DMA remapping hardware unit definition (VT-d 8.3).
    pub struct Drhd, 16 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
        4: /** Flags: 0 `INCLUDE_PCI_ALL`. */
            pub flags: u8, "Flags", Show::Bits(&[Bits::means(0, "INCLUDE_PCI_ALL", &[
                (0, "the devices that its scopes name"),
                (1, "all PCI devices of the segment that no other unit names"),
            ])]);
        5: /** Size of the register set: bits 3:0 are log2 of its 4 KiB pages. */
            pub size: u8, "Size", Show::Explained(|size| Some(alloc::format!("{} KiB", 4u64 << (size & 0xf))));
        6: /** PCI segment. */ pub segment: u16, "Segment Number";
        8: /** Register base address. */ pub register_base: u64, "Register Base Address";
    }
}

record! {
    /// Reserved memory region reporting (VT-d 8.4).
    pub struct Rmrr, 24 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
        4: /** Reserved. */ pub reserved: u16, "Reserved";
        6: /** PCI segment. */ pub segment: u16, "Segment Number";
        8: /** First byte, 4 KiB aligned. */ pub base: u64, "Reserved Memory Region Base Address";
        16: /** Last byte. */ pub limit: u64, "Reserved Memory Region Limit Address";
    }
}

record! {
    /// Root port ATS capability reporting (VT-d 8.5).
    pub struct Atsr, 8 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
        4: /** Flags: 0 `ALL_PORTS`. */
            pub flags: u8, "Flags", Show::Bits(&[Bits::means(0, "ALL_PORTS", &[
                (0, "the root ports that its scopes name"),
                (1, "all root ports of the segment"),
            ])]);
        5: /** Reserved. */ pub reserved: u8, "Reserved";
        6: /** PCI segment. */ pub segment: u16, "Segment Number";
    }
}

record! {
    /// Remapping hardware static affinity (VT-d 8.6).
    pub struct Rhsa, 20 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
        4: /** Reserved. */ pub reserved: u32, "Reserved";
        8: /** Register base address of the unit. */ pub register_base: u64, "Register Base Address";
        16: /** Its NUMA proximity domain. */ pub proximity_domain: u32, "Proximity Domain";
    }
}

record! {
    /// ACPI name-space device declaration (VT-d 8.7), without the name.
    pub struct Andd, 8 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
        4: /** Reserved. */ pub reserved: [u8; 3], "Reserved";
        7: /** Number under which device scopes name it. */ pub device_number: u8, "ACPI Device Number";
    }
}

record! {
    /// SoC integrated address translation cache (VT-d 8.8).
    pub struct Satc, 8 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
        4: /** Flags: 0 `ATC_REQUIRED`. */
            pub flags: u8, "Flags", Show::Bits(&[Bits::means(0, "ATC_REQUIRED", &[
                (1, "the devices work only with their translation cache on"),
            ])]);
        5: /** Reserved. */ pub reserved: u8, "Reserved";
        6: /** PCI segment. */ pub segment: u16, "Segment Number";
    }
}

record! {
    /// SoC integrated device property (VT-d 8.9).
    pub struct Sidp, 8 bytes {
        0: u16, "Type", TYPES;
        2: u16, "Length";
        4: /** Reserved. */ pub reserved: u16, "Reserved";
        6: /** PCI segment. */ pub segment: u16, "Segment Number";
    }
}

/// Device scope type: a PCI function.
pub const SCOPE_PCI_ENDPOINT: u8 = 1;
/// Device scope type: a PCI bridge and all behind it.
pub const SCOPE_PCI_HIERARCHY: u8 = 2;
/// Device scope type: an I/O APIC.
pub const SCOPE_IOAPIC: u8 = 3;
/// Device scope type: an HPET that sends messages.
pub const SCOPE_HPET: u8 = 4;
/// Device scope type: a device that an ANDD declares.
pub const NAMESPACE_DEVICE: u8 = 5;

record! {
    /// A device scope entry (VT-d 8.3.1) without its path.
    pub struct ScopeInfo, 6 bytes {
        0: /** Type: 1 PCI endpoint, 2 PCI sub-hierarchy, 3 IOAPIC, 4 HPET, 5 ACPI name-space device. */
            pub kind: u8, "Type", Show::Values(&[
                (1, "PCI Endpoint Device"),
                (2, "PCI Sub-hierarchy"),
                (3, "IOAPIC"),
                (4, "MSI_CAPABLE_HPET"),
                (5, "ACPI_NAMESPACE_DEVICE"),
            ]);
        1: u8, "Length";
        2: /** Flags, used in SIDP only: 0 `REQ_WO_PASID_NESTED_NOTALLOWED`, 1 `REQ_WO_PASID_PWSNP_NOTALLOWED`,
            2 `REQ_WO_PASID_PGSNP_NOTALLOWED`, 3 `ATC_HARDENED`, 4 `ATC_REQUIRED`. */
            pub flags: u8, "Flags", Show::Bits(&[
                Bits::flag(0, "REQ_WO_PASID_NESTED_NOTALLOWED"),
                Bits::flag(1, "REQ_WO_PASID_PWSNP_NOTALLOWED"),
                Bits::flag(2, "REQ_WO_PASID_PGSNP_NOTALLOWED"),
                Bits::flag(3, "ATC_HARDENED"),
                Bits::flag(4, "ATC_REQUIRED"),
            ]);
        3: /** Reserved. */ pub reserved: u8, "Reserved";
        4: /** I/O APIC ID, HPET number or ACPI device number; reserved for PCI. */
            pub enumeration_id: u8, "Enumeration ID";
        5: /** Bus of the first hop. */ pub start_bus: u8, "Start Bus Number";
    }
}
