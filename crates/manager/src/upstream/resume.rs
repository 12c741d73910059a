//! A guest's manager that was killed: its connection to the host's outlives it where somebody keeps descriptors, so that the host
//! takes nothing back, and the next process goes on with it.
//!
//! The host says what devices reach (`ListClients`, `ListGrants`); the guest's ledger says what they should. On attaching a device that
//! the host has attached already, the host's space is taken over and made to be what the ledger says: what the ledger does not have goes
//! first, then what is missing comes. At the end everything that was not taken over is taken away. So devices go on without a pause,
//! and never with more than was granted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use portcullis_client::{
    Client, Error,
    api::{self, ListGrants, Nothing, Range},
};
use portcullis_spec::{Access, Pasid};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Upstream, failed, unknown};
use crate::backend::{BackendError, Mapping, MemoryId, Source, SpaceId};

/// Names of the descriptors that are kept.
pub(super) const CONNECTION: &str = "upstream-connection";
pub(super) const STATE: &str = "upstream-state";

const DEVICE: &str = "upstream-device-";

/// The name under which a device's descriptor is kept, the `number`th that was handed to us. Colons separate names there.
pub(super) fn device(number: u64, name: &str) -> String {
    format!("{DEVICE}{number}-{}", name.replace(':', "_"))
}

/// The number, and the device, as far as its name can be told.
pub(super) fn kept_device(name: &str) -> Option<(u64, &str)> {
    let (number, device) = name.strip_prefix(DEVICE)?.split_once('-')?;
    Some((number.parse().ok()?, device))
}

/// How long the host may take to answer on a connection that is taken up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers that the former process can have left unread.
const UNREAD: usize = 64;

/// Which of the host's memories ours are: lines `OURS=HOST`, or `OURS=` for one that is no more. A line without its end does not count.
#[derive(Debug)]
pub(super) struct Memories {
    file: File,
    length: u64,
}

impl Memories {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: memfd_create("portcullis upstream", MemfdFlags::CLOEXEC)?.into(), length: 0 })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn note(&mut self, memory: MemoryId, host: Option<u64>) -> io::Result<()> {
        let host = host.map(|number| number.to_string()).unwrap_or_default();
        let line = format!("{}={host}\n", memory.0);
        self.file.write_all_at(line.as_bytes(), self.length)?;
        self.length += line.len() as u64;
        Ok(())
    }

    fn take_up(descriptor: OwnedFd) -> io::Result<(Self, BTreeMap<MemoryId, u64>)> {
        let file = File::from(descriptor);
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(&bytes);
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut known = BTreeMap::new();
        for (ours, host) in whole.lines().filter_map(|line| line.split_once('=')) {
            let Ok(ours) = ours.parse() else { continue };
            match host.parse() {
                Ok(host) => _ = known.insert(MemoryId(ours), host),
                Err(_) => _ = known.remove(&MemoryId(ours)),
            }
        }
        Ok((Self { length: whole.len() as u64, file }, known))
    }
}

/// A former process's connection, until all of it that is to be taken up is.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    /// The host's numbers of memories.
    pub(super) memories: BTreeMap<MemoryId, u64>,
    /// Devices' descriptors with their names, by the end of that.
    pub(super) devices: BTreeMap<String, (String, OwnedFd)>,
    /// What spaces are to map that the host does not know by our numbers yet.
    pub(super) pending: BTreeMap<SpaceId, Vec<Mapping>>,
    /// Devices that clients have again.
    pub(super) resumed: BTreeSet<String>,
    /// The host's spaces that are taken over, with what is attached to them as the host lists it.
    taken: BTreeMap<u64, BTreeSet<String>>,
}

/// Takes up the connection, if the host still knows it.
pub(super) fn adopt(connection: OwnedFd, state: OwnedFd) -> Result<(Client, Memories, Adopted), Error> {
    let mut client = Client::over(UnixStream::from(connection));
    client.set_timeout(Some(PATIENCE))?;
    synchronise(&mut client)?;
    client.set_timeout(None)?;
    let (file, memories) = Memories::take_up(state)?;
    Ok((client, file, Adopted { memories, ..Adopted::default() }))
}

