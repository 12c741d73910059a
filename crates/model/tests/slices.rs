//! Scatter-gather: [`Guard::slices`](portcullis_model::Guard::slices) gives a range's memory as it lies in this process, behind every
//! unit by the same body.

mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use portcullis_model::{AccessError, GuestMemory, HostSlice, MemoryError, OwnedMemory};
use portcullis_spec::{Access, FaultReason, Iova, PhysAddr};
use world::*;

const IOVA: u64 = 0x4000_0000;
/// Which page of data each page from `IOVA` on leads to: neighbours, backwards, twice the same, neighbours again.
const SCATTERED: [u64; 8] = [5, 6, 2, 1, 1, 8, 9, 10];

fn place(page: u64) -> u64 {
    DATA + page * PAGE
}

fn scattered<W: World>(world: &mut W, access: Access) -> Vec<u64> {
    let pages = (0..).map(|page| IOVA + page * PAGE).zip(SCATTERED);
    pages.map(|(iova, page)| world.map(iova, place(page), 0, access)).collect()
}

fn host<W: World>(world: &W, physical: u64) -> *mut u8 {
    world.memory().host_pointer(PhysAddr(physical), 1).expect("memory").as_ptr()
}

/// What must come of a range, byte by byte: stretches in this process.
fn expected<W: World>(world: &W, iova: u64, length: u64) -> Vec<(*mut u8, usize)> {
    let mut stretches: Vec<(*mut u8, usize)> = Vec::new();
    for at in iova..iova + length {
        let page = SCATTERED[((at - IOVA) / PAGE) as usize];
        let byte = host(world, place(page) + at % PAGE);
        match stretches.last_mut() {
            Some((first, count)) if first.wrapping_add(*count) == byte => *count += 1,
            _ => stretches.push((byte, 1)),
        }
    }
    stretches
}

fn stretches(slices: &[HostSlice<'_>]) -> Vec<(*mut u8, usize)> {
    slices.iter().map(|slice| (slice.as_ptr(), slice.len())).collect()
}

fn ranges_are_cut_where_memory_is<W: World>() {
    let mut world = W::new();
    scattered(&mut world, Access::READ_WRITE);
    let port = world.port();
    for (first, length) in
        [(0, 8 * PAGE), (0, 1), (0xfff, 2), (0x1fff, 2), (0x2ff0, 0x20), (0x123, 0x7000), (0x1800, 0x800)]
    {
        let guard = port.enter();
        let slices = guard.slices(Iova(IOVA + first), length, Access::READ).collect::<Result<Vec<_>, _>>();
        let slices = slices.unwrap();
        assert_eq!(stretches(&slices), expected(&world, IOVA + first, length), "{length:#x} at {first:#x}");
    }
    assert_eq!(world.recorded(), QUIET);
}

fn bytes_go_where_the_tables_say<W: World>() {
    let mut world = W::new();
    scattered(&mut world, Access::READ_WRITE);
    let port = world.port();
    // From the middle of the second page into the fourth: pages 6, 2 and 1 of the data.
    let bytes: Vec<u8> = (0..0x1800u32).map(|index| (index / 5) as u8 | 1).collect();
    let guard = port.enter();
    let mut rest = &bytes[..];
    for slice in guard.slices(Iova(IOVA + 0x1800), bytes.len() as u64, Access::WRITE) {
        let slice = slice.unwrap();
        assert_eq!(slice.write(0, rest), slice.len());
        rest = &rest[slice.len()..];
    }
    drop(guard);
    assert!(rest.is_empty());
    assert_eq!(world.read_memory(place(6) + 0x800, 0x800), bytes[..0x800]);
    assert_eq!(world.read_memory(place(2), 0x1000), bytes[0x800..]);
    assert_eq!(world.read_memory(place(6), 0x800), [0; 0x800]);
    assert_eq!(world.read_memory(place(1), 0x1000), [0; 0x1000]);
    let mut back = vec![0; bytes.len()];
    let guard = port.enter();
    let mut done = 0;
    for slice in guard.slices(Iova(IOVA + 0x1800), bytes.len() as u64, Access::READ) {
        done += slice.unwrap().read(0, &mut back[done..]);
    }
    assert_eq!(back, bytes);
    // A slice has no bytes but its own.
    let slice = guard.slices(Iova(IOVA + 0x2ffc), 4, Access::READ_WRITE).next().unwrap().unwrap();
    assert_eq!((slice.read(2, &mut [0; 8]), slice.write(3, &[9; 8])), (2, 1));
    assert_eq!((slice.read(4, &mut [0; 8]), slice.write(usize::MAX, &[9; 8])), (0, 0));
}

fn a_hole_ends_what_lies_before_it<W: World>() {
    let mut world = W::new();
    let leaves = scattered(&mut world, Access::READ_WRITE);
    world.unmap(leaves[6]);
    let port = world.port();
    let guard = port.enter();
    let mut slices = guard.slices(Iova(IOVA + 0x4800), 4 * PAGE, Access::READ);
    for (page, count) in [(1, 0x800), (8, 0x1000)] {
        let slice = slices.next().unwrap().unwrap();
        let within = if page == 1 { 0x800 } else { 0 };
        assert_eq!((slice.as_ptr(), slice.len()), (host(&world, place(page) + within), count));
    }
    let error = slices.next().unwrap().unwrap_err();
    let fault = error.fault().expect("refused by the unit");
    assert_eq!(fault.address.0 & !0xfff, IOVA + 6 * PAGE);
    assert!(slices.next().is_none(), "an error is the last item");
    drop(guard);
    assert_eq!(world.recorded(), [IOVA + 6 * PAGE], "recorded once");
    // One at the very start.
    let guard = port.enter();
    assert!(guard.slices(Iova(IOVA + 6 * PAGE), 2 * PAGE, Access::WRITE).next().unwrap().is_err());
    drop(guard);
    assert_eq!(world.recorded(), [IOVA + 6 * PAGE]);
}

fn what_may_be_read_only_is_not_given_to_be_written<W: World>() {
    let mut world = W::new();
    scattered(&mut world, Access::READ_WRITE);
    let read_only = world.map(IOVA + 2 * PAGE, place(2), 0, Access::READ);
    let port = world.port();
    for access in [Access::WRITE, Access::READ_WRITE] {
        let guard = port.enter();
        let items: Vec<_> = guard.slices(Iova(IOVA + PAGE), 3 * PAGE, access).collect();
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].unwrap().len(), PAGE as usize);
        assert!(items[1].unwrap_err().fault().is_some(), "{access:?}");
        drop(guard);
        assert_eq!(world.recorded(), [IOVA + 2 * PAGE]);
    }
    let guard = port.enter();
    let all = guard.slices(Iova(IOVA + PAGE), 3 * PAGE, Access::READ);
    assert_eq!(all.map(|slice| slice.unwrap().len() as u64).sum::<u64>(), 3 * PAGE);
    drop(guard);
    assert_eq!(world.recorded(), QUIET);
    if let Some(flags) = world.flags(read_only) {
        assert_eq!(flags, Flags { accessed: true, dirty: false });
    }
}

