//! Virtio devices on the `virtio-queue` crate behind a unit: a disk and a network card, written for any guest memory, reach
//! what the unit lets them reach and nothing else, behind every unit by the same body. Layouts: Virtual I/O Device (VIRTIO) 1.2, sections 2.7, 5.1.6 and 5.2.6.
#![cfg(feature = "vm-memory")]

mod world;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_model::{PortMemory, VmMemory};
use portcullis_spec::Access;
use virtio_queue::{Queue, QueueT, Reader, Writer};
use vm_memory::bitmap::{Bitmap as _, BitmapSlice, WithBitmapSlice};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};
use world::{PAGE, QUIET, World, assert_waits, on_every_architecture};

type Memory<W> = PortMemory<<W as World>::Architecture, GuestMemoryMmap>;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// 5.2.6: requests of a disk.
const IN: u32 = 0;
const OUT: u32 = 1;
const OK: u8 = 0;
const IOERR: u8 = 1;
const SECTOR: u64 = 512;

/// What the driver gave the disk: 16 bytes of header, data, and a byte for the status.
fn disk<M: GuestMemory>(queue: &mut Queue, memory: &M, disk: &mut [u8]) {
    while let Some(chain) = queue.pop_descriptor_chain(memory) {
        let head = chain.head_index();
        let moved = serve(chain.clone(), memory, disk);
        // The status is the last byte that may be written; where it can't be, there is nobody to tell.
        let status = chain.writable().last().expect("a chain with a status");
        let at = status.addr().0 + u64::from(status.len()) - 1;
        let _ = memory.write_obj(if moved.is_some() { OK } else { IOERR }, GuestAddress(at));
        queue.add_used(memory, head, moved.unwrap_or(0) + 1).expect("the used ring is mapped");
    }
}

fn serve<'a, M: GuestMemory, B: BitmapSlice>(
    chain: virtio_queue::DescriptorChain<&'a M>,
    memory: &'a M,
    disk: &mut [u8],
) -> Option<u32>
where
    M::Bitmap: WithBitmapSlice<'a, S = B>,
{
    let mut reader = Reader::new(memory, chain.clone()).ok()?;
    let (kind, _reserved) = (reader.read_obj::<u32>().ok()?, reader.read_obj::<u32>().ok()?);
    let first = (reader.read_obj::<u64>().ok()? * SECTOR) as usize;
    match kind {
        OUT => {
            let bytes = reader.available_bytes();
            reader.read_exact(disk.get_mut(first..first + bytes)?).ok()?;
            Some(0)
        }
        IN => {
            let mut writer = Writer::new(memory, chain).ok()?;
            let bytes = writer.available_bytes() - 1;
            writer.write_all(disk.get(first..first + bytes)?).ok()?;
            Some(bytes as u32)
        }
        _ => None,
    }
}

/// A network card whose cable leads back to itself: every frame of the transmit queue goes into a buffer of the receive queue,
/// behind the 12 bytes of header. How many frames went.
fn card<M: GuestMemory>(transmit: &mut Queue, receive: &mut Queue, memory: &M) -> usize {
    let mut frames = 0;
    while let Some(sent) = transmit.pop_descriptor_chain(memory) {
        let head = sent.head_index();
        let mut frame = Vec::new();
        let read = Reader::new(memory, sent).is_ok_and(|mut reader| reader.read_to_end(&mut frame).is_ok());
        transmit.add_used(memory, head, 0).expect("the used ring is mapped");
        if !read {
            continue;
        }
        let Some(room) = receive.pop_descriptor_chain(memory) else { break };
        let head = room.head_index();
        let written = Writer::new(memory, room).is_ok_and(|mut writer| writer.write_all(&frame).is_ok());
        let length = if written { frame.len() as u32 } else { 0 };
        receive.add_used(memory, head, length).expect("the used ring is mapped");
        frames += usize::from(written);
    }
    frames
}

/// The driver's side of a queue of 16: what it writes it writes to memory itself, at the physical address.
struct Ring {
    iova: u64,
    physical: u64,
    next: u16,
    offered: u16,
}

impl Ring {
    /// A ring in a page of its own.
    fn new<W: World>(world: &mut W, iova: u64) -> Self {
        let physical = world.allocate();
        world.map(iova, physical, 0, Access::READ_WRITE);
        Self { iova, physical, next: 0, offered: 0 }
    }

