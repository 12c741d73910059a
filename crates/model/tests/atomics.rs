//! Atomic operations of devices, behind every unit by the same body.

mod world;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use portcullis_model::{AccessError, GuestMemory, Port, Width};
use portcullis_spec::{Access, Iova, PhysAddr};
use world::hooked::Hooked;
use world::*;

const IOVA: u64 = 0x4000_0000;
const WIDTHS: [(Width, u64); 2] = [(Width::Four, 0xffff_ffff), (Width::Eight, u64::MAX)];

type Operation<A> = fn(&Port<A>, Iova, Width) -> Result<u64, AccessError>;

/// Each operation, with operands that change what is 0.
fn operations<W: World>() -> [Operation<W::Architecture>; 4] {
    [
        |port, at, width| port.compare_exchange(at, width, 0, 1),
        |port, at, width| port.fetch_add(at, width, 1),
        |port, at, width| port.swap(at, width, 1),
        // One that changes nothing, for something else stands there.
        |port, at, width| port.compare_exchange(at, width, 5, 1),
    ]
}

fn word<W: World>(world: &W, physical: u64) -> u64 {
    world.memory().load64(PhysAddr(physical)).unwrap()
}

/// What each operation returns and leaves, at every place that it may have in a word; the neighbours keep what they have.
fn operations_do_what_they_are_called<W: World>() {
    const OLD: u64 = 0xfedc_ba98_8765_4321;
    const VALUE: u64 = 0xdead_beef_9abc_def0;
    let mut world = W::new();
    world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let port = world.port();
    for (width, mask) in WIDTHS {
        for offset in (0x100..0x108).step_by(width.bytes() as usize) {
            let shift = 8 * (offset & 7);
            let at = Iova(IOVA + offset);
            let old = OLD >> shift & mask;
            let reset = || {
                let neighbours = [!0, OLD, !0].map(u64::to_le_bytes).concat();
                world.write_memory(DATA + 0xf8, &neighbours);
            };
            let left = |value: u64, what: &str| {
                let whole = OLD & !(mask << shift) | (value & mask) << shift;
                let found = [0xf8, 0x100, 0x108].map(|at| word(&world, DATA + at));
                assert_eq!(found, [!0, whole, !0], "{what} of {width:?} at {offset:#x}");
            };
            reset();
            assert_eq!(port.fetch_add(at, width, VALUE), Ok(old));
            left(old.wrapping_add(VALUE), "fetch_add");
            reset();
            assert_eq!(port.swap(at, width, VALUE), Ok(old));
            left(VALUE, "swap");
            reset();
            assert_eq!(port.compare_exchange(at, width, old, VALUE), Ok(old));
            left(VALUE, "compare_exchange");
            reset();
            // Bits beyond the width are nothing.
            assert_eq!(port.compare_exchange(at, width, old | !mask, VALUE), Ok(old));
            left(VALUE, "compare_exchange");
            reset();
            assert_eq!(port.compare_exchange(at, width, old ^ 1 << 31, VALUE), Ok(old));
            left(old, "compare_exchange of something else");
            reset();
            assert_eq!(port.fetch_add(at, width, mask), Ok(old));
            left(old.wrapping_sub(1), "fetch_add of -1");
        }
    }
    assert_eq!(world.recorded(), QUIET);
}

/// An address that is no multiple of the width, also one that lies in two words, two pages or beyond the last address, is the
/// device's own mistake: the unit is not asked.
fn misaligned_addresses_reach_nothing<W: World>() {
    let mut world = W::new();
    let leaves = [0, PAGE].map(|page| world.map(IOVA + page, DATA + page, 0, Access::READ_WRITE));
    let port = world.port();
    for (width, _) in WIDTHS {
        let bytes = width.bytes();
        let inside = (1..16).filter(|offset| offset % bytes != 0).map(|offset| IOVA + 0x20 + offset);
        let straddling = (1..bytes).map(|offset| IOVA + PAGE - offset);
        let elsewhere = [u64::MAX, 0x1_0001, 0xfee0_0001];
        for at in inside.chain(straddling).chain(elsewhere) {
            for operation in operations::<W>() {
                let error = operation(&port, Iova(at), width).unwrap_err();
                assert_eq!(error, AccessError::Misaligned { address: Iova(at) });
            }
        }
    }
    assert_eq!(world.recorded(), QUIET);
    assert_eq!(world.read_memory(DATA, 2 * PAGE as usize), vec![0; 2 * PAGE as usize]);
    for leaf in leaves {
        if let Some(flags) = world.flags(leaf) {
            assert_eq!(flags, Flags { accessed: false, dirty: false });
        }
    }
}

