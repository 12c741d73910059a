//! Grants: adding mappings to a space and removing them.

use std::collections::BTreeMap;

use portcullis_spec::{Access, Iova, PhysAddr};

use super::{ClientId, Core, Event, Held, Keeper, Refusal, free::Free, space::aligned};
use crate::backend::{Mapping, MemoryId, Source};

/// Requests longer than this are aligned so that large pages fit, where addresses are left to the manager.
const HUGE: [u64; 2] = [1 << 30, 1 << 21];

/// What a request to map leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapFrom {
    /// Memory that the client registered.
    Memory(MemoryId),
    /// Physical addresses that configuration gave to the client.
    Physical,
}

/// One mapping that a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// First byte of the memory, or physical address.
    pub offset: u64,
    /// First address as devices use it; the manager chooses where there is none.
    pub iova: Option<Iova>,
    /// Bytes.
    pub length: u64,
    /// What devices may do.
    pub access: Access,
}

/// One mapping that was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// Its number.
    pub grant: u64,
    /// First address as devices use it.
    pub iova: Iova,
    /// What devices may do: what was asked for, and read where the unit cannot grant writing without it.
    pub access: Access,
}

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Mappings.
    pub mappings: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Facts about a space that hold for a whole batch.
pub(super) struct Frame {
    granularity: u64,
    usable: (u64, u64),
    write_only: bool,
    execute: bool,
    offset_limit: u64,
}

impl Core {
    /// Adds mappings to a space; all or none.
    ///
    /// # Errors
    ///
    /// Why one of them is refused.
    pub fn map(
        &mut self,
        client: ClientId,
        space: u64,
        from: MapFrom,
        asked: &[Asked],
    ) -> Result<Vec<Granted>, Refusal> {
        self.alive()?;
        self.space_of(client, space)?;
        let frame = self.frame(client, space, from, asked)?;
        let mut granted = Vec::with_capacity(asked.len());
        let mut mappings = Vec::with_capacity(asked.len());
        for request in asked {
            match self.place(client, space, from, request, &frame) {
                Ok((one, mapping)) => {
                    granted.push(one);
                    mappings.push(mapping);
                }
                Err(refusal) => {
                    self.unplace(space, &mappings);
                    return Err(refusal);
                }
            }
        }
        let begun = self.begin_grants(client, space, &mappings, &granted);
        if let Err(refusal) = self.map_in_all_parts(space, &mappings) {
            self.take_grants_back(begun);
            self.unplace(space, &mappings);
            return Err(refusal);
        }
        self.grants_made(begun);
        let bytes = mappings.iter().map(|m| m.length).sum();
        let count = mappings.len() as u64;
        self.count(client, from, count, bytes);
        self.events.push(Event::Granted { client: self.client_name(client), space, mappings: count, bytes });
        Ok(granted)
    }

