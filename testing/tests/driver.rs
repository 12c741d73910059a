//! The behaviour that all drivers share, over our models of their units.

#[path = "../../crates/driver/tests/behaviour/mod.rs"]
mod behaviour;
mod bench;

use std::time::Duration;

use behaviour::{Bench, Refused};
use bench::ModelBench;
use portcullis_driver::riscv::Riscv;
use portcullis_driver::smmuv3::Smmuv3;
use portcullis_driver::{Device, Unit};
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_model::smmuv3::config::{FlagUpdates, Smmuv3Config};
use portcullis_spec::{Pasid, Requester};
use portcullis_testing::machine::Machine as _;
use portcullis_testing::machine::riscv::{self, RiscvMachine, Stages, like_qemu};
use portcullis_testing::machine::smmuv3::{self, Smmuv3Machine};
use portcullis_testing::machine::still::Still;

/// Defines `$on_each`, which runs a test on each of `$kinds()`, with the driver `$driver` over the models of `$architecture`.
macro_rules! on_each_kind {
    ($on_each:ident, $architecture:ident, $driver:ident, $machine:ty, $requester:path) => {
        macro_rules! $on_each {
            ($test:expr) => {
                for config in kinds() {
                    println!("{config:?}");
                    let machine = $architecture::model(config).unwrap();
                    let platform = Still::new(machine.ram());
                    let driver = $driver::start(&machine, &platform, Default::default());
                    let unit = Unit::new(driver.unwrap());
                    unit.enable().unwrap();
                    let bench = ModelBench { machine: &machine, platform: &platform, requester: $requester };
                    let test: fn(&ModelBench<'_, _>, &Unit<$driver<&$machine, &Still<'_>>>) = $test;
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
        crate::behaviour::behaviours!($on_each);
    };
}

mod on_riscv {
    use super::*;

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

    on_each_kind!(on_each_riscv, riscv, Riscv, RiscvMachine, Requester::Device);
}

mod on_smmuv3 {
    use super::*;

    /// Every kind of unit that the common behaviour is shown on.
    fn kinds() -> Vec<Smmuv3Config> {
        let mut kinds: Vec<_> = smmuv3::Stages::ALL.map(smmuv3::like_qemu).to_vec();
        // The data that the common behaviour is about lies above 4 GiB in 48 bits.
        let full = Smmuv3Config { stream_id_bits: 16, output_bits: 48, ..Smmuv3Config::full() };
        kinds.extend([
            full.clone(),
            // One level of everything, small tags, neither messages nor ranges.
            Smmuv3Config {
                stream_id_bits: 6,
                two_level_streams: false,
                two_level_contexts: false,
                substream_id_bits: 8,
                asid_16: false,
                vmid_16: false,
                messages: false,
                range_invalidation: false,
                break_before_make_level: 0,
                ..full.clone()
            },
            Smmuv3Config {
                stage1: false,
                substream_id_bits: 0,
                two_level_contexts: false,
                asid_16: false,
                hypervisor: false,
                output_bits: 40,
                ..full.clone()
            },
            Smmuv3Config {
                stage2: false,
                vmid_16: false,
                stage2_execute_by_privilege: false,
                break_before_make_level: 1,
                hypervisor: false,
                ..full.clone()
            },
            Smmuv3Config { coherent: false, flag_updates: FlagUpdates::Accessed, ..full.clone() },
            // Without 4 KiB granules, tables have the smallest that there is.
            Smmuv3Config { granule_4k: false, ..full.clone() },
            Smmuv3Config { granule_4k: false, granule_16k: false, ..full.clone() },
            Smmuv3Config {
                granule_4k: false,
                stage1: false,
                substream_id_bits: 0,
                two_level_contexts: false,
                asid_16: false,
                hypervisor: false,
                range_invalidation: false,
                ..full.clone()
            },
            Smmuv3Config {
                granule_4k: false,
                granule_16k: false,
                stage2: false,
                vmid_16: false,
                stage2_execute_by_privilege: false,
                hypervisor: false,
                break_before_make_level: 0,
                ..full
            },
        ]);
        kinds
    }

    on_each_kind!(on_each_smmuv3, smmuv3, Smmuv3, Smmuv3Machine, Requester::Stream);
}

/// What QEMU's units do too: nothing there is known of a DMA but what it left behind.
mod on_qemu {
    use std::cell::Cell;

    use portcullis_driver::Memory as _;
    use portcullis_spec::PhysAddr;
    use portcullis_testing::machine::qemu::{Board, QemuMachine};
    use portcullis_testing::machine::ram::Ram;
    use portcullis_testing::machine::{MachineError, Touch};
    use portcullis_testing::qtest::QemuError;

    use super::*;

    /// Guests use memory in blocks of this size.
    const BLOCK: u64 = 1 << 16;

    /// QEMU, of which only the last engine takes part: the others reach 32 bits only.
    struct QemuBench<'m> {
        takes_directories_for_physical: bool,
        machine: &'m QemuMachine,
        /// The guest's memory.
        guest: Cell<(PhysAddr, u64)>,
    }

    impl Bench for QemuBench<'_> {
        type Memory = Ram;

        fn memory(&self) -> &Ram {
            self.machine.ram()
        }

        fn guest_memory(&self, bytes: u64) -> PhysAddr {
            let base = self.memory().allocate(bytes, bytes).unwrap();
            self.guest.set((base, bytes));
            base
        }

        fn takes_directories_for_physical(&self) -> bool {
            self.takes_directories_for_physical
        }

        fn sends_pasids(&self) -> bool {
            false
        }

        fn devices(&self) -> [Requester; 2] {
            [0, 1].map(|engine| self.machine.requesters()[engine])
        }

        fn strangers(&self) -> [Requester; 3] {
            [4, 2, 3].map(|engine| self.machine.requesters()[engine])
        }

        /// Reads, and writes zeros where it read: what it read says where that was.
        fn dma(
            &self,
            requester: Requester,
            pasid: Option<Pasid>,
            address: u64,
            _: bool,
        ) -> Result<u64, Refused> {
            assert_eq!((requester, pasid), (self.strangers()[0], None));
            let (base, bytes) = self.guest.get();
            let places = (base.0..base.0 + bytes).step_by(BLOCK as usize);
            let places = places.map(|block| PhysAddr(block + address % 4096)).collect::<Vec<_>>();
            for (place, value) in places.iter().zip(1..) {
                self.memory().put_token(*place, value);
            }
            let Some(index) = self.machine.touch(Touch { read: address, write: address }).checked_sub(1)
            else {
                return Err(Refused);
            };
            let place = places[usize::from(index)];
            assert_eq!(self.memory().load32(place), 0, "read there, and not written");
            Ok(place.0)
        }

        fn live_blocks(&self) -> usize {
            unreachable!("no such test")
        }

        fn pass(&self, _: Duration) {
            unreachable!("no such test")
        }
    }

    fn started(board: &Board, requester: fn(u16) -> Requester) -> Option<QemuMachine> {
        match QemuMachine::start(board, requester) {
            Err(MachineError::Qemu(QemuError::Absent { program })) => {
                println!("skipped: {program} is not installed");
                None
            }
            other => Some(other.unwrap()),
        }
    }

    macro_rules! nested {
        ($name:ident, $architecture:ident, $driver:ident, $stages:expr, $physical:expr) => {
            #[test]
            fn $name() {
                let board = $architecture::board($stages);
                let Some(machine) = started(&board, $architecture::requester) else { return };
                let unit = Unit::new($driver::start(&machine, machine.ram(), Default::default()).unwrap());
                unit.enable().unwrap();
                let bench = QemuBench {
                    takes_directories_for_physical: $physical,
                    machine: &machine,
                    guest: Cell::default(),
                };
                crate::behaviour::nested_domains_stand_on_their_parent(&bench, &unit);
                crate::behaviour::directories_that_do_not_fit_are_refused(&bench, &unit);
                unit.shut_down().unwrap();
                machine.health().unwrap();
                assert_eq!(machine.ram().bytes_in_use(), 0);
            }
        };
    }
    nested!(nested_domains_stand_on_their_parent_on_smmuv3, smmuv3, Smmuv3, smmuv3::Stages::Nested, false);
    nested!(nested_domains_stand_on_their_parent_on_riscv, riscv, Riscv, riscv::Stages::Both, true);
}
