//! Spaces.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_spec::{Access, Iova, PhysAddr};

use super::{ClientId, Core, Held, Keeper, Refusal, Space, ledger::Entry};
use crate::backend::{Mapping, Source};

/// Granularity of a space that no device is attached to yet.
pub(super) const PAGE: u64 = 4096;

impl Core {
    /// Makes an empty space; for a client that configuration maps to itself, with those mappings.
    ///
    /// # Errors
    ///
    /// A limit, or [`Refusal::Unsupported`].
    pub fn create_space(&mut self, client: ClientId) -> Result<u64, Refusal> {
        self.alive()?;
        let state = self.clients.get_mut(&client).ok_or(Refusal::NoSuchClient)?;
        let limit = state.policy.limits.spaces;
        if client != ClientId::STATIC && state.spaces.len() as u64 >= limit {
            return Err(Refusal::TooMuch { client: state.policy.name.clone(), what: "spaces", limit });
        }
        let id = self.next_space;
        self.make_space(client, id)?;
        self.next_space += 1;
        self.note_down_of(client, || Entry::Space { client: client.0, space: id });
        Ok(id)
    }

    /// Makes the space with this number, which is free.
    pub(super) fn make_space(&mut self, client: ClientId, id: u64) -> Result<(), Refusal> {
        let state = self.clients.get_mut(&client).ok_or(Refusal::NoSuchClient)?;
        let unity = &state.policy.unity;
        if !unity.is_empty() && !self.capabilities.physical {
            return Err(Refusal::Unsupported {
                what: "mapping a guest to itself",
                why: format!("{} maps no physical addresses", self.backend.name()),
            });
        }
        let mut mappings = BTreeMap::new();
        for range in unity {
            let source = Source::Physical(PhysAddr(*range.start()));
            let grant = self.next_grant;
            self.next_grant += 1;
            let held = Held {
                last: *range.end(),
                source,
                access: Access::READ_WRITE,
                keeper: Keeper::Policy,
                grant,
            };
            mappings.insert(*range.start(), held);
        }
        state.spaces.insert(id);
        let space = Space {
            owner: client,
            parts: BTreeMap::new(),
            mappings,
            attached: BTreeSet::new(),
            free: None,
            reserved: Vec::new(),
        };
        self.spaces.insert(id, space);
        Ok(())
    }

    /// Removes a space and all its grants. Devices that were attached reach nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchSpace`].
    pub fn destroy_space(&mut self, client: ClientId, space: u64) -> Result<(), Refusal> {
        self.alive()?;
        self.space_of(client, space)?;
        self.drop_space(space);
        self.alive()
    }

    pub(super) fn space_of(&self, client: ClientId, space: u64) -> Result<&Space, Refusal> {
        self.spaces.get(&space).filter(|s| s.owner == client).ok_or(Refusal::NoSuchSpace(space))
    }

    /// Removes a space whose owner may be gone; in the safe state only from the books.
    pub(super) fn drop_space(&mut self, id: u64) {
        let Some(space) = self.spaces.get(&id) else { return };
        let (owner, attached) = (space.owner, space.attached.clone());
        self.note_down_of(owner, || Entry::NoSpace { space: id });
        for (device, pasid) in attached {
            self.detach_one(id, device, pasid);
        }
        let Some(space) = self.spaces.remove(&id) else { return };
        for (_, part) in space.parts {
            if self.safe_state.is_none() {
                self.finish(|backend| backend.destroy_space(part));
            }
        }
        for (&first, held) in &space.mappings {
            self.uncount(space.owner, first, held);
        }
        if let Some(owner) = self.clients.get_mut(&space.owner) {
            owner.spaces.remove(&id);
        }
    }

    /// Takes a mapping out of its client's and its memory's counts.
    pub(super) fn uncount(&mut self, owner: ClientId, first: u64, held: &Held) {
        if held.keeper != Keeper::Client {
            return;
        }
        if let Some(client) = self.clients.get_mut(&owner) {
            client.bytes -= held.length(first);
            client.mappings -= 1;
        }
        if let Source::Memory(memory, _) = held.source
            && let Some(memory) = self.memories.get_mut(&memory)
        {
            memory.uses -= 1;
        }
    }
}

impl Held {
    pub(super) fn mapping(&self, first: u64) -> Mapping {
        Mapping { iova: Iova(first), length: self.length(first), source: self.source, access: self.access }
    }

    /// Bytes; the whole 64 bits count as one less.
    pub(super) fn length(&self, first: u64) -> u64 {
        (self.last - first).saturating_add(1)
    }
}

/// The smallest page of a mask of page sizes.
pub(super) fn granularity(page_sizes: u64) -> u64 {
    match page_sizes {
        0 => PAGE,
        sizes => 1 << sizes.trailing_zeros(),
    }
}

pub(super) fn aligned(what: &'static str, value: u64, granularity: u64) -> Result<(), Refusal> {
    if value.is_multiple_of(granularity) {
        Ok(())
    } else {
        Err(Refusal::Misaligned { what, value, granularity })
    }
}
