//! Everything that can be listed.

use portcullis_client::api;

use super::{Service, Session, message};
use crate::{
    core::{Core, Refusal},
    inventory::{DeviceId, UnitId},
    journal::{Wanted, WantedEvents},
};

/// Grants or faults in one answer, unless fewer are asked for.
const LIMIT: u64 = 1000;
/// And at most.
const MOST: u64 = 10_000;

impl Service {
    pub(super) fn status(&self, session: &Session) -> api::Status {
        let core = self.core();
        let capabilities = core.backend().capabilities();
        let (mut mappings, mut bytes) = (0, 0);
        for (_, _, b, m) in core.clients() {
            (mappings, bytes) = (mappings + m, bytes + b);
        }
        api::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            backend: core.backend().name(),
            simulated: capabilities.simulated,
            safe_state: core.safe_state().map(Into::into),
            pid: u64::from(std::process::id()),
            started: self.started,
            units: core.units().len() as u64,
            devices: core.devices().count() as u64,
            claimed: core.devices().filter(|d| d.holder.is_some()).count() as u64,
            clients: core.clients().count() as u64 - 1,
            mappings,
            bytes,
            faults: self.journal().total(),
            at_least: !capabilities.counts_violations,
            warnings: self.warnings.clone(),
            you: session.policy.name.clone(),
            operator: session.operator,
        }
    }

    pub(super) fn units(&self) -> api::Units {
        let core = self.core();
        let units = core.units().iter().enumerate();
        api::Units { units: units.map(|(n, u)| message::unit(&core, UnitId(n as u32), u)).collect() }
    }

    pub(super) fn devices(&self, selection: &api::Selection) -> Result<api::Devices, Refusal> {
        let core = self.core();
        let ids: Vec<DeviceId> = match &selection.device {
            Some(words) => core.resolve(words)?,
            None => core.devices().map(|d| d.id).collect(),
        };
        let device = |id: DeviceId| {
            let view = core.device(id)?;
            let device = view.device;
            Some(api::Device {
                name: device.name.clone(),
                kind: message::device_kind(device).into(),
                description: device.description.clone(),
                requesters: device.requesters.iter().map(ToString::to_string).collect(),
                unit: view.unit.map(|u| u.name.clone()),
                group: device.group.0,
                driver: device.driver.clone(),
                holder: view.holder.map(|(_, name)| name.into()),
                quarantine: view.quarantine.map(Into::into),
                reserved: device.reserved.iter().map(message::region).collect(),
                pasid_bits: device.pasid_bits.into(),
                vectors: device.vectors,
                vectors_granted: view.vectors,
                source: device.source.clone(),
            })
        };
        Ok(api::Devices { devices: ids.into_iter().filter_map(device).collect() })
    }

    pub(super) fn groups(&self) -> api::Groups {
        let core = self.core();
        let name = |id: &DeviceId| core.device(*id).map(|d| d.device.name.clone());
        let groups = core.groups().map(|(group, members, _)| api::Group {
            id: group.id.0,
            devices: members.iter().filter_map(name).collect(),
            reasons: group.reasons.clone(),
            holder: members
                .first()
                .and_then(|&id| core.device(id))
                .and_then(|d| d.holder)
                .map(|(_, name)| name.into()),
        });
        api::Groups { groups: groups.collect() }
    }

    pub(super) fn clients(&self) -> api::Clients {
        let core = self.core();
        let peers = self.peers.borrow();
        let journal = self.journal();
        let client = |(id, policy, bytes, mappings): (_, &crate::core::Policy, _, _)| {
            let peer = peers.get(&id);
            let has = core.devices().filter(|d| d.holder.is_some_and(|(holder, _)| holder == id));
            let spaces = core.spaces(id).map(|(space, devices)| api::Space {
                space,
                devices: devices.map(|(id, pasid)| message::attached_name(&core, id, pasid)).collect(),
            });
            api::ClientInfo {
                id: id.0,
                name: policy.name.clone(),
                pid: peer.and_then(|p| u64::try_from(p.pid).ok()),
                uid: peer.map(|p| p.uid.into()),
                devices: has.map(|d| d.device.name.clone()).collect(),
                spaces: spaces.collect(),
                mappings,
                bytes,
                faults: journal.of_client(&policy.name),
                unity: !policy.unity.is_empty(),
            }
        };
        let mut clients: Vec<api::ClientInfo> = core.clients().map(client).collect();
        // Whoever holds static grants is only worth showing where there are any.
        clients.retain(|c| c.id != 0 || !c.devices.is_empty());
        api::Clients { clients }
    }

    pub(super) fn grants(&self, session: &Session, which: &api::ListGrants) -> Result<api::Grants, Refusal> {
        let core = self.core();
        let limit = which.limit.unwrap_or(LIMIT).min(MOST) as usize;
        let of_devices: Option<Vec<u64>> = match &which.device {
            Some(words) => {
                let devices = core.resolve(words)?;
                let spaces = core.clients().flat_map(|(id, ..)| core.spaces(id));
                let has = |(space, mut attached): (u64, _)| {
                    Iterator::any(&mut attached, |(id, _)| devices.contains(&id)).then_some(space)
                };
                Some(spaces.filter_map(has).collect())
            }
            None => None,
        };
        let name = |id| core.clients().find(|(c, ..)| *c == id).map(|(_, policy, ..)| policy.name.as_str());
        let wanted = |view: &crate::core::GrantView| {
            (session.operator || session.client == Some(view.client))
                && which.client.as_deref().is_none_or(|client| name(view.client) == Some(client))
                && of_devices.as_ref().is_none_or(|spaces| spaces.contains(&view.space))
        };
        let after = which.after.as_ref().map(|at| (at.length, at.iova));
        let mut found: Vec<_> = core.grants(after).filter(wanted).take(limit + 1).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().map(|view| api::Range { iova: view.iova.0, length: view.space });
        let grants = found.iter().map(|view| message::grant(&core, view)).collect();
        let interrupts = match which.after {
            None => self.interrupts(&core, session, which)?,
            Some(_) => Vec::new(),
        };
        Ok(api::Grants { grants, interrupts, next: last.filter(|_| more) })
    }

    /// The interrupt vectors that devices have, of those that are asked for.
    fn interrupts(
        &self,
        core: &Core,
        session: &Session,
        which: &api::ListGrants,
    ) -> Result<Vec<api::InterruptGrant>, Refusal> {
        let named = which.device.as_deref().map(|words| core.resolve(words)).transpose()?;
        let grant = |view: crate::core::DeviceView<'_>| {
            let (holder, client) = view.holder.filter(|_| view.vectors > 0)?;
            let wanted = (session.operator || session.client == Some(holder))
                && which.client.as_deref().is_none_or(|name| name == client)
                && named.as_ref().is_none_or(|named| named.contains(&view.id));
            wanted.then(|| api::InterruptGrant {
                client: client.into(),
                device: view.device.name.clone(),
                vectors: view.vectors,
            })
        };
        Ok(core.devices().filter_map(grant).collect())
    }

    pub(super) fn reserved(&self, named: &api::Named) -> Result<api::Regions, Refusal> {
        let core = self.core();
        let mut regions: Vec<api::Region> = core
            .resolve(&named.device)?
            .into_iter()
            .filter_map(|id| core.device(id))
            .flat_map(|d| d.device.reserved.iter().map(message::region))
            .collect();
        regions.sort_by_key(|r| (r.first, r.last));
        regions.dedup();
        Ok(api::Regions { regions })
    }

    pub(super) fn faults(&self, session: &Session, which: &api::ListFaults) -> Result<api::Faults, Refusal> {
        let (devices, at_least) = {
            let core = self.core();
            let devices = which.device.as_deref().map(|words| core.resolve(words)).transpose()?;
            (devices, !core.backend().capabilities().counts_violations)
        };
        let own = session.policy.name.as_str();
        if !session.operator && which.client.as_deref().is_some_and(|client| client != own) {
            return Err(Refusal::NotPermitted {
                client: own.into(),
                what: "see others' faults".into(),
                why: "only operators see them".into(),
            });
        }
        let wanted = Wanted {
            devices: devices.as_deref(),
            client: if session.operator { which.client.as_deref() } else { Some(own) },
            since: which.since.unwrap_or(0),
            until: which.until.unwrap_or(0),
            after: which.after.unwrap_or(0),
            before: which.before.unwrap_or(u64::MAX),
        };
        let limit = which.limit.unwrap_or(LIMIT).min(MOST) as usize;
        let journal = self.journal();
        let records = journal.records(&wanted);
        let faults = if which.newest == Some(true) {
            records.rev().take(limit).map(message::fault_message).collect()
        } else {
            records.take(limit).map(message::fault_message).collect()
        };
        Ok(api::Faults { faults, total: journal.total(), lost: journal.lost(), at_least })
    }

    pub(super) fn events(&self, session: &Session, which: &api::ListEvents) -> Result<api::Events, Refusal> {
        let own = session.policy.name.as_str();
        if !session.operator && which.client.as_deref().is_some_and(|client| client != own) {
            return Err(Refusal::NotPermitted {
                client: own.into(),
                what: "others' events".into(),
                why: "only operators see them".into(),
            });
        }
        let wanted = WantedEvents {
            device: which.device.as_deref(),
            client: which.client.as_deref(),
            since: which.since.unwrap_or(0),
            until: which.until.unwrap_or(0),
            after: which.after.unwrap_or(0),
            before: which.before.unwrap_or(u64::MAX),
        };
        let limit = which.limit.unwrap_or(LIMIT).min(MOST) as usize;
        let events = self.events.borrow();
        let may_see = |event: &&api::Event| {
            session.operator || super::is_public(event) || event.client.as_deref() == Some(own)
        };
        let seen = events.wanted(&wanted).filter(may_see);
        let events = if which.newest == Some(true) {
            seen.rev().take(limit).cloned().collect()
        } else {
            seen.take(limit).cloned().collect()
        };
        Ok(api::Events { events })
    }

    pub(super) fn statistics(&self) -> api::Statistics {
        let core = self.core();
        let journal = self.journal();
        let device = |view: crate::core::DeviceView<'_>| api::DeviceStatistics {
            device: view.device.name.clone(),
            client: view.holder.map(|(_, name)| name.into()),
            requests: core.backend().traffic(view.id),
            faults: journal.of_device(view.id),
        };
        let reasons = journal.by_reason().iter();
        api::Statistics {
            devices: core.devices().map(device).collect(),
            reasons: reasons
                .map(|&(reason, count)| api::ReasonCount { reason: message::reason(reason).into(), count })
                .collect(),
            faults: journal.total(),
            lost: journal.lost(),
            at_least: !core.backend().capabilities().counts_violations,
            calls: self.calls.get(),
        }
    }

    /// The core, without waiting for whoever holds it longer than one request.
    pub(super) fn core(&self) -> std::sync::MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn journal(&self) -> std::sync::MutexGuard<'_, crate::journal::Journal> {
        self.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
