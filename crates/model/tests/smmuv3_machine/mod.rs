//! A unit with memory, and tables, commands and registers written by hand: raw numbers, by the specification's layouts and
//! without the crates under test.
#![allow(dead_code, unreachable_pub)] // Each test file uses its part.

use std::sync::{Arc, Mutex};

use portcullis_model::Registers;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_model::smmuv3::{Smmuv3Port, Smmuv3Unit};
use portcullis_model::{AccessError, GuestMemory, InterruptSink, Message, OwnedMemory, Undelivered};
use portcullis_spec::{Access, Fault, Iova, Pasid, PhysAddr};

/// Bytes of memory.
pub const MEMORY: u64 = 16 << 20;
/// The stream table: 64 linear entries.
pub const STREAMS: u64 = 0x1_0000;
/// The command queue: 256 entries.
pub const COMMANDS: u64 = 0x2_0000;
/// The event queue: 128 entries.
pub const EVENTS: u64 = 0x3_0000;
/// Tables are allocated from here on.
pub const TABLES: u64 = 0x10_0000;
/// A page that devices reach.
pub const PAGE: u64 = 0x80_0000;
/// Another.
pub const OTHER_PAGE: u64 = 0x80_1000;
/// A StreamID.
pub const STREAM: u32 = 5;
/// Another.
pub const OTHER_STREAM: u32 = 9;
/// A message at this address is taken by nobody, and no memory is there.
pub const NOWHERE: u64 = 0x3_0000_0000;

pub const CR0: u64 = 0x20;
pub const CR0ACK: u64 = 0x24;
pub const CR2: u64 = 0x2c;
pub const GBPA: u64 = 0x44;
pub const IRQ_CTRL: u64 = 0x50;
pub const GERROR: u64 = 0x60;
pub const GERRORN: u64 = 0x64;
pub const CMDQ_PROD: u64 = 0x98;
pub const CMDQ_CONS: u64 = 0x9c;
pub const EVENTQ_PROD: u64 = 0x1_00a8;
pub const EVENTQ_CONS: u64 = 0x1_00ac;

pub const SMMUEN: u32 = 1;
pub const EVENTQEN: u32 = 4;
pub const CMDQEN: u32 = 8;

/// Bits of stage-1 descriptors: AF and nG, so that each space has its own.
pub const S1: u64 = 1 << 10 | 1 << 11;
/// AP[1]: unprivileged too.
pub const USER: u64 = 1 << 6;
/// AP[2]: read-only.
pub const READ_ONLY: u64 = 1 << 7;
pub const DBM: u64 = 1 << 51;
pub const PXN: u64 = 1 << 53;
pub const UXN: u64 = 1 << 54;
/// Bits of stage-2 descriptors: AF, readable and writable, write-back memory.
pub const S2: u64 = 1 << 10 | 3 << 6 | 0xf << 2;

/// STE.Config: bypass, stage 1, stage 2, both.
pub const BYPASS: u64 = 4;
pub const STAGE1: u64 = 5;
pub const STAGE2: u64 = 6;
pub const NESTED: u64 = 7;

/// Collects messages and edges.
#[derive(Default)]
pub struct Sink {
    pub messages: Mutex<Vec<Message>>,
    pub edges: Mutex<Vec<u8>>,
    pub wakes: Mutex<u32>,
}

impl InterruptSink for Sink {
    fn send(&self, message: Message) -> Result<(), Undelivered> {
        if message.address >= NOWHERE {
            return Err(Undelivered { address: message.address });
        }
        self.messages.lock().unwrap().push(message);
        Ok(())
    }

    fn set_wire(&self, wire: u8, asserted: bool) {
        if asserted {
            self.edges.lock().unwrap().push(wire);
        }
    }

    fn wake(&self) {
        *self.wakes.lock().unwrap() += 1;
    }
}

/// The first words of a stream table entry.
#[derive(Clone, Copy, Default)]
pub struct Entry(pub [u64; 8]);

impl Entry {
    pub const fn new(config: u64) -> Self {
        Self([1 | config << 1, 0, 0, 0, 0, 0, 0, 0])
    }

    /// Stage 1 by the context descriptors at `at`.
    pub const fn stage1(at: u64) -> Self {
        Self([1 | STAGE1 << 1 | at, 0, 0, 0, 0, 0, 0, 0])
    }

