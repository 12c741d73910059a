//! Claiming and releasing devices, always whole groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use portcullis_spec::Pasid;

use super::{ClientId, Core, Event, Pattern, Policy, Refusal, ledger::Entry};
use crate::{
    backend::BackendError,
    inventory::{Device, DeviceId, GroupId, ReservedKind},
};

impl Core {
    /// The devices that `words` mean: a name, a pattern, or `mmio:BASE`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchDevice`] where there is none.
    pub fn resolve(&self, words: &str) -> Result<Vec<DeviceId>, Refusal> {
        if let Some(&id) = self.names.get(words) {
            return Ok(vec![id]);
        }
        let pattern = Pattern::new(words);
        let found: Vec<DeviceId> =
            self.devices.iter().filter(|(_, d)| pattern.means(&d.device)).map(|(&id, _)| id).collect();
        if found.is_empty() { Err(Refusal::NoSuchDevice(words.into())) } else { Ok(found) }
    }

    /// Gives the devices that `words` mean to a client, with everything in their groups. Returns all of them.
    ///
    /// # Errors
    ///
    /// Why one of them cannot be given; then none is.
    pub fn claim(&mut self, client: ClientId, words: &str) -> Result<Vec<DeviceId>, Refusal> {
        self.alive()?;
        let policy = self.clients.get(&client).ok_or(Refusal::NoSuchClient)?.policy.clone();
        let groups: BTreeSet<GroupId> = self
            .resolve(words)?
            .iter()
            .filter_map(|id| self.devices.get(id))
            .map(|d| d.device.group)
            .collect();
        let mut all = Vec::new();
        let mut wanted = Vec::new();
        for group in groups {
            self.leave_quarantine(group)?;
            let Some(state) = self.groups.get(&group) else { continue };
            all.extend_from_slice(&state.members);
            if state.holder != Some(client) {
                self.may_claim(client, &policy, group)?;
                wanted.push(group);
            }
        }
        for (done, &group) in wanted.iter().enumerate() {
            if let Err(refusal) = self.claim_group(client, group) {
                for &group in &wanted[..done] {
                    self.release_group(group);
                }
                return Err(refusal);
            }
        }
        Ok(all)
    }

    pub(super) fn may_claim(&self, client: ClientId, policy: &Policy, group: GroupId) -> Result<(), Refusal> {
        let Some(state) = self.groups.get(&group) else { return Ok(()) };
        for device in state.members.iter().filter_map(|id| self.devices.get(id)).map(|d| &d.device) {
            if client != ClientId::STATIC && !policy.permits(device) {
                let why = match state.group.reasons.first() {
                    Some(reason) => format!("its configuration does not name this device, and {reason}"),
                    None => "its configuration does not name this device".into(),
                };
                return Err(Refusal::NotPermitted {
                    client: policy.name.clone(),
                    what: format!("have {}", device.name),
                    why,
                });
            }
            if let Some(holder) = state.holder {
                return Err(Refusal::Held { device: device.name.clone(), holder: self.client_name(holder) });
            }
            if let Some(why) = &state.quarantine {
                return Err(Refusal::InUse { what: device.name.clone(), by: format!("quarantine: {why}") });
            }
            self.is_safe(device)?;
        }
        Ok(())
    }

    /// Whether granting the device can be made safe, or is accepted by name although it cannot.
    fn is_safe(&self, device: &Device) -> Result<(), Refusal> {
        let unguarded = || Refusal::Unguarded(device.name.clone());
        let unit = device.unit.and_then(|id| self.unit(id)).ok_or_else(unguarded)?;
        let accepted = &self.accepted;
        if !unit.capabilities.interrupts_isolated
            && !accepted.unsafe_interrupts.iter().any(|p| p.means(device) || p.fits(&unit.name))
        {
            return Err(Refusal::UnsafeInterrupts { device: device.name.clone(), unit: unit.name.clone() });
        }
        let direct = device.reserved.iter().find(|r| r.kind == ReservedKind::Direct);
        match direct {
            Some(region) if !accepted.direct_regions.iter().any(|p| p.means(device)) => {
                Err(Refusal::DirectRegion { device: device.name.clone(), region: region.range.clone() })
            }
            Some(_) if !self.capabilities.physical => Err(Refusal::Unsupported {
                what: "keeping a firmware's region mapped",
                why: format!("{} maps no physical addresses", self.backend.name()),
            }),
            _ => Ok(()),
        }
    }

