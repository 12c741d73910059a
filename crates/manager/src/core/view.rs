//! Everything that the core knows, for lists.

use portcullis_spec::{Access, Iova, Pasid};

use super::{ClientId, Core, Keeper};
use crate::{
    backend::{MemoryId, Source},
    inventory::{Device, DeviceId, Group, Unit, UnitId},
};

/// A device and who has it.
#[derive(Clone, Copy, Debug)]
pub struct DeviceView<'a> {
    /// Its number.
    pub id: DeviceId,
    /// The device.
    pub device: &'a Device,
    /// Its unit.
    pub unit: Option<&'a Unit>,
    /// Who has it.
    pub holder: Option<(ClientId, &'a str)>,
    /// Interrupt vectors that it was granted.
    pub vectors: u32,
    /// Why nobody can have it, where that is so.
    pub quarantine: Option<&'a str>,
}

/// One grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantView {
    /// Its number.
    pub grant: u64,
    /// Whose it is.
    pub client: ClientId,
    /// Its space.
    pub space: u64,
    /// First address as devices use it.
    pub iova: Iova,
    /// Last address.
    pub last: Iova,
    /// What it leads to.
    pub source: Source,
    /// What devices may do.
    pub access: Access,
    /// Configuration or firmware wants it, not the client.
    pub fixed: bool,
}

impl Core {
    /// All units.
    #[must_use]
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// All devices, by number.
    pub fn devices(&self) -> impl Iterator<Item = DeviceView<'_>> {
        self.devices.keys().filter_map(|&id| self.device(id))
    }

    /// One device.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> Option<DeviceView<'_>> {
        let state = self.devices.get(&id)?;
        let device = &state.device;
        let group = self.groups.get(&device.group);
        let holder = group.and_then(|g| g.holder);
        Some(DeviceView {
            id,
            device,
            vectors: state.vectors,
            unit: device.unit.and_then(|u| self.unit(u)),
            holder: holder.map(|c| (c, self.clients.get(&c).map_or("", |c| c.policy.name.as_str()))),
            quarantine: group.and_then(|g| g.quarantine.as_deref()),
        })
    }

    /// The units that guard devices, by number.
    #[must_use]
    pub fn unit_of(&self, id: DeviceId) -> Option<UnitId> {
        self.devices.get(&id)?.device.unit
    }

    /// All groups with their members and who has them.
    pub fn groups(&self) -> impl Iterator<Item = (&Group, &[DeviceId], Option<ClientId>)> {
        self.groups.values().map(|g| (&g.group, g.members.as_slice(), g.holder))
    }

    /// All clients: number, name, bytes and mappings that they have.
    pub fn clients(&self) -> impl Iterator<Item = (ClientId, &super::Policy, u64, u64)> {
        self.clients.iter().map(|(&id, c)| (id, &*c.policy, c.bytes, c.mappings))
    }

    /// All spaces of a client with what is attached to them.
    pub fn spaces(
        &self,
        client: ClientId,
    ) -> impl Iterator<Item = (u64, impl Iterator<Item = (DeviceId, Option<Pasid>)>)> {
        self.clients
            .get(&client)
            .into_iter()
            .flat_map(|c| &c.spaces)
            .filter_map(|id| Some((*id, self.spaces.get(id)?.attached.iter().copied())))
    }

    /// Grants in order of space and address, beginning after `after`.
    pub fn grants(&self, after: Option<(u64, u64)>) -> impl Iterator<Item = GrantView> {
        let (space, iova) = after.unwrap_or((0, 0));
        self.spaces.range(space..).flat_map(move |(&id, state)| {
            let begin = if after.is_some() && id == space {
                (std::ops::Bound::Excluded(iova), std::ops::Bound::Unbounded)
            } else {
                (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)
            };
            state.mappings.range(begin).map(move |(&first, held)| GrantView {
                grant: held.grant,
                client: state.owner,
                space: id,
                iova: Iova(first),
                last: Iova(held.last),
                source: held.source,
                access: held.access,
                fixed: held.keeper != Keeper::Client,
            })
        })
    }

    /// The grant that holds an address of a device, if there is one.
    #[must_use]
    pub fn grant_at(&self, device: DeviceId, pasid: Option<Pasid>, iova: Iova) -> Option<GrantView> {
        let space = *self.devices.get(&device)?.attached.get(&pasid)?;
        let state = self.spaces.get(&space)?;
        let (&first, held) = state.mappings.range(..=iova.0).next_back()?;
        (held.last >= iova.0).then_some(GrantView {
            grant: held.grant,
            client: state.owner,
            space,
            iova: Iova(first),
            last: Iova(held.last),
            source: held.source,
            access: held.access,
            fixed: held.keeper != Keeper::Client,
        })
    }

    /// The length of a client's memory.
    #[must_use]
    pub fn memory_length(&self, client: ClientId, memory: MemoryId) -> Option<u64> {
        self.memories.get(&memory).filter(|m| m.owner == client).map(|m| m.length)
    }

    /// Grows whenever a device gets another holder, appears or disappears.
    #[must_use]
    pub fn holders_changed(&self) -> u64 {
        self.holders_changed
    }
}
