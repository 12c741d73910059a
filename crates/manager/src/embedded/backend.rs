//! The embedded platform as a back end of the manager.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use portcullis_driver::{Device as DriverDevice, DomainOptions, Error, RegionKind};
use portcullis_spec::{Access, Iova, Pasid, PhysAddr, Requester};

use super::{
    Embedded, EmbeddedDomain, EmbeddedError, EmbeddedOptions, Machine, VtdMachine,
    device::{Dma, Kind, Simulated},
    interrupts::{Controller, VECTORS, unfit},
    plug::{Plug, Plugs},
    refused::Refused,
};
use crate::{
    backend::{
        Backend, BackendError, Capabilities, Change, Mapping, MemoryId, Source, SpaceId, ViolationSource,
    },
    inventory::{
        Device, DeviceId, DeviceKind, Group, GroupId, Inventory, ReservedKind, ReservedRegion, Unit,
        UnitCapabilities, UnitId,
    },
};

/// Simulated memory that no client brought: static grants and unity-mapped guests lead there.
const RAM: u64 = 64 << 20;
/// PASID bits of the accelerator.
const PASID_BITS: u8 = 10;

/// The devices of a platform for which nobody asked for others.
pub const DEVICES: [(&str, Kind); 4] =
    [("nic0", Kind::Network), ("disk0", Kind::Disk), ("accel0", Kind::Accelerator), ("rogue0", Kind::Rogue)];
/// Devices that a platform can have: eight functions of a bus's numbers each, the first three places left to the machine.
pub const MOST_DEVICES: usize = (1 << 13) - 3;

/// The embedded platform as a back end.
pub struct EmbeddedBackend<M: Machine = VtdMachine> {
    platform: Arc<Embedded<M>>,
    controller: Arc<Controller>,
    names: Vec<String>,
    devices: Vec<Simulated>,
    spaces: BTreeMap<SpaceId, EmbeddedDomain<M>>,
    memories: BTreeMap<MemoryId, PhysAddr>,
    ram: PhysAddr,
    read: bool,
    plugs: Plugs,
    /// The devices' ends of sockets that clients of a former process have, by device.
    adopted: BTreeMap<String, OwnedFd>,
}

/// Before a device's name, in the name of its end of its client's socket.
const SOCKET: &str = "embedded-";

impl EmbeddedBackend {
    /// A VT-d platform with these devices, named and in the order of their addresses.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError`].
    pub fn new(options: EmbeddedOptions, devices: &[(&str, Kind)]) -> Result<Self, EmbeddedError> {
        Self::of(options, devices)
    }
}

impl<M: Machine> EmbeddedBackend<M> {
    /// A platform of any architecture with these devices, named and in the order of their addresses.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError`].
    pub fn of(options: M::Options, devices: &[(&str, Kind)]) -> Result<Self, EmbeddedError> {
        let controller = Arc::new(Controller::default());
        let platform = Arc::new(Embedded::<M>::of(options, controller.clone())?);
        // A file's pages are there once they are touched.
        let say = |error: rustix::io::Errno| EmbeddedError::Map(error.to_string());
        let file =
            rustix::fs::memfd_create("simulated memory", rustix::fs::MemfdFlags::CLOEXEC).map_err(say)?;
        rustix::fs::ftruncate(&file, RAM).map_err(say)?;
        let ram = platform.add_file(Arc::new(File::from(file)), RAM, true)?;
        if devices.len() > MOST_DEVICES {
            return Err(EmbeddedError::TooManyDevices { asked: devices.len(), most: MOST_DEVICES });
        }
        let mut backend = Self {
            platform,
            controller,
            names: Vec::new(),
            devices: Vec::new(),
            spaces: BTreeMap::new(),
            memories: BTreeMap::new(),
            ram,
            read: false,
            plugs: Plugs::new().map_err(|error| EmbeddedError::Map(error.to_string()))?,
            adopted: BTreeMap::new(),
        };
        for (name, kind) in devices {
            backend.put_in(name, *kind)?;
        }
        Ok(backend)
    }

