//! Several threads on one unit: domains of their own and one that all share, a queue that wraps around many times, and a unit
//! that stops now and then.

mod machine;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use machine::registers::{IQE, ITE, Trouble};
use machine::{Machine, Traits};
use portcullis_driver::platform::{Clock, Lock, Memory, Mmio, Platform};
use portcullis_driver::vtd::{Mode, Options, Vtd};
use portcullis_driver::{Device, Domain, DomainOptions, Error, Unit};
use portcullis_spec::{Access, Iova, PciAddress, PhysAddr};

/// The test machine, for one thread at a time.
struct Shared(Mutex<Machine>);

impl Shared {
    fn with<R>(&self, access: impl FnOnce(&Machine) -> R) -> R {
        access(&self.0.lock().unwrap())
    }
}

impl Mmio for Shared {
    fn read32(&self, offset: u64) -> u32 {
        self.with(|machine| machine.read32(offset))
    }
    fn read64(&self, offset: u64) -> u64 {
        self.with(|machine| machine.read64(offset))
    }
    fn write32(&self, offset: u64, value: u32) {
        self.with(|machine| machine.write32(offset, value));
    }
    fn write64(&self, offset: u64, value: u64) {
        self.with(|machine| machine.write64(offset, value));
    }
}

impl Memory for Shared {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        self.with(|machine| machine.allocate(size, align))
    }
    fn free(&self, address: PhysAddr, size: u64, align: u64) {
        self.with(|machine| machine.free(address, size, align));
    }
    fn load32(&self, address: PhysAddr) -> u32 {
        self.with(|machine| machine.load32(address))
    }
    fn store32(&self, address: PhysAddr, value: u32) {
        self.with(|machine| machine.store32(address, value));
    }
    fn load64(&self, address: PhysAddr) -> u64 {
        self.with(|machine| machine.load64(address))
    }
    fn store64(&self, address: PhysAddr, value: u64) {
        self.with(|machine| machine.store64(address, value));
    }
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.with(|machine| machine.compare_exchange64(address, current, new))
    }
    fn flush(&self, address: PhysAddr, length: u64) {
        self.with(|machine| machine.flush(address, length));
    }
}

impl Clock for Shared {
    fn now(&self) -> Duration {
        self.with(Clock::now)
    }
    fn relax(&self) {
        self.with(Clock::relax);
        std::thread::yield_now();
    }
}

struct TestLock<T>(Mutex<T>);

impl<T> Lock<T> for TestLock<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.0.lock().unwrap())
    }
}

impl Platform for Shared {
    type Lock<T> = TestLock<T>;
}

type TestUnit<'a> = Unit<Vtd<&'a Shared, &'a Shared>>;
type TestDomain<'a> = Domain<Vtd<&'a Shared, &'a Shared>>;

const THREADS: u64 = 4;
const ROUNDS: u64 = 150;
const PAGE: u64 = 0x1000;

fn device(thread: u64) -> PciAddress {
    PciAddress::new(0, 1, thread as u8, 0)
}

/// Unmaps, and where the unit is in trouble recovers it until the unmap is complete.
fn unmap_for_good(unit: &TestUnit<'_>, domain: &TestDomain<'_>, iova: Iova, errors: &AtomicU64) {
    let mut result = domain.unmap(iova, 3 * PAGE).map(drop);
    while let Err(error) = result {
        assert!(matches!(error, Error::NotInvalidated(_)), "{error:?}");
        errors.fetch_add(1, Ordering::Relaxed);
        let _others_may_have = unit.recover();
        result = domain.flush();
    }
}

/// Maps, and where the unit is in trouble (which is an error with write-buffer flushes and caching mode) tries again.
fn map_for_good(unit: &TestUnit<'_>, domain: &TestDomain<'_>, iova: Iova, physical: PhysAddr) {
    while let Err(error) = domain.map(iova, physical, 3 * PAGE, Access::READ_WRITE) {
        assert!(matches!(error, Error::NotInvalidated(_)), "{error:?}");
        let _others_may_have = unit.recover();
    }
}

