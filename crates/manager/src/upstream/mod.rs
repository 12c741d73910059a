//! Another manager as a back end: a guest's manager is a client of the host's, and narrows per device what its guest was given.
//!
//! What the guest's manager grants is checked twice: by its own core against what its client was given, and by the host's against
//! what the guest was given. It can therefore narrow and never widen. Devices, memory and descriptors are passed through;
//! violations come as the host reports them for this guest.

mod resume;

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use portcullis_client::{
    Client, Error,
    api::{self, MapRequest},
};
use portcullis_spec::{Access, Iova, Pasid, Requester};

use crate::{
    backend::{Backend, BackendError, Capabilities, Mapping, MemoryId, Source, SpaceId, ViolationSource},
    inventory::{
        Device, DeviceId, DeviceKind, Group, GroupId, Inventory, ReservedKind, ReservedRegion, Unit,
        UnitCapabilities, UnitId, UnitKind,
    },
    service::violation,
    violation::Violation,
};

use resume::{Adopted, Memories};

/// Mappings in one call to the host.
const BATCH: usize = 4096;

/// The host's manager, as a guest's manager uses it.
pub struct Upstream {
    socket: PathBuf,
    name: Option<String>,
    client: Client,
    devices: Vec<String>,
    /// Of devices, each with the name under which it is kept.
    descriptors: BTreeMap<DeviceId, (String, OwnedFd)>,
    /// Descriptors that were handed to us so far: no two are kept under one name.
    handed: u64,
    spaces: BTreeMap<SpaceId, u64>,
    memories: BTreeMap<MemoryId, u64>,
    /// Which of the host's memories ours are, for the next process.
    state: Option<Memories>,
    /// A former process's connection, until [`Backend::settle`].
    adopted: Option<Adopted>,
    simulated: bool,
    counts_violations: bool,
    read: bool,
}

impl Upstream {
    /// Connects to the host's manager, as the client of this name where the host has several for our user.
    ///
    /// # Errors
    ///
    /// Nobody listens there, or the name is not ours.
    pub fn connect(socket: &Path, name: Option<&str>) -> Result<Self, BackendError> {
        let (client, status) = connect(socket, name).map_err(failed("connecting to the manager above"))?;
        Ok(Self {
            socket: socket.into(),
            name: name.map(Into::into),
            client,
            devices: Vec::new(),
            descriptors: BTreeMap::new(),
            handed: 0,
            spaces: BTreeMap::new(),
            memories: BTreeMap::new(),
            state: Memories::new().inspect_err(not_kept).ok(),
            adopted: None,
            simulated: status.simulated,
            counts_violations: !status.at_least,
            read: false,
        })
    }

    fn name_of(&self, device: DeviceId) -> Result<String, BackendError> {
        self.devices.get(device.0 as usize).cloned().ok_or(BackendError::Gone)
    }

    fn note_memory(&mut self, memory: MemoryId, host: Option<u64>) {
        let noted = self.state.as_mut().map_or(Ok(()), |state| state.note(memory, host));
        if noted.inspect_err(not_kept).is_err() {
            // Numbers that are not true are worse than none: the connection is not kept without them.
            self.state = None;
        }
    }

    /// Stops, cuts off and resets a device with its group; their names.
    fn stop(&mut self, name: &str) -> Result<Vec<String>, BackendError> {
        let stopped = self.client.quiesce(name).map_err(unknown("stopping a device"))?;
        let mut names = Vec::new();
        for (claimed, descriptor) in stopped {
            if let Some(at) = self.devices.iter().position(|d| *d == claimed) {
                self.descriptors.remove(&DeviceId(at as u32));
                self.has(DeviceId(at as u32), &claimed, descriptor);
            }
            names.push(claimed);
        }
        Ok(names)
    }

    fn has(&mut self, device: DeviceId, name: &str, descriptor: Option<OwnedFd>) {
        if let Some(descriptor) = descriptor {
            self.handed += 1;
            self.descriptors.insert(device, (resume::device(self.handed, name), descriptor));
        }
    }

