//! Which IO virtual addresses are free.
//!
//! A buddy allocator over pages. Free space is a set of blocks, each a power of two pages at a multiple of its size, in
//! one ordered set per size. Allocation looks at one end of each set, so it costs O(log n) for each of at most 52 sizes
//! and finds the lowest (or highest) address there is. Sizes need not be powers of two: what is left of the block goes
//! back at once. Every allocation is aligned to its size rounded up to a power of two, so that large buffers can be
//! mapped with large pages.
//!
//! Memory is bounded by what is live: one node per allocation, and at most two free blocks per size next to each.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use portcullis_spec::Iova;

/// Which end of the address space to take from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Prefer {
    /// The lowest address that fits: below 4 GiB as long as there is room, which devices with 32 address bits need and
    /// PCI reaches with a shorter header.
    #[default]
    Low,
    /// The highest address that fits: leaves the low addresses to devices that reach nothing else.
    High,
}

/// Why an address range could not be had or given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IovaError {
    /// No free range of this size lies below the limit.
    #[error("no free range of {size:#x} bytes lies below {last}")]
    Exhausted {
        /// Bytes asked for.
        size: u64,
        /// The last address that was allowed.
        last: Iova,
    },
    /// The size is zero, or no multiple of the page.
    #[error("{size:#x} is not a positive multiple of the page size")]
    Size {
        /// Bytes asked for.
        size: u64,
    },
    /// The range is not, or not wholly, free.
    #[error("{first} to {last} is not free")]
    InUse {
        /// First byte.
        first: Iova,
        /// Last byte.
        last: Iova,
    },
    /// Nothing was allocated with this start and size.
    #[error("no allocation of {size:#x} bytes starts at {first}")]
    NotAllocated {
        /// First byte.
        first: Iova,
        /// Bytes.
        size: u64,
    },
}

/// The free addresses of one window, in pages.
#[derive(Debug)]
pub struct IovaAllocator {
    shift: u8,
    /// First and last page of the window.
    window: (u64, u64),
    /// Per log2 of pages, as far as the window has room for them, the first pages of the free blocks.
    free: Vec<BTreeSet<u64>>,
    /// First page to pages.
    allocated: BTreeMap<u64, u64>,
}

/// log2 of the largest block that starts at `page` and is not longer than `pages`.
fn block_order(page: u64, pages: u64) -> u32 {
    pages.ilog2().min(page.trailing_zeros())
}

impl IovaAllocator {
    /// All of `first` to `last` (bytes, inclusive) free, in pages of `1 << shift` bytes. Parts of pages at the ends are
    /// left out. Page zero is left out as well: address zero is what drivers and devices take for "none".
    #[must_use]
    pub fn new(first: Iova, last: Iova, shift: u8) -> Self {
        let size = 1u64 << shift;
        let low = first.0.div_ceil(size).max(1);
        let end = match last.0.checked_add(1) {
            Some(end) => end >> shift,
            None => 1u64 << (64 - shift),
        };
        let mut this = Self {
            shift,
            window: (low, end.saturating_sub(1)),
            free: (0..=end.max(1).ilog2()).map(|_| BTreeSet::new()).collect(),
            allocated: BTreeMap::new(),
        };
        if end > low {
            this.insert(low, end - low);
        }
        this
    }

    /// Whether an address range touches the window.
    #[must_use]
    pub fn governs(&self, first: Iova, last: Iova) -> bool {
        first.0 >> self.shift <= self.window.1 && last.0 >> self.shift >= self.window.0
    }

    /// Takes `size` bytes, all at or below `last`.
    ///
    /// # Errors
    /// [`IovaError::Size`], or [`IovaError::Exhausted`].
    pub fn allocate(&mut self, size: u64, last: Iova, prefer: Prefer) -> Result<Iova, IovaError> {
        let exhausted = IovaError::Exhausted { size, last };
        let pages = size >> self.shift;
        if pages == 0 || size & ((1 << self.shift) - 1) != 0 {
            return Err(IovaError::Size { size });
        }
        let order = pages.checked_next_power_of_two().ok_or(exhausted)?.ilog2();
        let end = last.0.checked_add(1).map_or(1u64 << (64 - self.shift), |end| end >> self.shift);
        let highest = end.checked_sub(pages).ok_or(exhausted)?;
        let candidates = (order..self.orders()).filter_map(|block_order| {
            let blocks = &self.free[block_order as usize];
            let block = match prefer {
                Prefer::Low => blocks.first().filter(|block| **block <= highest),
                Prefer::High => blocks.range(..=highest).next_back(),
            };
            block.map(|block| (*block, block_order))
        });
        let (block, block_order) = match prefer {
            Prefer::Low => candidates.min(),
            Prefer::High => candidates.max(),
        }
        .ok_or(exhausted)?;
        let start = match prefer {
            Prefer::Low => block,
            Prefer::High => {
                let top = (block + (1 << block_order) - (1 << order)).min(highest);
                top & !((1 << order) - 1)
            }
        };
        self.free[block_order as usize].remove(&block);
        self.insert(block, start - block);
        self.insert(start + pages, block + (1 << block_order) - start - pages);
        self.allocated.insert(start, pages);
        Ok(Iova(start << self.shift))
    }

