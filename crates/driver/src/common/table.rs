//! A domain's page table: one of the engine's formats, chosen at run time once per operation.

use core::convert::Infallible;

use portcullis_pagetable::format::{AnyFormat, ArmStage1, ArmStage2, Riscv, VtdSecondStage, X86};
use portcullis_pagetable::{
    Attributes, Format, Gather, Map, Mapping, PageTable, Rights, Split, TableAllocator, TableMemory,
};
use portcullis_spec::{Access, Iova, PhysAddr};

use crate::platform::Memory;

/// Why the page tables refuse. Table memory itself never fails.
pub type TableError = portcullis_pagetable::Error<Infallible>;

/// The format of a domain whose written pages are tracked. Arm's entries are others then: writable pages that are clean are read-only to a
/// unit that does not track.
pub(super) const fn tracking(format: AnyFormat) -> AnyFormat {
    match format {
        AnyFormat::ArmStage1(format) => AnyFormat::ArmStage1(ArmStage1 { dirty: true, ..format }),
        AnyFormat::ArmStage2(format) => AnyFormat::ArmStage2(ArmStage2 { dirty: true, ..format }),
        other => other,
    }
}

/// Table memory on the driver's platform: adds to [`Memory`] what a unit needs that doesn't snoop the processor's caches.
#[derive(Clone, Copy, Debug)]
pub struct TableSpace<M> {
    memory: M,
    coherent: bool,
}

impl<M: Memory> TableSpace<M> {
    /// Tables in `memory`, for a unit that snoops (`coherent`) or doesn't.
    pub const fn new(memory: M, coherent: bool) -> Self {
        Self { memory, coherent }
    }

    fn flush(&self, at: PhysAddr, length: u64) {
        if !self.coherent {
            self.memory.flush(at, length);
        }
    }
}

impl<M: Memory> TableMemory for TableSpace<M> {
    type Error = Infallible;

    #[inline]
    fn load(&self, at: PhysAddr) -> Result<u64, Infallible> {
        Ok(self.memory.load64(at))
    }

    #[inline]
    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Infallible> {
        self.memory.store64(at, entry);
        self.flush(at, 8);
        Ok(())
    }

    #[inline]
    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Infallible> {
        let seen = self.memory.compare_exchange64(at, expected, new).unwrap_or_else(|seen| seen);
        self.flush(at, 8);
        Ok(seen)
    }

    #[inline]
    fn store_run(
        &self,
        at: PhysAddr,
        count: usize,
        entry: impl FnMut(usize) -> u64,
    ) -> Result<(), Infallible> {
        self.memory.store64_run(at, count, entry);
        self.flush(at, 8 * count as u64);
        Ok(())
    }

    #[inline]
    fn find_used(&self, at: PhysAddr, count: usize) -> Result<Option<usize>, Infallible> {
        Ok(self.memory.find_used64(at, count))
    }

    #[inline]
    fn clear_run(
        &self,
        at: PhysAddr,
        count: usize,
        goes: impl FnMut(u64) -> bool,
    ) -> Result<usize, Infallible> {
        let cleared = self.memory.clear64_run(at, count, goes);
        self.flush(at, 8 * count as u64);
        Ok(cleared)
    }
}

impl<M: Memory> TableAllocator for TableSpace<M> {
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
        let size = 1u64 << size_log2;
        let table = self.memory.allocate(size, size)?;
        self.flush(table, size);
        Some(table)
    }

    fn free(&self, table: PhysAddr, size_log2: u8) {
        let size = 1u64 << size_log2;
        self.memory.free(table, size, size);
    }
}