fn a_large_page_is_one_slice<W: World>() {
    let mut world = W::new();
    let block = DATA + BLOCK;
    let leaf = world.map(IOVA, block, 1, Access::READ_WRITE);
    // What follows lies behind it in memory too, and what precedes does not lie before it.
    world.map(IOVA + BLOCK, block + BLOCK, 0, Access::READ_WRITE);
    world.map(IOVA - PAGE, DATA, 0, Access::READ_WRITE);
    let port = world.port();
    let guard = port.enter();
    let slices: Vec<_> = guard
        .slices(Iova(IOVA - 0x10), BLOCK + PAGE + 0x10, Access::READ_WRITE)
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(
        stretches(&slices),
        [(host(&world, DATA + 0xff0), 0x10), (host(&world, block), (BLOCK + PAGE) as usize)]
    );
    let slices: Vec<_> =
        guard.slices(Iova(IOVA + 0x12_3456), 0x5000, Access::READ).map(Result::unwrap).collect();
    assert_eq!(stretches(&slices), [(host(&world, block + 0x12_3456), 0x5000)]);
    drop(guard);
    if let Some(flags) = world.flags(leaf) {
        assert_eq!(flags, Flags { accessed: true, dirty: true });
    }
    assert_eq!(world.recorded(), QUIET);
}

fn nothing_wraps_around<W: World>() {
    let mut world = W::new();
    const TOP: u64 = !0xfff;
    world.map(0, DATA, 0, Access::READ_WRITE);
    let port = world.port();
    // No bus has a request that wraps around, so no specification says what is recorded of one; nothing may be of another page.
    let only_top = |world: &W| assert!(world.recorded().iter().all(|page| *page == TOP));
    if W::REACHES_TOP {
        world.map(TOP, DATA + PAGE, 0, Access::READ_WRITE);
        let guard = port.enter();
        let to_the_end: Vec<_> = guard.slices(Iova(TOP + 0x800), 0x800, Access::READ).collect();
        assert_eq!(to_the_end.len(), 1);
        assert_eq!(to_the_end[0].unwrap().len(), 0x800);
        let items: Vec<_> = guard.slices(Iova(TOP + 0xff0), 0x20, Access::READ).collect();
        assert_eq!(items.len(), 2);
        assert_eq!((items[0].unwrap().as_ptr(), items[0].unwrap().len()), (host(&world, DATA + 0x1ff0), 16));
        assert!(items[1].unwrap_err().fault().is_some());
        drop(guard);
        only_top(&world);
    }
    // The same for copies: what lies before the end is done.
    world.write_memory(DATA, &[7; 16]);
    let mut bytes = [1; 32];
    assert!(port.read(Iova(TOP + 0xff0), &mut bytes).is_err());
    assert_eq!(bytes[16..], [1; 16]);
    assert!(port.write(Iova(TOP + 0xff0), &[2; 32]).is_err());
    assert_eq!(world.read_memory(DATA, 16), [7; 16], "the first page of all was written");
    assert_eq!(world.read_memory(DATA + 0x1ff0, 16), [if W::REACHES_TOP { 2 } else { 0 }; 16]);
    only_top(&world);
    let guard = port.enter();
    assert!(guard.slices(Iova(u64::MAX), u64::MAX, Access::READ).last().unwrap().is_err());
}

