//! Guest memory of the `vm-memory` crate.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use portcullis_spec::PhysAddr;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion as _, VolatileMemory};

use super::{GuestMemory, MemoryError};
use crate::host::HostStretch;

/// [`GuestMemory`] over a guest memory of the `vm-memory` crate, such as its `GuestMemoryMmap`. Atomic accesses do not cross
/// regions.
pub struct VmMemory<M>(pub M);

impl<M: GuestMemoryBackend + Send + Sync> VmMemory<M> {
    /// Does `access` with the aligned word at `address`, and marks it dirty afterwards where `write` says so.
    fn word<T, R>(
        &self,
        address: PhysAddr,
        write: bool,
        access: impl FnOnce(&T) -> R,
    ) -> Result<R, MemoryError>
    where
        T: vm_memory::AtomicInteger,
    {
        let size = core::mem::size_of::<T>();
        if !address.is_aligned(size as u64) {
            return Err(MemoryError::Misaligned { address });
        }
        let absent = MemoryError::NotMemory { address };
        let slice = self.0.get_slice(GuestAddress(address.0), size).map_err(|_| absent)?;
        let word = slice.get_atomic_ref::<T>(0).map_err(|_| MemoryError::Misaligned { address })?;
        let result = access(word);
        if write {
            slice.bitmap().mark_dirty(0, size);
        }
        Ok(result)
    }
}

impl<M: GuestMemoryBackend + Send + Sync> GuestMemory for VmMemory<M> {
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.0.read_slice(buffer, GuestAddress(address.0)).map_err(|_| MemoryError::NotMemory { address })
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.0.write_slice(bytes, GuestAddress(address.0)).map_err(|_| MemoryError::NotMemory { address })
    }

    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError> {
        self.word(address, false, |word: &AtomicU32| u32::from_le(word.load(Ordering::Acquire)))
    }

    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError> {
        self.word(address, false, |word: &AtomicU64| u64::from_le(word.load(Ordering::Acquire)))
    }

    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError> {
        self.word(address, true, |word: &AtomicU32| word.store(value.to_le(), Ordering::Release))
    }

    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError> {
        self.word(address, true, |word: &AtomicU64| word.store(value.to_le(), Ordering::Release))
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError> {
        self.word(address, true, |word: &AtomicU64| {
            let result =
                word.compare_exchange(current.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst);
            u64::from_le(result.unwrap_or_else(|now| now))
        })
    }

    fn host_pointer(&self, address: PhysAddr, bytes: u64) -> Option<NonNull<u8>> {
        let bytes = usize::try_from(bytes).ok()?;
        let slice = self.0.get_slice(GuestAddress(address.0), bytes).ok()?;
        NonNull::new(slice.ptr_guard_mut().as_ptr())
    }

    fn host_stretch(&self, address: PhysAddr) -> Option<HostStretch> {
        let region = self.0.find_region(GuestAddress(address.0))?;
        let first = PhysAddr(region.start_addr().0);
        HostStretch::new(first, region.len(), self.host_pointer(first, region.len())?)
    }

    fn tracks_writes(&self) -> bool {
        true
    }

    fn mark_written(&self, address: PhysAddr, bytes: u64) {
        let Ok(bytes) = usize::try_from(bytes) else { return };
        if let Ok(slice) = self.0.get_slice(GuestAddress(address.0), bytes) {
            slice.bitmap().mark_dirty(0, bytes);
        }
    }
}
