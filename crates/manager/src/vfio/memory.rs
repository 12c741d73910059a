//! A client's memory as the manager holds it: mapped, so that VFIO can pin it, and never looked at.
//!
//! A page beyond the end of a file that shrank kills whoever touches it. Nothing here does: the address only ever goes to the
//! kernel, which answers EFAULT.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A file's bytes at an address of this process.
#[derive(Debug)]
pub(super) struct Window {
    address: usize,
    length: usize,
}

impl Window {
    /// Maps the first `length` bytes of `file`, shared.
    pub(super) fn new(file: impl AsFd, length: u64, writable: bool) -> io::Result<Self> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let rights = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the kernel chooses the place, so nothing that is mapped already is replaced, and no reference into it is ever
        // made.
        let address = unsafe { mmap(ptr::null_mut(), length, rights, MapFlags::SHARED, file, 0) }?;
        Ok(Self { address: address.addr(), length })
    }

    /// The address of the byte at `offset`, if `length` bytes from there are inside.
    pub(super) fn address(&self, offset: u64, length: u64) -> Option<u64> {
        let end = offset.checked_add(length)?;
        (end <= self.length as u64).then(|| self.address as u64 + offset)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this is exactly what `new` mapped, and no reference into it exists. Pages that VFIO has pinned stay pinned.
        let _ = unsafe { munmap(ptr::without_provenance_mut(self.address), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    #[test]
    fn address_is_given_only_inside() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&file, 0x3000).expect("its length");
        let window = Window::new(&file, 0x3000, true).expect("a mapping");
        let base = window.address(0, 0x3000).expect("all of it");
        assert_eq!(window.address(0x2000, 0x1000), Some(base + 0x2000));
        assert_eq!(window.address(0x2000, 0x1001), None);
        assert_eq!(window.address(u64::MAX, 2), None);
    }

    #[test]
    fn read_only_file_is_not_mapped_writable() {
        let file = std::fs::File::open("/proc/self/exe").expect("our own program");
        assert!(Window::new(&file, 0x1000, true).is_err());
        assert!(Window::new(&file, 0x1000, false).is_ok());
    }
}
