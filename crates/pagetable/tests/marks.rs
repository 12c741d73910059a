//! The dirty marks: read, cleared, and never lost.

mod common;

use common::Arena;
use portcullis_pagetable::format::{AmdV1, ArmStage1, ArmStage2, Riscv, VtdSecondStage, X86};
use portcullis_pagetable::{
    Attributes, Entry, Flags, Format, Gather, Map, PageTable, Rights, Split, TableAllocator, TableMemory,
};
use portcullis_spec::{Access, Granule, Iova, PhysAddr};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

const M: u64 = 1 << 20;

fn clean() -> Attributes {
    Attributes::new(Rights::from_access(Access::READ_WRITE | Access::EXECUTE)).clean()
}

/// What a unit does for a write: walks, and marks the leaf by compare-exchange.
fn write<F: Format>(table: &PageTable<F, &Arena>, iova: u64) {
    let walk = table.walk(Iova(iova));
    walk.end.unwrap();
    let leaf = walk.steps().last().unwrap();
    let mut raw = leaf.raw;
    loop {
        let marked = table.format().with_dirty(leaf.level, raw);
        let Ok(seen) = table.memory().compare_exchange(leaf.at, raw, marked);
        if seen == raw {
            return;
        }
        raw = seen;
    }
}

fn dirty<F: Format>(table: &PageTable<F, &Arena>, iova: u64, size: u64) -> Vec<(u64, u8)> {
    let mut pages = Vec::new();
    table.read_dirty(Iova(iova), size, |iova, shift| pages.push((iova.0, shift))).unwrap();
    pages
}

fn clear<F: Format>(
    table: &PageTable<F, &Arena>,
    iova: u64,
    size: u64,
    gather: &mut Gather,
) -> Vec<(u64, u8)> {
    let mut pages = Vec::new();
    table.clear_dirty(Iova(iova), size, gather, |iova, shift| pages.push((iova.0, shift))).unwrap();
    pages
}

fn marks_are_read_and_cleared<F: Format>(format: F) {
    let arena = Arena::new(4 << 20);
    let table = PageTable::new(format, &arena).unwrap();
    let granule = 1u64 << format.granule_shift();
    let mut gather = Gather::new();
    // Smallest pages, not congruent; nothing is dirty at first.
    let size = 64 * granule;
    table.map(&Map::new(Iova(size), PhysAddr(size + granule), size, clean()), &mut gather).unwrap();
    assert_eq!(dirty(&table, 0, 4 * size), []);
    for page in [3, 7, 40] {
        write(&table, size + page * granule + 0x10);
    }
    let shift = format.granule_shift();
    let expected = [3, 7, 40].map(|page| (size + page * granule, shift));
    assert_eq!(dirty(&table, 0, 4 * size), expected);
    assert_eq!(dirty(&table, size + 4 * granule, 8 * granule), [expected[1]], "only the range");
    assert!(gather.is_empty());
    assert_eq!(clear(&table, size, 8 * granule, &mut gather), expected[..2]);
    let (first, last) = gather.range().unwrap();
    assert!(first.0 <= expected[0].0 && last.0 >= expected[1].0 + granule - 1, "must be invalidated");
    assert_eq!(dirty(&table, 0, 4 * size), expected[2..]);
    // Clearing changes nothing else.
    let found = table.query(Iova(size + 3 * granule)).unwrap().unwrap();
    assert_eq!(found.attributes.rights, clean().rights);
    // Pages that are mapped dirty are dirty.
    let marked = Attributes::new(clean().rights);
    table.map(&Map::new(Iova(0), PhysAddr(granule), granule, marked), &mut gather).unwrap();
    assert_eq!(dirty(&table, 0, size), [(0, shift)]);
}

