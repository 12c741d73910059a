//! Threads that work on disjoint ranges of one table, without a lock.

mod common;

use common::Arena;
use portcullis_pagetable::format::{AmdV1, Riscv, VtdSecondStage};
use portcullis_pagetable::{Attributes, Format, Gather, Map, PageTable, Rights, Split};
use portcullis_spec::{Access, Iova, PhysAddr};
use std::sync::Barrier;

const THREADS: u64 = 4;

fn data() -> Attributes {
    Attributes::new(Rights::from_access(Access::READ_WRITE | Access::EXECUTE))
}

/// Every thread's pages interleave with the others' in the same leaf tables, so that all race to install every table.
fn interleaved<F: Format + Sync>(format: F) {
    let arena = Arena::new(16 << 20);
    for round in 0..20u64 {
        let table = PageTable::new(format, &arena).unwrap();
        let barrier = Barrier::new(THREADS as usize);
        // In some rounds far apart, for tables of all levels, in others side by side.
        let stride = [1u64 << 12, 1 << 21, 1 << 30][round as usize % 3];
        let iova = |page: u64, thread: u64| page * stride + thread * 0x1000 * u64::from(stride != 0x1000);
        let iova = |page: u64, thread: u64| {
            if stride == 0x1000 { (page * THREADS + thread) * 0x1000 } else { iova(page, thread) }
        };
        let pages = if stride == 1 << 30 { 100 } else { 300 };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, barrier) = (&table, &barrier);
                scope.spawn(move || {
                    let mut gather = Gather::new();
                    barrier.wait();
                    for page in 0..pages {
                        let address = PhysAddr((thread << 40) + page * 0x1000);
                        let map = Map::new(Iova(iova(page, thread)), address, 0x1000, data());
                        table.map(&map, &mut gather).unwrap();
                    }
                    for page in (0..pages).step_by(2) {
                        let unmapped =
                            table.unmap(Iova(iova(page, thread)), 0x1000, &mut Split::Refuse, &mut gather);
                        assert_eq!(unmapped, Ok(0x1000));
                    }
                    assert_eq!(gather.tables(), 0, "a table that others use is never taken out");
                });
            }
        });
        for thread in 0..THREADS {
            for page in 0..pages {
                let found = table.query(Iova(iova(page, thread))).unwrap().map(|found| found.address.0);
                assert_eq!(found, (page % 2 == 1).then_some((thread << 40) + page * 0x1000));
            }
        }
        table.destroy().unwrap();
        assert_eq!(arena.live(), 0, "the tables that lost a race came back");
    }
}

#[test]
fn threads_map_interleaved_pages() {
    interleaved(VtdSecondStage::new(4));
    interleaved(AmdV1::new(5));
    interleaved(Riscv::new_x4(4));
}

/// Each thread maps, splits, narrows and unmaps ranges of its own that own whole tables, over and over: tables come and go
/// while the tables above are shared.
#[test]
fn threads_take_out_the_tables_that_only_they_use() {
    let arena = Arena::new(16 << 20);
    let table = PageTable::new(VtdSecondStage::new(4), &arena).unwrap();
    const SIZE: u64 = 8 << 20;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, arena) = (&table, &arena);
            scope.spawn(move || {
                let start = thread * SIZE + (1 << 30);
                for round in 0..200u64 {
                    let mut gather = Gather::new();
                    let address = PhysAddr((thread << 40) + (round % 3) * 0x1000);
                    let map = Map::new(Iova(start), address, SIZE, data());
                    table.map(&map, &mut gather).unwrap();
                    let hole = start + (round % 7) * 0x10_1000;
                    let unmapped = table.unmap(Iova(hole), 0x3000, &mut Split::Exchange, &mut gather);
                    assert_eq!(unmapped, Ok(0x3000));
                    let read = Rights::from_access(Access::READ | Access::EXECUTE);
                    let changed = table.protect(Iova(start), SIZE, read, &mut Split::Exchange, &mut gather);
                    assert_eq!(changed, Ok(SIZE - 0x3000));
                    assert_eq!(table.query(Iova(hole)).unwrap(), None);
                    let found = table.query(Iova(start + SIZE - 0x1000)).unwrap().unwrap();
                    assert_eq!(found.address.0, address.0 + SIZE - 0x1000);
                    let unmapped = table.unmap(Iova(start), SIZE, &mut Split::Refuse, &mut gather);
                    assert_eq!(unmapped, Ok(SIZE - 0x3000));
                    assert!(gather.tables() > 0);
                    gather.release(&arena).unwrap();
                }
            });
        }
    });
    // Root and two tables above, which are shared; all else was theirs.
    assert_eq!(arena.live(), 3);
    table.destroy().unwrap();
    assert_eq!(arena.live(), 0);
}
