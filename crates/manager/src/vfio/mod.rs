//! A Linux host through VFIO's type 1 interface.
//!
//! The manager alone opens groups and containers. A client gets the descriptor of its device, through which it reaches registers
//! and interrupts but can map nothing: what the device reaches is decided here alone.
//!
//! | file | what |
//! | --- | --- |
//! | `kernel`, `ioctl`, `memory` | what is asked of the kernel, and how |
//! | `sysfs`, `scan` | what there is |
//! | `claim`, `drivers`, `in_use` | taking functions from their drivers, and giving them back |
//! | `group`, `limits` | a group that we have, and what it reaches |
//! | `interrupts` | interrupts that are not isolated |
//! | `faults` | what was refused |
//! | `plug` | devices that come and go |

mod claim;
mod drivers;
mod faults;
mod group;
mod in_use;
mod interrupts;
mod ioctl;
mod kernel;
mod limits;
mod memory;
mod plug;
mod scan;
mod sysfs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_spec::{Iova, Pasid};
use rustix::fs::fstat;

use crate::backend::{
    Backend, BackendError, Capabilities, Change, Mapping, MemoryId, Source, SpaceId, ViolationSource,
};
use crate::inventory::{DeviceId, Inventory, UnitId};
use drivers::Drivers;
use faults::{Directory, KernelLog};
use group::HeldGroup;
use kernel::{Kernel, Linux};
use memory::Window;
use scan::{Numbers, Scan, scan};
use sysfs::Function;

/// What the back end is called.
pub const NAME: &str = "vfio";
/// How long a release waits for descriptors that a client who has just gone still had.
const PATIENCE: Duration = Duration::from_millis(500);

struct Memory {
    window: Window,
    file: Arc<OwnedFd>,
    length: u64,
}

#[derive(Default)]
struct Space {
    mappings: BTreeMap<u64, Mapping>,
    /// Groups whose containers hold the mappings.
    groups: BTreeSet<u32>,
}

/// A Linux host through VFIO.
pub struct Vfio {
    kernel: Box<dyn Kernel>,
    runtime: PathBuf,
    drivers: Drivers,
    numbers: Numbers,
    functions: BTreeMap<DeviceId, Function>,
    directory: Arc<Mutex<Directory>>,
    log: Option<KernelLog>,
    /// Can be read once functions have come or gone, if anyone waits for that.
    plug: Option<OwnedFd>,
    /// Groups that clients have, by the kernel's number.
    held: BTreeMap<u32, HeldGroup>,
    /// Groups that nobody has any more, and that cannot be given back because somebody has a descriptor of theirs.
    left: BTreeMap<u32, HeldGroup>,
    /// Groups of a former process's clients, as it left them.
    former: BTreeMap<u32, HeldGroup>,
    /// Groups and containers that a former process kept.
    adopted: BTreeMap<u32, (Option<OwnedFd>, Option<OwnedFd>)>,
    memories: BTreeMap<MemoryId, Memory>,
    spaces: BTreeMap<SpaceId, Space>,
}

impl std::fmt::Debug for Vfio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfio").field("held", &self.held).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Vfio {
    /// The host's VFIO. `runtime` is a folder that lasts until the host is started again; what was taken from which driver is
    /// kept there.
    ///
    /// # Errors
    ///
    /// The host has no VFIO of type 1, its log cannot be read, or the record of a former manager is damaged.
    pub fn open(runtime: &Path) -> Result<Self, BackendError> {
        let kernel = Box::new(Linux);
        kernel.open_container().map_err(system("opening /dev/vfio/vfio"))?;
        let mut vfio = Self::with(kernel, runtime)?;
        let log = KernelLog::open(vfio.directory.clone()).map_err(system("opening /dev/kmsg"))?;
        vfio.log = Some(log);
        Ok(vfio)
    }

    fn with(kernel: Box<dyn Kernel>, runtime: &Path) -> Result<Self, BackendError> {
        let drivers = Drivers::read(runtime).map_err(system("reading what a former manager left"))?;
        interrupts::recover(&*kernel, runtime).map_err(system("restoring allow_unsafe_interrupts"))?;
        Ok(Self {
            kernel,
            runtime: runtime.to_owned(),
            drivers,
            numbers: Numbers::default(),
            functions: BTreeMap::new(),
            directory: Arc::default(),
            log: None,
            plug: None,
            held: BTreeMap::new(),
            left: BTreeMap::new(),
            former: BTreeMap::new(),
            adopted: BTreeMap::new(),
            memories: BTreeMap::new(),
            spaces: BTreeMap::new(),
        })
    }

    fn look(&mut self) -> Result<Inventory, BackendError> {
        let mut numbers = std::mem::take(&mut self.numbers);
        let found = scan(&*self.kernel, &mut numbers);
        self.numbers = numbers;
        let Scan { mut inventory, functions } = found.map_err(system("reading sysfs"))?;
        for (_, device) in &mut inventory.devices {
            // What has it while no client does, also while one does.
            if let Some(before) = self.drivers.before(&device.name) {
                device.driver = before.map(ToOwned::to_owned);
            }
        }
        self.functions = functions;
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = Directory::new(&inventory);
        Ok(inventory)
    }

    /// The client's memory that a mapping leads to, and the first byte in it.
    fn window(&self, mapping: &Mapping) -> Result<(&Memory, u64), BackendError> {
        let unsupported = |why: &str| BackendError::Unsupported { what: "this mapping", why: why.into() };
        let Source::Memory(id, offset) = mapping.source else {
            return Err(unsupported("VFIO maps only memory that a process has"));
        };
        let memory = self.memories.get(&id).ok_or_else(|| unsupported("its memory is not known"))?;
        let end = offset.checked_add(mapping.length).filter(|end| *end <= memory.length);
        end.ok_or_else(|| unsupported("it goes beyond its memory"))?;
        Ok((memory, offset))
    }
}

