//! Device directory entries and device contexts (RISC-V IOMMU 2.1).

use bitfield_struct::bitfield;

use super::msi::InterruptFiles;

/// Bytes of a base-format device context (no MSI translation).
pub const BASE_CONTEXT_SIZE: u64 = 32;
/// Bytes of an extended-format device context (`capabilities.msi_flat`).
pub const EXTENDED_CONTEXT_SIZE: u64 = 64;

/// A non-leaf device directory entry (RISC-V IOMMU 2.1.1). Process directories have the same.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct DeviceDirectoryEntry {
    /// Valid.
    pub v: bool,
    #[bits(9)]
    __: u16,
    /// The next table's page.
    #[bits(44)]
    pub ppn: u64,
    #[bits(10)]
    __: u16,
}

impl DeviceDirectoryEntry {
    /// The bits that must be zero (RISC-V IOMMU 2.1.1).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0xffc0_0000_0000_03fe
    }
}

/// How many device_id bits index each level of the directory, from the leaf up: 7, 9, 8 with base-format contexts, 6, 9,
/// 9 with extended ones (RISC-V IOMMU 2.1).
#[must_use]
pub const fn index_bits(extended: bool) -> [u8; 3] {
    if extended { [6, 9, 9] } else { [7, 9, 8] }
}

/// Translation control (RISC-V IOMMU 2.1.3.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Tc {
    /// Valid.
    pub v: bool,
    /// ATS is allowed.
    pub en_ats: bool,
    /// Page requests are allowed.
    pub en_pri: bool,
    /// Translation requests are answered with guest-physical addresses.
    pub t2gpa: bool,
    /// Disable reporting of faults.
    pub dtf: bool,
    /// `fsc` is a process-directory pointer.
    pub pdtv: bool,
    /// Responses to page requests carry the PASID.
    pub prpr: bool,
    /// Hardware updates A and D in second-stage entries.
    pub gade: bool,
    /// Hardware updates A and D in first-stage entries.
    pub sade: bool,
    /// Requests without a process_id use process_id 0.
    pub dpe: bool,
    /// First-stage tables and the process directory are big-endian.
    pub sbe: bool,
    /// First-stage translation is RV32's.
    pub sxl: bool,
    #[bits(12)]
    __: u16,
    /// Custom.
    pub custom: u8,
    __: u32,
}

impl Tc {
    /// The bits that must be zero (RISC-V IOMMU 2.1.3.1).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0xffff_ffff_00ff_f000
    }
}

/// `iohgatp.mode` for guests of 64 bits (RISC-V IOMMU 2.1.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IohgatpMode {
    /// No second stage.
    Bare,
    /// Sv39x4 (Sv32x4 where `fctl.gxl`).
    Sv39x4,
    /// Sv48x4.
    Sv48x4,
    /// Sv57x4.
    Sv57x4,
}

impl IohgatpMode {
    /// The mode that `bits` encodes, or `None` where they are reserved or custom.
    #[must_use]
    pub const fn decode(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Bare,
            8 => Self::Sv39x4,
            9 => Self::Sv48x4,
            10 => Self::Sv57x4,
            _ => return None,
        })
    }

    /// The bits of `mode`.
    #[must_use]
    pub const fn encode(self) -> u8 {
        match self {
            Self::Bare => 0,
            Self::Sv39x4 => 8,
            Self::Sv48x4 => 9,
            Self::Sv57x4 => 10,
        }
    }
}

/// Second-stage root (RISC-V IOMMU 2.1.3.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iohgatp {
    /// Root page; a multiple of 4, as the root table is 16 KiB.
    #[bits(44)]
    pub ppn: u64,
    /// Guest soft-context ID.
    pub gscid: u16,
    /// Mode; see [`IohgatpMode::decode`].
    #[bits(4)]
    pub mode: u8,
}

