//! Changing what is mapped: permissions, and the dirty marks.

use super::{Error, Gather, PageTable, Split};
use crate::{Attributes, Entry, Flags, Format, Rights, TableAllocator, TableMemory};
use portcullis_spec::Iova;

impl<F: Format, M: TableMemory + TableAllocator> PageTable<F, M> {
    /// Gives everything that is mapped of `size` bytes from `iova` on these rights, and leaves all else as it is; returns
    /// how many bytes that were. Holes are no error.
    ///
    /// A page that lies only partly in the range is first split as `split` says. Where the format wants
    /// break-before-make, runs in the range are changed that way too. The range is added to `gather`.
    pub fn protect(
        &self,
        iova: Iova,
        size: u64,
        rights: Rights,
        split: &mut Split<'_>,
        gather: &mut Gather,
    ) -> Result<u64, Error<M::Error>> {
        let span = self.span(iova, size, self.smallest_shift())?;
        self.format.expressible(&Attributes::new(rights))?;
        self.split_ends(span, split, gather)?;
        let top = self.format.top();
        let break_runs = self.format.break_before_make();
        if break_runs && !matches!(split, Split::BreakBeforeMake(_)) {
            self.visit(self.root, top, span, &mut |found| {
                let page = found.page();
                if found.leaf.run_shift > self.format.span_shift(found.level) {
                    let (iova, shift) = (self.iova(page.first), found.leaf.run_shift);
                    return Err(Error::BreakNeeded { iova, shift });
                }
                Ok(())
            })?;
        }
        let change = |attributes: Attributes| Attributes { rights, ..attributes };
        let mut bytes = 0;
        let mut done = None;
        let result = self.visit(self.root, top, span, &mut |found| {
            bytes += 1 << self.format.span_shift(found.level);
            gather.add_page(found.leaf.run_shift);
            if break_runs && found.leaf.run_shift > self.format.span_shift(found.level) {
                if done.is_none_or(|end| end < found.offset) {
                    self.rewrite_run(&found, found.leaf.run_shift, change, split)?;
                    done = Some(found.page().last);
                }
                return Ok(());
            }
            let mut raw = found.raw;
            while let Entry::Leaf(leaf) = self.decode(found.level, raw, found.offset)? {
                let address = leaf.address + (found.offset & ((1 << leaf.shift) - 1));
                let changed = change(leaf.attributes);
                let new = self.format.encode_leaf(found.level, leaf.run_shift, address, &changed);
                match self.exchange(found.at, raw, new)? {
                    Ok(()) => break,
                    Err(seen) => raw = seen,
                }
            }
            Ok(())
        });
        if bytes != 0 {
            gather.add_range(iova, Iova(iova.0 + (size - 1)));
        }
        result.map(|()| bytes)
    }
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Calls `visitor` with every page that has a byte in the range and is marked dirty: its first address and log2 of its
    /// bytes, in ascending order. Of a run, entries that span no byte of the range are not asked.
    pub fn read_dirty(
        &self,
        iova: Iova,
        size: u64,
        visitor: impl FnMut(Iova, u8),
    ) -> Result<(), Error<M::Error>> {
        self.dirty(iova, size, None, visitor)
    }

    /// As [`read_dirty`](Self::read_dirty), and clears the marks of what it reports. The report is of whole pages, even
    /// where the range cuts them: nothing is lost if the caller heeds all of it.
    ///
    /// Writes by a unit that has cached the mark are not seen until the range in `gather` is invalidated. A mark
    /// set meanwhile is either reported or left, never lost.
    pub fn clear_dirty(
        &self,
        iova: Iova,
        size: u64,
        gather: &mut Gather,
        visitor: impl FnMut(Iova, u8),
    ) -> Result<(), Error<M::Error>> {
        self.dirty(iova, size, Some(gather), visitor)
    }

    fn dirty(
        &self,
        iova: Iova,
        size: u64,
        mut clear: Option<&mut Gather>,
        mut visitor: impl FnMut(Iova, u8),
    ) -> Result<(), Error<M::Error>> {
        let span = self.span(iova, size, 0)?;
        let mut reported = None;
        self.visit(self.root, self.format.top(), span, &mut |found| {
            let is_dirty = |raw| match self.format.decode(found.level, raw) {
                Entry::Leaf(leaf) => leaf.attributes.flags.contains(Flags::DIRTY),
                _ => false,
            };
            if !is_dirty(found.raw) {
                return Ok(());
            }
            let page = found.page();
            if let Some(gather) = &mut clear {
                let mut raw = found.raw;
                while is_dirty(raw) {
                    match self.exchange(found.at, raw, self.format.without_dirty(found.level, raw))? {
                        Ok(()) => break,
                        Err(seen) => raw = seen,
                    }
                }
                gather.add_range(self.iova(page.first), self.iova(page.last));
                gather.add_page(found.leaf.run_shift);
            }
            if reported.is_none_or(|end| end < page.first) {
                visitor(self.iova(page.first), found.leaf.run_shift);
                reported = Some(page.last);
            }
            Ok(())
        })
    }
}