    /// Counts grants as their client's and their memory's.
    pub(super) fn count(&mut self, client: ClientId, from: MapFrom, mappings: u64, bytes: u64) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.bytes += bytes;
            state.mappings += mappings;
        }
        if let MapFrom::Memory(memory) = from
            && let Some(memory) = self.memories.get_mut(&memory)
        {
            memory.uses += mappings;
        }
    }

    pub(super) fn frame(
        &self,
        client: ClientId,
        space: u64,
        from: MapFrom,
        asked: &[Asked],
    ) -> Result<Frame, Refusal> {
        let state = self.space_of(client, space)?;
        let owner = self.clients.get(&client).ok_or(Refusal::NoSuchClient)?;
        let too_much = |what, limit| Refusal::TooMuch { client: owner.policy.name.clone(), what, limit };
        let limits = &owner.policy.limits;
        if owner.mappings.saturating_add(asked.len() as u64) > limits.mappings {
            return Err(too_much("mappings", limits.mappings));
        }
        let bytes = asked.iter().fold(owner.bytes, |sum, one| sum.saturating_add(one.length));
        if bytes > limits.bytes {
            return Err(too_much("bytes mapped at one time", limits.bytes));
        }
        let offset_limit = match from {
            MapFrom::Memory(id) => {
                let memory = self.memories.get(&id).filter(|m| m.owner == client);
                let memory = memory.ok_or(Refusal::NoSuchMemory(id.0))?;
                if !memory.writable && asked.iter().any(|one| one.access.contains(Access::WRITE)) {
                    return Err(Refusal::ReadOnlyMemory(id.0));
                }
                memory.length
            }
            MapFrom::Physical if self.capabilities.physical => u64::MAX,
            MapFrom::Physical => {
                return Err(Refusal::Unsupported {
                    what: "a grant of physical addresses",
                    why: format!("{} maps client memory only", self.backend.name()),
                });
            }
        };
        let units = || state.parts.keys().filter_map(|&u| self.unit(u)).map(|u| &u.capabilities);
        let usable = self.usable(state);
        Ok(Frame {
            granularity: self.granularity(state),
            usable: (*usable.start(), *usable.end()),
            write_only: units().all(|u| u.write_only),
            execute: units().all(|u| u.execute),
            offset_limit,
        })
    }

    /// Checks one request and enters it in the books of its space.
    pub(super) fn place(
        &mut self,
        client: ClientId,
        space: u64,
        from: MapFrom,
        asked: &Asked,
        frame: &Frame,
    ) -> Result<(Granted, Mapping), Refusal> {
        if asked.length == 0 {
            return Err(Refusal::Empty("the length"));
        }
        let mut access = asked.access & (Access::READ_WRITE | Access::EXECUTE);
        if access.is_empty() {
            return Err(Refusal::Empty("the access"));
        }
        if access.contains(Access::WRITE) && !frame.write_only || access.contains(Access::EXECUTE) {
            access |= Access::READ;
        }
        if !frame.execute {
            access -= Access::EXECUTE;
        }
        if access.is_empty() {
            return Err(Refusal::Unsupported {
                what: "execute permission alone",
                why: "the unit does not check it".into(),
            });
        }
        aligned("length", asked.length, frame.granularity)?;
        aligned("offset", asked.offset, frame.granularity)?;
        let wraps = |first| Refusal::Wraps { first, length: asked.length };
        let end = asked.offset.checked_add(asked.length).ok_or_else(|| wraps(asked.offset))?;
        if end > frame.offset_limit {
            return Err(Refusal::BeyondMemory { end, length: frame.offset_limit });
        }
        let policy = &self.clients.get(&client).ok_or(Refusal::NoSuchClient)?.policy;
        let source = match from {
            MapFrom::Memory(id) => Source::Memory(id, asked.offset),
            MapFrom::Physical => {
                if client != ClientId::STATIC && !policy.physical_holds(asked.offset, end - 1) {
                    return Err(Refusal::NotPermitted {
                        client: policy.name.clone(),
                        what: format!("map physical {:#x}-{:#x}", asked.offset, end - 1),
                        why: "its configuration does not give it that memory".into(),
                    });
                }
                Source::Physical(PhysAddr(asked.offset))
            }
        };
        let policy = policy.clone();
        let Some(state) = self.spaces.get_mut(&space) else { return Err(Refusal::NoSuchSpace(space)) };
        let first = match asked.iova {
            Some(iova) => iova.0,
            None => {
                let windows = policy.windows.as_deref();
                let free = state.free.get_or_insert_with(|| {
                    build_free(&state.mappings, &state.reserved, frame.usable, windows, frame.granularity)
                });
                choose(free, asked.length, frame.granularity).ok_or(Refusal::NoRoom(asked.length))?
            }
        };
        aligned("address", first, frame.granularity)?;
        let last = first.checked_add(asked.length - 1).ok_or_else(|| wraps(first))?;
        let range = Iova(first)..=Iova(last);
        if !policy.window_holds(&range) {
            return Err(Refusal::OutsideWindow { asked: range, client: policy.name.clone() });
        }
        if let Some((&at, held)) = state.mappings.range(..=last).next_back()
            && held.last >= first
        {
            return Err(Refusal::Overlap { asked: range, existing: Iova(at)..=Iova(held.last) });
        }
        let reserved_hit = state.reserved.iter().any(|&(f, l)| f <= last && first <= l);
        if first < frame.usable.0 || last > frame.usable.1 || reserved_hit {
            return Err(self.explain(space, first, last));
        }
        let grant = self.next_grant;
        self.next_grant += 1;
        let held = Held { last, source, access, keeper: Keeper::Client, grant };
        state.mappings.insert(first, held);
        if let Some(free) = &mut state.free {
            free.remove(first, last);
        }
        Ok((Granted { grant, iova: Iova(first), access }, held.mapping(first)))
    }

    /// Which unit or reserved region stands in the way.
    fn explain(&self, space: u64, first: u64, last: u64) -> Refusal {
        let asked = Iova(first)..=Iova(last);
        let Some(state) = self.spaces.get(&space) else { return Refusal::NoSuchSpace(space) };
        for unit in state.parts.keys().filter_map(|&u| self.unit(u)) {
            let usable = &unit.capabilities.iova;
            if first < usable.start().0 || last > usable.end().0 {
                return Refusal::OutsideUnit { asked, usable: usable.clone(), unit: unit.name.clone() };
            }
        }
        for device in state.attached.iter().filter_map(|(id, _)| self.devices.get(id)).map(|d| &d.device) {
            for region in &device.reserved {
                if region.range.start().0 <= last && first <= region.range.end().0 {
                    return Refusal::Reserved {
                        asked,
                        region: region.range.clone(),
                        kind: region.kind,
                        device: device.name.clone(),
                    };
                }
            }
        }
        Refusal::NoRoom(last - first)
    }

    /// Takes mappings that were only entered in the books out of them again.
    fn unplace(&mut self, space: u64, mappings: &[Mapping]) {
        let Some(state) = self.spaces.get_mut(&space) else { return };
        for mapping in mappings {
            if let Some(held) = state.mappings.remove(&mapping.iova.0)
                && let Some(free) = &mut state.free
            {
                free.add(mapping.iova.0, held.last);
            }
        }
    }

    /// Makes mappings behind every unit of the space; all or none.
    pub(super) fn map_in_all_parts(&mut self, space: u64, mappings: &[Mapping]) -> Result<(), Refusal> {
        let Some(state) = self.spaces.get(&space) else { return Err(Refusal::NoSuchSpace(space)) };
        let parts: Vec<_> = state.parts.values().copied().collect();
        for (behind, &part) in parts.iter().enumerate() {
            let Err((done, error)) = self.backend.map_batch(part, mappings) else { continue };
            let refusal = self.carried_out::<()>(Err(error)).unwrap_err();
            if self.safe_state.is_none() {
                self.finish(|backend| backend.unmap_batch(part, &mappings[..done.min(mappings.len())]));
                for &part in &parts[..behind] {
                    self.finish(|backend| backend.unmap_batch(part, mappings));
                }
            }
            return Err(refusal);
        }
        Ok(())
    }

    pub(super) fn unmap_in_all_parts(&mut self, space: u64, mappings: &[Mapping]) -> Result<(), Refusal> {
        let Some(state) = self.spaces.get(&space) else { return Err(Refusal::NoSuchSpace(space)) };
        for part in state.parts.values().copied().collect::<Vec<_>>() {
            let unmapped = self.backend.unmap_batch(part, mappings);
            if unmapped.is_err() {
                // Devices may or may not reach it still: whatever the error, that is an unknown condition.
                let why = unmapped.as_ref().err().map_or_else(String::new, ToString::to_string);
                self.enter_safe_state(format!("a grant could not be revoked: {why}"));
                return Err(Refusal::SafeState(why));
            }
        }
        Ok(())
    }

    /// Removes the mappings that lie in each range (first address, bytes); all or none. On return no device reaches them.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotMapped`] where a range holds none, [`Refusal::WouldSplit`] where it cuts one.
    pub fn unmap(
        &mut self,
        client: ClientId,
        space: u64,
        ranges: &[(Iova, u64)],
    ) -> Result<Removed, Refusal> {
        self.alive()?;
        self.space_of(client, space)?;
        let mut taken: Vec<(u64, Held)> = Vec::with_capacity(ranges.len());
        for &(first, length) in ranges {
            if let Err(refusal) = self.take_out(space, first.0, length, &mut taken) {
                self.put_back(space, taken);
                return Err(refusal);
            }
        }
        self.revoke_taken(space, taken)
    }

    fn take_out(
        &mut self,
        space: u64,
        first: u64,
        length: u64,
        taken: &mut Vec<(u64, Held)>,
    ) -> Result<(), Refusal> {
        let Some(room) = length.checked_sub(1) else { return Err(Refusal::Empty("the length")) };
        let last = first.checked_add(room).ok_or(Refusal::Wraps { first, length })?;
        let asked = Iova(first)..=Iova(last);
        let Some(state) = self.spaces.get_mut(&space) else { return Err(Refusal::NoSuchSpace(space)) };
        let before = taken.len();
        while let Some((&at, &held)) = state.mappings.range(..=last).next_back() {
            if held.last < first {
                break;
            }
            let existing = Iova(at)..=Iova(held.last);
            if at < first || held.last > last {
                return Err(Refusal::WouldSplit { asked, existing });
            }
            if held.keeper != Keeper::Client {
                return Err(Refusal::InUse {
                    what: format!("{}-{}", Iova(at), Iova(held.last)),
                    by: "configuration or firmware".into(),
                });
            }
            state.mappings.remove(&at);
            taken.push((at, held));
        }
        if taken.len() == before { Err(Refusal::NotMapped(asked)) } else { Ok(()) }
    }

    fn put_back(&mut self, space: u64, taken: Vec<(u64, Held)>) {
        if let Some(state) = self.spaces.get_mut(&space) {
            state.mappings.extend(taken);
        }
    }

    fn revoke_taken(&mut self, space: u64, taken: Vec<(u64, Held)>) -> Result<Removed, Refusal> {
        let mappings: Vec<Mapping> = taken.iter().map(|(first, held)| held.mapping(*first)).collect();
        self.begin_revoking(space, &mappings);
        if let Err(refusal) = self.unmap_in_all_parts(space, &mappings) {
            self.put_back(space, taken);
            return Err(refusal);
        }
        let Some(owner) = self.spaces.get(&space).map(|s| s.owner) else {
            return Err(Refusal::NoSuchSpace(space));
        };
        for (first, held) in &taken {
            self.uncount(owner, *first, held);
            if let Some(free) = self.spaces.get_mut(&space).and_then(|s| s.free.as_mut()) {
                free.add(*first, held.last);
            }
        }
        let removed =
            Removed { mappings: mappings.len() as u64, bytes: mappings.iter().map(|m| m.length).sum() };
        self.events.push(Event::Revoked {
            client: self.client_name(owner),
            space,
            mappings: removed.mappings,
            bytes: removed.bytes,
        });
        Ok(removed)
    }

    /// Removes one grant, whoever has it. Takes time in proportion to all grants: it is for operators.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchGrant`]; [`Refusal::InUse`] where configuration or firmware wants it.
    pub fn revoke(&mut self, grant: u64) -> Result<Removed, Refusal> {
        self.alive()?;
        let found = self.spaces.iter().find_map(|(&space, state)| {
            let (&first, &held) = state.mappings.iter().find(|(_, held)| held.grant == grant)?;
            Some((space, first, held))
        });
        let (space, first, held) = found.ok_or(Refusal::NoSuchGrant(grant))?;
        let mut taken = Vec::new();
        self.take_out(space, first, held.length(first), &mut taken)?;
        self.statics.retain(|s| s.grant != grant);
        self.revoke_taken(space, taken)
    }
}

fn build_free(
    mappings: &BTreeMap<u64, Held>,
    reserved: &[(u64, u64)],
    usable: (u64, u64),
    windows: Option<&[std::ops::RangeInclusive<Iova>]>,
    granularity: u64,
) -> Free {
    let mut free = Free::default();
    // Address 0 is never chosen: too much software takes it for "none".
    let (low, high) = (usable.0.max(granularity), usable.1);
    match windows {
        None if low <= high => free.add(low, high),
        None => {}
        Some(windows) => {
            for window in windows {
                let (first, last) = (window.start().0.max(low), window.end().0.min(high));
                if first <= last {
                    free.remove(first, last);
                    free.add(first, last);
                }
            }
        }
    }
    for &(first, last) in reserved {
        free.remove(first, last);
    }
    for (&first, held) in mappings {
        free.remove(first, held.last);
    }
    free
}

fn choose(free: &Free, length: u64, granularity: u64) -> Option<u64> {
    let huge = HUGE.into_iter().filter(|&size| size > granularity && length >= size);
    huge.map(|size| (size, 16)).chain([(granularity, usize::MAX)]).find_map(|(a, n)| free.find(length, a, n))
}
