//! A unit with memory, programmed by hand: offsets and bits are the specification's, written out.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use portcullis_model::Registers;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::riscv::{RiscvPort, RiscvUnit};
use portcullis_model::{AccessError, GuestMemory, InterruptSink, Message, OwnedMemory, Undelivered};
use portcullis_spec::{Access, Iova, Pasid, PhysAddr, RequestType};

pub(crate) const CAPABILITIES: u64 = 0x00;
pub(crate) const FCTL: u64 = 0x08;
pub(crate) const DDTP: u64 = 0x10;
pub(crate) const CQB: u64 = 0x18;
pub(crate) const CQH: u64 = 0x20;
pub(crate) const CQT: u64 = 0x24;
pub(crate) const FQB: u64 = 0x28;
pub(crate) const FQH: u64 = 0x30;
pub(crate) const FQT: u64 = 0x34;
pub(crate) const CQCSR: u64 = 0x48;
pub(crate) const FQCSR: u64 = 0x4c;
pub(crate) const IPSR: u64 = 0x54;
pub(crate) const ICVEC: u64 = 0x2f8;
pub(crate) const MSI: u64 = 0x300;

/// `iommu_mode`.
pub(crate) const OFF: u64 = 0;
pub(crate) const BARE: u64 = 1;
pub(crate) const LEVELS_3: u64 = 4;

/// `tc`.
pub(crate) const V: u64 = 1;
pub(crate) const DTF: u64 = 1 << 4;
pub(crate) const PDTV: u64 = 1 << 5;
pub(crate) const GADE: u64 = 1 << 7;
pub(crate) const SADE: u64 = 1 << 8;
pub(crate) const DPE: u64 = 1 << 9;
pub(crate) const SBE: u64 = 1 << 10;
pub(crate) const SXL: u64 = 1 << 11;

/// Page-table entries: readable, writable and executable by users, A and D set.
pub(crate) const R: u64 = 1 << 1;
pub(crate) const W: u64 = 1 << 2;
pub(crate) const X: u64 = 1 << 3;
pub(crate) const U: u64 = 1 << 4;
pub(crate) const G: u64 = 1 << 5;
pub(crate) const A: u64 = 1 << 6;
pub(crate) const D: u64 = 1 << 7;
pub(crate) const LEAF: u64 = V | R | W | X | U | A | D;

/// Modes of `iosatp` and `iohgatp`, by levels.
pub(crate) const fn sv(levels: u64) -> u64 {
    (levels + 5) << 60
}

/// A table or leaf entry.
pub(crate) const fn pte(address: u64, flags: u64) -> u64 {
    address >> 12 << 10 | flags
}

pub(crate) const PAGE: u64 = 0x1000;
pub(crate) const MEMORY: u64 = 16 << 20;
pub(crate) const QUEUE: u64 = 0x2000;
pub(crate) const FAULTS: u64 = 0x3000;
/// What a device reaches in most tests.
pub(crate) const TARGET: u64 = 0x8_0000;
pub(crate) const DEVICE: u32 = 0x2_1234;

/// Collects messages, but those to addresses that nothing takes, and keeps the wires.
#[derive(Default)]
pub(crate) struct Sink {
    /// The unit's own.
    pub(crate) messages: Mutex<Vec<(u64, u32)>>,
    /// Devices'.
    pub(crate) interrupts: Mutex<Vec<(u32, u64, u32)>>,
    pub(crate) dead: Mutex<BTreeSet<u64>>,
    pub(crate) wires: Mutex<BTreeSet<u8>>,
}

impl InterruptSink for Sink {
    fn send(&self, message: Message) -> Result<(), Undelivered> {
        if self.dead.lock().unwrap().contains(&message.address) {
            return Err(Undelivered { address: message.address });
        }
        match message.source {
            None => self.messages.lock().unwrap().push((message.address, message.data)),
            Some(device) => {
                self.interrupts.lock().unwrap().push((device.index(), message.address, message.data));
            }
        }
        Ok(())
    }

    fn set_wire(&self, wire: u8, asserted: bool) {
        let mut wires = self.wires.lock().unwrap();
        assert!(
            if asserted { wires.insert(wire) } else { wires.remove(&wire) },
            "a wire that was so already"
        );
    }
}

/// CAUSE, and whether a record was made of it.
pub(crate) type Refusal = u16;

pub(crate) struct Bench {
    pub(crate) memory: Arc<OwnedMemory>,
    pub(crate) sink: Arc<Sink>,
    pub(crate) unit: RiscvUnit,
    pub(crate) root: u64,
    levels: Cell<u64>,
    next: Cell<u64>,
    head: Cell<u64>,
    big_endian: Cell<bool>,
    last: RefCell<Option<[u64; 4]>>,
}

impl Bench {
    /// A unit after reset.
    pub(crate) fn new(config: RiscvConfig) -> Self {
        Self::over(config, |memory| memory)
    }

