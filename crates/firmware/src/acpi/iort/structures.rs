//! The fixed parts of IORT's nodes, field by field.

use crate::acpi::layout::{Bits, Show, record};

record! {
    /// What follows the header (IORT 3, table 2), from byte 36 of the table.
    pub(super) struct Info, 12 bytes {
        0: u32, "Number of IORT Nodes";
        4: u32, "Offset to Array of IORT Nodes";
        8: /** Reserved. */ pub reserved: u32, "Reserved";
    }
}

record! {
    /// What every node begins with (IORT 3.1, table 3).
    pub(super) struct NodeInfo, 16 bytes {
        0: u8, "Type", Show::Values(&[
            (0, "ITS Group"),
            (1, "Named Component"),
            (2, "Root Complex"),
            (3, "SMMUv1 or SMMUv2"),
            (4, "SMMUv3"),
            (5, "PMCG"),
            (6, "Memory Range"),
        ]);
        1: u16, "Length";
        3: /** Revision of the node. */ pub revision: u8, "Revision";
        4: /** Identifier, unique in the table; reserved (zero) before IORT E. */ pub identifier: u32, "Identifier";
        8: u32, "Number of ID Mappings";
        12: u32, "Reference to ID Array";
    }
}

record! {
    /// One ID mapping (IORT 3.1.1.6, table 4) without its reference.
    pub struct MappingInfo, 20 bytes {
        0: /** Lowest input ID. */ pub input_base: u32, "Input Base";
        4: /** Number of IDs, less one. */ pub id_count: u32, "Number of IDs", Show::Explained(|count| {
            Some(alloc::format!("{} IDs", count + 1))
        });
        8: /** Lowest output ID. */ pub output_base: u32, "Output Base";
        12: u32, "Output Reference";
        16: /** Flags: 0 single mapping. */ pub flags: u32, "Flags", Show::Bits(&[
            Bits::means(0, "Single Mapping", &[(1, "the input ID does not count")]),
        ]);
    }
}

record! {
    /// ITS group (IORT 3.1.1.1) without its identifiers.
    pub(super) struct ItsInfo, 4 bytes {
        0: u32, "Number of ITSs";
    }
}

/// Memory access properties, bits of `Hints` (IORT table 15).
const HINTS: Show = Show::Bits(&[
    Bits::flag(0, "Transient"),
    Bits::flag(1, "Write Allocate"),
    Bits::flag(2, "Read Allocate"),
    Bits::flag(3, "Override"),
]);
/// Memory access properties, bits of `Memory Access Flags`.
const MEMORY_FLAGS: Show = Show::Bits(&[Bits::flag(0, "CPM"), Bits::flag(1, "DACS")]);
const COHERENCY: Show = Show::Values(&[(0, "not coherent"), (1, "coherent")]);

record! {
    /// Named component (IORT 3.1.1.5) without its name.
    pub struct NamedComponent, 13 bytes {
        0: /** Flags: 0 stall supported, 5:1 substream width. */ pub flags: u32, "Node Flags", Show::Bits(&[
            Bits::flag(0, "Stall Supported"),
            Bits::field(5, 1, "Substream Width"),
        ]);
        4: /** 1 where accesses are coherent. */ pub cache_coherency: u32, "Cache Coherent Attribute", COHERENCY;
        8: /** Allocation hints. */ pub hints: u8, "Allocation Hints", HINTS;
        9: /** Reserved. */ pub reserved: u16, "Reserved";
        11: /** Flags: 0 CPM, 1 DACS. */ pub memory_flags: u8, "Memory Access Flags", MEMORY_FLAGS;
        12: /** Address bits that it drives. */ pub memory_address_limit: u8, "Device Memory Address Size Limit";
    }
}

record! {
    /// Root complex (IORT 3.1.1.4).
    pub struct RootComplex, 24 bytes {
        0: /** 1 where accesses are coherent. */ pub cache_coherency: u32, "Cache Coherent Attribute", COHERENCY;
        4: /** Allocation hints. */ pub hints: u8, "Allocation Hints", HINTS;
        5: /** Reserved. */ pub reserved1: u16, "Reserved";
        7: /** Flags: 0 CPM, 1 DACS. */ pub memory_flags: u8, "Memory Access Flags", MEMORY_FLAGS;
        8: /** ATS attribute: 0 ATS, 1 PRI, 2 PASID forwarding supported. */
            pub ats_attribute: u32, "ATS Attribute", Show::Bits(&[
                Bits::flag(0, "ATS Supported"),
                Bits::flag(1, "PRI Supported"),
                Bits::flag(2, "PASID Forwarding Supported"),
            ]);
        12: /** PCI segment. */ pub segment: u32, "PCI Segment Number";
        16: /** Address bits that it drives. */ pub memory_address_limit: u8, "Memory Address Size Limit";
        17: /** PASID capabilities: 4:0 maximum PASID width. */
            pub pasid_capabilities: u16, "PASID Capabilities", Show::Bits(&[Bits::field(4, 0, "Max PASID Width")]);
        19: /** Reserved. */ pub reserved2: u8, "Reserved";
        20: /** Flags, from node revision 4 on: 0 PASID support. */ pub flags: u32, "Flags", Show::Bits(&[
            Bits::flag(0, "PASID Support"),
        ]);
    }
}