    /// With stage 2: 4 KiB granules, 39 bits from level 1, outputs of 44 bits, faults recorded.
    pub const fn stage2(mut self, table: u64, vmid: u64) -> Self {
        self.0[0] |= 2 << 1 | 1 << 3;
        self.0[2] |= vmid | 25 << 32 | 1 << 38 | 4 << 48 | 1 << 51 | 1 << 58;
        self.0[3] |= table;
        self
    }

    /// With bits set in one of its words.
    pub const fn with(mut self, word: usize, bits: u64) -> Self {
        self.0[word] |= bits;
        self
    }
}

/// A context descriptor: 4 KiB granules, 39 bits through TTB0, TTB1 off, outputs of 48 bits, faults abort and are recorded.
pub const fn descriptor(table: u64, asid: u64) -> [u64; 8] {
    let low = 25 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | asid << 48;
    [low, table, 0, 0xff, 0, 0, 0, 0]
}

/// A unit with memory, and an allocator of table pages.
pub struct Machine {
    pub memory: Arc<OwnedMemory>,
    pub sink: Arc<Sink>,
    pub unit: Smmuv3Unit,
    next: u64,
}

impl Machine {
    /// A unit as after reset.
    pub fn reset(config: Smmuv3Config) -> Self {
        Self::over(config, |memory| memory)
    }

    /// A unit as after reset that sees its memory through what `view` makes of it.
    pub fn over(config: Smmuv3Config, view: impl FnOnce(Arc<OwnedMemory>) -> Arc<dyn GuestMemory>) -> Self {
        let memory = Arc::new(OwnedMemory::new(MEMORY as usize));
        let sink = Arc::new(Sink::default());
        let unit = Smmuv3Unit::new(config, view(memory.clone()), sink.clone()).expect("a configuration");
        Self { memory, sink, unit, next: TABLES }
    }

    /// A unit with everything, its queues and translation on, with an empty linear stream table.
    pub fn new() -> Self {
        Self::with(Smmuv3Config::full())
    }

    pub fn with(config: Smmuv3Config) -> Self {
        let machine = Self::reset(config);
        machine.enable();
        machine
    }

    /// Switches on queues and translation, with an empty linear stream table.
    pub fn enable(&self) {
        self.unit.write64(0x80, STREAMS);
        self.unit.write32(0x88, 6);
        self.unit.write32(CR2, 2);
        self.unit.write64(0x90, COMMANDS | 8);
        self.unit.write64(0xa0, EVENTS | 7);
        self.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
        assert_eq!(self.unit.read32(CR0ACK), CMDQEN | EVENTQEN | SMMUEN);
    }

    /// A zeroed page for a table.
    pub fn allocate(&mut self) -> u64 {
        self.allocate_aligned(0x1000)
    }

    /// Zeroed memory of `size` bytes, aligned to its size.
    pub fn allocate_aligned(&mut self, size: u64) -> u64 {
        let at = self.next.next_multiple_of(size);
        self.next = at + size;
        assert!(self.next <= PAGE);
        at
    }

    pub fn put(&self, address: u64, value: u64) {
        self.memory.store64(PhysAddr(address), value).unwrap();
    }

    pub fn get(&self, address: u64) -> u64 {
        self.memory.load64(PhysAddr(address)).unwrap()
    }

    pub fn put_words(&self, address: u64, words: &[u64]) {
        for (index, word) in words.iter().enumerate() {
            self.put(address + 8 * index as u64, *word);
        }
    }

    /// Writes a stream's entry into the linear table.
    pub fn stream(&self, stream: u32, entry: Entry) {
        self.put_words(STREAMS + 64 * u64::from(stream), &entry.0);
    }

    /// Writes a context descriptor, and says where.
    pub fn context(&mut self, words: [u64; 8]) -> u64 {
        let at = self.allocate();
        self.put_words(at, &words);
        at
    }

    /// Maps in tables with 4 KiB granules whose root, of `start`'s level, is at `table`. Returns where the leaf lies.
    pub fn map_from(&mut self, table: u64, start: u32, level: u32, input: u64, leaf: u64) -> u64 {
        let mut table = table;
        for at in start..level {
            let slot = table + (input >> (12 + 9 * (3 - at)) & 511) * 8;
            if self.get(slot) & 1 == 0 {
                let next = self.allocate();
                self.put(slot, next | 3);
            }
            table = self.get(slot) & 0x0000_ffff_ffff_f000;
        }
        let slot = table + (input >> (12 + 9 * (3 - level)) & 511) * 8;
        self.put(slot, leaf);
        slot
    }

    /// Maps a 4 KiB page in tables of 39 bits.
    pub fn map(&mut self, table: u64, input: u64, page: u64, bits: u64) -> u64 {
        self.map_from(table, 1, 3, input, page | bits | 3)
    }