fn no_bytes_are_no_slices<W: World>() {
    let mut world = W::new();
    let leaf = world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let port = world.port();
    let guard = port.enter();
    for iova in [IOVA, IOVA + 0xfff, IOVA + PAGE, 0, u64::MAX] {
        assert!(guard.slices(Iova(iova), 0, Access::READ_WRITE).next().is_none(), "{iova:#x}");
    }
    drop(guard);
    port.write(Iova(IOVA + PAGE), &[]).unwrap();
    assert_eq!(world.recorded(), QUIET);
    if let Some(flags) = world.flags(leaf) {
        assert_eq!(flags, Flags { accessed: false, dirty: false });
    }
}

fn interrupt_addresses_are_no_memory<W: World>() {
    let mut world = W::new();
    let range = 0xfee0_0000;
    for page in [range - PAGE, range] {
        world.map(page, DATA + (page & PAGE), 0, Access::READ_WRITE);
    }
    let port = world.port();
    for access in [Access::READ, Access::WRITE, Access::READ_WRITE] {
        let guard = port.enter();
        let items: Vec<_> = guard.slices(Iova(range - 8), 12, access).collect();
        if W::INTERRUPTS {
            assert_eq!(items.len(), 2);
            assert_eq!(items[0].unwrap().len(), 8);
            let fault = *items[1].unwrap_err().fault().unwrap();
            assert_eq!(fault.reason, FaultReason::InterruptBlocked, "{access:?}");
        } else {
            let bytes: usize = items.iter().map(|item| item.unwrap().len()).sum();
            assert_eq!(bytes, 12, "an address like any other");
        }
    }
}

/// Memory that has no pointers, and memory that ends.
fn what_is_not_in_this_process_is_said_so<W: World>() {
    let mut world = W::over(Box::new(|memory| hooked::Hooked::new(memory)));
    world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let port = world.port();
    let guard = port.enter();
    let items: Vec<_> = guard.slices(Iova(IOVA + 8), 8, Access::WRITE).collect();
    let absent = MemoryError::NotInProcess { address: PhysAddr(DATA + 8) };
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].unwrap_err(), AccessError::Memory(absent));
    drop(guard);
    port.write(Iova(IOVA), &[1; 8]).unwrap();

    let mut world = W::new();
    world.map(IOVA, MEMORY - PAGE, 0, Access::READ_WRITE);
    world.map(IOVA + PAGE, MEMORY, 0, Access::READ_WRITE);
    let port = world.port();
    let guard = port.enter();
    let items: Vec<_> = guard.slices(Iova(IOVA), 2 * PAGE, Access::WRITE).collect();
    assert_eq!(items[0].unwrap().len(), PAGE as usize);
    let absent = MemoryError::NotInProcess { address: PhysAddr(MEMORY) };
    assert_eq!(items[1].unwrap_err(), AccessError::Memory(absent));
    drop(guard);
    // The unit let it pass, so nothing is recorded.
    assert_eq!(world.recorded(), QUIET);
}

/// Who invalidates waits for the guard that gave a slice out, until its last byte is written.
fn an_unmap_waits_for_the_guard<W: World>() {
    let mut world = W::new();
    let leaf = world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let (port, memory) = (world.port(), Arc::clone(world.memory()));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guard = port.enter();
        let slice = guard.slices(Iova(IOVA), PAGE, Access::WRITE).next().unwrap().unwrap();
        scope.spawn(|| {
            world.unmap(leaf);
            over.store(true, Ordering::SeqCst);
        });
        while memory.load64(PhysAddr(leaf)) != Ok(0) {
            std::thread::yield_now();
        }
        assert_waits(|| over.load(Ordering::SeqCst), "unmapped while a slice is being written");
        assert_eq!(slice.write(0xfff, &[3]), 1);
        assert!(!over.load(Ordering::SeqCst));
        drop(guard);
    });
    assert_eq!(world.read_memory(DATA + 0xfff, 1), [3]);
    let guard = port.enter();
    assert!(guard.slices(Iova(IOVA), PAGE, Access::WRITE).next().unwrap().is_err());
    drop(guard);
    assert_eq!(world.recorded(), [IOVA]);
}

