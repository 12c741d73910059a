//! From what the common rooms say to VT-d's fault reasons (VT-d 7.1.3).

use portcullis_spec::vtd::VtdFaultReason as Reason;
use portcullis_spec::{Access, FaultReason, StageNumber, Transaction};

use super::lookup::{Mode, Note};
use crate::refusal::{Detail, FirstStageTable, Refusal};

/// The reason that is recorded, or `None` where the specification has the request refused without a record.
pub(super) fn reason(transaction: &Transaction, note: Option<&Note>, refusal: Refusal) -> Option<Reason> {
    if refusal.detail == Detail::Silent {
        return None;
    }
    let note = note?;
    match note.mode {
        Mode::Disabled | Mode::Abort => None,
        _ if note.code.is_some() => note.code,
        Mode::Legacy => legacy(transaction, refusal),
        Mode::Scalable => scalable(transaction, refusal),
    }
}

/// Whether a permission is missing for writing. Atomic operations need both; only where reading alone is denied is the
/// read permission what is missing (LGN.3, SGN.7).
fn wants_write(transaction: &Transaction, refusal: Refusal) -> bool {
    transaction.access.contains(Access::WRITE) && refusal.detail != Detail::OnlyReadDenied
}

fn legacy(transaction: &Transaction, refusal: Refusal) -> Option<Reason> {
    Some(match refusal.reason {
        FaultReason::AddressSize => Reason::AddressBeyondMgaw,
        FaultReason::NotMapped | FaultReason::PermissionDenied | FaultReason::PrivilegeDenied => {
            if wants_write(transaction, refusal) {
                Reason::Write
            } else {
                Reason::Read
            }
        }
        // The root table is the context entry's: LCT.4.
        FaultReason::PagingEntryUnreadable if refusal.detail == Detail::RootEntry => Reason::ContextInvalid,
        FaultReason::PagingEntryUnreadable => Reason::PagingEntryAccess,
        FaultReason::PagingEntryInvalid => Reason::PagingEntryReserved,
        FaultReason::ReservedRange => Reason::OutputInterruptAddress,
        FaultReason::TranslatedBlocked => Reason::TranslationTypeBlocks,
        _ => return None,
    })
}

fn scalable(transaction: &Transaction, refusal: Refusal) -> Option<Reason> {
    if let Some(FirstStageTable { root, write }) = refusal.table
        && matches!(refusal.detail, Detail::None | Detail::OnlyReadDenied)
    {
        return table_access(refusal.reason, root, write);
    }
    let first = refusal.stage == Some(StageNumber::First);
    let root = refusal.detail == Detail::RootEntry;
    let update = refusal.detail == Detail::FlagsUpdate;
    Some(match refusal.reason {
        FaultReason::AddressSize => match refusal.stage {
            Some(StageNumber::First) => Reason::NotCanonical,
            Some(StageNumber::Second) => Reason::ScalableAddressBeyondMgaw,
            None => Reason::AddressBeyondHaw,
        },
        FaultReason::NotMapped if first => Reason::FirstStageNotPresent,
        FaultReason::NotMapped => Reason::SecondStageNotPresent,
        FaultReason::PermissionDenied => {
            if wants_write(transaction, refusal) {
                Reason::ScalableWrite
            } else {
                Reason::ScalableRead
            }
        }
        FaultReason::PrivilegeDenied if first => Reason::UserToSupervisorPage,
        FaultReason::PrivilegeDenied => Reason::SupervisorDisabled,
        FaultReason::PagingEntryUnreadable => match (first, root) {
            (true, true) => Reason::FirstStageRootAccess,
            (true, false) => Reason::FirstStageAccess,
            (false, true) => Reason::SecondStageRootAccess,
            (false, false) => Reason::SecondStageAccess,
        },
        FaultReason::PagingEntryInvalid if first => Reason::FirstStageReserved,
        FaultReason::PagingEntryInvalid => Reason::SecondStageReserved,
        FaultReason::AccessFlag => match (first, update) {
            (true, true) => Reason::FirstStageFlagsUpdate,
            (true, false) => Reason::FirstStageFlagsNoSnoop,
            (false, true) => Reason::SecondStageFlagsUpdate,
            (false, false) => Reason::SecondStageFlagsNoSnoop,
        },
        FaultReason::ReservedRange => Reason::ScalableOutputInterruptAddress,
        FaultReason::TranslatedBlocked => Reason::DeviceTlbDisabled,
        FaultReason::RequestBlocked => Reason::ExecuteDisabled,
        _ => return None,
    })
}

/// The second stage refused an access to a first-stage table.
fn table_access(reason: FaultReason, root: bool, write: bool) -> Option<Reason> {
    Some(match reason {
        FaultReason::AddressSize => Reason::FirstStageBeyondMgaw,
        FaultReason::PermissionDenied | FaultReason::PrivilegeDenied => match (root, write) {
            (_, true) => Reason::FirstStageWrite,
            (true, false) => Reason::FirstStageRootRead,
            (false, false) => Reason::FirstStageRead,
        },
        FaultReason::NotMapped => Reason::SecondStageNotPresent,
        FaultReason::PagingEntryInvalid => Reason::SecondStageReserved,
        FaultReason::PagingEntryUnreadable => Reason::SecondStageAccess,
        FaultReason::AccessFlag => Reason::SecondStageFlagsNoSnoop,
        _ => return None,
    })
}
