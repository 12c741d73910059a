//! The fixed parts of IVRS's blocks and entries, field by field.

use crate::acpi::layout::{Bits, Show, record};

/// Block types (AMD I/O Virtualization 5.2.2).
const TYPES: Show = Show::Values(&[
    (0x10, "I/O Virtualization Hardware Definition (IVHD), basic"),
    (0x11, "I/O Virtualization Hardware Definition (IVHD), with EFR image"),
    (0x20, "I/O Virtualization Memory Definition (IVMD), all devices"),
    (0x21, "I/O Virtualization Memory Definition (IVMD), one device"),
    (0x22, "I/O Virtualization Memory Definition (IVMD), range of devices"),
    (0x40, "I/O Virtualization Hardware Definition (IVHD), with EFR image and ACPI devices"),
]);

/// A requester ID as people write it.
fn requester_id(id: u64) -> Option<alloc::string::String> {
    Some(alloc::format!("{:02x}:{:02x}.{:x}", id >> 8 & 0xff, id >> 3 & 0x1f, id & 7))
}
const REQUESTER_ID: Show = Show::Explained(requester_id);

record! {
    /// What IVRS says of the platform (AMD I/O Virtualization 5.2.1), from byte 36 of the table.
    pub struct PlatformInfo, 12 bytes {
        0: /** IVinfo: 0 EFRSup, 1 DMA remap support, 7:5 GVASize, 14:8 PASize, 21:15 VASize, 22 HtAtsResv. */
            pub iv_info: u32, "IVinfo", Show::Bits(&[
                Bits::means(0, "EFRSup", &[(1, "the EFR images are valid")]),
                Bits::means(1, "DmaRemapSup", &[(1, "firmware supports and recommends DMA remapping")]),
                Bits::values(7, 5, "GVASize", &[(2, "48 bits")]),
                Bits::field(14, 8, "PASize"),
                Bits::field(21, 15, "VASize"),
                Bits::means(22, "HtAtsResv", &[(1, "the HyperTransport ATS response range is reserved")]),
            ]);
        4: /** Reserved. */ pub reserved: u64, "Reserved";
    }
}

record! {
    /// A block whose type is not known.
    pub(super) struct Unknown, 4 bytes {
        0: /** Type. */ pub kind: u8, "Type", TYPES;
        1: /** Flags. */ pub flags: u8, "Flags";
        2: u16, "Length";
    }
}

/// Info field of an IVHD.
const INFO: Show = Show::Bits(&[Bits::field(4, 0, "MSInum"), Bits::field(12, 8, "UnitID")]);

record! {
    /// IVHD type 10h (AMD I/O Virtualization 5.2.2.1).
    pub struct Ivhd10, 24 bytes {
        0: u8, "Type", TYPES;
        1: /** Flags: 0 HtTunEn, 1 PassPW, 2 ResPassPW, 3 Isoc, 4 IotlbSup, 5 Coherent, 6 PreFSup, 7 PPRSup. */
            pub flags: u8, "Flags", Show::Bits(&[
                Bits::flag(0, "HtTunEn"),
                Bits::flag(1, "PassPW"),
                Bits::flag(2, "ResPassPW"),
                Bits::flag(3, "Isoc"),
                Bits::flag(4, "IotlbSup"),
                Bits::flag(5, "Coherent"),
                Bits::flag(6, "PreFSup"),
                Bits::flag(7, "PPRSup"),
            ]);
        2: u16, "Length";
        4: /** Requester ID of the IOMMU. */ pub device_id: u16, "DeviceID", REQUESTER_ID;
        6: /** Capability offset in its configuration space. */ pub capability_offset: u16, "Capability Offset";
        8: /** Base of its registers. */ pub base: u64, "IOMMU Base Address";
        16: /** PCI segment. */ pub segment: u16, "PCI Segment Group";
        18: /** 4:0 MSInum, 12:8 UnitID. */ pub info: u16, "IOMMU Info", INFO;
        20: /** IOMMU feature info. */ pub features: u32, "IOMMU Feature Info", Show::Bits(&[
                Bits::flag(0, "XTSup"),
                Bits::flag(1, "NXSup"),
                Bits::flag(2, "GTSup"),
                Bits::field(4, 3, "GLXSup"),
                Bits::flag(5, "IASup"),
                Bits::flag(6, "GASup"),
                Bits::flag(7, "HESup"),
                Bits::field(12, 8, "PASmax"),
                Bits::field(16, 13, "PNCounters"),
                Bits::field(22, 17, "PNBanks"),
                Bits::field(27, 23, "MsiNumPPR"),
                Bits::field(29, 28, "GATS"),
                Bits::field(31, 30, "HATS"),
            ]);
    }
}

