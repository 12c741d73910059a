//! Fault reasons and fault records (VT-d 7.1.3, 7.2.1, 5.1.4.1).

use super::interrupt::RemappableAddress;
use super::registers::{FrcdHigh, FrcdLow, Ttm};
use crate::{
    Access, ConfigTable, Fault, FaultReason, Iova, Pasid, PciAddress, RequestType, Requester, StageNumber,
};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $condition:literal, $text:literal, $neutral:expr;)*) => {
        /// A fault reason (VT-d 7.1.3, table of fault conditions; 5.1.4.1 for interrupts). The name in quotes in each
        /// variant's description is the specification's name of the condition.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum VtdFaultReason {
            $($(#[$doc])* #[doc = concat!("\"", $condition, "\": ", $text)] $name = $code,)*
        }

        impl VtdFaultReason {
            /// Every reason, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The reason with this code, or `None` where the specification defines none.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The code in a fault record's FR field.
            #[must_use]
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The specification's name of the condition, such as `LRT.2`.
            #[must_use]
            pub const fn condition(self) -> &'static str {
                match self {
                    $(Self::$name => $condition,)*
                }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The neutral class.
            #[must_use]
            pub const fn neutral(self) -> FaultReason {
                match self {
                    $(Self::$name => $neutral,)*
                }
            }
        }
    };
}

use ConfigTable as Table;
use FaultReason as Class;

