//! A back end for tests that carries requests out on plain maps, checks that the core keeps its word, and can be told to
//! fail. It protects nothing; it is what the slow model of a test is compared with.
#![allow(dead_code, reason = "every test uses a part of it")]

#[path = "../../../model/tests/random/numbers.rs"]
pub(crate) mod random;
pub(crate) mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use portcullis_manager::{
    Backend, BackendError, Capabilities, Change, Device, DeviceId, DeviceKind, Group, GroupId, Inventory,
    Mapping, MemoryId, Source, SpaceId, Unit, UnitCapabilities, UnitId, UnitKind, Violation, ViolationSource,
};
use portcullis_spec::{Access, Iova, Pasid, PciAddress, Requester};

pub(crate) const PAGE: u64 = 4096;

/// What one page of addresses leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Leads {
    pub(crate) source: Source,
    pub(crate) access: Access,
}

/// How the next calls fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fail {
    Refuse,
    Unknown,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) inventory: Inventory,
    pub(crate) capabilities: Capabilities,
    pub(crate) claimed: BTreeSet<DeviceId>,
    pub(crate) stopped: BTreeSet<DeviceId>,
    pub(crate) resets: Vec<DeviceId>,
    pub(crate) calls: Vec<String>,
    pub(crate) spaces: BTreeMap<SpaceId, (UnitId, BTreeMap<u64, Mapping>)>,
    pub(crate) attached: BTreeMap<(DeviceId, Option<Pasid>), SpaceId>,
    pub(crate) memories: BTreeMap<MemoryId, u64>,
    pub(crate) blocked: bool,
    pub(crate) changes: Vec<Change>,
    /// Somebody keeps devices from being given back.
    pub(crate) kept: bool,
    /// Fail once this many more calls were made.
    pub(crate) fail: Option<(u32, Fail)>,
    /// Where violations come from, until somebody asks for them.
    pub(crate) violations: Option<mpsc::Receiver<Violation>>,
}

struct Sent(mpsc::Receiver<Violation>);

impl ViolationSource for Sent {
    fn read(&mut self, timeout: Duration, sink: &mut dyn FnMut(Violation)) -> Result<u64, BackendError> {
        match self.0.recv_timeout(timeout) {
            Ok(violation) => sink(violation),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            // Nobody sends any more, which is no fault of the hardware.
            Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(timeout),
        }
        Ok(0)
    }
}

/// The back end; clones look at the same state.
#[derive(Clone, Default)]
pub(crate) struct Plain(pub(crate) Arc<Mutex<Inner>>);

impl Plain {
    pub(crate) fn new(inventory: Inventory) -> Self {
        let capabilities = Capabilities { physical: true, simulated: true, ..Capabilities::default() };
        Self(Arc::new(Mutex::new(Inner { inventory, capabilities, ..Inner::default() })))
    }

    /// Everything that a device reaches, page by page.
    pub(crate) fn reach(&self, device: DeviceId, pasid: Option<Pasid>) -> BTreeMap<u64, Leads> {
        let inner = self.0.lock().unwrap();
        let mut reach = BTreeMap::new();
        if inner.blocked {
            return reach;
        }
        let Some(space) = inner.attached.get(&(device, pasid)) else { return reach };
        for mapping in inner.spaces[space].1.values() {
            for page in 0..mapping.length / PAGE {
                let source = match mapping.source {
                    Source::Memory(memory, offset) => Source::Memory(memory, offset + page * PAGE),
                    Source::Physical(address) => {
                        Source::Physical(portcullis_spec::PhysAddr(address.0 + page * PAGE))
                    }
                };
                reach.insert(mapping.iova.0 + page * PAGE, Leads { source, access: mapping.access });
            }
        }
        reach
    }

    fn call(&self, what: String) -> Result<std::sync::MutexGuard<'_, Inner>, BackendError> {
        let mut inner = self.0.lock().unwrap();
        assert!(!inner.blocked, "{what} after everything was blocked");
        inner.calls.push(what);
        match &mut inner.fail {
            Some((0, Fail::Unknown)) => {
                inner.fail = None;
                Err(BackendError::Unknown("told to".into()))
            }
            Some((0, Fail::Refuse)) => {
                inner.fail = None;
                Err(BackendError::Limit { what: "luck", needed: 1, available: 0, remedy: "try again".into() })
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(inner)
            }
            None => Ok(inner),
        }
    }

    /// As `call`, for calls that may not refuse.
    fn must(&self, what: String) -> Result<std::sync::MutexGuard<'_, Inner>, BackendError> {
        let mut inner = self.0.lock().unwrap();
        if matches!(inner.fail, Some((0, Fail::Refuse))) {
            inner.calls.push(what);
            return Ok(inner);
        }
        drop(inner);
        self.call(what)
    }
}

impl Backend for Plain {
    fn name(&self) -> String {
        "plain".into()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.lock().unwrap().capabilities
    }

    fn inventory(&mut self) -> Result<Inventory, BackendError> {
        Ok(self.0.lock().unwrap().inventory.clone())
    }

    fn violations(&mut self) -> Option<Box<dyn ViolationSource>> {
        let violations = self.0.lock().unwrap().violations.take()?;
        Some(Box::new(Sent(violations)))
    }

    fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.0.lock().unwrap().changes)
    }

    fn claim(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        let mut inner = self.call(format!("claim {devices:?}"))?;
        for &device in devices {
            assert!(inner.claimed.insert(device), "{device:?} claimed twice");
            inner.stopped.remove(&device);
        }
        Ok(())
    }

    fn quiesce(&mut self, device: DeviceId) -> Result<(), BackendError> {
        let mut inner = self.must(format!("quiesce {device:?}"))?;
        inner.stopped.insert(device);
        Ok(())
    }

    fn reset(&mut self, device: DeviceId) -> Result<(), BackendError> {
        let mut inner = self.must(format!("reset {device:?}"))?;
        assert!(inner.stopped.contains(&device), "reset of a running device");
        assert!(inner.attached.keys().all(|(d, _)| *d != device), "reset of an attached device");
        inner.resets.push(device);
        Ok(())
    }

    fn release(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        let mut inner = self.must(format!("release {devices:?}"))?;
        if inner.kept {
            return Err(BackendError::Busy { what: format!("{devices:?}"), holder: "somebody".into() });
        }
        for device in devices {
            assert!(inner.claimed.remove(device), "release of {device:?}, which nobody has");
            assert!(inner.attached.keys().all(|(d, _)| d != device), "release of an attached device");
        }
        Ok(())
    }

    fn add_memory(
        &mut self,
        memory: MemoryId,
        _: Arc<OwnedFd>,
        length: u64,
        _: bool,
    ) -> Result<(), BackendError> {
        self.call(format!("add {memory:?}"))?.memories.insert(memory, length);
        Ok(())
    }

    fn remove_memory(&mut self, memory: MemoryId) -> Result<(), BackendError> {
        let mut inner = self.must(format!("remove {memory:?}"))?;
        let leads = |m: &Mapping| matches!(m.source, Source::Memory(id, _) if id == memory);
        assert!(!inner.spaces.values().any(|(_, space)| space.values().any(leads)), "memory is mapped");
        inner.memories.remove(&memory).expect("memory that was added");
        Ok(())
    }

    fn create_space(&mut self, space: SpaceId, unit: UnitId) -> Result<(), BackendError> {
        self.call(format!("create {space:?}"))?.spaces.insert(space, (unit, BTreeMap::new()));
        Ok(())
    }

    fn destroy_space(&mut self, space: SpaceId) -> Result<(), BackendError> {
        let mut inner = self.must(format!("destroy {space:?}"))?;
        assert!(!inner.attached.values().any(|&s| s == space), "space is attached");
        inner.spaces.remove(&space).expect("a space that was created");
        Ok(())
    }

    fn attach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError> {
        let mut inner = self.call(format!("attach {space:?} {device:?} {pasid:?}"))?;
        assert!(inner.claimed.contains(&device), "{device:?} attached without a claim");
        assert!(inner.attached.insert((device, pasid), space).is_none(), "attached twice");
        Ok(())
    }

    fn detach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError> {
        let mut inner = self.must(format!("detach {space:?} {device:?} {pasid:?}"))?;
        assert_eq!(inner.attached.remove(&(device, pasid)), Some(space));
        Ok(())
    }

    fn map(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        let mut inner = self.call(format!("map {space:?} {:#x}", mapping.iova.0))?;
        let (first, end) = (mapping.iova.0, mapping.iova.0 + mapping.length);
        assert!(mapping.length > 0 && first.is_multiple_of(PAGE) && mapping.length.is_multiple_of(PAGE));
        if let Source::Memory(memory, offset) = mapping.source {
            assert!(offset + mapping.length <= inner.memories[&memory], "beyond the memory");
        }
        let space = &mut inner.spaces.get_mut(&space).expect("a space that was created").1;
        assert!(space.values().all(|m| m.iova.0 + m.length <= first || end <= m.iova.0), "overlap");
        space.insert(first, *mapping);
        Ok(())
    }

    fn unmap(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        let mut inner = self.must(format!("unmap {space:?} {:#x}", mapping.iova.0))?;
        let removed = inner.spaces.get_mut(&space).expect("a space").1.remove(&mapping.iova.0);
        assert_eq!(removed.as_ref(), Some(mapping));
        Ok(())
    }

    fn block_everything(&mut self) {
        self.0.lock().unwrap().blocked = true;
    }
}

/// A unit that can do everything, with 48-bit addresses.
pub(crate) fn unit(name: &str) -> Unit {
    Unit {
        name: name.into(),
        kind: UnitKind::Vtd,
        address: None,
        capabilities: UnitCapabilities {
            page_sizes: 0x4020_1000,
            iova: Iova(0)..=Iova((1 << 48) - 1),
            write_only: true,
            execute: false,
            interrupts_isolated: true,
            tells_devices_apart: true,
            pasid: true,
        },
        source: "test".into(),
    }
}

/// Device `number` behind a unit, in a group of its own.
pub(crate) fn device(number: u32, unit: u32) -> (DeviceId, Device) {
    let address = PciAddress::new(0, 0, number as u8, 0);
    (
        DeviceId(number),
        Device {
            name: format!("dev{number}"),
            kind: DeviceKind::Pci,
            requesters: vec![Requester::Pci(address)],
            registers: Some((0xfe00_0000 + u64::from(number) * 0x1000, 0x1000)),
            unit: Some(UnitId(unit)),
            group: GroupId(number),
            reserved: Vec::new(),
            description: String::new(),
            driver: None,
            pasid_bits: 4,
            vectors: 4,
            source: "test".into(),
        },
    )
}

/// `units` units and `devices` devices, dealt out to the units in turn.
pub(crate) fn inventory(units: u32, devices: u32) -> Inventory {
    Inventory {
        units: (0..units).map(|n| unit(&format!("unit{n}"))).collect(),
        devices: (0..devices).map(|n| device(n, n % units)).collect(),
        groups: (0..devices).map(|n| Group { id: GroupId(n), reasons: Vec::new() }).collect(),
    }
}
