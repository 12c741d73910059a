//! Violations of earlier processes: from the words that are on disk to records like ours.

use std::{collections::HashMap, sync::Arc};

use portcullis_client::api;
use portcullis_spec::{Access, Fault, Iova, Pasid, RequestType, Requester};

use super::message;
use crate::{
    core::Core,
    inventory::DeviceId,
    journal::{Attribution, Former, Journal, Record},
    violation::{RawRecord, Violation},
};

/// A device that is no more: its records are listed, and asking for one by name does not find them.
const GONE: DeviceId = DeviceId(u32::MAX);

/// What a former process knew of whose a violation was: there are few, for many records.
type Whose = (Vec<String>, Option<String>, Option<String>);

/// Takes up what is on disk.
pub(super) fn take_up(journal: &mut Journal, former: Former<api::Fault>, core: &Core) {
    if former.unreadable != 0 {
        tracing::warn!("{} lines of the journal of before make no sense", former.unreadable);
    }
    let devices: HashMap<String, DeviceId> =
        core.devices().map(|view| (view.device.name.clone(), view.id)).collect();
    let mut known: HashMap<Whose, Arc<Attribution>> = HashMap::new();
    let mut attribution = |fault: &api::Fault| {
        let whose = (fault.devices.clone(), fault.unit.clone(), fault.client.clone());
        let (names, unit, client) = whose.clone();
        let made = || {
            let device = names.first().and_then(|name| devices.get(name)).copied().unwrap_or(GONE);
            let client = client.map(Into::into);
            Arc::new(Attribution { device, devices: names, unit, client, client_id: None })
        };
        known.entry(whose).or_insert_with(made).clone()
    };
    let records = former.records.into_iter().filter_map(|fault| {
        let attribution = (!fault.devices.is_empty()).then(|| attribution(&fault));
        let device = attribution.as_ref().map(|a| a.device);
        let violation = violation(&fault, fault.requester.parse().ok()?, device);
        Some(Record { number: fault.number, violation, attribution, grant: fault.grant })
    });
    journal.take_up(records, former.last);
}

/// A violation as the interface's words say it, of this requester and device.
pub(crate) fn violation(fault: &api::Fault, requester: Requester, device: Option<DeviceId>) -> Violation {
    let mut access = Access::empty();
    access.set(Access::READ, fault.access.read);
    access.set(Access::WRITE, fault.access.write);
    access.set(Access::EXECUTE, fault.access.execute);
    let mut raw = RawRecord::default();
    for (word, text) in raw.words.iter_mut().zip(&fault.raw) {
        *word = u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0);
        raw.length += 1;
    }
    Violation {
        unit: None,
        device,
        fault: Fault {
            requester,
            pasid: fault.pasid.and_then(Pasid::new),
            address: Iova(fault.address),
            ipa: None,
            access,
            privileged: false,
            request_type: RequestType::Untranslated,
            reason: message::reason_of(&fault.reason),
            stage: None,
            code: fault.code,
        },
        time: fault.time,
        raw,
        count: u32::try_from(fault.count).unwrap_or(u32::MAX),
    }
}