record! {
    /// IVHD types 11h and 40h (AMD I/O Virtualization 5.2.2.2, 5.2.2.3).
    pub struct Ivhd11, 40 bytes {
        0: u8, "Type", TYPES;
        1: /** Flags: 0 HtTunEn, 1 PassPW, 2 ResPassPW, 3 Isoc, 4 IotlbSup, 5 Coherent. */
            pub flags: u8, "Flags", Show::Bits(&[
                Bits::flag(0, "HtTunEn"),
                Bits::flag(1, "PassPW"),
                Bits::flag(2, "ResPassPW"),
                Bits::flag(3, "Isoc"),
                Bits::flag(4, "IotlbSup"),
                Bits::flag(5, "Coherent"),
                Bits::field(7, 6, "Reserved"),
            ]);
        2: u16, "Length";
        4: /** Requester ID of the IOMMU. */ pub device_id: u16, "DeviceID", REQUESTER_ID;
        6: /** Capability offset in its configuration space. */ pub capability_offset: u16, "Capability Offset";
        8: /** Base of its registers. */ pub base: u64, "IOMMU Base Address";
        16: /** PCI segment. */ pub segment: u16, "PCI Segment Group";
        18: /** 4:0 MSInum, 12:8 UnitID. */ pub info: u16, "IOMMU Info", INFO;
        20: /** IOMMU attributes. */ pub attributes: u32, "IOMMU Attributes", Show::Bits(&[
                Bits::field(16, 13, "PNCounters"),
                Bits::field(22, 17, "PNBanks"),
                Bits::field(27, 23, "MsiNumPPR"),
            ]);
        24: /** Image of the Extended Feature register (MMIO 30h). */
            pub efr: u64, "EFR Register Image";
        32: /** Image of the Extended Feature 2 register (MMIO 1A0h). */
            pub efr2: u64, "EFR2 Register Image";
    }
}

record! {
    /// IVMD (AMD I/O Virtualization 5.2.2.6).
    pub struct Ivmd, 32 bytes {
        0: /** Type: 20h all devices, 21h one, 22h a range. */ pub kind: u8, "Type", TYPES;
        1: /** Flags: 0 Unity, 1 IR, 2 IW, 3 ExclusionRange. */
            pub flags: u8, "Flags", Show::Bits(&[
                Bits::means(0, "Unity", &[(1, "must stay mapped one to one")]),
                Bits::means(1, "IR", &[(1, "devices read it")]),
                Bits::means(2, "IW", &[(1, "devices write it")]),
                Bits::means(3, "ExclusionRange", &[(1, "accesses are not translated")]),
            ]);
        2: u16, "Length";
        4: /** Device, or first of the range. */ pub device_id: u16, "DeviceID", REQUESTER_ID;
        6: /** Last of the range (type 22h). */ pub auxiliary_data: u16, "Auxiliary Data";
        8: /** PCI segment; reserved (zero) in early revisions. */ pub segment: u16, "PCI Segment Group";
        10: /** Reserved. */ pub reserved: [u8; 6], "Reserved";
        16: /** First byte. */ pub start: u64, "IVMD Start Address";
        24: /** Bytes. */ pub length: u64, "IVMD Memory Block Length";
    }
}

/// Device entry types (AMD I/O Virtualization 5.2.2.5).
const ENTRY_TYPES: Show = Show::Values(&[
    (0, "padding"),
    (1, "all"),
    (2, "select"),
    (3, "start of range"),
    (4, "end of range"),
    (64, "padding"),
    (66, "alias select"),
    (67, "alias start of range"),
    (70, "extended select"),
    (71, "extended start of range"),
    (72, "special device"),
    (240, "ACPI device"),
]);

