//! Fault records and causes (RISC-V IOMMU 3.2): 32 bytes each.

use bitfield_struct::bitfield;

use crate::{Access, ConfigTable, Fault, FaultReason, Iova, Ipa, Pasid, RequestType, Requester, StageNumber};

/// Bytes of a fault record.
pub const FAULT_RECORD_SIZE: u64 = 32;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $code:literal => $reason:expr, $text:literal;)*) => {
        /// What a fault record reports (RISC-V IOMMU 3.2, fault record CAUSE field encodings).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum Cause {
            $($(#[$doc])* #[doc = $text] $name = $code,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The cause that `code` encodes, or `None` where it is reserved or custom.
            #[must_use]
            pub const fn decode(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The CAUSE field.
            #[must_use]
            pub const fn encode(self) -> u16 {
                self as u16
            }

            /// What it says, for people.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The neutral class.
            #[must_use]
            pub const fn reason(self) -> FaultReason {
                match self {
                    $(Self::$name => $reason,)*
                }
            }
        }
    };
}

causes! {
    InstructionAccessFault = 1 => FaultReason::PagingEntryUnreadable, "Instruction access fault";
    ReadAddressMisaligned = 4 => FaultReason::RequesterUnsupported, "Read address misaligned";
    ReadAccessFault = 5 => FaultReason::PagingEntryUnreadable, "Read access fault";
    WriteAddressMisaligned = 6 => FaultReason::RequesterUnsupported, "Write/AMO address misaligned";
    WriteAccessFault = 7 => FaultReason::PagingEntryUnreadable, "Write/AMO access fault";
    InstructionPageFault = 12 => FaultReason::NotMapped, "Instruction page fault";
    ReadPageFault = 13 => FaultReason::NotMapped, "Read page fault";
    WritePageFault = 15 => FaultReason::NotMapped, "Write/AMO page fault";
    InstructionGuestPageFault = 20 => FaultReason::NotMapped, "Instruction guest page fault";
    ReadGuestPageFault = 21 => FaultReason::NotMapped, "Read guest-page fault";
    WriteGuestPageFault = 23 => FaultReason::NotMapped, "Write/AMO guest-page fault";
    AllInboundDisallowed = 256 => FaultReason::RequestBlocked, "All inbound transactions disallowed";
    DdtLoadFault = 257 => FaultReason::TableUnreadable(ConfigTable::Device), "DDT entry load access fault";
    DdtInvalid = 258 => FaultReason::EntryNotPresent(ConfigTable::Device), "DDT entry not valid";
    DdtMisconfigured = 259 => FaultReason::EntryInvalid(ConfigTable::Device), "DDT entry misconfigured";
    TransactionTypeDisallowed = 260 => FaultReason::RequestBlocked, "Transaction type disallowed";
    MsiPteLoadFault = 261 => FaultReason::TableUnreadable(ConfigTable::Interrupt), "MSI PTE load access fault";
    MsiPteInvalid = 262 => FaultReason::EntryNotPresent(ConfigTable::Interrupt), "MSI PTE not valid";
    MsiPteMisconfigured = 263 => FaultReason::EntryInvalid(ConfigTable::Interrupt), "MSI PTE misconfigured";
    MrifAccessFault = 264 => FaultReason::InterruptBlocked, "MRIF access fault";
    PdtLoadFault = 265 => FaultReason::TableUnreadable(ConfigTable::Pasid), "PDT entry load access fault";
    PdtInvalid = 266 => FaultReason::EntryNotPresent(ConfigTable::Pasid), "PDT entry not valid";
    PdtMisconfigured = 267 => FaultReason::EntryInvalid(ConfigTable::Pasid), "PDT entry misconfigured";
    DdtCorrupted = 268 => FaultReason::TableUnreadable(ConfigTable::Device), "DDT data corruption";
    PdtCorrupted = 269 => FaultReason::TableUnreadable(ConfigTable::Pasid), "PDT data corruption";
    MsiPteCorrupted = 270 => FaultReason::TableUnreadable(ConfigTable::Interrupt), "MSI PT data corruption";
    MrifCorrupted = 271 => FaultReason::InterruptBlocked, "MSI MRIF data corruption";
    InternalDatapathError = 272 => FaultReason::Internal, "Internal data path error";
    MsiWriteFault = 273 => FaultReason::InterruptBlocked, "IOMMU MSI write access fault";
    PageTableCorrupted = 274 => FaultReason::PagingEntryUnreadable, "First/second-stage PT data corruption";
}

impl Cause {
    /// Whether the record is written although `tc.dtf` is 1: the device's setting is not known, or does not govern it
    /// (RISC-V IOMMU 3.2, table of causes: "Reported when DTF is 1?").
    #[must_use]
    pub const fn reported_with_dtf(self) -> bool {
        matches!(
            self,
            Self::AllInboundDisallowed
                | Self::DdtLoadFault
                | Self::DdtInvalid
                | Self::DdtMisconfigured
                | Self::DdtCorrupted
                | Self::InternalDatapathError
                | Self::MsiWriteFault
        )
    }
}

/// Transaction types in a fault record (RISC-V IOMMU 3.2, TTYP field encodings).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TransactionType {
    /// Not caused by an inbound transaction.
    None = 0,
    /// Untranslated read for execute.
    UntranslatedExecute = 1,
    /// Untranslated read.
    UntranslatedRead = 2,
    /// Untranslated write or AMO.
    UntranslatedWrite = 3,
    /// Translated read for execute.
    TranslatedExecute = 5,
    /// Translated read.
    TranslatedRead = 6,
    /// Translated write or AMO.
    TranslatedWrite = 7,
    /// PCIe ATS translation request.
    TranslationRequest = 8,
    /// PCIe message request.
    MessageRequest = 9,
}

