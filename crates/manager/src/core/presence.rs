//! Devices come and go.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use super::{Core, DeviceState, Event, GroupState, ledger::Entry};
use crate::{
    backend::Change,
    inventory::{Device, DeviceId, Group, GroupId},
};

impl Core {
    pub(super) fn add_device(&mut self, id: DeviceId, mut device: Device) {
        device.group = self.group_of(&device);
        let state = self.groups.entry(device.group).or_insert_with(|| GroupState {
            group: Group { id: device.group, reasons: Vec::new() },
            members: Vec::new(),
            holder: None,
            quarantine: None,
        });
        state.members.push(id);
        self.names.insert(device.name.clone(), id);
        self.devices.insert(id, DeviceState { device, attached: BTreeMap::new(), vectors: 0 });
    }

    /// The device's own group, or that of the first device behind its unit where the unit sees them all as one.
    fn group_of(&mut self, device: &Device) -> GroupId {
        let Some(unit) = device.unit else { return device.group };
        match self.units.get(unit.0 as usize) {
            Some(u) if !u.capabilities.tells_devices_apart => {
                let first =
                    self.devices.values().find(|d| d.device.unit == Some(unit)).map(|d| d.device.group);
                if let Some(state) = first.and_then(|group| self.groups.get_mut(&group)) {
                    let first = state.members.first().and_then(|m| self.devices.get(m));
                    let with = first.map_or("the others", |d| d.device.name.as_str());
                    state.group.reasons.push(format!(
                        "{} shares with {with}: {} cannot tell its devices apart",
                        device.name, u.name
                    ));
                }
                first.unwrap_or(device.group)
            }
            _ => device.group,
        }
    }

    /// A descriptor that can be read as soon as [`Core::take_changes`] has something to take in, the first time it is asked for.
    pub fn change_signal(&mut self) -> Option<OwnedFd> {
        self.backend.change_signal()
    }

    /// Takes in what happened to the hardware unasked, and gives back what can be given back by now.
    pub fn take_changes(&mut self) {
        if self.safe_state.is_some() {
            return;
        }
        let quarantined = self.groups.iter().filter(|(_, group)| group.quarantine.is_some());
        for group in quarantined.map(|(&id, _)| id).collect::<Vec<_>>() {
            if self.leave_quarantine(group).is_err() {
                return;
            }
        }
        for change in self.backend.changes() {
            match change {
                Change::Appeared(id, device) => {
                    self.events.push(Event::Appeared { device: device.name.clone() });
                    self.add_device(id, device);
                }
                Change::Disappeared(id) => self.remove_device(id),
            }
        }
        self.holders_changed += 1;
    }

    fn remove_device(&mut self, id: DeviceId) {
        let Some(state) = self.devices.remove(&id) else { return };
        self.note_down(&Entry::Release { devices: vec![state.device.name.clone()] });
        for (&pasid, &space) in &state.attached {
            if let Some(space) = self.spaces.get_mut(&space) {
                space.attached.remove(&(id, pasid));
            }
            self.left(space, state.device.unit);
        }
        self.names.remove(&state.device.name);
        let holder = self.groups.get(&state.device.group).and_then(|group| group.holder);
        if let Some(group) = self.groups.get_mut(&state.device.group) {
            group.members.retain(|&member| member != id);
            if group.members.is_empty() {
                self.groups.remove(&state.device.group);
            }
        }
        let client = holder.map(|holder| self.client_name(holder));
        self.events.push(Event::Disappeared { device: state.device.name, client });
    }
}
