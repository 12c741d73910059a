//! What outlives the process: writing it down, and taking it up again.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use portcullis_spec::{Iova, Pasid};

use super::{
    Asked, BorrowedFds, Client, ClientId, Core, Event, Former, Granted, Identity, Keeper, MapFrom, Memory,
    Policy, Refusal,
    ledger::{Entry, FormerSpace, Grant, Ledger},
};
use crate::{
    backend::{Mapping, MemoryId, Source},
    inventory::{DeviceId, GroupId},
};

/// Names of the descriptors of what clients brought, and of the ledger.
const MEMORY: &str = "memory-";
const STATE: &str = "state-";

/// A client of a former process, which has again what it had, and is not there yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// Its number, as before.
    pub client: ClientId,
    /// Who it is.
    pub identity: Identity,
    /// What it was given.
    pub policy: Arc<Policy>,
}

/// Descriptors that a former process kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// The ledgers, by number.
    ledgers: BTreeMap<u64, OwnedFd>,
    /// What clients brought, by number.
    memories: BTreeMap<u64, OwnedFd>,
    /// The back end's.
    pub backend: Vec<(String, OwnedFd)>,
}

impl Kept {
    /// Sorts descriptors by their names.
    #[must_use]
    pub fn sort(all: Vec<(String, OwnedFd)>) -> Self {
        let mut kept = Self::default();
        for (name, descriptor) in all {
            let number = |kind: &str| name.strip_prefix(kind)?.parse::<u64>().ok();
            if let Some(number) = number(STATE) {
                kept.ledgers.insert(number, descriptor);
            } else if let Some(number) = number(MEMORY) {
                kept.memories.insert(number, descriptor);
            } else {
                kept.backend.push((name, descriptor));
            }
        }
        kept
    }
}

fn grant(mapping: &Mapping, number: u64) -> (u64, Grant) {
    let (memory, offset) = match mapping.source {
        Source::Memory(memory, offset) => (Some(memory.0), offset),
        Source::Physical(address) => (None, address.0),
    };
    let last = mapping.iova.0 + (mapping.length - 1);
    (mapping.iova.0, Grant { grant: number, last, memory, offset, access: mapping.access })
}

impl Core {
    /// Writes, if there is a ledger. One that cannot be written must not be believed: it is emptied, and no more written.
    fn in_ledger<T>(&mut self, write: impl FnOnce(&mut Ledger) -> io::Result<T>) -> Option<T> {
        match write(self.ledger.as_mut()?) {
            Ok(written) => Some(written),
            Err(error) => {
                let warning = format!("what clients have would not survive a crash from now on: {error}");
                self.forget_ledger();
                self.events.push(Event::Warning(warning));
                None
            }
        }
    }

    /// From here on nothing outlives the process.
    pub(super) fn forget_ledger(&mut self) {
        if let Some(mut ledger) = self.ledger.take() {
            // Making a file shorter takes no memory. Were it to fail, the descriptor is taken back next.
            let _ = ledger.take_back(0);
            self.kept_changed += 1;
        }
    }

    pub(super) fn note_down(&mut self, entry: &Entry) {
        self.in_ledger(|ledger| ledger.entry(entry));
    }

    /// Notes down what concerns a client, if it can ever come back.
    pub(super) fn note_down_of(&mut self, client: ClientId, entry: impl FnOnce() -> Entry) {
        if self.ledger.is_some() && self.clients.get(&client).is_some_and(|c| c.identity.is_some()) {
            self.note_down(&entry());
        }
    }

    pub(super) fn note_down_of_space(
        &mut self,
        space: u64,
        device: DeviceId,
        entry: impl FnOnce(String) -> Entry,
    ) {
        if self.ledger.is_some()
            && let Some(owner) = self.spaces.get(&space).map(|state| state.owner)
        {
            let name = self.device_name(device);
            self.note_down_of(owner, || entry(name));
        }
    }

