//! A machine for tests: memory, a clock, and a VT-d unit, all slow and obvious, written from the specification (revision 5)
//! with numbers of its own. It shares no code with the driver, the page-table engine or the model.
//!
//! The unit caches all that it may and forgets only what it is told to, so a missing invalidation shows as a stale
//! success; it panics where it reads memory that the driver has freed.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod interrupts;
pub(crate) mod registers;
pub(crate) mod walk;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use portcullis_driver::platform::{Clock, Memory, Platform};
use portcullis_spec::PhysAddr;

pub(crate) use registers::Registers;
pub(crate) use walk::Caches;

/// What the unit is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub(crate) cap: u64,
    pub(crate) ecap: u64,
}

impl Traits {
    /// CAP: 8-bit domain IDs (ND 2), MGAW 48, 3 and 4 levels, 2 MiB and 1 GiB pages, page-selective with MAMV 9, drains, FRO
    /// 0x22 (0x220), 4 fault records. ECAP: queue, pass-through, coherent, IRO 0x10 (0x100).
    pub(crate) const LEGACY: Self = Self {
        cap: 2
            | 0b110 << 8
            | 47 << 16
            | 0x22 << 24
            | 0b11 << 34
            | 1 << 39
            | 3 << 40
            | 9 << 48
            | 1 << 54
            | 1 << 55,
        ecap: 1 | 1 << 1 | 1 << 6 | 0x10 << 8,
    };
    /// The same with scalable mode: first, second and nested stages, 20 bits of PASID, SSADS, coherent walks.
    pub(crate) const SCALABLE: Self = Self {
        cap: Self::LEGACY.cap,
        ecap: Self::LEGACY.ecap
            | 1 << 26
            | 19 << 35
            | 1 << 40
            | 1 << 43
            | 1 << 45
            | 1 << 46
            | 1 << 47
            | 1 << 48,
    };

    pub(crate) const fn with_caching_mode(self) -> Self {
        Self { cap: self.cap | 1 << 7, ..self }
    }
    pub(crate) const fn with_write_buffer(self) -> Self {
        Self { cap: self.cap | 1 << 4, ..self }
    }
    pub(crate) const fn with_protected_ranges(self) -> Self {
        Self { cap: self.cap | 0b11 << 5, ..self }
    }
    pub(crate) const fn with_self_invalidating_root(self) -> Self {
        Self { cap: self.cap | 1 << 63, ..self }
    }
    pub(crate) const fn with_levels(self, sagaw: u64) -> Self {
        Self { cap: self.cap & !(0x1f << 8) | sagaw << 8, ..self }
    }
    pub(crate) const fn with_guest_address_bits(self, bits: u64) -> Self {
        Self { cap: self.cap & !(0x3f << 16) | (bits - 1) << 16, ..self }
    }
    pub(crate) const fn with_domains(self, nd: u64) -> Self {
        Self { cap: self.cap & !7 | nd, ..self }
    }
    /// ECAP.IR, EIM, and MHMV 3: an invalidation names up to 8 entries.
    pub(crate) const fn with_interrupts(self) -> Self {
        Self { ecap: self.ecap | 0b11 << 3 | 3 << 20, ..self }
    }
    /// CAP.ESIRTPS.
    pub(crate) const fn with_self_invalidating_interrupt_table(self) -> Self {
        Self { cap: self.cap | 1 << 62, ..self }
    }
    pub(crate) const fn without_queue(self) -> Self {
        Self { ecap: self.ecap & !(1 << 1), ..self }
    }
    /// ECAP.C and SMPWCS clear.
    pub(crate) const fn without_coherency(self) -> Self {
        Self { ecap: self.ecap & !(1 | 1 << 48), ..self }
    }
    pub(crate) const fn without_second_stage(self) -> Self {
        Self { ecap: self.ecap & !(1 << 46 | 1 << 26 | 1 << 45), ..self }
    }
    pub(crate) const fn without_pass_through(self) -> Self {
        Self { ecap: self.ecap & !(1 << 6), ..self }
    }

    pub(crate) const fn caching_mode(&self) -> bool {
        self.cap & 1 << 7 != 0
    }
    pub(crate) const fn write_buffer(&self) -> bool {
        self.cap & 1 << 4 != 0
    }
    pub(crate) const fn coherent(&self) -> bool {
        self.ecap & 1 != 0
    }
}

pub(crate) struct Machine {
    pub(crate) traits: Traits,
    /// Memory as the processor sees it.
    words: RefCell<HashMap<u64, u64>>,
    /// Memory as the unit sees it, where that is different: what a store has replaced and no flush has written back.
    behind: RefCell<HashMap<u64, u64>>,
    live: RefCell<BTreeMap<u64, (u64, u64)>>,
    next: Cell<u64>,
    /// Allocations that still succeed; `u64::MAX` for all.
    pub(crate) budget: Cell<u64>,
    pub(crate) now: Cell<Duration>,
    /// The driver's stores, in order: address and value.
    pub(crate) stores: RefCell<Vec<(u64, u64)>>,
    pub(crate) registers: RefCell<Registers>,
    pub(crate) caches: RefCell<Caches>,
}

