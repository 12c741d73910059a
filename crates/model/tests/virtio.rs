//! Virtio devices on the `virtio-queue` crate behind a unit: a disk and a network card, written for any guest memory, reach
//! what the unit lets them reach and nothing else. Layouts: Virtual I/O Device (VIRTIO) 1.2, sections 2.7, 5.1.6 and 5.2.6.
#![cfg(feature = "vm-memory")]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use portcullis_model::vtd::Vtd;
use portcullis_model::{PortMemory, VmMemory};
use virtio_queue::{Queue, QueueT, Reader, Writer};
use vm_memory::bitmap::{Bitmap as _, BitmapSlice, WithBitmapSlice};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

type Memory = PortMemory<Vtd, GuestMemoryMmap>;

const READ_ONLY: u64 = 1;
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
    fn new(machine: &mut Machine, table: u64, iova: u64) -> Self {
        let physical = machine.allocate();
        machine.map(table, iova, physical, RW);
        Self { iova, physical, next: 0, offered: 0 }
    }

    /// The device's side.
    fn queue(&self, memory: &Memory) -> Queue {
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
    fn offer(&mut self, machine: &Machine, buffers: &[(u64, u32, bool)]) {
        let head = self.next;
        for (index, (address, length, write)) in buffers.iter().enumerate() {
            let more = index + 1 < buffers.len();
            let flags = if *write { WRITE } else { 0 } | if more { NEXT } else { 0 };
            let at = self.physical + u64::from(self.next) * 16;
            self.next = (self.next + 1) % 16;
            machine.put(at, *address);
            let rest = u64::from(*length) | u64::from(flags) << 32 | u64::from(self.next) << 48;
            machine.put(at + 8, rest);
        }
        let slot = self.physical + 0x104 + u64::from(self.offered % 16) * 2;
        machine.memory_write(slot, &head.to_le_bytes());
        self.offered += 1;
        machine.memory_write(self.physical + 0x102, &self.offered.to_le_bytes());
    }

    /// How many chains the device has given back, and the bytes that it says it wrote into the last.
    fn used(&self, machine: &Machine) -> (u16, u32) {
        let index = u16::from_le_bytes(machine.memory_read(self.physical + 0x202));
        let last = self.physical + 0x204 + u64::from(index.wrapping_sub(1) % 16) * 8;
        (index, u32::from_le_bytes(machine.memory_read(last + 4)))
    }
}

impl Machine {
    fn memory_write(&self, address: u64, bytes: &[u8]) {
        use portcullis_model::GuestMemory as _;
        self.memory.write(portcullis_spec::PhysAddr(address), bytes).unwrap();
    }

    fn memory_read<const N: usize>(&self, address: u64) -> [u8; N] {
        use portcullis_model::GuestMemory as _;
        let mut bytes = [0; N];
        self.memory.read(portcullis_spec::PhysAddr(address), &mut bytes).unwrap();
        bytes
    }
}

/// A machine whose device reaches 16 pages of data from `DATA` on, which lie in memory backwards, and nothing beside.
const DATA: u64 = 0x10_0000;
const PAGES: u64 = 16;

fn place(iova: u64) -> u64 {
    let page = (iova - DATA) >> 12;
    PAGE + 2 * (PAGES - 1 - page) * 0x1000 + (iova & 0xfff)
}

fn machine() -> (Machine, u64) {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    for page in 0..PAGES {
        let iova = DATA + page * 0x1000;
        machine.map(table, iova, place(iova), RW);
    }
    machine.attach(DEVICE, table, 7);
    (machine, table)
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(31) ^ (index >> 8) as u8 ^ seed).collect()
}

/// Writes where devices read, page by page.
fn fill(machine: &Machine, iova: u64, bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        machine.memory_write(place(iova + index as u64), &[*byte]);
    }
}

