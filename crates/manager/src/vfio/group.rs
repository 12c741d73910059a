//! A group that the manager has: its descriptors, and the one container that it stays in from claim to release.
//!
//! A group can leave its container only when no descriptor of its devices is open, and clients hold such descriptors. So spaces do
//! not become containers: each group has its own, and what a space maps is mapped into the container of every group that is
//! attached to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::kernel::{Grant, Kernel, SpaceFacts};
use super::limits;
use super::memory::Window;
use crate::backend::{BackendError, Mapping, SpaceId};
use crate::inventory::DeviceId;
use portcullis_spec::{Access, Iova};

/// Bus Master Enable in the command register (PCI 3.0 6.2.2).
const BUS_MASTER: u16 = 1 << 2;
/// What configuration space reads as when nobody is there.
const NOBODY: u16 = 0xffff;
/// A reset gives way to others who look at the device; it is tried again for so long.
const RESET_PATIENCE: Duration = Duration::from_millis(500);

/// A group that the manager has.
#[derive(Debug)]
pub(super) struct HeldGroup {
    /// The kernel's number for it.
    pub(super) number: u32,
    pub(super) group: OwnedFd,
    pub(super) container: OwnedFd,
    facts: SpaceFacts,
    /// Its devices, with descriptors of ours for those that `vfio-pci` has.
    devices: BTreeMap<DeviceId, (String, Option<OwnedFd>)>,
    /// The space that is mapped, and the devices that it was attached to.
    pub(super) attached: Option<(SpaceId, BTreeSet<DeviceId>)>,
    /// It was taken up from a former process, and what that mapped is still mapped.
    pub(super) resumed: bool,
    /// Mappings made since `facts` were asked for.
    made: u64,
}

impl HeldGroup {
    /// A group that is in its container, with these devices; `handed` says which of them `vfio-pci` has.
    pub(super) fn new(
        kernel: &dyn Kernel,
        number: u32,
        group: OwnedFd,
        container: OwnedFd,
        devices: impl IntoIterator<Item = (DeviceId, String, bool)>,
    ) -> io::Result<Self> {
        let facts = kernel.facts(container.as_fd())?;
        let mut opened = BTreeMap::new();
        for (id, name, handed) in devices {
            let descriptor = if handed { Some(kernel.open_device(group.as_fd(), &name)?) } else { None };
            opened.insert(id, (name, descriptor));
        }
        Ok(Self { number, group, container, facts, devices: opened, attached: None, resumed: false, made: 0 })
    }

    /// Its devices' numbers and names.
    pub(super) fn devices(&self) -> impl Iterator<Item = (DeviceId, &str)> {
        self.devices.iter().map(|(&id, (name, _))| (id, name.as_str()))
    }

    /// Whether the device is in it.
    pub(super) fn has(&self, device: DeviceId) -> bool {
        self.devices.contains_key(&device)
    }

    /// Another descriptor of the device, for a client.
    pub(super) fn hand_out(&self, kernel: &dyn Kernel, device: DeviceId) -> io::Result<Option<OwnedFd>> {
        match self.devices.get(&device) {
            Some((name, Some(_))) => kernel.open_device(self.group.as_fd(), name).map(Some),
            _ => Ok(None),
        }
    }

    /// Maps what a mapping of a space says into the container.
    pub(super) fn map(
        &mut self,
        kernel: &dyn Kernel,
        mapping: &Mapping,
        window: &Window,
        offset: u64,
    ) -> Result<(), BackendError> {
        let last = mapping.iova.0.checked_add(mapping.length - 1);
        let inside = |last: u64| {
            self.facts.addresses.iter().any(|range| *range.start() <= mapping.iova.0 && last <= *range.end())
        };
        if !self.facts.addresses.is_empty() && !last.is_some_and(inside) {
            let ranges =
                self.facts.addresses.iter().map(|range| format!("{:#x}-{:#x}", range.start(), range.end()));
            return Err(BackendError::Unsupported {
                what: "a mapping there",
                why: format!(
                    "devices of group {} reach only {}",
                    self.number,
                    ranges.collect::<Vec<_>>().join(", ")
                ),
            });
        }
        limits::mappings(&self.facts, self.made)?;
        let grant = Grant {
            iova: mapping.iova.0,
            window,
            offset,
            length: mapping.length,
            read: mapping.access.contains(Access::READ),
            write: mapping.access.contains(Access::WRITE),
        };
        match kernel.map(self.container.as_fd(), &grant) {
            Ok(()) => {
                self.made += 1;
                Ok(())
            }
            Err(error) => Err(self.refused(mapping, error)),
        }
    }

