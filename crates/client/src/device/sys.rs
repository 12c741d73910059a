//! Mapped bytes that somebody else changes too, and the ioctls of a device's descriptor.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A number that is read and written whole.
pub trait Word: Copy + private::Sealed {}

mod private {
    /// Only the unsigned numbers below: every bit pattern is one of them.
    pub trait Sealed {}
}

macro_rules! words {
    ($($number:ty),*) => {
        $(
            impl private::Sealed for $number {}
            impl Word for $number {}
        )*
    };
}
words!(u8, u16, u32, u64);

/// Bytes of a file at an address of this process, that a device may read and write at any moment.
#[derive(Debug)]
pub struct Mapped {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to nobody in particular, and every access is one volatile read or write (or a copy of bytes that
// nobody borrows), whichever thread makes it.
unsafe impl Send for Mapped {}
// SAFETY: as above; the device is one more who accesses it at the same time.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps `length` bytes of `file` from `offset` on, shared, to read and write.
    pub(super) fn new(file: impl AsFd, offset: u64, length: u64) -> io::Result<Self> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so nothing that is mapped already is replaced.
        let address = unsafe { mmap(ptr::null_mut(), length, rights, MapFlags::SHARED, file, offset) }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, length })
    }

    /// Bytes that are mapped.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    fn place(&self, offset: u64, length: usize) -> io::Result<*mut u8> {
        let begin = usize::try_from(offset).ok();
        let end = begin.and_then(|begin| begin.checked_add(length)).filter(|end| *end <= self.length);
        match (begin, end) {
            // SAFETY: `begin` is inside what is mapped, or at its end for no bytes at all.
            (Some(begin), Some(_)) => Ok(unsafe { self.address.as_ptr().add(begin) }),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{length} bytes at {offset:#x} are not in {:#x} bytes", self.length),
            )),
        }
    }

    fn word<T: Word>(&self, offset: u64) -> io::Result<*mut T> {
        let place = self.place(offset, size_of::<T>())?.cast::<T>();
        if place.is_aligned() {
            Ok(place)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{offset:#x} is not aligned")))
        }
    }

    /// Reads one number, in one access.
    ///
    /// # Errors
    ///
    /// `offset` is not inside, or not a multiple of the number's size.
    pub fn read<T: Word>(&self, offset: u64) -> io::Result<T> {
        let place = self.word::<T>(offset)?;
        // SAFETY: `word` has checked the place and its alignment, and any bits are a `T`.
        Ok(unsafe { place.read_volatile() })
    }

    /// Writes one number, in one access, after all that were written before.
    ///
    /// # Errors
    ///
    /// As [`Mapped::read`].
    pub fn write<T: Word>(&self, offset: u64, value: T) -> io::Result<()> {
        let place = self.word::<T>(offset)?;
        // A doorbell must not overtake what it announces.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        // SAFETY: `word` has checked the place and its alignment.
        unsafe { place.write_volatile(value) };
        Ok(())
    }

    /// Copies bytes out.
    ///
    /// # Errors
    ///
    /// They are not all inside.
    pub fn read_bytes(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let place = self.place(offset, bytes.len())?;
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: `place` has checked all of them.
            *byte = unsafe { place.add(index).read_volatile() };
        }
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    ///
    /// They do not all fit.
    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let place = self.place(offset, bytes.len())?;
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: `place` has checked all of them.
            unsafe { place.add(index).write_volatile(*byte) };
        }
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is what `new` mapped, and all access to it goes through `self`.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.length) };
    }
}

/// `_IO(';', 100 + number)` (Linux include/uapi/linux/vfio.h).
const fn opcode(number: u32) -> Opcode {
    (((b';' as u32) << 8) | (100 + number)) as Opcode
}

/// A call with a structure for its argument.
struct Call(Opcode, *mut c_void);

// SAFETY: opcode and pointer are passed through unchanged. Whoever makes a `Call` answers for the two fitting together.
unsafe impl Ioctl for Call {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.1
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct RegionInfo {
    argsz: u32,
    pub(super) flags: u32,
    index: u32,
    cap_offset: u32,
    pub(super) size: u64,
    pub(super) offset: u64,
}

/// Where a region of the device lies in its descriptor.
pub(super) fn region(device: BorrowedFd<'_>, index: u32) -> io::Result<RegionInfo> {
    let argsz = size_of::<RegionInfo>() as u32;
    let mut info = RegionInfo { argsz, index, ..RegionInfo::default() };
    // SAFETY: the structure is this call's, and the kernel writes at most `argsz` bytes.
    unsafe { ioctl(device, Call(opcode(8), (&raw mut info).cast())) }?;
    Ok(info)
}

/// Gives each of the device's interrupts of kind `index` an event descriptor to signal; none takes them all away.
pub(super) fn set_interrupts(
    device: BorrowedFd<'_>,
    index: u32,
    events: &[BorrowedFd<'_>],
) -> io::Result<()> {
    // struct vfio_irq_set: argsz, flags, index, start, count, then one descriptor each. Trigger with event descriptors, or with
    // no data.
    const TRIGGER: u32 = 1 << 5;
    const EVENTS: u32 = 1 << 2;
    const NO_DATA: u32 = 1;
    let flags = TRIGGER | if events.is_empty() { NO_DATA } else { EVENTS };
    let too_many = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let count = u32::try_from(events.len()).map_err(too_many)?;
    let mut words = vec![0, flags, index, 0, count];
    words.extend(events.iter().map(|event| event.as_raw_fd().cast_unsigned()));
    words[0] = u32::try_from(words.len() * size_of::<u32>()).map_err(too_many)?;
    // SAFETY: `words` is the structure of this call, as long as `argsz` says, and lives until it returns.
    Ok(unsafe { ioctl(device, Call(opcode(10), words.as_mut_ptr().cast())) }?)
}

/// Resets the device.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: this call takes no argument.
    Ok(unsafe { ioctl(device, Call(opcode(11), ptr::null_mut())) }?)
}

#[cfg(test)]
mod tests {

    #[test]
    fn only_what_is_inside_and_aligned_is_reached() {
        let mapped = crate::device::SharedMemory::new("test", 0x1000).expect("a memfd");
        mapped.write(0xffc, 0x1234_5678u32).expect("the last word");
        assert_eq!(mapped.read::<u8>(0xfff).expect("the last byte"), 0x12);
        for offset in [0xffd, 0x1000, 0xffe, u64::MAX] {
            assert!(mapped.read::<u32>(offset).is_err(), "{offset:#x}");
        }
        assert!(mapped.read::<u64>(4).is_err());
        assert!(mapped.write_bytes(0xff0, &[0; 17]).is_err());
        let mut bytes = [0; 4];
        mapped.read_bytes(0xffc, &mut bytes).expect("the last word");
        assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12]);
    }
}
