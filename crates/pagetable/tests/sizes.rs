//! Which pages are chosen, what they cost, and what happens to tables that are no longer needed.

mod common;

use common::Arena;
use portcullis_pagetable::format::{AmdV1, ArmStage1, ArmStage2, Riscv, VtdSecondStage, X86};
use portcullis_pagetable::{Attributes, Format, Gather, Map, PageTable, Rights, Split, TableMemory};
use portcullis_spec::{Access, Granule, Iova, PhysAddr};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn data() -> Attributes {
    Attributes::new(Rights::from_access(Access::READ_WRITE | Access::EXECUTE))
}

/// Shifts and numbers of the pages that a map comes to, in order.
fn chosen<F: Format>(format: F, map: &Map) -> Vec<(u8, u32)> {
    let arena = Arena::new(8 << 20);
    let table = PageTable::new(format, &arena).unwrap();
    table.map(map, &mut Gather::new()).unwrap();
    let mut pages: Vec<(u8, u32)> = Vec::new();
    let mut next = (map.iova, map.address);
    table
        .for_each_page(map.iova, map.size, |page| {
            assert_eq!((page.iova, page.address), next);
            next = (Iova(page.iova.0 + (1 << page.shift)), PhysAddr(page.address.0 + (1 << page.shift)));
            match pages.last_mut() {
                Some((shift, count)) if *shift == page.shift => *count += 1,
                _ => pages.push((page.shift, 1)),
            }
        })
        .unwrap();
    assert_eq!(next.0, Iova(map.iova.0 + map.size));
    pages
}

fn map(iova: u64, address: u64, size: u64) -> Map {
    Map::new(Iova(iova), PhysAddr(address), size, data())
}

#[test]
fn the_largest_pages_that_fit_are_chosen() {
    let vtd = VtdSecondStage::new(4);
    assert_eq!(chosen(vtd, &map(0, 0, 4 * G)), [(30, 4)]);
    assert_eq!(chosen(vtd, &map(G - 4 * K, G - 4 * K, G + 8 * K)), [(12, 1), (30, 1), (12, 1)]);
    assert_eq!(
        chosen(vtd, &map(G - 2 * M - 4 * K, G - 2 * M - 4 * K, G + 4 * M + 8 * K)),
        [(12, 1), (21, 1), (30, 1), (21, 1), (12, 1)]
    );
    // Congruent for 2 MiB but not for 1 GiB.
    assert_eq!(chosen(vtd, &map(0, 2 * M, 2 * G)), [(21, 1024)]);
    assert_eq!(chosen(vtd, &map(0, 4 * K, 4 * M)), [(12, 1024)]);
    // Fewer than the unit could: by capability, and by call.
    assert_eq!(chosen(VtdSecondStage { pages_1g: false, ..vtd }, &map(0, 0, G)), [(21, 512)]);
    assert_eq!(chosen(vtd, &Map { page_sizes: 1 << 12, ..map(0, 0, 2 * M) }), [(12, 512)]);
    assert_eq!(chosen(X86::new(5), &map(0, 0, 2 * G)), [(30, 2)]);
    // A leaf may stand at every level of RISC-V.
    assert_eq!(chosen(Riscv::new(4), &map(0, 0, 512 * G)), [(39, 1)]);
    assert_eq!(chosen(Riscv::new(5), &map(0, 0, 1 << 49)), [(48, 2)]);
    assert_eq!(chosen(Riscv::new(3), &map(60 * K, 60 * K, 136 * K)), [(12, 1), (16, 2), (12, 1)]);
    let bare = Riscv { svnapot: false, ..Riscv::new(3) };
    assert_eq!(chosen(bare, &map(64 * K, 64 * K, 64 * K)), [(12, 16)]);
    // AMD v1: every power of two.
    assert_eq!(
        chosen(AmdV1::new(4), &map(4 * K, 4 * K, 32 * M)),
        [
            (12, 1),
            (13, 1),
            (14, 1),
            (15, 1),
            (16, 1),
            (17, 1),
            (18, 1),
            (19, 1),
            (20, 1),
            (21, 1),
            (22, 1),
            (23, 1),
            (24, 1),
            (12, 1)
        ]
    );
    assert_eq!(chosen(AmdV1::new(5), &map(0, 0, 512 * G)), [(38, 2)]);
    // Arm: contiguous runs of 16 at every level of 4 KiB granules; of 128 and 32; of 32.
    let stage1 = |granule| ArmStage1::new(granule, 48, 48, false).unwrap();
    assert_eq!(chosen(stage1(Granule::Size4K), &map(0, 0, 16 * G)), [(34, 1)]);
    assert_eq!(
        chosen(stage1(Granule::Size4K), &map(2 * M - 64 * K, 2 * M - 64 * K, 64 * M)),
        [(16, 1), (21, 15), (25, 1), (16, 31)]
    );
    assert_eq!(chosen(stage1(Granule::Size16K), &map(0, 0, G + 2 * M)), [(30, 1), (21, 1)]);
    assert_eq!(chosen(stage1(Granule::Size64K), &map(0, 0, 2 * M + 64 * K)), [(21, 1), (16, 1)]);
    let mut plain = stage1(Granule::Size4K);
    plain.shape.contiguous = false;
    assert_eq!(chosen(plain, &map(0, 0, 2 * M + 64 * K)), [(21, 1), (12, 16)]);
    // FEAT_LPA2: 512 GiB blocks at level 0 of 4 KiB granules.
    let lpa2 = ArmStage1::new(Granule::Size4K, 52, 52, false).unwrap();
    assert_eq!(chosen(lpa2, &map(0, 0, 512 * G)), [(39, 1)]);
    // A small input size: no page is larger than it.
    let small = ArmStage2::new(Granule::Size4K, 32, 48, 1).unwrap();
    assert_eq!(chosen(small, &map(0, 0, 4 * G)), [(30, 4)]);
}

