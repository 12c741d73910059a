//! MSI page tables and memory-resident interrupt files (RISC-V AIA 9.4 to 9.6; RISC-V IOMMU 2.1.3.6, 2.3.3).

use bitfield_struct::bitfield;

/// Bytes of an MSI page-table entry.
pub const MSI_PTE_SIZE: u64 = 16;

/// Bytes of a memory-resident interrupt file, and its alignment (AIA 9.3.1).
pub const MRIF_SIZE: u64 = 512;

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

impl MsiPteBasic {
    /// The bits that must be zero (AIA 9.5.1).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0x7fc0_0000_0000_03f8
    }
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

impl MsiPteMrif {
    /// The bits that must be zero (AIA 9.5.2).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0x7fc0_0000_0000_0078
    }
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

impl MsiPteNotice {
    /// The bits that must be zero (AIA 9.5.2).
    #[must_use]
    pub const fn reserved_bits(self) -> u64 {
        self.into_bits() & 0xefc0_0000_0000_0000
    }
}

/// An MSI page-table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MsiPte {
    /// Basic translate mode: the page becomes this one.
    Basic {
        /// Page number.
        ppn: u64,
    },
    /// MRIF mode: messages are stored in memory, and told of by another message.
    Mrif(Mrif),
}

/// A memory-resident interrupt file, as an MSI page-table entry names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mrif {
    /// First byte of the file, a multiple of [`MRIF_SIZE`].
    pub address: u64,
    /// Page number to which the notice is written, at its first byte.
    pub notice_ppn: u64,
    /// What is written there: 11 bits.
    pub notice_identity: u16,
}

/// Why an MSI page-table entry can't be used (RISC-V IOMMU 2.3.3, steps 9 to 14).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MsiPteError {
    /// `v` is 0.
    Invalid,
    /// A reserved bit or mode, or the custom format, of which none is known here.
    Misconfigured,
}

impl MsiPte {
    /// From the two words in memory. Whether the unit has MRIF mode is for the caller to check.
    ///
    /// # Errors
    /// Where the entry can't be used.
    pub const fn decode(words: [u64; 2]) -> Result<Self, MsiPteError> {
        let [first, second] = words;
        let basic = MsiPteBasic::from_bits(first);
        if !basic.v() {
            return Err(MsiPteError::Invalid);
        }
        if basic.c() {
            return Err(MsiPteError::Misconfigured);
        }
        match basic.m() {
            3 if basic.reserved_bits() == 0 => Ok(Self::Basic { ppn: basic.ppn() }),
            1 => {
                let (file, notice) = (MsiPteMrif::from_bits(first), MsiPteNotice::from_bits(second));
                if file.reserved_bits() | notice.reserved_bits() != 0 {
                    return Err(MsiPteError::Misconfigured);
                }
                Ok(Self::Mrif(Mrif {
                    address: file.mrif_address() * MRIF_SIZE,
                    notice_ppn: notice.nppn(),
                    notice_identity: (notice.nid_10() as u16) << 10 | notice.nid(),
                }))
            }
            _ => Err(MsiPteError::Misconfigured),
        }
    }

    /// The two words in memory. In basic mode the second is ignored, and zero here.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        match self {
            Self::Basic { ppn } => [MsiPteBasic::new().with_v(true).with_m(3).with_ppn(ppn).into_bits(), 0],
            Self::Mrif(Mrif { address, notice_ppn, notice_identity }) => {
                let file = MsiPteMrif::new().with_v(true).with_m(1).with_mrif_address(address / MRIF_SIZE);
                let notice = MsiPteNotice::new()
                    .with_nid(notice_identity & 0x3ff)
                    .with_nid_10(notice_identity >> 10 & 1 != 0)
                    .with_nppn(notice_ppn);
                [file.into_bits(), notice.into_bits()]
            }
        }
    }
}

/// Which of a guest's physical pages are those of its interrupt files (RISC-V IOMMU 2.1.3.6): numbers of pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InterruptFiles {
    /// `msi_addr_mask`: bits of a page number that may be anything, and that make the file's number.
    pub mask: u64,
    /// `msi_addr_pattern`: what the others must be.
    pub pattern: u64,
}

impl InterruptFiles {
    /// The number of the interrupt file whose page `address` lies in, or `None` where it is another page (2.3.3, steps 3 to 5).
    #[must_use]
    pub const fn file_of(self, address: u64) -> Option<u64> {
        let page = address >> 12;
        if page & !self.mask != self.pattern & !self.mask {
            return None;
        }
        let (mut mask, mut number, mut place) = (self.mask, 0, 0);
        while mask != 0 {
            let bit = mask.trailing_zeros();
            number |= (page >> bit & 1) << place;
            place += 1;
            mask &= mask - 1;
        }
        Some(number)
    }

    /// The first byte of the page of the interrupt file with this number; bits of the number that the mask has no room for are lost.
    #[must_use]
    pub const fn page_of(self, number: u64) -> u64 {
        let (mut mask, mut page, mut place) = (self.mask, self.pattern & !self.mask, 0);
        while mask != 0 {
            let bit = mask.trailing_zeros();
            page |= (number >> place & 1) << bit;
            place += 1;
            mask &= mask - 1;
        }
        page << 12
    }
}

