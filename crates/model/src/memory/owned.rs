//! Memory that belongs to this process and starts at address zero: for tests, demonstrations and simulated platforms.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use portcullis_spec::PhysAddr;

use super::{GuestMemory, MemoryError};
use crate::host::{HostSlice, HostStretch, Page, zeroed_pages};

/// Memory of a fixed size, zeroed, at addresses 0 to its size.
///
/// Threads may share it freely. Aligned accesses of 2, 4 and 8 bytes are atomic.
pub struct OwnedMemory {
    pages: Box<[Page]>,
    base: u64,
    size: u64,
}

impl OwnedMemory {
    /// `bytes` bytes from address 0 on, rounded up to a multiple of 8.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self::at(PhysAddr(0), bytes)
    }

    /// `bytes` bytes from `base` on, both rounded (up and down) to a multiple of 8.
    #[must_use]
    pub fn at(base: PhysAddr, bytes: usize) -> Self {
        let base = base.0 & !7;
        let size = (bytes as u64).next_multiple_of(8);
        // A page of the memory is a page of this process, wherever the memory begins.
        let pages = ((base & 0xfff) + size).div_ceil(0x1000);
        Self { pages: zeroed_pages(pages as usize), base, size }
    }

    /// Size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How far from the first page's start `bytes` bytes from `address` on lie, if all of them are there.
    fn offset(&self, address: PhysAddr, bytes: u64) -> Result<usize, MemoryError> {
        address
            .0
            .checked_sub(self.base)
            .filter(|offset| offset.checked_add(bytes).is_some_and(|end| end <= self.size))
            .and_then(|offset| usize::try_from(offset + (self.base & 0xfff)).ok())
            .ok_or(MemoryError::NotMemory { address })
    }

    /// The word that holds the byte at `address`.
    fn word(&self, address: PhysAddr) -> Result<&AtomicU64, MemoryError> {
        let offset = self.offset(address, 1)?;
        let page = self.pages.get(offset / 0x1000);
        page.and_then(|page| page.0.get(offset % 0x1000 / 8)).ok_or(MemoryError::NotMemory { address })
    }

    /// The bytes from `address` on. Ranges that leave the memory are refused, so that no access is done by half.
    fn slice(&self, address: PhysAddr, bytes: usize) -> Result<HostSlice<'_>, MemoryError> {
        let offset = self.offset(address, bytes as u64)?;
        let first = NonNull::from(&*self.pages).cast::<u8>().as_ptr();
        let pointer = NonNull::new(first.wrapping_add(offset)).ok_or(MemoryError::NotMemory { address })?;
        Ok(HostSlice::new(pointer, bytes))
    }
}

fn aligned(address: PhysAddr, bytes: u64) -> Result<(), MemoryError> {
    if address.is_aligned(bytes) { Ok(()) } else { Err(MemoryError::Misaligned { address }) }
}

/// The bits of an aligned word that the 32-bit half at `address` takes, and their shift.
const fn half(address: PhysAddr) -> (u64, u32) {
    if address.0 & 4 == 0 { (0xffff_ffff, 0) } else { (0xffff_ffff << 32, 32) }
}

/// Replaces the bits of `mask` by those of `value`, leaving what others write to the rest alone.
fn merge(word: &AtomicU64, mask: u64, value: u64) {
    let mut old = word.load(Ordering::Relaxed);
    while let Err(now) =
        word.compare_exchange_weak(old, (old & !mask) | value, Ordering::Release, Ordering::Relaxed)
    {
        old = now;
    }
}

impl GuestMemory for OwnedMemory {
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.slice(address, buffer.len())?.read(0, buffer);
        Ok(())
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.slice(address, bytes.len())?.write(0, bytes);
        Ok(())
    }

    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError> {
        aligned(address, 4)?;
        let (_, shift) = half(address);
        Ok((self.word(address)?.load(Ordering::Acquire) >> shift) as u32)
    }

    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError> {
        aligned(address, 8)?;
        Ok(self.word(address)?.load(Ordering::Acquire))
    }

    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError> {
        aligned(address, 4)?;
        let (mask, shift) = half(address);
        merge(self.word(address)?, mask, u64::from(value) << shift);
        Ok(())
    }

    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError> {
        aligned(address, 8)?;
        self.word(address)?.store(value, Ordering::Release);
        Ok(())
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError> {
        aligned(address, 8)?;
        let result = self.word(address)?.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst);
        Ok(result.unwrap_or_else(|now| now))
    }

    fn host_pointer(&self, address: PhysAddr, bytes: u64) -> Option<NonNull<u8>> {
        let slice = self.slice(address, usize::try_from(bytes).ok()?).ok()?;
        NonNull::new(slice.as_ptr())
    }

    fn host_stretch(&self, address: PhysAddr) -> Option<HostStretch> {
        self.offset(address, 1).ok()?;
        let first = PhysAddr(self.base);
        HostStretch::new(first, self.size, self.host_pointer(first, self.size)?)
    }
}
