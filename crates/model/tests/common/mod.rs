//! A small machine for the VT-d tests. Tables are written as raw numbers, by the specification's layouts and without
//! the crates under test.
#![allow(dead_code, unreachable_pub)]

use std::sync::{Arc, Mutex};

use portcullis_model::Registers;
use portcullis_model::vtd::config::{ScalableConfig, VtdConfig};
use portcullis_model::vtd::{VtdPort, VtdUnit};
use portcullis_model::{AccessError, GuestMemory, InterruptSink, Message, OwnedMemory, Undelivered};
use portcullis_spec::{Access, Fault, Iova, Pasid, PhysAddr};

/// Bytes of memory.
pub const MEMORY: u64 = 16 << 20;
/// Tables are allocated from here on.
pub const TABLES: u64 = 0x10_0000;
/// The invalidation queue.
pub const QUEUE: u64 = 0x2000;
/// Where wait descriptors write.
pub const STATUS: u64 = 0x4000;
/// A page that devices reach.
pub const PAGE: u64 = 0x80_0000;
/// Another.
pub const OTHER_PAGE: u64 = 0x80_1000;
/// 00:02.0.
pub const DEVICE: u16 = 0x0010;
/// 00:03.0.
pub const OTHER_DEVICE: u16 = 0x0018;

pub const R: u64 = 1;
pub const W: u64 = 2;
pub const RW: u64 = 3;
pub const PS: u64 = 1 << 7;

pub const GSTS: u64 = 0x1c;
pub const FSTS: u64 = 0x34;
pub const TE: u32 = 1 << 31;
pub const SRTP: u32 = 1 << 30;
pub const QIE: u32 = 1 << 26;

#[path = "../hooked/mod.rs"]
pub mod hooked;

/// Collects messages.
#[derive(Default)]
pub struct Sink(pub Mutex<Vec<Message>>);

impl InterruptSink for Sink {
    fn send(&self, message: Message) -> Result<(), Undelivered> {
        self.0.lock().unwrap().push(message);
        Ok(())
    }
}

/// A unit with memory, and an allocator of table pages.
pub struct Machine {
    pub memory: Arc<OwnedMemory>,
    pub sink: Arc<Sink>,
    pub unit: VtdUnit,
    pub root: u64,
    next: u64,
    tail: u64,
}

impl Machine {
    pub fn new(config: VtdConfig) -> Self {
        Self::over(config, |memory| memory)
    }

    /// A machine whose unit sees its memory through what `view` makes of it.
    pub fn over(config: VtdConfig, view: impl FnOnce(Arc<OwnedMemory>) -> Arc<dyn GuestMemory>) -> Self {
        let memory = Arc::new(OwnedMemory::new(MEMORY as usize));
        let sink = Arc::new(Sink::default());
        let unit = VtdUnit::new(config, view(memory.clone()), sink.clone()).expect("a configuration");
        let mut machine = Self { memory, sink, unit, root: 0, next: TABLES, tail: 0 };
        machine.root = machine.allocate();
        machine
    }

    /// A legacy-mode unit, its queue and translation on, with an empty root table.
    pub fn legacy() -> Self {
        Self::legacy_with(VtdConfig::default())
    }

    pub fn legacy_with(config: VtdConfig) -> Self {
        let machine = Self::new(config);
        machine.set_root(machine.root);
        machine.enable_queue(false);
        machine.command(TE);
        machine
    }

    /// A scalable-mode unit with everything, its queue and translation on, with an empty root table.
    pub fn scalable() -> Self {
        Self::scalable_with(VtdConfig::full())
    }

    pub fn scalable_with(config: VtdConfig) -> Self {
        let machine = Self::new(config);
        machine.set_root(machine.root | 1 << 10);
        machine.enable_queue(true);
        machine.command(TE);
        machine
    }

    pub fn full_with(change: impl FnOnce(&mut VtdConfig, &mut ScalableConfig)) -> VtdConfig {
        let mut config = VtdConfig::full();
        let mut scalable = config.scalable.take().unwrap();
        change(&mut config, &mut scalable);
        config.scalable = Some(scalable);
        config
    }

    /// A zeroed page for a table.
    pub fn allocate(&mut self) -> u64 {
        let page = self.next;
        self.next += 0x1000;
        assert!(self.next <= PAGE);
        page
    }

    pub fn put(&self, address: u64, value: u64) {
        self.memory.store64(PhysAddr(address), value).unwrap();
    }

    pub fn get(&self, address: u64) -> u64 {
        self.memory.load64(PhysAddr(address)).unwrap()
    }

