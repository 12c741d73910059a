//! Errors are exact, and leave everything as it was.

mod common;

use common::Arena;
use portcullis_pagetable::format::{AmdV1, ArmStage2, Riscv, VtdSecondStage, X86};
use portcullis_pagetable::{
    Attributes, Error, Format, Gather, Inexpressible, Map, Page, PageTable, Rights, Split,
};
use portcullis_spec::{Access, Granule, Iova, PhysAddr};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn data() -> Attributes {
    Attributes::new(Rights::from_access(Access::READ_WRITE | Access::EXECUTE))
}

fn map(iova: u64, address: u64, size: u64) -> Map {
    Map::new(Iova(iova), PhysAddr(address), size, data())
}

fn pages<F: Format>(table: &PageTable<F, &Arena>) -> Vec<Page> {
    let mut pages = Vec::new();
    table.for_each_page(Iova(0), 1 << 38, |page| pages.push(page)).unwrap();
    pages
}

fn vtd(arena: &Arena) -> PageTable<VtdSecondStage, &Arena> {
    PageTable::new(VtdSecondStage::new(4), arena).unwrap()
}

#[test]
fn ranges_that_make_no_sense_are_refused_by_name() {
    let arena = Arena::new(1 << 20);
    let table = vtd(&arena);
    let mut gather = Gather::new();
    let mut refused = |map: Map| table.map(&map, &mut gather).unwrap_err();
    assert_eq!(refused(map(0, 0, 0)), Error::EmptyRange);
    assert_eq!(refused(map(0x800, 0, 0x1000)), Error::Misaligned { shift: 12 });
    assert_eq!(refused(map(0, 0x10, 0x1000)), Error::Misaligned { shift: 12 });
    assert_eq!(refused(map(0, 0, 0x1001)), Error::Misaligned { shift: 12 });
    assert_eq!(refused(map(1 << 48, 0, 0x1000)), Error::OutOfRange { iova: Iova(1 << 48) });
    let last = (1 << 48) - 0x1000;
    assert_eq!(refused(map(last, 0, 0x2000)), Error::OutOfRange { iova: Iova(last) });
    let end = u64::MAX - 0xfff;
    assert_eq!(refused(map(end, 0, 0x2000)), Error::OutOfRange { iova: Iova(end) });
    let beyond = (1 << 52) - 0x1000;
    assert_eq!(refused(map(0, beyond, 0x2000)), Error::OutputOutOfRange { address: PhysAddr(beyond) });
    assert_eq!(refused(map(0, end, 0x2000)), Error::OutputOutOfRange { address: PhysAddr(end) });
    let sizes = |page_sizes, size| Map { page_sizes, ..map(0, 0, size) };
    assert_eq!(refused(sizes(1 << 13, 0x2000)), Error::UnsupportedSize { allowed: 1 << 13 });
    assert_eq!(refused(sizes(1 << 21, 0x1000)), Error::Misaligned { shift: 21 });
    let none = Attributes { rights: Rights::USER, ..data() };
    assert_eq!(refused(Map { attributes: none, ..map(0, 0, 0x1000) }), Error::Inexpressible(Inexpressible));
    assert_eq!(arena.live(), 1);
    assert!(gather.is_empty());

    let x86 = PageTable::new(X86::new(4), &arena).unwrap();
    let gap = 0x7fff_ffff_f000;
    let refused = x86.map(&map(gap, 0, 0x2000), &mut gather).unwrap_err();
    assert_eq!(refused, Error::OutOfRange { iova: Iova(gap) }, "the canonical halves don't touch");
    x86.map(&map(u64::MAX - 0xfff, 0, 0x1000), &mut gather).unwrap();
}