    /// The device's side.
    fn queue<M: GuestMemory>(&self, memory: &M) -> Queue {
        let mut queue = Queue::new(16).unwrap();
        queue.set_size(16);
        queue.set_desc_table_address(Some(self.iova as u32), Some(0));
        queue.set_avail_ring_address(Some(self.iova as u32 + 0x100), Some(0));
        queue.set_used_ring_address(Some(self.iova as u32 + 0x200), Some(0));
        queue.set_ready(true);
        assert!(queue.is_valid(memory));
        queue
    }

    /// Offers a chain of buffers: address, bytes, and whether the device writes.
    fn offer<W: World>(&mut self, world: &W, buffers: &[(u64, u32, bool)]) {
        let head = self.next;
        for (index, (address, length, write)) in buffers.iter().enumerate() {
            let more = index + 1 < buffers.len();
            let flags = if *write { WRITE } else { 0 } | if more { NEXT } else { 0 };
            let at = self.physical + u64::from(self.next) * 16;
            self.next = (self.next + 1) % 16;
            let rest = u64::from(*length) | u64::from(flags) << 32 | u64::from(self.next) << 48;
            world.write_memory(at, &[address.to_le_bytes(), rest.to_le_bytes()].concat());
        }
        let slot = self.physical + 0x104 + u64::from(self.offered % 16) * 2;
        world.write_memory(slot, &head.to_le_bytes());
        self.offered += 1;
        world.write_memory(self.physical + 0x102, &self.offered.to_le_bytes());
    }

    /// How many chains the device has given back, and the bytes that it says it wrote into the last.
    fn used<W: World>(&self, world: &W) -> (u16, u32) {
        let word = |at| u32::from_le_bytes(world.read_memory(at, 4).try_into().unwrap());
        let index = (word(self.physical + 0x200) >> 16) as u16;
        let last = self.physical + 0x204 + u64::from(index.wrapping_sub(1) % 16) * 8;
        (index, word(last + 4))
    }
}

/// A device reaches 16 pages of data from `DATA` on, which lie in memory backwards with a page between two, and nothing beside.
const DATA: u64 = 0x10_0000;
const PAGES: u64 = 16;

fn place(iova: u64) -> u64 {
    let page = (iova - DATA) / PAGE;
    world::DATA + 2 * (PAGES - 1 - page) * PAGE + iova % PAGE
}

fn world<W: World>() -> W {
    let mut world = W::new();
    for iova in (DATA..DATA + PAGES * PAGE).step_by(PAGE as usize) {
        world.map(iova, place(iova), 0, Access::READ_WRITE);
    }
    world
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ seed).collect()
}

/// Writes where devices read, page by page.
fn fill<W: World>(world: &W, iova: u64, bytes: &[u8]) {
    for (at, byte) in (iova..).zip(bytes) {
        world.write_memory(place(at), &[*byte]);
    }
}

fn content<W: World>(world: &W, iova: u64, length: u64) -> Vec<u8> {
    (iova..iova + length).map(|at| world.read_memory(place(at), 1)[0]).collect()
}

fn a_disk_moves_sectors_to_and_from_scattered_pages<W: World>() {
    let mut world = world::<W>();
    let mut ring = Ring::new(&mut world, 0x8000);
    let memory = Memory::<W>::new(world.port());
    let mut queue = ring.queue(&memory);
    let mut platter = vec![0; 64 * SECTOR as usize];
    // Ten sectors from sector 3 on, from a buffer that begins in one page and ends in the third.
    let data = pattern(5, 10 * SECTOR as usize);
    let (header, buffer, back, status) = (DATA, DATA + 0x1e00, DATA + 0x6f00, DATA + 0x100);
    fill(&world, header, &[OUT.to_le_bytes(), [0; 4], 3u32.to_le_bytes(), [0; 4]].concat());
    fill(&world, buffer, &data);
    fill(&world, status, &[0xff]);
    ring.offer(&world, &[(header, 16, false), (buffer, data.len() as u32, false), (status, 1, true)]);
    disk(&mut queue, &memory, &mut platter);
    assert_eq!(ring.used(&world), (1, 1));
    assert_eq!(content(&world, status, 1), [OK]);
    assert_eq!(platter[3 * SECTOR as usize..][..data.len()], data);
    // And back to elsewhere, in two buffers.
    fill(&world, header, &IN.to_le_bytes());
    fill(&world, status, &[0xff]);
    let buffers = [(header, 16, false), (back, 0x200, true), (back + 0x200, 0x1200, true), (status, 1, true)];
    ring.offer(&world, &buffers);
    disk(&mut queue, &memory, &mut platter);
    assert_eq!(ring.used(&world), (2, 0x1401));
    assert_eq!(content(&world, status, 1), [OK]);
    assert_eq!(content(&world, back, 0x1400), data[..0x1400]);
    assert_eq!(world.recorded(), QUIET);
}

