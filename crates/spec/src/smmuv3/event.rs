//! Event records (SMMUv3 7.3): 32 bytes each.

use bitfield_struct::bitfield;

use crate::{Access, ConfigTable, Fault, FaultReason, Iova, Ipa, Pasid, RequestType, Requester, StageNumber};

/// Bytes of an event record.
pub const EVENT_SIZE: u64 = 32;

macro_rules! events {
    ($($name:ident = $number:literal, $text:literal => $reason:expr;)*) => {
        /// What an event record reports (SMMUv3 7.3).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum EventNumber {
            $(#[doc = $text] $name = $number,)*
        }

        impl EventNumber {
            /// Every event.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The event that `number` stands for, or `None` where it is not architected.
            #[must_use]
            pub const fn decode(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The event number.
            #[must_use]
            pub const fn encode(self) -> u8 {
                self as u8
            }

            /// The specification's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
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

events! {
    FUut = 0x01, "F_UUT" => FaultReason::RequesterUnsupported;
    CBadStreamid = 0x02, "C_BAD_STREAMID" => FaultReason::RequesterUnsupported;
    FSteFetch = 0x03, "F_STE_FETCH" => FaultReason::TableUnreadable(ConfigTable::Device);
    CBadSte = 0x04, "C_BAD_STE" => FaultReason::EntryInvalid(ConfigTable::Device);
    FBadAtsTreq = 0x05, "F_BAD_ATS_TREQ" => FaultReason::RequestBlocked;
    FStreamDisabled = 0x06, "F_STREAM_DISABLED" => FaultReason::RequestBlocked;
    FTranslForbidden = 0x07, "F_TRANSL_FORBIDDEN" => FaultReason::TranslatedBlocked;
    CBadSubstreamid = 0x08, "C_BAD_SUBSTREAMID" => FaultReason::PasidUnsupported;
    FCdFetch = 0x09, "F_CD_FETCH" => FaultReason::TableUnreadable(ConfigTable::Pasid);
    CBadCd = 0x0a, "C_BAD_CD" => FaultReason::EntryInvalid(ConfigTable::Pasid);
    FWalkEabt = 0x0b, "F_WALK_EABT" => FaultReason::PagingEntryUnreadable;
    FTranslation = 0x10, "F_TRANSLATION" => FaultReason::NotMapped;
    FAddrSize = 0x11, "F_ADDR_SIZE" => FaultReason::AddressSize;
    FAccess = 0x12, "F_ACCESS" => FaultReason::AccessFlag;
    FPermission = 0x13, "F_PERMISSION" => FaultReason::PermissionDenied;
    FTlbConflict = 0x20, "F_TLB_CONFLICT" => FaultReason::Internal;
    FCfgConflict = 0x21, "F_CFG_CONFLICT" => FaultReason::Internal;
    EPageRequest = 0x24, "E_PAGE_REQUEST" => FaultReason::NotMapped;
    FVmsFetch = 0x25, "F_VMS_FETCH" => FaultReason::TableUnreadable(ConfigTable::Device);
}

impl EventNumber {
    /// Whether its record says what the transaction wanted: address, direction and privilege (7.3).
    #[must_use]
    pub const fn has_address(self) -> bool {
        matches!(
            self,
            Self::FUut
                | Self::FBadAtsTreq
                | Self::FTranslForbidden
                | Self::FWalkEabt
                | Self::FTranslation
                | Self::FAddrSize
                | Self::FAccess
                | Self::FPermission
                | Self::FTlbConflict
        )
    }

    /// Whether one of the stages met it (7.3: those with the field S2).
    #[must_use]
    pub const fn has_stage(self) -> bool {
        matches!(
            self,
            Self::FWalkEabt | Self::FTranslation | Self::FAddrSize | Self::FAccess | Self::FPermission
        )
    }
}

/// Which operation met the fault (SMMUv3 7.3, CLASS).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EventClass {
    /// A context descriptor fetch.
    Cd = 0,
    /// A stage 1 translation table fetch.
    Ttd = 1,
    /// The input address itself.
    In = 2,
    /// Reserved.
    Reserved = 3,
}

impl EventClass {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Cd,
            1 => Self::Ttd,
            2 => Self::In,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// Bits 63:0 of every event record.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct EventHeader {
    /// Event number; see [`EventNumber::decode`].
    pub number: u8,
    #[bits(3)]
    __: u8,
    /// `substreamid` is valid.
    pub ssv: bool,
    /// SubstreamID.
    #[bits(20)]
    pub substreamid: u32,
    /// StreamID.
    pub streamid: u32,
}

/// Bits 127:64 of an event record. Each event has some of these fields; the others are zero.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct EventSyndrome {
    /// STAG of a stalled transaction, or an implementation-defined reason.
    pub stag: u16,
    /// The abort arose from a granule protection check.
    pub gpcf: bool,
    #[bits(14)]
    __: u16,
    /// The transaction is stalled and waits for CMD_RESUME with `stag`.
    pub stall: bool,
    __: bool,
    /// Privileged.
    pub pnu: bool,
    /// Instruction.
    pub ind: bool,
    /// Read.
    pub rnw: bool,
    /// Non-secure IPA.
    pub nsipa: bool,
    #[bits(2)]
    __: u8,
    /// Stage 2 refused.
    pub s2: bool,
    /// What met the fault.
    #[bits(2)]
    pub class: EventClass,
    #[bits(2)]
    __: u8,
    /// A stage 1 table access was a read (`class` TTD and `s2`).
    pub ttrnw: bool,
    #[bits(19)]
    __: u32,
}

/// An event record (SMMUv3 7.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EventRecord {
    /// Which event, of whom.
    pub header: EventHeader,
    /// How.
    pub syndrome: EventSyndrome,
    /// The address that the device sent, where the event has one.
    pub input_addr: u64,
    /// IPA bits 55:12 of a stage 2 fault, or the fetch address bits 55:3 of a fetch.
    pub ipa_or_fetch_addr: u64,
}

impl EventRecord {
    /// From the four words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 4]) -> Self {
        Self {
            header: EventHeader::from_bits(words[0]),
            syndrome: EventSyndrome::from_bits(words[1]),
            input_addr: words[2],
            ipa_or_fetch_addr: words[3],
        }
    }

    /// The neutral form; `None` where the event is not architected, or no refusal: E_PAGE_REQUEST is a hint (7.3.19).
    #[must_use]
    pub fn to_fault(self) -> Option<Fault> {
        let event = EventNumber::decode(self.header.number())?;
        if matches!(event, EventNumber::EPageRequest) {
            return None;
        }
        let syndrome = self.syndrome;
        let described = event.has_address();
        let stage = event.has_stage().then_some(match syndrome.s2() {
            true => StageNumber::Second,
            false => StageNumber::First,
        });
        let access = match (described, syndrome.rnw(), syndrome.ind()) {
            (false, ..) => Access::empty(),
            (_, true, true) => Access::EXECUTE,
            (_, true, false) => Access::READ,
            (_, false, _) => Access::WRITE,
        };
        Some(Fault {
            requester: Requester::Stream(self.header.streamid()),
            pasid: self.header.ssv().then(|| Pasid::new(self.header.substreamid())).flatten(),
            address: Iova(if described { self.input_addr } else { 0 }),
            ipa: (stage == Some(StageNumber::Second))
                .then_some(Ipa(self.ipa_or_fetch_addr & 0x00ff_ffff_ffff_f000)),
            access,
            privileged: described && syndrome.pnu(),
            request_type: match event {
                EventNumber::FBadAtsTreq => RequestType::TranslationRequest,
                EventNumber::FTranslForbidden => RequestType::Translated,
                _ => RequestType::Untranslated,
            },
            reason: event.reason(),
            stage,
            code: u32::from(event.encode()),
        })
    }

    /// The four words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 4] {
        [self.header.into_bits(), self.syndrome.into_bits(), self.input_addr, self.ipa_or_fetch_addr]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values from Linux, drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h.
    #[test]
    fn fields_stand_where_linux_has_them() {
        assert_eq!(EventHeader::new().with_substreamid(0xf_ffff).into_bits(), 0xf_ffff << 12);
        assert_eq!(EventHeader::new().with_ssv(true).into_bits(), 1 << 11);
        assert_eq!(EventSyndrome::new().with_stall(true).into_bits(), 1 << 31);
        assert_eq!(EventSyndrome::new().with_pnu(true).with_ind(true).with_rnw(true).into_bits(), 7 << 33);
        assert_eq!(EventSyndrome::new().with_s2(true).into_bits(), 1 << 39);
        assert_eq!(EventSyndrome::new().with_class(EventClass::In).into_bits(), 2 << 40);
        assert_eq!(EventSyndrome::new().with_ttrnw(true).into_bits(), 1 << 44);
        assert_eq!(EventNumber::FPermission.encode(), 0x13);
    }

    #[test]
    fn every_event_decodes_to_itself() {
        for &event in EventNumber::ALL {
            assert_eq!(EventNumber::decode(event.encode()), Some(event));
        }
    }

    /// 7.3.14: F_PERMISSION of stage 2, StreamID 0x101, SubstreamID 9, an unprivileged write to 0x7123, IPA 0x5000.
    #[test]
    fn a_record_says_what_was_refused() {
        let words = [0x13 | 1 << 11 | 9 << 12 | 0x101 << 32, 1 << 39 | 2 << 40, 0x7123, 0x5000];
        let expected = Fault {
            requester: Requester::Stream(0x101),
            pasid: Pasid::new(9),
            address: Iova(0x7123),
            ipa: Some(Ipa(0x5000)),
            access: Access::WRITE,
            privileged: false,
            request_type: RequestType::Untranslated,
            reason: FaultReason::PermissionDenied,
            stage: Some(StageNumber::Second),
            code: 0x13,
        };
        assert_eq!(EventRecord::decode(words).to_fault(), Some(expected));
        // 7.3.5: C_BAD_STE has nothing but the stream.
        let bad = EventRecord::decode([0x04 | 0x101 << 32, 0, 0, 0]).to_fault();
        let (address, access) = (Iova(0), Access::empty());
        let reason = FaultReason::EntryInvalid(ConfigTable::Device);
        let fewer =
            Fault { pasid: None, address, ipa: None, access, reason, stage: None, code: 4, ..expected };
        assert_eq!(bad, Some(fewer));
        assert_eq!(EventRecord::decode([0x24, 0, 0, 0]).to_fault(), None);
        assert_eq!(EventRecord::decode([0x7f, 0, 0, 0]).to_fault(), None);
    }

    proptest::proptest! {
        #[test]
        fn a_record_decodes_to_what_was_encoded(words: [u64; 4]) {
            proptest::prop_assert_eq!(EventRecord::decode(words).encode(), words);
        }
    }
}
