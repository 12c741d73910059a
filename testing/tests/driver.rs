//! The behaviour that all drivers share, over our models of their units.

#[path = "../../crates/driver/tests/behaviour/mod.rs"]
mod behaviour;

use std::cell::Cell;
use std::time::Duration;

use behaviour::{Bench, Refused};
use portcullis_driver::platform::{Clock, Memory, Mmio, Platform};
use portcullis_driver::riscv::Riscv;
use portcullis_driver::{Device, Unit};
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_spec::{Access, Iova, Pasid, PhysAddr, Requester};
use portcullis_testing::machine::Machine as _;
use portcullis_testing::machine::ram::Ram;
use portcullis_testing::machine::riscv::{self, RiscvMachine, Stages, like_qemu};

/// A machine's memory, with a clock that stands until it is moved, and a count of what is allocated.
struct Still<'a> {
    ram: &'a Ram,
    now: Cell<Duration>,
    blocks: Cell<usize>,
}

impl<'a> Still<'a> {
    fn new(ram: &'a Ram) -> Self {
        Self { ram, now: Cell::new(Duration::ZERO), blocks: Cell::new(0) }
    }
}

impl Memory for Still<'_> {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
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
        self.now.set(self.now.get() + Duration::from_micros(100));
    }
}

impl Platform for Still<'_> {
    type Lock<T> = std::cell::RefCell<T>;
}

mod on_riscv {
    use super::*;

    struct RiscvBench<'a> {
        machine: &'a RiscvMachine,
        platform: &'a Still<'a>,
    }

    impl Bench for RiscvBench<'_> {
        fn devices(&self) -> [Requester; 2] {
            [Requester::Device(0x18), Requester::Device(0x1f)]
        }

        fn strangers(&self) -> [Requester; 3] {
            [Requester::Device(0x20), Requester::Device(0x3f), Requester::Device(0x7f)]
        }

        fn dma(
            &self,
            requester: Requester,
            pasid: Option<Pasid>,
            address: u64,
            write: bool,
        ) -> Result<u64, Refused> {
            let port = self.machine.unit().unit.port(requester.index(), pasid);
            let access = if write { Access::WRITE } else { Access::READ };
            let answer = port.translate(&port.transaction(Iova(address), 1, access));
            answer.map(|translation| translation.address.0).map_err(|_| Refused)
        }

        fn live_blocks(&self) -> usize {
            self.platform.blocks.get()
        }

        fn pass(&self, time: Duration) {
            self.platform.now.set(self.platform.now.get() + time);
        }
    }

    /// Every kind of unit that the common behaviour is shown on.
    fn kinds() -> Vec<RiscvConfig> {
        let none = RiscvConfig { pd8: false, pd17: false, pd20: false, ..RiscvConfig::default() };
        let first = RiscvConfig { sv39x4: false, sv48x4: false, ..none.clone() };
        let second = RiscvConfig { sv39: false, sv48: false, ..none.clone() };
        let mut kinds: Vec<_> = Stages::ALL.map(like_qemu).to_vec();
        kinds.extend([
            RiscvConfig::default(),
            RiscvConfig::full(),
            RiscvConfig { ranges: true, ..none.clone() },
            RiscvConfig { one_level: false, two_level: false, ..first.clone() },
            RiscvConfig { two_level: false, three_level: false, flag_updates: false, ..first.clone() },
            RiscvConfig { three_level: false, sv48: false, ..first },
            RiscvConfig { sv48x4: false, interrupts: Interrupts::Wires, ..second.clone() },
            RiscvConfig { bare_after_reset: true, physical_bits: 40, ranges: true, ..second },
            RiscvConfig { pd20: false, sv48: false, ..RiscvConfig::default() },
        ]);
        kinds
    }

    fn start<'a, M: Mmio>(registers: M, platform: &'a Still<'a>) -> Unit<Riscv<M, &'a Still<'a>>> {
        let unit = Unit::new(Riscv::start(registers, platform, Default::default()).unwrap());
        unit.enable().unwrap();
        unit
    }

    macro_rules! on_each_riscv {
        ($test:expr) => {
            for config in kinds() {
                println!("{config:?}");
                let machine = riscv::model(config).unwrap();
                let platform = Still::new(machine.ram());
                let unit = start(&machine, &platform);
                let bench = RiscvBench { machine: &machine, platform: &platform };
                let test: fn(&RiscvBench<'_>, &Unit<Riscv<&RiscvMachine, &Still<'_>>>) = $test;
                for device in bench.devices() {
                    let pasid_bits = unit.features().pasid_bits;
                    unit.add_device(Device { pasid_bits, ..Device::new(device) }).unwrap();
                }
                test(&bench, &unit);
                unit.shut_down().unwrap();
                assert_eq!(platform.blocks.get(), 0, "memory leaked");
            }
        };
    }

    crate::behaviour::behaviours!(on_each_riscv);
}