/// An atomic operation reads and writes: a page that may be read only, and one that is not there, refuse all of them, also one that
/// would store nothing.
fn both_rights_are_needed<W: World>() {
    let mut world = W::new();
    let leaf = world.map(IOVA, DATA, 0, Access::READ);
    let port = world.port();
    // A cached translation makes no difference.
    for cached in [false, true] {
        if cached {
            port.read(Iova(IOVA), &mut [0; 8]).unwrap();
        }
        for (width, _) in WIDTHS {
            for operation in operations::<W>() {
                for at in [IOVA + 8, IOVA + PAGE + 8] {
                    let fault = *operation(&port, Iova(at), width).unwrap_err().fault().expect("refused");
                    assert_eq!(fault.address.0 & !0xfff, at & !0xfff);
                    assert_eq!(world.recorded(), [at & !0xfff], "recorded once");
                }
            }
        }
        if let Some(flags) = world.flags(leaf) {
            assert_eq!(flags, Flags { accessed: cached, dirty: false });
        }
    }
    if W::WRITE_ONLY {
        world.map(IOVA, DATA, 0, Access::WRITE);
        port.write(Iova(IOVA), &[0; 8]).unwrap();
        for operation in operations::<W>() {
            assert!(operation(&port, Iova(IOVA + 8), Width::Four).unwrap_err().fault().is_some());
            assert_eq!(world.recorded(), [IOVA]);
        }
    }
    assert_eq!(word(&world, DATA + 8), 0);
}

/// An operation is a write before it is known whether it stores something: the page is dirty (VT-d 3.6.2, RISC-V IOMMU 2.3, SMMUv3
/// 3.13.3).
fn pages_are_dirty_before_anything_is_stored<W: World>() {
    for operation in operations::<W>() {
        let mut world = W::new();
        let leaf = world.map(IOVA, DATA, 0, Access::READ_WRITE);
        let Some(clean) = world.flags(leaf) else { return };
        assert_eq!(clean, Flags { accessed: false, dirty: false });
        let port = world.port();
        port.read(Iova(IOVA), &mut [0; 8]).unwrap();
        assert_eq!(world.flags(leaf), Some(Flags { accessed: true, dirty: false }));
        operation(&port, Iova(IOVA), Width::Eight).unwrap();
        assert_eq!(world.flags(leaf), Some(Flags { accessed: true, dirty: true }));
    }
}

fn interrupt_addresses_take_none<W: World>() {
    let mut world = W::new();
    let at = 0xfee0_0000;
    world.map(at, DATA, 0, Access::READ_WRITE);
    let port = world.port();
    for (width, _) in WIDTHS {
        for operation in operations::<W>() {
            let done = operation(&port, Iova(at), width);
            if W::INTERRUPTS {
                assert!(done.unwrap_err().fault().is_some());
            } else {
                done.unwrap();
            }
        }
    }
    assert_eq!(word(&world, DATA) == 0, W::INTERRUPTS);
}

fn where_no_memory_is_nothing_is_done<W: World>() {
    let mut world = W::new();
    world.map(IOVA, MEMORY, 0, Access::READ_WRITE);
    for operation in operations::<W>() {
        let error = operation(&world.port(), Iova(IOVA), Width::Four).unwrap_err();
        assert!(matches!(error, AccessError::Memory(_)), "{error}");
    }
    assert_eq!(world.recorded(), QUIET);
}

const THREADS: u64 = 4;
const ROUNDS: u64 = 20_000;

/// Threads, each with a port of its own, add to the two halves of one word and to another word, while the guest's processor adds to
/// the same; nothing is lost.
fn additions_of_many_are_all_there<W: World>() {
    let mut world = W::new();
    world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let memory = Arc::clone(world.memory());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let port = world.port();
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    port.fetch_add(Iova(IOVA), Width::Four, 1).unwrap();
                    port.fetch_add(Iova(IOVA + 4), Width::Four, 2).unwrap();
                    port.fetch_add(Iova(IOVA + 8), Width::Eight, 0x1_0000_0001).unwrap();
                }
            });
        }
        let processor = |at: u64, value: u64| {
            let mut old = memory.load64(PhysAddr(at)).unwrap();
            while let found = memory.compare_exchange64(PhysAddr(at), old, old + value).unwrap()
                && found != old
            {
                old = found;
            }
        };
        for _ in 0..ROUNDS {
            processor(DATA, 1 << 32 | 3);
            processor(DATA + 8, 1);
        }
    });
    let low = (THREADS + 3) * ROUNDS;
    let high = (2 * THREADS + 1) * ROUNDS;
    assert_eq!(word(&world, DATA), high << 32 | low);
    let (high, low) = (THREADS * ROUNDS, (THREADS + 1) * ROUNDS);
    assert_eq!(word(&world, DATA + 8), high << 32 | low);
    assert_eq!(world.recorded(), QUIET);
}

