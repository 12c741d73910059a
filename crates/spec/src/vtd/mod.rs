//! Intel VT-d (Virtualization Technology for Directed I/O, revision 5), in bits and back.
//!
//! Field names are the specification's, lower case. "VT-d 9.3" in a comment is section 9.3 of that document.
//! What the folders hold:
//!
//! - [`registers`]: every register and its offset (chapter 11);
//! - [`root`], [`context`], [`pasid`]: the tables that lead from a requester to its translation (9.1 to 9.6);
//! - [`paging`]: first- and second-stage paging entries (9.7, 9.8);
//! - [`interrupt`]: interrupt remapping entries, requests, and the posted-interrupt descriptor (5.1, 9.9 to 9.11);
//! - [`invalidation`]: invalidation descriptors, 128 and 256 bits (6.5.2);
//! - [`page_request`]: page requests and the responses to them (7.4);
//! - [`fault`]: fault reasons and fault records (7.1).
//!
//! Register and entry types keep every bit that they were made from, reserved ones too, so that `into_bits` gives back
//! what `from_bits` was given; what is reserved is asked for by name (`reserved_bits`).

pub mod context;
pub mod fault;
pub mod interrupt;
pub mod invalidation;
pub mod page_request;
pub mod paging;
pub mod pasid;
pub mod registers;
pub mod root;

pub use fault::VtdFaultReason;

/// The bits at and above a host address width of `haw` bits: reserved in every address that a table holds
/// (VT-d 9, "reserved bits above the host address width").
#[must_use]
pub const fn address_reserved(haw: u8) -> u64 {
    if haw >= 64 { 0 } else { u64::MAX << haw }
}

/// The first byte of the interrupt address range (VT-d 3.15).
pub const INTERRUPT_ADDRESS_FIRST: u64 = 0xfee0_0000;
/// The last byte of the interrupt address range (VT-d 3.15).
pub const INTERRUPT_ADDRESS_LAST: u64 = 0xfeef_ffff;

/// Whether `address` lies in the interrupt address range, `FEEx_xxxxh` (VT-d 3.15).
#[must_use]
pub const fn is_interrupt_address(address: u64) -> bool {
    address >= INTERRUPT_ADDRESS_FIRST && address <= INTERRUPT_ADDRESS_LAST
}