impl Machine {
    pub(crate) fn new(traits: Traits) -> Self {
        Self {
            traits,
            words: RefCell::default(),
            behind: RefCell::default(),
            live: RefCell::default(),
            next: Cell::new(0x10_0000),
            budget: Cell::new(u64::MAX),
            now: Cell::new(Duration::ZERO),
            stores: RefCell::default(),
            registers: RefCell::new(Registers::new()),
            caches: RefCell::default(),
        }
    }

    /// Blocks that are allocated.
    pub(crate) fn live_blocks(&self) -> usize {
        self.live.borrow().len()
    }

    fn assert_live(&self, address: u64, who: &str) {
        let live = self.live.borrow();
        let block = live.range(..=address).next_back();
        assert!(
            block.is_some_and(|(start, (size, _))| address < start + size),
            "{who} touches {address:#x}, which is not allocated"
        );
    }

    /// A word as the unit sees it.
    pub(crate) fn unit_load(&self, address: u64) -> u64 {
        self.assert_live(address, "the unit");
        let behind = self.behind.borrow().get(&address).copied();
        behind.unwrap_or_else(|| self.words.borrow().get(&address).copied().unwrap_or(0))
    }

    /// A write of the unit's own: everyone sees it.
    pub(crate) fn unit_store(&self, address: u64, value: u64) {
        self.assert_live(address, "the unit");
        self.words.borrow_mut().insert(address, value);
        self.behind.borrow_mut().remove(&address);
    }

    /// Everything that the processor stored becomes visible to the unit.
    pub(crate) fn write_buffer_flushed(&self) {
        self.behind.borrow_mut().clear();
    }

    fn store(&self, address: u64, value: u64) {
        self.assert_live(address, "the driver");
        self.stores.borrow_mut().push((address, value));
        let old = self.words.borrow_mut().insert(address, value).unwrap_or(0);
        if !self.traits.coherent() || self.traits.write_buffer() {
            self.behind.borrow_mut().entry(address).or_insert(old);
        }
    }
}

impl Memory for Machine {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        assert!(size.is_power_of_two() && align.is_power_of_two() && size >= 4096 && align >= 4096);
        let budget = self.budget.get();
        if budget == 0 {
            return None;
        }
        if budget != u64::MAX {
            self.budget.set(budget - 1);
        }
        let address = self.next.get().next_multiple_of(align);
        // Never the same twice, so that a use after free is always seen.
        self.next.set(address + size + 0x1000);
        self.live.borrow_mut().insert(address, (size, align));
        if !self.traits.coherent() || self.traits.write_buffer() {
            // What was there before the zeros: an entry that is present, in every format.
            let mut behind = self.behind.borrow_mut();
            behind.extend((address..address + size).step_by(8).map(|word| (word, 0xbad_b007)));
        }
        Some(PhysAddr(address))
    }

    fn free(&self, address: PhysAddr, size: u64, align: u64) {
        let block = self.live.borrow_mut().remove(&address.0);
        assert_eq!(block, Some((size, align)), "free of {address}");
    }

    fn load32(&self, address: PhysAddr) -> u32 {
        (self.load64(PhysAddr(address.0 & !7)) >> (8 * (address.0 & 4))) as u32
    }

    fn store32(&self, address: PhysAddr, value: u32) {
        let shift = 8 * (address.0 & 4);
        let word = self.load64(PhysAddr(address.0 & !7)) & !(0xffff_ffff << shift);
        self.store(address.0 & !7, word | u64::from(value) << shift);
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        assert_eq!(address.0 % 8, 0);
        self.assert_live(address.0, "the driver");
        self.words.borrow().get(&address.0).copied().unwrap_or(0)
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        assert_eq!(address.0 % 8, 0);
        self.store(address.0, value);
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let seen = self.load64(address);
        if seen != current {
            return Err(seen);
        }
        self.store64(address, new);
        Ok(seen)
    }

    fn flush(&self, address: PhysAddr, length: u64) {
        if self.traits.write_buffer() {
            return;
        }
        // Whole cache lines.
        let first = address.0 & !63;
        let last = address.0 + length - 1;
        self.behind.borrow_mut().retain(|word, _| *word < first || *word > (last | 63));
    }
}

impl Clock for Machine {
    fn now(&self) -> Duration {
        self.now.get()
    }

    /// A microsecond, in which a lazy unit carries out one descriptor.
    fn relax(&self) {
        self.now.set(self.now.get() + Duration::from_micros(1));
        if self.registers.borrow().lazy {
            self.run_queue(1);
        }
    }
}

impl Platform for Machine {
    type Lock<T> = RefCell<T>;
}
