//! Device table entries (AMD I/O Virtualization 2.2.2): 32 bytes, indexed by the requester ID.

use bitfield_struct::bitfield;

/// Bytes of one device table entry.
pub const DEVICE_TABLE_ENTRY_SIZE: u64 = 32;

/// Bits 63:0 of a device table entry (2.2.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct DeviceTableEntry0 {
    /// Valid. Where 0, requests pass untranslated.
    pub v: bool,
    /// Translation information valid: bits 191:0 but those of interrupts.
    pub tv: bool,
    #[bits(5)]
    __: u8,
    /// Host access and dirty: 0 none, 1 the IOMMU sets Accessed, 3 Accessed and Dirty; 2 is reserved.
    #[bits(2)]
    pub had: u8,
    /// Paging mode: 0 none, 1 to 6 levels; 7 is reserved.
    #[bits(3)]
    pub mode: u8,
    /// Host page table root, bits 51:12.
    #[bits(40)]
    pub host_page_table_root: u64,
    /// Peripheral page requests are allowed.
    pub ppr: bool,
    /// Guest PPR response with PASID.
    pub gprp: bool,
    /// Guest I/O protection valid: requests without PASID use the guest tables of PASID 0.
    pub giov: bool,
    /// Guest translation valid.
    pub gv: bool,
    /// Levels of the guest CR3 table, less one.
    #[bits(2)]
    pub glx: u8,
    /// Guest CR3 table root, bits 14:12.
    #[bits(3)]
    pub gcr3_trp_14_12: u8,
    /// Reads are permitted.
    pub ir: bool,
    /// Writes are permitted.
    pub iw: bool,
    #[bits(1)]
    __: u8,
}

/// Bits 127:64 of a device table entry (2.2.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct DeviceTableEntry1 {
    /// Domain ID.
    pub domain_id: u16,
    /// Guest CR3 table root, bits 30:15.
    pub gcr3_trp_30_15: u16,
    /// IOTLB enable: the device may use ATS.
    pub i: bool,
    /// Suppress I/O page fault events after the first.
    pub se: bool,
    /// Suppress all I/O page fault events.
    pub sa: bool,
    /// Port I/O control: 0 aborted, 1 passed, 2 translated; 3 is reserved.
    #[bits(2)]
    pub ioctl: u8,
    /// Cache: the IOMMU should not cache the page table entries of translation requests.
    pub cache: bool,
    /// Snoop disable of page table walks.
    pub sd: bool,
    /// Allow exclusion: the exclusion range applies to the device.
    pub ex: bool,
    /// System management messages: 0 blocked, 1 all passed, 2 interrupt messages passed, 3 translated.
    #[bits(2)]
    pub sysmgt: u8,
    /// Secure ATS enable.
    pub sats: bool,
    /// Guest CR3 table root, bits 51:31.
    #[bits(21)]
    pub gcr3_trp_51_31: u32,
}

/// Bits 191:128 of a device table entry (2.2.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct DeviceTableEntry2 {
    /// Interrupt map valid. Where 0, interrupts pass unmapped.
    pub iv: bool,
    /// Interrupt table length: log2 of its entries, up to 11.
    #[bits(4)]
    pub inttablen: u8,
    /// Ignore unmapped interrupts: no event for them.
    pub ig: bool,
    /// Interrupt table root, bits 51:6.
    #[bits(46)]
    pub interrupt_table_root: u64,
    #[bits(2)]
    __: u8,
    /// Guest paging mode: 0 four levels, 1 five.
    #[bits(2)]
    pub guest_paging_mode: u8,
    /// INIT passes unmapped.
    pub init_pass: bool,
    /// External interrupts pass unmapped.
    pub eint_pass: bool,
    /// NMI passes unmapped.
    pub nmi_pass: bool,
    /// Host page table mode for SEV-SNP.
    pub hptmode: bool,
    /// Fixed and arbitrated interrupts: 0 aborted, 1 passed unmapped, 2 remapped; 3 is reserved.
    #[bits(2)]
    pub intctl: u8,
    /// Legacy PIC interrupts (LINT0) pass unmapped.
    pub lint0_pass: bool,
    /// Legacy NMI (LINT1) passes unmapped.
    pub lint1_pass: bool,
}

/// Bits 255:192 of a device table entry (2.2.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct DeviceTableEntry3 {
    #[bits(15)]
    __: u16,
    /// The device belongs to a guest with a virtual IOMMU.
    pub vimu_en: bool,
    /// Guest ID.
    pub guest_id: u16,
    /// Guest device ID.
    pub gdevice_id: u16,
    #[bits(6)]
    __: u8,
    /// Attribute override valid.
    pub attrv: bool,
    /// What the FC bit of untranslated pages is taken for.
    pub mode0fc: bool,
    /// Guest page attributes forced for each memory type.
    pub snoop_attribute: u8,
}

/// A device table entry (2.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DeviceTableEntry {
    /// Bits 63:0.
    pub q0: DeviceTableEntry0,
    /// Bits 127:64.
    pub q1: DeviceTableEntry1,
    /// Bits 191:128.
    pub q2: DeviceTableEntry2,
    /// Bits 255:192.
    pub q3: DeviceTableEntry3,
}

impl DeviceTableEntry {
    /// From the four 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 4]) -> Self {
        Self {
            q0: DeviceTableEntry0::from_bits(words[0]),
            q1: DeviceTableEntry1::from_bits(words[1]),
            q2: DeviceTableEntry2::from_bits(words[2]),
            q3: DeviceTableEntry3::from_bits(words[3]),
        }
    }

    /// The four 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 4] {
        [self.q0.into_bits(), self.q1.into_bits(), self.q2.into_bits(), self.q3.into_bits()]
    }

    /// The host page table's address in bytes.
    #[must_use]
    pub const fn host_page_table(self) -> u64 {
        self.q0.host_page_table_root() << 12
    }

    /// The guest CR3 table's address in bytes, put together from its three fields.
    #[must_use]
    pub const fn guest_cr3_table(self) -> u64 {
        (self.q0.gcr3_trp_14_12() as u64) << 12
            | (self.q1.gcr3_trp_30_15() as u64) << 15
            | (self.q1.gcr3_trp_51_31() as u64) << 31
    }

    /// Writes the guest CR3 table's address into its three fields; bits 11:0 and 63:52 are cut off.
    #[must_use]
    pub const fn with_guest_cr3_table(self, address: u64) -> Self {
        Self {
            q0: self.q0.with_gcr3_trp_14_12((address >> 12 & 7) as u8),
            q1: self
                .q1
                .with_gcr3_trp_30_15((address >> 15) as u16)
                .with_gcr3_trp_51_31((address >> 31 & 0x1f_ffff) as u32),
            ..self
        }
    }

    /// The interrupt remapping table's address in bytes.
    #[must_use]
    pub const fn interrupt_table(self) -> u64 {
        self.q2.interrupt_table_root() << 6
    }

    /// Entries of the interrupt remapping table; `None` for lengths that are reserved.
    #[must_use]
    pub const fn interrupt_table_entries(self) -> Option<u32> {
        let length = self.q2.inttablen();
        if length > 11 { None } else { Some(1 << length) }
    }
}