    pub fn set_root(&self, rtaddr: u64) {
        self.unit.write64(0x20, rtaddr);
        self.command(SRTP);
    }

    /// One change of GCMD, as VT-d 11.4.4.1 wants it: the lasting bits of GSTS with `bit` set.
    pub fn command(&self, bit: u32) {
        let lasting = self.unit.read32(GSTS) & 0x96ff_ffff;
        self.unit.write32(0x18, lasting | bit);
        assert_ne!(self.unit.read32(GSTS) & bit, 0, "the command did not complete");
    }

    pub fn enable_queue(&self, wide: bool) {
        self.unit.write64(0x88, 0);
        self.unit.write64(0x90, QUEUE | u64::from(wide) << 11);
        self.command(QIE);
    }

    fn is_wide(&self) -> bool {
        self.unit.read64(0x90) & 0x800 != 0
    }

    /// Queues descriptors without telling the unit.
    pub fn queue(&mut self, descriptors: &[[u64; 2]]) {
        let size = if self.is_wide() { 32 } else { 16 };
        for [low, high] in descriptors {
            self.put(QUEUE + self.tail, *low);
            self.put(QUEUE + self.tail + 8, *high);
            if size == 32 {
                self.put(QUEUE + self.tail + 16, 0);
                self.put(QUEUE + self.tail + 24, 0);
            }
            self.tail = (self.tail + size) % 4096;
        }
    }

    /// Queues descriptors and a wait, tells the unit, and says whether the wait completed.
    pub fn submit(&mut self, descriptors: &[[u64; 2]]) -> bool {
        self.put(STATUS, 0);
        self.queue(descriptors);
        self.queue(&[[5 | 1 << 5 | 0x1234 << 32, STATUS]]);
        self.unit.write64(0x88, self.tail);
        self.get(STATUS) == 0x1234
    }

    pub fn invalidate_all(&mut self) {
        let descriptors: &[_] = if self.is_wide() {
            &[[1 | 1 << 4, 0], [7 | 3 << 4, 0], [2 | 1 << 4, 0]]
        } else {
            &[[1 | 1 << 4, 0], [2 | 1 << 4, 0]]
        };
        assert!(self.submit(descriptors));
    }

    /// The legacy context entry's address of a requester, whose context table is made where it isn't there.
    pub fn context_entry(&mut self, source: u16) -> u64 {
        let at = self.root + u64::from(source >> 8) * 16;
        if self.get(at) == 0 {
            let table = self.allocate();
            self.put(at, table | 1);
        }
        (self.get(at) & !0xfff) + u64::from(source & 0xff) * 16
    }

    /// Writes a legacy context entry: `low` and the upper word of domain `did` with address width `aw`.
    pub fn context(&mut self, source: u16, low: u64, aw: u64, did: u64) {
        let at = self.context_entry(source);
        self.put(at + 8, did << 8 | aw);
        self.put(at, low);
    }

    /// Attaches a requester to the 4-level second-stage tables at `table`, in legacy mode.
    pub fn attach(&mut self, source: u16, table: u64, did: u64) {
        self.context(source, table | 1, 2, did);
    }

    /// The scalable context entry's address of a requester.
    pub fn scalable_entry(&mut self, source: u16) -> u64 {
        let at = self.root + u64::from(source >> 8) * 16 + u64::from(source >> 7 & 1) * 8;
        if self.get(at) == 0 {
            let table = self.allocate();
            self.put(at, table | 1);
        }
        (self.get(at) & !0xfff) + u64::from(source & 0x7f) * 32
    }

    /// The PASID table entry's address of a requester and PASID; context entry, directory and table are made where they
    /// aren't there: PASIDE set, RID_PASID 0.
    pub fn pasid_entry(&mut self, source: u16, pasid: u64) -> u64 {
        let context = self.scalable_entry(source);
        if self.get(context) == 0 {
            let directory = self.allocate();
            self.put(context, directory | 7 << 9 | 1 << 3 | 1);
            // 2^14 entries of 8 bytes take 32 pages.
            self.next = directory + 32 * 0x1000;
        }
        let directory = self.get(context) & !0xfff;
        let slot = directory + (pasid >> 6) * 8;
        if self.get(slot) == 0 {
            let table = self.allocate();
            self.put(slot, table | 1);
        }
        (self.get(slot) & !0xfff) + (pasid & 63) * 64
    }

    /// Writes the first three words of a PASID table entry.
    pub fn pasid(&mut self, source: u16, pasid: u64, words: [u64; 3]) -> u64 {
        let at = self.pasid_entry(source, pasid);
        self.put(at + 8, words[1]);
        self.put(at + 16, words[2]);
        self.put(at, words[0]);
        at
    }

