//! A platform on which drivers are run step by step.

use super::ram::Ram;
use portcullis_driver::platform::{Clock, Memory, Platform};
use portcullis_spec::PhysAddr;
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// A machine's memory, with a clock that stands until it is moved or waited for, and a count of what is allocated.
#[derive(Debug)]
pub struct Still<'a> {
    ram: &'a Ram,
    now: Cell<Duration>,
    blocks: Cell<usize>,
    budget: Cell<usize>,
}

impl<'a> Still<'a> {
    /// The platform of a driver on a machine with this memory.
    #[must_use]
    pub const fn new(ram: &'a Ram) -> Self {
        Self { ram, now: Cell::new(Duration::ZERO), blocks: Cell::new(0), budget: Cell::new(usize::MAX) }
    }

    /// Let so many more allocations succeed.
    pub fn limit(&self, allocations: usize) {
        self.budget.set(allocations);
    }

    /// Blocks that are allocated.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.get()
    }

    /// Let time pass.
    pub fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }
}

impl Memory for Still<'_> {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        self.budget.set(self.budget.get().checked_sub(1)?);
        let block = self.ram.allocate(size, align)?;
        self.blocks.set(self.blocks.get() + 1);
        Some(block)
    }
    fn free(&self, address: PhysAddr, size: u64, align: u64) {
        // What is used after it was freed leads nowhere.
        self.ram.write(address, &vec![0xff; size as usize]);
        self.blocks.set(self.blocks.get() - 1);
        self.ram.free(address, size, align);
    }
    fn load32(&self, address: PhysAddr) -> u32 {
        self.ram.load32(address)
    }
    fn store32(&self, address: PhysAddr, value: u32) {
        self.ram.store32(address, value);
    }
    fn load64(&self, address: PhysAddr) -> u64 {
        self.ram.load64(address)
    }
    fn store64(&self, address: PhysAddr, value: u64) {
        self.ram.store64(address, value);
    }
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.ram.compare_exchange64(address, current, new)
    }
    fn flush(&self, address: PhysAddr, length: u64) {
        self.ram.flush(address, length);
    }
}

impl Clock for Still<'_> {
    fn now(&self) -> Duration {
        self.now.get()
    }
    fn relax(&self) {
        self.pass(Duration::from_micros(100));
    }
}

impl Platform for Still<'_> {
    type Lock<T> = RefCell<T>;
}
