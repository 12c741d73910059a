//! The engine: tables that are written.

mod change;
mod error;
mod gather;
mod map;
mod split;
mod unmap;
mod visit;

pub use error::Error;
pub use gather::Gather;
pub use map::Map;
pub use split::Split;
pub use visit::Page;

use crate::walk::index;
use crate::{
    Cause, Entry, Format, Invalid, MAX_LEVELS, Mapping, TableAllocator, TableEntry, TableMemory, Walk, walk,
};
use portcullis_spec::{Iova, PhysAddr};

/// A page table that this engine writes: `F` says how, `M` where.
///
/// Operations take `&self`. Any number of threads may work at once as long as their ranges are disjoint: tables are
/// installed by compare-exchange, and the one that loses gives its table back. A table is removed only by an operation whose range
/// covers all that it spans, so that nobody else can be in it. Operations on overlapping ranges must be kept apart by the
/// caller; if they are not, entries may be lost, but memory outside the tables is never touched.
///
/// Beside the tables nothing is kept. Dropping the value frees nothing: [`destroy`](Self::destroy) does.
#[derive(Debug)]
pub struct PageTable<F, M> {
    format: F,
    root: PhysAddr,
    memory: M,
}

/// An inclusive range of offsets: input addresses without what extends them.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    last: u64,
}