    /// The platform, for those who play its devices themselves.
    #[must_use]
    pub const fn platform(&self) -> &Arc<Embedded<M>> {
        &self.platform
    }

    /// Where the memory begins that static grants can lead to, and its bytes.
    #[must_use]
    pub fn ram(&self) -> (PhysAddr, u64) {
        (self.ram, RAM)
    }

    /// The machine's interrupt controller.
    #[must_use]
    pub const fn controller(&self) -> &Arc<Controller> {
        &self.controller
    }

    /// Puts devices in, and pulls them out.
    #[must_use]
    pub fn plugs(&self) -> Plugs {
        self.plugs.clone()
    }

    /// Adds a device behind the unit, blocked. Its number.
    fn put_in(&mut self, name: &str, kind: Kind) -> Result<u32, EmbeddedError> {
        let asked = self.devices.len() + 1;
        let too_many = EmbeddedError::TooManyDevices { asked, most: MOST_DEVICES };
        let id = u16::try_from(self.devices.len()).ok().filter(|_| asked <= MOST_DEVICES).ok_or(too_many)?;
        // Eight functions a device, 32 devices a bus; device 0 of bus 0 is left to the bridge. Numbers are not used again.
        let requester = M::requester((id + 3) * 8);
        let mut device = DriverDevice::new(requester);
        if kind == Kind::Accelerator {
            device.pasid_bits = PASID_BITS.min(self.platform.unit().features().pasid_bits);
        }
        self.platform.unit().add_device(device)?;
        self.devices.push(Simulated::new(kind, requester, self.controller.clone()));
        self.names.push(name.to_owned());
        Ok(id.into())
    }

    /// Cuts a device off.
    fn cut_off(&self, id: DeviceId) {
        let Ok(requester) = self.requester(id) else { return };
        let _none_granted = self.platform.unit().revoke_interrupts(requester);
        self.controller.disconnect(requester);
        let pasids = (0..1 << PASID_BITS).filter_map(Pasid::new).map(Some);
        for pasid in std::iter::once(None).chain(pasids) {
            let _not_attached = self.platform.unit().detach(requester, pasid);
        }
    }

    /// What became of a device that was put in or pulled out.
    fn plug(&mut self, plug: Plug) -> Option<Change> {
        let find = |name: &str| {
            let mut devices = self.names.iter().zip(&self.devices);
            devices.position(|(known, device)| known == name && !device.gone)
        };
        match plug {
            Plug::In(name, kind) => {
                if find(&name).is_some() {
                    return None;
                }
                let id = self.put_in(&name, kind).ok()?;
                Some(Change::Appeared(DeviceId(id), self.describe(id)?))
            }
            Plug::Out(name) => {
                let at = find(&name)?;
                let id = DeviceId(at as u32);
                let device = self.devices.get_mut(at)?;
                device.stop();
                device.gone = true;
                self.cut_off(id);
                let _blocked_already = self.platform.unit().remove_device(self.requester(id).ok()?);
                Some(Change::Disappeared(id))
            }
        }
    }

    fn describe(&self, id: u32) -> Option<Device> {
        let features = self.platform.unit().features();
        let reserved: Vec<ReservedRegion> = features
            .reserved
            .iter()
            .map(|region| ReservedRegion {
                range: region.first..=region.last,
                kind: match region.kind {
                    RegionKind::Direct(_) => ReservedKind::Direct,
                    _ => ReservedKind::Msi,
                },
                access: Access::empty(),
                source: M::RESERVED_BY.into(),
            })
            .collect();
        let simulated = self.devices.get(id as usize).filter(|device| !device.gone)?;
        let accelerator = simulated.kind == Kind::Accelerator;
        let leads = features.interrupts.is_some() && M::line(0, 0).is_some();
        Some(Device {
            name: self.names.get(id as usize)?.clone(),
            kind: match simulated.requester {
                Requester::Pci(_) => DeviceKind::Pci,
                _ => DeviceKind::Generic,
            },
            requesters: vec![simulated.requester],
            registers: None,
            unit: Some(UnitId(0)),
            group: GroupId(id),
            reserved,
            description: simulated.kind.description().into(),
            driver: None,
            vectors: if leads { VECTORS } else { 0 },
            pasid_bits: if accelerator { PASID_BITS.min(features.pasid_bits) } else { 0 },
            source: "embedded platform".into(),
        })
    }

