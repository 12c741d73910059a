//! What must be known after a crash: who had which devices, spaces, memories and grants.
//!
//! The ledger is a file in memory that outlives the process where somebody keeps its descriptor. What gives is written after
//! it was carried out, what takes away before it is begun, and a grant both before and after, so that whenever the process
//! is killed the ledger never says more than was granted, and the one request that was in progress is the last record.
//!
//! A record is its length in bytes without these four, its kind, and its numbers, all little-endian. A record that was cut
//! short by the end was never carried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use portcullis_spec::Access;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

/// A process, so that it is known again: by its number and the moment of its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Process.
    pub pid: i32,
    /// When it was started, as `/proc/PID/stat` says (proc_pid_stat(5), field 22).
    pub started: u64,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// What happened, but for grants.
#[derive(Serialize, Deserialize, Debug)]
pub(super) enum Entry {
    Client { client: u64, name: String, identity: Identity },
    Gone { client: u64 },
    Claim { client: u64, devices: Vec<String> },
    Release { devices: Vec<String> },
    Memory { client: u64, memory: u64, length: u64, writable: bool },
    NoMemory { memory: u64 },
    Space { client: u64, space: u64 },
    NoSpace { space: u64 },
    Attach { space: u64, device: String, pasid: Option<u32> },
    Detach { space: u64, device: String, pasid: Option<u32> },
}

/// One grant of a client's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grant {
    pub(super) grant: u64,
    pub(super) last: u64,
    /// Memory, or physical addresses.
    pub(super) memory: Option<u64>,
    pub(super) offset: u64,
    pub(super) access: Access,
}

const ENTRY: u32 = 0;
const MAP: u32 = 1;
const DONE: u32 = 2;
const UNMAP: u32 = 3;
/// Stands where a grant leads to physical addresses.
const PHYSICAL: u64 = u64::MAX;
/// Above this the ledger is written anew.
const LARGE: u64 = 4 << 20;

/// A ledger that is written.
#[derive(Debug)]
pub(super) struct Ledger {
    file: File,
    /// Which of the ledgers that were written one after the other.
    pub(super) number: u64,
    length: u64,
    /// What it had when it was written anew.
    fresh: u64,
}

impl Ledger {
    pub(super) fn new(number: u64) -> io::Result<Self> {
        let file = File::from(memfd_create("portcullis state", MemfdFlags::CLOEXEC)?);
        Ok(Self { file, number, length: 0, fresh: 0 })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// From here on it counts as freshly written.
    pub(super) fn settle(&mut self) {
        self.fresh = self.length;
    }

    /// Most of it is no longer true.
    pub(super) fn is_long(&self) -> bool {
        self.length > LARGE && self.length / 4 > self.fresh
    }

    fn write(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 4).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(body.len() + 8);
        bytes.extend(length.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(body);
        self.file.write_all_at(&bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.write(ENTRY, &serde_json::to_vec(entry)?)
    }

    /// Grants that are about to be made. Returns the length to go back to where they are not.
    pub(super) fn map(&mut self, space: u64, grants: &[(u64, Grant)]) -> io::Result<u64> {
        let before = self.length;
        let mut body = Vec::with_capacity(8 + 48 * grants.len());
        body.extend(space.to_le_bytes());
        for (first, grant) in grants {
            let memory = grant.memory.unwrap_or(PHYSICAL);
            let access = u64::from(grant.access.bits());
            for word in [*first, grant.last, grant.grant, memory, grant.offset, access] {
                body.extend(word.to_le_bytes());
            }
        }
        self.write(MAP, &body)?;
        Ok(before)
    }

    /// The last grants were made.
    pub(super) fn done(&mut self) -> io::Result<()> {
        self.write(DONE, &[])
    }

    /// The last grants were not made.
    pub(super) fn take_back(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.length = length;
        Ok(())
    }

    /// Grants that are about to be removed.
    pub(super) fn unmap(&mut self, space: u64, firsts: impl Iterator<Item = u64>) -> io::Result<()> {
        let body: Vec<u8> = std::iter::once(space).chain(firsts).flat_map(u64::to_le_bytes).collect();
        self.write(UNMAP, &body)
    }
}

/// A client of a former process.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct FormerClient {
    pub(super) name: String,
    pub(super) identity: Identity,
    pub(super) devices: BTreeSet<String>,
    /// Length, and whether it can be written.
    pub(super) memories: BTreeMap<u64, (u64, bool)>,
}

/// A space of a former process.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct FormerSpace {
    pub(super) owner: u64,
    pub(super) attached: BTreeSet<(String, Option<u32>)>,
    pub(super) grants: BTreeMap<u64, Grant>,
}

