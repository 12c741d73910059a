//! From the core's words to those of the interface.

use portcullis_client::api;
use portcullis_spec::{Access, FaultReason};

use crate::{
    backend::Source,
    core::{Core, Event, GrantView},
    inventory::{Device, DeviceKind, ReservedKind, ReservedRegion, Unit, UnitId, UnitKind},
    journal::Record,
};

pub(super) fn access(access: Access) -> api::Access {
    api::Access {
        read: access.contains(Access::READ),
        write: access.contains(Access::WRITE),
        execute: access.contains(Access::EXECUTE),
    }
}

pub(super) fn asked_access(access: api::Access) -> Access {
    let mut asked = Access::empty();
    asked.set(Access::READ, access.read);
    asked.set(Access::WRITE, access.write);
    asked.set(Access::EXECUTE, access.execute);
    asked
}

pub(super) fn unit(core: &Core, id: UnitId, unit: &Unit) -> api::Unit {
    let kind = match unit.kind {
        UnitKind::Vtd => "vtd",
        UnitKind::AmdVi => "amdvi",
        UnitKind::SmmuV3 => "smmuv3",
        UnitKind::SmmuV2 => "smmuv2",
        UnitKind::Riscv => "riscv",
        UnitKind::Virtio => "virtio",
        UnitKind::Upstream => "upstream",
    };
    let capabilities = &unit.capabilities;
    api::Unit {
        name: unit.name.clone(),
        kind: kind.into(),
        address: unit.address,
        page_sizes: (0..64)
            .filter(|bit| capabilities.page_sizes >> bit & 1 != 0)
            .map(|bit| 1 << bit)
            .collect(),
        first: capabilities.iova.start().0,
        last: capabilities.iova.end().0,
        write_only: capabilities.write_only,
        execute: capabilities.execute,
        interrupts_isolated: capabilities.interrupts_isolated,
        tells_devices_apart: capabilities.tells_devices_apart,
        pasid: capabilities.pasid,
        devices: core.devices().filter(|d| d.device.unit == Some(id)).count() as u64,
        source: unit.source.clone(),
    }
}

pub(super) fn region(region: &ReservedRegion) -> api::Region {
    let kind = match region.kind {
        ReservedKind::Direct => "direct",
        ReservedKind::DirectRelaxable => "direct-relaxable",
        ReservedKind::Reserved => "reserved",
        ReservedKind::Msi => "msi",
    };
    api::Region {
        first: region.range.start().0,
        last: region.range.end().0,
        kind: kind.into(),
        access: access(region.access),
        source: region.source.clone(),
    }
}

pub(super) fn device_kind(device: &Device) -> &'static str {
    match device.kind {
        DeviceKind::Pci => "pci",
        DeviceKind::Mmio => "mmio",
        DeviceKind::Generic => "generic",
    }
}

pub(super) fn grant(core: &Core, view: &GrantView) -> api::Grant {
    let (memory, offset) = match view.source {
        Source::Memory(memory, offset) => (Some(memory.0), offset),
        Source::Physical(address) => (None, address.0),
    };
    let name = core.clients().find(|(id, ..)| *id == view.client).map(|(_, policy, ..)| policy.name.clone());
    let attached = core.spaces(view.client).find(|(id, _)| *id == view.space);
    let devices = attached.into_iter().flat_map(|(_, devices)| devices);
    api::Grant {
        grant: view.grant,
        client: name.unwrap_or_default(),
        space: view.space,
        devices: devices.map(|(id, pasid)| attached_name(core, id, pasid)).collect(),
        iova: view.iova.0,
        length: (view.last.0 - view.iova.0).saturating_add(1),
        access: access(view.access),
        memory,
        offset,
        fixed: view.fixed,
    }
}

pub(super) fn attached_name(
    core: &Core,
    id: crate::inventory::DeviceId,
    pasid: Option<portcullis_spec::Pasid>,
) -> String {
    let name = core.device(id).map_or_else(String::new, |d| d.device.name.clone());
    match pasid {
        Some(pasid) => format!("{name}/{pasid}"),
        None => name,
    }
}

