//! A kernel that is a folder of files and a table of mappings, and that fails where it is told to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, fstat, memfd_create};
use rustix::io::Errno;
use tempfile::TempDir;

use super::super::kernel::{Grant, Kernel, SpaceFacts};

/// What the kernel would know.
#[derive(Default)]
pub(super) struct State {
    /// What a descriptor is, by its file's inode.
    kinds: BTreeMap<u64, Kind>,
    /// The container that a group is in.
    members: BTreeMap<u32, u64>,
    /// What each container maps: address to bytes.
    pub(super) mapped: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Command registers.
    pub(super) commands: BTreeMap<String, u16>,
    /// Devices whose bus master bit sticks.
    pub(super) stubborn: bool,
    /// The n-th mapping from now fails so; 1 is the next.
    pub(super) map_fails: Option<(u32, Errno)>,
    /// The n-th write to a file from now, and all after it, fail: the manager was killed there.
    pub(super) killed_at: Option<u32>,
    /// A group is not viable.
    pub(super) unviable: bool,
    /// Interrupts are not isolated.
    pub(super) interrupts_unsafe: bool,
    /// Unmapping answers so many bytes too few.
    pub(super) forgets: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Group(u32),
    Container,
    Device(u32, String),
}

/// The kernel, shared between a manager, its successor and the test.
#[derive(Clone)]
pub(super) struct Fake {
    root: Arc<TempDir>,
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// A machine with these functions: name, group, driver.
    pub(super) fn new(functions: &[(&str, u32, Option<&str>)]) -> Self {
        let fake = Self { root: Arc::new(TempDir::new().expect("a folder")), state: Arc::default() };
        fake.put("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
        fake.put("/sys/class/iommu/ivhd0/devices/none", "");
        fake.put("/proc/self/mountinfo", "22 1 259:7 / / rw - ext4 /dev/root rw\n");
        fake.put("/proc/thread-self/status", "CapEff:\tffffffffffffffff\n");
        for driver in ["nvme", "e1000e", "vfio-pci"] {
            fake.put(&format!("/sys/bus/pci/drivers/{driver}/bind"), "");
        }
        for (name, group, driver) in functions {
            fake.add(name, *group, *driver);
        }
        fake
    }

    pub(super) fn add(&self, name: &str, group: u32, driver: Option<&str>) {
        let folder = format!("/sys/bus/pci/devices/{name}");
        for (file, text) in [
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("class", "0x010802"),
            ("driver_override", "(null)\n"),
        ] {
            self.put(&format!("{folder}/{file}"), text);
        }
        self.put(&format!("/sys/kernel/iommu_groups/{group}/devices/{name}"), "");
        self.link(&format!("{folder}/iommu_group"), &format!("/sys/kernel/iommu_groups/{group}"));
        self.link(&format!("{folder}/iommu"), "/sys/class/iommu/ivhd0");
        if let Some(driver) = driver {
            self.link(&format!("{folder}/driver"), &format!("/sys/bus/pci/drivers/{driver}"));
        }
    }

    pub(super) fn put(&self, path: &str, text: &str) {
        let path = self.locate(Path::new(path));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.locate(Path::new(path));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        symlink(self.locate(Path::new(target)), path).expect("a link");
    }

    pub(super) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.locate(Path::new(path))).expect("a file").trim().to_owned()
    }

    pub(super) fn driver(&self, name: &str) -> Option<String> {
        super::super::sysfs::driver(self, name)
    }

    pub(super) fn runtime(&self) -> PathBuf {
        self.root.path().join("run")
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that a group's devices reach.
    pub(super) fn reached(&self, group: u32) -> BTreeMap<u64, u64> {
        let state = self.state();
        let container = state.members.get(&group).copied();
        container.and_then(|container| state.mapped.get(&container)).cloned().unwrap_or_default()
    }

    fn give(&self, kind: Kind) -> io::Result<OwnedFd> {
        let file = memfd_create("fake", MemfdFlags::CLOEXEC)?;
        self.state().kinds.insert(fstat(&file)?.st_ino, kind);
        Ok(file)
    }

    fn kind(&self, descriptor: BorrowedFd<'_>) -> io::Result<(u64, Kind)> {
        let inode = fstat(descriptor)?.st_ino;
        Ok((inode, self.state().kinds.get(&inode).cloned().ok_or(Errno::BADF)?))
    }

    /// Whether somebody in this process has a descriptor of such a file.
    fn is_open(&self, wanted: impl Fn(&Kind) -> bool) -> bool {
        let open: Vec<u64> = fs::read_dir("/proc/self/fd")
            .expect("our descriptors")
            .flatten()
            .filter_map(|entry| Some(std::os::unix::fs::MetadataExt::ino(&fs::metadata(entry.path()).ok()?)))
            .collect();
        let state = self.state();
        open.iter().filter_map(|inode| state.kinds.get(inode)).any(wanted)
    }

    fn group(&self, descriptor: BorrowedFd<'_>) -> io::Result<u32> {
        match self.kind(descriptor)?.1 {
            Kind::Group(number) => Ok(number),
            _ => Err(Errno::NOTTY.into()),
        }
    }

    fn device(&self, descriptor: BorrowedFd<'_>) -> io::Result<String> {
        match self.kind(descriptor)?.1 {
            Kind::Device(_, name) => Ok(name),
            _ => Err(Errno::NOTTY.into()),
        }
    }
}

