//! From what the common rooms say to events and their records (SMMUv3 7.3).

use portcullis_spec::smmuv3::event::{EventClass, EventHeader, EventNumber, EventRecord, EventSyndrome};
use portcullis_spec::{Access, Fault, FaultReason, Ipa, Pasid, PhysAddr, StageNumber, Transaction};

use super::note::{FaultFlags, Note, Stop};
use crate::engine::{Outcome, Report};
use crate::refusal::{Detail, Refusal};

/// Bits of IPA and FetchAddr that records hold.
const IPA: u64 = 0x00ff_ffff_ffff_f000;
const FETCH: u64 = 0x00ff_ffff_ffff_fff8;

/// The event of a refusal by tables; `None` where there is nothing to record.
pub(super) fn event(refusal: &Refusal) -> Option<EventNumber> {
    Some(match refusal.reason {
        FaultReason::RequesterUnsupported => EventNumber::FUut,
        // The input is out of the range of a stage's tables, or of the address size where there is none (3.4).
        FaultReason::AddressSize if refusal.stage.is_some() => EventNumber::FTranslation,
        FaultReason::AddressSize => EventNumber::FAddrSize,
        FaultReason::NotMapped => EventNumber::FTranslation,
        FaultReason::PermissionDenied | FaultReason::PrivilegeDenied => EventNumber::FPermission,
        // An entry that could not be updated (7.3.12).
        FaultReason::AccessFlag if refusal.detail == Detail::FlagsUpdate => EventNumber::FWalkEabt,
        FaultReason::AccessFlag => EventNumber::FAccess,
        // The one rule that a descriptor can break: its address is beyond the stage's output size.
        FaultReason::PagingEntryInvalid => EventNumber::FAddrSize,
        FaultReason::PagingEntryUnreadable => EventNumber::FWalkEabt,
        _ => return None,
    })
}

/// A transaction's attributes as they count (13.1.2): after overrides, and writes and atomic operations are data.
pub(super) fn attributes(transaction: &Transaction, note: &Note) -> (bool, bool) {
    let instruction = !transaction.access.contains(Access::WRITE)
        && note.instruction.apply(transaction.access.contains(Access::EXECUTE));
    (note.privilege.apply(transaction.privileged), instruction)
}

/// The event's facts, from a look-up that stopped or from a refusal by tables.
fn facts(transaction: &Transaction, note: &Note, refusal: &Refusal) -> Stop {
    if let Some(stop) = note.stop {
        return stop;
    }
    let event = event(refusal);
    let second = refusal.stage == Some(StageNumber::Second);
    let class = if refusal.table.is_some() || (!second && event == Some(EventNumber::FWalkEabt)) {
        EventClass::Ttd
    } else {
        EventClass::In
    };
    let ipa = refusal.ipa.or(second.then_some(Ipa(transaction.address.0)));
    Stop { event, stage: refusal.stage, class, ipa, fetch: refusal.entry }
}

/// What becomes of a fault, and whether it is recorded (3.12, 5.5).
fn outcome(note: &Note, stop: &Stop, event: EventNumber, record_bad_streams: bool) -> (bool, Outcome) {
    let configured = match event {
        EventNumber::FTranslation
        | EventNumber::FAddrSize
        | EventNumber::FAccess
        | EventNumber::FPermission => match stop.stage {
            Some(StageNumber::First) => note.first,
            Some(StageNumber::Second) => note.second,
            None => None,
        },
        // 7.3.3.
        EventNumber::CBadStreamid => return (record_bad_streams, Outcome::Abort),
        _ => None,
    };
    match configured {
        Some(FaultFlags { stall: true, .. }) => (true, Outcome::Hold),
        Some(FaultFlags { abort: false, record, .. }) => (record, Outcome::ZeroAndIgnore),
        Some(FaultFlags { record, .. }) => (record, Outcome::Abort),
        None => (true, Outcome::Abort),
    }
}

