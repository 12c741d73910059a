//! The memory of a machine: one mapping of the `vm-memory` crate, as a VMM has it, of which the driver uses a part.
#![allow(unsafe_code)]

use portcullis_driver::platform::{Clock, Memory, Platform};
use portcullis_model::{GuestMemory, VmMemory};
use portcullis_spec::PhysAddr;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

/// Where memory begins: above everything that an architecture reserves.
const BASE: u64 = 1 << 32;

/// Blocks that were given back by size, and where the part begins that was never given out.
struct Blocks {
    free: HashMap<u64, Vec<u64>>,
    next: u64,
    /// How many have been given back so far.
    given_back: u64,
    /// What is written over blocks that are given back.
    poison: Option<u64>,
}

/// The memory.
pub struct Ram {
    guest: GuestMemoryMmap,
    /// What to add to a physical address for a pointer.
    offset: usize,
    data: u64,
    end: u64,
    blocks: Mutex<Blocks>,
    started: Instant,
}

impl Ram {
    /// `data` bytes that devices may reach, and `blocks` bytes for the driver. None of them is touched.
    ///
    /// # Panics
    /// Where it can't be mapped.
    #[must_use]
    pub fn new(data: u64, blocks: u64) -> Self {
        let bytes = (data + blocks) as usize;
        let guest = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), bytes)]).expect("memory");
        let pointer = guest.get_host_address(GuestAddress(BASE)).expect("the first byte");
        Self {
            guest,
            offset: pointer.expose_provenance().wrapping_sub(BASE as usize),
            data,
            end: BASE + data + blocks,
            blocks: Mutex::new(Blocks {
                free: HashMap::new(),
                next: BASE + data,
                given_back: 0,
                poison: None,
            }),
            started: Instant::now(),
        }
    }

    /// From now on every word of what the driver gives back reads `word`: whoever still uses it for a table is led astray.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn poison(&self, word: u64) {
        self.blocks.lock().expect("nobody panics with it").poison = Some(word);
    }

    /// How many blocks the driver has given back.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    #[must_use]
    pub fn given_back(&self) -> u64 {
        self.blocks.lock().expect("nobody panics with it").given_back
    }

    /// The memory as a unit sees it.
    #[must_use]
    pub fn memory(&self) -> Arc<dyn GuestMemory> {
        Arc::new(VmMemory(self.guest.clone()))
    }

    /// The first byte that devices may reach.
    #[must_use]
    pub const fn data(&self) -> PhysAddr {
        PhysAddr(BASE)
    }

    /// The pointer to `bytes` bytes.
    ///
    /// # Panics
    /// Where they are not memory.
    #[must_use]
    #[inline]
    pub fn pointer(&self, address: PhysAddr, bytes: u64) -> *mut u8 {
        let inside = address.0 >= BASE && address.0.checked_add(bytes).is_some_and(|end| end <= self.end);
        assert!(inside, "{address} is not memory");
        std::ptr::with_exposed_provenance_mut(self.offset.wrapping_add(address.0 as usize))
    }

    /// What to add to a physical address for a pointer.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    #[inline]
    fn word(&self, address: PhysAddr) -> &AtomicU64 {
        assert!(address.is_aligned(8));
        // SAFETY: aligned, inside the mapping, which lives as long as `self`, and only reached through atomics.
        unsafe { &*self.pointer(address, 8).cast() }
    }

    /// `count` words that follow each other, checked once.
    #[inline]
    fn words(&self, address: PhysAddr, count: usize) -> &[AtomicU64] {
        assert!(address.is_aligned(8));
        let first = self.pointer(address, 8 * count as u64).cast();
        // SAFETY: as in `word`, for each of them.
        unsafe { std::slice::from_raw_parts(first, count) }
    }

    fn half(&self, address: PhysAddr) -> &AtomicU32 {
        assert!(address.is_aligned(4));
        // SAFETY: as in `word`.
        unsafe { &*self.pointer(address, 4).cast() }
    }
}

impl Memory for Ram {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        let mut blocks = self.blocks.lock().expect("nobody panics with it");
        let bytes = size.max(align);
        if let Some(block) = blocks.free.get_mut(&bytes).and_then(Vec::pop) {
            drop(blocks);
            self.store64_run(PhysAddr(block), (size / 8) as usize, |_| 0);
            return Some(PhysAddr(block));
        }
        let block = blocks.next.next_multiple_of(bytes);
        if block + bytes > self.end {
            return None;
        }
        blocks.next = block + bytes;
        Some(PhysAddr(block))
    }

    fn free(&self, address: PhysAddr, size: u64, align: u64) {
        let mut blocks = self.blocks.lock().expect("nobody panics with it");
        blocks.given_back += 1;
        if let Some(word) = blocks.poison {
            self.store64_run(address, (size / 8) as usize, |_| word);
        }
        blocks.free.entry(size.max(align)).or_default().push(address.0);
    }

    fn load32(&self, address: PhysAddr) -> u32 {
        self.half(address).load(Ordering::Acquire)
    }

    fn store32(&self, address: PhysAddr, value: u32) {
        self.half(address).store(value, Ordering::Release);
    }

    #[inline]
    fn load64(&self, address: PhysAddr) -> u64 {
        self.word(address).load(Ordering::Acquire)
    }

    #[inline]
    fn store64(&self, address: PhysAddr, value: u64) {
        self.word(address).store(value, Ordering::Release);
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.word(address).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline]
    fn store64_run(&self, address: PhysAddr, count: usize, mut value: impl FnMut(usize) -> u64) {
        for (index, word) in self.words(address, count).iter().enumerate() {
            word.store(value(index), Ordering::Release);
        }
    }

    #[inline]
    fn find_used64(&self, address: PhysAddr, count: usize) -> Option<usize> {
        self.words(address, count).iter().position(|word| word.load(Ordering::Acquire) != 0)
    }

    #[inline]
    fn clear64_run(&self, address: PhysAddr, count: usize, mut goes: impl FnMut(u64) -> bool) -> usize {
        let mut cleared = 0;
        for word in self.words(address, count) {
            if goes(word.load(Ordering::Acquire)) {
                word.store(0, Ordering::Release);
                cleared += 1;
            }
        }
        cleared
    }

    fn flush(&self, _address: PhysAddr, _length: u64) {}
}

impl Clock for Ram {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn relax(&self) {
        std::hint::spin_loop();
    }
}

impl Platform for Ram {
    type Lock<T> = Mutex<T>;
}

impl std::fmt::Debug for Ram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ram").field("data", &self.data).field("end", &self.end).finish_non_exhaustive()
    }
}