    /// Ends an allocation without freeing its addresses: no one may have them before the translations that were cached for
    /// them are gone, which [`Self::release`] says.
    ///
    /// # Errors
    /// [`IovaError::NotAllocated`] where no allocation has exactly this start and size; nothing changes then.
    pub fn retire(&mut self, first: Iova, size: u64) -> Result<(), IovaError> {
        if !self.is_allocated(first, size) {
            return Err(IovaError::NotAllocated { first, size });
        }
        self.allocated.remove(&(first.0 >> self.shift));
        Ok(())
    }

    /// Makes a retired allocation's addresses free.
    pub fn release(&mut self, first: Iova, size: u64) {
        self.insert(first.0 >> self.shift, size >> self.shift);
    }

    /// Whether an allocation has exactly this start and size.
    #[must_use]
    pub fn is_allocated(&self, first: Iova, size: u64) -> bool {
        first.is_aligned(1 << self.shift)
            && size.is_multiple_of(1 << self.shift)
            && self.allocated.get(&(first.0 >> self.shift)) == Some(&(size >> self.shift))
    }

    /// Takes every page that `first` to `last` (bytes, inclusive) touches out of the free ones.
    ///
    /// # Errors
    /// [`IovaError::InUse`] where part of it inside the window is allocated or reserved already; nothing changes then.
    pub fn reserve(&mut self, first: Iova, last: Iova) -> Result<(), IovaError> {
        let Some((from, to)) = self.clip(first, last) else { return Ok(()) };
        let mut overlapping = Vec::new();
        let mut covered = 0;
        for order in 0..self.orders() {
            let length = 1u64 << order;
            for block in self.free[order as usize].range(from.saturating_sub(length - 1)..=to) {
                let low = (*block).max(from);
                let high = (block + (length - 1)).min(to);
                covered += high - low + 1;
                overlapping.push((*block, order));
            }
        }
        if covered != to - from + 1 {
            return Err(IovaError::InUse { first, last });
        }
        for (block, order) in overlapping {
            self.free[order as usize].remove(&block);
            let last_page = block + ((1 << order) - 1);
            if block < from {
                self.insert(block, from - block);
            }
            if last_page > to {
                self.insert(to + 1, last_page - to);
            }
        }
        Ok(())
    }

    /// Gives back what [`Self::reserve`] took with the same bounds.
    pub fn unreserve(&mut self, first: Iova, last: Iova) {
        if let Some((from, to)) = self.clip(first, last) {
            self.insert(from, to - from + 1);
        }
    }

    /// Allocations that are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.allocated.len()
    }

    /// How many sizes of blocks there may be.
    fn orders(&self) -> u32 {
        self.free.len() as u32
    }

    /// The pages of the window that a byte range touches.
    fn clip(&self, first: Iova, last: Iova) -> Option<(u64, u64)> {
        let from = (first.0 >> self.shift).max(self.window.0);
        let to = (last.0 >> self.shift).min(self.window.1);
        (from <= to).then_some((from, to))
    }

    /// Adds pages to the free ones, joining buddies.
    fn insert(&mut self, mut page: u64, mut pages: u64) {
        while pages > 0 {
            let order = block_order(page, pages);
            self.insert_block(page, order);
            page += 1 << order;
            pages -= 1 << order;
        }
    }

    fn insert_block(&mut self, mut page: u64, mut order: u32) {
        while order + 1 < self.orders() && self.free[order as usize].remove(&(page ^ (1 << order))) {
            page &= !(1 << order);
            order += 1;
        }
        self.free[order as usize].insert(page);
    }
}