    fn device(&mut self, device: DeviceId) -> Result<&mut Simulated, BackendError> {
        self.devices.get_mut(device.0 as usize).ok_or(BackendError::Gone)
    }

    fn space(&self, space: SpaceId) -> Result<&EmbeddedDomain<M>, BackendError> {
        self.spaces.get(&space).ok_or_else(|| BackendError::Unknown(format!("no such {space:?}")))
    }

    fn requester(&self, device: DeviceId) -> Result<Requester, BackendError> {
        let device = self.devices.get(device.0 as usize).ok_or(BackendError::Gone)?;
        Ok(device.requester)
    }

    fn physical(&self, mapping: &Mapping) -> Result<PhysAddr, BackendError> {
        let place = match mapping.source {
            Source::Memory(memory, offset) => {
                let place = self.memories.get(&memory);
                place.and_then(|place| place.checked_add(offset))
            }
            Source::Physical(address) => {
                let end = address.checked_add(mapping.length);
                let inside = address >= self.ram && end.is_some_and(|end| end.0 <= self.ram.0 + RAM);
                if !inside {
                    return Err(BackendError::Unsupported {
                        what: "a grant of those physical addresses",
                        why: format!(
                            "{:#x}-{:#x} is all the memory that the simulated machine has",
                            self.ram.0,
                            self.ram.0 + (RAM - 1)
                        ),
                    });
                }
                Some(address)
            }
        };
        place.ok_or_else(|| BackendError::Unknown("a mapping of memory that is not known".into()))
    }
}

fn failed(what: &'static str) -> impl Fn(Error) -> BackendError {
    move |error| match error {
        Error::OutOfMemory => BackendError::Limit {
            what: "memory for tables of the simulated unit",
            needed: 4096,
            available: 0,
            remedy: "revoke grants, or use larger pages".into(),
        },
        Error::NotInvalidated { .. } => BackendError::Unknown(format!("{what}: {error}")),
        other => BackendError::Unsupported { what, why: other.to_string() },
    }
}

/// For what must not fail.
fn unknown(what: &'static str) -> impl Fn(Error) -> BackendError {
    move |error| BackendError::Unknown(format!("{what}: {error}"))
}

