//! Memory that clients registered.

use std::{os::fd::OwnedFd, sync::Arc};

use super::{ClientId, Core, Memory, Refusal, ledger::Entry};
use crate::backend::MemoryId;

impl Core {
    /// Registers memory for a client. The caller has made sure that it cannot shrink.
    ///
    /// # Errors
    ///
    /// A limit, or the back end's.
    pub fn add_memory(
        &mut self,
        client: ClientId,
        file: Arc<OwnedFd>,
        length: u64,
        writable: bool,
    ) -> Result<MemoryId, Refusal> {
        self.alive()?;
        let state = self.clients.get(&client).ok_or(Refusal::NoSuchClient)?;
        let limit = state.policy.limits.memories;
        if state.memories.len() as u64 >= limit {
            return Err(Refusal::TooMuch { client: state.policy.name.clone(), what: "memories", limit });
        }
        let id = MemoryId(self.next_memory);
        self.next_memory += 1;
        let added = self.backend.add_memory(id, file.clone(), length, writable);
        self.carried_out(added)?;
        self.note_down_of(client, || Entry::Memory { client: client.0, memory: id.0, length, writable });
        self.kept_changed += 1;
        self.memories.insert(id, Memory { owner: client, file, length, writable, uses: 0 });
        if let Some(state) = self.clients.get_mut(&client) {
            state.memories.insert(id);
        }
        Ok(id)
    }

    /// Forgets a client's memory.
    ///
    /// # Errors
    ///
    /// [`Refusal::InUse`] while mappings lead to it.
    pub fn remove_memory(&mut self, client: ClientId, memory: MemoryId) -> Result<(), Refusal> {
        self.alive()?;
        let state = self.memories.get(&memory).filter(|m| m.owner == client);
        let uses = state.ok_or(Refusal::NoSuchMemory(memory.0))?.uses;
        if uses != 0 {
            return Err(Refusal::InUse {
                what: format!("memory {}", memory.0),
                by: format!("{uses} grants"),
            });
        }
        self.note_down_of(client, || Entry::NoMemory { memory: memory.0 });
        self.kept_changed += 1;
        let removed = self.backend.remove_memory(memory);
        self.carried_out(removed)?;
        self.memories.remove(&memory);
        if let Some(state) = self.clients.get_mut(&client) {
            state.memories.remove(&memory);
        }
        Ok(())
    }
}
