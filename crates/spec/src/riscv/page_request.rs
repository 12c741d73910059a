//! Page-request records (RISC-V IOMMU 3.3): 16 bytes each.

use bitfield_struct::bitfield;

/// Bytes of a page-request record.
pub const PAGE_REQUEST_SIZE: u64 = 16;

/// The first word of a page-request record.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageRequestHeader {
    #[bits(12)]
    __: u16,
    /// PASID.
    #[bits(20)]
    pub pid: u32,
    /// `pid` is valid.
    pub pv: bool,
    /// Privileged.
    pub r#priv: bool,
    /// Execute requested.
    pub exec: bool,
    #[bits(5)]
    __: u8,
    /// device_id.
    #[bits(24)]
    pub did: u32,
}

/// The second word of a page-request record: the message's payload.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageRequestPayload {
    /// Read.
    pub r: bool,
    /// Write.
    pub w: bool,
    /// Last of its group.
    pub l: bool,
    /// Page-request group index.
    #[bits(9)]
    pub prgi: u16,
    /// Address bits 63:12.
    #[bits(52)]
    pub page: u64,
}
