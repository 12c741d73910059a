//! What the calls do.

use std::{
    collections::HashMap,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use portcullis_client::{
    Client, Error,
    api::{Access, ClientInfo, ListGrants, MapRequest, Range, Region, Resumed},
};
use rustix::io::Errno;

use crate::{failure::Failure, faults::Faults};

/// Where devices see what is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// Where the manager chooses.
    Any,
    /// Each entry at its own offset.
    Same,
    /// One behind the other from here on.
    At(u64),
}

/// A memfd as the kernel tells them apart, and whether this descriptor of it can write.
type File = (u64, u64, bool);

/// A connection, and what was had through it.
pub(crate) struct Connection {
    client: Client,
    socket: Option<PathBuf>,
    name: Option<String>,
    /// Spaces by the objects that they are.
    objects: HashMap<u64, u64>,
    last_object: u64,
    /// Devices that were claimed, with their descriptors.
    claimed: HashMap<String, Option<OwnedFd>>,
    /// Memories that were registered.
    memories: HashMap<File, u64>,
    faults: Faults,
}

impl Connection {
    pub(crate) fn open(socket: Option<PathBuf>, name: Option<String>) -> Result<Self, Failure> {
        let mut client = connect(socket.as_deref(), name.as_deref())?;
        let faults = Faults::from_now(&mut client, socket.clone(), name.clone())?;
        Ok(Self {
            client,
            socket,
            name,
            objects: HashMap::new(),
            last_object: 0,
            claimed: HashMap::new(),
            memories: HashMap::new(),
            faults,
        })
    }