#[test]
fn marks_are_read_and_cleared_in_every_format() {
    marks_are_read_and_cleared(VtdSecondStage { accessed_dirty: true, ..VtdSecondStage::new(4) });
    marks_are_read_and_cleared(X86::new(4));
    marks_are_read_and_cleared(AmdV1 { accessed_dirty: true, ..AmdV1::new(4) });
    marks_are_read_and_cleared(Riscv::new(4));
    marks_are_read_and_cleared(Riscv::new_x4(3));
    for granule in [Granule::Size4K, Granule::Size16K, Granule::Size64K] {
        let stage1 = ArmStage1::new(granule, 47, 48, false).unwrap();
        marks_are_read_and_cleared(ArmStage1 { dirty: true, ..stage1 });
    }
    let stage2 = ArmStage2::new(Granule::Size4K, 40, 48, 1).unwrap();
    marks_are_read_and_cleared(ArmStage2 { dirty: true, ..stage2 });
}

/// A unit marks one entry of a run; the page is dirty as a whole, is reported once, and is clean after.
#[test]
fn a_run_is_dirty_as_a_whole() {
    let arena = Arena::new(4 << 20);
    let arm = ArmStage2::new(Granule::Size4K, 40, 48, 1).unwrap();
    let arm = PageTable::new(ArmStage2 { dirty: true, ..arm }, &arena).unwrap();
    let amd = PageTable::new(AmdV1 { accessed_dirty: true, ..AmdV1::new(4) }, &arena).unwrap();
    let riscv = PageTable::new(Riscv::new(3), &arena).unwrap();
    fn check<F: Format>(table: &PageTable<F, &Arena>) {
        let mut gather = Gather::new();
        table.map(&Map::new(Iova(M), PhysAddr(M), 0x1_0000, clean()), &mut gather).unwrap();
        write(table, M + 0x5000);
        write(table, M + 0x9000);
        assert_eq!(dirty(table, 0, 2 * M), [(M, 16)]);
        assert_eq!(clear(table, 0, 2 * M, &mut gather), [(M, 16)]);
        assert_eq!(dirty(table, 0, 2 * M), []);
    }
    check(&arm);
    check(&amd);
    check(&riscv);
}

/// Splitting and changing permissions keep the marks: nothing dirty is forgotten.
#[test]
fn marks_survive_a_split_and_a_change_of_permissions() {
    let arena = Arena::new(4 << 20);
    let table = PageTable::new(X86::new(4), &arena).unwrap();
    let mut gather = Gather::new();
    table.map(&Map::new(Iova(0), PhysAddr(0), 2 * M, clean()), &mut gather).unwrap();
    write(&table, 0x12_3456);
    let read = Rights::from_access(Access::READ | Access::EXECUTE);
    table.protect(Iova(0x1000), 0x1000, read, &mut Split::Exchange, &mut gather).unwrap();
    assert_eq!(
        dirty(&table, 0, 2 * M).len(),
        512,
        "which of the small pages was written is not known: all are"
    );
    assert!(!table.query(Iova(0x1000)).unwrap().unwrap().attributes.rights.contains(Rights::WRITE));
}

/// An arena whose unit marks an entry, with `marks`, just before software writes it for the first time.
struct Meddling<'a, F> {
    arena: &'a Arena,
    format: F,
    /// The entry, its level, and how it is marked.
    at: Cell<Option<(PhysAddr, u8, Mark<F>)>>,
}

type Mark<F> = fn(&F, u8, u64) -> u64;

impl<F: Format> Meddling<'_, F> {
    fn meddle(&self, at: PhysAddr) {
        if let Some((entry, level, mark)) = self.at.get()
            && entry == at
        {
            self.at.set(None);
            let Ok(raw) = self.arena.load(at);
            let Ok(()) = self.arena.store(at, mark(&self.format, level, raw));
        }
    }
}

impl<F: Format> TableMemory for Meddling<'_, F> {
    type Error = Infallible;

    fn load(&self, at: PhysAddr) -> Result<u64, Infallible> {
        self.arena.load(at)
    }

    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Infallible> {
        self.meddle(at);
        self.arena.store(at, entry)
    }

    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Infallible> {
        self.meddle(at);
        self.arena.compare_exchange(at, expected, new)
    }
}