/// What a 32-bit write of `data`, as its bytes lie in memory, to `address` in a page in MRIF mode comes to: the interrupt
/// identity, or `None` where the write is accepted and discarded (AIA 9.5.2).
#[must_use]
pub const fn identity(address: u64, data: [u8; 4]) -> Option<u16> {
    let big_endian = address & 4 != 0;
    let identity = if big_endian { u32::from_be_bytes(data) } else { u32::from_le_bytes(data) };
    if address & 0xff8 != 0 || identity >> 11 != 0 { None } else { Some(identity as u16) }
}

/// Where the pending bit of an interrupt identity lies in a memory-resident interrupt file: the offset of its little-endian
/// doubleword in bytes, and the bit (AIA 9.3.1). The enable bit lies in the doubleword behind.
#[must_use]
pub const fn pending_bit(identity: u16) -> (u64, u32) {
    ((identity as u64 >> 6) * 16, identity as u32 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The fields as AIA 9.5.1 and 9.5.2 place them.
    #[test]
    fn entries_stand_where_the_specification_has_them() {
        assert_eq!(MsiPte::Basic { ppn: 0xfff_ffff_ffff }.encode(), [0x3f_ffff_ffff_fc07, 0]);
        let mrif = Mrif { address: 0xff_ffff_ffff_fe00, notice_ppn: 1, notice_identity: 0x7ff };
        assert_eq!(
            MsiPte::Mrif(mrif).encode(),
            [0x3f_ffff_ffff_ff83, 0x1000_0000_0000_0000 | 1 << 10 | 0x3ff]
        );
    }

    #[test]
    fn what_is_reserved_is_misconfigured() {
        assert_eq!(MsiPte::decode([0x7ffe, u64::MAX]), Err(MsiPteError::Invalid));
        for m in [0, 2] {
            assert_eq!(MsiPte::decode([1 | m << 1, 0]), Err(MsiPteError::Misconfigured));
        }
        for bit in (3..10).chain(54..64) {
            assert_eq!(MsiPte::decode([7 | 1 << bit, 0]), Err(MsiPteError::Misconfigured), "{bit}");
        }
        for bit in (3..7).chain(54..64) {
            assert_eq!(MsiPte::decode([3 | 1 << bit, 0]), Err(MsiPteError::Misconfigured), "{bit}");
        }
        for bit in (54..60).chain(61..64) {
            assert_eq!(MsiPte::decode([3, 1 << bit]), Err(MsiPteError::Misconfigured), "{bit}");
            // In basic mode the second word is software's.
            assert_eq!(MsiPte::decode([7, 1 << bit]), Ok(MsiPte::Basic { ppn: 0 }));
        }
    }

    // The example of 2.3.3: x = a b c d e f g h, y = 1 0 1 0 0 1 1 0 gives 0 0 0 0 a c f g.
    #[test]
    fn a_files_number_is_what_the_mask_extracts() {
        for (page, number) in [(0b1000_0000, 8), (0b0010_0000, 4), (0b0000_0100, 2), (0b0000_0010, 1)] {
            let files = InterruptFiles { mask: 0b1010_0110, pattern: 0 };
            assert_eq!(files.file_of(page << 12 | 0xabc), Some(number));
            assert_eq!(files.page_of(number), page << 12);
        }
        let files = InterruptFiles { mask: 0xf, pattern: 0x2_8000 };
        assert_eq!(files.file_of(0x2800_f004), Some(15));
        assert_eq!(files.file_of(0x2801_0000), None);
        // Pattern bits under the mask do not matter, and no bit of the address above is left out.
        assert_eq!(InterruptFiles { mask: 1, pattern: 3 }.file_of(2 << 12), Some(0));
        assert_eq!(
            InterruptFiles { mask: u64::MAX >> 12, pattern: 0 }.file_of(u64::MAX),
            Some(u64::MAX >> 12)
        );
    }

    #[test]
    fn identities_have_11_bits_in_either_byte_order() {
        assert_eq!(identity(0x1000, [0xff, 7, 0, 0]), Some(0x7ff));
        assert_eq!(identity(0x1000, [0, 8, 0, 0]), None);
        assert_eq!(identity(0x1004, [0, 0, 7, 0xfe]), Some(0x7fe));
        assert_eq!(identity(0x1004, [1, 0, 0, 0]), None);
        assert_eq!(identity(0x1008, [1, 0, 0, 0]), None);
        assert_eq!(pending_bit(0), (0, 0));
        assert_eq!(pending_bit(64), (0x10, 0));
        assert_eq!(pending_bit(2047), (0x1f0, 63));
    }

    proptest::proptest! {
        #[test]
        fn an_entry_decodes_to_what_was_encoded(address: u64, notice_ppn: u64, notice_identity: u16) {
            let basic = MsiPte::Basic { ppn: notice_ppn >> 20 };
            proptest::prop_assert_eq!(MsiPte::decode(basic.encode()), Ok(basic));
            let (notice_ppn, notice_identity) = (notice_ppn >> 20, notice_identity & 0x7ff);
            let mrif = MsiPte::Mrif(Mrif { address: address >> 17 << 9, notice_ppn, notice_identity });
            proptest::prop_assert_eq!(MsiPte::decode(mrif.encode()), Ok(mrif));
        }

        #[test]
        fn a_page_is_its_files(mask: u64, pattern: u64, number: u64) {
            let files = InterruptFiles { mask: mask >> 12, pattern: pattern >> 12 };
            let number = number & ((1 << files.mask.count_ones()) - 1);
            proptest::prop_assert_eq!(files.file_of(files.page_of(number)), Some(number));
        }
    }
}
