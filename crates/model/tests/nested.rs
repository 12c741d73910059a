//! Nested translation when everything is cached: what was invalidated is gone, and what was not asks for no invalidation. Behind every
//! unit that has two stages, by the same body.

mod world;

use portcullis_spec::{Access, Iova};
use world::two_stages::*;
use world::{BLOCK, DATA, PAGE};

const IOVA: u64 = 0x4000_0000;
const OTHER: u64 = DATA + PAGE;

/// What a device reads at an address, at first and when it has read that often: alone, and with others in one guard.
#[track_caller]
fn assert_reads<W: TwoStages>(world: &W, iova: u64, expected: u64) {
    let port = world.port();
    for round in 0..6 {
        let mut bytes = [0; 8];
        port.read(Iova(iova), &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), expected, "read {round}");
        let guard = port.enter();
        for _ in 0..3 {
            let slice = guard.slices(Iova(iova), 8, Access::READ).next().unwrap().unwrap();
            slice.read(0, &mut bytes);
            assert_eq!(u64::from_le_bytes(bytes), expected, "read in a guard, {round}");
        }
    }
}

/// A device that reads 1 at [`IOVA`] and 2 where the next page of memory is used, and has read the 1 often. The places of the leaf entries
/// of both stages.
fn cached<W: TwoStages>() -> (W, [u64; 2]) {
    let mut world = W::new();
    world.put(DATA, 1);
    world.put(OTHER, 2);
    let leaves = world.map_through(IOVA, DATA);
    world.back(OTHER + GUEST, OTHER, 0, Access::READ_WRITE);
    assert_reads(&world, IOVA, 1);
    (world, leaves)
}

fn a_page_of_the_first_stage_that_moves_is_found_after_its_invalidation<W: TwoStages>() {
    let (mut world, [first, _]) = cached::<W>();
    world.put(first, W::leaf(OTHER + GUEST, 0, Access::READ_WRITE));
    world.forget_first(IOVA, 0);
    assert_reads(&world, IOVA, 2);
    // Gone for good is refused.
    world.put(first, 0);
    world.forget_first(IOVA, 0);
    assert!(world.port().read(Iova(IOVA), &mut [0; 8]).is_err());
}

fn a_page_of_the_second_stage_that_moves_is_found_after_its_invalidation<W: TwoStages>() {
    let (mut world, [_, second]) = cached::<W>();
    world.back(DATA + GUEST, OTHER, 0, Access::READ_WRITE);
    world.forget_second(DATA + GUEST, 0);
    assert_reads(&world, IOVA, 2);
    world.put(second, 0);
    world.forget_second(DATA + GUEST, 0);
    assert!(world.port().read(Iova(IOVA), &mut [0; 8]).is_err());
}

/// A copy of a table with one entry that differs, and the second stage led there.
fn move_table<W: TwoStages>(world: &mut W, entry: u64, new: u64) {
    let (table, moved) = (entry & !0xfff, world.allocate(PAGE));
    for at in (0..PAGE).step_by(8) {
        world.put(moved + at, world.get(table + at));
    }
    world.put(moved + (entry & 0xfff), new);
    world.back(table + GUEST, moved, 0, Access::READ_WRITE);
    world.forget_second(table + GUEST, 0);
}

fn a_table_of_the_first_stage_that_moves_is_found_after_its_invalidation<W: TwoStages>() {
    for index in 0..W::LEVELS as usize {
        let mut world = W::new();
        world.put(DATA, 1);
        world.put(OTHER, 2);
        world.map_through(IOVA, DATA);
        // Through tables of its own below the root.
        let apart = world.map(IOVA + (1 << (3 + 9 * W::LEVELS)), OTHER + GUEST, 0, Access::READ_WRITE);
        world.back(OTHER + GUEST, OTHER, 0, Access::READ_WRITE);
        let entries = world.map(IOVA, DATA + GUEST, 0, Access::READ_WRITE);
        assert_reads(&world, IOVA, 1);
        let new = world.get(apart[index]);
        move_table(&mut world, entries[index], new);
        assert_reads(&world, IOVA, 2);
    }
}

