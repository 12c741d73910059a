//! Splitting pages that a range cuts.
//!
//! A page is split one step at a time: a run into its entries, and a leaf into a table of leaves of the next smaller span. What the
//! addresses translate to stays the same throughout, and so do the marks.

use super::visit::Found;
use super::{Error, Gather, PageTable, Span, entry};
use crate::{Attributes, Entry, Flags, Format, TableAllocator, TableMemory};
use portcullis_spec::{Iova, PhysAddr};

/// What to do with a page that the range cuts.
pub enum Split<'a> {
    /// Nothing: [`Error::PartOfPage`].
    Refuse,
    /// Replace it in one exchange by smaller pages that translate the same. Right wherever caches may hold pages of both
    /// sizes for one address: x86, VT-d, AMD-Vi, RISC-V, and Arm with BBML 2.
    /// Formats for which that is wrong refuse with [`Error::BreakNeeded`].
    Exchange,
    /// Break before make (Arm D8.16.1): empty the entries, call this to invalidate the range (first and last byte) in all
    /// caches and wait until that is done, then write the smaller pages. Meanwhile accesses to the whole page fault.
    BreakBeforeMake(&'a mut dyn FnMut(Iova, Iova)),
}

impl core::fmt::Debug for Split<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Refuse => "Refuse",
            Self::Exchange => "Exchange",
            Self::BreakBeforeMake(_) => "BreakBeforeMake",
        })
    }
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Writes the run that `found` belongs to anew, as pages of `1 << shift` bytes with changed attributes. A mark that one
    /// entry has, all get.
    pub(super) fn rewrite_run(
        &self,
        found: &Found,
        shift: u8,
        change: impl Fn(Attributes) -> Attributes,
        split: &mut Split<'_>,
    ) -> Result<(), Error<M::Error>> {
        let page = found.page();
        let span_shift = self.format.span_shift(found.level);
        let count = 1u64 << (found.leaf.run_shift - span_shift);
        let first = PhysAddr(found.at.0 - ((found.offset - page.first) >> span_shift) * 8);
        let address = found.leaf.address & !(page.last - page.first);
        let encode = |index: u64, attributes: &Attributes| {
            self.format.encode_leaf(found.level, shift, address + (index << span_shift), attributes)
        };
        let mut attributes = found.leaf.attributes;
        if let Split::BreakBeforeMake(invalidate) = split {
            for index in 0..count {
                attributes.flags |= self.take(entry(first, index), found.level, page.first)?;
            }
            invalidate(self.iova(page.first), self.iova(page.last));
            let attributes = change(attributes);
            let made =
                self.memory.store_run(first, count as usize, |index| encode(index as u64, &attributes));
            return made.map_err(Error::Memory);
        }
        for index in 0..count {
            attributes.flags |= self.marks(self.load(entry(first, index))?, found.level, page.first)?;
        }
        for index in 0..count {
            let at = entry(first, index);
            let mut raw = self.load(at)?;
            loop {
                attributes.flags |= self.marks(raw, found.level, page.first)?;
                match self.exchange(at, raw, encode(index, &change(attributes)))? {
                    Ok(()) => break,
                    Err(seen) => raw = seen,
                }
            }
        }
        Ok(())
    }

    /// Empties an entry; returns the marks that it had at last.
    pub(super) fn take(&self, at: PhysAddr, level: u8, offset: u64) -> Result<Flags, Error<M::Error>> {
        let mut raw = self.load(at)?;
        while let Err(seen) = self.exchange(at, raw, 0)? {
            raw = seen;
        }
        self.marks(raw, level, offset)
    }

    fn marks(&self, raw: u64, level: u8, offset: u64) -> Result<Flags, Error<M::Error>> {
        Ok(match self.decode(level, raw, offset)? {
            Entry::Leaf(leaf) => leaf.attributes.flags,
            _ => Flags::empty(),
        })
    }
}