    /// Grants are about to be made.
    pub(super) fn begin_grants(
        &mut self,
        client: ClientId,
        space: u64,
        mappings: &[Mapping],
        granted: &[Granted],
    ) -> Option<u64> {
        self.ledger.as_ref()?;
        self.clients.get(&client)?.identity?;
        let grants: Vec<_> = mappings.iter().zip(granted).map(|(m, g)| grant(m, g.grant)).collect();
        self.in_ledger(|ledger| ledger.map(space, &grants))
    }

    pub(super) fn grants_made(&mut self, begun: Option<u64>) {
        if begun.is_some() {
            self.in_ledger(Ledger::done);
        }
    }

    pub(super) fn take_grants_back(&mut self, begun: Option<u64>) {
        if let Some(length) = begun {
            self.in_ledger(|ledger| ledger.take_back(length));
        }
    }

    /// Grants are about to be revoked.
    pub(super) fn begin_revoking(&mut self, space: u64, mappings: &[Mapping]) {
        if self.ledger.is_none() {
            return;
        }
        let owner = self.spaces.get(&space).and_then(|state| self.clients.get(&state.owner));
        if owner.is_some_and(|owner| owner.identity.is_some()) {
            self.in_ledger(|ledger| ledger.unmap(space, mappings.iter().map(|m| m.iova.0)));
        }
    }

    /// Writes all that is to outlive the process into a new ledger, and everything that happens from now on.
    ///
    /// # Errors
    ///
    /// The system's; then nothing outlives the process.
    pub fn write_ledger(&mut self, number: u64) -> io::Result<()> {
        self.forget_ledger();
        let mut ledger = Ledger::new(number)?;
        for (id, client) in &self.clients {
            let Some(identity) = client.identity else { continue };
            let name = client.policy.name.clone();
            ledger.entry(&Entry::Client { client: id.0, name, identity })?;
            for group in self.groups.values().filter(|group| group.holder == Some(*id)) {
                let devices = group.members.iter().map(|&id| self.device_name(id)).collect();
                ledger.entry(&Entry::Claim { client: id.0, devices })?;
            }
            for memory in &client.memories {
                let Some(Memory { length, writable, .. }) = self.memories.get(memory) else { continue };
                let (length, writable) = (*length, *writable);
                ledger.entry(&Entry::Memory { client: id.0, memory: memory.0, length, writable })?;
            }
            for &space in &client.spaces {
                let Some(state) = self.spaces.get(&space) else { continue };
                ledger.entry(&Entry::Space { client: id.0, space })?;
                let held = state.mappings.iter().filter(|(_, held)| held.keeper == Keeper::Client);
                let grants: Vec<_> = held.map(|(&at, held)| grant(&held.mapping(at), held.grant)).collect();
                for grants in grants.chunks(1 << 16) {
                    ledger.map(space, grants)?;
                    ledger.done()?;
                }
                for (device, pasid) in &state.attached {
                    let (device, pasid) = (self.device_name(*device), pasid.map(Pasid::value));
                    ledger.entry(&Entry::Attach { space, device, pasid })?;
                }
            }
        }
        ledger.settle();
        self.ledger = Some(ledger);
        self.kept_changed += 1;
        Ok(())
    }

    /// Writes the ledger anew where most of it is no longer true.
    pub fn tidy_ledger(&mut self) {
        if let Some(number) = self.ledger.as_ref().filter(|ledger| ledger.is_long()).map(|l| l.number)
            && let Err(error) = self.write_ledger(number + 1)
        {
            let warning = format!("what clients have would not survive a crash from now on: {error}");
            self.events.push(Event::Warning(warning));
        }
    }

    /// Everything that must outlive this process for devices to stay as they are, and clients to have again what they had.
    pub fn kept(&self) -> BorrowedFds<'_> {
        let mut kept: Vec<(String, BorrowedFd<'_>)> = self.backend.keep();
        if let Some(ledger) = &self.ledger {
            let memories = self.memories.iter();
            kept.extend(memories.map(|(id, memory)| (format!("{MEMORY}{}", id.0), memory.file.as_fd())));
            kept.push((format!("{STATE}{}", ledger.number), ledger.descriptor()));
        }
        kept
    }