    fn claim_group(&mut self, client: ClientId, group: GroupId) -> Result<(), Refusal> {
        let Some(state) = self.groups.get(&group) else { return Ok(()) };
        let members = state.members.clone();
        let claimed = self.backend.claim(&members);
        self.carried_out(claimed)?;
        if let Some(state) = self.groups.get_mut(&group) {
            state.holder = Some(client);
        }
        self.holders_changed += 1;
        let devices: Vec<String> = members.iter().map(|&id| self.device_name(id)).collect();
        self.note_down_of(client, || Entry::Claim { client: client.0, devices: devices.clone() });
        self.events.push(Event::Claimed { client: self.client_name(client), devices });
        Ok(())
    }

    /// Takes back the devices that `words` mean, with everything in their groups: stopped, cut off, reset, given back. Returns
    /// all of them. With `client` only where that client has them; without, from whoever has them.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotClaimed`]; then nothing is taken back.
    pub fn release(&mut self, client: Option<ClientId>, words: &str) -> Result<Vec<DeviceId>, Refusal> {
        self.alive()?;
        let mut groups = BTreeSet::new();
        for id in self.resolve(words)? {
            let Some(device) = self.devices.get(&id) else { continue };
            let holder = self.groups.get(&device.device.group).and_then(|g| g.holder);
            if holder.is_none() || (client.is_some() && holder != client) {
                return Err(Refusal::NotClaimed(device.device.name.clone()));
            }
            groups.insert(device.device.group);
        }
        let mut all = Vec::new();
        for group in groups {
            all.extend(self.groups.get(&group).into_iter().flat_map(|g| g.members.iter().copied()));
            self.release_group(group);
        }
        self.alive()?;
        Ok(all)
    }

    pub(super) fn release_group(&mut self, group: GroupId) {
        if self.safe_state.is_some() {
            return;
        }
        let Some(state) = self.groups.get(&group) else { return };
        let Some(holder) = state.holder else { return };
        let members = state.members.clone();
        let devices: Vec<String> = members.iter().map(|&id| self.device_name(id)).collect();
        self.note_down_of(holder, || Entry::Release { devices: devices.clone() });
        self.bring_to_rest(&members);
        if self.safe_state.is_some() {
            return;
        }
        let released = self.backend.release(&members);
        let why = released.as_ref().err().map(ToString::to_string);
        self.note(released);
        if let Some(state) = self.groups.get_mut(&group) {
            state.holder = None;
            state.quarantine = why;
        }
        self.holders_changed += 1;
        self.events.push(Event::Released { client: self.client_name(holder), devices });
    }

    /// Stops devices, cuts them off from all spaces, and resets them, with everything in their groups, without taking them
    /// away from the client: nobody else can have them in between. Returns all of them. Descriptors that were handed out before
    /// are of no more use.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotClaimed`]; then nothing is stopped.
    pub fn quiesce(&mut self, client: ClientId, words: &str) -> Result<Vec<DeviceId>, Refusal> {
        self.alive()?;
        let mut members = BTreeSet::new();
        for id in self.resolve(words)? {
            let group = self.claimed_by(client, id)?.group;
            members.extend(self.groups.get(&group).into_iter().flat_map(|g| g.members.iter().copied()));
        }
        let members: Vec<DeviceId> = members.into_iter().collect();
        let mut spaces: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for state in members.iter().filter_map(|id| self.devices.get(id)) {
            for &space in state.attached.values() {
                spaces.entry(space).or_default().push(state.device.name.clone());
            }
        }
        self.bring_to_rest(&members);
        // Devices may have other descriptors now.
        self.kept_changed += 1;
        for (space, devices) in spaces {
            self.events.push(Event::Detached { client: self.client_name(client), space, devices });
        }
        self.alive()?;
        Ok(members)
    }

