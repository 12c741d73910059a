//! A VFIO back end with one space, as the cases use it: no core, no service, only what the kernel does.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portcullis_client::device::{Device, SharedMemory};
use portcullis_manager::vfio::Vfio;
use portcullis_manager::{
    Backend, BackendError, DeviceId, Inventory, Mapping, MemoryId, Source, SpaceId, UnitKind, Violation,
    ViolationSource,
};
use portcullis_spec::{Access, Iova};

/// Where the back end keeps what outlives it.
pub(crate) const RUNTIME: &str = "/run/portcullis";
/// PCI IDs as the inventory's descriptions end.
pub(crate) const EDU: &str = "[1234:11e8]";
pub(crate) const NVME: &str = "[1b36:0010]";
pub(crate) const E1000E: &str = "[8086:10d3]";

/// How long is waited for what the kernel will tell: a moment, but on a busy host as long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The space that all cases use.
pub(crate) const SPACE: SpaceId = SpaceId(1);
/// The bytes of the memory that all cases use.
pub(crate) const LENGTH: u64 = 1 << 20;

/// A back end, what it found, and its stream of violations.
pub(crate) struct Bench {
    pub(crate) backend: Vfio,
    pub(crate) inventory: Inventory,
    violations: Box<dyn ViolationSource>,
    next_memory: u64,
    /// Whether the machine's unit reports what it refuses. QEMU 10.0's amd-iommu never does: it takes its event log for full
    /// (amdvi_log_event asks amdvi_test_mask for an overflow, and that ORs the mask to the register instead of ANDing it; later versions do).
    pub(crate) reports: bool,
}

impl Bench {
    /// Opens the host's VFIO, as a manager that starts.
    pub(crate) fn open() -> Result<Self> {
        Self::over(Vfio::open(Path::new(RUNTIME))?)
    }

    pub(crate) fn over(mut backend: Vfio) -> Result<Self> {
        let inventory = backend.inventory()?;
        let violations = backend.violations().context("there is no stream of violations")?;
        let reports = inventory.units.iter().all(|unit| unit.kind != UnitKind::AmdVi);
        Ok(Self { backend, inventory, violations, next_memory: 1, reports })
    }

    /// The devices with these IDs whose groups have `members` members.
    pub(crate) fn find(&self, ids: &str, members: usize) -> Vec<DeviceId> {
        let size = |group| self.inventory.devices.iter().filter(|(_, other)| other.group == group).count();
        let fits = self
            .inventory
            .devices
            .iter()
            .filter(|(_, device)| device.description.ends_with(ids) && size(device.group) == members);
        fits.map(|(id, _)| *id).collect()
    }

    /// The one device with these IDs that stands alone.
    pub(crate) fn only(&self, ids: &str) -> Result<DeviceId> {
        match self.find(ids, 1).as_slice() {
            [device] => Ok(*device),
            found => bail!("{} devices are {ids}", found.len()),
        }
    }

    /// The device's name.
    pub(crate) fn name(&self, device: DeviceId) -> &str {
        self.inventory
            .devices
            .iter()
            .find(|(id, _)| *id == device)
            .map_or("?", |(_, device)| device.name.as_str())
    }

    /// Claims a device that stands alone, and attaches it to an empty space.
    pub(crate) fn claim(&mut self, ids: &str) -> Result<(DeviceId, Device)> {
        let device = self.only(ids)?;
        self.claim_group(&[device])
    }

    /// Claims a whole group, and attaches it to an empty space; the first device's descriptor comes back.
    pub(crate) fn claim_group(&mut self, devices: &[DeviceId]) -> Result<(DeviceId, Device)> {
        let device = *devices.first().context("a group of nobody")?;
        self.backend.claim(devices)?;
        let unit =
            self.inventory.devices.iter().find(|(id, _)| *id == device).and_then(|(_, device)| device.unit);
        self.backend.create_space(SPACE, unit.context("no unit guards it")?)?;
        for device in devices {
            self.backend.attach(SPACE, *device, None)?;
        }
        let descriptor = self.backend.device_descriptor(device)?.context("it has no descriptor")?;
        Ok((device, descriptor.into()))
    }

    /// Gives a claimed device back, as the core does.
    pub(crate) fn release(&mut self, device: DeviceId) -> Result<(), BackendError> {
        self.backend.quiesce(device)?;
        self.backend.detach(SPACE, device, None)?;
        match self.backend.reset(device) {
            Err(BackendError::Unsupported { .. }) | Ok(()) => {}
            Err(other) => return Err(other),
        }
        self.backend.release(&[device])?;
        self.backend.destroy_space(SPACE)
    }

    /// Registers `LENGTH` bytes of memory.
    pub(crate) fn memory(&mut self) -> Result<(MemoryId, SharedMemory)> {
        let memory = SharedMemory::new("case", LENGTH)?;
        let id = MemoryId(self.next_memory);
        self.next_memory += 1;
        self.backend.add_memory(id, Arc::new(memory.as_fd().try_clone_to_owned()?), LENGTH, true)?;
        Ok((id, memory))
    }

    /// A mapping of all of a memory.
    pub(crate) fn whole(memory: MemoryId, iova: u64, access: Access) -> Mapping {
        Mapping { iova: Iova(iova), length: LENGTH, source: Source::Memory(memory, 0), access }
    }

    /// Violations of a device, waited for; at least one, or none where the machine's unit never reports.
    pub(crate) fn violations_of(&mut self, device: DeviceId) -> Result<Vec<Violation>> {
        if !self.reports {
            println!("this machine's unit reports nothing");
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + PATIENCE;
        let mut found = Vec::new();
        while found.is_empty() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            self.violations.read(left, &mut |violation| {
                if violation.device == Some(device) {
                    found.push(violation);
                }
            })?;
        }
        ensure!(!found.is_empty(), "no violation of {} within {PATIENCE:?}", self.name(device));
        Ok(found)
    }

    /// How many violations of a device were told, and how many the kernel kept back, while `work` was done, which makes `enough`.
    pub(crate) fn violations_while(
        &mut self,
        device: DeviceId,
        enough: u64,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<(u64, u64)> {
        work()?;
        let (mut told, mut lost) = (0, 0);
        let deadline = Instant::now() + PATIENCE;
        while told + lost < enough && Instant::now() < deadline {
            lost += self.violations.read(Duration::from_millis(150), &mut |violation| {
                told += u64::from(violation.device == Some(device));
            })?;
        }
        Ok((told, lost))
    }

    /// Violations of anyone that are there already.
    pub(crate) fn drain(&mut self) -> Result<Vec<Violation>> {
        let mut found = Vec::new();
        for _ in 0..2 {
            self.violations.read(Duration::from_millis(150), &mut |violation| found.push(violation))?;
        }
        Ok(found)
    }
}
