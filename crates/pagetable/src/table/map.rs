//! Mapping: the largest pages that fit, all or nothing.

use super::{Chain, Error, Gather, PageTable, Span, entry};
use crate::{Attributes, Entry, Format, MAX_LEVELS, TableAllocator, TableMemory};
use portcullis_spec::{Iova, PhysAddr};

/// What to map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Map {
    /// First input address.
    pub iova: Iova,
    /// What it translates to.
    pub address: PhysAddr,
    /// Bytes. `iova`, `address` and this are multiples of the smallest page that is allowed.
    pub size: u64,
    /// What is permitted, and how memory is to be treated.
    pub attributes: Attributes,
    /// Page sizes that may be used, of those that the format has: bit *n* stands for 2^*n* bytes.
    pub page_sizes: u64,
}

impl Map {
    /// `size` bytes from `iova` on to `address` on, in pages of any size.
    #[must_use]
    #[inline]
    pub const fn new(iova: Iova, address: PhysAddr, size: u64, attributes: Attributes) -> Self {
        Self { iova, address, size, attributes, page_sizes: u64::MAX }
    }
}

/// A stretch of equal pages: log2 of their bytes, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    shift: u8,
    pages: u64,
}

/// The next stretch to map: the largest page of `sizes` that fits at `offset` and `address` within `remaining` bytes, and
/// as many as it takes to the end or to where a larger one fits.
///
/// All three are multiples of the smallest of `sizes`, and `remaining` is not 0.
#[inline]
fn stretch(sizes: u64, offset: u64, address: u64, remaining: u64) -> Stretch {
    let smallest = sizes.trailing_zeros();
    let others = sizes & (sizes - 1);
    if others == 0 || remaining >> others.trailing_zeros() == 0 {
        return Stretch { shift: smallest as u8, pages: remaining >> smallest };
    }
    let fits = (offset | address).trailing_zeros().min(remaining.ilog2());
    let shift = (sizes & (u64::MAX >> (63 - fits))).ilog2();
    let larger = sizes & (u64::MAX << shift) & !(1 << shift);
    let mut bytes = remaining;
    if larger != 0 {
        let next = 1u64 << larger.trailing_zeros();
        let below = offset & (next - 1);
        let boundary = next - below;
        if (offset ^ address) & (next - 1) == 0 && below != 0 && remaining.saturating_sub(boundary) >= next {
            bytes = boundary;
        }
    }
    Stretch { shift: shift as u8, pages: bytes >> shift }
}

impl<F: Format, M: TableMemory + TableAllocator> PageTable<F, M> {
    /// Maps a range with the largest pages that fit. Nothing of the range may be mapped before.
    ///
    /// Where it fails, nothing of the range is mapped after; tables that the range doesn't wholly cover may stay, empty.
    ///
    /// `gather` usually stays empty. It does not where a large page took the place of a table that earlier unmaps had left
    /// empty, or where something was already mapped when it failed: then the range must be invalidated before anyone
    /// relies on it. A unit that caches entries that are not present (VT-d caching mode) wants an
    /// invalidation after every map; that is the caller's to know.
    #[inline]
    pub fn map(&self, map: &Map, gather: &mut Gather) -> Result<(), Error<M::Error>> {
        let sizes = self.format.page_sizes() & map.page_sizes;
        if sizes == 0 {
            return Err(Error::UnsupportedSize { allowed: map.page_sizes });
        }
        self.format.expressible(&map.attributes)?;
        let smallest = sizes.trailing_zeros() as u8;
        let span = self.span(map.iova, map.size, smallest)?;
        if map.address.0 & ((1 << smallest) - 1) != 0 {
            return Err(Error::Misaligned { shift: smallest });
        }
        let last = map.address.0.checked_add(map.size - 1);
        if last.is_none_or(|last| last > u64::MAX >> (64 - self.format.output_bits())) {
            return Err(Error::OutputOutOfRange { address: map.address });
        }
        // The short way for what most calls are: smallest pages, in one last table that exists.
        let granule = self.format.granule_shift();
        let others = sizes & (sizes - 1);
        let only_smallest = others == 0 || map.size >> others.trailing_zeros() == 0;
        if smallest == granule
            && only_smallest
            && self.in_one_last_table(span)
            && let Some(table) = self.last_table(span.first).map_err(Error::Memory)?
        {
            return self.write(
                table,
                0,
                granule,
                span.first,
                map.address.0,
                map.size >> granule,
                map,
                gather,
            );
        }
        self.map_stretches(map, sizes, span, gather)
    }

