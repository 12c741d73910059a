//! MSI page-table entries (RISC-V AIA 9.5; RISC-V IOMMU 2.3.3).

use bitfield_struct::bitfield;

/// The first word of an MSI page-table entry in basic mode (`m` 3): the address of an interrupt file.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct MsiPteBasic {
    /// Valid.
    pub v: bool,
    /// Mode: 3 basic, 1 memory-resident interrupt file.
    #[bits(2)]
    pub m: u8,
    #[bits(7)]
    __: u8,
    /// The interrupt file's page.
    #[bits(44)]
    pub ppn: u64,
    #[bits(9)]
    __: u16,
    /// Custom.
    pub c: bool,
}

/// The first word of an MSI page-table entry in MRIF mode (`m` 1): a memory-resident interrupt file.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct MsiPteMrif {
    /// Valid.
    pub v: bool,
    /// Mode: 3 basic, 1 memory-resident interrupt file.
    #[bits(2)]
    pub m: u8,
    #[bits(4)]
    __: u8,
    /// The memory-resident interrupt file's address, bits 55:9.
    #[bits(47)]
    pub mrif_address: u64,
    #[bits(9)]
    __: u16,
    /// Custom.
    pub c: bool,
}

/// The second word in MRIF mode: the notice MSI.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct MsiPteNotice {
    /// Notice identity, bits 9:0.
    #[bits(10)]
    pub nid: u16,
    /// Notice page.
    #[bits(44)]
    pub nppn: u64,
    #[bits(6)]
    __: u8,
    /// Notice identity, bit 10.
    pub nid_10: bool,
    #[bits(3)]
    __: u8,
}