    /// Maps in tables of `levels` levels at `table`, down to `leaf_level`: `link` is what table entries hold beside the
    /// address, `leaf` the whole leaf. Returns the leaf's address.
    pub fn map_at(
        &mut self,
        table: u64,
        levels: u64,
        leaf_level: u64,
        input: u64,
        link: u64,
        leaf: u64,
    ) -> u64 {
        let mut table = table;
        let mut level = levels - 1;
        loop {
            let slot = table + (input >> (12 + 9 * level) & 511) * 8;
            if level == leaf_level {
                self.put(slot, leaf);
                return slot;
            }
            if self.get(slot) & !0xfff == 0 {
                let next = self.allocate();
                self.put(slot, next | link);
            }
            table = self.get(slot) & 0x000f_ffff_ffff_f000;
            level -= 1;
        }
    }

    /// Maps one 4 KiB page in 4-level second-stage tables. Returns the leaf's address.
    pub fn map(&mut self, table: u64, iova: u64, page: u64, rights: u64) -> u64 {
        self.map_at(table, 4, 0, iova, RW, page | rights)
    }

    /// Maps one 4 KiB page in 4-level first-stage tables, for user and supervisor. Returns the leaf's address.
    pub fn map_first(&mut self, table: u64, iova: u64, page: u64, flags: u64) -> u64 {
        self.map_at(table, 4, 0, iova, 0b111, page | flags)
    }

    pub fn port(&self, source: u16) -> VtdPort {
        self.unit.port(source, None)
    }

    pub fn pasid_port(&self, source: u16, pasid: u32) -> VtdPort {
        self.unit.port(source, Pasid::new(pasid))
    }

    /// Reads 8 bytes through the unit.
    pub fn read(&self, source: u16, iova: u64) -> Result<u64, AccessError> {
        read(&self.port(source), iova)
    }

    /// Writes 8 bytes through the unit.
    pub fn write(&self, source: u16, iova: u64, value: u64) -> Result<(), AccessError> {
        self.port(source).write(Iova(iova), &value.to_le_bytes())
    }

    /// The words of fault recording register `index`.
    pub fn record(&self, index: u64) -> [u64; 2] {
        let at = 0x220 + 16 * index;
        [self.unit.read64(at), self.unit.read64(at + 8)]
    }

    /// Clears F of a fault recording register.
    pub fn clear_record(&self, index: u64) {
        self.unit.write32(0x220 + 16 * index + 12, 1 << 31);
    }

    /// Whether anything is recorded, and clears it.
    pub fn take_faults(&self) -> Vec<[u64; 2]> {
        let count = u64::from(self.unit.config().fault_records);
        let mut faults = Vec::new();
        for index in 0..count {
            let record = self.record(index);
            if record[1] >> 63 != 0 {
                faults.push(record);
                self.clear_record(index);
            }
        }
        faults
    }

    /// Expects that `done` was refused with `code`, recorded so and only once, and that nothing else is recorded.
    #[track_caller]
    pub fn refused<T: core::fmt::Debug>(&self, done: Result<T, AccessError>, code: u8) -> Fault {
        let fault = *done.expect_err("not refused").fault().expect("refused by the unit");
        let faults = self.take_faults();
        assert_eq!(fault.code, u32::from(code), "reason {:#x}", fault.code);
        assert_eq!(faults.len(), 1, "records");
        assert_eq!((faults[0][1] >> 32) & 0xff, u64::from(code), "recorded reason");
        assert_eq!(faults[0][1] & 0xffff, u64::from(fault.requester.index()), "recorded source");
        assert_eq!(faults[0][0], fault.address.0 & !0xfff, "recorded address");
        fault
    }

    /// Expects that `done` was refused without a record.
    #[track_caller]
    pub fn refused_silently<T: core::fmt::Debug>(&self, done: Result<T, AccessError>) {
        done.expect_err("not refused").fault().expect("refused by the unit");
        assert_eq!(self.take_faults(), Vec::<[u64; 2]>::new());
    }
}

pub fn read(port: &VtdPort, iova: u64) -> Result<u64, AccessError> {
    let mut bytes = [0; 8];
    port.read(Iova(iova), &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

pub fn write(port: &VtdPort, iova: u64, value: u64) -> Result<(), AccessError> {
    port.write(Iova(iova), &value.to_le_bytes())
}

/// Execute permission, as a transaction asks for it.
pub const EXECUTE: Access = Access::READ.union(Access::EXECUTE);