impl<F: Format> TableAllocator for Meddling<'_, F> {
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
        self.arena.allocate(size_log2)
    }

    fn free(&self, table: PhysAddr, size_log2: u8) {
        self.arena.free(table, size_log2);
    }
}

/// Maps `size` bytes at 0, unmarked, and lets the unit mark the entry for `iova` in the middle of `operation`. Returns the marks of
/// every page after.
fn meddled<F: Format>(
    format: F,
    size: u64,
    iova: u64,
    mark: Mark<F>,
    operation: impl FnOnce(&PageTable<F, &Meddling<'_, F>>),
) -> Vec<(u64, Flags)> {
    let arena = Arena::new(1 << 20);
    let memory = Meddling { arena: &arena, format, at: Cell::new(None) };
    let table = PageTable::new(format, &memory).unwrap();
    let unmarked = Attributes { flags: Flags::empty(), ..clean() };
    table.map(&Map::new(Iova(0), PhysAddr(0), size, unmarked), &mut Gather::new()).unwrap();
    let leaf = *table.walk(Iova(iova)).steps().last().unwrap();
    memory.at.set(Some((leaf.at, leaf.level, mark)));
    operation(&table);
    assert!(memory.at.get().is_none(), "the entry was written");
    let mut marks = Vec::new();
    for iova in (0..size).step_by(0x1000) {
        let walk = table.walk(Iova(iova));
        if let Some(leaf) = walk.steps().last()
            && let Entry::Leaf(found) = format.decode(leaf.level, leaf.raw)
        {
            marks.push((iova, found.attributes.flags));
        }
    }
    marks
}

fn dirtied<F: Format>(format: &F, level: u8, raw: u64) -> u64 {
    format.with_dirty(level, raw)
}

fn accessed<F: Format>(format: &F, level: u8, raw: u64) -> u64 {
    format.with_accessed(level, raw)
}

/// A mark that a unit sets between software's look at an entry and its write is kept, whatever software is about.
#[test]
fn marks_set_in_the_middle_of_a_change_are_kept() {
    let all_dirty = |marks: &[(u64, Flags)]| marks.iter().all(|(_, flags)| flags.contains(Flags::DIRTY));
    let unmap = |size: u64| {
        move |table: &PageTable<_, &Meddling<'_, _>>| {
            let mut gather = Gather::new();
            assert_eq!(table.unmap(Iova(0), size, &mut Split::Exchange, &mut gather), Ok(size));
        }
    };
    // A large page that is split.
    let marks = meddled(X86::new(4), 2 * M, 0, dirtied, unmap(0x1000));
    assert!(marks.len() == 511 && all_dirty(&marks));
    // The same where it is broken before.
    let arm = ArmStage2::new(Granule::Size4K, 40, 48, 1).unwrap();
    let marks = meddled(ArmStage2 { dirty: true, ..arm }, 2 * M, 0, dirtied, |table| {
        let mut invalidate = |_, _| {};
        let mut split = Split::BreakBeforeMake(&mut invalidate);
        assert_eq!(table.unmap(Iova(0), 0x1000, &mut split, &mut Gather::new()), Ok(0x1000));
    });
    assert!(marks.len() == 511 && all_dirty(&marks));
    // A run that is split: the one entry that was marked at least.
    let amd = AmdV1 { accessed_dirty: true, ..AmdV1::new(4) };
    for marked in [0x5000, 0xf000] {
        let marks = meddled(amd, 0x1_0000, marked, dirtied, |table| {
            let mut gather = Gather::new();
            assert_eq!(table.unmap(Iova(0), 0x1000, &mut Split::Exchange, &mut gather), Ok(0x1000));
        });
        assert!(marks.contains(&(marked, Flags::DIRTY)), "{marks:x?}");
    }
    // Permissions that are taken away.
    let marks = meddled(X86::new(4), 0x2000, 0x1000, dirtied, |table| {
        let read = Rights::from_access(Access::READ | Access::EXECUTE);
        let mut gather = Gather::new();
        assert_eq!(table.protect(Iova(0), 0x2000, read, &mut Split::Refuse, &mut gather), Ok(0x2000));
        assert_eq!(table.query(Iova(0x1000)).unwrap().unwrap().attributes.rights, read);
    });
    assert_eq!(marks, [(0, Flags::empty()), (0x1000, Flags::DIRTY)]);
    // Dirty that is cleared, while accessed is set.
    let marks = meddled(X86::new(4), 0x1000, 0, accessed, |table| {
        let leaf = *table.walk(Iova(0)).steps().last().unwrap();
        let Ok(()) = table.memory().arena.store(leaf.at, table.format().with_dirty(0, leaf.raw));
        table.clear_dirty(Iova(0), 0x1000, &mut Gather::new(), |_, _| {}).unwrap();
    });
    assert_eq!(marks, [(0, Flags::ACCESSED)]);
}