/// Pages whose leaf entries' places drive each other out of a cache, while what the pages lead to does not.
fn a_table_that_was_found_but_not_kept_is_no_less_invalidated<W: TwoStages>() {
    for moved in 0..3 {
        let mut world = W::new();
        for number in 0..4 {
            world.put(DATA + number * PAGE, number);
            world.back(DATA + number * PAGE + GUEST, DATA + number * PAGE, 0, Access::READ_WRITE);
        }
        // 64 and 128 regions of 2 MiB apart, in one table of the level above.
        let pages = [1, 2, 3].map(|number| (IOVA + (number - 1) * 64 * BLOCK + number * PAGE, number));
        let leaves = pages.map(|(iova, number)| world.map_through(iova, DATA + number * PAGE)[0]);
        let port = world.port();
        let value = |iova| {
            let mut bytes = [0; 8];
            port.read(Iova(iova), &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        for round in 0..4 {
            for (iova, number) in pages {
                assert_eq!(value(iova), number, "{round}");
            }
        }
        move_table(&mut world, leaves[moved], W::leaf(DATA + GUEST, 0, Access::READ_WRITE));
        assert_eq!(value(pages[moved].0), 0, "{moved}");
    }
}

/// Every page of a larger one moves with it.
fn larger_pages_of_the_first_stage_move_as_one<W: TwoStages>() {
    let mut world = W::new();
    for page in SOME {
        let at = DATA + page * PAGE;
        for (at, value) in [(at, page), (at + BLOCK, page + 1000)] {
            world.put(at, value);
            world.back(at + GUEST, at, 0, Access::READ_WRITE);
        }
    }
    let leaf = *world.map(IOVA, DATA + GUEST, 1, Access::READ_WRITE).last().unwrap();
    move_back_and_forth(&mut world, |world, block, named| {
        world.put(leaf, W::leaf(block + GUEST, 1, Access::READ_WRITE));
        world.forget_first(IOVA + named, 1);
    });
}

fn larger_pages_of_the_second_stage_move_as_one<W: TwoStages>() {
    let mut world = W::new();
    for page in SOME {
        let at = page * PAGE;
        world.put(DATA + at, page);
        world.put(DATA + BLOCK + at, page + 1000);
        world.map(IOVA + at, DATA + GUEST + at, 0, Access::READ_WRITE);
    }
    world.back(DATA + GUEST, DATA, 1, Access::READ_WRITE);
    move_back_and_forth(&mut world, |world, block, named| {
        world.back(DATA + GUEST, block, 1, Access::READ_WRITE);
        world.forget_second(DATA + GUEST + named, 1);
    });
}

/// Pages of a larger one that are used.
const SOME: [u64; 3] = [3, 4, 300];

/// Moves a larger page between two blocks of data, and names it by any of its addresses: its first, one that is used, and others. What the
/// three specifications say: VT-d 6.5.2.3 wants a mask as large as the page, RISC-V Privileged "SFENCE.VMA" means the leaf entry that
/// the address corresponds to, and Arm's TLBI all entries that would be used to translate it.
fn move_back_and_forth<W: TwoStages>(world: &mut W, mut lead: impl FnMut(&mut W, u64, u64)) {
    let check = |world: &W, more: u64| {
        SOME.into_iter().for_each(|page| assert_reads(world, IOVA + page * PAGE, page + more));
    };
    check(world, 0);
    for (named, block, more) in
        [(0, DATA + BLOCK, 1000), (3, DATA, 0), (200, DATA + BLOCK, 1000), (511, DATA, 0)]
    {
        lead(world, block, named * PAGE);
        check(world, more);
    }
}

/// The same where the first stage's tables lie in it.
fn tables_in_larger_pages_of_the_second_stage_move_with_them<W: TwoStages>() {
    let mut world = W::new();
    let tables = world.allocate(BLOCK);
    let moved = world.allocate(BLOCK);
    world.put(DATA, 1);
    world.put(OTHER, 2);
    for page in [DATA, OTHER] {
        world.back(page + GUEST, page, 0, Access::READ_WRITE);
    }
    // The last level's table is the fourth page of the larger one.
    let entries = world.map(IOVA, DATA + GUEST, 0, Access::READ_WRITE);
    let [.., above, last] = entries[..] else { panic!("a table above the last") };
    for (block, page) in [(tables, DATA), (moved, OTHER)] {
        world.put(block + 3 * PAGE + (last & 0xfff), W::leaf(page + GUEST, 0, Access::READ_WRITE));
    }
    let guest = 4 * GUEST;
    world.put(above, W::link(guest + 3 * PAGE));
    world.back(guest, tables, 1, Access::READ_WRITE);
    assert_reads(&world, IOVA, 1);
    world.back(guest, moved, 1, Access::READ_WRITE);
    world.forget_second(guest, 1);
    assert_reads(&world, IOVA, 2);
}

fn rights_that_were_added_are_granted_at_once<W: TwoStages>() {
    let mut world = W::new();
    world.put(DATA, 1);
    let first = *world.map(IOVA, DATA + GUEST, 0, Access::READ).last().unwrap();
    world.back(DATA + GUEST, DATA, 0, Access::READ);
    assert_reads(&world, IOVA, 1);
    let port = world.port();
    let refused = |port: &portcullis_model::Port<W::Architecture>| port.write(Iova(IOVA), &[9]).is_err();
    assert!(refused(&port));
    world.put(first, W::leaf(DATA + GUEST, 0, Access::READ_WRITE));
    assert!(refused(&port), "the second stage says no");
    world.back(DATA + GUEST, DATA, 0, Access::READ_WRITE);
    port.write(Iova(IOVA), &[9]).unwrap();
    assert_eq!(world.get(DATA), 9);
}

/// VT-d 9.7 and 9.8, SMMUv3 3.13.2, Privileged "Two-Stage Address Translation": a page that was written is dirty in both stages.
fn a_write_after_reads_makes_both_stages_dirty_before_it_is_granted<W: TwoStages>() {
    let (world, [first, second]) = cached::<W>();
    assert_eq!(world.are_dirty(first, second), [false; 2]);
    let port = world.port();
    for _ in 0..4 {
        let guard = port.enter();
        assert!(guard.translate(Iova(IOVA), 8, Access::READ).is_ok());
        assert!(guard.translate(Iova(IOVA), 8, Access::WRITE).is_ok());
        // Granted, and nothing written yet.
        assert_eq!(world.are_dirty(first, second), [true; 2]);
    }
    // Clean again, and invalidated: the next one makes them dirty again.
    for clean in [[true, false], [false, true]] {
        let mut world = cached::<W>().0;
        world.port().write(Iova(IOVA), &[7]).unwrap();
        assert_reads(&world, IOVA, 7);
        let port = world.port();
        (0..4).for_each(|_| port.write(Iova(IOVA), &[7]).unwrap());
        let [first, second] = [
            *world.map(IOVA, DATA + GUEST, 0, Access::READ_WRITE).last().unwrap(),
            world.back(DATA + GUEST, DATA, 0, Access::READ_WRITE),
        ];
        assert_eq!(world.are_dirty(first, second), [false; 2]);
        if clean[0] {
            world.forget_first(IOVA, 0);
        } else {
            world.forget_second(DATA + GUEST, 0);
        }
        port.write(Iova(IOVA), &[8]).unwrap();
        assert_eq!(world.are_dirty(first, second), [true; 2], "{clean:?}");
    }
}

/// More pages than are kept at most.
fn many_pages_lead_where_they_should<W: TwoStages>() {
    const PAGES: u64 = 17 << 10;
    const FRAMES: u64 = 1000;
    let mut world = W::new();
    for frame in 0..FRAMES {
        world.put(DATA + frame * PAGE, frame);
        world.back(DATA + GUEST + frame * PAGE, DATA + frame * PAGE, 0, Access::READ_WRITE);
    }
    // Not the same for pages that are a power of two apart.
    let frame = |page: u64| page * 7 % FRAMES;
    for page in 0..PAGES {
        world.map(IOVA + page * PAGE, DATA + GUEST + frame(page) * PAGE, 0, Access::READ_WRITE);
    }
    let port = world.port();
    let check = |page: u64, times: u32| {
        for _ in 0..times {
            let mut bytes = [0; 8];
            port.read(Iova(IOVA + page * PAGE), &mut bytes).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), frame(page), "{page}");
        }
    };
    for page in 0..PAGES {
        check(page, 3);
    }
    for page in (0..PAGES).rev() {
        check(page, 1);
    }
}

