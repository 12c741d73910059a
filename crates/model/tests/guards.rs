//! Guards one after the other, and at once: what a port found in one is good in the next only if nothing of it was invalidated. Behind every
//! unit by the same body.

mod world;

use portcullis_model::engine::Architecture;
use portcullis_model::{Guard, Port};
use portcullis_spec::{Access, Iova};
use world::*;

const IOVA: u64 = 0x4000_0000;
/// More ranges of 2 MiB than a port remembers.
const RANGES: u64 = 24;

fn read<A: Architecture>(guard: &Guard<'_, A>, iova: u64) -> Option<u64> {
    let slice = guard.slices(Iova(iova), 8, Access::READ).next()?.ok()?;
    let mut bytes = [0; 8];
    slice.read(0, &mut bytes);
    Some(u64::from_le_bytes(bytes))
}

fn iova(range: u64) -> u64 {
    IOVA + range * BLOCK
}

/// A device that reads 1, 2 and so on in ranges of their own, and where the leaf entry of each lies.
fn ranges<W: World>() -> (W, Vec<u64>) {
    let mut world = W::new();
    let leaves = (0..RANGES).map(|range| {
        world.write_memory(DATA + range * PAGE, &(range + 1).to_le_bytes());
        world.map(iova(range), DATA + range * PAGE, 0, Access::READ_WRITE)
    });
    let leaves = leaves.collect();
    (world, leaves)
}

/// Uses all ranges in turn, in several guards, so that the port remembers the last of them.
#[track_caller]
fn use_all<A: Architecture>(port: &Port<A>, expected: impl Fn(u64) -> u64) {
    for _ in 0..4 {
        let guard = port.enter();
        for range in (0..RANGES).chain(0..RANGES) {
            assert_eq!(read(&guard, iova(range)), Some(expected(range)), "{range}");
        }
    }
}

/// Where the entry lies that leads to a table.
fn entry_above<W: World>(world: &W, table: u64) -> u64 {
    let memory = world.read_memory(0, DATA as usize);
    let entries = memory.chunks_exact(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap()));
    // An address in its place, or in pages from bit 10 on (RISC-V).
    let leads = |entry: u64| [entry & 0x000f_ffff_ffff_f000, entry >> 10 << 12].contains(&table);
    let found = entries.zip((0..).step_by(8)).find(|(entry, _)| entry & 1 == 1 && leads(*entry));
    found.expect("a table is led to").1
}

/// Puts another table in the place of the one in which the leaf entry of a range lies, so that 999 is read there. The old one stays as it is.
fn replace_table<W: World>(world: &mut W, leaves: &[u64], range: u64) {
    let physical = DATA + 100 * PAGE;
    world.write_memory(physical, &999u64.to_le_bytes());
    let old = leaves[range as usize] & !0xfff;
    // The new one is made by mapping elsewhere.
    let new = world.map(iova(range + RANGES), physical, 0, Access::READ_WRITE) & !0xfff;
    let [old, new] = [old, new].map(|table| entry_above(world, table));
    let entry = world.read_memory(new, 8);
    world.write_memory(old, &entry);
}

fn a_table_that_was_replaced_between_guards_is_found<W: World>() {
    for range in [0, 7, RANGES - 1] {
        let (mut world, leaves) = ranges::<W>();
        let port = world.port();
        use_all(&port, |range| range + 1);
        replace_table(&mut world, &leaves, range);
        world.forget_page(iova(range));
        assert_eq!(read(&port.enter(), iova(range)), Some(999));
        use_all(&port, |other| if other == range { 999 } else { other + 1 });
    }
}

fn a_device_that_was_moved_between_guards_is_where_it_is<W: World>() {
    let (mut world, _) = ranges::<W>();
    let port = world.port();
    use_all(&port, |range| range + 1);
    world.move_device();
    // Another port comes first, so that this one meets what that found.
    assert!(world.port().read(Iova(IOVA), &mut [0; 8]).is_err());
    for range in (0..RANGES).rev() {
        assert_eq!(read(&port.enter(), iova(range)), None, "{range}");
    }
    for range in 0..RANGES {
        world.map(iova(range), DATA + (RANGES - range) * PAGE, 0, Access::READ_WRITE);
        world.write_memory(DATA + (RANGES - range) * PAGE, &(range + 500).to_le_bytes());
    }
    world.forget();
    use_all(&port, |range| range + 500);
}

fn clones_of_a_port_find_the_same_and_nothing_old<W: World>() {
    let (mut world, leaves) = ranges::<W>();
    let port = world.port();
    use_all(&port, |range| range + 1);
    let clone = port.clone();
    use_all(&clone, |range| range + 1);
    // Both at once, in turn.
    {
        let guards = [port.enter(), clone.enter()];
        for range in 0..RANGES {
            for guard in &guards {
                assert_eq!(read(guard, iova(range)), Some(range + 1));
            }
        }
    }
    replace_table(&mut world, &leaves, RANGES - 1);
    world.forget_page(iova(RANGES - 1));
    for port in [&clone, &port] {
        assert_eq!(read(&port.enter(), iova(RANGES - 1)), Some(999));
        use_all(port, |range| if range == RANGES - 1 { 999 } else { range + 1 });
    }
}

fn two_guards_of_a_port_at_once_find_the_same_and_leave_nothing_old<W: World>() {
    let (mut world, leaves) = ranges::<W>();
    let port = world.port();
    for first_ends_first in [false, true] {
        let (first, second) = (port.enter(), port.enter());
        for range in (0..RANGES).chain(0..RANGES) {
            assert_eq!(read(&first, iova(range)), read(&second, iova(range)));
            assert_eq!(read(&first, iova(range)), Some(range + 1));
        }
        if first_ends_first {
            drop(first);
            assert_eq!(read(&second, iova(3)), Some(4));
        } else {
            drop(second);
            assert_eq!(read(&first, iova(3)), Some(4));
        }
    }
    replace_table(&mut world, &leaves, RANGES - 1);
    world.forget_page(iova(RANGES - 1));
    assert_eq!(read(&port.enter(), iova(RANGES - 1)), Some(999));
    use_all(&port, |range| if range == RANGES - 1 { 999 } else { range + 1 });
}

/// A guard that began before what another thread invalidated gives its port back what it knew, after one that began later.
fn a_guard_that_ends_late_leaves_nothing_old<W: World>() {
    let (mut world, leaves) = ranges::<W>();
    let port = world.port();
    use_all(&port, |range| range + 1);
    replace_table(&mut world, &leaves, RANGES - 1);
    let early = port.enter();
    assert!(read(&early, iova(0)).is_some());
    let started = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let software = scope.spawn(|| {
            started.wait();
            // Returns once the early guard has ended.
            world.forget_page(iova(RANGES - 1));
        });
        started.wait();
        // Whether this is before or after the invalidation is not known, and makes no difference to what must be true in the end.
        let late = port.enter();
        let _ = read(&late, iova(RANGES - 1));
        drop(late);
        drop(early);
        software.join().unwrap();
    });
    assert_eq!(read(&port.enter(), iova(RANGES - 1)), Some(999));
    use_all(&port, |range| if range == RANGES - 1 { 999 } else { range + 1 });
}

on_every_architecture! {
    a_table_that_was_replaced_between_guards_is_found,
    a_device_that_was_moved_between_guards_is_where_it_is,
    clones_of_a_port_find_the_same_and_nothing_old,
    two_guards_of_a_port_at_once_find_the_same_and_leave_nothing_old,
    a_guard_that_ends_late_leaves_nothing_old,
}
