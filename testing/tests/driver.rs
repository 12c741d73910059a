//! The behaviour that all drivers share, over our models of their units.

#[path = "../../crates/driver/tests/behaviour/mod.rs"]
mod behaviour;

use std::time::Duration;

use behaviour::{Bench, Refused};
use portcullis_driver::platform::Mmio;
use portcullis_driver::riscv::Riscv;
use portcullis_driver::{Device, Unit};
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_spec::{Access, Iova, Pasid, Requester};
use portcullis_testing::machine::Machine as _;
use portcullis_testing::machine::riscv::{self, RiscvMachine, Stages, like_qemu};
use portcullis_testing::machine::still::Still;

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
            self.platform.blocks()
        }

        fn pass(&self, time: Duration) {
            self.platform.pass(time);
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
                assert_eq!(platform.blocks(), 0, "memory leaked");
            }
        };
    }

    crate::behaviour::behaviours!(on_each_riscv);
}
