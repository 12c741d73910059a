//! The Extended Feature register (AMD I/O Virtualization 3.4.2, MMIO 0x30), whose image the IVRS table holds and Linux shows.

use bitfield_struct::bitfield;

/// Extended features. Bits that are reserved, or belong to system management and log tuning, are left out.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct ExtendedFeature {
    /// Prefetch command.
    pub prefsup: bool,
    /// Peripheral page requests.
    pub pprsup: bool,
    /// x2APIC.
    pub xtsup: bool,
    /// No-execute.
    pub nxsup: bool,
    /// Guest translation.
    pub gtsup: bool,
    #[bits(1)]
    __: u8,
    /// Invalidate-all command.
    pub iasup: bool,
    /// Guest virtual APIC.
    pub gasup: bool,
    /// Hardware error registers.
    pub hesup: bool,
    /// Performance counters.
    pub pcsup: bool,
    /// Host tables: 0 four levels, 1 five, 2 six; 3 is reserved.
    #[bits(2)]
    pub hats: u8,
    /// Guest tables: 0 four levels, 1 five.
    #[bits(2)]
    pub gats: u8,
    /// Levels of the guest CR3 table, less one.
    #[bits(2)]
    pub glxsup: u8,
    #[bits(5)]
    __: u8,
    /// Guest virtual APIC modes.
    #[bits(3)]
    pub gamsup: u8,
    __: u8,
    /// PASID bits, less one.
    #[bits(5)]
    pub pasmax: u8,
    /// User and supervisor pages.
    pub ussup: bool,
    /// Device table segments: 0 one, 1 two, 2 four, 3 eight.
    #[bits(2)]
    pub devtblsegsup: u8,
    #[bits(8)]
    __: u8,
    /// Guest I/O protection.
    pub giosup: bool,
    /// Host Accessed bit.
    pub hasup: bool,
    /// Enhanced page request handling.
    pub ephsup: bool,
    #[bits(1)]
    __: u8,
    /// Host Dirty bit.
    pub hdsup: bool,
    #[bits(10)]
    __: u16,
    /// Secure nested paging (SEV-SNP).
    pub snpsup: bool,
}

impl ExtendedFeature {
    /// Levels of the host tables.
    #[must_use]
    pub const fn host_levels(self) -> u8 {
        4 + self.hats()
    }

    /// PASID bits, where guest translation is there.
    #[must_use]
    pub const fn pasid_bits(self) -> u8 {
        if self.gtsup() { self.pasmax() + 1 } else { 0 }
    }
}