reasons! {
    RootNotPresent = 0x01, "LRT.2", "the root entry is not present", Class::EntryNotPresent(Table::Root);
    ContextNotPresent = 0x02, "LCT.2", "the context entry is not present", Class::EntryNotPresent(Table::Device);
    ContextInvalid = 0x03, "LCT.4", "the context entry has an invalid address width or translation type", Class::EntryInvalid(Table::Device);
    AddressBeyondMgaw = 0x04, "LGN.1", "the address is beyond the guest address width", Class::AddressSize;
    Write = 0x05, "LGN.2", "the second-stage entries do not permit the write", Class::PermissionDenied;
    Read = 0x06, "LGN.3", "the second-stage entries do not permit the read", Class::PermissionDenied;
    PagingEntryAccess = 0x07, "LSS.1", "a second-stage paging entry could not be accessed", Class::PagingEntryUnreadable;
    RootAccess = 0x08, "LRT.1", "the root entry could not be accessed", Class::TableUnreadable(Table::Root);
    ContextAccess = 0x09, "LCT.1", "the context entry could not be accessed", Class::TableUnreadable(Table::Device);
    RootReserved = 0x0a, "LRT.3", "a present root entry has a reserved field set", Class::EntryInvalid(Table::Root);
    ContextReserved = 0x0b, "LCT.3", "a present context entry has a reserved field set", Class::EntryInvalid(Table::Device);
    PagingEntryReserved = 0x0c, "LSS.2", "a present second-stage paging entry has a reserved field set", Class::PagingEntryInvalid;
    TranslationTypeBlocks = 0x0d, "LCT.5", "the context entry's translation type blocks translation and translated requests", Class::TranslatedBlocked;
    OutputInterruptAddress = 0x0e, "LGN.4", "the translated address lies in the interrupt address range", Class::ReservedRange;
    InterruptRequestReserved = 0x20, "IR 20h", "a remappable interrupt request has a reserved field set", Class::InterruptBlocked;
    InterruptIndex = 0x21, "IR 21h", "the interrupt index is beyond the table, or the table beyond the host address width", Class::InterruptBlocked;
    InterruptEntryNotPresent = 0x22, "IR 22h", "the interrupt remapping entry is not present", Class::EntryNotPresent(Table::Interrupt);
    InterruptEntryAccess = 0x23, "IR 23h", "the interrupt remapping entry could not be accessed", Class::TableUnreadable(Table::Interrupt);
    InterruptEntryReserved = 0x24, "IR 24h", "a present interrupt remapping entry has a reserved field set or an invalid value", Class::EntryInvalid(Table::Interrupt);
    InterruptCompatibilityBlocked = 0x25, "IR 25h", "a compatibility format interrupt is blocked", Class::InterruptBlocked;
    InterruptSource = 0x26, "IR 26h", "the interrupt's source was refused by the entry's source validation", Class::InterruptBlocked;
    PostedDescriptorAccess = 0x27, "IR 27h", "the posted-interrupt descriptor could not be accessed", Class::TableUnreadable(Table::Interrupt);
    PostedDescriptorReserved = 0x28, "IR 28h", "the posted-interrupt descriptor has a reserved field set", Class::EntryInvalid(Table::Interrupt);
    InterruptRequestInvalid = 0x29, "IR 29h", "an untranslated request without PASID to the interrupt address range is not a valid interrupt request", Class::InterruptBlocked;
    RootTableAddress = 0x30, "RTA.1", "the root table address register holds an invalid translation table mode", Class::EntryInvalid(Table::Root);
    LegacyModePasid = 0x31, "RTA.2", "a request with PASID arrived in legacy mode", Class::PasidUnsupported;
    LegacyModePageRequest = 0x32, "RTA.3", "a page request arrived in legacy mode", Class::RequestBlocked;
    RootTableAddress4 = 0x33, "RTA.4", "the root table address register refuses the request", Class::RequestBlocked;
    ScalableRootAccess = 0x38, "SRT.1", "the scalable-mode root entry could not be accessed", Class::TableUnreadable(Table::Root);
    ScalableRootNotPresent = 0x39, "SRT.2", "the half of the scalable-mode root entry is not present", Class::EntryNotPresent(Table::Root);
    ScalableRootReserved = 0x3a, "SRT.3", "a present half of a scalable-mode root entry has a reserved field set", Class::EntryInvalid(Table::Root);
    ScalableContextAccess = 0x40, "SCT.1", "the scalable-mode context entry could not be accessed", Class::TableUnreadable(Table::Device);
    ScalableContextNotPresent = 0x41, "SCT.2", "the scalable-mode context entry is not present", Class::EntryNotPresent(Table::Device);
    ScalableContextReserved = 0x42, "SCT.3", "a present scalable-mode context entry has a reserved field set", Class::EntryInvalid(Table::Device);
    ScalableContextInvalid = 0x43, "SCT.4", "the scalable-mode context entry is invalid", Class::EntryInvalid(Table::Device);
    DeviceTlbDisabled = 0x44, "SCT.5", "the context entry's DTE is clear, for a translation or translated request", Class::TranslatedBlocked;
    PasidDisabled = 0x45, "SCT.6", "the context entry's PASIDE is clear, for a request with PASID", Class::PasidUnsupported;
    PasidBeyondDirectory = 0x46, "SCT.7", "the PASID is beyond the directory's size", Class::PasidUnsupported;
    PageRequestDisabled = 0x47, "SCT.8", "the context entry's PRE is clear, for a page request", Class::RequestBlocked;
    RidPasid = 0x48, "SCT.9", "the context entry's RID_PASID is beyond the directory's size", Class::EntryInvalid(Table::Device);
    PasidDirectoryAccess = 0x50, "SPD.1", "the PASID directory entry could not be accessed", Class::TableUnreadable(Table::PasidDirectory);
    PasidDirectoryNotPresent = 0x51, "SPD.2", "the PASID directory entry is not present", Class::EntryNotPresent(Table::PasidDirectory);
    PasidDirectoryReserved = 0x52, "SPD.3", "a present PASID directory entry has a reserved field set", Class::EntryInvalid(Table::PasidDirectory);
    PasidAccess = 0x58, "SPT.1", "the PASID table entry could not be accessed", Class::TableUnreadable(Table::Pasid);
    PasidNotPresent = 0x59, "SPT.2", "the PASID table entry is not present", Class::EntryNotPresent(Table::Pasid);
    PasidReserved = 0x5a, "SPT.3", "a present PASID table entry has a reserved field set", Class::EntryInvalid(Table::Pasid);
    PasidInvalid = 0x5b, "SPT.4", "the PASID table entry has an invalid translation type, width or mode", Class::EntryInvalid(Table::Pasid);
    ExecuteDisabled = 0x5c, "SPT.5", "an execute request where execute requests are not enabled", Class::RequestBlocked;
    SupervisorDisabled = 0x5d, "SPT.6", "a privileged request where the PASID table entry's SRE is clear", Class::PrivilegeDenied;
    FirstStageAccess = 0x70, "SFS.1", "a first-stage paging entry could not be accessed", Class::PagingEntryUnreadable;
    FirstStageNotPresent = 0x71, "SFS.2", "a first-stage paging entry is not present", Class::NotMapped;
    FirstStageReserved = 0x72, "SFS.3", "a present first-stage paging entry has a reserved field set", Class::PagingEntryInvalid;
    FirstStageRootAccess = 0x73, "SFS.4", "the first-stage root entry could not be accessed through FSPTPTR", Class::PagingEntryUnreadable;
    FirstStageBeyondMgaw = 0x74, "SFS.5", "nested: a first-stage entry's address is beyond the guest address width", Class::AddressSize;
    FirstStageRootRead = 0x75, "SFS.6", "nested: the second stage does not permit the read of the first-stage root entry", Class::PermissionDenied;
    FirstStageRead = 0x76, "SFS.7", "nested: the second stage does not permit the read of a first-stage entry", Class::PermissionDenied;
    FirstStageWrite = 0x77, "SFS.8", "nested: the second stage does not permit the write of a first-stage entry's flags", Class::PermissionDenied;
    SecondStageAccess = 0x78, "SSS.1", "a second-stage paging entry could not be accessed", Class::PagingEntryUnreadable;
    SecondStageNotPresent = 0x79, "SSS.2", "a second-stage paging entry permits neither read nor write", Class::NotMapped;
    SecondStageReserved = 0x7a, "SSS.3", "a present second-stage paging entry has a reserved field set", Class::PagingEntryInvalid;
    SecondStageRootAccess = 0x7b, "SSS.4", "the second-stage root entry could not be accessed through SSPTPTR", Class::PagingEntryUnreadable;
    SecondStageFlagsNoSnoop = 0x7c, "SSS.5", "second-stage accessed or dirty must be set while page walks do not snoop", Class::AccessFlag;
    SecondStageFlagsUpdate = 0x7d, "SSS.6", "second-stage accessed or dirty could not be set atomically", Class::AccessFlag;
    NotCanonical = 0x80, "SGN.1", "the address is not canonical for first-stage translation", Class::AddressSize;
    UserToSupervisorPage = 0x81, "SGN.2", "a user request to a supervisor page", Class::PrivilegeDenied;
    Execute = 0x82, "SGN.3", "the entries do not permit execution", Class::PermissionDenied;
    AddressBeyondHaw = 0x83, "SGN.4", "the address is beyond the host address width", Class::AddressSize;
    ScalableAddressBeyondMgaw = 0x84, "SGN.5", "the second stage's input address is beyond the guest address width", Class::AddressSize;
    ScalableWrite = 0x85, "SGN.6", "the entries do not permit the write", Class::PermissionDenied;
    ScalableRead = 0x86, "SGN.7", "the entries do not permit the read", Class::PermissionDenied;
    ScalableOutputInterruptAddress = 0x87, "SGN.8", "the translated address lies in the interrupt address range", Class::ReservedRange;
    Sgn9 = 0x88, "SGN.9", "a translated request is refused (condition SGN.9)", Class::TranslatedBlocked;
    Sgn10 = 0x89, "SGN.10", "a translated request is refused (condition SGN.10)", Class::TranslatedBlocked;
    FirstStageFlagsNoSnoop = 0x90, "SFS.9", "first-stage accessed or dirty must be set while page walks do not snoop", Class::AccessFlag;
    FirstStageFlagsUpdate = 0x91, "SFS.10", "first-stage accessed or dirty could not be set atomically", Class::AccessFlag;
}