impl TransactionType {
    /// The type that `bits` encodes, or `None` where they are reserved or custom.
    #[must_use]
    pub const fn decode(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::None,
            1 => Self::UntranslatedExecute,
            2 => Self::UntranslatedRead,
            3 => Self::UntranslatedWrite,
            5 => Self::TranslatedExecute,
            6 => Self::TranslatedRead,
            7 => Self::TranslatedWrite,
            8 => Self::TranslationRequest,
            9 => Self::MessageRequest,
            _ => return None,
        })
    }

    /// The TTYP field.
    #[must_use]
    pub const fn encode(self) -> u8 {
        self as u8
    }

    /// The type of a request. What writes at all is a write or AMO.
    #[must_use]
    pub const fn of(access: Access, request_type: RequestType) -> Self {
        let write = access.contains(Access::WRITE);
        match (request_type, write, access.contains(Access::EXECUTE)) {
            (RequestType::TranslationRequest, ..) => Self::TranslationRequest,
            (RequestType::Untranslated, true, _) => Self::UntranslatedWrite,
            (RequestType::Untranslated, _, true) => Self::UntranslatedExecute,
            (RequestType::Untranslated, ..) => Self::UntranslatedRead,
            (RequestType::Translated, true, _) => Self::TranslatedWrite,
            (RequestType::Translated, _, true) => Self::TranslatedExecute,
            (RequestType::Translated, ..) => Self::TranslatedRead,
        }
    }
}

/// The first word of a fault record (RISC-V IOMMU 3.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct FaultHeader {
    /// Cause; see [`Cause::decode`].
    #[bits(12)]
    pub cause: u16,
    /// process_id.
    #[bits(20)]
    pub pid: u32,
    /// `pid` is valid.
    pub pv: bool,
    /// Privileged.
    pub r#priv: bool,
    /// Transaction type; see [`TransactionType::decode`].
    #[bits(6)]
    pub ttyp: u8,
    /// device_id.
    #[bits(24)]
    pub did: u32,
}

/// A fault record (RISC-V IOMMU 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FaultRecord {
    /// Who, what and why.
    pub header: FaultHeader,
    /// Custom and reserved.
    pub reserved: u64,
    /// The IOVA where the transaction had one.
    pub iotval: u64,
    /// For guest-page faults the guest-physical address, bits 63:2; bit 0: the fault was met while translating for an
    /// implicit access to a first-stage entry; bit 1: which was a write.
    pub iotval2: u64,
}

