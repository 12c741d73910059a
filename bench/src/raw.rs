//! Walks that do nothing but load: the floor under every translation that misses.
#![allow(unsafe_code)]

use crate::machine::ram::Ram;
use portcullis_driver::platform::Memory as _;
use portcullis_pagetable::format::{VtdSecondStage, X86};
use portcullis_pagetable::{Attributes, Format, Gather, Map, PageTable, Rights, TableAllocator, TableMemory};
use portcullis_spec::{Access, Iova, PhysAddr};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tables in a machine's memory, at the addresses that `place` gives to theirs.
#[derive(Clone)]
pub struct Tables {
    ram: Arc<Ram>,
    place: fn(u64) -> u64,
    /// Where the next table goes; without it, in blocks of the driver's part.
    next: Option<Arc<AtomicU64>>,
}

impl Tables {
    /// Tables in the driver's part of memory.
    #[must_use]
    pub const fn physical(ram: Arc<Ram>) -> Self {
        Self { ram, place: |address| address, next: None }
    }

    /// Tables in a guest's memory from guest address `first` on; `place` says where a guest address lies.
    #[must_use]
    pub fn of_guest(ram: Arc<Ram>, first: u64, place: fn(u64) -> u64) -> Self {
        Self { ram, place, next: Some(Arc::new(AtomicU64::new(first))) }
    }

    fn at(&self, address: PhysAddr) -> PhysAddr {
        PhysAddr((self.place)(address.0))
    }
}

impl TableMemory for Tables {
    type Error = Infallible;

    fn load(&self, at: PhysAddr) -> Result<u64, Infallible> {
        Ok(self.ram.load64(self.at(at)))
    }

    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Infallible> {
        self.ram.store64(self.at(at), entry);
        Ok(())
    }

    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Infallible> {
        Ok(self.ram.compare_exchange64(self.at(at), expected, new).unwrap_or_else(|seen| seen))
    }
}

impl TableAllocator for Tables {
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
        match &self.next {
            None => self.ram.allocate(1 << size_log2, 1 << size_log2),
            Some(next) => Some(PhysAddr(next.fetch_add(1 << size_log2, Ordering::Relaxed))),
        }
    }

    fn free(&self, _table: PhysAddr, _size_log2: u8) {
        unreachable!("nothing is unmapped");
    }
}

/// Writes tables in which each of the given pages leads where it should. The root's address.
///
/// # Panics
/// Where there is no memory.
pub fn write<F: Format>(format: F, tables: &Tables, pages: impl Iterator<Item = (u64, u64)>) -> u64 {
    let table = PageTable::new(format, tables.clone()).expect("memory for a root");
    let attributes = Attributes::new(Rights::from_access(Access::READ_WRITE | Access::EXECUTE));
    let mut gather = Gather::new();
    for (input, output) in pages {
        let map = Map::new(Iova(input), PhysAddr(output), 0x1000, attributes);
        table.map(&map, &mut gather).expect("maps");
    }
    table.root().0
}

/// Second-stage tables of four levels.
pub fn write_second(tables: &Tables, pages: impl Iterator<Item = (u64, u64)>) -> u64 {
    write(VtdSecondStage::new(4), tables, pages)
}

/// First-stage tables of four levels.
pub fn write_first(tables: &Tables, pages: impl Iterator<Item = (u64, u64)>) -> u64 {
    write(X86::new(4), tables, pages)
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Loads without any check, from pointers that lie `offset` above addresses.
#[derive(Clone, Copy, Debug)]
pub struct Walker {
    offset: usize,
}

impl Walker {
    /// A walker over a machine's memory.
    ///
    /// # Safety
    /// It goes wherever entries lead: tables walked are well-formed, lie in `ram`, and are gone only after the walker.
    #[must_use]
    pub const unsafe fn new(ram: &Ram) -> Self {
        Self { offset: ram.offset() }
    }

    #[inline]
    fn load(self, address: u64) -> u64 {
        let pointer =
            std::ptr::with_exposed_provenance::<AtomicU64>(self.offset.wrapping_add(address as usize));
        // SAFETY: by the promise given to `new`, an entry of a table.
        unsafe { &*pointer }.load(Ordering::Relaxed)
    }

    /// Where `input` leads by four levels of tables.
    #[inline]
    #[must_use]
    pub fn walk(self, root: u64, input: u64) -> u64 {
        let mut table = root;
        for shift in [39, 30, 21, 12] {
            table = self.load(table + (input >> shift & 511) * 8) & ADDRESS;
        }
        table | (input & 0xfff)
    }

    /// Where `input` leads by four levels whose tables and outputs four other levels translate: 24 loads.
    #[inline]
    #[must_use]
    pub fn walk_nested(self, first: u64, second: u64, input: u64) -> u64 {
        let mut table = first;
        for shift in [39, 30, 21, 12] {
            let entry = self.walk(second, table + (input >> shift & 511) * 8);
            table = self.load(entry) & ADDRESS;
        }
        self.walk(second, table | (input & 0xfff))
    }
}

/// One stage's tables, written once, and walked by loads alone.
pub struct One {
    tables: Tables,
    root: u64,
}

impl One {
    /// Second-stage tables of four levels that map `pages`.
    #[must_use]
    pub fn new(tables: Tables, pages: impl Iterator<Item = (u64, u64)>) -> Self {
        let root = write_second(&tables, pages);
        Self { tables, root }
    }

    /// Where `input`, which is mapped, leads.
    #[inline]
    #[must_use]
    pub fn walk(&self, input: u64) -> u64 {
        // SAFETY: these tables were written by `new`, whole, into this memory, and nobody changes them.
        unsafe { Walker::new(&self.tables.ram) }.walk(self.root, input)
    }
}