impl VtdFaultReason {
    /// Whether the fault is qualified: recorded only where no FPD bit on the way to it is set (VT-d 7.1.3). Faults on
    /// the way to the first entry that has an FPD bit, and failures to access configuration entries, are not.
    #[must_use]
    pub const fn is_qualified(self) -> bool {
        !matches!(
            self,
            Self::RootNotPresent
                | Self::RootAccess
                | Self::RootReserved
                | Self::ContextAccess
                | Self::InterruptRequestReserved
                | Self::InterruptIndex
                | Self::InterruptEntryAccess
                | Self::InterruptCompatibilityBlocked
                | Self::InterruptRequestInvalid
                | Self::RootTableAddress
                | Self::LegacyModePasid
                | Self::LegacyModePageRequest
                | Self::RootTableAddress4
                | Self::ScalableRootAccess
                | Self::ScalableRootNotPresent
                | Self::ScalableRootReserved
                | Self::ScalableContextAccess
                | Self::PasidDirectoryAccess
                | Self::PasidAccess
        )
    }

    /// Whether this is an interrupt remapping fault, whose record holds an interrupt index in place of an address.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        self.code() >= 0x20 && self.code() < 0x30
    }

    /// The stage of translation that refused, where a stage did.
    #[must_use]
    pub const fn stage(self) -> Option<StageNumber> {
        match self {
            Self::AddressBeyondMgaw
            | Self::Write
            | Self::Read
            | Self::PagingEntryAccess
            | Self::PagingEntryReserved
            | Self::SecondStageAccess
            | Self::SecondStageNotPresent
            | Self::SecondStageReserved
            | Self::SecondStageRootAccess
            | Self::SecondStageFlagsNoSnoop
            | Self::SecondStageFlagsUpdate
            | Self::ScalableAddressBeyondMgaw
            | Self::FirstStageBeyondMgaw
            | Self::FirstStageRootRead
            | Self::FirstStageRead
            | Self::FirstStageWrite
            | Self::ScalableRead => Some(StageNumber::Second),
            Self::FirstStageAccess
            | Self::FirstStageNotPresent
            | Self::FirstStageReserved
            | Self::FirstStageRootAccess
            | Self::NotCanonical
            | Self::UserToSupervisorPage
            | Self::FirstStageFlagsNoSnoop
            | Self::FirstStageFlagsUpdate => Some(StageNumber::First),
            _ => None,
        }
    }

    /// The reason for a neutral refusal of DMA under translation table mode `ttm`, where one is closest. `stage` is the
    /// stage that refused and `access` what was asked for. `None` for classes that VT-d does not report.
    #[must_use]
    pub const fn from_neutral(
        ttm: Ttm,
        reason: FaultReason,
        stage: Option<StageNumber>,
        access: Access,
    ) -> Option<Self> {
        let write = access.contains(Access::WRITE);
        let scalable = matches!(ttm, Ttm::Scalable);
        let first = matches!(stage, Some(StageNumber::First));
        Some(match (reason, scalable) {
            (Class::EntryNotPresent(Table::Root), false) => Self::RootNotPresent,
            (Class::EntryNotPresent(Table::Root), true) => Self::ScalableRootNotPresent,
            (Class::EntryNotPresent(Table::Device), false) => Self::ContextNotPresent,
            (Class::EntryNotPresent(Table::Device), true) => Self::ScalableContextNotPresent,
            (Class::EntryNotPresent(Table::PasidDirectory), true) => Self::PasidDirectoryNotPresent,
            (Class::EntryNotPresent(Table::Pasid), true) => Self::PasidNotPresent,
            (Class::EntryNotPresent(Table::Interrupt), _) => Self::InterruptEntryNotPresent,
            (Class::EntryInvalid(Table::Root), false) => Self::RootReserved,
            (Class::EntryInvalid(Table::Root), true) => Self::ScalableRootReserved,
            (Class::EntryInvalid(Table::Device), false) => Self::ContextInvalid,
            (Class::EntryInvalid(Table::Device), true) => Self::ScalableContextInvalid,
            (Class::EntryInvalid(Table::PasidDirectory), true) => Self::PasidDirectoryReserved,
            (Class::EntryInvalid(Table::Pasid), true) => Self::PasidInvalid,
            (Class::EntryInvalid(Table::Interrupt), _) => Self::InterruptEntryReserved,
            (Class::TableUnreadable(Table::Root), false) => Self::RootAccess,
            (Class::TableUnreadable(Table::Root), true) => Self::ScalableRootAccess,
            (Class::TableUnreadable(Table::Device), false) => Self::ContextAccess,
            (Class::TableUnreadable(Table::Device), true) => Self::ScalableContextAccess,
            (Class::TableUnreadable(Table::PasidDirectory), true) => Self::PasidDirectoryAccess,
            (Class::TableUnreadable(Table::Pasid), true) => Self::PasidAccess,
            (Class::TableUnreadable(Table::Interrupt), _) => Self::InterruptEntryAccess,
            (Class::PasidUnsupported, false) => Self::LegacyModePasid,
            (Class::PasidUnsupported, true) => Self::PasidBeyondDirectory,
            (Class::AddressSize, false) => Self::AddressBeyondMgaw,
            (Class::AddressSize, true) => match stage {
                Some(StageNumber::First) => Self::NotCanonical,
                Some(StageNumber::Second) => Self::ScalableAddressBeyondMgaw,
                None => Self::AddressBeyondHaw,
            },
            (Class::NotMapped | Class::PermissionDenied, false) if write => Self::Write,
            (Class::NotMapped | Class::PermissionDenied, false) => Self::Read,
            (Class::NotMapped, true) if first => Self::FirstStageNotPresent,
            (Class::NotMapped, true) => Self::SecondStageNotPresent,
            (Class::PermissionDenied, true) if write => Self::ScalableWrite,
            (Class::PermissionDenied, true) if access.contains(Access::EXECUTE) => Self::Execute,
            (Class::PermissionDenied, true) => Self::ScalableRead,
            (Class::PrivilegeDenied, true) if first => Self::UserToSupervisorPage,
            (Class::PrivilegeDenied, true) => Self::SupervisorDisabled,
            (Class::AccessFlag, true) if first => Self::FirstStageFlagsUpdate,
            (Class::AccessFlag, true) => Self::SecondStageFlagsUpdate,
            (Class::PagingEntryInvalid, false) => Self::PagingEntryReserved,
            (Class::PagingEntryInvalid, true) if first => Self::FirstStageReserved,
            (Class::PagingEntryInvalid, true) => Self::SecondStageReserved,
            (Class::PagingEntryUnreadable, false) => Self::PagingEntryAccess,
            (Class::PagingEntryUnreadable, true) if first => Self::FirstStageAccess,
            (Class::PagingEntryUnreadable, true) => Self::SecondStageAccess,
            (Class::ReservedRange, false) => Self::OutputInterruptAddress,
            (Class::ReservedRange, true) => Self::ScalableOutputInterruptAddress,
            (Class::TranslatedBlocked, false) => Self::TranslationTypeBlocks,
            (Class::TranslatedBlocked, true) => Self::DeviceTlbDisabled,
            _ => return None,
        })
    }
}

