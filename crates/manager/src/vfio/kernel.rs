//! What this back end asks of the kernel, so that its logic can be tested without one.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::ioctl;
use super::memory::Window;

/// What the kernel says of a container's space.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SpaceFacts {
    /// Bit n set: pages of 2^n bytes can be mapped.
    pub(super) page_sizes: u64,
    /// Addresses that can be mapped; empty where the kernel does not say.
    pub(super) addresses: Vec<RangeInclusive<u64>>,
    /// Mappings that can still be made, where the kernel says so.
    pub(super) mappings_left: Option<u32>,
}

/// One mapping to make.
pub(super) struct Grant<'a> {
    /// First address as the device uses it.
    pub(super) iova: u64,
    /// The client's memory.
    pub(super) window: &'a Window,
    /// First byte in it.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) length: u64,
    /// Whether devices may read.
    pub(super) read: bool,
    /// Whether devices may write.
    pub(super) write: bool,
}

/// The kernel's VFIO and the files through which drivers are bound. Paths are absolute, as on the host.
pub(super) trait Kernel: Send {
    /// Writes to a file of sysfs.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Where `path` really lies, for reading.
    fn locate(&self, path: &Path) -> PathBuf;

    /// Opens a group; EBUSY where somebody else has it.
    fn open_group(&self, number: u32) -> io::Result<OwnedFd>;

    /// Whether no driver of the kernel stands in the way of the group.
    fn is_viable(&self, group: BorrowedFd<'_>) -> io::Result<bool>;

    /// A new container that speaks type 1 version 2.
    fn open_container(&self) -> io::Result<OwnedFd>;

    /// Puts the group into the container and gives that an empty space: from here on the group's devices reach nothing. EPERM
    /// where interrupts are not isolated and the module does not allow that; then the group is in no container.
    fn join(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes the group out; EBUSY while a device of it is open.
    fn leave(&self, group: BorrowedFd<'_>) -> io::Result<()>;

    /// What the container's space can do.
    fn facts(&self, container: BorrowedFd<'_>) -> io::Result<SpaceFacts>;

    /// Maps and pins.
    fn map(&self, container: BorrowedFd<'_>, grant: &Grant<'_>) -> io::Result<()>;

    /// Unmaps what lies whole in the range, and says how many bytes that were.
    fn unmap(&self, container: BorrowedFd<'_>, iova: u64, length: u64) -> io::Result<u64>;

    /// Unmaps everything.
    fn unmap_all(&self, container: BorrowedFd<'_>) -> io::Result<()>;

    /// Opens a device of a group that is in a container.
    fn open_device(&self, group: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd>;

    /// Whether the device has a reset.
    fn can_reset(&self, device: BorrowedFd<'_>) -> io::Result<bool>;

    /// Resets the device.
    fn reset(&self, device: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes all interrupts of the device away from whoever waits for them.
    fn disable_interrupts(&self, device: BorrowedFd<'_>) -> io::Result<()>;

    /// Reads the device's command register (PCI 3.0 6.2.2).
    fn command(&self, device: BorrowedFd<'_>) -> io::Result<u16>;

    /// Writes the device's command register.
    fn set_command(&self, device: BorrowedFd<'_>, value: u16) -> io::Result<()>;
}

/// The kernel that runs.
#[derive(Debug)]
pub(super) struct Linux;

/// Offset of the command register in configuration space.
const COMMAND: u64 = 4;
/// Kinds of interrupts a PCI device has in VFIO: INTx, MSI, MSI-X, error, request.
const INTERRUPT_KINDS: u32 = 5;

impl Kernel for Linux {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        fs::write(path, text)
    }

    fn locate(&self, path: &Path) -> PathBuf {
        path.to_path_buf()
    }

    fn open_group(&self, number: u32) -> io::Result<OwnedFd> {
        open(&format!("/dev/vfio/{number}"))
    }

    fn is_viable(&self, group: BorrowedFd<'_>) -> io::Result<bool> {
        ioctl::is_viable(group)
    }

    fn open_container(&self) -> io::Result<OwnedFd> {
        let container = open("/dev/vfio/vfio")?;
        if ioctl::speaks_type1(container.as_fd())? {
            Ok(container)
        } else {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's VFIO has no type 1 (vfio_iommu_type1)",
            ))
        }
    }

    fn join(&self, group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
        ioctl::set_container(group, container)?;
        ioctl::set_type1(container).inspect_err(|_| {
            // Nothing of it is open, so this can't fail, and the first error is the one that counts.
            let _ = ioctl::unset_container(group);
        })
    }

    fn leave(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        ioctl::unset_container(group)
    }

    fn facts(&self, container: BorrowedFd<'_>) -> io::Result<SpaceFacts> {
        ioctl::facts(container)
    }

    fn map(&self, container: BorrowedFd<'_>, grant: &Grant<'_>) -> io::Result<()> {
        ioctl::map(container, grant)
    }

    fn unmap(&self, container: BorrowedFd<'_>, iova: u64, length: u64) -> io::Result<u64> {
        ioctl::unmap(container, iova, length)
    }

    fn unmap_all(&self, container: BorrowedFd<'_>) -> io::Result<()> {
        ioctl::unmap_all(container)
    }

    fn open_device(&self, group: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        ioctl::device(group, &name)
    }

    fn can_reset(&self, device: BorrowedFd<'_>) -> io::Result<bool> {
        ioctl::can_reset(device)
    }

    fn reset(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        ioctl::reset(device)
    }

    fn disable_interrupts(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        for kind in 0..INTERRUPT_KINDS {
            match ioctl::disable_interrupts(device, kind) {
                // A kind that the device does not have, or that nobody waits for.
                Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOTTY)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn command(&self, device: BorrowedFd<'_>) -> io::Result<u16> {
        let file = File::from(device.try_clone_to_owned()?);
        let mut bytes = [0; 2];
        file.read_exact_at(&mut bytes, ioctl::configuration_offset(device)? + COMMAND)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn set_command(&self, device: BorrowedFd<'_>, value: u16) -> io::Result<()> {
        let file = File::from(device.try_clone_to_owned()?);
        file.write_all_at(&value.to_le_bytes(), ioctl::configuration_offset(device)? + COMMAND)
    }
}

fn open(path: &str) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}
