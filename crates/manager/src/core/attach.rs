//! Devices join spaces and leave them.

use std::{collections::BTreeSet, ops::RangeInclusive};

use portcullis_spec::{Iova, Pasid, PhysAddr};

use super::{
    ClientId, Core, Event, Held, Keeper, Refusal, Space,
    ledger::Entry,
    space::{PAGE, aligned, granularity},
};
use crate::{
    backend::{Mapping, Source, SpaceId},
    inventory::{Device, DeviceId, ReservedKind, UnitId},
};

/// What became of a request to attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// The devices that are attached now, with the siblings that had to come along.
    pub devices: Vec<DeviceId>,
    /// Mappings that existed before and were made again behind the devices' unit. smmuman answers +1 here and leaves it to
    /// the client.
    pub replayed: u64,
}

impl Core {
    /// Lets devices that the client has claimed reach what the space maps, and their groups with them; or with `pasid` only
    /// requests that carry it.
    ///
    /// # Errors
    ///
    /// Why one of them cannot; then none does.
    pub fn attach(
        &mut self,
        client: ClientId,
        space: u64,
        words: &str,
        pasid: Option<Pasid>,
    ) -> Result<Joined, Refusal> {
        self.alive()?;
        self.space_of(client, space)?;
        let mut joining = BTreeSet::new();
        for id in self.resolve(words)? {
            let group = self.claimed_by(client, id)?.group;
            match pasid {
                None => joining
                    .extend(self.groups.get(&group).into_iter().flat_map(|g| g.members.iter().copied())),
                Some(pasid) => {
                    self.has_pasid(id, pasid)?;
                    joining.insert(id);
                }
            }
        }
        let mut new = Vec::new();
        for &id in &joining {
            let Some(state) = self.devices.get(&id) else { continue };
            match state.attached.get(&pasid) {
                Some(&elsewhere) if elsewhere != space => {
                    let reasons = self.groups.get(&state.device.group).map(|g| &g.group.reasons);
                    return Err(Refusal::Attached {
                        device: state.device.name.clone(),
                        space: elsewhere,
                        group: reasons.and_then(|r| r.first().cloned()),
                    });
                }
                Some(_) => {}
                None => {
                    self.fits_space(space, &state.device)?;
                    new.push(id);
                }
            }
        }
        let mut replayed = 0;
        for (done, &id) in new.iter().enumerate() {
            match self.attach_one(space, id, pasid) {
                Ok(count) => replayed += count,
                Err(refusal) => {
                    for &id in &new[..done] {
                        self.detach_one(space, id, pasid);
                    }
                    return Err(refusal);
                }
            }
        }
        if !new.is_empty() {
            let devices = new.iter().map(|&id| self.device_name(id)).collect();
            self.events.push(Event::Attached { client: self.client_name(client), space, devices });
        }
        Ok(Joined { devices: joining.into_iter().collect(), replayed })
    }

    fn has_pasid(&self, id: DeviceId, pasid: Pasid) -> Result<(), Refusal> {
        let Some(state) = self.devices.get(&id) else { return Ok(()) };
        let device = &state.device;
        let refuse =
            |why: String| Refusal::NoPasid { device: device.name.clone(), pasid: pasid.value(), why };
        if !device.unit.and_then(|u| self.unit(u)).is_some_and(|u| u.capabilities.pasid) {
            return Err(refuse("its unit has none".into()));
        }
        if u64::from(pasid.value()) >> device.pasid_bits != 0 || device.pasid_bits == 0 {
            return Err(refuse(format!("it has PASIDs of {} bits", device.pasid_bits)));
        }
        match self.groups.get(&device.group) {
            Some(group) if group.members.len() > 1 => Err(refuse(
                group.group.reasons.first().cloned().unwrap_or_else(|| "it shares a group".into()),
            )),
            _ => Ok(()),
        }
    }