fn content(machine: &Machine, iova: u64, length: u64) -> Vec<u8> {
    (iova..iova + length).map(|at| machine.memory_read::<1>(place(at))[0]).collect()
}

#[test]
fn a_disk_moves_sectors_to_and_from_scattered_pages() {
    let (mut machine, table) = machine();
    let mut ring = Ring::new(&mut machine, table, 0x8000);
    let memory = Memory::new(machine.port(DEVICE));
    let mut queue = ring.queue(&memory);
    let mut platter = vec![0; 64 * SECTOR as usize];
    // Ten sectors from sector 3 on, from a buffer that begins in one page and ends in the third.
    let data = pattern(5, 10 * SECTOR as usize);
    let (header, buffer, back, status) = (DATA, DATA + 0x1e00, DATA + 0x6f00, DATA + 0x100);
    fill(&machine, header, &[OUT.to_le_bytes(), [0; 4], 3u32.to_le_bytes(), [0; 4]].concat());
    fill(&machine, buffer, &data);
    fill(&machine, status, &[0xff]);
    ring.offer(&machine, &[(header, 16, false), (buffer, data.len() as u32, false), (status, 1, true)]);
    disk(&mut queue, &memory, &mut platter);
    assert_eq!(ring.used(&machine), (1, 1));
    assert_eq!(content(&machine, status, 1), [OK]);
    assert_eq!(platter[3 * SECTOR as usize..][..data.len()], data);
    // And back to elsewhere, in two buffers.
    fill(&machine, header, &IN.to_le_bytes());
    fill(&machine, status, &[0xff]);
    let buffers = [(header, 16, false), (back, 0x200, true), (back + 0x200, 0x1200, true), (status, 1, true)];
    ring.offer(&machine, &buffers);
    disk(&mut queue, &memory, &mut platter);
    assert_eq!(ring.used(&machine), (2, 0x1401));
    assert_eq!(content(&machine, status, 1), [OK]);
    assert_eq!(content(&machine, back, 0x1400), data[..0x1400]);
    assert_eq!(machine.take_faults(), Vec::<[u64; 2]>::new());
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

#[test]
fn a_network_card_moves_frames_between_scattered_pages() {
    let (mut machine, table) = machine();
    let mut sending = Ring::new(&mut machine, table, 0x8000);
    let mut receiving = Ring::new(&mut machine, table, 0x9000);
    let memory = Memory::new(machine.port(DEVICE));
    let (mut transmit, mut receive) = (sending.queue(&memory), receiving.queue(&memory));
    for round in 0..40u8 {
        // 12 bytes of header and a frame of 1500 in the next page but one; room for both in one buffer across pages.
        let (header, frame) = (pattern(round, 12), pattern(round ^ 0x55, 1500));
        fill(&machine, DATA + 0x10, &header);
        fill(&machine, DATA + 0x2c00, &frame);
        sending.offer(&machine, &[(DATA + 0x10, 12, false), (DATA + 0x2c00, 1500, false)]);
        receiving.offer(&machine, &[(DATA + 0x5d00, 2048, true)]);
        assert_eq!(card(&mut transmit, &mut receive, &memory), 1);
        assert_eq!(sending.used(&machine), (u16::from(round) + 1, 0));
        assert_eq!(receiving.used(&machine), (u16::from(round) + 1, 1512));
        assert_eq!(content(&machine, DATA + 0x5d00, 1512), [header, frame].concat());
    }
    assert_eq!(machine.take_faults(), Vec::<[u64; 2]>::new());
}

#[test]
fn a_descriptor_outside_of_the_grants_fails_and_is_recorded() {
    let (mut machine, table) = machine();
    let mut ring = Ring::new(&mut machine, table, 0x8000);
    let read_only = DATA + PAGES * 0x1000;
    machine.map(table, read_only, OTHER_PAGE, READ_ONLY);
    let memory = Memory::new(machine.port(DEVICE));
    let mut queue = ring.queue(&memory);
    let mut platter = pattern(1, 8 * SECTOR as usize);
    let (header, status) = (DATA, DATA + 0x100);
    // Table 7-1 of the VT-d specification: 5h where a write, 6h where a read is not permitted.
    let beyond = read_only + 0x1000;
    let cases = [
        (OUT, beyond, 512, beyond, 6),
        (IN, beyond, 512, beyond, 5),
        (IN, read_only, 512, read_only, 5),
        // The first page of the buffer is granted and the second is not.
        (IN, read_only - 0x100, 512, read_only, 5),
    ];
    for (kind, address, length, refused, reason) in cases {
        let (before, written) = (platter.clone(), content(&machine, DATA + 0xff00, 0x100));
        fill(&machine, header, &kind.to_le_bytes());
        fill(&machine, status, &[0xff]);
        ring.offer(&machine, &[(header, 16, false), (address, length, kind == IN), (status, 1, true)]);
        disk(&mut queue, &memory, &mut platter);
        assert_eq!(content(&machine, status, 1), [IOERR], "{address:#x}");
        let faults = machine.take_faults();
        assert_eq!(faults.len(), 1, "{address:#x}");
        assert_eq!(faults[0][0], refused & !0xfff, "{address:#x}");
        assert_eq!((faults[0][1] & 0xffff, faults[0][1] >> 32 & 0xff), (u64::from(DEVICE), reason));
        assert_eq!(platter, before);
        assert_eq!(content(&machine, DATA + 0xff00, 0x100), written, "nothing is written by half");
    }
}

#[test]
fn addresses_that_wrap_around_are_refused() {
    let (machine, _) = machine();
    let memory = Memory::new(machine.port(DEVICE));
    assert!(memory.read_obj::<u64>(GuestAddress(u64::MAX - 3)).is_err());
    assert!(!memory.check_range(GuestAddress(u64::MAX), 2, Permissions::Read));
    assert!(memory.check_range(GuestAddress(DATA), PAGES as usize * 0x1000, Permissions::ReadWrite));
    assert!(!memory.check_range(GuestAddress(DATA), PAGES as usize * 0x1000 + 1, Permissions::Read));
}

#[test]
fn an_invalidation_waits_for_slices() {
    let (mut machine, table) = machine();
    let memory = Memory::new(machine.port(DEVICE));
    let mut slices = memory.get_slices(GuestAddress(DATA), 0x1000, Permissions::Write).unwrap();
    let slice = slices.next().unwrap().unwrap();
    let copy = slice.clone();
    let leaf = machine.map(table, DATA, place(DATA), RW);
    machine.put(leaf, 0);
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            begun.store(true, Ordering::SeqCst);
            machine.invalidate_all();
            done.store(true, Ordering::SeqCst);
        });
        while !begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        drop(slice);
        // Long enough for an invalidation that does not wait; however slow the machine, one that does has not ended.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!done.load(Ordering::SeqCst), "the invalidation is over while a slice is there");
        copy.write_slice(&[7; 16], 0).unwrap();
        drop(copy);
    });
    assert!(done.load(Ordering::SeqCst));
    assert!(memory.read_obj::<u8>(GuestAddress(DATA)).is_err());
}

#[test]
fn what_is_written_through_slices_is_marked_where_it_went() {
    use vm_memory::bitmap::AtomicBitmap;
    use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

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
    let memory = Memory::new(machine.port(DEVICE));
    let region = physical.find_region(GuestAddress(0)).unwrap();
    let dirty = |address: u64| region.bitmap().dirty_at(address as usize);
    let mut slices = memory.get_slices(GuestAddress(0x5000), 0x1000, Permissions::Write).unwrap();
    let slice = slices.next().unwrap().unwrap();
    assert!(!dirty(PAGE));
    slice.write_slice(&[1; 4], 0xf00).unwrap();
    assert!(dirty(PAGE) && !dirty(PAGE + 0x1000));
}