fn run(traits: Traits, mode: Mode, troubled: bool) -> u64 {
    let shared = Shared(Mutex::new(Machine::new(traits)));
    shared.with(|machine| machine.registers.borrow_mut().lazy = true);
    let options = Options { mode: Some(mode), timeout: Duration::from_millis(20), ..Options::default() };
    let unit = Unit::new(Vtd::start(&shared, &shared, options).unwrap());
    unit.enable().unwrap();
    let common = unit.create_domain(DomainOptions::default()).unwrap();
    for thread in 0..2 * THREADS {
        unit.add_device(Device::new(device(thread))).unwrap();
        if thread >= THREADS {
            unit.attach(device(thread), None, &common).unwrap();
        }
    }
    let errors = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (unit, common, shared, errors) = (&unit, &common, &shared, &errors);
            scope.spawn(move || {
                let own = unit.create_domain(DomainOptions::default()).unwrap();
                let dma = |device: PciAddress, iova: u64| {
                    shared.with(|machine| machine.dma(device.requester_id, None, iova, true))
                };
                if !troubled {
                    unit.attach(device(thread), None, &own).unwrap();
                }
                for round in 0..ROUNDS {
                    if troubled && thread == 0 && round % 10 == 0 {
                        let bit = if round % 20 == 0 { IQE } else { ITE };
                        shared.with(|machine| {
                            let mut registers = machine.registers.borrow_mut();
                            registers.trouble = Some((round as u32 % 7, Trouble::Stop(bit)));
                        });
                    }
                    // Ranges side by side in one table, so that threads meet in it.
                    let iova = 0x20_0000 * (round % 3) + 4 * PAGE * (thread + 1);
                    let physical = 0x1_0000_0000 + round * 0x10_0000 + thread * 0x1_0000;
                    map_for_good(unit, common, Iova(iova), PhysAddr(physical));
                    assert_eq!(dma(device(THREADS + thread), iova + PAGE), Ok(physical + PAGE));
                    unmap_for_good(unit, common, Iova(iova), errors);
                    for device in (THREADS..2 * THREADS).map(device) {
                        assert!(dma(device, iova + PAGE).is_err(), "stale");
                    }
                    if !troubled {
                        own.map(Iova(0x5000), PhysAddr(physical), PAGE, Access::READ_WRITE).unwrap();
                        assert_eq!(dma(device(thread), 0x5000), Ok(physical));
                        own.unmap(Iova(0x5000), PAGE).unwrap();
                        assert!(dma(device(thread), 0x5000).is_err(), "stale");
                        unit.detach(device(thread), None).unwrap();
                        unit.attach(device(thread), None, &own).unwrap();
                    }
                }
            });
        }
    });
    shared.with(|machine| machine.registers.borrow_mut().trouble = None);
    unit.recover().unwrap();
    unit.shut_down().unwrap();
    drop(common);
    assert_eq!(shared.with(Machine::live_blocks), 0);
    errors.load(Ordering::Relaxed)
}

#[test]
fn threads_share_one_queue_and_one_domain() {
    assert_eq!(run(Traits::LEGACY, Mode::Legacy, false), 0);
    assert_eq!(run(Traits::SCALABLE.with_caching_mode(), Mode::Scalable, false), 0);
    assert_eq!(run(Traits::LEGACY.without_queue(), Mode::Legacy, false), 0);
    assert_eq!(run(Traits::LEGACY.with_write_buffer(), Mode::Legacy, false), 0);
}

#[test]
fn a_unit_that_stops_under_several_threads_is_recovered_by_any_of_them() {
    assert!(run(Traits::LEGACY, Mode::Legacy, true) > 10);
    assert!(run(Traits::LEGACY.with_caching_mode(), Mode::Legacy, true) > 10);
    assert!(run(Traits::SCALABLE, Mode::Scalable, true) > 10);
}