/// Translation attributes of a device context (RISC-V IOMMU 2.1.3.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ta {
    #[bits(12)]
    __: u16,
    /// Process soft-context ID.
    #[bits(20)]
    pub pscid: u32,
    __: u8,
    /// Resource control ID (`capabilities.qosid`).
    #[bits(12)]
    pub rcid: u16,
    /// Monitoring counter ID (`capabilities.qosid`).
    #[bits(12)]
    pub mcid: u16,
}

impl Ta {
    /// The bits that must be zero; `rcid` and `mcid` among them where QoS IDs are not supported.
    #[must_use]
    pub const fn reserved_bits(self, qosid: bool) -> u64 {
        self.into_bits() & if qosid { 0xff_0000_0fff } else { 0xffff_ffff_0000_0fff }
    }
}

/// `iosatp.mode` for 64 bits (RISC-V IOMMU 2.1.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IosatpMode {
    /// No first stage.
    Bare,
    /// Sv39 (Sv32 where `tc.sxl`).
    Sv39,
    /// Sv48.
    Sv48,
    /// Sv57.
    Sv57,
}

impl IosatpMode {
    /// The mode that `bits` encodes, or `None` where they are reserved or custom.
    #[must_use]
    pub const fn decode(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Bare,
            8 => Self::Sv39,
            9 => Self::Sv48,
            10 => Self::Sv57,
            _ => return None,
        })
    }

    /// The bits of `mode`.
    #[must_use]
    pub const fn encode(self) -> u8 {
        match self {
            Self::Bare => 0,
            Self::Sv39 => 8,
            Self::Sv48 => 9,
            Self::Sv57 => 10,
        }
    }
}

/// `pdtp.mode` (RISC-V IOMMU 2.1.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PdtpMode {
    /// No process directory: no first stage.
    Bare,
    /// One level, 8 bits.
    Pd8,
    /// Two levels, 17 bits.
    Pd17,
    /// Three levels, 20 bits.
    Pd20,
}

impl PdtpMode {
    /// The mode that `bits` encodes, or `None` where they are reserved or custom.
    #[must_use]
    pub const fn decode(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Bare,
            1 => Self::Pd8,
            2 => Self::Pd17,
            3 => Self::Pd20,
            _ => return None,
        })
    }

    /// The bits of `mode`.
    #[must_use]
    pub const fn encode(self) -> u8 {
        self as u8
    }

    /// The directory of this many levels, where there is such a one.
    #[must_use]
    pub const fn of_levels(levels: u8) -> Option<Self> {
        Some(match levels {
            1 => Self::Pd8,
            2 => Self::Pd17,
            3 => Self::Pd20,
            _ => return None,
        })
    }

    /// Levels of the directory, 0 where there is none.
    #[must_use]
    pub const fn levels(self) -> u8 {
        self as u8
    }

    /// process_id bits that the directory reaches.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::Bare => 0,
            Self::Pd8 => 8,
            Self::Pd17 => 17,
            Self::Pd20 => 20,
        }
    }
}

/// First-stage context: `iosatp`, or `pdtp` where `tc.pdtv` (RISC-V IOMMU 2.1.3.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Fsc {
    /// Root page.
    #[bits(44)]
    pub ppn: u64,
    #[bits(16)]
    __: u16,
    /// Mode; see [`IosatpMode::decode`] and [`PdtpMode::decode`].
    #[bits(4)]
    pub mode: u8,
}

impl Fsc {
    /// The bits that must be zero (RISC-V IOMMU 2.1.3.4).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0x0fff_f000_0000_0000
    }
}

/// MSI page-table pointer (RISC-V IOMMU 2.1.3.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Msiptp {
    /// Page of the flat table.
    #[bits(44)]
    pub ppn: u64,
    #[bits(16)]
    __: u16,
    /// Mode; see [`MsiptpMode::decode`].
    #[bits(4)]
    pub mode: u8,
}

impl Msiptp {
    /// The bits that must be zero (RISC-V IOMMU 2.1.3.5).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0x0fff_f000_0000_0000
    }
}

/// MSI address mask or pattern, in pages (RISC-V IOMMU 2.1.3.6).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct MsiAddressPages {
    /// Address bits 63:12.
    #[bits(52)]
    pub pages: u64,
    #[bits(12)]
    __: u16,
}