/// The report of a refused transaction.
pub(super) fn report(
    transaction: &Transaction,
    note: Option<&Note>,
    refusal: Refusal,
    record_bad_streams: bool,
) -> Report<EventRecord> {
    let unknown = Note::default();
    let note = note.unwrap_or(&unknown);
    let stop = facts(transaction, note, &refusal);
    let silent = note.quiet || refusal.detail == Detail::Silent;
    let event = stop.event.filter(|_| !silent);
    let second = stop.stage == Some(StageNumber::Second);
    let fault = Fault {
        requester: transaction.requester,
        pasid: transaction.pasid,
        address: transaction.address,
        ipa: stop.ipa.filter(|_| second),
        access: transaction.access,
        privileged: transaction.privileged,
        request_type: transaction.request_type,
        reason: event.map_or(refusal.reason, EventNumber::reason),
        stage: stop.stage,
        code: event.map_or(0, |event| event.encode().into()),
    };
    let Some(event) = event else { return Report { fault, record: None, outcome: Outcome::Abort } };
    let (recorded, outcome) = outcome(note, &stop, event, record_bad_streams);
    let record = recorded.then(|| record(transaction, note, &refusal, &stop, event));
    Report { fault, record, outcome }
}

/// The record (7.3.2 to 7.3.16), without what a stall adds.
fn record(
    transaction: &Transaction,
    note: &Note,
    refusal: &Refusal,
    stop: &Stop,
    event: EventNumber,
) -> EventRecord {
    let header = EventHeader::new().with_number(event.encode()).with_streamid(transaction.requester.index());
    let header = match transaction.pasid.map(Pasid::value) {
        // 7.3.9: SubstreamID has no valid bit there.
        Some(pasid) if event == EventNumber::CBadSubstreamid => header.with_substreamid(pasid),
        Some(pasid) => header.with_ssv(true).with_substreamid(pasid),
        None => header,
    };
    let record = EventRecord { header, ..EventRecord::default() };
    let fetch = stop.fetch.map_or(0, |PhysAddr(at)| at & FETCH);
    match event {
        EventNumber::FSteFetch | EventNumber::FCdFetch => EventRecord { ipa_or_fetch_addr: fetch, ..record },
        EventNumber::FUut => {
            let syndrome = accesses(transaction, transaction.privileged, false, refusal);
            let instruction =
                !transaction.access.contains(Access::WRITE) && transaction.access.contains(Access::EXECUTE);
            let syndrome = syndrome.with_ind(instruction);
            EventRecord { syndrome, input_addr: transaction.address.0, ..record }
        }
        EventNumber::FWalkEabt
        | EventNumber::FTranslation
        | EventNumber::FAddrSize
        | EventNumber::FAccess
        | EventNumber::FPermission => {
            let second = stop.stage == Some(StageNumber::Second);
            let (privileged, instruction) = attributes(transaction, note);
            let mut syndrome = accesses(transaction, privileged, instruction, refusal)
                .with_s2(second)
                .with_class(stop.class);
            if event == EventNumber::FPermission
                && let Some(table) = refusal.table
            {
                syndrome.set_ttrnw(!table.write);
            }
            let ipa = stop.ipa.filter(|_| second).map_or(0, |Ipa(at)| at & IPA);
            let address = if event == EventNumber::FWalkEabt { fetch } else { ipa };
            EventRecord { syndrome, input_addr: transaction.address.0, ipa_or_fetch_addr: address, ..record }
        }
        _ => record,
    }
}

/// RnW, InD and PnU (7.3, 13.1.1).
fn accesses(
    transaction: &Transaction,
    privileged: bool,
    instruction: bool,
    refusal: &Refusal,
) -> EventSyndrome {
    let writes = transaction.access.contains(Access::WRITE);
    // Of atomic operations, those that may write but not read count as reads.
    let read = !writes || (refusal.detail == Detail::OnlyReadDenied && refusal.table.is_none());
    EventSyndrome::new().with_rnw(read).with_ind(instruction).with_pnu(privileged)
}