/// What a DTE setting lets through.
const DTE_SETTING: Show = Show::Bits(&[
    Bits::flag(0, "INITPass"),
    Bits::flag(1, "EIntPass"),
    Bits::flag(2, "NMIPass"),
    Bits::field(5, 4, "SysMgt"),
    Bits::flag(6, "Lint0Pass"),
    Bits::flag(7, "Lint1Pass"),
]);

record! {
    /// A device entry of four bytes: types 0 to 63.
    pub struct Short, 4 bytes {
        0: /** Type: 0 padding, 1 all, 2 select, 3 start of range, 4 end of range. */
            pub kind: u8, "Type", ENTRY_TYPES;
        1: /** Requester ID. */ pub device_id: u16, "DeviceID", REQUESTER_ID;
        3: /** DTE setting. */ pub dte_setting: u8, "DTE Setting", DTE_SETTING;
    }
}

record! {
    /// An alias entry: types 66 and 67.
    pub struct Alias, 8 bytes {
        0: /** Type: 66 select, 67 start of range. */ pub kind: u8, "Type", ENTRY_TYPES;
        1: /** Requester ID. */ pub device_id: u16, "DeviceID", REQUESTER_ID;
        3: /** DTE setting. */ pub dte_setting: u8, "DTE Setting", DTE_SETTING;
        4: /** Reserved. */ pub reserved1: u8, "Reserved";
        5: /** The requester ID under which its requests arrive. */
            pub source_device_id: u16, "Source DeviceID", REQUESTER_ID;
        7: /** Reserved. */ pub reserved2: u8, "Reserved";
    }
}

record! {
    /// An entry with extended settings: types 70 and 71.
    pub struct Extended, 8 bytes {
        0: /** Type: 70 select, 71 start of range. */ pub kind: u8, "Type", ENTRY_TYPES;
        1: /** Requester ID. */ pub device_id: u16, "DeviceID", REQUESTER_ID;
        3: /** DTE setting. */ pub dte_setting: u8, "DTE Setting", DTE_SETTING;
        4: /** Extended DTE setting: 31 ATSDisabled. */
            pub extended_dte_setting: u32, "Extended DTE Setting", Show::Bits(&[
                Bits::means(31, "ATSDisabled", &[(1, "ATS requests are blocked")]),
            ]);
    }
}

record! {
    /// A special device: type 72.
    pub struct Special, 8 bytes {
        0: u8, "Type", ENTRY_TYPES;
        1: /** Reserved. */ pub reserved: u16, "Reserved";
        3: /** DTE setting. */ pub dte_setting: u8, "DTE Setting", DTE_SETTING;
        4: /** I/O APIC ID or HPET number. */ pub handle: u8, "Handle";
        5: /** The requester ID under which its requests arrive. */
            pub source_device_id: u16, "Source DeviceID", REQUESTER_ID;
        7: /** Variety: 1 IOAPIC, 2 HPET. */
            pub variety: u8, "Variety", Show::Values(&[(1, "IOAPIC"), (2, "HPET")]);
    }
}

record! {
    /// An ACPI device without its `_UID`: type 240.
    pub struct Acpi, 22 bytes {
        0: u8, "Type", ENTRY_TYPES;
        1: /** Requester ID. */ pub device_id: u16, "DeviceID", REQUESTER_ID;
        3: /** DTE setting. */ pub dte_setting: u8, "DTE Setting", DTE_SETTING;
        4: /** `_HID`. */ pub hid: [u8; 8], "HardwareID", Show::Text;
        12: /** `_CID`, or zeros. */ pub cid: [u8; 8], "CompatibleID", Show::Text;
        20: /** Format of the `_UID`: 0 none, 1 integer, 2 string. */
            pub uid_format: u8, "UniqueIDFormat", Show::Values(&[(0, "none"), (1, "integer"), (2, "string")]);
        21: u8, "UniqueIDLength";
    }
}