impl MsiAddressPages {
    /// The bits that must be zero (RISC-V IOMMU 2.1.3.6).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0xfff0_0000_0000_0000
    }
}

/// `msiptp.mode` (RISC-V IOMMU 2.1.3.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MsiptpMode {
    /// No address is an interrupt file's.
    Off,
    /// A flat MSI page table.
    Flat,
}

impl MsiptpMode {
    /// The mode that `bits` encodes, or `None` where they are reserved or custom.
    #[must_use]
    pub const fn decode(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Off,
            1 => Self::Flat,
            _ => return None,
        })
    }

    /// The bits of `mode`.
    #[must_use]
    pub const fn encode(self) -> u8 {
        self as u8
    }
}

/// A device context. In base format only the first four words exist, and the others read as zero (RISC-V IOMMU 2.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DeviceContext {
    /// Translation control.
    pub tc: Tc,
    /// Second stage.
    pub iohgatp: Iohgatp,
    /// Translation attributes.
    pub ta: Ta,
    /// First stage.
    pub fsc: Fsc,
    /// MSI page table.
    pub msiptp: Msiptp,
    /// MSI address mask.
    pub msi_addr_mask: MsiAddressPages,
    /// MSI address pattern.
    pub msi_addr_pattern: MsiAddressPages,
    /// Reserved; must be zero.
    pub reserved: u64,
}

impl DeviceContext {
    /// From the words in memory, in order; a base-format context is followed by zeros.
    #[must_use]
    pub const fn decode(words: [u64; 8]) -> Self {
        Self {
            tc: Tc::from_bits(words[0]),
            iohgatp: Iohgatp::from_bits(words[1]),
            ta: Ta::from_bits(words[2]),
            fsc: Fsc::from_bits(words[3]),
            msiptp: Msiptp::from_bits(words[4]),
            msi_addr_mask: MsiAddressPages::from_bits(words[5]),
            msi_addr_pattern: MsiAddressPages::from_bits(words[6]),
            reserved: words[7],
        }
    }

    /// The words in memory, in order; a base-format context is the first four.
    #[must_use]
    pub const fn encode(self) -> [u64; 8] {
        [
            self.tc.into_bits(),
            self.iohgatp.into_bits(),
            self.ta.into_bits(),
            self.fsc.into_bits(),
            self.msiptp.into_bits(),
            self.msi_addr_mask.into_bits(),
            self.msi_addr_pattern.into_bits(),
            self.reserved,
        ]
    }

    /// The pages of interrupt files, which are looked for where `msiptp.mode` is not off.
    #[must_use]
    pub const fn interrupt_files(&self) -> InterruptFiles {
        InterruptFiles { mask: self.msi_addr_mask.pages(), pattern: self.msi_addr_pattern.pages() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values from the masks of Linux, drivers/iommu/riscv/iommu-bits.h.
    #[test]
    fn fields_stand_where_linux_has_them() {
        assert_eq!(Tc::new().with_dtf(true).with_pdtv(true).into_bits(), 1 << 4 | 1 << 5);
        assert_eq!(Tc::new().with_gade(true).with_sade(true).with_dpe(true).into_bits(), 7 << 7);
        assert_eq!(Tc::new().with_sbe(true).with_sxl(true).into_bits(), 3 << 10);
        assert_eq!(Iohgatp::new().with_gscid(0xffff).into_bits(), 0xffff << 44);
        assert_eq!(Iohgatp::new().with_mode(10).into_bits(), 10 << 60);
        assert_eq!(Ta::new().with_pscid(0xf_ffff).into_bits(), 0xf_ffff << 12);
        assert_eq!(DeviceDirectoryEntry::new().with_ppn(1).with_v(true).into_bits(), 1 << 10 | 1);
    }

    proptest::proptest! {
        #[test]
        fn a_context_decodes_to_what_was_encoded(words: [u64; 8]) {
            proptest::prop_assert_eq!(DeviceContext::decode(words).encode(), words);
        }
    }
}
