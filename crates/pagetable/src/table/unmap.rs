//! Unmapping.

use super::{Error, Gather, PageTable, Span, Split, entry};
use crate::{Entry, Format, TableAllocator, TableEntry, TableMemory};
use portcullis_spec::{Iova, PhysAddr};

impl<F: Format, M: TableMemory + TableAllocator> PageTable<F, M> {
    /// Unmaps whatever is mapped of `size` bytes from `iova` on; returns how many bytes were. Holes are no error.
    ///
    /// A page that lies only partly in the range is first split as `split` says. What must be invalidated is added to
    /// `gather`, and with it the tables that the range covers wholly: until the invalidation the unit may
    /// use either. Tables that it covers in part stay, even where nothing is mapped in them any more:
    /// [`reclaim`](Self::reclaim) finds those.
    #[inline]
    pub fn unmap(
        &self,
        iova: Iova,
        size: u64,
        split: &mut Split<'_>,
        gather: &mut Gather,
    ) -> Result<u64, Error<M::Error>> {
        let span = self.span(iova, size, self.smallest_shift())?;
        let bytes = match self.clear_in_last_table(span).map_err(Error::Memory)? {
            Some(0) => return Ok(0),
            Some(bytes) => {
                gather.add_page(self.format.granule_shift());
                bytes
            }
            None => self.split_and_clear(span, split, gather)?,
        };
        if bytes != 0 {
            gather.add_range(iova, Iova(iova.0 + (size - 1)));
        }
        Ok(bytes)
    }

    #[cold]
    #[inline(never)]
    fn split_and_clear(
        &self,
        span: Span,
        split: &mut Split<'_>,
        gather: &mut Gather,
    ) -> Result<u64, Error<M::Error>> {
        self.split_ends(span, split, gather)?;
        self.clear(self.root, self.format.top(), span, gather)
    }

    /// The short way for what most calls are: a part of one last table, and no run or large page in sight. `None` where it
    /// is anything else; then nothing has been done.
    #[inline]
    fn clear_in_last_table(&self, span: Span) -> Result<Option<u64>, M::Error> {
        if !self.in_one_last_table(span) {
            return Ok(None);
        }
        let Some(table) = self.last_table(span.first)? else {
            return Ok(None);
        };
        let granule = self.format.granule_shift();
        let is_page = |raw| match self.format.decode(0, raw) {
            Entry::Leaf(leaf) => (leaf.run_shift == granule).then_some(true),
            Entry::Empty => Some(false),
            _ => None,
        };
        let (first, last) = (self.index(0, span.first), self.index(0, span.last));
        // Only the pages at the ends can reach out of the range.
        let Some(mapped) = is_page(self.memory.load(entry(table, first))?) else {
            return Ok(None);
        };
        if first == last {
            if !mapped {
                return Ok(Some(0));
            }
            self.memory.store(entry(table, first), 0)?;
            return Ok(Some(1 << granule));
        }
        if is_page(self.memory.load(entry(table, last))?).is_none() {
            return Ok(None);
        }
        // A copy, which what is written to memory cannot change.
        let format = self.format;
        let is_leaf = move |raw| matches!(format.decode(0, raw), Entry::Leaf(_));
        let count = (last - first + 1) as usize;
        let cleared = self.memory.clear_run(entry(table, first), count, is_leaf)?;
        Ok(Some((cleared as u64) << granule))
    }