    /// After the service was killed and started again: has back what this connection had, over a new one. Whether all of it is
    /// there. What could not be kept is forgotten here too, and where that is everything, the connection goes on with nothing.
    pub(crate) fn resume(&mut self) -> Result<bool, Failure> {
        if self.client.status().is_ok() {
            return Ok(true);
        }
        let had = (self.objects.len(), self.claimed.len(), self.memories.len());
        let resumed = if had == (0, 0, 0) {
            // The service knows no client where nothing was asked for.
            self.client = connect(self.socket.as_deref(), self.name.as_deref())?;
            None
        } else {
            let mut client = Client::connect(self.socket.as_deref())?;
            match self.find(&mut client) {
                Ok(resumed) => {
                    self.client = client;
                    Some(resumed)
                }
                Err(error) if matches!(error.refusal(), Some("Lost" | "NoSuchClient")) => {
                    self.client = connect(self.socket.as_deref(), self.name.as_deref())?;
                    self.objects.clear();
                    self.claimed.clear();
                    self.memories.clear();
                    self.faults.go_on(&mut self.client)?;
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(resumed) = resumed {
            self.objects.retain(|_, space| resumed.spaces.contains(space));
            self.claimed.retain(|name, _| resumed.devices.contains(name));
            self.memories.retain(|_, memory| resumed.memories.iter().any(|known| known.memory == *memory));
        }
        self.faults.go_on(&mut self.client)?;
        Ok(had == (self.objects.len(), self.claimed.len(), self.memories.len()))
    }

    /// Of several clients that this process was, the one that has our spaces and devices.
    fn find(&self, client: &mut Client) -> Result<Resumed, Error> {
        let several = match client.resume(None) {
            Err(error) if error.refusal() == Some("InvalidParameter") => error,
            other => return other,
        };
        let mut spaces: Vec<u64> = self.objects.values().copied().collect();
        spaces.sort_unstable();
        let is_ours = |known: &ClientInfo| {
            let mut its: Vec<u64> = known.spaces.iter().map(|space| space.space).collect();
            its.sort_unstable();
            known.pid == Some(std::process::id().into())
                && its == spaces
                && known.devices.iter().all(|name| self.claimed.contains_key(name))
        };
        match client.clients()?.into_iter().find(is_ours) {
            Some(known) => client.resume(Some(known.id)),
            None => Err(several),
        }
    }

    fn space(&self, object: u64) -> Result<u64, Failure> {
        let space = self.objects.get(&object).copied();
        space.ok_or_else(|| Failure::new(Errno::BADF, format!("there is no object {object}")))
    }

    pub(crate) fn create_object(&mut self) -> Result<u64, Failure> {
        let space = self.client.create_space()?;
        self.last_object += 1;
        self.objects.insert(self.last_object, space);
        Ok(self.last_object)
    }

    pub(crate) fn destroy_object(&mut self, object: u64) -> Result<(), Failure> {
        self.client.destroy_space(self.space(object)?)?;
        self.objects.remove(&object);
        Ok(())
    }

    /// Whether mappings were made again behind another unit.
    pub(crate) fn add_device(&mut self, object: u64, words: &str) -> Result<bool, Failure> {
        let space = self.space(object)?;
        let mut new = Vec::new();
        for (name, descriptor) in self.client.claim(words)? {
            if !self.claimed.contains_key(&name) {
                self.claimed.insert(name.clone(), descriptor);
                new.push(name);
            }
        }
        match self.client.attach(space, words, None) {
            Ok(attached) => Ok(attached.replayed != 0),
            Err(error) => {
                // As if nothing had been asked: what came along just now goes again.
                for name in new {
                    if self.claimed.contains_key(&name) {
                        self.remove_device(&name)?;
                    }
                }
                Err(error.into())
            }
        }
    }

    pub(crate) fn remove_device(&mut self, words: &str) -> Result<(), Failure> {
        for name in self.client.release(words, false)? {
            self.claimed.remove(&name);
        }
        Ok(())
    }

    pub(crate) fn descriptor(&self, device: &str) -> Result<OwnedFd, Failure> {
        let none = || Failure::new(Errno::NOENT, format!("you do not have {device}"));
        let came = self.claimed.get(device).ok_or_else(none)?;
        let without = || Failure::new(Errno::OPNOTSUPP, format!("{device} came without a descriptor"));
        Ok(came.as_ref().ok_or_else(without)?.try_clone()?)
    }

    pub(crate) fn reserved(&mut self, device: &str) -> Result<Vec<Region>, Failure> {
        Ok(self.client.reserved(device)?)
    }

    fn memory(&mut self, memfd: BorrowedFd<'_>) -> Result<u64, Failure> {
        let stat = rustix::fs::fstat(memfd)?;
        let mode = rustix::fs::fcntl_getfl(memfd)? & rustix::fs::OFlags::ACCMODE;
        let file = (stat.st_dev, stat.st_ino, mode == rustix::fs::OFlags::RDWR);
        if let Some(&memory) = self.memories.get(&file) {
            return Ok(memory);
        }
        // The service keeps the file open, so that its number means no other as long as this connection lasts.
        let memory = self.client.add_memory(memfd)?.memory;
        self.memories.insert(file, memory);
        Ok(memory)
    }

    /// Maps, and says where the first entry went.
    pub(crate) fn map(
        &mut self,
        object: u64,
        access: Access,
        memfd: Option<BorrowedFd<'_>>,
        entries: &[(u64, u64)],
        address: Address,
    ) -> Result<u64, Failure> {
        let space = self.space(object)?;
        let places = places(entries, address)?;
        let memory = match memfd {
            Some(memfd) => Some(self.memory(memfd)?),
            None => None,
        };
        let asked: Vec<MapRequest> = entries
            .iter()
            .zip(&places)
            .map(|(&(offset, length), &iova)| MapRequest { offset, iova, length, access })
            .collect();
        let first = places.first().copied().flatten();
        match self.client.map(space, memory, asked.clone()) {
            Ok(granted) => {
                let chosen = granted.first().map(|granted| granted.iova);
                chosen.or(first).ok_or_else(|| Failure::new(Errno::PROTO, "nothing was granted"))
            }
            Err(error) if error.refusal() == Some("Overlap") => {
                let missing = self.not_there(space, memory, asked)?;
                if !missing.is_empty() {
                    self.client.map(space, memory, missing)?;
                }
                Ok(first.unwrap_or(0))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Those requests that are not granted already in exactly that way.
    fn not_there(
        &mut self,
        space: u64,
        memory: Option<u64>,
        mut asked: Vec<MapRequest>,
    ) -> Result<Vec<MapRequest>, Failure> {
        let mut there: HashMap<u64, (u64, u64, Access)> = HashMap::new();
        // Grants come in order of space and address: from the end of the space before.
        let mut after = Some(Range { iova: u64::MAX, length: space.saturating_sub(1) });
        while let Some(from) = after {
            let page = self.client.grants(&ListGrants { after: Some(from), ..ListGrants::default() })?;
            after = page.next.filter(|next| next.length == space);
            let of_space = page.grants.into_iter().filter(|g| g.space == space && g.memory == memory);
            there.extend(of_space.map(|g| (g.iova, (g.offset, g.length, g.access))));
        }
        asked.retain(|one| {
            let found = one.iova.and_then(|iova| there.get(&iova));
            // Rights that no hardware can leave out were added; execute may be what nothing here checks.
            !found.is_some_and(|&(offset, length, access)| {
                (offset, length) == (one.offset, one.length)
                    && access.write == one.access.write
                    && (access.read || !one.access.read)
                    && (access.execute == one.access.execute || !access.execute)
            })
        });
        Ok(asked)
    }

    /// Unmaps, and says where the first entry was.
    pub(crate) fn unmap(
        &mut self,
        object: u64,
        entries: &[(u64, u64)],
        address: Address,
    ) -> Result<u64, Failure> {
        let space = self.space(object)?;
        if address == Address::Any {
            return Err(Failure::argument("say where to remove mappings"));
        }
        let places = places(entries, address)?;
        let ranges: Vec<Range> = entries
            .iter()
            .zip(&places)
            .filter_map(|(&(_, length), &iova)| iova.map(|iova| Range { iova, length }))
            .collect();
        let first = ranges.first().map_or(0, |range| range.iova);
        self.client.unmap(space, ranges)?;
        Ok(first)
    }

    pub(crate) fn faults(&mut self) -> (&mut Faults, &mut Client) {
        (&mut self.faults, &mut self.client)
    }
}

/// A connection under a name.
pub(crate) fn connect(socket: Option<&Path>, name: Option<&str>) -> Result<Client, Failure> {
    let mut client = Client::connect(socket)?;
    if let Some(name) = name {
        client.introduce(name)?;
    }
    Ok(client)
}

/// Where each entry goes.
fn places(entries: &[(u64, u64)], address: Address) -> Result<Vec<Option<u64>>, Failure> {
    if entries.is_empty() {
        return Err(Failure::argument("no entries"));
    }
    match address {
        Address::Any if entries.len() > 1 => {
            Err(Failure::argument("the manager chooses an address for one entry at a time"))
        }
        Address::Any => Ok(vec![None]),
        Address::Same => Ok(entries.iter().map(|&(offset, _)| Some(offset)).collect()),
        Address::At(first) => {
            let mut next = Some(first);
            let mut place = |&(_, length): &(u64, u64)| {
                let here = next.ok_or_else(|| Failure::argument("the addresses wrap around"))?;
                next = here.checked_add(length);
                Ok(Some(here))
            };
            entries.iter().map(&mut place).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, places};

    #[test]
    fn entries_follow_each_other_and_do_not_wrap() {
        let entries = [(0x5000, 0x1000), (0x9000, 0x2000), (0, 0x1000)];
        let at = places(&entries, Address::At(0x10_0000)).unwrap();
        assert_eq!(at, [Some(0x10_0000), Some(0x10_1000), Some(0x10_3000)]);
        let same = places(&entries, Address::Same).unwrap();
        assert_eq!(same, [Some(0x5000), Some(0x9000), Some(0)]);
        assert!(places(&entries, Address::At(u64::MAX - 0xfff)).is_err());
        assert!(places(&entries, Address::Any).is_err());
        assert_eq!(places(&entries[..1], Address::Any).unwrap(), [None]);
        assert!(places(&[], Address::Same).is_err());
    }
}