    #[inline(never)]
    fn map_stretches(
        &self,
        map: &Map,
        sizes: u64,
        span: Span,
        gather: &mut Gather,
    ) -> Result<(), Error<M::Error>> {
        let mut offset = span.first;
        let mut address = map.address.0;
        let mut remaining = map.size;
        loop {
            let stretch = stretch(sizes, offset, address, remaining);
            let bytes = match self.map_stretch(stretch, offset, address, map, gather) {
                Ok(bytes) => bytes,
                Err(error) => {
                    if offset != span.first {
                        self.roll_back(Span { first: span.first, last: offset - 1 }, gather)?;
                    }
                    return Err(error);
                }
            };
            remaining -= bytes;
            if remaining == 0 {
                return Ok(());
            }
            offset += bytes;
            address += bytes;
        }
    }

    /// Writes as many pages of a stretch as one table takes; returns their bytes.
    fn map_stretch(
        &self,
        stretch: Stretch,
        offset: u64,
        address: u64,
        map: &Map,
        gather: &mut Gather,
    ) -> Result<u64, Error<M::Error>> {
        let shift = stretch.shift;
        let level = self.format.level_of(shift);
        let run_bits = shift - self.format.span_shift(level);
        let table = self.table_for(level, offset)?;
        let pages = stretch.pages.min((self.entries(level) - self.index(level, offset)) >> run_bits);
        self.write(table, level, shift, offset, address, pages << run_bits, map, gather)?;
        Ok(pages << shift)
    }

    /// Writes `count` entries of pages of `1 << shift` bytes into `table`, of `level`, from that for `offset` on, where
    /// nothing may be mapped.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "where, what size, to what, and how")]
    fn write(
        &self,
        table: PhysAddr,
        level: u8,
        shift: u8,
        offset: u64,
        address: u64,
        count: u64,
        map: &Map,
        gather: &mut Gather,
    ) -> Result<(), Error<M::Error>> {
        let span_shift = self.format.span_shift(level);
        let at = entry(table, self.index(level, offset));
        // Copies, which what is written to memory cannot change: the loop below then computes little but addresses.
        let (format, attributes) = (self.format, map.attributes);
        if count == 1 {
            if self.load(at)? != 0 {
                self.make_empty(at, 1, level, offset, gather)?;
            }
            return self.store(at, format.encode_leaf(level, shift, address, &attributes));
        }
        if self.memory.find_used(at, count as usize).map_err(Error::Memory)?.is_some() {
            self.make_empty(at, count, level, offset, gather)?;
        }
        let written = self.memory.store_run(at, count as usize, move |step| {
            format.encode_leaf(level, shift, address + ((step as u64) << span_shift), &attributes)
        });
        if let Err(error) = written {
            gather.add_range(self.iova(offset), self.iova(offset + ((count << span_shift) - 1)));
            // Memory that fails has failed already: the first error is the one to report.
            let _ = self.memory.store_run(at, count as usize, |_| 0);
            return Err(Error::Memory(error));
        }
        Ok(())
    }

    /// The table of `level` that serves `offset`, with those above it, allocated where there is none.
    #[inline]
    fn table_for(&self, level: u8, offset: u64) -> Result<PhysAddr, Error<M::Error>> {
        let mut table = self.root;
        let mut above = self.format.top();
        while above > level {
            let at = entry(table, self.index(above, offset));
            let mut raw = self.load(at)?;
            loop {
                match self.decode(above, raw, offset)? {
                    Entry::Table(next) if next.level + 1 == above => {
                        table = PhysAddr(next.address);
                        break;
                    }
                    Entry::Table(_) => return Err(self.corrupt(above, offset, crate::Invalid::NextLevel)),
                    Entry::Empty => match self.install(at, raw, above, level, offset)? {
                        Ok(bottom) => return Ok(bottom),
                        Err(seen) => raw = seen,
                    },
                    _ => return Err(Error::Overlap { iova: self.iova(offset) }),
                }
            }
            above -= 1;
        }
        Ok(table)
    }