#[test]
fn the_same_disk_runs_on_memory_without_a_unit() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
    let mut queue = Queue::new(16).unwrap();
    queue.set_size(16);
    queue.set_avail_ring_address(Some(0x100), Some(0));
    queue.set_used_ring_address(Some(0x200), Some(0));
    queue.set_ready(true);
    let descriptors = [(0x1000u64, 16u32, NEXT, 1u16), (0x2000, 512, NEXT | WRITE, 2), (0x3000, 1, WRITE, 0)];
    for (index, (address, length, flags, next)) in descriptors.into_iter().enumerate() {
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        memory.write_obj([address, rest], GuestAddress(index as u64 * 16)).unwrap();
    }
    memory.write_obj(1u16, GuestAddress(0x102)).unwrap();
    let mut platter = pattern(9, 512);
    disk(&mut queue, &memory, &mut platter);
    let mut sector = vec![0; 512];
    memory.read_slice(&mut sector, GuestAddress(0x2000)).unwrap();
    assert_eq!(sector, platter);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x3000)).unwrap(), OK);
}

fn a_network_card_moves_frames_between_scattered_pages<W: World>() {
    let mut world = world::<W>();
    let mut sending = Ring::new(&mut world, 0x8000);
    let mut receiving = Ring::new(&mut world, 0x9000);
    let memory = Memory::<W>::new(world.port());
    let (mut transmit, mut receive) = (sending.queue(&memory), receiving.queue(&memory));
    for round in 0..40u8 {
        // 12 bytes of header and a frame of 1500 in the next page but one; room for both in one buffer across pages.
        let (header, frame) = (pattern(round, 12), pattern(round ^ 0x55, 1500));
        fill(&world, DATA + 0x10, &header);
        fill(&world, DATA + 0x2c00, &frame);
        sending.offer(&world, &[(DATA + 0x10, 12, false), (DATA + 0x2c00, 1500, false)]);
        receiving.offer(&world, &[(DATA + 0x5d00, 2048, true)]);
        assert_eq!(card(&mut transmit, &mut receive, &memory), 1);
        assert_eq!(sending.used(&world), (u16::from(round) + 1, 0));
        assert_eq!(receiving.used(&world), (u16::from(round) + 1, 1512));
        assert_eq!(content(&world, DATA + 0x5d00, 1512), [header, frame].concat());
    }
    assert_eq!(world.recorded(), QUIET);
}

fn a_descriptor_outside_of_the_grants_fails_and_is_recorded<W: World>() {
    let mut world = world::<W>();
    let mut ring = Ring::new(&mut world, 0x8000);
    let read_only = DATA + PAGES * PAGE;
    world.map(read_only, world::DATA + PAGE, 0, Access::READ);
    let memory = Memory::<W>::new(world.port());
    let mut queue = ring.queue(&memory);
    let mut platter = pattern(1, 8 * SECTOR as usize);
    let (header, status) = (DATA, DATA + 0x100);
    let beyond = read_only + PAGE;
    let cases = [
        (OUT, beyond, 512, beyond),
        (IN, beyond, 512, beyond),
        (IN, read_only, 512, read_only),
        // The first page of the buffer is granted and the second is not.
        (IN, read_only - 0x100, 512, read_only),
    ];
    for (kind, address, length, refused) in cases {
        let (before, written) = (platter.clone(), content(&world, DATA + 0xff00, 0x100));
        fill(&world, header, &kind.to_le_bytes());
        fill(&world, status, &[0xff]);
        ring.offer(&world, &[(header, 16, false), (address, length, kind == IN), (status, 1, true)]);
        disk(&mut queue, &memory, &mut platter);
        assert_eq!(content(&world, status, 1), [IOERR], "{address:#x}");
        assert_eq!(world.recorded(), [refused & !0xfff], "{address:#x}");
        assert_eq!(platter, before);
        assert_eq!(content(&world, DATA + 0xff00, 0x100), written, "nothing is written by half");
    }
}