/// The address in the error is the lowest of the range that is mapped, wherever that is found; nothing else changes.
#[test]
fn overlaps_name_the_first_address_and_change_nothing() {
    let arena = Arena::new(4 << 20);
    let table = vtd(&arena);
    let mut gather = Gather::new();
    table.map(&map(8 * M, 64 * M, 2 * M), &mut gather).unwrap();
    table.map(&map(G + 0x5000, 0x7000, 0x1000), &mut gather).unwrap();
    let before = pages(&table);
    for (map, taken) in [
        // Within a large page; on its edges; across it; a large page over a small one; far into a long range.
        (map(9 * M, 0, 0x1000), 9 * M),
        (map(10 * M - 0x1000, 0, 0x2000), 10 * M - 0x1000),
        (map(8 * M - 0x3000, 0, 0x4000), 8 * M),
        (map(6 * M, 0, 6 * M), 8 * M),
        (map(G, 0, G), G + 0x5000),
        (map(G, 0, 2 * M), G + 0x5000),
        (map(12 * M, 0x1000, 2 * G), G + 0x5000),
        (map(G + 0x3000, 0x1000, 0x8000), G + 0x5000),
    ] {
        let tables = arena.live();
        let mut gather = Gather::new();
        assert_eq!(table.map(&map, &mut gather).unwrap_err(), Error::Overlap { iova: Iova(taken) });
        assert_eq!(pages(&table), before, "{map:x?}");
        gather.release(&&arena).unwrap();
        // Tables that the range covered only in part may stay; they are empty and can be reclaimed.
        assert!(arena.live() <= tables + 4);
    }
    let mut table = table;
    let mut gather = Gather::new();
    table.reclaim(Iova(0), 1 << 38, &mut gather).unwrap();
    gather.release(&&arena).unwrap();
    // Root, one level-2 table, a level-1 table and the leaf table in each of two GiB but for the one with the large page.
    assert_eq!(arena.live(), 1 + 1 + 2 + 1);
    assert_eq!(pages(&table), before);
}

/// What a failed map had mapped before it failed may be cached: the range is there to invalidate.
#[test]
fn a_map_that_fails_late_asks_for_invalidation() {
    let arena = Arena::new(1 << 20);
    let table = vtd(&arena);
    let mut gather = Gather::new();
    table.map(&map(4 * M, 0, 0x1000), &mut gather).unwrap();
    assert!(gather.is_empty(), "nothing was there before");
    table.map(&map(M, 0x1000, 4 * M), &mut gather).unwrap_err();
    let (first, last) = gather.range().unwrap();
    assert!(first.0 <= M && last.0 >= 2 * M - 1);
    gather.release(&&arena).unwrap();
}

/// Runs `operation` with every number of allocations that is not enough, and then with enough. After each failure the pages are
/// what they were.
fn starve<F: Format>(
    format: F,
    prepare: impl Fn(&PageTable<F, &Arena>),
    operation: impl Fn(&PageTable<F, &Arena>, &mut Gather) -> Result<(), Error<std::convert::Infallible>>,
) -> i64 {
    for allowed in 0.. {
        let arena = Arena::new(8 << 20);
        let mut table = PageTable::new(format, &arena).unwrap();
        prepare(&table);
        let before = listing(&table);
        arena.limit(Some(allowed));
        let mut gather = Gather::new();
        let result = operation(&table, &mut gather);
        let failed = match result {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error, Error::AllocatorEmpty);
                assert_eq!(listing(&table), before, "with {allowed} tables allowed");
                true
            }
        };
        gather.release(&&arena).unwrap();
        // And with memory again, the same goes well on the very same tables.
        arena.limit(None);
        if failed {
            operation(&table, &mut gather).unwrap();
            gather.release(&&arena).unwrap();
            table.reclaim(Iova(0), 1 << 30, &mut gather).unwrap();
            gather.release(&&arena).unwrap();
        }
        table.destroy().unwrap();
        assert_eq!(arena.live(), 0, "with {allowed} tables allowed");
        if !failed {
            return allowed;
        }
    }
    unreachable!("some number is enough")
}

/// Where every 4 KiB of the first GiB leads, however it is cut in pages.
fn listing<F: Format>(table: &PageTable<F, &Arena>) -> Vec<(u64, u64, Rights)> {
    let mut list = Vec::new();
    table
        .for_each_page(Iova(0), G, |page| {
            for offset in (0..1u64 << page.shift).step_by(1 << table.format().granule_shift()) {
                list.push((page.iova.0 + offset, page.address.0 + offset, page.attributes.rights));
            }
        })
        .unwrap();
    list
}