impl<M: Machine> Backend for EmbeddedBackend<M> {
    fn name(&self) -> String {
        format!("embedded {}", M::NAME)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            physical: true,
            descriptors: true,
            simulated: true,
            pins_memory: false,
            counts_violations: true,
        }
    }

    fn inventory(&mut self) -> Result<Inventory, BackendError> {
        let unit = self.platform.unit();
        let features = unit.features();
        let probe = unit.create_domain(DomainOptions::default()).map_err(failed("a domain"))?;
        let write_only = probe.granted(Access::WRITE).is_ok_and(|granted| granted == Access::WRITE);
        let execute = probe.granted(Access::READ).is_ok_and(|granted| !granted.contains(Access::EXECUTE))
            && probe
                .granted(Access::READ | Access::EXECUTE)
                .is_ok_and(|granted| granted.contains(Access::EXECUTE));
        let bits = features.formats.first().map_or(39, |format| format.input_bits).min(63);
        let unit = Unit {
            name: format!("{}-0", M::NAME),
            kind: M::KIND,
            address: None,
            capabilities: UnitCapabilities {
                page_sizes: 1 << 12 | 1 << 21 | 1 << 30,
                iova: Iova(0)..=Iova((1 << bits) - 1),
                write_only,
                execute,
                // Where none is granted, no message of a simulated device reaches anyone.
                interrupts_isolated: true,
                tells_devices_apart: true,
                pasid: features.pasid_bits > 0,
            },
            source: "embedded platform".into(),
        };
        let numbers = 0..self.devices.len() as u32;
        let devices = numbers.filter_map(|id| Some((DeviceId(id), self.describe(id)?)));
        Ok(Inventory {
            units: vec![unit],
            devices: devices.collect(),
            groups: (0..self.devices.len() as u32)
                .map(|id| Group { id: GroupId(id), reasons: Vec::new() })
                .collect(),
        })
    }

    fn violations(&mut self) -> Option<Box<dyn ViolationSource>> {
        if std::mem::replace(&mut self.read, true) {
            return None;
        }
        Some(Box::new(Refused::of(self.platform.clone())))
    }

    fn change_signal(&mut self) -> Option<OwnedFd> {
        self.plugs.signal()
    }

    fn changes(&mut self) -> Vec<Change> {
        let plugged = self.plugs.take();
        plugged.into_iter().filter_map(|plug| self.plug(plug)).collect()
    }

    fn claim(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        devices.iter().try_for_each(|&device| self.device(device).map(|_| ()))
    }

    /// The machine ended with the former process; its devices go on with what their clients' sockets say.
    fn resume(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        for &id in devices {
            let platform: Arc<dyn Dma> = self.platform.clone();
            let name = self.names.get(id.0 as usize).ok_or(BackendError::Gone)?;
            if let Some(socket) = self.adopted.remove(name) {
                let system =
                    |source| BackendError::System { what: "starting a simulated device".into(), source };
                self.device(id)?.go_on(platform, socket).map_err(system)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), BackendError> {
        self.adopted.clear();
        Ok(())
    }

    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let devices = self.names.iter().zip(&self.devices);
        devices.filter_map(|(name, device)| Some((format!("{SOCKET}{name}"), device.socket()?))).collect()
    }

    fn adopt(&mut self, kept: Vec<(String, OwnedFd)>) {
        let named =
            kept.into_iter().filter_map(|(name, socket)| Some((name.strip_prefix(SOCKET)?.into(), socket)));
        self.adopted.extend(named);
    }

    fn quiesce(&mut self, device: DeviceId) -> Result<(), BackendError> {
        self.device(device)?.stop();
        Ok(())
    }

    fn reset(&mut self, device: DeviceId) -> Result<(), BackendError> {
        // What a device knows it knows in the thread that ended with its socket.
        self.device(device).map(|_| ())
    }

    fn release(&mut self, _devices: &[DeviceId]) -> Result<(), BackendError> {
        Ok(())
    }

    fn device_descriptor(&mut self, device: DeviceId) -> Result<Option<OwnedFd>, BackendError> {
        let platform: Arc<dyn Dma> = self.platform.clone();
        let system = |source| BackendError::System { what: "starting a simulated device".into(), source };
        self.device(device)?.start(platform).map(Some).map_err(system)
    }

    fn set_interrupts(&mut self, device: DeviceId, events: Vec<OwnedFd>) -> Result<(), BackendError> {
        let number = device.0 as u16;
        let requester = self.requester(device)?;
        if let Some(why) = events.iter().find_map(unfit) {
            return Err(BackendError::Unsupported { what: "signalling an interrupt there", why });
        }
        self.device(device)?.set_messages(Vec::new());
        let unit = self.platform.unit();
        if unit.interrupts_of(requester).is_some() {
            unit.revoke_interrupts(requester).map_err(unknown("taking interrupts away"))?;
        }
        self.controller.disconnect(requester);
        if events.is_empty() {
            return Ok(());
        }
        unit.grant_interrupts(requester, events.len() as u32).map_err(failed("granting interrupts"))?;
        let mut messages = Vec::with_capacity(events.len());
        for (vector, event) in (0..).zip(events) {
            let routed = M::line(number, vector)
                .ok_or(Error::NoSuchVector { vector, count: VECTORS })
                .and_then(|(route, place)| {
                    // The line is there before anything can come along it.
                    self.controller.connect(place, requester, event);
                    unit.route_interrupt(requester, vector, &route)
                });
            match routed {
                Ok(message) => messages.push(message),
                Err(error) => {
                    unit.revoke_interrupts(requester).map_err(unknown("taking interrupts away"))?;
                    self.controller.disconnect(requester);
                    return Err(failed("granting interrupts")(error));
                }
            }
        }
        self.device(device)?.set_messages(messages);
        Ok(())
    }

    fn add_memory(
        &mut self,
        memory: MemoryId,
        file: Arc<OwnedFd>,
        length: u64,
        writable: bool,
    ) -> Result<(), BackendError> {
        let system = |source| BackendError::System { what: "keeping a memory's descriptor".into(), source };
        let file = Arc::new(File::from(file.try_clone().map_err(system)?));
        let place = self.platform.add_file(file, length, writable).map_err(|error| BackendError::Limit {
            what: "room for a client's memory",
            needed: length,
            available: 0,
            remedy: error.to_string(),
        })?;
        self.memories.insert(memory, place);
        Ok(())
    }

    fn remove_memory(&mut self, memory: MemoryId) -> Result<(), BackendError> {
        if let Some(place) = self.memories.remove(&memory) {
            self.platform.remove_memory(place);
        }
        Ok(())
    }

    fn create_space(&mut self, space: SpaceId, _unit: UnitId) -> Result<(), BackendError> {
        let domain =
            self.platform.unit().create_domain(DomainOptions::default()).map_err(failed("a space"))?;
        self.spaces.insert(space, domain);
        Ok(())
    }

    fn destroy_space(&mut self, space: SpaceId) -> Result<(), BackendError> {
        // Its tables go back once the unit has forgotten them.
        self.spaces.remove(&space);
        Ok(())
    }

    fn attach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError> {
        let requester = self.requester(device)?;
        let domain = self.space(space)?;
        self.platform.unit().attach(requester, pasid, domain).map_err(failed("attaching"))
    }

    fn detach(
        &mut self,
        _space: SpaceId,
        device: DeviceId,
        pasid: Option<Pasid>,
    ) -> Result<(), BackendError> {
        let requester = self.requester(device)?;
        self.platform.unit().detach(requester, pasid).map_err(unknown("detaching"))
    }

    fn map(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        let place = self.physical(mapping)?;
        self.space(space)?.map(mapping.iova, place, mapping.length, mapping.access).map_err(failed("mapping"))
    }

    fn unmap(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        self.space(space)?.unmap(mapping.iova, mapping.length).map_err(unknown("unmapping"))?;
        Ok(())
    }

    fn unmap_batch(&mut self, space: SpaceId, mappings: &[Mapping]) -> Result<(), BackendError> {
        let domain = self.space(space)?;
        let mut ranges: Vec<(u64, u64)> = mappings.iter().map(|m| (m.iova.0, m.length)).collect();
        ranges.sort_unstable();
        // Neighbours go together: one invalidation for all of them.
        let mut ranges = ranges.into_iter();
        let Some(mut whole) = ranges.next() else { return Ok(()) };
        for (first, length) in ranges {
            if whole.0 + whole.1 == first {
                whole.1 += length;
            } else {
                domain.unmap(Iova(whole.0), whole.1).map_err(unknown("unmapping"))?;
                whole = (first, length);
            }
        }
        domain.unmap(Iova(whole.0), whole.1).map_err(unknown("unmapping"))?;
        Ok(())
    }

    fn block_everything(&mut self) {
        for device in &mut self.devices {
            device.stop();
        }
        for id in 0..self.devices.len() as u32 {
            self.cut_off(DeviceId(id));
        }
    }

    fn traffic(&self, device: DeviceId) -> Option<u64> {
        self.devices.get(device.0 as usize).map(Simulated::requests)
    }
}
