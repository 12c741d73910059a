//! The names of the page-table formats. How each is written in bits is in the `pagetable` crate, one file a format.

/// Arm's translation granule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Granule {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl Granule {
    /// log2 of the granule's bytes.
    #[must_use]
    pub const fn shift(self) -> u8 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }
}

/// A page-table format with everything that fixes the shape of its tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum PagingFormat {
    /// VT-d second stage (VT-d 3.7), 3, 4 or 5 levels.
    VtdSecondStage {
        /// 3, 4 or 5.
        levels: u8,
    },
    /// x86-64 paging, 4 or 5 levels: VT-d first stage (VT-d 3.6) and AMD-Vi guest tables.
    X86 {
        /// 4 or 5.
        levels: u8,
    },
    /// AMD-Vi host tables (AMD I/O Virtualization 2.2.3).
    AmdV1 {
        /// 1 to 6.
        mode: u8,
    },
    /// Arm VMSAv8-64 stage 1 (one of TTB0 and TTB1).
    ArmStage1 {
        /// Translation granule.
        granule: Granule,
        /// Input address bits: 64 - TxSZ.
        input_bits: u8,
        /// Output address bits (IPS).
        output_bits: u8,
        /// Whether this is the upper half of the address space (TTB1).
        upper: bool,
    },
    /// Arm VMSAv8-64 stage 2.
    ArmStage2 {
        /// Translation granule.
        granule: Granule,
        /// Input address bits: 64 - S2T0SZ.
        input_bits: u8,
        /// Output address bits (S2PS).
        output_bits: u8,
        /// Start level, as the architecture numbers them (-1 to 3).
        start_level: i8,
    },
    /// RISC-V Sv39, Sv48 or Sv57.
    RiscvSv {
        /// 3, 4 or 5.
        levels: u8,
    },
    /// RISC-V Sv39x4, Sv48x4 or Sv57x4: the root is four times as large.
    RiscvSvX4 {
        /// 3, 4 or 5.
        levels: u8,
    },
}