    /// Has the interrupts of the device that `words` mean signal these event descriptors, the first for vector 0, instead of those
    /// before; with none they reach nobody. Returns how many vectors it has now.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotClaimed`], [`Refusal::Vectors`], or the back end's; the device has no vectors then, unless it was not touched.
    pub fn set_interrupts(
        &mut self,
        client: ClientId,
        words: &str,
        events: Vec<OwnedFd>,
    ) -> Result<u32, Refusal> {
        self.alive()?;
        let [id] = self.resolve(words)?[..] else { return Err(Refusal::NotOneDevice(words.into())) };
        let device = self.claimed_by(client, id)?;
        let (name, most) = (device.name.clone(), device.vectors);
        let asked = u32::try_from(events.len()).unwrap_or(u32::MAX);
        // A back end that grants none says why.
        if most > 0 && asked > most {
            return Err(Refusal::Vectors { device: name, asked, most });
        }
        self.take_vectors(id);
        let set = self.backend.set_interrupts(id, events);
        self.carried_out(set)?;
        if let Some(state) = self.devices.get_mut(&id) {
            state.vectors = asked;
        }
        let client = self.client_name(client);
        self.events.push(Event::Interrupts { client, device: name, vectors: asked });
        Ok(asked)
    }

    /// The device's interrupts reach nobody any more, as far as the core knows. How many there were.
    fn take_vectors(&mut self, device: DeviceId) -> u32 {
        self.devices.get_mut(&device).map_or(0, |state| std::mem::take(&mut state.vectors))
    }

    fn bring_to_rest(&mut self, members: &[DeviceId]) {
        for &device in members {
            self.finish(|backend| backend.quiesce(device));
        }
        for &device in members {
            if self.take_vectors(device) > 0 {
                self.finish(|backend| backend.set_interrupts(device, Vec::new()));
            }
        }
        for &device in members {
            let attached: Vec<(Option<Pasid>, u64)> =
                self.devices.get(&device).into_iter().flat_map(|d| d.attached.clone()).collect();
            for (pasid, space) in attached {
                self.detach_one(space, device, pasid);
            }
        }
        for &device in members {
            if self.safe_state.is_some() {
                return;
            }
            match self.backend.reset(device) {
                Err(BackendError::Unsupported { why, .. }) => {
                    let name = self.device_name(device);
                    let warning = format!("{name} was stopped without a reset: {why}");
                    self.events.push(Event::Warning(warning));
                }
                other => self.note(other),
            }
        }
    }

    /// Tries again to give a group back that could not be given back when its client released it.
    pub(super) fn leave_quarantine(&mut self, group: GroupId) -> Result<(), Refusal> {
        let Some(state) = self.groups.get(&group).filter(|state| state.quarantine.is_some()) else {
            return Ok(());
        };
        let members = state.members.clone();
        let released = self.backend.release(&members);
        let why = released.as_ref().err().map(ToString::to_string);
        self.note(released);
        self.alive()?;
        if let Some(state) = self.groups.get_mut(&group) {
            state.quarantine = why;
        }
        Ok(())
    }

    /// The descriptor of a device that the client has claimed.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotClaimed`], or the back end's.
    pub fn device_descriptor(
        &mut self,
        client: ClientId,
        device: DeviceId,
    ) -> Result<Option<OwnedFd>, Refusal> {
        self.alive()?;
        self.claimed_by(client, device)?;
        let descriptor = self.backend.device_descriptor(device);
        self.carried_out(descriptor)
    }

    pub(super) fn claimed_by(&self, client: ClientId, device: DeviceId) -> Result<&Device, Refusal> {
        let state = self.devices.get(&device);
        let state = state.ok_or_else(|| Refusal::NoSuchDevice(self.device_name(device)))?;
        let holder = self.groups.get(&state.device.group).and_then(|g| g.holder);
        if holder == Some(client) {
            Ok(&state.device)
        } else {
            Err(Refusal::NotClaimed(state.device.name.clone()))
        }
    }
}
