//! Host page-table entries (AMD I/O Virtualization 2.2.3).

use bitfield_struct::bitfield;

/// An entry of a host page table at any level (2.2.3). `next_level` 0 ends the walk at the level's page size, 7 at a size that
/// the address encodes, and other values point to a table of that level.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct HostPageTableEntry {
    /// Present.
    pub pr: bool,
    #[bits(4)]
    __: u8,
    /// Accessed.
    pub a: bool,
    /// Dirty.
    pub d: bool,
    #[bits(2)]
    __: u8,
    /// Level of the table that it points to.
    #[bits(3)]
    pub next_level: u8,
    /// Page or table, bits 51:12.
    #[bits(40)]
    pub address: u64,
    #[bits(7)]
    __: u8,
    /// Attribute U of ATS responses.
    pub u: bool,
    /// Force coherent.
    pub fc: bool,
    /// Reads are permitted.
    pub ir: bool,
    /// Writes are permitted.
    pub iw: bool,
    #[bits(1)]
    __: u8,
}