impl Kernel for Fake {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        if let Some(left) = &mut self.state().killed_at {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(Errno::IO.into());
            }
        }
        let whole = path.to_string_lossy();
        let parts: Vec<&str> = whole.split('/').collect();
        let function = |name: &str| format!("/sys/bus/pci/devices/{name}");
        match parts.as_slice() {
            [.., "devices", name, "driver", "unbind"] => {
                fs::remove_file(self.locate(Path::new(&format!("{}/driver", function(name)))))
            }
            [.., "drivers_probe"]
                if self.text(&format!("{}/driver_override", function(text))) == "vfio-pci" =>
            {
                self.link(&format!("{}/driver", function(text)), "/sys/bus/pci/drivers/vfio-pci");
                Ok(())
            }
            [.., "drivers", driver, "bind"] => {
                self.link(&format!("{}/driver", function(text)), &format!("/sys/bus/pci/drivers/{driver}"));
                Ok(())
            }
            [.., "driver_override"] if text == "\n" => {
                self.put(&whole, "(null)\n");
                Ok(())
            }
            _ => {
                self.put(&whole, text);
                Ok(())
            }
        }
    }

    fn locate(&self, path: &Path) -> PathBuf {
        self.root.path().join(path.strip_prefix("/").unwrap_or(path))
    }

    fn open_group(&self, number: u32) -> io::Result<OwnedFd> {
        if self.is_open(|kind| *kind == Kind::Group(number)) {
            return Err(Errno::BUSY.into());
        }
        self.give(Kind::Group(number))
    }

    fn is_viable(&self, _: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(!self.state().unviable)
    }

    fn open_container(&self) -> io::Result<OwnedFd> {
        self.give(Kind::Container)
    }

    fn join(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
        let number = self.group(group)?;
        let allowed = self.text("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts") == "Y";
        if self.state().interrupts_unsafe && !allowed {
            return Err(Errno::PERM.into());
        }
        let (inode, _) = self.kind(container)?;
        let mut state = self.state();
        state.members.insert(number, inode);
        state.mapped.insert(inode, BTreeMap::new());
        Ok(())
    }

    fn leave(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        let number = self.group(group)?;
        if self.is_open(|kind| matches!(kind, Kind::Device(of, _) if *of == number)) {
            return Err(Errno::BUSY.into());
        }
        self.state().members.remove(&number);
        Ok(())
    }

    fn facts(&self, _: BorrowedFd<'_>) -> io::Result<SpaceFacts> {
        Ok(SpaceFacts { page_sizes: 0x1000, addresses: vec![0..=0xfedf_ffff], mappings_left: Some(100) })
    }

    fn map(&self, container: BorrowedFd<'_>, grant: &Grant<'_>) -> io::Result<()> {
        grant.window.address(grant.offset, grant.length).ok_or(Errno::FAULT)?;
        let (inode, _) = self.kind(container)?;
        let mut state = self.state();
        if let Some((left, errno)) = state.map_fails.take() {
            if left == 1 {
                return Err(errno.into());
            }
            state.map_fails = Some((left - 1, errno));
        }
        let mapped = state.mapped.get_mut(&inode).ok_or(Errno::INVAL)?;
        if mapped
            .iter()
            .any(|(&iova, &length)| iova < grant.iova + grant.length && grant.iova < iova + length)
        {
            return Err(Errno::EXIST.into());
        }
        mapped.insert(grant.iova, grant.length);
        Ok(())
    }

    fn unmap(&self, container: BorrowedFd<'_>, iova: u64, length: u64) -> io::Result<u64> {
        let (inode, _) = self.kind(container)?;
        let mut state = self.state();
        let mapped = state.mapped.get_mut(&inode).ok_or(Errno::INVAL)?;
        let before: u64 = mapped.values().sum();
        mapped.retain(|&at, bytes| at < iova || at + *bytes > iova + length);
        let after: u64 = mapped.values().sum();
        Ok(before - after - state.forgets)
    }

    fn unmap_all(&self, container: BorrowedFd<'_>) -> io::Result<()> {
        let (inode, _) = self.kind(container)?;
        self.state().mapped.get_mut(&inode).ok_or(Errno::INVAL)?.clear();
        Ok(())
    }

    fn open_device(&self, group: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        let number = self.group(group)?;
        if !self.state().members.contains_key(&number) || self.driver(name).as_deref() != Some("vfio-pci") {
            return Err(Errno::INVAL.into());
        }
        self.give(Kind::Device(number, name.to_owned()))
    }

    fn can_reset(&self, _: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(true)
    }

    fn reset(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        let name = self.device(device)?;
        self.state().commands.insert(name, 0);
        Ok(())
    }

    fn disable_interrupts(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn command(&self, device: BorrowedFd<'_>) -> io::Result<u16> {
        let name = self.device(device)?;
        Ok(self.state().commands.get(&name).copied().unwrap_or(6))
    }

    fn set_command(&self, device: BorrowedFd<'_>, value: u16) -> io::Result<()> {
        let name = self.device(device)?;
        let mut state = self.state();
        let value = if state.stubborn { value | 4 } else { value };
        state.commands.insert(name, value);
        Ok(())
    }
}

/// Whether a descriptor is still one of the fake's.
pub(super) fn is_device(fake: &Fake, descriptor: &OwnedFd) -> bool {
    fake.device(descriptor.as_fd()).is_ok()
}