macro_rules! formats {
    ($($variant:ident($format:ty)),* $(,)?) => {
        /// A page table of any format that the driver writes.
        #[derive(Debug)]
        pub enum Table<M> {
            $(#[doc = concat!("[`", stringify!($format), "`].")] $variant(PageTable<$format, TableSpace<M>>),)*
        }

        macro_rules! each {
            ($any:expr, $it:ident => $body:expr) => {
                match $any {
                    $(Table::$variant($it) => $body,)*
                }
            };
        }

        impl<M: Memory> Table<M> {
            /// An empty table.
            ///
            /// # Errors
            /// [`TableError::AllocatorEmpty`].
            pub fn new(format: AnyFormat, space: TableSpace<M>) -> Result<Self, TableError> {
                match format {
                    $(AnyFormat::$variant(format) => PageTable::new(format, space).map(Self::$variant),)*
                    #[allow(unreachable_patterns, reason = "the engine may know formats before a driver needs them")]
                    _ => Err(TableError::UnsupportedSize { allowed: 0 }),
                }
            }
        }
    };
}

formats! {
    VtdSecondStage(VtdSecondStage),
    X86(X86),
    ArmStage1(ArmStage1),
    ArmStage2(ArmStage2),
    Riscv(Riscv),
}

impl<M: Memory> Table<M> {
    /// The root table.
    #[must_use]
    pub fn root(&self) -> PhysAddr {
        each!(self, table => table.root())
    }

    /// log2 of the smallest page.
    #[must_use]
    pub fn page_shift(&self) -> u8 {
        each!(self, table => table.format().page_sizes().trailing_zeros() as u8)
    }

    /// What the table grants to someone who is to have `access`: the least that the format can express.
    #[must_use]
    pub fn granted(&self, access: Access) -> Access {
        self.rights(access).access(false)
    }

    /// The rights that express `access`, with those that the format cannot withhold.
    fn rights(&self, access: Access) -> Rights {
        let exact = Rights::from_access(access);
        let candidates = [
            exact,
            exact | Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE,
            exact | Rights::READ,
            exact | Rights::READ | Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE,
        ];
        let fits = |rights: &Rights| each!(self, table => table.format().expressible(&Attributes::new(*rights)).is_ok());
        candidates.into_iter().find(fits).unwrap_or(exact)
    }

    /// Ordinary memory. Where the entries hold an index (Arm stage 1, MAIR), the driver writes this type at index 0.
    const fn memory_type(&self) -> u8 {
        match self {
            Self::ArmStage2(_) => ArmStage2::WRITE_BACK,
            _ => 0,
        }
    }

    /// Maps, see [`PageTable::map`].
    ///
    /// # Errors
    /// As the engine says; nothing is mapped then.
    pub fn map(
        &self,
        (iova, address, size): (Iova, PhysAddr, u64),
        access: Access,
        clean: bool,
        gather: &mut Gather,
    ) -> Result<(), TableError> {
        let attributes =
            Attributes { memory_type: self.memory_type(), ..Attributes::new(self.rights(access)) };
        let attributes = if clean { attributes.clean() } else { attributes };
        each!(self, table => table.map(&Map::new(iova, address, size, attributes), gather))
    }

    /// Unmaps, see [`PageTable::unmap`]. Large pages that the range cuts are split as `split` says.
    ///
    /// # Errors
    /// As the engine says.
    pub fn unmap(
        &self,
        iova: Iova,
        size: u64,
        split: &mut Split<'_>,
        gather: &mut Gather,
    ) -> Result<u64, TableError> {
        each!(self, table => table.unmap(iova, size, split, gather))
    }

    /// Changes permissions, see [`PageTable::protect`].
    ///
    /// # Errors
    /// As the engine says.
    pub fn protect(
        &self,
        iova: Iova,
        size: u64,
        access: Access,
        split: &mut Split<'_>,
        gather: &mut Gather,
    ) -> Result<u64, TableError> {
        let rights = self.rights(access);
        each!(self, table => table.protect(iova, size, rights, split, gather))
    }

    /// Reports and clears dirty marks, see [`PageTable::clear_dirty`].
    ///
    /// # Errors
    /// As the engine says.
    pub fn clear_dirty(
        &self,
        iova: Iova,
        size: u64,
        gather: &mut Gather,
        visitor: impl FnMut(Iova, u8),
    ) -> Result<(), TableError> {
        each!(self, table => table.clear_dirty(iova, size, gather, visitor))
    }

    /// Takes out tables in which nothing is mapped, see [`PageTable::reclaim`]. The caller keeps everyone else out meanwhile.
    ///
    /// # Errors
    /// As the engine says.
    pub fn reclaim(&self, iova: Iova, size: u64, gather: &mut Gather) -> Result<(), TableError>
    where
        M: Clone,
    {
        each!(self, table => {
            PageTable::adopt(*table.format(), table.root(), table.memory().clone()).reclaim(iova, size, gather)
        })
    }

    /// What an address translates to.
    ///
    /// # Errors
    /// As the engine says.
    pub fn query(&self, iova: Iova) -> Result<Option<Mapping<PhysAddr>>, TableError> {
        each!(self, table => table.query(iova))
    }

    /// The first address of the range that is mapped.
    ///
    /// # Errors
    /// As the engine says.
    pub fn first_page(&self, iova: Iova, size: u64) -> Result<Option<Iova>, TableError> {
        let mut first = None;
        each!(self, table => table.for_each_page(iova, size, |page| {
            first.get_or_insert(page.iova);
        }))?;
        Ok(first)
    }

    /// Gives back the tables that a gather holds. Everything in it has been invalidated.
    pub fn release(&self, mut gather: Gather) {
        let Ok(()) = each!(self, table => gather.release(table.memory()));
    }

    /// Adds one gather to another.
    pub fn append(&self, gather: &mut Gather, other: Gather) {
        let Ok(()) = each!(self, table => gather.append(table.memory(), other));
    }

    /// Gives all tables back. No unit uses them any more.
    ///
    /// # Errors
    /// [`TableError::Corrupt`]: somebody else wrote to the tables.
    pub fn destroy(self) -> Result<(), TableError> {
        each!(self, table => table.destroy())
    }
}
