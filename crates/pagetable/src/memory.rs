//! Where tables live, and where table pages come from.

use portcullis_spec::PhysAddr;

/// Memory that holds tables, read and written one 64-bit entry at a time.
///
/// Addresses are multiples of eight. Every access is atomic; `store` is a release and `load` an acquire, so
/// that whoever sees a new table entry also sees the table behind it. Where the IOMMU does not snoop the processor's
/// caches, `store`, `compare_exchange` and [`TableAllocator::allocate`] also write the cache line back before they return.
pub trait TableMemory {
    /// Why memory could not be reached. [`Infallible`](core::convert::Infallible) for plain pointers.
    type Error;

    /// The entry at `at`.
    fn load(&self, at: PhysAddr) -> Result<u64, Self::Error>;

    /// Writes the entry at `at`.
    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Self::Error>;

    /// Writes `new` at `at` if `expected` is there. Returns what was there: the exchange happened where that is
    /// `expected`.
    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Self::Error>;

    /// Writes `count` neighbouring entries from `at` on, `entry(0)` first. Each is written as by [`store`](Self::store);
    /// memory that can do better than one at a time says how here.
    #[inline]
    fn store_run(
        &self,
        at: PhysAddr,
        count: usize,
        mut entry: impl FnMut(usize) -> u64,
    ) -> Result<(), Self::Error>
    where
        Self: Sized,
    {
        for index in 0..count {
            self.store(PhysAddr(at.0.wrapping_add(index as u64 * 8)), entry(index))?;
        }
        Ok(())
    }

    /// The index of the first of `count` neighbouring entries from `at` on that is not zero.
    #[inline]
    fn find_used(&self, at: PhysAddr, count: usize) -> Result<Option<usize>, Self::Error>
    where
        Self: Sized,
    {
        for index in 0..count {
            if self.load(PhysAddr(at.0.wrapping_add(index as u64 * 8)))? != 0 {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Writes zero over those of `count` neighbouring entries from `at` on that `goes` says so of; returns how many those were.
    /// Each is read and written as by [`load`](Self::load) and [`store`](Self::store).
    #[inline]
    fn clear_run(
        &self,
        at: PhysAddr,
        count: usize,
        mut goes: impl FnMut(u64) -> bool,
    ) -> Result<usize, Self::Error>
    where
        Self: Sized,
    {
        let mut cleared = 0;
        for index in 0..count {
            let at = PhysAddr(at.0.wrapping_add(index as u64 * 8));
            if goes(self.load(at)?) {
                self.store(at, 0)?;
                cleared += 1;
            }
        }
        Ok(cleared)
    }
}

impl<M: TableMemory> TableMemory for &M {
    type Error = M::Error;

    #[inline]
    fn load(&self, at: PhysAddr) -> Result<u64, Self::Error> {
        (**self).load(at)
    }

    #[inline]
    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Self::Error> {
        (**self).store(at, entry)
    }

    #[inline]
    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Self::Error> {
        (**self).compare_exchange(at, expected, new)
    }

    #[inline]
    fn store_run(
        &self,
        at: PhysAddr,
        count: usize,
        entry: impl FnMut(usize) -> u64,
    ) -> Result<(), Self::Error> {
        (**self).store_run(at, count, entry)
    }

    #[inline]
    fn find_used(&self, at: PhysAddr, count: usize) -> Result<Option<usize>, Self::Error> {
        (**self).find_used(at, count)
    }

    #[inline]
    fn clear_run(
        &self,
        at: PhysAddr,
        count: usize,
        goes: impl FnMut(u64) -> bool,
    ) -> Result<usize, Self::Error> {
        (**self).clear_run(at, count, goes)
    }
}

/// Where table pages come from and go to.
pub trait TableAllocator {
    /// `1 << size_log2` bytes of zeros, aligned to their size; `None` where there are none left. At least 4 KiB are
    /// asked for.
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr>;

    /// Takes back what [`allocate`](Self::allocate) gave. Contents are arbitrary.
    fn free(&self, table: PhysAddr, size_log2: u8);
}

impl<A: TableAllocator> TableAllocator for &A {
    #[inline]
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
        (**self).allocate(size_log2)
    }

    #[inline]
    fn free(&self, table: PhysAddr, size_log2: u8) {
        (**self).free(table, size_log2);
    }
}
