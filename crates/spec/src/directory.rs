//! Directories of first stages that a guest writes.
//!
//! VT-d names a nested first stage's tables in the host's own entry, one PASID at a time. Arm, RISC-V and AMD-Vi take a whole
//! directory from the guest's memory instead: the host's entry says where it is, and the unit finds there what each PASID comes to.

use crate::{Ipa, StageRules};

/// How a unit finds the descriptors of an Arm context descriptor table (SMMUv3 5.2, S1Fmt).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum DescriptorLayout {
    /// One table.
    Linear,
    /// Two levels, the second of 64 descriptors in 4 KiB.
    TwoLevel4K,
    /// Two levels, the second of 1024 descriptors in 64 KiB.
    TwoLevel64K,
}

/// Shape of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum DirectoryFormat {
    /// Arm context descriptors (SMMUv3 5.4).
    ArmContextDescriptors {
        /// log2 of the descriptors (S1CDMax); 0 for one, and no PASIDs.
        pasid_bits: u8,
        /// Layout (S1Fmt).
        layout: DescriptorLayout,
    },
    /// RISC-V process directory (RISC-V IOMMU 2.2): PD8, PD17 or PD20.
    RiscvProcessDirectory {
        /// 1, 2 or 3.
        levels: u8,
    },
    /// AMD-Vi GCR3 table (AMD I/O Virtualization 2.2.6): 9, 18 or 27 bits, of which 20 are used.
    AmdGcr3 {
        /// 1 to 3 (GLX + 1).
        levels: u8,
    },
}

impl DirectoryFormat {
    /// PASID bits that it reaches.
    #[must_use]
    pub const fn pasid_bits(self) -> u8 {
        match self {
            Self::ArmContextDescriptors { pasid_bits, .. } => pasid_bits,
            Self::RiscvProcessDirectory { levels: 0 } | Self::AmdGcr3 { levels: 0 } => 0,
            Self::RiscvProcessDirectory { levels: 1 } => 8,
            Self::RiscvProcessDirectory { levels: 2 } => 17,
            Self::AmdGcr3 { levels: 1 } => 9,
            Self::AmdGcr3 { levels: 2 } => 18,
            Self::RiscvProcessDirectory { .. } | Self::AmdGcr3 { .. } => 20,
        }
    }

    /// Whether a unit that walks `most` walks this: the same shape, and, where its size is a matter of degree, no larger.
    #[must_use]
    pub fn fits(self, most: Self) -> bool {
        match (self, most) {
            (
                Self::ArmContextDescriptors { pasid_bits, layout },
                Self::ArmContextDescriptors { pasid_bits: most, layout: walked },
            ) => pasid_bits <= most && layout == walked,
            _ => self == most,
        }
    }
}

/// What becomes of requests without PASID where a directory says what those with one come to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Unnumbered {
    /// They are refused, and reported (Arm S1DSS 0).
    Refused,
    /// They have no first stage (Arm S1DSS 1, RISC-V without DPE, AMD-Vi without GIOV).
    Bypass,
    /// They count as PASID 0's (Arm S1DSS 2, RISC-V DPE, AMD-Vi GIOV).
    Zero,
}

/// A directory that someone else (a guest) writes, in memory that it reaches through a second stage. What is cached of its first
/// stages is tagged with the host's domain and the directory's own address spaces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct GuestDirectory {
    /// Shape.
    pub format: DirectoryFormat,
    /// Root table; where there is one descriptor only, that.
    pub root: Ipa,
    /// Requests without PASID. Not used where the directory has no PASIDs.
    pub unnumbered: Unnumbered,
    /// Rules for all its first stages, where the device's entry and not the directory says them (RISC-V SADE and SBE).
    pub rules: StageRules,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_fits_one_of_its_shape_that_reaches_as_far() {
        let arm = |pasid_bits, layout| DirectoryFormat::ArmContextDescriptors { pasid_bits, layout };
        let riscv = |levels| DirectoryFormat::RiscvProcessDirectory { levels };
        assert!(arm(0, DescriptorLayout::Linear).fits(arm(8, DescriptorLayout::Linear)));
        assert!(!arm(9, DescriptorLayout::Linear).fits(arm(8, DescriptorLayout::Linear)));
        assert!(!arm(8, DescriptorLayout::TwoLevel4K).fits(arm(8, DescriptorLayout::Linear)));
        // RISC-V IOMMU 5.3: PD8, PD17 and PD20 are three capabilities, none of which implies another.
        assert!(
            riscv(2).fits(riscv(2))
                && !riscv(1).fits(riscv(2))
                && !riscv(1).fits(arm(20, DescriptorLayout::Linear))
        );
        assert_eq!([1, 2, 3].map(|levels| riscv(levels).pasid_bits()), [8, 17, 20]);
    }
}