/// A unit that has marked one entry of a run may write through all of it: split, all of it is dirty.
#[test]
fn a_dirty_run_that_is_split_is_dirty_in_all_its_entries() {
    let arena = Arena::new(1 << 20);
    let table = PageTable::new(AmdV1 { accessed_dirty: true, ..AmdV1::new(4) }, &arena).unwrap();
    let mut gather = Gather::new();
    table.map(&Map::new(Iova(0), PhysAddr(0), 0x1_0000, clean()), &mut gather).unwrap();
    write(&table, 0x5000);
    table.unmap(Iova(0x8000), 0x1000, &mut Split::Exchange, &mut gather).unwrap();
    let rest: Vec<(u64, u8)> = (0..16).filter(|page| *page != 8).map(|page| (page * 0x1000, 12)).collect();
    assert_eq!(dirty(&table, 0, 0x1_0000), rest);
    let arm = ArmStage2::new(Granule::Size4K, 40, 48, 1).unwrap();
    let table = PageTable::new(ArmStage2 { dirty: true, ..arm }, &arena).unwrap();
    table.map(&Map::new(Iova(0), PhysAddr(0), 0x1_0000, clean()), &mut gather).unwrap();
    write(&table, 0x5000);
    let mut invalidate = |_, _| {};
    let mut split = Split::BreakBeforeMake(&mut invalidate);
    table.unmap(Iova(0x8000), 0x1000, &mut split, &mut gather).unwrap();
    let rest: Vec<(u64, u8)> = (0..16).filter(|page| *page != 8).map(|page| (page * 0x1000, 12)).collect();
    assert_eq!(dirty(&table, 0, 0x1_0000), rest);
}

/// A unit that writes while software reads and clears: each page that it wrote is reported, then or at the end.
#[test]
fn no_mark_is_lost_to_a_unit_that_writes_meanwhile() {
    let arena = Arena::new(4 << 20);
    let format = VtdSecondStage { accessed_dirty: true, ..VtdSecondStage::new(4) };
    let table = PageTable::new(format, &arena).unwrap();
    let size = 512 * 0x1000;
    table.map(&Map::new(Iova(0), PhysAddr(0x1000), size, clean()), &mut Gather::new()).unwrap();
    let done = AtomicBool::new(false);
    let mut reported = BTreeSet::new();
    let mut gather = Gather::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for page in (0..512u64).step_by(3) {
                write(&table, page * 0x1000);
                std::thread::yield_now();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            reported.extend(clear(&table, 0, size, &mut gather));
        }
    });
    reported.extend(clear(&table, 0, size, &mut gather));
    assert_eq!(reported, (0..512).step_by(3).map(|page| (page * 0x1000, 12)).collect());
    assert_eq!(dirty(&table, 0, size), []);
}