    fn map_all(&mut self, number: u64, mappings: &[Mapping]) -> Result<(), (usize, BackendError)> {
        let mut done = 0;
        while done < mappings.len() {
            let Source::Memory(memory, _) = mappings[done].source else {
                let why = "a guest's manager knows no physical addresses".into();
                return Err((done, BackendError::Unsupported { what: "a grant of physical addresses", why }));
            };
            // As many of the same memory as one call takes.
            let same = |m: &&Mapping| matches!(m.source, Source::Memory(other, _) if other == memory);
            let part: Vec<&Mapping> = mappings[done..].iter().take_while(same).take(BATCH).collect();
            let requests = part.iter().map(|mapping| MapRequest {
                offset: match mapping.source {
                    Source::Memory(_, offset) => offset,
                    Source::Physical(address) => address.0,
                },
                iova: Some(mapping.iova.0),
                length: mapping.length,
                access: api::Access {
                    read: mapping.access.contains(Access::READ),
                    write: mapping.access.contains(Access::WRITE),
                    execute: mapping.access.contains(Access::EXECUTE),
                },
            });
            let above = self.memories.get(&memory).copied();
            let granted = self.client.map(number, above, requests.collect());
            granted.map_err(|error| (done, failed("mapping")(error)))?;
            done += part.len();
        }
        Ok(())
    }

    /// What a space that the host does not know yet is to map.
    fn pending(&mut self, space: SpaceId) -> Option<&mut Vec<Mapping>> {
        self.adopted.as_mut()?.pending.get_mut(&space)
    }

    fn space(&self, space: SpaceId) -> Result<u64, BackendError> {
        self.spaces.get(&space).copied().ok_or_else(|| BackendError::Unknown(format!("no such {space:?}")))
    }
}

fn not_kept(error: &std::io::Error) {
    tracing::warn!(%error, "the connection to the manager above does not survive a crash");
}

fn connect(socket: &Path, name: Option<&str>) -> Result<(Client, api::Status), Error> {
    let mut client = Client::connect(Some(socket))?;
    if let Some(name) = name {
        client.introduce(name)?;
    }
    let status = client.status()?;
    Ok((client, status))
}

/// What the host refuses changed nothing; what it does not answer leaves us not knowing.
fn failed(what: &'static str) -> impl Fn(Error) -> BackendError {
    move |error| match error {
        Error::Refused { ref name, ref message } if name == "SafeState" => {
            BackendError::Unknown(message.clone())
        }
        Error::Refused { ref name, ref message } if name == "Held" => BackendError::Busy {
            what: what.into(),
            holder: format!("another client of the manager above: {message}"),
        },
        Error::Refused { message, .. } => {
            BackendError::Unsupported { what, why: format!("the manager above says: {message}") }
        }
        other => BackendError::Unknown(format!("{what}: {other}")),
    }
}

/// For what takes away: a refusal, too, leaves us not knowing.
fn unknown(what: &'static str) -> impl Fn(Error) -> BackendError {
    move |error| BackendError::Unknown(format!("{what}: {error}"))
}