/// What a fault record says of the request's type (VT-d 11.4.7.6, T1 and T2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordType {
    /// Write.
    Write,
    /// Page request.
    PageRequest,
    /// Read.
    Read,
    /// Atomic operation.
    Atomic,
}

/// A fault recording register, both halves (VT-d 11.4.7.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FaultRecord {
    /// Bits 63:0.
    pub low: FrcdLow,
    /// Bits 127:64.
    pub high: FrcdHigh,
}

impl FaultRecord {
    /// From the register's two 64-bit halves, low first.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        Self { low: FrcdLow::from_bits(words[0]), high: FrcdHigh::from_bits(words[1]) }
    }

    /// The register's two 64-bit halves, low first.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        [self.low.into_bits(), self.high.into_bits()]
    }

    /// The type of the request.
    #[must_use]
    pub const fn record_type(self) -> RecordType {
        match (self.high.t1(), self.high.t2()) {
            (false, false) => RecordType::Write,
            (false, true) => RecordType::PageRequest,
            (true, false) => RecordType::Read,
            (true, true) => RecordType::Atomic,
        }
    }

    /// The record of a fault, with F set; `None` where the fault's code is not one of VT-d's, or the requester is not a PCI
    /// function. Of an interrupt fault, the index is the handle in its address.
    #[must_use]
    pub const fn from_fault(fault: &Fault) -> Option<Self> {
        let Requester::Pci(source) = fault.requester else { return None };
        if fault.code > 0xff {
            return None;
        }
        match VtdFaultReason::from_code(fault.code as u8) {
            None => return None,
            Some(reason) if reason.is_interrupt() => {
                let index = RemappableAddress::from_bits(fault.address.0 as u32).handle();
                return Some(Self::interrupt(source.requester_id, reason, index));
            }
            Some(_) => {}
        }
        let atomic = fault.access.contains(Access::ATOMIC);
        let write = fault.access.contains(Access::WRITE) && !atomic;
        let at = match fault.request_type {
            RequestType::Untranslated => 0b00,
            RequestType::TranslationRequest => 0b01,
            RequestType::Translated => 0b10,
        };
        let high = FrcdHigh::new()
            .with_sid(source.requester_id)
            .with_fr(fault.code as u8)
            .with_at(at)
            .with_t1(!write)
            .with_t2(atomic)
            .with_f(true);
        let high = match fault.pasid {
            Some(pasid) => high
                .with_pp(true)
                .with_pv(pasid.value())
                .with_priv(fault.privileged)
                .with_exe(fault.access.contains(Access::EXECUTE)),
            None => high,
        };
        Some(Self { low: FrcdLow::new().with_fi(fault.address.0 >> 12), high })
    }

    /// The record of a refused interrupt request of the function with ID `source`, with F set: the index of the interrupt table entry
    /// stands in bits 63:48, and is 0 where the request came to none.
    #[must_use]
    pub const fn interrupt(source: u16, reason: VtdFaultReason, index: u16) -> Self {
        let high = FrcdHigh::new().with_sid(source).with_fr(reason.code()).with_f(true);
        Self { low: FrcdLow::new().with_fi((index as u64) << 36), high }
    }

    /// The fault that the record tells of, for a unit on PCI segment `segment`; `None` where F is clear or the reason
    /// is unknown. Of an interrupt fault, the address is that of a request for the entry whose index the record holds
    /// ([`RemappableAddress`]). What the record cannot hold is absent: the address between two stages, the low 12 address bits.
    #[must_use]
    pub const fn to_fault(self, segment: u16) -> Option<Fault> {
        let high = self.high;
        if !high.f() {
            return None;
        }
        let Some(reason) = VtdFaultReason::from_code(high.fr()) else { return None };
        let mut access = match self.record_type() {
            _ if reason.is_interrupt() => Access::WRITE,
            RecordType::Write => Access::WRITE,
            RecordType::Read | RecordType::PageRequest => Access::READ,
            RecordType::Atomic => Access::READ_WRITE.union(Access::ATOMIC),
        };
        if high.pp() && high.exe() {
            access = access.union(Access::EXECUTE);
        }
        Some(Fault {
            requester: Requester::Pci(PciAddress { segment, requester_id: high.sid() }),
            pasid: if high.pp() { Pasid::new(high.pv()) } else { None },
            address: if reason.is_interrupt() {
                let index = (self.low.fi() >> 36) as u16;
                Iova(RemappableAddress::of(index, false).into_bits() as u64)
            } else {
                Iova(self.low.fi() << 12)
            },
            ipa: None,
            access,
            privileged: high.pp() && high.r#priv(),
            request_type: match high.at() {
                0b01 => RequestType::TranslationRequest,
                0b10 => RequestType::Translated,
                _ => RequestType::Untranslated,
            },
            reason: reason.neutral(),
            stage: reason.stage(),
            code: reason.code() as u32,
        })
    }
}
