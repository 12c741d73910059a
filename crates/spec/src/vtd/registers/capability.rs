//! VER_REG, CAP_REG and ECAP_REG (VT-d 11.4.1 to 11.4.3).

use bitfield_struct::bitfield;

/// VER_REG (VT-d 11.4.1): architecture version.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ver {
    /// Minor version.
    #[bits(4)]
    pub min: u8,
    /// Major version.
    #[bits(4)]
    pub max: u8,
    #[bits(24)]
    __: u32,
}

/// CAP_REG (VT-d 11.4.2): capabilities.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cap {
    /// Number of domains supported: `2^(4 + 2*nd)`; 7 is reserved.
    #[bits(3)]
    pub nd: u8,
    /// Advanced fault logging.
    pub afl: bool,
    /// Write-buffer flushing is required.
    pub rwbf: bool,
    /// Protected low-memory region.
    pub plmr: bool,
    /// Protected high-memory region.
    pub phmr: bool,
    /// Caching mode: not-present and erroneous entries may be cached.
    pub cm: bool,
    /// Supported adjusted guest address widths: bit 1 is 39 bits (3 levels), bit 2 is 48 (4), bit 3 is 57 (5).
    #[bits(5)]
    pub sagaw: u8,
    #[bits(3)]
    __: u8,
    /// Maximum guest address width, less one.
    #[bits(6)]
    pub mgaw: u8,
    /// Zero-length reads to write-only pages are supported.
    pub zlr: bool,
    #[bits(1)]
    __: u8,
    /// Fault recording register offset, in units of 16 bytes.
    #[bits(10)]
    pub fro: u16,
    /// Second-stage large page support: bit 0 is 2 MiB, bit 1 is 1 GiB.
    #[bits(4)]
    pub sslps: u8,
    #[bits(1)]
    __: u8,
    /// Page-selective invalidation.
    pub psi: bool,
    /// Number of fault recording registers, less one.
    pub nfr: u8,
    /// Maximum address mask value of a page-selective invalidation.
    #[bits(6)]
    pub mamv: u8,
    /// Write draining.
    pub dwd: bool,
    /// Read draining.
    pub drd: bool,
    /// First-stage 1 GiB pages.
    pub fs1gp: bool,
    #[bits(2)]
    __: u8,
    /// Posted interrupts.
    pub pi: bool,
    /// First-stage 5-level paging.
    pub fs5lp: bool,
    /// Enhanced commands.
    pub ecmds: bool,
    /// Setting the interrupt remapping table pointer invalidates the interrupt entry cache.
    pub esirtps: bool,
    /// Setting the root table pointer invalidates all remapping caches.
    pub esrtps: bool,
}

impl Cap {
    /// How many domain IDs are supported (`nd`); the reserved encoding counts as 16 bits.
    #[must_use]
    pub const fn domains(self) -> u32 {
        match self.nd() {
            nd @ 0..=5 => 1 << (4 + 2 * nd),
            _ => 1 << 16,
        }
    }

    /// Maximum guest address width in bits.
    #[must_use]
    pub const fn guest_address_bits(self) -> u8 {
        self.mgaw() + 1
    }

    /// Byte offset of the first fault recording register.
    #[must_use]
    pub const fn fault_recording_offset(self) -> u64 {
        self.fro() as u64 * 16
    }

    /// How many fault recording registers there are, 1 to 256.
    #[must_use]
    pub const fn fault_recording_registers(self) -> u16 {
        self.nfr() as u16 + 1
    }

    /// Whether second-stage tables of `levels` levels (3, 4, 5) are supported (`sagaw`).
    #[must_use]
    pub const fn supports_levels(self, levels: u8) -> bool {
        levels >= 3 && levels <= 5 && self.sagaw() & (1 << (levels - 2)) != 0
    }
}

/// ECAP_REG (VT-d 11.4.3): extended capabilities.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ecap {
    /// Page-walk coherency: accesses to legacy-mode tables snoop processor caches.
    pub c: bool,
    /// Queued invalidation.
    pub qi: bool,
    /// Device-TLBs.
    pub dt: bool,
    /// Interrupt remapping.
    pub ir: bool,
    /// Extended interrupt mode (x2APIC).
    pub eim: bool,
    #[bits(1)]
    __: u8,
    /// Pass-through.
    pub pt: bool,
    /// Snoop control.
    pub sc: bool,
    /// IOTLB register offset, in units of 16 bytes.
    #[bits(10)]
    pub iro: u16,
    #[bits(2)]
    __: u8,
    /// Maximum handle mask value of an interrupt entry invalidation.
    #[bits(4)]
    pub mhmv: u8,
    #[bits(1)]
    __: u8,
    /// Memory types in first-stage and extended tables.
    pub mts: bool,
    /// Nested translation.
    pub nest: bool,
    #[bits(2)]
    __: u8,
    /// Page requests.
    pub prs: bool,
    /// Execute requests.
    pub ers: bool,
    /// Supervisor requests.
    pub srs: bool,
    #[bits(1)]
    __: u8,
    /// The no-write flag of translation requests.
    pub nwfs: bool,
    /// Extended accessed flags.
    pub eafs: bool,
    /// PASID size supported, in bits less one.
    #[bits(5)]
    pub pss: u8,
    /// Requests with PASID.
    pub pasid: bool,
    /// Device-TLB invalidation throttling.
    pub dit: bool,
    /// Page-request draining.
    pub pds: bool,
    /// Scalable-mode translation.
    pub smts: bool,
    /// Virtual commands.
    pub vcs: bool,
    /// Second-stage accessed and dirty flags.
    pub ssads: bool,
    /// Second-stage translation in scalable mode.
    pub ssts: bool,
    /// First-stage translation in scalable mode.
    pub fsts: bool,
    /// Scalable-mode page-walk coherency.
    pub smpwcs: bool,
    /// The RID_PASID field.
    pub rps: bool,
    #[bits(1)]
    __: u8,
    /// Performance monitoring.
    pub pms: bool,
    /// Abort-DMA mode.
    pub adms: bool,
    /// The RID_PRIV field.
    pub rprivs: bool,
    #[bits(4)]
    __: u8,
    /// Stop markers.
    pub sms: bool,
    #[bits(5)]
    __: u8,
}

impl Ecap {
    /// Byte offset of IVA_REG; IOTLB_REG follows 8 bytes later.
    #[must_use]
    pub const fn iotlb_offset(self) -> u64 {
        self.iro() as u64 * 16
    }

    /// How many bits of a PASID are supported; 0 where PASIDs are not.
    #[must_use]
    pub const fn pasid_bits(self) -> u8 {
        if self.pasid() { self.pss() + 1 } else { 0 }
    }
}