/// More combinations of entries than are kept: each of both stages read-only, clean, or dirty.
fn many_combinations_of_entries_permit_what_both_do<W: TwoStages>() {
    // Those that permit most come first, so that none of them has the place of others.
    const KINDS: [(Access, bool); 3] =
        [(Access::READ_WRITE, true), (Access::READ_WRITE, false), (Access::READ, false)];
    let mut world = W::new();
    let mut pages = Vec::new();
    let mut at = 0;
    for (first, first_written) in KINDS {
        for (second, second_written) in KINDS {
            let (iova, page) = (IOVA + at, DATA + at);
            at += PAGE;
            world.put(page, at);
            // Pages that were written through each stage alone: with another that leads to the same, or from the same.
            let both = world.map_through(iova, page);
            if first_written || second_written {
                world.port().write(Iova(iova), &at.to_le_bytes()).unwrap();
            }
            if !first_written {
                world.put(both[0], W::leaf(page + GUEST, 0, first));
            }
            if !second_written {
                world.back(page + GUEST, page, 0, second);
            }
            world.forget_first(iova, 0);
            world.forget_second(page + GUEST, 0);
            let writable = first.contains(Access::WRITE) && second.contains(Access::WRITE);
            pages.push((iova, at, writable, both));
        }
    }
    for round in 0..4 {
        for (iova, value, ..) in &pages {
            assert_reads(&world, *iova, *value);
            let guard = world.port();
            let translated = guard.enter().translate(Iova(*iova), 8, Access::READ);
            assert_eq!(translated.unwrap().address.0, DATA + *value - PAGE, "{round}");
        }
    }
    for _ in 0..4 {
        for (iova, value, writable, both) in &pages {
            let written = world.port().write(Iova(*iova), &value.to_le_bytes());
            assert_eq!(written.is_ok(), *writable, "{iova:#x}");
            if *writable {
                assert_eq!(world.are_dirty(both[0], both[1]), [true; 2], "{iova:#x}");
            }
        }
    }
}

