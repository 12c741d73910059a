//! Why a transaction was refused.

use crate::{Access, Iova, Ipa, Pasid, RequestType, Requester};

/// One of the tables that lead from a requester to its translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum ConfigTable {
    /// VT-d root table.
    Root,
    /// The table that requesters index: context table, device table, stream table, device directory.
    Device,
    /// The directory above the PASID table (VT-d PASID directory, Arm level-1 CD table, RISC-V non-leaf PDT).
    PasidDirectory,
    /// The table that PASIDs index: PASID table, GCR3 table, context descriptors, process directory.
    Pasid,
    /// The interrupt remapping table.
    Interrupt,
}

/// Which stage of translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum StageNumber {
    /// First stage: the guest's own (VT-d first stage, AMD v2, Arm stage 1, RISC-V VS or S stage).
    First,
    /// Second stage: the hypervisor's (VT-d second stage, AMD v1, Arm stage 2, RISC-V G stage).
    Second,
}

/// The neutral class of a refusal. The architecture's own code stands beside it in [`Fault::code`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum FaultReason {
    /// The requester is beyond the tables' reach, or its kind of request is not supported there.
    RequesterUnsupported,
    /// A configuration table entry is not present (valid).
    EntryNotPresent(ConfigTable),
    /// A configuration table entry holds a reserved or contradictory value.
    EntryInvalid(ConfigTable),
    /// A configuration table could not be read.
    TableUnreadable(ConfigTable),
    /// The device's entry blocks this type of request, or all.
    RequestBlocked,
    /// The PASID is beyond the table's reach, or the device may not use PASIDs.
    PasidUnsupported,
    /// The address has bits above the input size, or is not canonical.
    AddressSize,
    /// No entry maps the address.
    NotMapped,
    /// The entries map the address but not for this access.
    PermissionDenied,
    /// A privileged request where those are refused, or to a page that refuses them.
    PrivilegeDenied,
    /// Accessed is clear and the unit may not set it.
    AccessFlag,
    /// A paging entry has reserved bits set, or leads outside the output size.
    PagingEntryInvalid,
    /// A paging entry could not be read.
    PagingEntryUnreadable,
    /// The access hit the range reserved for interrupts, or a protected range.
    ReservedRange,
    /// An interrupt request is malformed, out of range, or not permitted.
    InterruptBlocked,
    /// A translated request was refused although ATS might allow it.
    TranslatedBlocked,
    /// The unit met an error of its own and blocks.
    Internal,
}

/// A refused transaction, with everything that the architectures can report.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Fault {
    /// Who sent it.
    pub requester: Requester,
    /// Its PASID.
    pub pasid: Option<Pasid>,
    /// Its address. VT-d reports the page only: bits 11:0 are then zero.
    pub address: Iova,
    /// The address between the stages, where the second refused.
    pub ipa: Option<Ipa>,
    /// What it wanted to do.
    pub access: Access,
    /// Whether it asked for privileged rights.
    pub privileged: bool,
    /// Its type.
    pub request_type: RequestType,
    /// Why, neutrally.
    pub reason: FaultReason,
    /// The stage that refused.
    pub stage: Option<StageNumber>,
    /// The architecture's code: VT-d fault reason, AMD event code, Arm event number, RISC-V CAUSE, virtio reason.
    pub code: u32,
}