    /// Whether every mapping of the space can be made for the device.
    pub(super) fn fits_space(&self, space: u64, device: &Device) -> Result<(), Refusal> {
        let Some(state) = self.spaces.get(&space) else { return Err(Refusal::NoSuchSpace(space)) };
        let Some(unit) = device.unit.and_then(|u| self.unit(u)) else {
            return Err(Refusal::Unguarded(device.name.clone()));
        };
        let granularity = granularity(unit.capabilities.page_sizes);
        let usable = &unit.capabilities.iova;
        if let (Some((&first, _)), Some((_, held))) =
            (state.mappings.first_key_value(), state.mappings.last_key_value())
        {
            let asked = Iova(first)..=Iova(held.last);
            if first < usable.start().0 || held.last > usable.end().0 {
                return Err(Refusal::OutsideUnit { asked, usable: usable.clone(), unit: unit.name.clone() });
            }
        }
        for region in device.reserved.iter().filter(|r| r.kind != ReservedKind::DirectRelaxable) {
            let (first, last) = (region.range.start().0, region.range.end().0);
            let mut overlapping =
                state.mappings.range(..=last).rev().take_while(|(_, held)| held.last >= first);
            let in_the_way = overlapping
                .find(|(_, held)| held.keeper == Keeper::Client || region.kind != ReservedKind::Direct);
            if let Some((&at, held)) = in_the_way {
                return Err(Refusal::Reserved {
                    asked: Iova(at)..=Iova(held.last),
                    region: region.range.clone(),
                    kind: region.kind,
                    device: device.name.clone(),
                });
            }
        }
        // Every mapping already obeys the granularity that the space has; only a coarser one needs another look.
        if granularity > self.granularity(state) {
            for (&first, held) in &state.mappings {
                let source = match held.source {
                    Source::Memory(_, offset) => offset,
                    Source::Physical(address) => address.0,
                };
                for (what, value) in [("address", first), ("length", held.length(first)), ("offset", source)]
                {
                    aligned(what, value, granularity)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn granularity(&self, space: &Space) -> u64 {
        let units = space.parts.keys().filter_map(|&u| self.unit(u));
        units.map(|u| granularity(u.capabilities.page_sizes)).max().unwrap_or(PAGE)
    }

    /// The addresses that every unit of the space translates.
    pub(super) fn usable(&self, space: &Space) -> RangeInclusive<u64> {
        let units = space.parts.keys().filter_map(|&u| self.unit(u));
        let (mut first, mut last) = (0, u64::MAX);
        for unit in units {
            first = first.max(unit.capabilities.iova.start().0);
            last = last.min(unit.capabilities.iova.end().0);
        }
        first..=last
    }

    pub(super) fn attach_one(
        &mut self,
        space: u64,
        id: DeviceId,
        pasid: Option<Pasid>,
    ) -> Result<u64, Refusal> {
        let Some(unit) = self.devices.get(&id).and_then(|d| d.device.unit) else {
            return Err(Refusal::Unguarded(self.device_name(id)));
        };
        let (part, replayed) = self.part_for(space, unit)?;
        if let Err(refusal) = self.keep_direct_regions(space, id) {
            self.drop_unused_part(space, unit);
            return Err(refusal);
        }
        let attached = self.backend.attach(part, id, pasid);
        if let Err(refusal) = self.carried_out(attached) {
            self.forget_direct_regions(space);
            self.drop_unused_part(space, unit);
            return Err(refusal);
        }
        if let Some(state) = self.devices.get_mut(&id) {
            state.attached.insert(pasid, space);
        }
        if let Some(state) = self.spaces.get_mut(&space) {
            state.attached.insert((id, pasid));
        }
        self.note_down_of_space(space, id, |device| Entry::Attach {
            space,
            device,
            pasid: pasid.map(Pasid::value),
        });
        self.refresh_reserved(space);
        Ok(replayed)
    }

    /// The back end's space behind a unit, made with all mappings if it is the first device there.
    fn part_for(&mut self, space: u64, unit: UnitId) -> Result<(SpaceId, u64), Refusal> {
        let Some(state) = self.spaces.get(&space) else { return Err(Refusal::NoSuchSpace(space)) };
        if let Some(&part) = state.parts.get(&unit) {
            return Ok((part, 0));
        }
        let mappings: Vec<Mapping> =
            state.mappings.iter().map(|(&first, held)| held.mapping(first)).collect();
        let part = SpaceId(self.next_part);
        self.next_part += 1;
        let created = self.backend.create_space(part, unit);
        self.carried_out(created)?;
        if !mappings.is_empty()
            && let Err((_, error)) = self.backend.map_batch(part, &mappings)
        {
            let refusal = self.carried_out::<()>(Err(error)).unwrap_err();
            if self.safe_state.is_none() {
                self.finish(|backend| backend.destroy_space(part));
            }
            return Err(refusal);
        }
        if let Some(state) = self.spaces.get_mut(&space) {
            state.parts.insert(unit, part);
            state.free = None;
        }
        Ok((part, mappings.len() as u64))
    }

    fn drop_unused_part(&mut self, space: u64, unit: UnitId) {
        let Some(state) = self.spaces.get(&space) else { return };
        let used = state
            .attached
            .iter()
            .any(|(id, _)| self.devices.get(id).is_some_and(|d| d.device.unit == Some(unit)));
        if used || self.safe_state.is_some() {
            return;
        }
        if let Some(part) = self.spaces.get_mut(&space).and_then(|s| s.parts.remove(&unit)) {
            self.finish(|backend| backend.destroy_space(part));
        }
    }

    /// Maps to itself what the device's firmware needs; claiming has made sure that this is accepted.
    fn keep_direct_regions(&mut self, space: u64, id: DeviceId) -> Result<(), Refusal> {
        let regions: Vec<_> = self
            .devices
            .get(&id)
            .into_iter()
            .flat_map(|d| d.device.reserved.iter())
            .filter(|r| r.kind == ReservedKind::Direct)
            .map(|r| (r.range.start().0, r.range.end().0, r.access))
            .collect();
        for (first, last, access) in regions {
            let Some(state) = self.spaces.get(&space) else { continue };
            if state.mappings.range(..=last).next_back().is_some_and(|(_, held)| held.last >= first) {
                continue;
            }
            let grant = self.next_grant;
            self.next_grant += 1;
            let source = Source::Physical(PhysAddr(first));
            let held = Held { last, source, access, keeper: Keeper::Firmware, grant };
            self.map_in_all_parts(space, &[held.mapping(first)])?;
            if let Some(state) = self.spaces.get_mut(&space) {
                state.mappings.insert(first, held);
            }
        }
        Ok(())
    }

    /// Unmaps firmware regions that no attached device needs any more.
    fn forget_direct_regions(&mut self, space: u64) {
        let Some(state) = self.spaces.get(&space) else { return };
        let needed: BTreeSet<u64> = state
            .attached
            .iter()
            .filter_map(|(id, _)| self.devices.get(id))
            .flat_map(|d| d.device.reserved.iter())
            .filter(|r| r.kind == ReservedKind::Direct)
            .map(|r| r.range.start().0)
            .collect();
        let stale: Vec<(u64, Held)> = state
            .mappings
            .iter()
            .filter(|(first, held)| held.keeper == Keeper::Firmware && !needed.contains(first))
            .map(|(&first, &held)| (first, held))
            .collect();
        for (first, held) in stale {
            if self.unmap_in_all_parts(space, &[held.mapping(first)]).is_ok()
                && let Some(state) = self.spaces.get_mut(&space)
            {
                state.mappings.remove(&first);
            }
        }
    }

    fn refresh_reserved(&mut self, space: u64) {
        let Some(state) = self.spaces.get(&space) else { return };
        let mut reserved: Vec<(u64, u64)> = state
            .attached
            .iter()
            .filter_map(|(id, _)| self.devices.get(id))
            .flat_map(|d| d.device.reserved.iter())
            .filter(|r| r.kind != ReservedKind::DirectRelaxable)
            .map(|r| (r.range.start().0, r.range.end().0))
            .collect();
        reserved.sort_unstable();
        reserved.dedup();
        if let Some(state) = self.spaces.get_mut(&space) {
            state.reserved = reserved;
            state.free = None;
        }
    }

    /// Takes the space away from devices; or with `pasid` from requests that carry it.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAttached`]; then nothing changes.
    pub fn detach(
        &mut self,
        client: ClientId,
        space: u64,
        words: &str,
        pasid: Option<Pasid>,
    ) -> Result<Vec<DeviceId>, Refusal> {
        self.alive()?;
        self.space_of(client, space)?;
        let mut leaving = BTreeSet::new();
        for id in self.resolve(words)? {
            let group = self.claimed_by(client, id)?.group;
            match pasid {
                None => leaving
                    .extend(self.groups.get(&group).into_iter().flat_map(|g| g.members.iter().copied())),
                Some(_) => _ = leaving.insert(id),
            }
        }
        for &id in &leaving {
            if self.devices.get(&id).is_none_or(|d| d.attached.get(&pasid) != Some(&space)) {
                return Err(Refusal::NotAttached { device: self.device_name(id), space });
            }
        }
        for &id in &leaving {
            self.detach_one(space, id, pasid);
        }
        let devices = leaving.iter().map(|&id| self.device_name(id)).collect();
        self.events.push(Event::Detached { client: self.client_name(client), space, devices });
        self.alive()?;
        Ok(leaving.into_iter().collect())
    }

    pub(super) fn detach_one(&mut self, space: u64, id: DeviceId, pasid: Option<Pasid>) {
        self.note_down_of_space(space, id, |device| Entry::Detach {
            space,
            device,
            pasid: pasid.map(Pasid::value),
        });
        let unit = self.devices.get(&id).and_then(|d| d.device.unit);
        let part = unit.and_then(|unit| self.spaces.get(&space)?.parts.get(&unit).copied());
        if let Some(part) = part
            && self.safe_state.is_none()
        {
            self.finish(|backend| backend.detach(part, id, pasid));
        }
        if let Some(state) = self.spaces.get_mut(&space) {
            state.attached.remove(&(id, pasid));
        }
        if let Some(state) = self.devices.get_mut(&id) {
            state.attached.remove(&pasid);
        }
        self.left(space, unit);
    }

    /// A device behind `unit` is no longer attached: what only it needed goes.
    pub(super) fn left(&mut self, space: u64, unit: Option<UnitId>) {
        if self.safe_state.is_some() {
            return;
        }
        self.forget_direct_regions(space);
        self.refresh_reserved(space);
        if let Some(unit) = unit {
            self.drop_unused_part(space, unit);
        }
    }
}
