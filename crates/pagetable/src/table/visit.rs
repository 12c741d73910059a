//! Going through what is mapped.

use super::{Error, PageTable, Span, entry};
use crate::{Attributes, Entry, Format, Leaf, TableMemory};
use portcullis_spec::{Iova, PhysAddr};

/// A page that is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Its first input address.
    pub iova: Iova,
    /// What that translates to.
    pub address: PhysAddr,
    /// log2 of its bytes.
    pub shift: u8,
    /// What it permits, and its marks. Those of a run are of the first of its entries in the range.
    pub attributes: Attributes,
}

/// A leaf as it lies in its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) at: PhysAddr,
    pub(super) raw: u64,
    pub(super) level: u8,
    pub(super) leaf: Leaf,
    /// First offset that the entry spans.
    pub(super) offset: u64,
}

impl Found {
    /// The page that it belongs to.
    pub(super) fn page(&self) -> Span {
        let within = (1 << self.leaf.run_shift) - 1;
        Span { first: self.offset & !within, last: self.offset | within }
    }
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Calls `visitor` with every page that has a byte in the range, in ascending order.
    pub fn for_each_page(
        &self,
        iova: Iova,
        size: u64,
        mut visitor: impl FnMut(Page),
    ) -> Result<(), Error<M::Error>> {
        let span = self.span(iova, size, 0)?;
        let mut end_of_last = None;
        self.visit(self.root, self.format.top(), span, &mut |found| {
            let page = found.page();
            if end_of_last.is_some_and(|end| page.first <= end) {
                return Ok(());
            }
            end_of_last = Some(page.last);
            visitor(Page {
                iova: self.iova(page.first),
                address: PhysAddr(found.leaf.address & !(page.last - page.first)),
                shift: found.leaf.run_shift,
                attributes: found.leaf.attributes,
            });
            Ok(())
        })
    }

    /// Calls `visitor` with every leaf entry that spans a byte of `span`, in ascending order.
    pub(super) fn visit(
        &self,
        table: PhysAddr,
        level: u8,
        span: Span,
        visitor: &mut impl FnMut(Found) -> Result<(), Error<M::Error>>,
    ) -> Result<(), Error<M::Error>> {
        for index in self.index(level, span.first)..=self.index(level, span.last) {
            let at = entry(table, index);
            let raw = self.load(at)?;
            if raw == 0 {
                continue;
            }
            let offset = self.offset_of(level, index, span);
            match self.decode(level, raw, offset)? {
                Entry::Empty | Entry::Invalid(_) => {}
                Entry::Leaf(leaf) => visitor(Found { at, raw, level, leaf, offset })?,
                Entry::Table(next) => {
                    let below = span.clip(self.table_span(level, &next, self.entry_span(level, offset)));
                    if below.first <= below.last {
                        self.visit(PhysAddr(next.address), next.level, below, visitor)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The leaf for `offset`, if there is one.
    pub(super) fn find_leaf(&self, offset: u64) -> Result<Option<Found>, Error<M::Error>> {
        let mut found = None;
        let here = Span { first: offset, last: offset };
        self.visit(self.root, self.format.top(), here, &mut |leaf| {
            found = Some(leaf);
            Ok(())
        })?;
        Ok(found)
    }

    /// First offset that entry `index` of a table of `level` spans, given any `span` that the table serves.
    #[inline]
    pub(super) fn offset_of(&self, level: u8, index: u64, span: Span) -> u64 {
        let shift = self.format.span_shift(level);
        let table = (self.entries(level) - 1) << shift | ((1 << shift) - 1);
        (span.first & !table) | index << shift
    }
}