impl Backend for Upstream {
    fn name(&self) -> String {
        format!("upstream {}", self.socket.display())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            descriptors: true,
            simulated: self.simulated,
            counts_violations: self.counts_violations,
            ..Capabilities::default()
        }
    }

    /// Everything that the host gives us is claimed at once, so that nobody else has it and all of it is blocked.
    fn inventory(&mut self) -> Result<Inventory, BackendError> {
        let units = self.client.units().map_err(failed("listing units"))?;
        let you = self.client.status().map_err(failed("asking who we are"))?.you;
        let all = self.client.devices(None).map_err(failed("listing devices"))?;
        let groups = self.client.groups().map_err(failed("listing groups"))?;
        let reasons =
            |id: u32| groups.iter().find(|g| g.id == id).map(|g| g.reasons.clone()).unwrap_or_default();
        let mut inventory = Inventory::default();
        let mut mine = Vec::new();
        for device in all {
            let id = DeviceId(mine.len() as u32);
            // Claiming it once more would put another descriptor in the place of the one that its client has.
            if let Some(kept) = self.kept_device(&device, &you) {
                self.descriptors.insert(id, kept);
                mine.push(device.clone());
            } else if let Ok(claimed) = self.client.claim(&device.name)
                && let Some((name, descriptor)) = claimed.into_iter().find(|(name, _)| *name == device.name)
            {
                self.has(id, &name, descriptor);
                mine.push(device.clone());
            }
        }
        for unit in &units {
            inventory.units.push(Unit {
                name: unit.name.clone(),
                kind: UnitKind::Upstream,
                address: None,
                capabilities: UnitCapabilities {
                    page_sizes: unit.page_sizes.iter().fold(0, |mask, size| mask | size),
                    iova: Iova(unit.first)..=Iova(unit.last),
                    write_only: unit.write_only,
                    execute: unit.execute,
                    interrupts_isolated: unit.interrupts_isolated,
                    tells_devices_apart: unit.tells_devices_apart,
                    pasid: unit.pasid,
                },
                source: format!("the manager at {}", self.socket.display()),
            });
        }
        for (id, device) in (0u32..).zip(&mine) {
            let unit = units.iter().position(|unit| device.unit.as_ref() == Some(&unit.name));
            let group = GroupId(device.group);
            if !inventory.groups.iter().any(|known| known.id == group) {
                inventory.groups.push(Group { id: group, reasons: reasons(device.group) });
            }
            let reserved = device.reserved.iter().map(|region| ReservedRegion {
                range: Iova(region.first)..=Iova(region.last),
                kind: match region.kind.as_str() {
                    // The host keeps them mapped; here they are only in the way.
                    "direct" | "reserved" => ReservedKind::Reserved,
                    "direct-relaxable" => ReservedKind::DirectRelaxable,
                    _ => ReservedKind::Msi,
                },
                access: Access::empty(),
                source: region.source.clone(),
            });
            let device = Device {
                name: device.name.clone(),
                kind: DeviceKind::Generic,
                requesters: vec![Requester::Endpoint(id)],
                registers: None,
                unit: unit.map(|unit| UnitId(unit as u32)),
                group,
                reserved: reserved.collect(),
                description: device.description.clone(),
                driver: None,
                pasid_bits: u8::try_from(device.pasid_bits).unwrap_or(20),
                vectors: device.vectors,
                source: format!("the manager at {}", self.socket.display()),
            };
            self.devices.push(device.name.clone());
            inventory.devices.push((DeviceId(id), device));
        }
        Ok(inventory)
    }

    fn violations(&mut self) -> Option<Box<dyn ViolationSource>> {
        if std::mem::replace(&mut self.read, true) {
            return None;
        }
        let (client, _) = connect(&self.socket, self.name.as_deref()).ok()?;
        let followed = client.follow(false, true).ok()?;
        Some(Box::new(Followed { followed: Box::new(followed), devices: self.devices.clone() }))
    }

    fn claim(&mut self, _devices: &[DeviceId]) -> Result<(), BackendError> {
        Ok(())
    }

    /// The host stops, cuts off and resets at once.
    fn quiesce(&mut self, device: DeviceId) -> Result<(), BackendError> {
        let name = self.name_of(device)?;
        self.stop(&name).map(|_| ())
    }

    /// What the host says that they reach is looked at when they are attached.
    fn resume(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        let names: Vec<String> =
            devices.iter().map(|&device| self.name_of(device)).collect::<Result<_, _>>()?;
        let Some(adopted) = &mut self.adopted else {
            let (what, why) = ("taking up what a former process had", "its connection was not kept".into());
            return Err(BackendError::Unsupported { what, why });
        };
        adopted.resumed.extend(names);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), BackendError> {
        self.settle_adopted()
    }

    fn reset(&mut self, _device: DeviceId) -> Result<(), BackendError> {
        Ok(())
    }

    fn release(&mut self, _devices: &[DeviceId]) -> Result<(), BackendError> {
        Ok(())
    }

    fn device_descriptor(&mut self, device: DeviceId) -> Result<Option<OwnedFd>, BackendError> {
        let system = |source| BackendError::System { what: "passing a descriptor on".into(), source };
        self.descriptors.get(&device).map(|(_, own)| own.try_clone().map_err(system)).transpose()
    }

    fn set_interrupts(&mut self, device: DeviceId, events: Vec<OwnedFd>) -> Result<(), BackendError> {
        let name = self.name_of(device)?;
        let events: Vec<_> = events.iter().map(AsFd::as_fd).collect();
        match events.is_empty() {
            true => self.client.set_interrupts(&name, &events).map_err(unknown("taking interrupts away")),
            false => self.client.set_interrupts(&name, &events).map_err(failed("interrupts")),
        }
    }

    fn add_memory(
        &mut self,
        memory: MemoryId,
        file: Arc<OwnedFd>,
        _length: u64,
        _writable: bool,
    ) -> Result<(), BackendError> {
        let known = self.adopted.as_ref().and_then(|adopted| adopted.memories.get(&memory).copied());
        if let Some(number) = known {
            self.memories.insert(memory, number);
            return Ok(());
        }
        let number = self.client.add_memory(file.as_fd()).map_err(failed("registering memory"))?.memory;
        self.memories.insert(memory, number);
        self.note_memory(memory, Some(number));
        Ok(())
    }

    fn remove_memory(&mut self, memory: MemoryId) -> Result<(), BackendError> {
        match self.memories.remove(&memory) {
            Some(number) => {
                self.note_memory(memory, None);
                self.client.remove_memory(number).map_err(unknown("forgetting memory"))
            }
            None => Ok(()),
        }
    }

    fn create_space(&mut self, space: SpaceId, _unit: UnitId) -> Result<(), BackendError> {
        if let Some(adopted) = &mut self.adopted {
            adopted.pending.insert(space, Vec::new());
            return Ok(());
        }
        let number = self.client.create_space().map_err(failed("making a space"))?;
        self.spaces.insert(space, number);
        Ok(())
    }

    fn destroy_space(&mut self, space: SpaceId) -> Result<(), BackendError> {
        if let Some(adopted) = &mut self.adopted {
            adopted.pending.remove(&space);
        }
        match self.spaces.remove(&space) {
            Some(number) => self.client.destroy_space(number).map_err(unknown("removing a space")),
            None => Ok(()),
        }
    }

    fn attach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError> {
        if self.adopted.is_some() {
            let name = self.name_of(device)?;
            return self.take_up_attachment(space, &name, pasid);
        }
        let (number, name) = (self.space(space)?, self.name_of(device)?);
        let pasid = pasid.map(Pasid::value);
        self.client.attach(number, &name, pasid).map(|_| ()).map_err(failed("attaching"))
    }

    fn detach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError> {
        let (number, name) = (self.space(space)?, self.name_of(device)?);
        match self.client.detach(number, &name, pasid.map(Pasid::value)) {
            // Stopping the device already took it out.
            Err(Error::Refused { name, .. }) if name == "NotAttached" => Ok(()),
            other => other.map(|_| ()).map_err(unknown("detaching")),
        }
    }

    fn map(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        self.map_batch(space, std::slice::from_ref(mapping)).map_err(|(_, error)| error)
    }

    fn map_batch(&mut self, space: SpaceId, mappings: &[Mapping]) -> Result<(), (usize, BackendError)> {
        if let Some(pending) = self.pending(space) {
            pending.extend_from_slice(mappings);
            return Ok(());
        }
        let number = self.space(space).map_err(|error| (0, error))?;
        self.map_all(number, mappings)
    }

    fn unmap(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        self.unmap_batch(space, std::slice::from_ref(mapping))
    }

    fn unmap_batch(&mut self, space: SpaceId, mappings: &[Mapping]) -> Result<(), BackendError> {
        if let Some(pending) = self.pending(space) {
            pending.retain(|one| !mappings.contains(one));
            return Ok(());
        }
        let number = self.space(space)?;
        for part in mappings.chunks(BATCH) {
            let ranges = part.iter().map(|m| api::Range { iova: m.iova.0, length: m.length }).collect();
            self.client.unmap(number, ranges).map_err(unknown("unmapping"))?;
        }
        Ok(())
    }

    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let connection = (resume::CONNECTION.to_owned(), self.client.as_fd());
        let Some(state) = &self.state else { return Vec::new() };
        let state = (resume::STATE.to_owned(), state.descriptor());
        let devices = self.descriptors.values().map(|(name, own)| (name.clone(), own.as_fd()));
        [connection, state].into_iter().chain(devices).collect()
    }

    fn adopt(&mut self, kept: Vec<(String, OwnedFd)>) {
        let mut kept: BTreeMap<String, OwnedFd> = kept.into_iter().collect();
        let (Some(connection), Some(state)) = (kept.remove(resume::CONNECTION), kept.remove(resume::STATE))
        else {
            return;
        };
        match resume::adopt(connection, state) {
            Ok((client, state, mut adopted)) => {
                for (name, descriptor) in kept {
                    if let Some((number, device)) = resume::kept_device(&name) {
                        self.handed = self.handed.max(number);
                        adopted.devices.insert(device.to_owned(), (name.clone(), descriptor));
                    }
                }
                (self.client, self.state, self.adopted) = (client, Some(state), Some(adopted));
            }
            Err(error) => tracing::warn!(%error, "the connection to the manager above could not be taken up"),
        }
    }

    fn block_everything(&mut self) {
        for name in &self.devices {
            // Whatever the answer: when our connection ends the host takes all of it back.
            let _ = self.client.release(name, false);
        }
    }
}

/// What the host refuses our devices.
struct Followed {
    followed: Box<dyn Iterator<Item = Result<api::Followed, Error>> + Send>,
    devices: Vec<String>,
}

impl ViolationSource for Followed {
    fn read(&mut self, _timeout: Duration, sink: &mut dyn FnMut(Violation)) -> Result<u64, BackendError> {
        let gone = || BackendError::Unknown("the manager above is gone".into());
        let next = self.followed.next().ok_or_else(gone)?.map_err(failed("following violations"))?;
        if let Some(fault) = &next.fault
            && let Some(at) = self.devices.iter().position(|name| fault.devices.first() == Some(name))
        {
            let device = DeviceId(at as u32);
            sink(violation(fault, Requester::Endpoint(device.0), Some(device)));
        }
        Ok(next.missed.unwrap_or(0))
    }
}
