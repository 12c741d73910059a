//! The machine that the embedded driver runs on: the simulated memory, the process's clock, the standard library's locks.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portcullis_driver::platform::{Clock, Memory, Platform};
use portcullis_model::GuestMemory;
use portcullis_spec::PhysAddr;

use super::bus::Bus;

/// The driver's platform.
pub struct Host {
    bus: Arc<Bus>,
    start: Instant,
}

impl Host {
    pub(super) fn new(bus: Arc<Bus>) -> Self {
        Self { bus, start: Instant::now() }
    }
}

/// The driver touches only blocks that it allocated here, which are memory; an address that isn't reads as zeros.
impl Memory for Host {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        // Blocks are aligned to their size.
        let block = self.bus.allocate(size.max(align))?;
        for offset in (0..size).step_by(8) {
            self.store64(PhysAddr(block.0 + offset), 0);
        }
        Some(block)
    }

    fn free(&self, address: PhysAddr, size: u64, align: u64) {
        self.bus.release(address, size.max(align));
    }

    fn load32(&self, address: PhysAddr) -> u32 {
        self.bus.load32(address).unwrap_or(0)
    }

    fn store32(&self, address: PhysAddr, value: u32) {
        let _not_memory = self.bus.store32(address, value);
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        self.bus.load64(address).unwrap_or(0)
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        let _not_memory = self.bus.store64(address, value);
    }

    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let seen = self.bus.compare_exchange64(address, current, new).unwrap_or(0);
        if seen == current { Ok(seen) } else { Err(seen) }
    }

    fn flush(&self, _address: PhysAddr, _length: u64) {}
}

impl Clock for Host {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn relax(&self) {
        std::thread::yield_now();
    }
}

impl Platform for Host {
    type Lock<T> = Mutex<T>;
}