/// 8 bytes an entry, and nothing beside the tables.
#[test]
fn tables_are_all_that_is_used() {
    let arena = Arena::new(8 << 20);
    let table = PageTable::new(VtdSecondStage::new(4), &arena).unwrap();
    // 512 MiB of 4 KiB pages: 256 leaf tables, one of level 1, one of level 2, the root.
    table.map(&map(0, 4 * K, 512 * M), &mut Gather::new()).unwrap();
    assert_eq!(arena.live(), 256 + 1 + 1 + 1);
    // The value holds the format, the root and the reference to its memory.
    let parts = size_of::<VtdSecondStage>() + size_of::<PhysAddr>() + size_of::<&Arena>();
    assert_eq!(size_of_val(&table), parts.next_multiple_of(8));
}

/// Tables that a range covers wholly are gathered, not freed: a unit may still walk them. They are linked through themselves,
/// and what a unit sees there is not present.
#[test]
fn freed_tables_wait_for_the_invalidation() {
    let arena = Arena::new(8 << 20);
    let table = PageTable::new(VtdSecondStage::new(4), &arena).unwrap();
    let mut gather = Gather::new();
    table.map(&map(0, 4 * K, G), &mut gather).unwrap();
    table.map(&map(G, 4 * K, 2 * M), &mut gather).unwrap();
    assert_eq!(arena.live(), 1 + 1 + 1 + 512 + 2);
    let leaf_table = table.walk(Iova(6 * M)).steps()[3].at.align_down(4096);
    assert_eq!(table.unmap(Iova(0), G, &mut Split::Refuse, &mut gather), Ok(G));
    assert_eq!((gather.tables(), gather.page_shift()), (513, Some(12)));
    assert_eq!(gather.range(), Some((Iova(0), Iova(G - 1))));
    assert_eq!(arena.live(), 1 + 1 + 1 + 512 + 2, "nothing is freed before");
    // A unit with a cached table entry finds the link in the first entry, and old entries in the others.
    let Ok(link) = arena.load(leaf_table);
    assert_eq!(link & 7, 0);
    let mut all = Gather::new();
    assert_eq!(table.unmap(Iova(G), 2 * M, &mut Split::Refuse, &mut all), Ok(2 * M));
    all.append(&&arena, gather).unwrap();
    assert_eq!((all.tables(), all.range()), (514, Some((Iova(0), Iova(G + 2 * M - 1)))));
    all.release(&&arena).unwrap();
    assert!(all.is_empty());
    assert_eq!(arena.live(), 1 + 1 + 1);
}