/// Reads what the former process asked and did not read the answer of. Had it sent half a call, the host would close now.
fn synchronise(client: &mut Client) -> Result<(), Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let word = format!("Synchronise{}x{}", std::process::id(), now.as_nanos());
    client.send(&word, &Nothing {}, false, &[])?;
    for _ in 0..UNREAD {
        match client.receive::<serde_json::Value>() {
            // The answer to a method that nobody has says its name.
            Err(Error::Refused { name, message })
                if name == "MethodNotFound" && message.ends_with(word.as_str()) =>
            {
                return Ok(());
            }
            // Protocol: the former process had read a part of it.
            Ok(_) | Err(Error::Refused { .. } | Error::Protocol(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Protocol("the host answers what nobody asked".into()))
}

/// As the host lists what is attached to a space.
fn listed(device: &str, pasid: Option<Pasid>) -> String {
    pasid.map_or_else(|| device.to_owned(), |pasid| format!("{device}/{pasid}"))
}

impl Upstream {
    /// The descriptor of a device that a former process had and we still have, under its name.
    pub(super) fn kept_device(&mut self, device: &api::Device, you: &str) -> Option<(String, OwnedFd)> {
        let adopted = self.adopted.as_mut()?;
        (device.holder.as_deref() == Some(you))
            .then(|| adopted.devices.remove(&device.name.replace(':', "_")))
            .flatten()
    }

    /// Attaches a device to a space of a former process, which the host may have attached already.
    pub(super) fn take_up_attachment(
        &mut self,
        space: SpaceId,
        device: &str,
        pasid: Option<Pasid>,
    ) -> Result<(), BackendError> {
        let name = listed(device, pasid);
        let clients = self.client.clients().map_err(failed("listing spaces"))?;
        let mut spaces = clients.iter().flat_map(|client| &client.spaces);
        let there = spaces.find(|space| space.devices.contains(&name)).map(|space| space.space);
        let Some(adopted) = &mut self.adopted else { return Ok(()) };
        let pending = adopted.pending.remove(&space);
        let number = match (self.spaces.get(&space), there) {
            (Some(&number), _) => number,
            (None, Some(number)) if !adopted.taken.contains_key(&number) => {
                self.spaces.insert(space, number);
                self.reconcile(number, pending.unwrap_or_default())?;
                number
            }
            (None, _) => {
                let number = self.client.create_space().map_err(failed("making a space"))?;
                self.spaces.insert(space, number);
                self.map_all(number, &pending.unwrap_or_default()).map_err(|(_, error)| error)?;
                number
            }
        };
        if there != Some(number) {
            let pasid = pasid.map(Pasid::value);
            if let Some(former) = there {
                self.client.detach(former, device, pasid).map_err(unknown("detaching"))?;
            }
            self.client.attach(number, device, pasid).map_err(failed("attaching"))?;
        }
        if let Some(adopted) = &mut self.adopted {
            adopted.taken.entry(number).or_default().insert(name);
        }
        Ok(())
    }

    /// Makes a space of the host's map what it should: what is too much goes before what is missing comes.
    fn reconcile(&mut self, number: u64, wanted: Vec<Mapping>) -> Result<(), BackendError> {
        let mut wanted: BTreeMap<u64, Mapping> = wanted.into_iter().map(|m| (m.iova.0, m)).collect();
        let mut too_much = Vec::new();
        // Grants come in order of space and address: from the end of the space before.
        let mut after = Some(Range { iova: u64::MAX, length: number.saturating_sub(1) });
        while let Some(from) = after {
            let which = ListGrants { after: Some(from), ..ListGrants::default() };
            let page = self.client.grants(&which).map_err(unknown("listing grants"))?;
            after = page.next.filter(|next| next.length == number);
            for grant in page.grants.into_iter().filter(|grant| grant.space == number && !grant.fixed) {
                let is_it = |mapping: &Mapping| {
                    let (memory, offset) = match mapping.source {
                        Source::Memory(memory, offset) => (self.memories.get(&memory).copied(), offset),
                        Source::Physical(_) => return false,
                    };
                    let access = grant.access;
                    mapping.length == grant.length
                        && (memory, offset) == (grant.memory, grant.offset)
                        && mapping.access.contains(Access::READ) == access.read
                        && mapping.access.contains(Access::WRITE) == access.write
                        && mapping.access.contains(Access::EXECUTE) == access.execute
                };
                if wanted.get(&grant.iova).is_some_and(is_it) {
                    wanted.remove(&grant.iova);
                } else {
                    too_much.push(Range { iova: grant.iova, length: grant.length });
                }
            }
        }
        for part in too_much.chunks(super::BATCH) {
            self.client.unmap(number, part.to_vec()).map_err(unknown("unmapping"))?;
        }
        let missing: Vec<Mapping> = wanted.into_values().collect();
        self.map_all(number, &missing).map_err(|(_, error)| error)
    }

    /// Takes away whatever was not taken up.
    pub(super) fn settle_adopted(&mut self) -> Result<(), BackendError> {
        let Some(adopted) = self.adopted.take() else { return Ok(()) };
        let mut stopped: BTreeSet<String> = BTreeSet::new();
        for name in self.devices.clone() {
            if !adopted.resumed.contains(&name) && !stopped.contains(&name) {
                stopped.extend(self.stop(&name)?);
            }
        }
        let clients = self.client.clients().map_err(unknown("listing spaces"))?;
        let own = clients.iter().find(|client| client.devices.iter().any(|name| self.devices.contains(name)));
        for space in own.into_iter().flat_map(|own| &own.spaces) {
            let Some(attached) = adopted.taken.get(&space.space) else {
                self.client.destroy_space(space.space).map_err(unknown("removing a space"))?;
                continue;
            };
            for name in space.devices.iter().filter(|name| !attached.contains(*name)) {
                let (device, pasid) =
                    name.split_once('/').map_or((name.as_str(), None), |(device, pasid)| {
                        (device, u32::from_str_radix(pasid.trim_start_matches("0x"), 16).ok())
                    });
                self.client.detach(space.space, device, pasid).map_err(unknown("detaching"))?;
            }
        }
        for (memory, number) in adopted.memories {
            if !self.memories.contains_key(&memory) {
                self.client.remove_memory(number).map_err(unknown("forgetting memory"))?;
                self.note_memory(memory, None);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::FileExt};

    use super::{Memories, MemoryId};

    #[test]
    fn memories_are_known_again_however_the_file_ends() {
        let mut memories = Memories::new().expect("a file");
        for (ours, host) in [(1, Some(5)), (2, Some(7)), (1, None), (3, Some(42))] {
            memories.note(MemoryId(ours), host).expect("written");
        }
        let mut whole = vec![0; memories.length as usize];
        memories.file.read_exact_at(&mut whole, 0).expect("read");
        let cut = |length: usize| {
            let file = Memories::new().expect("a file").file;
            file.write_all_at(&whole[..length], 0).expect("written");
            Memories::take_up(file.into()).expect("read")
        };
        let (again, known) = cut(whole.len());
        assert_eq!(
            (again.length, known),
            (memories.length, BTreeMap::from([(MemoryId(2), 7), (MemoryId(3), 42)]))
        );
        // "3=4" without its end is not memory 4.
        assert_eq!(cut(whole.len() - 2).1, BTreeMap::from([(MemoryId(2), 7)]));
        assert_eq!(cut(5).1, BTreeMap::from([(MemoryId(1), 5)]));
        assert_eq!(cut(0).1, BTreeMap::new());
    }
}