impl<F: Format, M: TableMemory + TableAllocator> PageTable<F, M> {
    /// Splits until no page lies across either end of `span`.
    pub(super) fn split_ends(
        &self,
        span: Span,
        split: &mut Split<'_>,
        gather: &mut Gather,
    ) -> Result<(), Error<M::Error>> {
        self.split_at(span.first, split, gather)?;
        let highest = u64::MAX >> (64 - self.format.input_bits());
        if span.last < highest { self.split_at(span.last + 1, split, gather) } else { Ok(()) }
    }

    fn split_at(
        &self,
        boundary: u64,
        split: &mut Split<'_>,
        gather: &mut Gather,
    ) -> Result<(), Error<M::Error>> {
        while let Some(found) = self.find_leaf(boundary)? {
            let page = found.page();
            if page.first == boundary {
                break;
            }
            let (iova, last) = (self.iova(page.first), self.iova(page.last));
            let shift = found.leaf.run_shift;
            match split {
                Split::Refuse => return Err(Error::PartOfPage { iova, shift }),
                Split::Exchange if self.format.break_before_make() => {
                    return Err(Error::BreakNeeded { iova, shift });
                }
                _ => {}
            }
            let span_shift = self.format.span_shift(found.level);
            let is_run = shift > span_shift;
            let smaller = match found.level {
                _ if is_run => span_shift,
                0 => return Err(Error::PartOfPage { iova, shift }),
                level => self.format.span_shift(level - 1),
            };
            if self.format.page_sizes() & (1 << smaller) == 0 {
                return Err(Error::PartOfPage { iova, shift });
            }
            gather.add_range(iova, last);
            gather.add_page(smaller);
            if is_run {
                self.rewrite_run(&found, smaller, |attributes| attributes, split)?;
            } else {
                self.split_leaf(&found, smaller, split)?;
            }
        }
        Ok(())
    }

    /// Puts a table of leaves of `1 << smaller` bytes in the place of a leaf.
    fn split_leaf(&self, found: &Found, smaller: u8, split: &mut Split<'_>) -> Result<(), Error<M::Error>> {
        let table = self.memory.allocate(self.format.granule_shift()).ok_or(Error::AllocatorEmpty)?;
        let result = self.exchange_leaf(found, table, smaller, split);
        if !matches!(result, Ok(true)) {
            self.memory.free(table, self.format.granule_shift());
        }
        result.map(|_| ())
    }

    /// Returns whether `table` was installed; it is not where somebody has removed the leaf meanwhile.
    fn exchange_leaf(
        &self,
        found: &Found,
        table: PhysAddr,
        smaller: u8,
        split: &mut Split<'_>,
    ) -> Result<bool, Error<M::Error>> {
        let level = found.level;
        let entry = self.format.encode_table(level, table.0);
        let mut attributes = found.leaf.attributes;
        if let Split::BreakBeforeMake(invalidate) = split {
            // Filled before the break, and again after it where marks have been set until then.
            self.fill(table, found, smaller, &attributes)?;
            attributes.flags |= self.take(found.at, level, found.offset)?;
            let page = found.page();
            invalidate(self.iova(page.first), self.iova(page.last));
            if attributes != found.leaf.attributes {
                self.fill(table, found, smaller, &attributes)?;
            }
            self.store(found.at, entry)?;
            return Ok(true);
        }
        let mut raw = found.raw;
        loop {
            self.fill(table, found, smaller, &attributes)?;
            match self.exchange(found.at, raw, entry)? {
                Ok(()) => return Ok(true),
                Err(seen) => raw = seen,
            }
            // A unit has set a mark meanwhile.
            let Entry::Leaf(leaf) = self.decode(level, raw, found.offset)? else {
                return Ok(false);
            };
            attributes = leaf.attributes;
        }
    }

    fn fill(
        &self,
        table: PhysAddr,
        found: &Found,
        smaller: u8,
        attributes: &Attributes,
    ) -> Result<(), Error<M::Error>> {
        let level = found.level - 1;
        self.memory
            .store_run(table, self.entries(level) as usize, |index| {
                let address = found.leaf.address + ((index as u64) << smaller);
                self.format.encode_leaf(level, smaller, address, attributes)
            })
            .map_err(Error::Memory)
    }
}