    /// Changes whenever [`Core::kept`] does.
    #[must_use]
    pub fn kept_changed(&self) -> u64 {
        self.holders_changed + self.kept_changed
    }

    /// Takes up what a former process left, of clients to whom `policy` still gives something, and then puts an end to
    /// everything else that it left. What cannot be taken up is blocked, and told as a warning. Returns the clients, and the number of the ledger.
    pub fn restore(
        &mut self,
        mut kept: Kept,
        policy: impl Fn(&Identity, &str) -> Option<Arc<Policy>>,
    ) -> (Vec<Restored>, u64) {
        let mut restored = Vec::new();
        let mut number = 0;
        // Where the process ended between writing one anew and taking the old one back, both are true.
        if let Some((last, ledger)) = kept.ledgers.pop_last() {
            number = last;
            match Former::read(ledger, last) {
                Ok(former) => restored = self.take_up(&former, &mut kept.memories, policy),
                Err(bad) => self.events.push(Event::Warning(bad.to_string())),
            }
        }
        if self.safe_state.is_none() {
            let settled = self.backend.settle();
            self.note(settled);
        }
        self.holders_changed += 1;
        (restored, number)
    }

    fn take_up(
        &mut self,
        former: &Former,
        memories: &mut BTreeMap<u64, OwnedFd>,
        policy: impl Fn(&Identity, &str) -> Option<Arc<Policy>>,
    ) -> Vec<Restored> {
        let mut restored = Vec::new();
        for (&id, was) in &former.clients {
            let client = ClientId(id);
            self.next_client = self.next_client.max(id.saturating_add(1));
            let Some(policy) = policy(&was.identity, &was.name) else { continue };
            self.clients.insert(client, Client::new(policy.clone(), Some(was.identity)));
            self.resume_devices(client, &policy, &was.devices);
            for (&memory, &(length, writable)) in &was.memories {
                self.next_memory = self.next_memory.max(memory.saturating_add(1));
                let Some(file) = memories.remove(&memory) else { continue };
                let (file, id) = (Arc::new(file), MemoryId(memory));
                let added = self.backend.add_memory(id, file.clone(), length, writable);
                if self.carried_out(added).is_ok() {
                    self.memories.insert(id, Memory { owner: client, file, length, writable, uses: 0 });
                    if let Some(state) = self.clients.get_mut(&client) {
                        state.memories.insert(id);
                    }
                }
            }
            restored.push(Restored { client, identity: was.identity, policy });
        }
        for (&space, was) in &former.spaces {
            self.next_space = self.next_space.max(space.saturating_add(1));
            if !self.clients.contains_key(&ClientId(was.owner)) {
                continue;
            }
            let doubtful = former.doubtful.iter().filter(|(of, ..)| *of == space);
            let doubtful = doubtful.map(|&(_, first, last)| (first, last)).collect();
            if let Err(refusal) = self.take_up_space(space, was, doubtful) {
                self.events.push(Event::Warning(format!("space {space} was not taken up: {refusal}")));
            }
        }
        restored
    }