fn addresses_that_wrap_around_are_refused<W: World>() {
    let memory = Memory::<W>::new(world::<W>().port());
    assert!(memory.read_obj::<u64>(GuestAddress(u64::MAX - 3)).is_err());
    assert!(!memory.check_range(GuestAddress(u64::MAX), 2, Permissions::Read));
    assert!(memory.check_range(GuestAddress(DATA), PAGES as usize * 0x1000, Permissions::ReadWrite));
    assert!(!memory.check_range(GuestAddress(DATA), PAGES as usize * 0x1000 + 1, Permissions::Read));
}

fn an_invalidation_waits_for_slices<W: World>() {
    let mut world = world::<W>();
    let memory = Memory::<W>::new(world.port());
    let mut slices = memory.get_slices(GuestAddress(DATA), PAGE as usize, Permissions::Write).unwrap();
    let slice = slices.next().unwrap().unwrap();
    let copy = slice.clone();
    let leaf = world.map(DATA, place(DATA), 0, Access::READ_WRITE);
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            begun.store(true, Ordering::SeqCst);
            world.unmap(leaf);
            done.store(true, Ordering::SeqCst);
        });
        while !begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        drop(slice);
        assert_waits(|| done.load(Ordering::SeqCst), "the invalidation is over while a slice is there");
        copy.write_slice(&[7; 16], 0).unwrap();
        drop(copy);
    });
    assert!(done.load(Ordering::SeqCst));
    assert!(memory.read_obj::<u8>(GuestAddress(DATA)).is_err());
}

on_every_architecture!(
    a_disk_moves_sectors_to_and_from_scattered_pages,
    a_network_card_moves_frames_between_scattered_pages,
    a_descriptor_outside_of_the_grants_fails_and_is_recorded,
    addresses_that_wrap_around_are_refused,
    an_invalidation_waits_for_slices,
);

#[test]
fn what_is_written_through_slices_is_marked_where_it_went() {
    use vm_memory::bitmap::AtomicBitmap;
    use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
    use world::common::{DEVICE, MEMORY, Machine, PAGE, RW, TE};

    let physical =
        GuestMemoryMmap::<AtomicBitmap>::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    let (mut machine, table) = {
        let view = physical.clone();
        let config = portcullis_model::vtd::config::VtdConfig::default();
        let mut machine = Machine::over(config, |_| std::sync::Arc::new(VmMemory(view)));
        // The tables that this machine writes lie in memory of its own; the unit reads others.
        let table = machine.allocate();
        (machine, table)
    };
    let put = |address: u64, value: u64| physical.write_obj(value, GuestAddress(address)).unwrap();
    let (root, context) = (machine.allocate(), machine.allocate());
    put(root, context | 1);
    put(context + u64::from(DEVICE) * 16 + 8, 7 << 8 | 2);
    put(context + u64::from(DEVICE) * 16, table | 1);
    let levels = [table, machine.allocate(), machine.allocate(), machine.allocate()];
    for pair in levels.windows(2) {
        put(pair[0], pair[1] | RW);
    }
    put(levels[3] + 5 * 8, PAGE | RW);
    machine.set_root(root);
    machine.command(TE);
    let memory = Memory::<world::Legacy>::new(machine.port(DEVICE));
    let region = physical.find_region(GuestAddress(0)).unwrap();
    let dirty = |address: u64| region.bitmap().dirty_at(address as usize);
    let mut slices = memory.get_slices(GuestAddress(0x5000), 0x1000, Permissions::Write).unwrap();
    let slice = slices.next().unwrap().unwrap();
    assert!(!dirty(PAGE));
    slice.write_slice(&[1; 4], 0xf00).unwrap();
    assert!(dirty(PAGE) && !dirty(PAGE + 0x1000));
}