record! {
    /// SMMUv1 or SMMUv2 (IORT 3.1.1.3) without its interrupts.
    pub struct Smmu, 44 bytes {
        0: /** Register base. */ pub base: u64, "Base Address";
        8: /** Bytes of registers. */ pub span: u64, "Span";
        16: /** Model. */ pub model: u32, "Model", Show::Values(&[
            (0, "Generic SMMUv1"),
            (1, "Generic SMMUv2"),
            (2, "Arm CoreLink MMU-400"),
            (3, "Arm CoreLink MMU-500"),
            (4, "Arm CoreLink MMU-401"),
            (5, "Cavium ThunderX SMMUv2"),
        ]);
        20: /** Flags: 0 DVM supported, 1 coherent page table walk. */ pub flags: u32, "Flags", Show::Bits(&[
            Bits::flag(0, "DVM Supported"),
            Bits::flag(1, "Coherent Page Table Walk"),
        ]);
        24: u32, "Reference to Global Interrupt Array";
        28: u32, "Number of Context Interrupts";
        32: u32, "Reference to Context Interrupt Array";
        36: u32, "Number of PMU Interrupts";
        40: u32, "Reference to PMU Interrupt Array";
    }
}

/// Flags of an SMMUv1/2 interrupt.
const INTERRUPT_FLAGS: Show = Show::Bits(&[Bits::means(0, "Edge Triggered", &[(0, "level"), (1, "edge")])]);

record! {
    /// An interrupt of an SMMUv1 or SMMUv2.
    pub struct Interrupt, 8 bytes {
        0: /** Global system interrupt. */ pub gsiv: u32, "GSIV";
        4: /** Flags: 0 edge triggered. */ pub flags: u32, "Interrupt Flags", INTERRUPT_FLAGS;
    }
}

record! {
    /// The global interrupts of an SMMUv1 or SMMUv2 (IORT table 10).
    pub struct GlobalInterrupts, 16 bytes {
        0: /** Global fault. */ pub fault: u32, "SMMU_NSgIrpt GSIV";
        4: /** Flags: 0 edge triggered. */ pub fault_flags: u32, "SMMU_NSgIrpt Interrupt Flags", INTERRUPT_FLAGS;
        8: /** Configuration access fault. */ pub configuration: u32, "SMMU_NSgCfgIrpt GSIV";
        12: /** Flags: 0 edge triggered. */
            pub configuration_flags: u32, "SMMU_NSgCfgIrpt Interrupt Flags", INTERRUPT_FLAGS;
    }
}

record! {
    /// SMMUv3 (IORT 3.1.1.2).
    pub struct SmmuV3, 52 bytes {
        0: /** Register base. */ pub base: u64, "Base Address";
        8: /** Flags: 0 COHACC override, 2:1 HTTU override, 3 proximity domain valid, 4 DeviceID mapping index valid. */
            pub flags: u32, "Flags", Show::Bits(&[
                Bits::flag(0, "COHACC Override"),
                Bits::values(2, 1, "HTTU Override", &[
                    (0, "none"),
                    (1, "access flag"),
                    (3, "access flag and dirty state"),
                ]),
                Bits::flag(3, "Proximity Domain Valid"),
                Bits::flag(4, "DeviceID Mapping Index Valid"),
            ]);
        12: /** Reserved. */ pub reserved: u32, "Reserved";
        16: /** Base of the virtual ATOS registers, or 0. */ pub vatos: u64, "VATOS Address";
        24: /** Model. */ pub model: u32, "Model", Show::Values(&[
            (0, "Generic SMMUv3"),
            (1, "HiSilicon Hi161x SMMUv3"),
            (2, "Cavium CN99xx SMMUv3"),
        ]);
        28: /** Event queue interrupt, 0 where it is a message. */ pub event_gsiv: u32, "Event GSIV";
        32: /** Page request queue interrupt. */ pub pri_gsiv: u32, "PRI GSIV";
        36: /** Global error interrupt. */ pub gerr_gsiv: u32, "GERR GSIV";
        40: /** Command sync interrupt. */ pub sync_gsiv: u32, "Sync GSIV";
        44: /** NUMA proximity domain. */ pub proximity_domain: u32, "Proximity Domain";
        48: /** Which ID mapping holds the DeviceID of its own messages. */
            pub device_id_mapping_index: u32, "DeviceID Mapping Index";
    }
}

record! {
    /// Performance monitoring counter group (IORT 3.1.1.7) without its node reference.
    pub struct Pmcg, 24 bytes {
        0: /** Page 0 registers. */ pub page0_base: u64, "Page 0 Base Address";
        8: /** Overflow interrupt, 0 where it is a message. */ pub overflow_gsiv: u32, "Overflow Interrupt GSIV";
        12: u32, "Node Reference";
        16: /** Page 1 registers. */ pub page1_base: u64, "Page 1 Base Address";
    }
}

record! {
    /// Reserved memory range (IORT 3.1.1.8) without its descriptors.
    pub struct Rmr, 12 bytes {
        0: /** Flags: 0 remapping permitted, 1 access privileged, 9:2 access attributes. */
            pub flags: u32, "Flags", Show::Bits(&[
                Bits::flag(0, "Remapping Permitted"),
                Bits::flag(1, "Access Privileged"),
                Bits::values(9, 2, "Access Attributes", &[
                    (0, "Device-nGnRnE memory"),
                    (1, "Device-nGnRE memory"),
                    (2, "Device-nGRE memory"),
                    (3, "Device-GRE memory"),
                    (4, "Normal inner non-cacheable, outer non-cacheable memory"),
                    (5, "Normal inner write-back cacheable, outer write-back cacheable memory"),
                ]),
            ]);
        4: u32, "Number of Memory Range Descriptors";
        8: u32, "Reference to Memory Range Descriptors";
    }
}

record! {
    /// A memory range descriptor (IORT 3.1.1.8).
    pub struct RmrDescriptor, 20 bytes {
        0: /** First byte. */ pub base: u64, "Physical Range Offset";
        8: /** Bytes. */ pub length: u64, "Physical Range Length";
        16: /** Reserved. */ pub reserved: u32, "Reserved";
    }
}