#[test]
fn an_empty_allocator_leaves_nothing_half_mapped() {
    // 4 KiB pages over four leaf tables, the first and last shared with others: levels 2, 1, and four leaf tables.
    let long = |table: &PageTable<_, &Arena>, gather: &mut Gather| table.map(&map(M, 0x1000, 6 * M), gather);
    assert_eq!(starve(VtdSecondStage::new(4), |_| {}, long), 6);
    let shared = |table: &PageTable<VtdSecondStage, &Arena>| {
        let mut gather = Gather::new();
        table.map(&map(0, 0, 0x1000), &mut gather).unwrap();
        table.map(&map(7 * M, 0, 0x1000), &mut gather).unwrap();
    };
    assert_eq!(starve(VtdSecondStage::new(4), shared, long), 2);
    assert_eq!(starve(AmdV1::new(6), |_| {}, |table, gather| table.map(&map(M, 0x1000, 6 * M), gather)), 8);
    assert_eq!(
        starve(Riscv::new_x4(3), |_| {}, |table, gather| table.map(&map(M, 0x1000, 6 * M), gather)),
        5
    );
}

#[test]
fn an_empty_allocator_leaves_large_pages_that_were_to_be_split() {
    let large = |table: &PageTable<VtdSecondStage, &Arena>| {
        table.map(&map(0, 0, G), &mut Gather::new()).unwrap();
    };
    // A hole in a 1 GiB page: one table of 2 MiB pages, one of 4 KiB pages at each end.
    let unmap = |table: &PageTable<_, &Arena>, gather: &mut Gather| {
        table.unmap(Iova(3 * M), 4 * M, &mut Split::Exchange, gather).map(|bytes| assert_eq!(bytes, 4 * M))
    };
    assert_eq!(starve(VtdSecondStage::new(3), large, unmap), 3);
    let protect = |table: &PageTable<_, &Arena>, gather: &mut Gather| {
        let read = Rights::from_access(Access::READ | Access::EXECUTE);
        table.protect(Iova(3 * M), 4 * M, read, &mut Split::Exchange, gather).map(|_| ())
    };
    assert_eq!(starve(VtdSecondStage::new(3), large, protect), 3);
}

#[test]
fn a_part_of_a_large_page_is_refused_or_split_as_the_caller_says() {
    let arena = Arena::new(4 << 20);
    let table = vtd(&arena);
    let mut gather = Gather::new();
    table.map(&map(0, 0, G), &mut gather).unwrap();
    let error = table.unmap(Iova(0x1000), 0x1000, &mut Split::Refuse, &mut gather).unwrap_err();
    assert_eq!(error, Error::PartOfPage { iova: Iova(0), shift: 30 });
    let error = table.unmap(Iova(G - 0x1000), 0x2000, &mut Split::Refuse, &mut gather).unwrap_err();
    assert_eq!(error, Error::PartOfPage { iova: Iova(0), shift: 30 });
    assert!(gather.is_empty());
    assert_eq!(table.unmap(Iova(0x1000), 0x1000, &mut Split::Exchange, &mut gather), Ok(0x1000));
    // 511 pages of 2 MiB, and 511 of 4 KiB.
    assert_eq!(pages(&table).len(), 511 + 511);
    assert_eq!(gather.range(), Some((Iova(0), Iova(G - 1))), "the large page may be cached as one");
}

