//! From a refusal to its cause (RISC-V IOMMU 3.2).

use portcullis_spec::riscv::Cause;
use portcullis_spec::{Access, ConfigTable, FaultReason, StageNumber, Transaction};

use super::lookup::{Note, Stop};
use crate::refusal::{Detail, Refusal};

/// The cause of a refusal, and `iotval2`.
pub(super) fn cause(transaction: &Transaction, note: Option<&Note>, refusal: Refusal) -> (Cause, u64) {
    // The device context disallows the request whatever the tables say (2.3, steps 2, 7 and 15).
    if refusal.stage.is_none()
        && matches!(refusal.reason, FaultReason::TranslatedBlocked | FaultReason::PrivilegeDenied)
    {
        return (Cause::TransactionTypeDisallowed, 0);
    }
    match note.and_then(|note| note.stop) {
        Some(Stop::Cause(cause)) => (cause, 0),
        Some(Stop::Refused(refusal)) => by_tables(transaction, refusal),
        None => by_tables(transaction, refusal),
    }
}

/// The three causes of one kind: of fetches, reads, and writes or AMOs.
const fn by_access(access: Access, fetch: Cause, read: Cause, write: Cause) -> Cause {
    if access.contains(Access::WRITE) {
        write
    } else if access.contains(Access::EXECUTE) {
        fetch
    } else {
        read
    }
}

/// 2.3.3; and 4 for accesses to a memory-resident interrupt file that are not supported.
const fn by_msi_table(refusal: Refusal) -> Option<Cause> {
    Some(match (refusal.reason, refusal.detail) {
        (FaultReason::TableUnreadable(ConfigTable::Interrupt), _) => Cause::MsiPteLoadFault,
        (FaultReason::EntryNotPresent(ConfigTable::Interrupt), _) => Cause::MsiPteInvalid,
        (FaultReason::EntryInvalid(ConfigTable::Interrupt), _) => Cause::MsiPteMisconfigured,
        (FaultReason::InterruptBlocked, Detail::InterruptFile) => Cause::TransactionTypeDisallowed,
        (FaultReason::InterruptBlocked, _) => Cause::MrifAccessFault,
        _ => return None,
    })
}

fn by_tables(transaction: &Transaction, refusal: Refusal) -> (Cause, u64) {
    if let Some(cause) = by_msi_table(refusal) {
        return (cause, 0);
    }
    let access = transaction.access;
    let unreachable = refusal.reason == FaultReason::PagingEntryUnreadable
        || matches!(refusal.detail, Detail::FlagsUpdate)
        || refusal.stage.is_none();
    if refusal.reason == FaultReason::Internal {
        return (Cause::InternalDatapathError, 0);
    }
    if unreachable {
        let cause =
            by_access(access, Cause::InstructionAccessFault, Cause::ReadAccessFault, Cause::WriteAccessFault);
        return (cause, 0);
    }
    if refusal.stage == Some(StageNumber::First) {
        let cause =
            by_access(access, Cause::InstructionPageFault, Cause::ReadPageFault, Cause::WritePageFault);
        return (cause, 0);
    }
    let cause = by_access(
        access,
        Cause::InstructionGuestPageFault,
        Cause::ReadGuestPageFault,
        Cause::WriteGuestPageFault,
    );
    let guest = refusal.ipa.map_or(transaction.address.0, |ipa| ipa.0);
    let implicit = refusal.table.map_or(0, |table| 1 | u64::from(table.write) << 1);
    (cause, guest & !3 | implicit)
}