    /// A unit after reset that reaches its memory through what `behind` makes of it.
    pub(crate) fn over(
        config: RiscvConfig,
        behind: impl FnOnce(Arc<OwnedMemory>) -> Arc<dyn GuestMemory>,
    ) -> Self {
        let memory = Arc::new(OwnedMemory::new(MEMORY as usize));
        let sink = Arc::new(Sink::default());
        let unit = RiscvUnit::new(config, behind(memory.clone()), sink.clone()).unwrap();
        let next = Cell::new(0x10_0000);
        let bench = Self {
            memory,
            sink,
            unit,
            root: 0x10_0000,
            levels: Cell::new(3),
            next,
            head: Cell::new(0),
            big_endian: Cell::new(false),
            last: RefCell::default(),
        };
        bench.page();
        bench
    }

    /// A unit with both queues on and an empty directory of three levels.
    pub(crate) fn on(config: RiscvConfig) -> Self {
        let bench = Self::new(config);
        bench.queues_on();
        bench.set_levels(3);
        bench
    }

    /// 256 commands and 128 records.
    pub(crate) fn queues_on(&self) {
        self.unit.write64(CQB, QUEUE >> 2 | 7);
        self.unit.write32(CQCSR, 1);
        self.unit.write64(FQB, FAULTS >> 2 | 6);
        self.unit.write32(FQCSR, 1);
    }

    pub(crate) fn set_levels(&self, levels: u64) {
        self.levels.set(levels);
        self.unit.write64(DDTP, 0);
        self.unit.write64(DDTP, self.root >> 2 | (levels + 1));
    }

    /// Everything in memory is big-endian from here on, as software writes it.
    pub(crate) fn set_big_endian(&self, big_endian: bool) {
        self.big_endian.set(big_endian);
    }

    pub(crate) fn page(&self) -> u64 {
        self.pages(1)
    }

    /// Zeroed pages, naturally aligned.
    pub(crate) fn pages(&self, count: u64) -> u64 {
        let size = count * PAGE;
        let page = self.next.get().next_multiple_of(size);
        self.next.set(page + size);
        page
    }

    pub(crate) fn put(&self, at: u64, value: u64) {
        let value = if self.big_endian.get() { value.swap_bytes() } else { value };
        self.memory.store64(PhysAddr(at), value).unwrap();
    }

    pub(crate) fn get(&self, at: u64) -> u64 {
        let value = self.memory.load64(PhysAddr(at)).unwrap();
        if self.big_endian.get() { value.swap_bytes() } else { value }
    }

    /// Where a device's context lies and which directory entries lead there: base format, 7, 9 and 8 bits of index, or extended, 6, 9 and
    /// 9 (2.1). Tables on the way are made.
    pub(crate) fn way_to(&self, device_id: u32) -> (u64, Vec<u64>) {
        let id = u64::from(device_id);
        let (low, size) = if self.unit.config().msi_tables { (6, 64) } else { (7, 32) };
        let (mut table, mut way) = (self.root, Vec::new());
        for level in (1..self.levels.get()).rev() {
            let index = if level == 2 { id >> (low + 9) } else { id >> low & 0x1ff };
            way.push(table + index * 8);
            table = self.step(table + index * 8);
        }
        (table + (id & ((1 << low) - 1)) * size, way)
    }

    pub(crate) fn context_at(&self, device_id: u32) -> u64 {
        self.way_to(device_id).0
    }

    /// The table that a directory entry leads to.
    fn step(&self, at: u64) -> u64 {
        if self.get(at) & 1 == 0 {
            self.put(at, self.page() >> 2 | 1);
        }
        self.get(at) >> 10 << 12
    }

    /// Writes a device context: `tc`, `iohgatp`, `ta`, `fsc`.
    pub(crate) fn device(&self, device_id: u32, words: [u64; 4]) -> u64 {
        let at = self.context_at(device_id);
        for (index, word) in words.into_iter().enumerate() {
            self.put(at + 8 * index as u64, word);
        }
        at
    }

    /// Maps a page of `1 << shift` bytes at the level where it belongs. The last-level entry's place.
    pub(crate) fn map(&self, root: u64, levels: u64, level: u64, iova: u64, entry: u64) -> u64 {
        self.map_wide(root, levels, level, iova, entry, 0)
    }

    /// The same in a second stage, whose root has four times the entries.
    pub(crate) fn map_guest(&self, root: u64, levels: u64, level: u64, guest: u64, entry: u64) -> u64 {
        self.map_wide(root, levels, level, guest, entry, 2)
    }

    fn map_wide(&self, root: u64, levels: u64, level: u64, iova: u64, entry: u64, extra: u64) -> u64 {
        let mut table = root;
        for above in (level + 1..levels).rev() {
            let bits = if above + 1 == levels { 9 + extra } else { 9 };
            let index = iova >> (12 + 9 * above) & ((1 << bits) - 1);
            table = self.step(table + index * 8);
        }
        let bits = if level + 1 == levels { 9 + extra } else { 9 };
        let at = table + (iova >> (12 + 9 * level) & ((1 << bits) - 1)) * 8;
        self.put(at, entry);
        at
    }

