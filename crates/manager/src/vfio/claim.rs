//! Claiming groups and giving them back.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::drivers::VFIO_PCI;
use super::group::HeldGroup;
use super::kernel::Kernel;
use super::sysfs::{self, FUNCTIONS, Function, GROUPS};
use super::{Vfio, in_use, interrupts, system};
use crate::backend::BackendError;
use crate::inventory::DeviceId;

impl Vfio {
    /// The group that all of these are in, with their functions.
    fn group_of(&self, devices: &[DeviceId]) -> Result<(u32, Vec<(DeviceId, Function)>), BackendError> {
        let mut functions = Vec::new();
        for id in devices {
            functions.push((*id, self.functions.get(id).ok_or(BackendError::Gone)?.clone()));
        }
        let unsupported = |why: String| BackendError::Unsupported { what: "claiming these devices", why };
        let first = functions.first().ok_or_else(|| unsupported("there are none".into()))?;
        let number = first.1.group.ok_or_else(|| unsupported(format!("no IOMMU guards {}", first.1.name)))?;
        if let Some((_, other)) = functions.iter().find(|(_, function)| function.group != Some(number)) {
            return Err(unsupported(format!("{} and {} are in different groups", first.1.name, other.name)));
        }
        let members = sysfs::names(&*self.kernel, &format!("{GROUPS}/{number}/devices"))
            .map_err(system("reading a group's members"))?;
        let missing = members.iter().find(|member| {
            let known = functions.iter().any(|(_, function)| function.name == **member);
            !known && self.functions.values().any(|function| function.name == **member)
        });
        match missing {
            Some(member) => Err(unsupported(format!("{member} is in the same group"))),
            None => Ok((number, functions)),
        }
    }

    pub(super) fn claim_group(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        let (number, functions) = self.group_of(devices)?;
        if self.held.contains_key(&number) {
            return Err(BackendError::Busy {
                what: format!("group {number}"),
                holder: "this manager".into(),
            });
        }
        if let Some(group) = self.left.remove(&number) {
            self.held.insert(number, group);
            return Ok(());
        }
        for (_, function) in &functions {
            if let Some(how) = in_use::in_use(&*self.kernel, &function.name) {
                let holder = format!("the system: it is {how}");
                return Err(BackendError::Busy { what: function.name.clone(), holder });
            }
        }
        let taken = self.take(number, functions);
        if taken.is_err() {
            for id in devices {
                let Some(function) = self.functions.get(id) else { continue };
                self.drivers.restore(&*self.kernel, &function.name).map_err(|error| {
                    BackendError::Unknown(format!("giving {} back to its driver: {error}", function.name))
                })?;
            }
        }
        self.held.insert(number, taken?);
        Ok(())
    }

    fn take(&mut self, number: u32, functions: Vec<(DeviceId, Function)>) -> Result<HeldGroup, BackendError> {
        let kernel = &*self.kernel;
        // Somebody else's group says so here, before any driver has to go.
        if sysfs::names(kernel, "/dev/vfio").is_ok_and(|names| names.contains(&number.to_string())) {
            open(kernel, number)?;
        }
        let mut devices = Vec::new();
        for (id, function) in functions {
            // A host bridge or the like without a driver is left so: it hinders nobody, and some machines don't survive its loss.
            let handed = function.class >> 16 != 0x06 || sysfs::driver(kernel, &function.name).is_some();
            if handed {
                let what = format!("giving {} to {VFIO_PCI}", function.name);
                self.drivers.take(kernel, &function.name).map_err(system(what))?;
            }
            devices.push((id, function.name, handed));
        }
        let group = open(kernel, number)?;
        if !kernel.is_viable(group.as_fd()).map_err(system("asking whether the group is viable"))? {
            return Err(not_viable(kernel, number));
        }
        let container = kernel.open_container().map_err(system("opening /dev/vfio/vfio"))?;
        let join = || kernel.join(group.as_fd(), container.as_fd());
        interrupts::allowing(kernel, &self.runtime, join)
            .map_err(system(format!("blocking group {number}")))?;
        HeldGroup::new(kernel, number, group, container, devices)
            .map_err(system(format!("opening the devices of group {number}")))
    }

    /// Gives a group back to its drivers. Busy while somebody has a descriptor of one of its devices; then its devices stay
    /// blocked and every later call tries again.
    pub(super) fn release_group(
        &mut self,
        devices: &[DeviceId],
        patience: Duration,
    ) -> Result<(), BackendError> {
        let number =
            self.held.iter().chain(&self.left).find_map(|(&number, group)| {
                devices.iter().any(|&device| group.has(device)).then_some(number)
            });
        let Some(number) = number else { return Ok(()) };
        let (mut group, patience) = match self.held.remove(&number) {
            Some(group) => (group, patience),
            None => match self.left.remove(&number) {
                Some(group) => (group, Duration::ZERO),
                None => return Ok(()),
            },
        };
        if let Some((space, _)) = &group.attached
            && let Some(space) = self.spaces.get_mut(space)
        {
            space.groups.remove(&number);
        }
        group.unmap_all(&*self.kernel)?;
        self.give_back(group, patience)
    }