/// Bytes of a file that it does not hold yet.
fn absent(memory: &Memory) -> u64 {
    // st_blocks counts units of 512 bytes (stat(3type)).
    let held = fstat(&memory.file).map_or(0, |status| status.st_blocks.cast_unsigned().saturating_mul(512));
    memory.length.saturating_sub(held)
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> BackendError {
    let what = what.into();
    move |source| BackendError::System { what, source }
}

impl Backend for Vfio {
    fn name(&self) -> String {
        NAME.into()
    }

    fn capabilities(&self) -> Capabilities {
        // Violations come from the kernel's log, which is rate-limited.
        Capabilities { pins_memory: true, descriptors: true, ..Capabilities::default() }
    }

    fn inventory(&mut self) -> Result<Inventory, BackendError> {
        self.look()?;
        self.adopt_groups()?;
        self.retry();
        self.look()
    }

    fn violations(&mut self) -> Option<Box<dyn ViolationSource>> {
        self.log.take().map(|log| Box::new(log) as Box<dyn ViolationSource>)
    }

    /// Only now is a thread started: by now the process has given up what it does not need, and threads have that in common only
    /// with whoever starts them.
    fn change_signal(&mut self) -> Option<OwnedFd> {
        match plug::signal() {
            Ok(signal) => self.plug = Some(signal),
            Err(error) => tracing::warn!(%error, "devices that come and go are seen late: no uevents"),
        }
        self.plug.as_ref()?.try_clone().ok()
    }

    fn changes(&mut self) -> Vec<Change> {
        if let Some(signal) = &self.plug {
            // Empty where nothing has happened.
            let _ = rustix::io::read(signal, &mut [0; 8]);
        }
        self.retry();
        let before: BTreeSet<DeviceId> = self.functions.keys().copied().collect();
        // A look that fails tells nothing; the next one will.
        let Ok(inventory) = self.look() else { return Vec::new() };
        let now: BTreeSet<DeviceId> = self.functions.keys().copied().collect();
        let gone: Vec<DeviceId> = before.difference(&now).copied().collect();
        let names: Vec<String> =
            self.numbers.all().filter(|(_, id)| gone.contains(id)).map(|(name, _)| name.to_owned()).collect();
        for name in names {
            self.numbers.forget(&name);
        }
        let came = inventory.devices.into_iter().filter(|(id, _)| !before.contains(id));
        gone.into_iter()
            .map(Change::Disappeared)
            .chain(came.map(|(id, device)| Change::Appeared(id, device)))
            .collect()
    }

    fn claim(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        self.claim_group(devices)
    }

    fn resume(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        self.resume_group(devices)
    }

    fn clear(&mut self, space: SpaceId, iova: Iova, length: u64) -> Result<(), BackendError> {
        let Some(state) = self.spaces.get(&space) else { return Ok(()) };
        for number in &state.groups {
            let Some(group) = self.held.get(number) else { continue };
            group.clear(&*self.kernel, iova, length)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), BackendError> {
        self.settle_groups()
    }

    fn quiesce(&mut self, device: DeviceId) -> Result<(), BackendError> {
        let kernel = &*self.kernel;
        let mut groups = self.held.values_mut().chain(self.left.values_mut());
        groups.find(|group| group.has(device)).ok_or(BackendError::Gone)?.quiesce(kernel, device)
    }

    fn reset(&mut self, device: DeviceId) -> Result<(), BackendError> {
        let kernel = &*self.kernel;
        let mut groups = self.held.values_mut().chain(self.left.values_mut());
        groups.find(|group| group.has(device)).ok_or(BackendError::Gone)?.reset(kernel, device)
    }

    fn release(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        self.release_group(devices, PATIENCE)
    }

    fn device_descriptor(&mut self, device: DeviceId) -> Result<Option<OwnedFd>, BackendError> {
        let group = self.held.values().find(|group| group.has(device)).ok_or(BackendError::Gone)?;
        group.hand_out(&*self.kernel, device).map_err(system("opening the device for its client"))
    }

    /// The kernel leads them: a client has its device's interrupts signal its own event descriptors through the device's descriptor
    /// (VFIO_DEVICE_SET_IRQS), and they are remapped where [`UnitCapabilities::interrupts_isolated`](crate::inventory::UnitCapabilities) says so.
    fn set_interrupts(&mut self, _device: DeviceId, events: Vec<OwnedFd>) -> Result<(), BackendError> {
        if events.is_empty() {
            return Ok(());
        }
        Err(BackendError::Unsupported {
            what: "granting interrupts",
            why: "the kernel does, through the device's own descriptor (VFIO_DEVICE_SET_IRQS)".into(),
        })
    }

    fn add_memory(
        &mut self,
        memory: MemoryId,
        file: Arc<OwnedFd>,
        length: u64,
        writable: bool,
    ) -> Result<(), BackendError> {
        let window = Window::new(&file, length, writable).map_err(system("mapping a client's memory"))?;
        self.memories.insert(memory, Memory { window, file, length });
        Ok(())
    }

    fn remove_memory(&mut self, memory: MemoryId) -> Result<(), BackendError> {
        self.memories.remove(&memory);
        Ok(())
    }

    fn create_space(&mut self, space: SpaceId, _unit: UnitId) -> Result<(), BackendError> {
        self.spaces.insert(space, Space::default());
        Ok(())
    }

    fn destroy_space(&mut self, space: SpaceId) -> Result<(), BackendError> {
        let Some(state) = self.spaces.remove(&space) else { return Ok(()) };
        for number in state.groups {
            if let Some(group) = self.held.get_mut(&number) {
                group.unmap_all(&*self.kernel)?;
            }
        }
        Ok(())
    }

    fn attach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError> {
        let unsupported = |why: String| BackendError::Unsupported { what: "attaching", why };
        if pasid.is_some() {
            return Err(unsupported("VFIO's type 1 interface knows no PASIDs".into()));
        }
        let state = self.spaces.get(&space).ok_or_else(|| unsupported("there is no such space".into()))?;
        let number = self.held.values().find(|group| group.has(device)).ok_or(BackendError::Gone)?.number;
        if let Some((other, devices)) = self.held.get_mut(&number).and_then(|group| group.attached.as_mut()) {
            if *other != space {
                return Err(unsupported(format!(
                    "group {number} reaches another space, and a group reaches one"
                )));
            }
            devices.insert(device);
            return Ok(());
        }
        if let Some(group) = self.held.get_mut(&number).filter(|group| group.resumed) {
            // Its container has these mappings from the process before.
            group.attached = Some((space, BTreeSet::from([device])));
            if let Some(state) = self.spaces.get_mut(&space) {
                state.groups.insert(number);
            }
            return Ok(());
        }
        let bytes = state.mappings.values().map(|mapping| mapping.length).fold(0, u64::saturating_add);
        limits::memory(&*self.kernel, bytes, 1, 0)?;
        let mut made = Ok(());
        for mapping in state.mappings.values().copied().collect::<Vec<_>>() {
            made = self.map_in(number, &mapping);
            if made.is_err() {
                break;
            }
        }
        let Some(group) = self.held.get_mut(&number) else { return Err(BackendError::Gone) };
        if made.is_err() {
            group.unmap_all(&*self.kernel)?;
            return made;
        }
        group.attached = Some((space, BTreeSet::from([device])));
        if let Some(state) = self.spaces.get_mut(&space) {
            state.groups.insert(number);
        }
        Ok(())
    }

    fn detach(
        &mut self,
        space: SpaceId,
        device: DeviceId,
        _pasid: Option<Pasid>,
    ) -> Result<(), BackendError> {
        let kernel = &*self.kernel;
        let group = self.held.values_mut().find(|group| group.has(device));
        let Some(group) = group.filter(|group| group.attached.as_ref().is_some_and(|(s, _)| *s == space))
        else {
            return Ok(());
        };
        // The group is one to the IOMMU: to cut one of its devices off is to cut off all.
        group.unmap_all(kernel)?;
        if let Some(state) = self.spaces.get_mut(&space) {
            state.groups.remove(&group.number);
        }
        Ok(())
    }

    fn map(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        let (memory, _) = self.window(mapping)?;
        let unsupported = |why: &str| BackendError::Unsupported { what: "this mapping", why: why.into() };
        let state = self.spaces.get(&space).ok_or_else(|| unsupported("there is no such space"))?;
        let groups: Vec<u32> = state.groups.iter().copied().collect();
        if !groups.is_empty() {
            limits::memory(&*self.kernel, mapping.length, groups.len() as u64, absent(memory))?;
        }
        for (done, &number) in groups.iter().enumerate() {
            if let Err(error) = self.map_in(number, mapping) {
                for number in &groups[..done] {
                    self.unmap_in(*number, mapping.iova, mapping.length, 1)?;
                }
                return Err(error);
            }
        }
        if let Some(state) = self.spaces.get_mut(&space) {
            state.mappings.insert(mapping.iova.0, *mapping);
        }
        Ok(())
    }

    fn unmap(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError> {
        self.unmap_batch(space, std::slice::from_ref(mapping))
    }

    fn unmap_batch(&mut self, space: SpaceId, mappings: &[Mapping]) -> Result<(), BackendError> {
        let Some(state) = self.spaces.get_mut(&space) else { return Ok(()) };
        for mapping in mappings {
            state.mappings.remove(&mapping.iova.0);
        }
        let groups: Vec<u32> = state.groups.iter().copied().collect();
        for (iova, length, count) in joined(mappings) {
            for &number in &groups {
                self.unmap_in(number, iova, length, count)?;
            }
        }
        Ok(())
    }

    fn block_everything(&mut self) {
        let groups = self.held.values_mut().chain(self.left.values_mut());
        for group in groups.chain(self.former.values_mut()) {
            group.block(&*self.kernel);
        }
    }

    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let groups = self.held.values().chain(self.left.values()).chain(self.former.values());
        groups
            .flat_map(|held| {
                let number = held.number;
                [
                    (format!("vfio-group-{number}"), held.group.as_fd()),
                    (format!("vfio-container-{number}"), held.container.as_fd()),
                ]
            })
            .collect()
    }

    fn adopt(&mut self, kept: Vec<(String, OwnedFd)>) {
        for (name, descriptor) in kept {
            let number = |kind: &str| name.strip_prefix(kind)?.parse::<u32>().ok();
            if let Some(number) = number("vfio-group-") {
                self.adopted.entry(number).or_default().0 = Some(descriptor);
            } else if let Some(number) = number("vfio-container-") {
                self.adopted.entry(number).or_default().1 = Some(descriptor);
            }
        }
    }
}

impl Vfio {
    fn map_in(&mut self, number: u32, mapping: &Mapping) -> Result<(), BackendError> {
        let Some(mut group) = self.held.remove(&number) else { return Ok(()) };
        let mapped = self
            .window(mapping)
            .and_then(|(memory, offset)| group.map(&*self.kernel, mapping, &memory.window, offset));
        self.held.insert(number, group);
        mapped
    }

    fn unmap_in(&mut self, number: u32, iova: Iova, length: u64, count: u64) -> Result<(), BackendError> {
        match self.held.get_mut(&number) {
            Some(group) => group.unmap(&*self.kernel, iova, length, count),
            None => Ok(()),
        }
    }
}

/// Runs of mappings that touch, in ascending order: first address, bytes, and how many mappings. One call unmaps a run.
fn joined(mappings: &[Mapping]) -> Vec<(Iova, u64, u64)> {
    let mut sorted: Vec<(Iova, u64)> =
        mappings.iter().map(|mapping| (mapping.iova, mapping.length)).collect();
    sorted.sort_unstable();
    let mut runs: Vec<(Iova, u64, u64)> = Vec::new();
    for (iova, length) in sorted {
        match runs.last_mut() {
            Some((first, bytes, count)) if first.checked_add(*bytes) == Some(iova) => {
                *bytes += length;
                *count += 1;
            }
            _ => runs.push((iova, length, 1)),
        }
    }
    runs
}