impl Span {
    /// The part of this range that `other` has too.
    fn clip(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl<F: Format, M: TableMemory> PageTable<F, M> {
    /// Takes over tables that exist already: a root of this format, valid for as long as the value lives. Entries that
    /// lead past a level (AMD v1) are followed, but nothing new is mapped below them.
    #[must_use]
    pub const fn adopt(format: F, root: PhysAddr, memory: M) -> Self {
        Self { format, root, memory }
    }

    /// The format.
    #[must_use]
    pub const fn format(&self) -> &F {
        &self.format
    }

    /// Where the root table lies.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// The memory in which the tables lie.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// Walks the tables for `iova`, as a unit would.
    #[inline(always)]
    pub fn walk(&self, iova: Iova) -> Walk<PhysAddr, M::Error> {
        walk(&self.format, self.root, iova, |at| self.memory.load(at))
    }

    /// What `iova` translates to, or `None` where it is not mapped. The rights in the attributes are the leaf's: tables
    /// that this engine writes limit nothing.
    pub fn query(&self, iova: Iova) -> Result<Option<Mapping<PhysAddr>>, Error<M::Error>> {
        self.walk(iova).end.map_or_else(
            |error| match error.cause {
                Cause::NotPresent | Cause::SkippedBits => Ok(None),
                Cause::OutOfRange => Err(Error::OutOfRange { iova }),
                Cause::Invalid(rule) => Err(Error::Corrupt { iova, level: error.level, rule }),
                Cause::Load(error) => Err(Error::Memory(error)),
            },
            |mapping| Ok(Some(mapping)),
        )
    }

    /// The range as offsets, or why there is none. Both ends must be multiples of `1 << shift`.
    #[inline]
    fn span(&self, iova: Iova, size: u64, shift: u8) -> Result<Span, Error<M::Error>> {
        if size == 0 {
            return Err(Error::EmptyRange);
        }
        if (iova.0 | size) & ((1 << shift) - 1) != 0 {
            return Err(Error::Misaligned { shift });
        }
        let ends = iova.0.checked_add(size - 1).and_then(|last| {
            let (first, last) = (self.format.offset(iova.0)?, self.format.offset(last)?);
            (last.wrapping_sub(first) == size - 1).then_some(Span { first, last })
        });
        ends.ok_or(Error::OutOfRange { iova })
    }

    /// log2 of the smallest page of the format.
    #[inline]
    fn smallest_shift(&self) -> u8 {
        self.format.page_sizes().trailing_zeros() as u8
    }

    #[inline]
    fn iova(&self, offset: u64) -> Iova {
        Iova(self.format.input(offset))
    }

    #[inline]
    fn load(&self, at: PhysAddr) -> Result<u64, Error<M::Error>> {
        self.memory.load(at).map_err(Error::Memory)
    }

    #[inline]
    fn store(&self, at: PhysAddr, raw: u64) -> Result<(), Error<M::Error>> {
        self.memory.store(at, raw).map_err(Error::Memory)
    }

    /// Replaces `expected` by `new`; `Err` within `Ok` is what was there instead.
    #[inline]
    fn exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<Result<(), u64>, Error<M::Error>> {
        let seen = self.memory.compare_exchange(at, expected, new).map_err(Error::Memory)?;
        Ok(if seen == expected { Ok(()) } else { Err(seen) })
    }

    /// Decodes an entry of our own tables: one that breaks a rule is an error.
    #[inline]
    fn decode(&self, level: u8, raw: u64, offset: u64) -> Result<Entry, Error<M::Error>> {
        match self.format.decode(level, raw) {
            Entry::Invalid(rule) => Err(self.corrupt(level, offset, rule)),
            Entry::Table(next) if next.level >= level => Err(self.corrupt(level, offset, Invalid::NextLevel)),
            entry => Ok(entry),
        }
    }

    fn corrupt(&self, level: u8, offset: u64, rule: Invalid) -> Error<M::Error> {
        Error::Corrupt { iova: self.iova(offset), level, rule }
    }

    /// Number of entries of a table at `level`.
    #[inline]
    fn entries(&self, level: u8) -> u64 {
        1 << self.format.index_bits(level)
    }

    /// The index of `offset`'s entry in a table of `level`.
    #[inline]
    fn index(&self, level: u8, offset: u64) -> u64 {
        index(&self.format, level, offset)
    }

    /// Whether `span` is a part of what one table of level 0 serves, and not all of it.
    #[inline]
    fn in_one_last_table(&self, span: Span) -> bool {
        let serves = self.format.granule_shift() + self.format.index_bits(0);
        span.last - span.first < (1 << serves) - (1 << self.format.granule_shift())
            && (span.first ^ span.last) & (u64::MAX << (serves - 1)) << 1 == 0
    }

    /// The table of level 0 that serves `offset`, where the way to it is the plain one.
    #[inline]
    fn last_table(&self, offset: u64) -> Result<Option<PhysAddr>, M::Error> {
        let mut table = self.root;
        let mut shift = self.format.span_shift(self.format.top());
        let mut index = offset >> shift;
        for level in (1..self.format.levels()).rev() {
            match self.format.decode(level, self.memory.load(entry(table, index))?) {
                Entry::Table(next) if next.level + 1 == level => table = PhysAddr(next.address),
                _ => return Ok(None),
            }
            shift -= self.format.table_bits();
            index = (offset >> shift) & ((1 << self.format.table_bits()) - 1);
        }
        Ok(Some(table))
    }

    /// The offsets that the entry of `level` around `offset` spans.
    #[inline]
    fn entry_span(&self, level: u8, offset: u64) -> Span {
        let within = (1 << self.format.span_shift(level)) - 1;
        Span { first: offset & !within, last: offset | within }
    }

    /// The offsets that the table behind `next` serves, of those that `entry`, of `level`, spans: fewer where levels are skipped.
    #[inline]
    fn table_span(&self, level: u8, next: &TableEntry, entry: Span) -> Span {
        if next.level + 1 == level {
            return entry;
        }
        Span { first: entry.first, last: entry.first + ((1 << self.format.span_shift(next.level + 1)) - 1) }
    }
}

impl<F: Format, M: TableMemory + TableAllocator> PageTable<F, M> {
    /// An empty table with a root from the allocator.
    pub fn new(format: F, memory: M) -> Result<Self, Error<M::Error>> {
        let root = memory.allocate(format.root_shift()).ok_or(Error::AllocatorEmpty)?;
        Ok(Self { format, root, memory })
    }

    /// Gives all tables back at once, the root included. To be called when no unit uses them any more.
    pub fn destroy(self) -> Result<(), Error<M::Error>> {
        self.destroy_below(self.root, self.format.top())?;
        self.memory.free(self.root, self.format.root_shift());
        Ok(())
    }

    fn destroy_below(&self, table: PhysAddr, level: u8) -> Result<(), Error<M::Error>> {
        if level == 0 {
            return Ok(());
        }
        for index in 0..self.entries(level) {
            let raw = self.load(entry(table, index))?;
            if let Entry::Table(next) = self.format.decode(level, raw)
                && next.level < level
            {
                self.destroy_below(PhysAddr(next.address), next.level)?;
                self.memory.free(PhysAddr(next.address), self.format.granule_shift());
            }
        }
        Ok(())
    }
}

/// Where entry `index` of `table` lies.
#[inline]
fn entry(table: PhysAddr, index: u64) -> PhysAddr {
    PhysAddr(table.0.wrapping_add(index * 8))
}

/// The tables of one path that were allocated and are not yet reachable.
struct Chain {
    tables: [PhysAddr; MAX_LEVELS],
    count: usize,
}