    /// A stream with a stage 1 of its own in which nothing is mapped. Returns its table.
    pub fn attach(&mut self, stream: u32, asid: u64) -> u64 {
        let table = self.allocate();
        let at = self.context(descriptor(table, asid));
        self.stream(stream, Entry::stage1(at));
        table
    }

    /// Queues commands, tells the unit, and says how many it consumed.
    pub fn submit(&self, commands: &[[u64; 2]]) -> usize {
        let mut producer = self.unit.read32(CMDQ_PROD);
        for command in commands {
            let at = COMMANDS + u64::from(producer & 0xff) * 16;
            self.put_words(at, command);
            producer = (producer + 1) & 0x1ff;
        }
        self.unit.write32(CMDQ_PROD, producer);
        let left = producer.wrapping_sub(self.unit.read32(CMDQ_CONS) & 0xf_ffff) & 0x1ff;
        commands.len() - left as usize
    }

    /// Does commands and a CMD_SYNC, all of which must be consumed.
    #[track_caller]
    pub fn command(&self, commands: &[[u64; 2]]) {
        assert_eq!(self.submit(commands), commands.len(), "consumed");
        assert_eq!(self.submit(&[[0x46, 0]]), 1, "CMD_SYNC");
    }

    /// Forgets everything: CMD_CFGI_ALL and CMD_TLBI_NSNH_ALL.
    pub fn forget(&self) {
        self.command(&[[0x04, 31], [0x30, 0]]);
    }

    pub fn port(&self, stream: u32) -> Smmuv3Port {
        self.unit.port(stream, None)
    }

    pub fn substream_port(&self, stream: u32, substream: u32) -> Smmuv3Port {
        self.unit.port(stream, Pasid::new(substream))
    }

    /// Reads 8 bytes through the unit.
    pub fn read(&self, stream: u32, iova: u64) -> Result<u64, AccessError> {
        read(&self.port(stream), iova)
    }

    /// Writes 8 bytes through the unit.
    pub fn write(&self, stream: u32, iova: u64, value: u64) -> Result<(), AccessError> {
        self.port(stream).write(Iova(iova), &value.to_le_bytes())
    }

    /// The event records that stand in the queue, which they leave.
    pub fn take_events(&self) -> Vec<[u64; 4]> {
        let producer = self.unit.read32(EVENTQ_PROD);
        let mut consumer = self.unit.read32(EVENTQ_CONS);
        let mut events = Vec::new();
        while (producer ^ consumer) & 0xff != 0 {
            let at = EVENTS + u64::from(consumer & 0x7f) * 32;
            events.push([0, 8, 16, 24].map(|word| self.get(at + word)));
            consumer = consumer & !0xff | (consumer + 1) & 0xff;
        }
        self.unit.write32(EVENTQ_CONS, consumer);
        events
    }

    /// Expects that `done` was refused, and recorded once with this number. Returns the record.
    #[track_caller]
    pub fn refused<T: core::fmt::Debug>(&self, done: Result<T, AccessError>, number: u64) -> [u64; 4] {
        let fault = *done.expect_err("not refused").fault().expect("refused by the unit");
        let events = self.take_events();
        assert_eq!(events.len(), 1, "records: {events:x?}");
        assert_eq!(events[0][0] & 0xff, number, "event {:#x}", events[0][0] & 0xff);
        assert_eq!(events[0][0] >> 32, u64::from(fault.requester.index()), "StreamID");
        assert_eq!(u64::from(fault.code), number, "code");
        events[0]
    }

    /// Expects that `done` was refused without a record.
    #[track_caller]
    pub fn refused_silently<T: core::fmt::Debug>(&self, done: Result<T, AccessError>) -> Fault {
        let fault = *done.expect_err("not refused").fault().expect("refused by the unit");
        assert_eq!(self.take_events(), Vec::<[u64; 4]>::new());
        fault
    }
}

pub fn read(port: &Smmuv3Port, iova: u64) -> Result<u64, AccessError> {
    let mut bytes = [0; 8];
    port.read(Iova(iova), &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

pub fn write(port: &Smmuv3Port, iova: u64) -> Result<(), AccessError> {
    port.write(Iova(iova), &[0; 8])
}

/// A fetch of instructions.
pub fn fetch(port: &Smmuv3Port, iova: u64) -> Result<(), Fault> {
    port.translate(&port.transaction(Iova(iova), 4, Access::READ | Access::EXECUTE)).map(drop)
}