/// What a former process left.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Former {
    pub(super) clients: BTreeMap<u64, FormerClient>,
    pub(super) spaces: BTreeMap<u64, FormerSpace>,
    /// Space, first and last address of what was being granted or revoked when it ended.
    pub(super) doubtful: Vec<(u64, u64, u64)>,
    /// Which ledger this was.
    pub(super) number: u64,
}

/// Why nothing of a former process can be taken up.
#[derive(Debug, thiserror::Error)]
#[error("what a former process left makes no sense at byte {at}: {why}")]
pub struct BadLedger {
    at: u64,
    why: String,
}

impl Former {
    /// Reads a ledger, the `number`th.
    ///
    /// # Errors
    ///
    /// Where it makes no sense.
    pub fn read(ledger: OwnedFd, number: u64) -> Result<Self, BadLedger> {
        let file = File::from(ledger);
        let mut former = Self { number, ..Self::default() };
        let mut at = 0;
        let mut pending = false;
        let bad = |at: u64, why: &dyn std::fmt::Display| BadLedger { at, why: why.to_string() };
        let end = file.metadata().map_err(|error| bad(0, &error))?.len();
        loop {
            let mut length = [0; 4];
            if at + 4 > end {
                break;
            }
            file.read_exact_at(&mut length, at).map_err(|error| bad(at, &error))?;
            let length = u64::from(u32::from_le_bytes(length));
            if at + 4 + length > end {
                break;
            }
            let mut record = vec![0; usize::try_from(length).map_err(|error| bad(at, &error))?];
            file.read_exact_at(&mut record, at + 4).map_err(|error| bad(at, &error))?;
            former.take(&record, &mut pending).map_err(|why| bad(at, &why))?;
            at += 4 + length;
        }
        if pending {
            // It was begun, and nobody was told that it was done.
            for &(space, first, _) in &former.doubtful {
                if let Some(space) = former.spaces.get_mut(&space) {
                    space.grants.remove(&first);
                }
            }
        }
        Ok(former)
    }