    /// What the kernel's answer to a mapping means.
    fn refused(&self, mapping: &Mapping, error: io::Error) -> BackendError {
        let place = format!("{:#x} bytes at {} for group {}", mapping.length, mapping.iova, self.number);
        match Errno::from_io_error(&error) {
            Some(Errno::EXIST) => BackendError::Unknown(format!(
                "the kernel has a mapping that we do not know of where we map {place}"
            )),
            Some(Errno::NOSPC) => BackendError::Limit {
                what: "mappings of one space",
                needed: self.made + 1,
                available: self.made,
                remedy: "grant fewer and larger pieces, or raise vfio_iommu_type1's dma_entry_limit".into(),
            },
            Some(Errno::FAULT) => BackendError::System {
                what: format!("pinning {place} (did the memory shrink?)"),
                source: error,
            },
            _ => BackendError::System { what: format!("pinning {place}"), source: error },
        }
    }

    /// Removes `count` whole mappings that together fill the range.
    pub(super) fn unmap(
        &mut self,
        kernel: &dyn Kernel,
        iova: Iova,
        length: u64,
        count: u64,
    ) -> Result<(), BackendError> {
        match kernel.unmap(self.container.as_fd(), iova.0, length) {
            Ok(removed) if removed == length => {
                self.made = self.made.saturating_sub(count);
                Ok(())
            }
            Ok(removed) => Err(BackendError::Unknown(format!(
                "of {length:#x} bytes at {iova} for group {} the kernel unmapped {removed:#x}",
                self.number
            ))),
            Err(error) => Err(BackendError::Unknown(format!(
                "unmapping {length:#x} bytes at {iova} for group {}: {error}",
                self.number
            ))),
        }
    }

    /// Removes whatever is mapped in the range.
    pub(super) fn clear(&self, kernel: &dyn Kernel, iova: Iova, length: u64) -> Result<(), BackendError> {
        kernel.unmap(self.container.as_fd(), iova.0, length).map(|_| ()).map_err(|error| {
            BackendError::Unknown(format!(
                "clearing {length:#x} bytes at {iova} for group {}: {error}",
                self.number
            ))
        })
    }

    /// Removes all mappings: on return its devices reach nothing.
    pub(super) fn unmap_all(&mut self, kernel: &dyn Kernel) -> Result<(), BackendError> {
        kernel.unmap_all(self.container.as_fd()).map_err(|error| {
            BackendError::Unknown(format!("unmapping everything for group {}: {error}", self.number))
        })?;
        self.attached = None;
        self.made = 0;
        Ok(())
    }

    /// Makes a device stop, or cuts the whole group off where that can't be done.
    pub(super) fn quiesce(&mut self, kernel: &dyn Kernel, device: DeviceId) -> Result<(), BackendError> {
        let Some((_, Some(descriptor))) = self.devices.get(&device) else { return Ok(()) };
        let stopped = kernel.command(descriptor.as_fd()).and_then(|command| {
            if command == NOBODY {
                return Ok(command);
            }
            kernel.set_command(descriptor.as_fd(), command & !BUS_MASTER)?;
            // Also waits until the write has arrived.
            kernel.command(descriptor.as_fd())
        });
        match stopped {
            Ok(NOBODY) => Err(BackendError::Gone),
            Ok(command) if command & BUS_MASTER == 0 => Ok(()),
            // A client that still has the descriptor can set the bit again: only the mappings count then.
            Ok(_) | Err(_) => self.unmap_all(kernel),
        }
    }

    /// Brings a device back to the state it has after power-on.
    pub(super) fn reset(&mut self, kernel: &dyn Kernel, device: DeviceId) -> Result<(), BackendError> {
        let Some((name, Some(descriptor))) = self.devices.get(&device) else { return Ok(()) };
        let unknown = |error: io::Error| BackendError::Unknown(format!("resetting {name}: {error}"));
        kernel.disable_interrupts(descriptor.as_fd()).map_err(unknown)?;
        if !kernel.can_reset(descriptor.as_fd()).map_err(unknown)? {
            return Err(BackendError::Unsupported {
                what: "a reset",
                why: format!("{name} has no function-level reset and shares its bus"),
            });
        }
        let deadline = Instant::now() + RESET_PATIENCE;
        loop {
            match kernel.reset(descriptor.as_fd()) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(unknown(error)),
            }
        }
    }

    /// Cuts every device off, as far as the kernel lets us.
    pub(super) fn block(&mut self, kernel: &dyn Kernel) {
        // Nothing is left to do about an error: the container goes with this process.
        let _ = self.unmap_all(kernel);
        let ids: Vec<DeviceId> = self.devices.keys().copied().collect();
        for id in ids {
            let _ = self.quiesce(kernel, id);
        }
    }

    /// Closes our descriptors of the devices and takes the group out of its container, for as long as somebody else's
    /// descriptors prevent that, at most `patience`. EBUSY then, and everything is as before.
    pub(super) fn leave(&mut self, kernel: &dyn Kernel, patience: Duration) -> io::Result<()> {
        for (_, descriptor) in self.devices.values_mut() {
            *descriptor = None;
        }
        let deadline = Instant::now() + patience;
        let outcome = loop {
            match kernel.leave(self.group.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                other => break other,
            }
        };
        if outcome.is_err() {
            for (name, descriptor) in self.devices.values_mut() {
                *descriptor = kernel.open_device(self.group.as_fd(), name).ok();
            }
        }
        outcome
    }
}
