//! Process directory entries and process contexts (RISC-V IOMMU 2.3).

use bitfield_struct::bitfield;

use super::device::Fsc;

/// A non-leaf process directory entry: the same as a device directory's (RISC-V IOMMU 2.3.1).
pub type ProcessDirectoryEntry = super::device::DeviceDirectoryEntry;

/// Bytes of a process context.
pub const PROCESS_CONTEXT_SIZE: u64 = 16;

/// How many process_id bits index each level of the directory, from the leaf up (RISC-V IOMMU 2.3).
pub const INDEX_BITS: [u8; 3] = [8, 9, 3];

/// Translation attributes of a process context (RISC-V IOMMU 2.3.2.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct ProcessTa {
    /// Valid.
    pub v: bool,
    /// Privileged requests are allowed.
    pub ens: bool,
    /// Privileged requests may access user pages.
    pub sum: bool,
    #[bits(9)]
    __: u16,
    /// Process soft-context ID.
    #[bits(20)]
    pub pscid: u32,
    __: u32,
}

impl ProcessTa {
    /// The bits that must be zero (RISC-V IOMMU 2.3.2.1).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0xffff_ffff_0000_0ff8
    }
}

/// A process context (RISC-V IOMMU 2.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ProcessContext {
    /// Translation attributes.
    pub ta: ProcessTa,
    /// First stage.
    pub fsc: Fsc,
}

impl ProcessContext {
    /// From the two words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        Self { ta: ProcessTa::from_bits(words[0]), fsc: Fsc::from_bits(words[1]) }
    }

    /// The two words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        [self.ta.into_bits(), self.fsc.into_bits()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values from the masks of Linux, drivers/iommu/riscv/iommu-bits.h.
    #[test]
    fn fields_stand_where_linux_has_them() {
        assert_eq!(ProcessTa::new().with_v(true).with_ens(true).with_sum(true).into_bits(), 7);
        assert_eq!(ProcessTa::new().with_pscid(0xf_ffff).into_bits(), 0xf_ffff << 12);
    }

    proptest::proptest! {
        #[test]
        fn a_context_decodes_to_what_was_encoded(words: [u64; 2]) {
            proptest::prop_assert_eq!(ProcessContext::decode(words).encode(), words);
        }
    }
}