/// Each thread swaps values of its own in: every value comes out once, or is there at the end.
fn values_swapped_in_come_out_once<W: World>() {
    let mut world = W::new();
    world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let mut found: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let port = world.port();
                scope.spawn(move || {
                    let values = (thread * ROUNDS..).take(ROUNDS as usize).map(|value| value + 1);
                    let swap = |value| port.swap(Iova(IOVA + 4), Width::Four, value).unwrap();
                    values.map(swap).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    found.push(word(&world, DATA) >> 32);
    assert_eq!(found.len() as u64, THREADS * ROUNDS + 1);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), (0..=THREADS * ROUNDS).collect());
    assert_eq!(word(&world, DATA) as u32, 0);
}

/// A lock made of compare_exchange lets one in at a time.
fn one_at_a_time_has_the_lock<W: World>() {
    let mut world = W::new();
    world.map(IOVA, DATA, 0, Access::READ_WRITE);
    const LOCK: Iova = Iova(IOVA + 0x40);
    const COUNT: Iova = Iova(IOVA + 0x80);
    let rounds = ROUNDS / 20;
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            let port = world.port();
            scope.spawn(move || {
                for _ in 0..rounds {
                    while port.compare_exchange(LOCK, Width::Eight, 0, thread).unwrap() != 0 {
                        std::thread::yield_now();
                    }
                    let mut count = [0; 8];
                    port.read(COUNT, &mut count).unwrap();
                    let count = u64::from_le_bytes(count) + 1;
                    port.write(COUNT, &count.to_le_bytes()).unwrap();
                    assert_eq!(port.swap(LOCK, Width::Eight, 0), Ok(thread));
                }
            });
        }
    });
    assert_eq!(word(&world, DATA + 0x80), THREADS * rounds);
}

/// Who invalidates waits until an operation that has begun has stored.
fn an_unmap_waits_for_the_operation<W: World>() {
    let (given, memory) = mpsc::channel();
    let mut world = W::over(Box::new(move |inner| {
        let hooked = Hooked::new(inner);
        given.send(Arc::clone(&hooked)).unwrap();
        hooked
    }));
    let hooked: Arc<Hooked> = memory.recv().unwrap();
    let leaf = world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let port = world.port();
    // Has looked everything up, and has read the old value.
    let (inside, is_inside) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    *hooked.after_load.lock().unwrap() = Some((
        DATA,
        0,
        Box::new(move || {
            inside.send(()).unwrap();
            may_go_on.recv().unwrap();
        }),
    ));
    let memory = Arc::clone(world.memory());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let queue = port.clone();
        let device = scope.spawn(move || queue.fetch_add(Iova(IOVA), Width::Eight, 7));
        is_inside.recv().unwrap();
        scope.spawn(|| {
            world.unmap(leaf);
            over.store(true, Ordering::SeqCst);
        });
        while memory.load64(PhysAddr(leaf)) != Ok(0) {
            std::thread::yield_now();
        }
        assert_waits(|| over.load(Ordering::SeqCst), "unmapped amid an atomic operation");
        assert_eq!(memory.load64(PhysAddr(DATA)), Ok(0));
        go_on.send(()).unwrap();
        assert_eq!(device.join().unwrap(), Ok(0));
    });
    assert_eq!(word(&world, DATA), 7);
    assert!(port.fetch_add(Iova(IOVA), Width::Eight, 1).is_err());
    assert_eq!(word(&world, DATA), 7);
}

on_every_architecture!(
    operations_do_what_they_are_called,
    misaligned_addresses_reach_nothing,
    both_rights_are_needed,
    pages_are_dirty_before_anything_is_stored,
    interrupt_addresses_take_none,
    where_no_memory_is_nothing_is_done,
    additions_of_many_are_all_there,
    values_swapped_in_come_out_once,
    one_at_a_time_has_the_lock,
    an_unmap_waits_for_the_operation,
);