    fn take(&mut self, record: &[u8], pending: &mut bool) -> Result<(), String> {
        let (kind, body) = record.split_first_chunk().ok_or("a record without a kind")?;
        let words = || -> Result<Vec<u64>, String> {
            let (words, rest) = body.as_chunks();
            if rest.is_empty() {
                Ok(words.iter().copied().map(u64::from_le_bytes).collect())
            } else {
                Err("half a number".into())
            }
        };
        // Only the last request can have been in progress.
        self.doubtful.clear();
        *pending = false;
        match u32::from_le_bytes(*kind) {
            ENTRY => self.entry(serde_json::from_slice(body).map_err(|error| error.to_string())?),
            DONE => {}
            MAP => {
                let words = words()?;
                let (&space, grants) = words.split_first().ok_or("grants without a space")?;
                let (grants, rest) = grants.as_chunks::<6>();
                let unfit = |why: &str| Err(format!("{why} in space {space}"));
                let Some(state) = self.spaces.get_mut(&space) else { return unfit("no such space") };
                for &[first, last, grant, memory, offset, access] in grants {
                    let access = u8::try_from(access).ok().and_then(Access::from_bits);
                    let (Some(access), true) = (access, first <= last) else { return unfit("no such grant") };
                    let memory = (memory != PHYSICAL).then_some(memory);
                    state.grants.insert(first, Grant { grant, last, memory, offset, access });
                    self.doubtful.push((space, first, last));
                }
                if !rest.is_empty() {
                    return unfit("half a grant");
                }
                *pending = true;
            }
            UNMAP => {
                let words = words()?;
                let (&space, firsts) = words.split_first().ok_or("a removal without a space")?;
                let state = self.spaces.get_mut(&space).ok_or("a removal from no space")?;
                for first in firsts {
                    if let Some(grant) = state.grants.remove(first) {
                        self.doubtful.push((space, *first, grant.last));
                    }
                }
            }
            other => return Err(format!("kind {other}")),
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) {
        match entry {
            Entry::Client { client, name, identity } => {
                let (devices, memories) = (BTreeSet::new(), BTreeMap::new());
                self.clients.insert(client, FormerClient { name, identity, devices, memories });
            }
            Entry::Gone { client } => {
                self.clients.remove(&client);
                self.spaces.retain(|_, space| space.owner != client);
            }
            Entry::Claim { client, devices } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.devices.extend(devices);
                }
            }
            Entry::Release { devices } => {
                for client in self.clients.values_mut() {
                    client.devices.retain(|device| !devices.contains(device));
                }
                for space in self.spaces.values_mut() {
                    space.attached.retain(|(device, _)| !devices.contains(device));
                }
            }
            Entry::Memory { client, memory, length, writable } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.memories.insert(memory, (length, writable));
                }
            }
            Entry::NoMemory { memory } => {
                for client in self.clients.values_mut() {
                    client.memories.remove(&memory);
                }
            }
            Entry::Space { client, space } => {
                let (attached, grants) = (BTreeSet::new(), BTreeMap::new());
                self.spaces.insert(space, FormerSpace { owner: client, attached, grants });
            }
            Entry::NoSpace { space } => _ = self.spaces.remove(&space),
            Entry::Attach { space, device, pasid } => {
                if let Some(space) = self.spaces.get_mut(&space) {
                    space.attached.insert((device, pasid));
                }
            }
            Entry::Detach { space, device, pasid } => {
                if let Some(space) = self.spaces.get_mut(&space) {
                    space.attached.remove(&(device, pasid));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use portcullis_spec::Access;

    use super::{Entry, Former, Grant, Identity, Ledger};

    const IDENTITY: Identity = Identity { pid: 1, started: 2, uid: 3, gid: 4 };

    fn grant(grant: u64, first: u64) -> (u64, Grant) {
        let access = Access::READ_WRITE;
        (first, Grant { grant, last: first + 0xfff, memory: Some(1), offset: 0, access })
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(1).expect("a file");
        ledger.entry(&Entry::Client { client: 5, name: "vm".into(), identity: IDENTITY }).expect("written");
        ledger.entry(&Entry::Claim { client: 5, devices: vec!["nic0".into()] }).expect("written");
        ledger.entry(&Entry::Space { client: 5, space: 1 }).expect("written");
        ledger.entry(&Entry::Attach { space: 1, device: "nic0".into(), pasid: None }).expect("written");
        ledger
    }

    fn firsts(former: &Former) -> Vec<u64> {
        former.spaces[&1].grants.keys().copied().collect()
    }

    #[test]
    fn a_grant_counts_once_it_was_made_and_no_longer_than_until_it_is_revoked() {
        let mut ledger = ledger();
        let read =
            |ledger: &Ledger| Former::read(ledger.file.try_clone().expect("open").into(), 1).expect("read");
        ledger.map(1, &[grant(1, 0x1000), grant(2, 0x2000)]).expect("written");
        let begun = read(&ledger);
        assert!(firsts(&begun).is_empty());
        assert_eq!(begun.doubtful, [(1, 0x1000, 0x1fff), (1, 0x2000, 0x2fff)]);
        ledger.done().expect("written");
        let made = read(&ledger);
        assert_eq!((firsts(&made), made.doubtful.len()), (vec![0x1000, 0x2000], 0));
        let back = ledger.map(1, &[grant(3, 0x3000)]).expect("written");
        ledger.take_back(back).expect("cut");
        assert_eq!(firsts(&read(&ledger)), [0x1000, 0x2000]);
        ledger.unmap(1, [0x1000].into_iter()).expect("written");
        let revoked = read(&ledger);
        assert_eq!((firsts(&revoked), revoked.doubtful), (vec![0x2000], vec![(1, 0x1000, 0x1fff)]));
        ledger.entry(&Entry::Release { devices: vec!["nic0".into()] }).expect("written");
        let released = read(&ledger);
        assert!(released.clients[&5].devices.is_empty() && released.spaces[&1].attached.is_empty());
        ledger.entry(&Entry::Gone { client: 5 }).expect("written");
        assert_eq!(read(&ledger), Former { number: 1, ..Former::default() });
    }

    #[test]
    fn wherever_it_is_cut_it_says_no_more_than_was_made() {
        let mut ledger = ledger();
        ledger.map(1, &[grant(1, 0x1000)]).expect("written");
        ledger.done().expect("written");
        ledger.unmap(1, [0x1000].into_iter()).expect("written");
        ledger.map(1, &[grant(2, 0x2000)]).expect("written");
        let mut whole = vec![0; ledger.length as usize];
        ledger.file.read_exact_at(&mut whole, 0).expect("read");
        for length in 0..=whole.len() {
            let cut = Ledger::new(2).expect("a file");
            cut.file.write_all_at(&whole[..length], 0).expect("written");
            let former = Former::read(cut.file.into(), 2).expect("a prefix makes sense");
            let granted: Vec<u64> = former.spaces.values().flat_map(|s| s.grants.keys()).copied().collect();
            assert!(granted.is_empty() || granted == [0x1000], "{length}: {granted:x?}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [&[4, 0, 0, 0, 9, 0, 0, 0][..], &[2, 0, 0, 0, 1, 1], &[5, 0, 0, 0, 0, 0, 0, 0, b'{']] {
            let cut = Ledger::new(1).expect("a file");
            cut.file.write_all_at(bytes, 0).expect("written");
            assert!(Former::read(cut.file.into(), 1).is_err(), "{bytes:?}");
        }
    }
}