    /// Gives a group with no mappings back, or leaves it blocked.
    pub(super) fn give_back(&mut self, mut group: HeldGroup, patience: Duration) -> Result<(), BackendError> {
        let number = group.number;
        if let Err(error) = group.leave(&*self.kernel, patience) {
            group.block(&*self.kernel);
            self.left.insert(number, group);
            return Err(if error.kind() == io::ErrorKind::ResourceBusy {
                BackendError::Busy {
                    what: format!("group {number}"),
                    holder: "a process that still has the descriptor of one of its devices".into(),
                }
            } else {
                BackendError::System {
                    what: format!("taking group {number} out of its container"),
                    source: error,
                }
            });
        }
        let names: Vec<String> = group.devices().map(|(_, name)| name.to_owned()).collect();
        // With the last descriptor closed, the kernel has reset the devices; only now may a driver take them.
        drop(group);
        for name in names {
            self.drivers
                .restore(&*self.kernel, &name)
                .map_err(system(format!("giving {name} back to its driver")))?;
        }
        Ok(())
    }

    /// Takes over the groups that a former manager kept open; what they reach stays as it is.
    pub(super) fn adopt_groups(&mut self) -> Result<(), BackendError> {
        for (number, kept) in std::mem::take(&mut self.adopted) {
            let (Some(group), Some(container)) = kept else { continue };
            let members = self.functions.iter().filter(|(_, function)| function.group == Some(number));
            let handed = |function: &Function| function.driver.as_deref() == Some(VFIO_PCI);
            let devices: Vec<(DeviceId, String, bool)> =
                members.map(|(&id, function)| (id, function.name.clone(), handed(function))).collect();
            let what = format!("taking up group {number}");
            match HeldGroup::new(&*self.kernel, number, group, container, devices) {
                Ok(group) => _ = self.former.insert(number, group),
                // Its descriptors are closed by now: the kernel has taken the devices' mappings away.
                Err(error) => tracing::warn!("{what}: {error}"),
            }
        }
        Ok(())
    }

    /// A client of the former manager has its group again.
    pub(super) fn resume_group(&mut self, devices: &[DeviceId]) -> Result<(), BackendError> {
        let (number, _) = self.group_of(devices)?;
        let mut group = self.former.remove(&number).ok_or_else(|| BackendError::Unsupported {
            what: "taking up what a former process had",
            why: format!("no descriptor of group {number} was kept"),
        })?;
        group.resumed = true;
        self.held.insert(number, group);
        Ok(())
    }

    /// What nobody has taken up again is blocked, and given back when nobody has its devices any more.
    pub(super) fn settle_groups(&mut self) -> Result<(), BackendError> {
        for (_, mut group) in std::mem::take(&mut self.former) {
            group.unmap_all(&*self.kernel)?;
            group.block(&*self.kernel);
            // Busy is what it is as long as the client lives.
            let _ = self.give_back(group, Duration::ZERO);
        }
        for group in self.held.values_mut().filter(|group| group.resumed) {
            group.resumed = false;
            if group.attached.is_none() {
                group.unmap_all(&*self.kernel)?;
            }
        }
        self.retry();
        Ok(())
    }

    /// Gives back what could not be given back before.
    pub(super) fn retry(&mut self) {
        for (_, group) in std::mem::take(&mut self.left) {
            // It is in `left` again if it is still busy.
            let _ = self.give_back(group, Duration::ZERO);
        }
        let ours = |name: &str| {
            let mut groups = self.held.values().chain(self.left.values()).chain(self.former.values());
            groups.any(|group| group.devices().any(|(_, n)| n == name))
        };
        let taken: Vec<String> =
            self.drivers.taken().filter(|name| !ours(name)).map(ToOwned::to_owned).collect();
        for name in taken {
            let group = sysfs::link(&*self.kernel, &format!("{FUNCTIONS}/{name}/iommu_group"));
            let number = group.and_then(|group| group.parse().ok());
            // Unbinding waits for whoever has the device open, so we must know that nobody has.
            if number.is_some_and(|number| self.kernel.open_group(number).is_err()) {
                continue;
            }
            // Left in the record, it is tried again.
            let _ = self.drivers.restore(&*self.kernel, &name);
        }
    }
}

fn open(kernel: &dyn Kernel, number: u32) -> Result<std::os::fd::OwnedFd, BackendError> {
    kernel.open_group(number).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => {
            let holder =
                holder(kernel, number).unwrap_or_else(|| "a process with a descriptor of its device".into());
            BackendError::Busy { what: format!("group {number}"), holder }
        }
        _ => BackendError::System { what: format!("opening /dev/vfio/{number}"), source: error },
    })
}

/// The process that has the group open, as far as we may look.
fn holder(kernel: &dyn Kernel, number: u32) -> Option<String> {
    let wanted = std::path::PathBuf::from(format!("/dev/vfio/{number}"));
    sysfs::names(kernel, "/proc").ok()?.into_iter().filter(|name| name.parse::<u32>().is_ok()).find_map(
        |process| {
            let folder = kernel.locate(std::path::Path::new(&format!("/proc/{process}/fd")));
            let mut descriptors = std::fs::read_dir(folder).ok()?.flatten();
            descriptors
                .find(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == wanted))?;
            let name = sysfs::text(kernel, &format!("/proc/{process}/comm")).unwrap_or_default();
            Some(format!("{name} (process {process})"))
        },
    )
}

fn not_viable(kernel: &dyn Kernel, number: u32) -> BackendError {
    let members = sysfs::names(kernel, &format!("{GROUPS}/{number}/devices")).unwrap_or_default();
    let with = |name: String| {
        format!("{name} ({})", sysfs::driver(kernel, &name).unwrap_or_else(|| "no driver".into()))
    };
    BackendError::Unsupported {
        what: "claiming these devices",
        why: format!(
            "a driver of the kernel has a member of group {number}: {}",
            members.into_iter().map(with).collect::<Vec<_>>().join(", ")
        ),
    }
}