impl FaultRecord {
    /// From the four words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 4]) -> Self {
        Self {
            header: FaultHeader::from_bits(words[0]),
            reserved: words[1],
            iotval: words[2],
            iotval2: words[3],
        }
    }

    /// The fault in the vocabulary, or `None` where its cause or type is not one of the specification's, or no transaction had it.
    #[must_use]
    pub fn to_fault(self) -> Option<Fault> {
        let cause = Cause::decode(self.header.cause())?;
        let (access, request_type) = match TransactionType::decode(self.header.ttyp())? {
            TransactionType::None => return None,
            TransactionType::UntranslatedExecute => {
                (Access::READ | Access::EXECUTE, RequestType::Untranslated)
            }
            TransactionType::UntranslatedRead => (Access::READ, RequestType::Untranslated),
            TransactionType::UntranslatedWrite => (Access::WRITE, RequestType::Untranslated),
            TransactionType::TranslatedExecute => (Access::READ | Access::EXECUTE, RequestType::Translated),
            TransactionType::TranslatedRead => (Access::READ, RequestType::Translated),
            TransactionType::TranslatedWrite => (Access::WRITE, RequestType::Translated),
            TransactionType::TranslationRequest | TransactionType::MessageRequest => {
                (Access::READ, RequestType::TranslationRequest)
            }
        };
        let guest = matches!(
            cause,
            Cause::InstructionGuestPageFault | Cause::ReadGuestPageFault | Cause::WriteGuestPageFault
        );
        let page =
            matches!(cause, Cause::InstructionPageFault | Cause::ReadPageFault | Cause::WritePageFault);
        Some(Fault {
            requester: Requester::Device(self.header.did()),
            pasid: self.header.pv().then(|| Pasid::new(self.header.pid())).flatten(),
            address: Iova(self.iotval),
            ipa: guest.then_some(Ipa(self.iotval2 & !3)),
            access,
            privileged: self.header.r#priv(),
            request_type,
            reason: cause.reason(),
            stage: match (page, guest) {
                (true, _) => Some(StageNumber::First),
                (_, true) => Some(StageNumber::Second),
                _ => None,
            },
            code: u32::from(cause.encode()),
        })
    }

    /// The record of a fault whose code is a cause, of a requester that is a device_id. `iotval2` is there for guest-page faults.
    #[must_use]
    pub fn from_fault(fault: &Fault, iotval2: u64) -> Self {
        let pid = fault.pasid.map_or(0, Pasid::value);
        let header = FaultHeader::new()
            .with_cause((fault.code & 0xfff) as u16)
            .with_pid(pid)
            .with_pv(fault.pasid.is_some())
            .with_priv(fault.privileged && fault.pasid.is_some())
            .with_ttyp(TransactionType::of(fault.access, fault.request_type).encode())
            .with_did(fault.requester.index() & 0xff_ffff);
        Self { header, reserved: 0, iotval: fault.address.0, iotval2 }
    }

    /// The four words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 4] {
        [self.header.into_bits(), self.reserved, self.iotval, self.iotval2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values from Linux, drivers/iommu/riscv/iommu-bits.h.
    #[test]
    fn fields_stand_where_linux_has_them() {
        assert_eq!(FaultHeader::new().with_pid(0xf_ffff).into_bits(), 0xf_ffff << 12);
        assert_eq!(FaultHeader::new().with_pv(true).with_priv(true).into_bits(), 3 << 32);
        assert_eq!(FaultHeader::new().with_ttyp(0x3f).into_bits(), 0x3f << 34);
        assert_eq!(FaultHeader::new().with_did(0xff_ffff).into_bits(), 0xff_ffff << 40);
        assert_eq!(Cause::PdtMisconfigured.encode(), 267);
        assert_eq!(Cause::WriteGuestPageFault.encode(), 23);
    }

    #[test]
    fn a_fault_comes_back_from_its_record() {
        for &ttyp in &[1u8, 2, 3, 5, 6, 7, 8] {
            let header = FaultHeader::new().with_cause(21).with_ttyp(ttyp).with_did(0x123456);
            let header = header.with_pv(true).with_pid(0x54321).with_priv(true);
            let record = FaultRecord { header, reserved: 0, iotval: 0x1234, iotval2: 0x5678 };
            let fault = record.to_fault().unwrap();
            assert_eq!(FaultRecord::from_fault(&fault, 0x5678), record);
        }
    }

    #[test]
    fn every_cause_decodes_to_itself() {
        for &cause in Cause::ALL {
            assert_eq!(Cause::decode(cause.encode()), Some(cause));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_record_decodes_to_what_was_encoded(words: [u64; 4]) {
            proptest::prop_assert_eq!(FaultRecord::decode(words).encode(), words);
        }
    }
}