macro_rules! on_every_architecture_with_two_stages {
    ($($test:ident),* $(,)?) => {
        on_every_architecture_with_two_stages!(@each vtd: VtdNested; $($test),*);
        on_every_architecture_with_two_stages!(@each smmuv3: SmmuNested; $($test),*);
        on_every_architecture_with_two_stages!(@each riscv: RiscvNested; $($test),*);
    };
    (@each $name:ident: $world:ty; $($test:ident),*) => {
        mod $name {
            use super::*;
            $(#[test]
            fn $test() {
                super::$test::<$world>();
            })*
        }
    };
}

on_every_architecture_with_two_stages! {
    a_page_of_the_first_stage_that_moves_is_found_after_its_invalidation,
    a_page_of_the_second_stage_that_moves_is_found_after_its_invalidation,
    a_table_of_the_first_stage_that_moves_is_found_after_its_invalidation,
    a_table_that_was_found_but_not_kept_is_no_less_invalidated,
    larger_pages_of_the_first_stage_move_as_one,
    larger_pages_of_the_second_stage_move_as_one,
    tables_in_larger_pages_of_the_second_stage_move_with_them,
    rights_that_were_added_are_granted_at_once,
    a_write_after_reads_makes_both_stages_dirty_before_it_is_granted,
    many_pages_lead_where_they_should,
    many_combinations_of_entries_permit_what_both_do,
}
