//! Tables in this process's own memory: a table's address is its pointer, as in a kernel with an identity map.
#![allow(unsafe_code)]

use portcullis_pagetable::{TableAllocator, TableMemory};
use portcullis_spec::PhysAddr;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Memory for tables, taken in one piece and given back when dropped.
#[derive(Debug)]
pub struct HostMemory {
    base: u64,
    layout: Layout,
    /// Where the part begins that was never given out.
    next: Mutex<u64>,
    free: Mutex<Vec<(u64, u8)>>,
}

impl HostMemory {
    /// `bytes` of memory, aligned to 2 MiB.
    ///
    /// # Safety
    ///
    /// Loads and stores through [`TableMemory`] go wherever their address says. Whoever has the value only gives it
    /// addresses of tables that it has allocated and not freed, and of entries within them; and nobody touches entries
    /// that another thread writes or looks through as a run at the same time.
    ///
    /// # Panics
    ///
    /// If `bytes` is not a multiple of 2 MiB.
    #[must_use]
    pub unsafe fn new(bytes: usize) -> Self {
        assert!(bytes > 0 && bytes.is_multiple_of(2 << 20));
        let layout = Layout::from_size_align(bytes, 2 << 20).expect("a multiple of its alignment");
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() {
            handle_alloc_error(layout);
        }
        let base = pointer.expose_provenance() as u64;
        Self { base, layout, next: Mutex::new(base), free: Mutex::new(Vec::new()) }
    }

    #[inline]
    fn word(&self, at: PhysAddr) -> &AtomicU64 {
        let pointer = std::ptr::with_exposed_provenance::<AtomicU64>(at.0 as usize);
        // SAFETY: by the promise given to `new`, `at` is an entry of a table within our memory, which is aligned and
        // initialised, lives as long as `self`, and is only reached through atomics.
        unsafe { &*pointer }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let pointer = std::ptr::with_exposed_provenance_mut::<u8>(self.base as usize);
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(pointer, self.layout) };
    }
}

impl TableMemory for HostMemory {
    type Error = Infallible;

    #[inline]
    fn load(&self, at: PhysAddr) -> Result<u64, Infallible> {
        Ok(self.word(at).load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Infallible> {
        self.word(at).store(entry, Ordering::Release);
        Ok(())
    }

    #[inline]
    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Infallible> {
        let result = self.word(at).compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire);
        Ok(result.unwrap_or_else(|seen| seen))
    }

    #[inline]
    fn store_run(
        &self,
        at: PhysAddr,
        count: usize,
        mut entry: impl FnMut(usize) -> u64,
    ) -> Result<(), Infallible> {
        let first = std::ptr::with_exposed_provenance_mut::<u64>(at.0 as usize);
        for index in 0..count {
            // SAFETY: as in `word`, for entries that all lie in one table and that nobody else touches meanwhile.
            unsafe { first.add(index).write(entry(index)) };
        }
        fence(Ordering::Release);
        Ok(())
    }

    #[inline]
    fn find_used(&self, at: PhysAddr, count: usize) -> Result<Option<usize>, Infallible> {
        let first = std::ptr::with_exposed_provenance::<u64>(at.0 as usize);
        // SAFETY: as in `store_run`.
        let entries = unsafe { std::slice::from_raw_parts(first, count) };
        // Most of the time none is: all are asked at once.
        if entries.iter().fold(0, |all, entry| all | entry) == 0 {
            return Ok(None);
        }
        Ok(entries.iter().position(|entry| *entry != 0))
    }
}

impl TableAllocator for HostMemory {
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
        let mut free = self.free.lock().expect("nobody panics with it");
        if let Some(index) = free.iter().rposition(|(_, size)| *size == size_log2) {
            let (table, _) = free.swap_remove(index);
            let table = PhysAddr(table);
            for index in 0..1u64 << (size_log2 - 3) {
                self.word(PhysAddr(table.0 + index * 8)).store(0, Ordering::Release);
            }
            return Some(table);
        }
        let mut next = self.next.lock().expect("nobody panics with it");
        let table = next.next_multiple_of(1 << size_log2);
        let end = table + (1 << size_log2);
        if end > self.base + self.layout.size() as u64 {
            return None;
        }
        *next = end;
        Some(PhysAddr(table))
    }

    fn free(&self, table: PhysAddr, size_log2: u8) {
        self.free.lock().expect("nobody panics with it").push((table.0, size_log2));
    }
}