    /// Builds the tables of levels `above - 1` down to `level` and installs them, all at once, in the entry of level
    /// `above` at `at`. Returns the lowest; or what another thread has written there before.
    #[cold]
    #[inline(never)]
    fn install(
        &self,
        at: PhysAddr,
        expected: u64,
        above: u8,
        level: u8,
        offset: u64,
    ) -> Result<Result<PhysAddr, u64>, Error<M::Error>> {
        let mut chain = Chain { tables: [PhysAddr(0); MAX_LEVELS], count: 0 };
        let result = self.build_and_install(&mut chain, at, expected, above, level, offset);
        if !matches!(result, Ok(Ok(_))) {
            for table in &chain.tables[..chain.count] {
                self.memory.free(*table, self.format.granule_shift());
            }
        }
        result
    }

    fn build_and_install(
        &self,
        chain: &mut Chain,
        at: PhysAddr,
        expected: u64,
        above: u8,
        level: u8,
        offset: u64,
    ) -> Result<Result<PhysAddr, u64>, Error<M::Error>> {
        let bottom = self.allocate(chain)?;
        let mut below = bottom;
        for between in level + 1..above {
            let table = self.allocate(chain)?;
            let raw = self.format.encode_table(between, below.0);
            self.store(entry(table, self.index(between, offset)), raw)?;
            below = table;
        }
        let raw = self.format.encode_table(above, below.0);
        Ok(self.exchange(at, expected, raw)?.map(|()| bottom))
    }

    fn allocate(&self, chain: &mut Chain) -> Result<PhysAddr, Error<M::Error>> {
        let table = self.memory.allocate(self.format.granule_shift()).ok_or(Error::AllocatorEmpty)?;
        chain.tables[chain.count] = table;
        chain.count += 1;
        Ok(table)
    }

    /// Makes sure that `count` entries from `at` on, of `level`, hold nothing: tables that have become empty are taken out.
    #[cold]
    #[inline(never)]
    fn make_empty(
        &self,
        at: PhysAddr,
        count: u64,
        level: u8,
        offset: u64,
        gather: &mut Gather,
    ) -> Result<(), Error<M::Error>> {
        // All are checked before the first is taken out: an overlap leaves the tables as they were.
        for take_out in [false, true] {
            for step in 0..count {
                let here = offset + (step << self.format.span_shift(level));
                let raw = self.load(entry(at, step))?;
                match self.decode(level, raw, here)? {
                    Entry::Empty => {}
                    Entry::Table(next) if take_out => {
                        self.store(entry(at, step), 0)?;
                        self.free_table(&next, self.entry_span(level, here), gather)?;
                        let span = self.entry_span(level, here);
                        gather.add_range(self.iova(span.first), self.iova(span.last));
                    }
                    Entry::Table(next) => {
                        let span = self.table_span(level, &next, self.entry_span(level, here));
                        if let Some(used) = self.first_mapped(PhysAddr(next.address), next.level, span)? {
                            return Err(Error::Overlap { iova: self.iova(used) });
                        }
                    }
                    _ => return Err(Error::Overlap { iova: self.iova(here) }),
                }
            }
        }
        Ok(())
    }

    /// The lowest mapped offset of `span`, all of which a table of `level` serves.
    fn first_mapped(&self, table: PhysAddr, level: u8, span: Span) -> Result<Option<u64>, Error<M::Error>> {
        for index in 0..self.entries(level) {
            let here = span.first + (index << self.format.span_shift(level));
            match self.decode(level, self.load(entry(table, index))?, here)? {
                Entry::Empty | Entry::Invalid(_) => {}
                Entry::Leaf(_) => return Ok(Some(here)),
                Entry::Table(next) => {
                    let below = self.table_span(level, &next, self.entry_span(level, here));
                    if let Some(used) = self.first_mapped(PhysAddr(next.address), next.level, below)? {
                        return Ok(Some(used));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Takes back what a failed map has mapped before it failed.
    #[cold]
    #[inline(never)]
    fn roll_back(&self, span: Span, gather: &mut Gather) -> Result<(), Error<M::Error>> {
        gather.add_range(self.iova(span.first), self.iova(span.last));
        self.clear(self.root, self.format.top(), span, gather).map(|_| ())
    }
}