    /// A device whose first stage of so many levels maps `iova` to [`TARGET`]. The root.
    pub(crate) fn first_stage(&self, device_id: u32, levels: u64, iova: u64) -> u64 {
        let root = self.page();
        self.device(device_id, [V, 0, 7 << 12, sv(levels) | root >> 12]);
        self.map(root, levels, 0, iova, pte(TARGET, LEAF));
        root
    }

    /// Submits commands. `cqcsr` then.
    pub(crate) fn commands(&self, commands: &[[u64; 2]]) -> u32 {
        for command in commands {
            let tail = self.unit.read32(CQT);
            let at = QUEUE + u64::from(tail) * 16;
            self.put(at, command[0]);
            self.put(at + 8, command[1]);
            self.unit.write32(CQT, (tail + 1) & 0xff);
        }
        self.unit.read32(CQCSR)
    }

    /// `IODIR.INVAL_DDT` of everything, `IOTINVAL.VMA` of the host and `IOTINVAL.GVMA` of all guests.
    pub(crate) fn forget(&self) {
        assert_eq!(self.commands(&[[3, 0], [1, 0], [1 | 1 << 7, 0]]) & 0x700, 0);
    }

    /// The fault records that software has not seen.
    pub(crate) fn records(&self) -> Vec<[u64; 4]> {
        let (mut head, tail) = (self.unit.read32(FQH), self.unit.read32(FQT));
        let mut records = Vec::new();
        while head != tail {
            let at = FAULTS + u64::from(head) * 32;
            records.push([0, 8, 16, 24].map(|word| self.get(at + word)));
            head = (head + 1) & 0x7f;
        }
        self.unit.write32(FQH, head);
        records
    }

    pub(crate) fn port(&self, device_id: u32, pasid: Option<u32>) -> RiscvPort {
        self.unit.port(device_id, pasid.map(|pasid| Pasid::new(pasid).unwrap()))
    }

    /// Where an access leads, or its cause. A refusal must be recorded once, and say who, what and where.
    pub(crate) fn access(&self, port: &RiscvPort, iova: u64, access: Access) -> Result<u64, u16> {
        let transaction = port.transaction(Iova(iova), 1, access);
        let answer = port.translate(&transaction);
        let records = self.records();
        match answer {
            Ok(translation) => {
                assert!(records.is_empty(), "{records:x?}");
                Ok(translation.address.0)
            }
            Err(fault) => {
                let [record] = records[..] else { panic!("{records:x?} of {fault:?}") };
                self.last.replace(Some(record));
                // 3.2: CAUSE, PID, PV, PRIV, TTYP, DID.
                let [header, reserved, iotval, _] = record;
                assert_eq!(header & 0xfff, u64::from(fault.code));
                assert_eq!(header >> 12 & 0xf_ffff, port.pasid().map_or(0, |pasid| pasid.value().into()));
                assert_eq!(header >> 32 & 1, u64::from(port.pasid().is_some()));
                assert_eq!(header >> 33 & 1, u64::from(transaction.privileged && port.pasid().is_some()));
                let ttyp = match (access.contains(Access::WRITE), access.contains(Access::EXECUTE)) {
                    (true, _) => 3,
                    (_, true) => 1,
                    _ => 2,
                };
                assert_eq!(header >> 34 & 0x3f, ttyp);
                assert_eq!(header >> 40, u64::from(port.requester().index()));
                assert_eq!((reserved, iotval), (0, iova));
                assert_eq!(fault.request_type, RequestType::Untranslated);
                Err(fault.code as u16)
            }
        }
    }

    /// iotval2 of the last record.
    pub(crate) fn iotval2(&self) -> u64 {
        self.last.borrow().expect("a refusal")[3]
    }

    pub(crate) fn read(&self, device_id: u32, iova: u64) -> Result<u64, u16> {
        self.access(&self.port(device_id, None), iova, Access::READ)
    }

    pub(crate) fn write(&self, device_id: u32, iova: u64) -> Result<u64, u16> {
        self.access(&self.port(device_id, None), iova, Access::WRITE)
    }

    pub(crate) fn fetch(&self, device_id: u32, iova: u64) -> Result<u64, u16> {
        self.access(&self.port(device_id, None), iova, Access::EXECUTE)
    }

    /// The eight bytes at `iova` as a device reads them.
    pub(crate) fn load(&self, device_id: u32, iova: u64) -> Result<u64, AccessError> {
        let mut bytes = [0; 8];
        self.port(device_id, None).read(Iova(iova), &mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    /// What devices sent to interrupt controllers: who, where, what.
    pub(crate) fn interrupts(&self) -> Vec<(u32, u64, u32)> {
        std::mem::take(&mut self.sink.interrupts.lock().unwrap())
    }

    pub(crate) fn messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.sink.messages.lock().unwrap())
    }

    pub(crate) fn wires(&self) -> Vec<u8> {
        self.sink.wires.lock().unwrap().iter().copied().collect()
    }
}