    /// Clears the leaves of `span` below `table`, of `level`, and takes out the tables that it covers; returns the bytes
    /// that were mapped. No page lies partly in `span`.
    pub(super) fn clear(
        &self,
        mut table: PhysAddr,
        mut level: u8,
        mut span: Span,
        gather: &mut Gather,
    ) -> Result<u64, Error<M::Error>> {
        // Down to the table that has more than one entry of the range, or the leaf.
        while level != 0 && self.index(level, span.first) == self.index(level, span.last) {
            let within = self.entry_span(level, span.first);
            if span.contains(within) {
                break;
            }
            let raw = self.load(entry(table, self.index(level, span.first)))?;
            let Entry::Table(next) = self.decode(level, raw, span.first)? else {
                break;
            };
            span = span.clip(self.table_span(level, &next, within));
            if span.first > span.last {
                return Ok(0);
            }
            table = PhysAddr(next.address);
            level = next.level;
        }
        let mut bytes = 0;
        for index in self.index(level, span.first)..=self.index(level, span.last) {
            let at = entry(table, index);
            let raw = self.load(at)?;
            if raw == 0 {
                continue;
            }
            let here = self.offset_of(level, index, span);
            let within = self.entry_span(level, here);
            match self.decode(level, raw, here)? {
                Entry::Empty | Entry::Invalid(_) => {}
                Entry::Leaf(leaf) => {
                    self.store(at, 0)?;
                    gather.add_page(leaf.run_shift);
                    bytes += 1 << self.format.span_shift(level);
                }
                Entry::Table(next) if span.contains(within) => {
                    self.store(at, 0)?;
                    let freed = self.free_table(&next, within, gather)?;
                    bytes += freed;
                    if freed == 0 {
                        gather.add_range(self.iova(within.first), self.iova(within.last));
                    }
                }
                Entry::Table(next) => {
                    let below = span.clip(self.table_span(level, &next, within));
                    if below.first <= below.last {
                        bytes += self.clear(PhysAddr(next.address), next.level, below, gather)?;
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Adds a table that was taken out, and all below it, to `gather`; returns the bytes that were mapped there.
    pub(super) fn free_table(
        &self,
        freed: &TableEntry,
        within: Span,
        gather: &mut Gather,
    ) -> Result<u64, Error<M::Error>> {
        let level = freed.level;
        let table = PhysAddr(freed.address);
        let mut bytes = 0;
        for index in 0..self.entries(level) {
            let raw = self.load(entry(table, index))?;
            if raw == 0 {
                continue;
            }
            let here = within.first + (index << self.format.span_shift(level));
            match self.decode(level, raw, here)? {
                Entry::Empty | Entry::Invalid(_) => {}
                Entry::Leaf(leaf) => {
                    gather.add_page(leaf.run_shift);
                    bytes += 1 << self.format.span_shift(level);
                }
                Entry::Table(next) => {
                    bytes += self.free_table(&next, self.entry_span(level, here), gather)?;
                }
            }
        }
        gather.add_table(&self.memory, table, self.format.granule_shift()).map_err(Error::Memory)?;
        Ok(bytes)
    }

    /// Takes out every table that serves any of `size` bytes from `iova` on and in which nothing is mapped. That nobody else
    /// uses the tables meanwhile is what `&mut self` is for.
    pub fn reclaim(&mut self, iova: Iova, size: u64, gather: &mut Gather) -> Result<(), Error<M::Error>> {
        let span = self.span(iova, size, self.smallest_shift())?;
        self.reclaim_below(self.root, self.format.top(), span, gather)
    }

    fn reclaim_below(
        &self,
        table: PhysAddr,
        level: u8,
        span: Span,
        gather: &mut Gather,
    ) -> Result<(), Error<M::Error>> {
        if level == 0 {
            return Ok(());
        }
        for index in self.index(level, span.first)..=self.index(level, span.last) {
            let at = entry(table, index);
            let here = self.offset_of(level, index, span);
            let Entry::Table(next) = self.decode(level, self.load(at)?, here)? else {
                continue;
            };
            let within = self.entry_span(level, here);
            let below = span.clip(self.table_span(level, &next, within));
            if below.first > below.last {
                continue;
            }
            let child = PhysAddr(next.address);
            self.reclaim_below(child, next.level, below, gather)?;
            if self.is_empty(child, next.level)? {
                self.store(at, 0)?;
                gather.add_table(&self.memory, child, self.format.granule_shift()).map_err(Error::Memory)?;
                gather.add_range(self.iova(within.first), self.iova(within.last));
            }
        }
        Ok(())
    }

    fn is_empty(&self, table: PhysAddr, level: u8) -> Result<bool, Error<M::Error>> {
        for index in 0..self.entries(level) {
            if !matches!(self.format.decode(level, self.load(entry(table, index))?), Entry::Empty) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