/// Who invalidates waits for every pin that a guard gave out, and for its copies, after the guard's end too.
fn an_unmap_waits_for_pins<W: World>() {
    let mut world = W::new();
    let leaf = world.map(IOVA, DATA, 0, Access::READ_WRITE);
    let (port, memory) = (world.port(), Arc::clone(world.memory()));
    let guard = port.enter();
    assert_eq!(guard.slices(Iova(IOVA), PAGE, Access::WRITE).count(), 1);
    let pin = guard.pin().unwrap();
    let copy = pin.clone();
    drop(guard);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            world.unmap(leaf);
            over.store(true, Ordering::SeqCst);
        });
        while memory.load64(PhysAddr(leaf)) != Ok(0) {
            std::thread::yield_now();
        }
        assert_waits(|| over.load(Ordering::SeqCst), "unmapped while pinned");
        drop(pin);
        // Others go on meanwhile: the unit waits for the pin, and nobody waits for the unit.
        assert!(port.read(Iova(IOVA), &mut [0; 8]).is_err());
        assert_waits(|| over.load(Ordering::SeqCst), "unmapped while a copy of the pin is there");
        drop(copy);
    });
    assert!(over.load(Ordering::SeqCst));
}

/// Memory that wants to know what is written through pointers.
struct Tracked {
    inner: Arc<OwnedMemory>,
    marks: Arc<Mutex<Vec<(u64, u64)>>>,
}

impl GuestMemory for Tracked {
    fn read(&self, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.inner.read(address, buffer)
    }
    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), MemoryError> {
        self.inner.write(address, bytes)
    }
    fn load32(&self, address: PhysAddr) -> Result<u32, MemoryError> {
        self.inner.load32(address)
    }
    fn load64(&self, address: PhysAddr) -> Result<u64, MemoryError> {
        self.inner.load64(address)
    }
    fn store32(&self, address: PhysAddr, value: u32) -> Result<(), MemoryError> {
        self.inner.store32(address, value)
    }
    fn store64(&self, address: PhysAddr, value: u64) -> Result<(), MemoryError> {
        self.inner.store64(address, value)
    }
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, MemoryError> {
        self.inner.compare_exchange64(address, current, new)
    }
    fn host_pointer(&self, address: PhysAddr, bytes: u64) -> Option<std::ptr::NonNull<u8>> {
        self.inner.host_pointer(address, bytes)
    }
    fn tracks_writes(&self) -> bool {
        true
    }
    fn mark_written(&self, address: PhysAddr, bytes: u64) {
        self.marks.lock().unwrap().push((address.0, bytes));
    }
}

/// What may be written is marked before it is given out and once more when nobody writes it any more.
fn what_is_given_out_to_be_written_is_marked<W: World>() {
    let marks = Arc::new(Mutex::new(Vec::new()));
    let mut world = W::over({
        let marks = Arc::clone(&marks);
        Box::new(|inner| Arc::new(Tracked { inner, marks }))
    });
    scattered(&mut world, Access::READ_WRITE);
    let port = world.port();
    // Flags that the unit sets are no business of devices.
    port.read(Iova(IOVA), &mut [0; 8]).unwrap();
    let take = || std::mem::take(&mut *marks.lock().unwrap());
    take();
    let guard = port.enter();
    assert_eq!(guard.slices(Iova(IOVA + 0x1800), 0x1000, Access::READ).map(Result::unwrap).count(), 2);
    assert_eq!(take(), []);
    let pieces = [(place(6) + 0x800, 0x800), (place(2), 0x800)];
    assert_eq!(guard.slices(Iova(IOVA + 0x1800), 0x1000, Access::WRITE).map(Result::unwrap).count(), 2);
    assert_eq!(take(), pieces);
    drop(guard);
    assert_eq!(take(), pieces);
}

on_every_architecture!(
    ranges_are_cut_where_memory_is,
    bytes_go_where_the_tables_say,
    a_hole_ends_what_lies_before_it,
    what_may_be_read_only_is_not_given_to_be_written,
    a_large_page_is_one_slice,
    nothing_wraps_around,
    no_bytes_are_no_slices,
    interrupt_addresses_are_no_memory,
    what_is_not_in_this_process_is_said_so,
    an_unmap_waits_for_the_guard,
    an_unmap_waits_for_pins,
    what_is_given_out_to_be_written_is_marked,
);