/// Small unmaps leave tables empty; a large page that comes later takes their place, and says that this must be invalidated.
#[test]
fn a_large_page_takes_the_place_of_an_empty_table() {
    let arena = Arena::new(1 << 20);
    let table = PageTable::new(VtdSecondStage::new(4), &arena).unwrap();
    let mut gather = Gather::new();
    for page in 0..512 {
        table.map(&map(page * 4 * K, 0, 4 * K), &mut gather).unwrap();
        assert_eq!(table.unmap(Iova(page * 4 * K), 4 * K, &mut Split::Refuse, &mut gather), Ok(4 * K));
    }
    assert_eq!((arena.live(), gather.tables()), (4, 0));
    let mut gather = Gather::new();
    table.map(&map(0, 2 * M, 2 * M), &mut gather).unwrap();
    assert_eq!(table.query(Iova(0x1234)).unwrap().unwrap().shift, 21);
    assert_eq!((gather.tables(), gather.range()), (1, Some((Iova(0), Iova(2 * M - 1)))));
    gather.release(&&arena).unwrap();
    assert_eq!(arena.live(), 3);
}

/// An adopted AMD table that skips levels: pages below are found, listed, unmapped, and their tables gathered.
#[test]
fn tables_that_skip_levels_are_worked_on() {
    let arena = Arena::new(1 << 20);
    let lower = PageTable::new(AmdV1::new(2), &arena).unwrap();
    lower.map(&map(0, 2 * M, 8 * M), &mut Gather::new()).unwrap();
    lower.map(&map(16 * M, 4 * K, 8 * K), &mut Gather::new()).unwrap();
    let table = PageTable::new(AmdV1::new(4), &arena).unwrap();
    // Entry 1 of the root leads past level 3.
    let Ok(()) = arena.store(PhysAddr(table.root().0 + 8), lower.root().0 | 0x6000_0000_0000_0401);
    let start = 512 * G;
    assert_eq!(table.query(Iova(start + 0x1234)).unwrap().unwrap().address, PhysAddr(2 * M + 0x1234));
    assert_eq!(table.query(Iova(start + G)).unwrap(), None, "beyond what the table serves");
    let mut found = Vec::new();
    table.for_each_page(Iova(0), 1 << 42, |page| found.push((page.iova.0 - start, page.shift))).unwrap();
    assert_eq!(found[..4], [0, 2, 4, 6].map(|at| (at * M, 21)));
    assert_eq!(found[4..], [(16 * M, 12), (16 * M + 4 * K, 12)]);
    let mut gather = Gather::new();
    assert_eq!(table.unmap(Iova(start + 2 * M), 2 * M, &mut Split::Exchange, &mut gather), Ok(2 * M));
    assert_eq!(table.unmap(Iova(start + 64 * G), G, &mut Split::Exchange, &mut gather), Ok(0));
    assert_eq!(table.unmap(Iova(start), 512 * G, &mut Split::Exchange, &mut gather), Ok(6 * M + 8 * K));
    assert_eq!(gather.tables(), 2, "the adopted table, and the one below it");
    gather.release(&&arena).unwrap();
    table.destroy().unwrap();
    assert_eq!(arena.live(), 0);
}