    fn resume_devices(&mut self, client: ClientId, policy: &Policy, names: &BTreeSet<String>) {
        let ids = names.iter().filter_map(|name| self.names.get(name.as_str()));
        let groups: BTreeSet<GroupId> =
            ids.filter_map(|id| self.devices.get(id)).map(|state| state.device.group).collect();
        for group in groups {
            let Some(state) = self.groups.get(&group) else { continue };
            let members = state.members.clone();
            let all = members.iter().all(|&id| names.contains(&self.device_name(id)));
            let resumed = match self.may_claim(client, policy, group) {
                Ok(()) if all => {
                    let resumed = self.backend.resume(&members);
                    self.carried_out(resumed)
                }
                Ok(()) => continue,
                Err(refusal) => Err(refusal),
            };
            match resumed {
                Ok(()) => {
                    if let Some(state) = self.groups.get_mut(&group) {
                        state.holder = Some(client);
                    }
                }
                Err(refusal) => {
                    let devices: Vec<String> = members.iter().map(|&id| self.device_name(id)).collect();
                    let warning = format!("{} was not taken up: {refusal}", devices.join(" "));
                    self.events.push(Event::Warning(warning));
                }
            }
        }
    }

    /// Makes a space with its grants as they were, then attaches what was attached, and clears what is in doubt.
    fn take_up_space(
        &mut self,
        space: u64,
        was: &FormerSpace,
        mut doubtful: Vec<(u64, u64)>,
    ) -> Result<(), Refusal> {
        self.alive()?;
        let client = ClientId(was.owner);
        self.make_space(client, space)?;
        let mut refused = None;
        for (&first, grant) in &was.grants {
            let from = grant.memory.map_or(MapFrom::Physical, |memory| MapFrom::Memory(MemoryId(memory)));
            let length = (grant.last - first).saturating_add(1);
            let asked = Asked { offset: grant.offset, iova: Some(Iova(first)), length, access: grant.access };
            let next = std::mem::replace(&mut self.next_grant, grant.grant);
            let placed = self
                .frame(client, space, from, std::slice::from_ref(&asked))
                .and_then(|frame| self.place(client, space, from, &asked, &frame));
            self.next_grant = next.max(grant.grant.saturating_add(1));
            match placed {
                Ok(_) => self.count(client, from, 1, length),
                Err(refusal) => {
                    doubtful.push((first, grant.last));
                    refused = Some(refusal);
                }
            }
        }
        for (device, pasid) in &was.attached {
            let Some(&id) = self.names.get(device.as_str()) else { continue };
            let pasid = pasid.and_then(Pasid::new);
            let attached = match self.claimed_by(client, id).cloned() {
                Ok(device) => {
                    self.fits_space(space, &device).and_then(|()| self.attach_one(space, id, pasid))
                }
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = attached {
                self.events.push(Event::Warning(format!("{device} is blocked: {refusal}")));
            }
        }
        let parts: Vec<_> =
            self.spaces.get(&space).into_iter().flat_map(|s| s.parts.values().copied()).collect();
        for (first, last) in doubtful {
            for &part in &parts {
                let length = (last - first).saturating_add(1);
                self.finish(|backend| backend.clear(part, Iova(first), length));
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Clients whose processes are known.
    pub fn identities(&self) -> impl Iterator<Item = (ClientId, &str, Identity)> {
        let known = |(&id, client): (&ClientId, &'_ Client)| Some((id, client.identity?));
        let named = |(id, identity): (ClientId, Identity)| {
            let name = self.clients.get(&id).map_or("", |client| client.policy.name.as_str());
            (id, name, identity)
        };
        self.clients.iter().filter_map(known).map(named)
    }

    /// Something that a person should know.
    pub fn warn(&mut self, text: String) {
        self.events.push(Event::Warning(text));
    }

    /// Names of the devices that a client has.
    #[must_use]
    pub fn devices_of(&self, client: ClientId) -> Vec<String> {
        let groups = self.groups.values().filter(|group| group.holder == Some(client));
        groups.flat_map(|group| &group.members).map(|&id| self.device_name(id)).collect()
    }

    /// The memories that a client has: number, length, and whether devices may be allowed to write.
    pub fn memories_of(&self, client: ClientId) -> impl Iterator<Item = (MemoryId, u64, bool)> {
        let memories = self.clients.get(&client).into_iter().flat_map(|state| &state.memories);
        memories.filter_map(|id| self.memories.get(id).map(|memory| (*id, memory.length, memory.writable)))
    }
}