/// Arm ARM D8.16.1: the entry is empty while the caller invalidates.
#[test]
fn break_before_make_breaks_then_invalidates_then_makes() {
    let arena = Arena::new(4 << 20);
    let table = PageTable::new(ArmStage2::new(Granule::Size4K, 40, 48, 1).unwrap(), &arena).unwrap();
    let mut gather = Gather::new();
    table.map(&map(0, 0, 2 * M), &mut gather).unwrap();
    let error = table.unmap(Iova(0), 0x1000, &mut Split::Exchange, &mut gather).unwrap_err();
    assert_eq!(error, Error::BreakNeeded { iova: Iova(0), shift: 21 });
    let mut broken = Vec::new();
    let mut invalidate = |first: Iova, last: Iova| {
        broken.push((first.0, last.0));
        for iova in (first.0..last.0).step_by(0x1000) {
            assert_eq!(table.query(Iova(iova)).unwrap(), None, "nothing is there while it is broken");
        }
    };
    let mut split = Split::BreakBeforeMake(&mut invalidate);
    assert_eq!(table.unmap(Iova(0), 0x1000, &mut split, &mut gather), Ok(0x1000));
    // The block first, and then nothing more: 4 KiB pages without the contiguous hint.
    assert_eq!(broken, [(0, 2 * M - 1)]);
    assert_eq!(pages(&table).len(), 511);

    // A run of sixteen is broken in the same way, and the rest of it stays.
    table.map(&map(G, 0x10_0000, 0x1_0000), &mut gather).unwrap();
    assert_eq!(pages(&table).last().unwrap().shift, 16);
    let mut broken = Vec::new();
    let mut invalidate = |first: Iova, last: Iova| broken.push((first.0, last.0));
    let mut split = Split::BreakBeforeMake(&mut invalidate);
    assert_eq!(table.unmap(Iova(G + 0x3000), 0x1000, &mut split, &mut gather), Ok(0x1000));
    assert_eq!(broken, [(G, G + 0xffff)]);
    assert_eq!(table.query(Iova(G + 0x4000)).unwrap().unwrap().address, PhysAddr(0x10_4000));
    assert_eq!(table.query(Iova(G + 0x3000)).unwrap(), None);
}

/// Memory that fails: the error comes through, and what can be undone is.
#[test]
fn errors_of_the_memory_come_through() {
    use portcullis_pagetable::{TableAllocator, TableMemory};
    use std::cell::Cell;

    struct Flaky<'a>(&'a Arena, Cell<u32>);

    impl Flaky<'_> {
        fn step(&self) -> Result<(), &'static str> {
            let left = self.1.get();
            self.1.set(left.wrapping_sub(1));
            if left == 0 { Err("the wire is cut") } else { Ok(()) }
        }
    }

    impl TableMemory for Flaky<'_> {
        type Error = &'static str;

        fn load(&self, at: PhysAddr) -> Result<u64, &'static str> {
            self.step()?;
            let Ok(raw) = self.0.load(at);
            Ok(raw)
        }

        fn store(&self, at: PhysAddr, entry: u64) -> Result<(), &'static str> {
            self.step()?;
            let Ok(()) = self.0.store(at, entry);
            Ok(())
        }

        fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, &'static str> {
            self.step()?;
            let Ok(seen) = self.0.compare_exchange(at, expected, new);
            Ok(seen)
        }
    }

    impl TableAllocator for Flaky<'_> {
        fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
            self.0.allocate(size_log2)
        }

        fn free(&self, table: PhysAddr, size_log2: u8) {
            self.0.free(table, size_log2);
        }
    }

    // Fails once, at every access in turn; the wire holds again for the undoing.
    for at in 0.. {
        let arena = Arena::new(1 << 16);
        let memory = Flaky(&arena, Cell::new(u32::MAX));
        let table = PageTable::new(VtdSecondStage::new(3), &memory).unwrap();
        memory.1.set(at);
        let mut gather = Gather::new();
        let result = table.map(&map(2 * M - 0x10_0000, 0x1000, M + 0x4000), &mut gather);
        memory.1.set(u32::MAX);
        if result.is_ok() {
            assert!(at > 512, "every entry is looked at and written");
            break;
        }
        assert_eq!(result, Err(Error::Memory("the wire is cut")));
        table.for_each_page(Iova(0), G, |page| panic!("{page:?} is left, cut at {at}")).unwrap();
        gather.release(&&memory).unwrap();
        table.destroy().unwrap();
        assert_eq!(arena.live(), 0);
    }
}