/// The interface's word for a reason.
#[must_use]
pub fn reason(reason: FaultReason) -> &'static str {
    use portcullis_spec::ConfigTable as Table;
    match reason {
        FaultReason::RequesterUnsupported => "requester-unsupported",
        FaultReason::EntryNotPresent(Table::Root | Table::Device) => "blocked",
        FaultReason::EntryNotPresent(Table::PasidDirectory | Table::Pasid) => "pasid-not-attached",
        FaultReason::EntryNotPresent(Table::Interrupt)
        | FaultReason::EntryInvalid(Table::Interrupt)
        | FaultReason::TableUnreadable(Table::Interrupt)
        | FaultReason::InterruptBlocked => "interrupt-blocked",
        FaultReason::EntryInvalid(_) => "entry-invalid",
        FaultReason::TableUnreadable(_) => "table-unreadable",
        FaultReason::RequestBlocked => "blocked",
        FaultReason::PasidUnsupported => "pasid-unsupported",
        FaultReason::AddressSize => "address-size",
        FaultReason::NotMapped => "not-mapped",
        FaultReason::PermissionDenied => "permission-denied",
        FaultReason::PrivilegeDenied => "privilege-denied",
        FaultReason::AccessFlag => "access-flag",
        FaultReason::PagingEntryInvalid => "paging-entry-invalid",
        FaultReason::PagingEntryUnreadable => "paging-entry-unreadable",
        FaultReason::ReservedRange => "reserved-range",
        FaultReason::TranslatedBlocked => "translated-blocked",
        FaultReason::Internal => "internal",
    }
}

/// The reason that the interface's word stands for; of those that share a word, the first.
pub(crate) fn reason_of(word: &str) -> FaultReason {
    use FaultReason as Reason;
    use portcullis_spec::ConfigTable as Table;
    [
        Reason::RequestBlocked,
        Reason::RequesterUnsupported,
        Reason::EntryNotPresent(Table::Pasid),
        Reason::EntryInvalid(Table::Device),
        Reason::TableUnreadable(Table::Device),
        Reason::PasidUnsupported,
        Reason::AddressSize,
        Reason::NotMapped,
        Reason::PermissionDenied,
        Reason::PrivilegeDenied,
        Reason::AccessFlag,
        Reason::PagingEntryInvalid,
        Reason::PagingEntryUnreadable,
        Reason::ReservedRange,
        Reason::InterruptBlocked,
        Reason::TranslatedBlocked,
    ]
    .into_iter()
    .find(|one| reason(*one) == word)
    .unwrap_or(Reason::Internal)
}

/// A record in the interface's words.
#[must_use]
pub fn fault_message(record: &Record) -> api::Fault {
    let fault = &record.violation.fault;
    let raw = &record.violation.raw;
    let attribution = record.attribution.as_deref();
    api::Fault {
        number: record.number,
        time: record.violation.time,
        unit: attribution.and_then(|a| a.unit.clone()),
        requester: fault.requester.to_string(),
        devices: attribution.map(|a| a.devices.clone()).unwrap_or_default(),
        client: attribution.and_then(|a| a.client.as_deref()).map(Into::into),
        pasid: fault.pasid.map(portcullis_spec::Pasid::value),
        address: fault.address.0,
        access: access(fault.access),
        reason: reason(fault.reason).into(),
        code: fault.code,
        grant: record.grant,
        raw: raw.words.iter().take(usize::from(raw.length)).map(|word| format!("{word:#018x}")).collect(),
        count: u64::from(record.violation.count.max(1)),
    }
}

/// An event in the interface's words.
pub(super) fn event(time: u64, event: &Event) -> api::Event {
    let mut message = api::Event { time, ..api::Event::default() };
    let mut space_of = |space: u64, devices: &[String]| {
        message.space = Some(space);
        message.devices = devices.to_vec();
    };
    let (kind, client) = match event {
        Event::ClientCame { name, .. } => ("client-came", Some(name)),
        Event::ClientLeft { name, .. } => ("client-left", Some(name)),
        Event::Claimed { client, devices } => {
            message.devices = devices.clone();
            ("claimed", Some(client))
        }
        Event::Released { client, devices } => {
            message.devices = devices.clone();
            ("released", Some(client))
        }
        Event::Interrupts { client, device, vectors } => {
            message.devices = vec![device.clone()];
            message.text = Some(format!("{vectors} vectors"));
            ("interrupts", Some(client))
        }
        Event::Attached { client, space, devices } => {
            space_of(*space, devices);
            ("attached", Some(client))
        }
        Event::Detached { client, space, devices } => {
            space_of(*space, devices);
            ("detached", Some(client))
        }
        Event::Granted { client, space, mappings, bytes } => {
            space_of(*space, &[]);
            (message.mappings, message.bytes) = (Some(*mappings), Some(*bytes));
            ("granted", Some(client))
        }
        Event::Revoked { client, space, mappings, bytes } => {
            space_of(*space, &[]);
            (message.mappings, message.bytes) = (Some(*mappings), Some(*bytes));
            ("revoked", Some(client))
        }
        Event::Appeared { device } => {
            message.devices = vec![device.clone()];
            ("appeared", None)
        }
        Event::Disappeared { device, client } => {
            message.devices = vec![device.clone()];
            ("disappeared", client.as_ref())
        }
        Event::Warning(text) => {
            message.text = Some(text.clone());
            ("warning", None)
        }
        Event::SafeState(why) => {
            message.text = Some(why.clone());
            ("safe-state", None)
        }
    };
    message.kind = kind.into();
    message.client = client.cloned();
    message
}
