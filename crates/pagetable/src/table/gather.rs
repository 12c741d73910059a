//! What must be invalidated, and the tables that may be reused only then.

use crate::{TableAllocator, TableMemory};
use portcullis_spec::{Iova, PhysAddr};

/// What operations have left to do: the range to invalidate, and freed tables that the unit may still be walking.
///
/// The tables are linked through their own first entries, so that any number costs nothing. A link has bits 2:0 clear,
/// which every format reads as an entry that is not present.
///
/// After an invalidation of [`range`](Self::range) has completed, [`release`](Self::release) gives the tables back. A gather
/// dropped before leaks them.
#[must_use = "tables leak unless they are released after the invalidation"]
#[derive(Debug, Default)]
pub struct Gather {
    first: Option<PhysAddr>,
    last: PhysAddr,
    tables: u64,
    range: Option<(Iova, Iova)>,
    page_shift: Option<u8>,
}

/// Of a link: another table follows.
const MORE: u64 = 1 << 3;
/// Of a link: log2 of the table's bytes, in bits 9:4.
const SHIFT_AT: u32 = 4;

impl Gather {
    /// Nothing left to do.
    #[inline]
    pub const fn new() -> Self {
        Self { first: None, last: PhysAddr(0), tables: 0, range: None, page_shift: None }
    }

    /// Whether there is nothing to invalidate and no table to release.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.range.is_none() && self.first.is_none()
    }

    /// First and last byte of a range around everything that must be invalidated.
    #[must_use]
    #[inline]
    pub const fn range(&self) -> Option<(Iova, Iova)> {
        self.range
    }

    /// How many tables wait. Where this is not 0 the invalidation must reach cached table entries, not only leaves.
    #[must_use]
    pub const fn tables(&self) -> u64 {
        self.tables
    }

    /// log2 of the bytes of the smallest page that was removed or changed. `None` where none was: only tables were freed.
    #[must_use]
    pub const fn page_shift(&self) -> Option<u8> {
        self.page_shift
    }

    /// Adds a range to invalidate, both ends included.
    #[inline]
    pub fn add_range(&mut self, first: Iova, last: Iova) {
        self.range = Some(self.range.map_or((first, last), |(low, high)| (low.min(first), high.max(last))));
    }

    #[inline]
    pub(crate) fn add_page(&mut self, shift: u8) {
        self.page_shift = Some(self.page_shift.map_or(shift, |least| least.min(shift)));
    }

    /// Adds a table that is no longer reachable.
    pub(crate) fn add_table<M: TableMemory>(
        &mut self,
        memory: &M,
        table: PhysAddr,
        shift: u8,
    ) -> Result<(), M::Error> {
        let next = self.first.map_or(0, |first| first.0 | MORE);
        memory.store(table, next | u64::from(shift) << SHIFT_AT)?;
        if self.first.is_none() {
            self.last = table;
        }
        self.first = Some(table);
        self.tables += 1;
        Ok(())
    }

    /// Takes over all that `other` has left to do. Where linking its tables fails, they leak, and its range is taken over
    /// all the same.
    pub fn append<M: TableMemory>(&mut self, memory: &M, other: Self) -> Result<(), M::Error> {
        if let Some((first, last)) = other.range {
            self.add_range(first, last);
        }
        if let Some(shift) = other.page_shift {
            self.add_page(shift);
        }
        let Some(others) = other.first else {
            return Ok(());
        };
        if let Some(ours) = self.first {
            let link = memory.load(other.last)?;
            memory.store(other.last, link | ours.0 | MORE)?;
        } else {
            self.last = other.last;
        }
        self.first = Some(others);
        self.tables += other.tables;
        Ok(())
    }

    /// Gives the tables back and forgets the range. To be called after the invalidation has completed.
    pub fn release<M: TableMemory + TableAllocator>(&mut self, memory: &M) -> Result<(), M::Error> {
        while let Some(table) = self.first {
            let link = memory.load(table)?;
            self.first = (link & MORE != 0).then_some(PhysAddr(link & !0xfff));
            self.tables -= 1;
            memory.free(table, (link >> SHIFT_AT) as u8 & 0x3f);
        }
        *self = Self::new();
        Ok(())
    }
}
