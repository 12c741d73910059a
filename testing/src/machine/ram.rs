//! The memory of a machine: shared with QEMU, or a model's own. Also the driver's platform.

use super::MachineError;
use portcullis_driver::platform::{Clock, Memory, Platform};
use portcullis_spec::PhysAddr;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vm_memory::{
    AtomicInteger, Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap,
    VolatileMemory as _,
};

/// Bytes of a machine's memory.
pub const RAM_BYTES: u64 = 32 << 20;
/// Bytes of the program that a copying engine fetches before it copies.
pub const SCRIPT_BYTES: usize = crate::qtest::lsi::SCRIPT_BYTES as usize;
/// Where the engines' programs lie, a page each, from the start of memory.
const SCRIPTS: u64 = 1 << 20;
/// Where data lies, from the start of memory: a multiple of 2 MiB, so that a large page can map it.
const DATA: u64 = 2 << 20;
/// Bytes of data.
pub const DATA_BYTES: u64 = 64 * 4096;
/// Where the driver's blocks lie, from the start of memory.
const BLOCKS: u64 = 8 << 20;

/// The memory of a machine.
#[derive(Debug)]
pub struct Ram {
    base: u64,
    guest: GuestMemoryMmap,
    /// Free blocks: first byte to bytes.
    free: RefCell<BTreeMap<u64, u64>>,
    started: Instant,
}

impl Ram {
    /// Memory from physical address `base` on, in `file` or, without one, the process's own.
    ///
    /// # Errors
    /// Where it can't be mapped.
    pub fn new(base: u64, file: Option<&File>) -> Result<Self, MachineError> {
        let wrong = |error: &dyn std::fmt::Display| MachineError::Memory(error.to_string());
        let file = file.map(|file| file.try_clone().map(|file| FileOffset::new(file, 0)));
        let file = file.transpose().map_err(|error| wrong(&error))?;
        let range = (GuestAddress(base), RAM_BYTES as usize, file);
        let guest = GuestMemoryMmap::from_ranges_with_files([range]).map_err(|error| wrong(&error))?;
        let free = RefCell::new(BTreeMap::from([(base + BLOCKS, RAM_BYTES - BLOCKS)]));
        Ok(Self { base, guest, free, started: Instant::now() })
    }

    /// The memory as `vm-memory` knows it.
    #[must_use]
    pub const fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// Physical address of the first byte.
    #[must_use]
    pub const fn base(&self) -> PhysAddr {
        PhysAddr(self.base)
    }

    /// Where engine `engine` fetches its program.
    #[must_use]
    pub const fn script(&self, engine: usize) -> PhysAddr {
        PhysAddr(self.base + SCRIPTS + engine as u64 * 4096)
    }

    /// Where the [`DATA_BYTES`] of data lie.
    #[must_use]
    pub const fn data(&self) -> PhysAddr {
        PhysAddr(self.base + DATA)
    }

    /// Write bytes.
    ///
    /// # Panics
    /// Where the memory does not have them: the test is wrong.
    pub fn write(&self, address: PhysAddr, bytes: &[u8]) {
        self.guest.write_slice(bytes, GuestAddress(address.0)).expect("inside the machine's memory");
    }

    /// Read bytes.
    ///
    /// # Panics
    /// Where the memory does not have them: the test is wrong.
    pub fn read(&self, address: PhysAddr, bytes: &mut [u8]) {
        self.guest.read_slice(bytes, GuestAddress(address.0)).expect("inside the machine's memory");
    }

    /// Put the four bytes at `address` that [`super::Machine::touch`] knows as `value`.
    pub fn put_token(&self, address: PhysAddr, value: u8) {
        self.write(address, &crate::qtest::hda::Hda::verb(value));
    }

    /// Blocks that are allocated now.
    #[must_use]
    pub fn bytes_in_use(&self) -> u64 {
        RAM_BYTES - BLOCKS - self.free.borrow().values().sum::<u64>()
    }

    fn with_atomic<T: AtomicInteger, R>(&self, address: PhysAddr, access: impl FnOnce(&T) -> R) -> R {
        // The driver only reaches into blocks that it got from `allocate`.
        let slice = self.guest.get_slice(GuestAddress(address.0), size_of::<T>()).expect("inside a block");
        access(slice.get_atomic_ref(0).expect("aligned"))
    }
}

impl Memory for Ram {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        let mut free = self.free.borrow_mut();
        let (start, bytes, block) = free.iter().find_map(|(start, bytes)| {
            let block = start.next_multiple_of(align);
            (block + size <= start + bytes).then_some((*start, *bytes, block))
        })?;
        free.remove(&start);
        if block > start {
            free.insert(start, block - start);
        }
        if block + size < start + bytes {
            free.insert(block + size, start + bytes - block - size);
        }
        self.write(PhysAddr(block), &vec![0; size as usize]);
        Some(PhysAddr(block))
    }

    fn free(&self, address: PhysAddr, size: u64, _align: u64) {
        let mut free = self.free.borrow_mut();
        let (mut start, mut bytes) = (address.0, size);
        if let Some((before, length)) = free.range(..start).next_back().map(|(a, b)| (*a, *b)) {
            assert!(before + length <= start, "{address} was already free");
            if before + length == start {
                free.remove(&before);
                (start, bytes) = (before, length + bytes);
            }
        }
        if let Some((after, length)) = free.range(start..).next().map(|(a, b)| (*a, *b)) {
            assert!(start + bytes <= after, "{address} was already free");
            if start + bytes == after {
                free.remove(&after);
                bytes += length;
            }
        }
        free.insert(start, bytes);
    }

    fn load32(&self, address: PhysAddr) -> u32 {
        self.with_atomic(address, |word: &AtomicU32| word.load(Ordering::SeqCst))
    }

    fn store32(&self, address: PhysAddr, value: u32) {
        self.with_atomic(address, |word: &AtomicU32| word.store(value, Ordering::SeqCst));
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        self.with_atomic(address, |word: &AtomicU64| word.load(Ordering::SeqCst))
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        self.with_atomic(address, |word: &AtomicU64| word.store(value, Ordering::SeqCst));
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.with_atomic(address, |word: &AtomicU64| {
            word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
        })
    }

    fn flush(&self, _address: PhysAddr, _length: u64) {
        // QEMU and the models read the same bytes that we write.
    }
}

impl Clock for Ram {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn relax(&self) {
        // Everything that a register access causes has happened when it returns.
    }
}

impl Platform for Ram {
    type Lock<T> = RefCell<T>;
}
