//! For drivers in user space: a device by the descriptor that the manager handed out, and memory that it can be granted.
//!
//! The descriptor reaches registers, configuration space and interrupts. It cannot map anything for the device: what the device
//! reaches is what the manager granted, whatever is written to its registers.

mod sys;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

pub use sys::{Mapped, Word};

/// The region that is configuration space (Linux include/uapi/linux/vfio.h, VFIO_PCI_CONFIG_REGION_INDEX).
const CONFIGURATION: u32 = 7;
/// Offset of the command register (PCI 3.0 6.2.2).
const COMMAND: u64 = 4;
/// Memory Space and Bus Master Enable in the command register.
const MEMORY_AND_BUS_MASTER: u16 = 0b110;

/// How a device signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptKind {
    /// A wire (INTx).
    Wire,
    /// Message-signalled.
    Msi,
    /// Message-signalled, from a table.
    MsiX,
}

/// A PCI device that was handed out.
#[derive(Debug)]
pub struct Device {
    file: File,
}

impl From<OwnedFd> for Device {
    /// The device behind a descriptor that the manager handed out.
    fn from(descriptor: OwnedFd) -> Self {
        Self { file: descriptor.into() }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Device {
    /// The registers behind base address `index`, 0 to 5.
    ///
    /// # Errors
    ///
    /// The device has none there, or they cannot be mapped.
    pub fn registers(&self, index: u32) -> io::Result<Mapped> {
        let region = sys::region(self.as_fd(), index)?;
        Mapped::new(&self.file, region.offset, region.size)
    }

    /// Reads configuration space.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read_configuration(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let region = sys::region(self.as_fd(), CONFIGURATION)?;
        self.file.read_exact_at(bytes, region.offset.saturating_add(offset))
    }

    /// Writes configuration space. What could harm others, the kernel keeps to itself.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn write_configuration(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let region = sys::region(self.as_fd(), CONFIGURATION)?;
        self.file.write_all_at(bytes, region.offset.saturating_add(offset))
    }

    /// Lets the device answer at its registers and send requests. It comes with both off.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn enable(&self) -> io::Result<()> {
        let mut command = [0; 2];
        self.read_configuration(COMMAND, &mut command)?;
        let command = u16::from_le_bytes(command) | MEMORY_AND_BUS_MASTER;
        self.write_configuration(COMMAND, &command.to_le_bytes())
    }

    /// Has the device's interrupts signal these event descriptors (eventfd(2)), the first for vector 0; none turns them off.
    ///
    /// # Errors
    ///
    /// The device has no such interrupts, or not so many.
    pub fn set_interrupts(&self, kind: InterruptKind, events: &[BorrowedFd<'_>]) -> io::Result<()> {
        sys::set_interrupts(self.as_fd(), kind as u32, events)
    }

    /// Brings the device to the state it has after power-on.
    ///
    /// # Errors
    ///
    /// It has no reset.
    pub fn reset(&self) -> io::Result<()> {
        sys::reset(self.as_fd())
    }
}

/// Memory that can be granted, mapped here.
#[derive(Debug)]
pub struct SharedMemory {
    memfd: OwnedFd,
    mapped: Mapped,
}

impl SharedMemory {
    /// `length` zero bytes, under a name for people.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn new(name: &str, length: u64) -> io::Result<Self> {
        let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, length)?;
        // The manager takes no memory that could shrink under a device.
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW)?;
        let mapped = Mapped::new(&memfd, 0, length)?;
        Ok(Self { memfd, mapped })
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

impl std::ops::Deref for SharedMemory {
    type Target = Mapped;

    fn deref(&self) -> &Mapped {
        &self.mapped
    }
}
